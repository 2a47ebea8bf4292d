"""What later steps keep of the rows of a value problem, computed with as little as it takes.

Prefixes that rows share run once through all layers, the rest of the rows through the layers up to the edited one, and
of it only the tokens before the lookup positions through the layers above.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ke_cli.engine.alignment import aligned
from ke_cli.engine.forward import Padded, by_rows, first_tensor, hooked, run, stopping
from ke_cli.engine.prefixes import Behind, States, nothing, states_before
from ke_cli.engine.problems import Where
from ke_cli.engine.sharing import Sharing
from ke_cli.models.editable import EditableModel


def added_to(model: EditableModel, layer: int, where: Where) -> list[nn.Module]:
    """The modules whose outputs are, or become, ``v_init`` and take the value's parts."""
    if where == "attention_and_mlp":
        return [model.attention_projection(layer), model.projection(layer)]
    return [model.layer(layer) if where == "layer" else model.projection(layer)]


@dataclass(frozen=True, eq=False)
class Below:
    """What the layers up to the edited one say about the rows' own tokens, those behind shared prefixes.

    Args:
        model: The model.
        tokens: ``[b, r]`` ids and mask of each row from its cut on.
        cuts: ``[b]`` length of each row's prefix.
        states: Of the prefixes, ``[b, h, p, head]`` per layer.
        first: The first layer of a later step.
        hidden: ``[b, r, d]`` what enters it; None for the embeddings.
        tuples: Whether decoder layers return tuples.
        initial: ``[b, d]`` (or ``[b, 2 d]``) at the lookup position.
        keys: ``[b, m]`` likewise.
    """

    model: EditableModel
    tokens: Padded
    cuts: Tensor
    states: States
    first: int
    hidden: Tensor | None
    tuples: bool
    initial: Tensor
    keys: Tensor

    @classmethod
    def run(
        cls,
        model: EditableModel,
        rows: Sequence[tuple[int, ...]],
        lookups: Sequence[int],
        layer: int,
        where: Where,
        effective: Where,
        sharing: Sharing,
    ) -> Below:
        """Run the prefixes through all layers, and the rest of the rows through the lower ones."""
        first = layer + 1 if effective == "layer" else layer
        which = torch.arange(len(rows), device=model.device)
        at = torch.tensor(lookups, device=model.device) - torch.tensor(sharing.cuts, device=model.device)
        caught: dict[str, Any] = {}
        hooks = [(model.layer(first - 1), _keep(caught, "hidden", lambda output: output))] if first else []

        def picked(value: Any) -> Tensor:
            found = by_rows(first_tensor(value), len(rows))
            chosen = found[which.to(found.device), at.to(found.device)]  # a copy: Falcon adds to it in place
            return chosen.to(model.device)

        modules = added_to(model, layer, where)
        hooks += [(module, _keep(caught, f"initial {i}", picked)) for i, module in enumerate(modules)]
        hooks += [(model.projection(layer), lambda _m, args, _k, _o: caught.update(keys=picked(args[0])))]
        tokens = Padded.of([row[cut:] for row, cut in zip(rows, sharing.cuts, strict=True)], model.device)
        cuts = torch.tensor(sharing.cuts, device=model.device)
        states = states_before(model, sharing)
        with hooked(hooks), stopping(model.layer(layer)):
            Behind(model, tokens, cuts, states).run() if states else run(model, tokens)
        return cls(
            model=model,
            tokens=tokens,
            cuts=cuts,
            states=states,
            first=first,
            hidden=first_tensor(caught["hidden"]) if first else None,
            tuples=isinstance(caught.get("hidden"), tuple),
            initial=torch.cat([caught[f"initial {i}"] for i in range(len(modules))], dim=-1),
            keys=caught["keys"],
        )

    def states_before(self, starts: Tensor) -> States:
        """Keys and values ``[b, h, p, head]`` of all tokens before the lookup positions ``starts [b]``."""
        own = starts - self.cuts  # [b] tokens between prefix and lookup position
        slots, kept = int(starts.max()), self.states[0][0].shape[-2] if self.states else 0
        between = int(own.max())
        like = self.initial
        if not slots:
            return (nothing(len(starts), 0, like),) * self.model.n_layers
        inside = torch.arange(between, device=own.device) < own[:, None]
        tokens = Padded(self.tokens.ids[:, :between], inside.long())
        hidden = None if self.hidden is None else self.hidden[:, :between]
        states = self.states or (nothing(len(starts), 0, like),) * self.model.n_layers
        behind = Behind(self.model, tokens, self.cuts, states)
        grown = behind.grown(self.first, hidden, self.tuples) if between else states
        skip = kept - self.cuts  # [b] padding in front of each row
        return tuple(
            (aligned(keys, starts, slots, skip), aligned(values, starts, slots, skip))
            if number >= self.first
            else nothing(len(starts), slots, like)
            for number, (keys, values) in enumerate(grown)
        )


def _keep(store: dict[str, Any], name: str, pick: Callable[[Any], Any]) -> Callable[..., None]:
    def hook(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        store[name] = pick(output)

    return hook
