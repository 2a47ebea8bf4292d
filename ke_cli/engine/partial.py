"""Partial forward: only the layers above an edit, only the tokens from the lookup position on.

Layers below the edited one, and every token before the lookup position, do not depend on the value that is being
optimised. One full pass keeps their keys and values; each step then runs the rest. Exact up to rounding.

What is kept is computed as thriftily: prefixes that rows share (context templates) run once, and the layers above the
edit see no token from the lookup position on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ke_cli.engine.alignment import from_lookup, prefix_mask, suffix_of
from ke_cli.engine.below import Below, added_to
from ke_cli.engine.forward import Padded, by_rows, first_tensor, gathered_logits, hooked, run, stopping
from ke_cli.engine.prefixes import Behind, entering
from ke_cli.engine.problems import Where
from ke_cli.engine.sharing import Sharing, worthwhile_prefixes
from ke_cli.models.editable import EditableModel


@dataclass(frozen=True, eq=False)
class PartialForward:
    """What stays fixed while a value at one lookup position per row is optimised.

    Notation: ``b`` rows, ``p`` prefix slots, ``s`` suffix slots (slot 0 is the lookup position), ``h`` heads.

    Args:
        model: The model.
        layer: The layer whose output (or MLP output) the value is added to.
        where: ``layer`` adds to the residual stream behind the layer, ``mlp`` to the projection's output;
            ``attention_and_mlp`` to both projections, values being ``[b, 2 d]``.
        suffix: Token ids and mask ``[b, s]`` from the lookup position on.
        prefix_mask: ``[b, p]``.
        starts: ``[b]`` lookup position of each row in its full sequence.
        hidden: ``[b, s, d]`` unedited residual stream that enters the first layer that runs (None: the embeddings).
        cache: Per layer keys and values ``[b, h, p, head]`` of the tokens before the lookup position.
        tuples: Whether decoder layers return tuples.
        initial: ``[b, d]`` (or ``[b, 2 d]``) unedited activation at the lookup position, where the value will be added.
        keys: ``[b, m]`` input of the layer's down-projection at the lookup position.
    """

    model: EditableModel
    layer: int
    where: Where
    suffix: Padded
    prefix_mask: Tensor
    starts: Tensor
    hidden: Tensor | None
    cache: tuple[tuple[Tensor, Tensor], ...]
    tuples: bool
    initial: Tensor
    keys: Tensor

    @property
    def first(self) -> int:
        """The first layer that runs at each step."""
        return self.layer + 1 if self.where == "layer" else self.layer

    def select(self, rows: Tensor) -> PartialForward:
        """The same for a subset of rows ``[k]`` (facts that have converged leave the batch)."""
        return replace(
            self,
            suffix=Padded(self.suffix.ids[rows], self.suffix.mask[rows]),
            prefix_mask=self.prefix_mask[rows],
            starts=self.starts[rows],
            hidden=None if self.hidden is None else self.hidden[rows.to(self.hidden.device)],
            cache=tuple((keys[rows.to(keys.device)], values[rows.to(keys.device)]) for keys, values in self.cache),
            initial=self.initial[rows],
            keys=self.keys[rows],
        )

    def logits(self, delta: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
        """Logits with ``delta [b, d]`` added at each row's lookup position.

        Args:
            delta: Value to add, one per row.
            rows: ``[n]`` row of each wanted position.
            positions: ``[n]`` index in the *full* sequence, at or behind the lookup position.

        Returns:
            ``[n, V]`` in float32 or better.
        """
        slots = positions - self.starts[rows]
        with self._patched(delta):
            return gathered_logits(self.model, rows, slots, self._run)

    def hidden_at(self, delta: Tensor, layer: int, rows: Tensor, positions: Tensor) -> Tensor:
        """Residual stream behind ``layer`` at the wanted positions, ``[n, d]``; nothing above ``layer`` runs."""
        slots = positions - self.starts[rows]
        caught: list[Tensor] = []

        def catch(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
            hidden = first_tensor(output)
            caught.append(hidden[rows.to(hidden.device), slots.to(hidden.device)].to(rows.device))

        module = self.model.layer(layer)
        with self._patched(delta), hooked([(module, catch)]), stopping(module):
            self._run()
        return caught[0] if caught[0].dtype == torch.float64 else caught[0].float()

    def _patched(self, delta: Tensor) -> ExitStack:
        """Skip the layers below, feed in the kept residual stream, and add the value."""
        stack = ExitStack()
        hidden = self.hidden
        if hidden is not None and self.where == "layer":
            hidden = _add_at_lookup(hidden, delta)
        stack.enter_context(entering(self.model, self.first, hidden, self.tuples))
        if self.where != "layer":
            modules = added_to(self.model, self.layer, self.where)
            parts = delta.chunk(len(modules), dim=-1)  # [b, d] each
            stack.enter_context(hooked([(m, _adding(part)) for m, part in zip(modules, parts, strict=True)]))
        return stack

    def _run(self) -> Any:
        return Behind(self.model, self.suffix, self.starts, self.cache).run()


def _adding(part: Tensor) -> Callable[..., Tensor]:
    return lambda _module, _args, _kwargs, output: _add_at_lookup(output, part)


def _add_at_lookup(hidden: Tensor, delta: Tensor) -> Tensor:
    """``hidden [b, s, d]`` (or flattened) with ``delta [b, d]`` added in slot 0."""
    rows = by_rows(hidden, len(delta))
    added = rows[:, :1] + delta[:, None].to(hidden)
    return torch.cat([added, rows[:, 1:]], dim=1).reshape(hidden.shape)


@torch.no_grad()
def prepare(
    model: EditableModel,
    rows: Sequence[tuple[int, ...]],
    lookups: Sequence[int],
    layer: int,
    where: Where,
    *,
    residual: bool | None = None,
    share: bool = False,
) -> PartialForward:
    """Run every row once, as far as later steps need, and keep that.

    Args:
        model: The model.
        rows: Token ids of each row.
        lookups: Lookup position of each row.
        layer: Layer that the value is added to.
        where: See `PartialForward`; ``mlp`` becomes ``layer`` where the projection's output enters the residual
            stream unchanged (no norm behind it), which saves one layer per step.
        residual: Whether it does (`adds_to_residual`); measured here when not given, which needs a pass without edits.
        share: Whether rows may share prefixes; not while edits are attached row by row.

    Returns:
        The fixed part. Edits attached while this runs must be attached in the later steps too.
    """
    if residual is None:
        residual = adds_to_residual(model, layer)
    effective: Where = "layer" if residual and where == "mlp" else where
    keys = [(0, row) for row in rows]
    sharing = worthwhile_prefixes(keys, lookups, model.device.type) if share else Sharing.none(len(rows))
    below = Below.run(model, rows, lookups, layer, where, effective, sharing)
    padded, starts = Padded.of(rows, model.device), torch.tensor(lookups, device=model.device)
    lengths = padded.mask.sum(dim=1)
    hidden = below.hidden
    return PartialForward(
        model=model,
        layer=layer,
        where=effective,
        suffix=suffix_of(padded, starts, lengths),
        prefix_mask=prefix_mask(starts, max(lookups)),
        starts=starts,
        hidden=None if hidden is None else from_lookup(hidden, starts - below.cuts, lengths - below.cuts),
        cache=below.states_before(starts),
        tuples=below.tuples,
        initial=below.initial,
        keys=below.keys,
    )


@torch.no_grad()
def adds_to_residual(model: EditableModel, layer: int) -> bool:
    """Whether what is added to the projection's output appears unchanged in the layer's output.

    True for GPT-2 and Llama; false where a norm follows the MLP (Gemma 2, OLMo 2). Measured on one token.
    """
    bump = torch.linspace(-1, 1, model.width, device=model.device).to(model.dtype)
    rows = Padded.of([(0,)], model.device)
    outputs: list[Tensor] = []

    def catch(_module: nn.Module, _args: Any, _kwargs: Any, output: Any) -> None:
        outputs.append(first_tensor(output)[0, 0].to(bump.device))

    for extra in (torch.zeros_like(bump), bump):
        add = (model.projection(layer), lambda _m, _a, _k, output, extra=extra: output + extra.to(output.device))
        with hooked([add, (model.layer(layer), catch)]), stopping(model.layer(layer)):
            run(model, rows)
    difference = (outputs[1] - outputs[0] - bump).float().norm()
    return bool(difference < 0.02 * bump.float().norm())
