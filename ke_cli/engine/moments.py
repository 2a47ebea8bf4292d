"""One pass over text that sums ``k k^T`` for several layers, can be interrupted, and stops as early as it can.

Of every product ``K^T K`` only the blocks on and below the diagonal are computed, a little over half of the operations.
Products are formed in float32 (float64 for keys in float64). Half-precision keys multiply exactly there: on a GPU its
tensor cores add up in float32 at the full rate of the half type.

On the CPU the running total is float64 and a float32 product is of at most `CHUNK` tokens. It is off by up to 1e-7 in
relative norm; the errors of different products are independent, so the mean over ``b`` is off by 1e-7 / sqrt(b), which
the rounding of the stored mean to float32 (3e-8) hides from some ten thousand tokens on. Longer products
would be hardly faster and less exact.

On a GPU the total is float32, which halves the memory. Each of ``b`` batches then rounds it once, which makes
6e-8 sqrt(b) at the worst: 4e-6 after 5,000 batches (44 million tokens), a hundredth of the sampling error of so many.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor, nn

from ke_cli.engine.batching import Budget
from ke_cli.engine.forward import Padded, run
from ke_cli.engine.tokens import encode
from ke_cli.models.editable import EditableModel
from ke_cli.models.memory import OutOfMemory, ran_out_of_memory, release_unused

log = logging.getLogger(__name__)

WINDOW = 2**17
"""Tokens of consecutive texts that are sorted by length before they are put into batches."""

PANEL = {"cpu": 256, "cuda": 2048}
"""Rows of a block, half of it for narrow matrices: small ones waste less beyond the diagonal, large ones run faster."""

CHUNK = 1024
"""Tokens whose products are added up in float32 before they join a total in float64."""

HALF = (torch.float16, torch.bfloat16)

Row = tuple[int, ...]


class Sums:
    """The running sum of ``k k^T`` ``[m, m]`` of one layer: blocks of rows, each up to its own diagonal.

    Args:
        panels: Blocks ``[rows, columns up to the diagonal]`` to go on from; empty to begin.
    """

    def __init__(self, panels: Sequence[Tensor] = ()) -> None:
        """Begin, or go on; memory is taken where the first keys come from."""
        self.panels = list(panels)

    def add(self, keys: Tensor, done: set[int]) -> None:
        """Add keys ``[n, m]`` to every block not in ``done``, and put each there as soon as it has them."""
        keys = _multipliable(keys)
        self._prepare(keys)
        start = 0
        for number, panel in enumerate(self.panels):
            if number not in done:
                _accumulate(panel, keys[:, start : start + len(panel)], keys[:, : panel.shape[1]])
                done.add(number)
            start += len(panel)

    def matrix(self, count: int) -> Tensor:
        """The sum over ``count``, as a symmetric matrix ``[m, m]``."""
        width = self.panels[-1].shape[1]
        full = self.panels[-1].new_empty(width, width)
        start = 0
        for panel in self.panels:
            mean, stop = panel / count, start + len(panel)
            full[start:stop, :stop] = mean
            full[:start, start:stop] = mean[:, :start].T
            corner = mean[:, start:].tril()
            full[start:stop, start:stop] = corner + corner.tril(-1).T
            start = stop
        return full

    def _prepare(self, keys: Tensor) -> None:
        if not self.panels:
            dtype = torch.float64 if keys.device.type == "cpu" or keys.dtype == torch.float64 else torch.float32
            most, width = PANEL.get(keys.device.type, 2048), keys.shape[1]
            rows = most if width >= 4 * most else most // 2
            edges = [(start, min(start + rows, width)) for start in range(0, width, rows)]
            self.panels = [torch.zeros(stop - start, stop, dtype=dtype, device=keys.device) for start, stop in edges]
        elif self.panels[0].device != keys.device:
            self.panels = [panel.to(keys.device) for panel in self.panels]


def _multipliable(keys: Tensor) -> Tensor:
    """Keys in a type whose products are summed in float32 or better."""
    adds_up_in_float32 = keys.device.type == "cuda" and torch.__version__ >= (2, 8)  # type: ignore[operator]
    return keys.float() if keys.dtype in HALF and not adds_up_in_float32 else keys


def _accumulate(panel: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left^T right`` to a block; all of it, or (out of memory) nothing."""
    if left.dtype == panel.dtype:
        panel.addmm_(left.T, right)
    elif left.dtype in HALF:
        panel += torch.mm(left.T, right, out_dtype=torch.float32)
    else:
        product = panel.new_empty(panel.shape, dtype=left.dtype)
        for some, others in zip(torch.split(left, CHUNK), torch.split(right, CHUNK), strict=True):
            panel += torch.mm(some.T, others, out=product)


@dataclass
class Place:
    """How far a pass has come.

    Args:
        documents: Texts in the windows that are done.
        tokens: Tokens in these windows.
        rows: Rows that are done of the window behind them, in its sorted order.
    """

    documents: int = 0
    tokens: int = 0
    rows: int = 0


class Bookmark(Protocol):
    """Where an interrupted pass is found again."""

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last, if it can be used."""

    def due(self) -> bool:
        """Whether it is time to save."""

    def save(self, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors; they are on the CPU."""


class _Behind(Exception):
    """Ends a forward pass in front of the deepest projection: nothing behind its input is needed."""


@dataclass
class Pass:
    """The sums of some layers on their way through a text.

    Args:
        model: The model.
        layers: Layers to sum.
        tokens: Number of tokens to read.
        max_length: Longer texts are cut.
        budget: Padded tokens per batch.
    """

    model: EditableModel
    layers: Sequence[int]
    tokens: int
    max_length: int
    budget: Budget

    def __post_init__(self) -> None:
        """Begin at the beginning."""
        self.sums = {layer: Sums() for layer in self.layers}
        self.place = Place()

    def run(self, texts: Iterable[str], bookmark: Bookmark | None = None) -> int:
        """Read texts until there are enough tokens, from the bookmark on if there is one; return their number."""
        saved = bookmark.load() if bookmark else None
        if saved:
            self._restore(saved)
        stream = iter(texts)
        next(islice(stream, self.place.documents, self.place.documents), None)  # skip what is done
        while self.place.tokens < self.tokens:
            rows, documents = self._window(stream)
            if not documents:
                break
            for batch in self._batches(rows):
                self._add(batch, {layer: set() for layer in self.layers})
                self.place.rows += len(batch)
                if bookmark and bookmark.due():
                    bookmark.save(self._state())
            self.place = Place(self.place.documents + documents, self.place.tokens + sum(map(len, rows)))
        return self.place.tokens

    def _window(self, texts: Iterator[str]) -> tuple[list[Row], int]:
        """The rows of the next texts, the longest first, and the number of texts; no text more than is needed."""
        rows: list[Row] = []
        documents, left = 0, self.tokens - self.place.tokens
        enough = left - min(left, WINDOW)
        for text in texts:
            documents += 1
            ids = encode(self.model.tokenizer, text).ids[: min(self.max_length, left)]
            left -= len(ids)
            if ids:
                rows.append(ids)
            if left <= enough:
                break
        return sorted(rows, key=len, reverse=True), documents

    def _batches(self, rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
        """What is left of a window, batch by batch under the budget as it is then."""
        while self.place.rows < len(rows):
            start = self.place.rows
            yield rows[start : start + max(1, self.budget.tokens // len(rows[start]))]

    def _add(self, rows: Sequence[Row], done: Mapping[int, set[int]]) -> None:
        """Add rows; where memory runs out half by half, and to no block twice.

        Args:
            rows: Rows of tokens.
            done: By layer the blocks that have these rows already.
        """
        try:
            return self._forward(rows, done)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            reason = str(error).partition("\n")[0]
        release_unused()  # behind the handler, whose traceback kept the tensors alive
        if len(rows) == 1:
            raise OutOfMemory(f"out of memory with one text of {len(rows[0])} tokens", where=reason[:300])
        self.budget.shrink(len(rows) * len(rows[0]))
        log.warning("out of memory with %d texts in a batch: going on with half of them", len(rows))
        half = len(rows) // 2
        for part in (rows[:half], rows[half:]):
            self._add(part, {layer: set(blocks) for layer, blocks in done.items()})

    def _forward(self, rows: Sequence[Row], done: Mapping[int, set[int]]) -> None:
        padded = Padded.of(rows, self.model.device)
        real = _real_positions(rows)
        last = max(self.layers)

        def adding(layer: int) -> Callable[..., None]:
            def add(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                keys = args[0].reshape(-1, args[0].shape[-1])  # [b * t, m]
                self.sums[layer].add(keys if real is None else keys[real.to(keys.device)], done[layer])
                if layer == last:
                    raise _Behind

            return add

        with ExitStack() as stack:
            for layer in self.layers:
                stack.callback(self.model.projection(layer).register_forward_pre_hook(adding(layer)).remove)
            try:
                run(self.model, padded)
            except _Behind:
                return

    def _state(self) -> dict[str, Tensor]:
        place = torch.tensor([self.place.documents, self.place.tokens, self.place.rows])
        panels = {f"{layer}.{i}": p.cpu() for layer, sums in self.sums.items() for i, p in enumerate(sums.panels)}
        return {"place": place, **panels}

    def _restore(self, saved: Mapping[str, Tensor]) -> None:
        self.place = Place(*saved["place"].tolist())
        for layer in self.layers:
            names = (f"{layer}.{number}" for number in range(len(saved)))
            self.sums[layer] = Sums([saved[name].clone() for name in names if name in saved])
        log.info("covariance: going on from document %d", self.place.documents)


def _real_positions(rows: Sequence[Row]) -> Tensor | None:
    """Flat positions ``[n]`` of the tokens in the padded rows; None where there is no padding."""
    longest = max(map(len, rows))
    if all(len(row) == longest for row in rows):
        return None
    return torch.cat([torch.arange(len(row)) + number * longest for number, row in enumerate(rows)])


class Moments(Mapping[int, Tensor]):
    """``E[k k^T]`` ``[m, m]`` by layer, put together when it is asked for: one matrix at a time takes memory."""

    def __init__(self, sums: Mapping[int, Sums], count: int) -> None:
        """Take the sums over ``count`` tokens."""
        self._sums, self._count = sums, count

    def __getitem__(self, layer: int) -> Tensor:
        """The second moment of a layer."""
        return self._sums[layer].matrix(self._count)

    def __iter__(self) -> Iterator[int]:
        """The layers."""
        return iter(self._sums)

    def __len__(self) -> int:
        """Number of layers."""
        return len(self._sums)
