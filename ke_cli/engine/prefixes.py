"""Keys and values of tokens that ran before, and forward passes over what comes behind them.

Layout: the kept tokens are *left*-padded to ``p`` slots and the rest of a row is right-padded to ``s`` slots, so real
tokens are contiguous and sliding windows stay right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

from ke_cli.engine.alignment import aligned, prefix_mask
from ke_cli.engine.edits import Edit, attached
from ke_cli.engine.forward import Padded, replaced, run, stopping
from ke_cli.engine.sharing import Key, Sharing, worthwhile_prefixes
from ke_cli.models.editable import EditableModel

States = tuple[tuple[Tensor, Tensor], ...]
"""Per layer keys and values ``[b, h, p, head]``."""


class Kept(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values that a pass reads; those of its own tokens are kept beside them on request only."""

    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, *, growing: bool = False) -> None:
        """Keep ``keys`` and ``values`` ``[b, h, p, head]``; ``growing`` adds those of the passes to come."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.keys, self.values, self.is_initialized, self.growing = keys, values, True, growing

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the states are there from the start."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return kept and new states side by side."""
        assert self.keys is not None and self.values is not None
        keys, values = key_states, value_states
        if self.get_seq_length():
            keys, values = torch.cat([self.keys, keys], dim=-2), torch.cat([self.values, values], dim=-2)
        if self.growing:
            self.keys, self.values = keys, values
        return keys, values

    def get_seq_length(self) -> int:
        """Slots that are kept."""
        assert self.keys is not None
        return int(self.keys.shape[-2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Slots the mask covers, and where they begin."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No limit."""
        return -1


@dataclass(frozen=True, eq=False)
class Behind:
    """A pass over tokens that follow kept ones.

    Args:
        model: The model.
        tokens: Ids and mask ``[b, s]`` of the tokens that run.
        starts: ``[b]`` index of the first of them in its full row, which is the number of kept tokens.
        states: Of the kept tokens, in the ``p`` slots in front.
    """

    model: EditableModel
    tokens: Padded
    starts: Tensor
    states: States

    def run(self, cache: Cache | None = None) -> Any:
        """Run the model; ``cache`` replaces the one made from the kept states."""
        slots = torch.arange(self.tokens.ids.shape[1], device=self.starts.device)
        kept = prefix_mask(self.starts, self.states[0][0].shape[-2])
        return self.model.hf(
            input_ids=self.tokens.ids,
            attention_mask=torch.cat([kept, self.tokens.mask], dim=1),
            position_ids=self.starts[:, None] + slots,  # [b, s]
            past_key_values=cache or Cache(layers=[Kept(keys, values) for keys, values in self.states]),
            use_cache=True,
        )

    def grown(self, first: int, hidden: Tensor | None, tuples: bool) -> States:
        """Keys and values of kept and new tokens ``[b, h, p + s, head]`` of the layers from ``first`` on.

        Args:
            first: The first layer that runs; those below keep their states.
            hidden: ``[b, s, d]`` residual stream that enters it; None where it reads the embeddings.
            tuples: Whether decoder layers return tuples.
        """
        layers = [Kept(*states, growing=number >= first) for number, states in enumerate(self.states)]
        with entering(self.model, first, hidden, tuples), stopping(_last_attention(self.model)):
            self.run(Cache(layers=[*layers]))
        return tuple((layer.keys, layer.values) for layer in layers)  # type: ignore[misc]


@contextmanager
def entering(model: EditableModel, first: int, hidden: Tensor | None, tuples: bool) -> Iterator[None]:
    """Let the layers below ``first`` do nothing but hand on ``hidden [b, s, d]``."""

    def unchanged(hidden_states: Tensor, *_: Any, **__: Any) -> Any:
        return (hidden_states,) if tuples else hidden_states

    def given(*_: Any, **__: Any) -> Any:
        return (hidden,) if tuples else hidden

    skipped: list[tuple[nn.Module, Callable[..., Any]]] = [(model.layer(i), unchanged) for i in range(first)]
    if skipped and hidden is not None:
        skipped[-1] = (skipped[-1][0], given)
    with replaced(skipped):
        yield


def _last_attention(model: EditableModel) -> nn.Module:
    """Where every layer's keys and values are known: behind the last attention, if it is known where that is."""
    last = model.n_layers - 1
    return model.layer(last) if model.architecture.attention is None else model.attention_projection(last)


@dataclass(frozen=True, eq=False)
class Prefixes:
    """Prefixes that rows share, run once.

    Args:
        states: ``[u, h, t, head]`` of ``u`` prefixes, right-padded, for the layers that ran.
    """

    states: States

    @classmethod
    def of(cls, model: EditableModel, prefixes: Sequence[Key], stop: nn.Module | None = None) -> Prefixes:
        """Run prefixes up to the module ``stop`` (by default as far as keys and values are needed)."""
        cache = DynamicCache()
        padded = Padded.of([ids for _, ids in prefixes], model.device)
        with stopping(stop if stop is not None else _last_attention(model)):
            run(model, padded, past_key_values=cache, use_cache=True)
        return cls(tuple((layer.keys, layer.values) for layer in cache.layers))  # type: ignore[misc, union-attr]

    def before(self, sharing: Sharing, layers: int) -> States:
        """The states in front of every row ``[b, h, p, head]``, left-padded, for ``layers`` layers."""
        which = torch.tensor([max(0, prefix) for prefix in sharing.prefix])
        cuts, slots = torch.tensor(sharing.cuts), max(sharing.cuts)

        def in_front(states: Tensor) -> Tensor:
            return aligned(states[which.to(states.device)], cuts, slots)

        found = [(in_front(keys), in_front(values)) for keys, values in self.states]
        missing = layers - len(found)
        return (*found, *[nothing(len(cuts), slots, self.states[0][0])] * missing)


@dataclass(frozen=True, eq=False)
class Rows:
    """A batch of rows, each with its own edit, whose shared prefixes have run.

    Args:
        model: The model.
        tokens: Ids and mask ``[b, s]`` behind the prefixes.
        cuts: ``[b]`` tokens in front of them.
        states: Of the prefixes; empty where nothing is shared.
        edits: The edits.
        owners: ``[b]`` which of them each row runs with.
    """

    model: EditableModel
    tokens: Padded
    cuts: Tensor
    states: States
    edits: Sequence[Edit]
    owners: Sequence[int]

    @classmethod
    def of(
        cls,
        model: EditableModel,
        rows: Sequence[Key],
        first_read: Sequence[int],
        edits: Sequence[Edit],
        stop: nn.Module | None = None,
    ) -> Rows:
        """Run what rows share, and lay out the rest.

        Args:
            model: The model.
            rows: The rows.
            first_read: Index of the first token of each row at which something is read: no prefix may hold it.
            edits: What the rows' edits are numbers of.
            stop: Prefixes run up to this module (by default as far as keys and values are needed).
        """
        sharing = worthwhile_prefixes(rows, first_read, model.device.type)
        states: States = ()
        if sharing.prefixes:
            with in_place(model, edits, [edit for edit, _ in sharing.prefixes]):
                states = states_before(model, sharing, stop)
        return cls(
            model=model,
            tokens=Padded.of([ids[cut:] for (_, ids), cut in zip(rows, sharing.cuts, strict=True)], model.device),
            cuts=torch.tensor(sharing.cuts, device=model.device),
            states=states,
            edits=edits,
            owners=[edit for edit, _ in rows],
        )

    def in_place(self) -> AbstractContextManager[None]:
        """Attach each row's edit; to be entered before anything that reads what the edits change."""
        return in_place(self.model, self.edits, self.owners)

    def run(self) -> Any:
        """Run the model over the rest of the rows."""
        if not self.states:
            return run(self.model, self.tokens)
        return Behind(self.model, self.tokens, self.cuts, self.states).run()


def in_place(model: EditableModel, edits: Sequence[Edit], owners: Sequence[int]) -> AbstractContextManager[None]:
    """Attach ``edits[owners[b]]`` to row ``b``, if there are any edits at all."""
    return attached(model, edits, owners) if edits else nullcontext()


def states_before(model: EditableModel, sharing: Sharing, stop: nn.Module | None = None) -> States:
    """Keys and values in front of every row, of the layers up to ``stop``; empty where nothing is shared."""
    return Prefixes.of(model, sharing.prefixes, stop).before(sharing, model.n_layers) if sharing.prefixes else ()


def nothing(rows: int, slots: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """States of a layer that never runs: only their number of slots is ever read, for the mask."""
    empty = like.new_zeros(1, 1, slots, 1).expand(rows, 1, slots, 1)
    return empty, empty
