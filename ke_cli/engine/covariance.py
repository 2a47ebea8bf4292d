"""Second moments of keys, ``C_l = E[k k^T]``, for all layers in one pass, and solves with them.

Source: MEMIT, arXiv 2210.07229, equation 15; that a few times ``m`` tokens suffice: arXiv 2506.04226.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from ke_cli.engine.batching import Budget
from ke_cli.engine.moments import Bookmark, Moments, Pass
from ke_cli.engine.shelf import Shelf
from ke_cli.errors import UnitError, UserError
from ke_cli.models.editable import EditableModel

SINGULAR = 1e-13
"""Ratio of the smallest to the largest squared pivot under which a matrix counts as singular in float64."""


NEARLY = 1e-6
"""Share of a key's own direction left without it, under which a matrix is factored anew rather than updated."""


class Keeper(Protocol):
    """Where the decompositions of a matrix outlive the process."""

    def kept(self, part: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``make`` returns for a part (``factor`` or ``eigen``), now or earlier."""

    def of(self, change: str) -> Keeper:
        """The same for a matrix that comes from this one by a change which the words identify."""


class Covariance:
    """A symmetric positive definite second moment ``[m, m]`` and its decompositions, each made when it is needed.

    Matrix, factor and eigenvectors lie on a shelf: what is dropped there for want of room is made (or read) again.
    They are gigabytes each for a wide model, so nothing else holds on to them.
    """

    def __init__(
        self,
        matrix: Tensor | Callable[[], Tensor],
        name: str,
        *,
        width: int | None = None,
        shelf: Shelf | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """Describe a matrix.

        Args:
            matrix: ``[m, m]``, float32 or float64, or what returns it.
            name: What it is, for error messages.
            width: ``m``, if it is known before the matrix is.
            shelf: One shared with others; its own without a limit where none is given.
            keeper: Where decompositions are kept on disk.
        """
        self.name = name
        self._source: Callable[[], Tensor] = (lambda: matrix) if isinstance(matrix, Tensor) else matrix
        self._width = width
        self._trace: float | None = None
        self._shelf = Shelf() if shelf is None else shelf
        self._keeper = keeper
        self._key = object()  # its own name on a shelf that is shared

    def on(self, shelf: Shelf) -> Covariance:
        """The same matrix on another shelf."""
        return Covariance(self._source, self.name, width=self._width, shelf=shelf, keeper=self._keeper)

    @property
    def matrix(self) -> Tensor:
        """The matrix ``[m, m]``."""
        return self._shelf.get((self._key, "matrix"), self._source)

    @property
    def width(self) -> int:
        """``m``."""
        if self._width is None:
            self._width = len(self.matrix)
        return self._width

    @property
    def trace(self) -> float:
        """The sum of the diagonal, in float64; read once."""
        if self._trace is None:
            self._trace = float(self.matrix.diagonal().double().sum())
        return self._trace

    @property
    def factor(self) -> Tensor:
        """Lower Cholesky factor ``[m, m]`` in float64.

        Raises:
            UserError: If the matrix is singular to working precision: never a silent inverse.
        """
        return self._decomposition("factor", self._factored)["transposed"].T

    @property
    def eigen(self) -> tuple[Tensor, Tensor]:
        """Eigenvalues ``[m]``, ascending, and eigenvectors ``[m, m]`` in columns, in float64."""
        found = self._decomposition("eigen", self._diagonalised)
        return found["values"], found["transposed"].T

    def _decomposition(self, part: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """A part from the shelf, the disk, or made now."""
        keeper = self._keeper
        return self._shelf.get((self._key, part), make if keeper is None else lambda: keeper.kept(part, make))

    def _exact(self) -> Tensor:
        """The matrix in float64, with room made for a decomposition of it."""
        matrix = self.matrix
        self._shelf.make_room(8 * self.width**2)
        return matrix.double()

    def _factored(self) -> dict[str, Tensor]:
        """The factor as its transpose, which is how it lies in memory (columns first)."""
        factor, info = torch.linalg.cholesky_ex(self._exact())
        pivots = factor.diagonal().square()
        if int(info) or not bool(pivots.min() > SINGULAR * pivots.max()):
            raise self._singular()
        return {"transposed": factor.T.contiguous()}

    def _diagonalised(self) -> dict[str, Tensor]:
        values, vectors = torch.linalg.eigh(self._exact())
        return {"values": values, "transposed": vectors.T.contiguous()}

    def solve(self, keys: Tensor, *, without: Tensor | None = None) -> Tensor:
        """``C^-1 K`` in float64 for keys ``[m, n]``; on request ``(C - Q Q^T)^-1 K`` from the same factor.

        Args:
            keys: ``[m, n]``.
            without: ``Q [m, q]``, keys that were summed into ``C`` and shall not count (Woodbury).

        Raises:
            UserError: If ``C`` itself is singular.
            UnitError: If nothing positive definite is left without those keys.
        """
        solved = self._solved(keys.double())
        if without is None:
            return solved
        removed = self._solved(without.double())  # C^-1 Q
        inner = torch.eye(without.shape[1], dtype=torch.float64, device=without.device) - without.double().T @ removed
        if not bool(torch.linalg.eigvalsh(inner).min() > NEARLY):  # the short cut would lose digits
            return self._without(without).solve(keys)
        solved += removed @ torch.linalg.solve(inner, removed.T @ keys.double())
        return solved

    def half_solve(self, keys: Tensor) -> Tensor:
        """``L^-1 K`` in float64 for keys ``[m, n]``, ``C = L L^T``: its Gram matrix is ``K^T C^-1 K``."""
        half: Tensor = torch.linalg.solve_triangular(self.factor, keys.double(), upper=False)
        return half

    def other_half(self, half: Tensor) -> Tensor:
        """``C^-1 K`` from ``L^-1 K`` ``[m, n]``."""
        solved: Tensor = torch.linalg.solve_triangular(self.factor.T, half, upper=True)
        return solved

    def _solved(self, keys: Tensor) -> Tensor:
        """``C^-1 K``; two triangular solves, which copy no factor as `torch.cholesky_solve` does at every call."""
        return self.other_half(self.half_solve(keys))

    def _without(self, keys: Tensor) -> Covariance:
        """``C - Q Q^T``, factored anew."""
        left = Covariance(self.matrix.double() - keys.double() @ keys.double().T, self.name)
        try:
            _ = left.factor
        except UserError as error:
            raise UnitError(f"without the edited prompts {error.what}") from error
        return left

    def _singular(self) -> UserError:
        return UserError(
            f"the {self.name} is singular, so its inverse means nothing",
            where=f"{self.width} x {self.width} matrix of second moments of keys",
            allowed="statistics of well more tokens (or reference prompts) than the MLP is wide",
            hint="statistics.tokens_per_width=10, or another statistics.text, or a method without C^-1",
        )

    def shifted(self, ridge: float) -> Covariance:
        """``C + ridge I``."""

        def make() -> Tensor:
            exact = self.matrix.to(torch.float64, copy=True)
            exact.diagonal().add_(ridge)
            return exact

        return self._derived(make, self.name, f"plus {ridge!r} on the diagonal")

    def plus(self, other: Tensor | Callable[[], Tensor], name: str) -> Covariance:
        """The sum with another second moment ``[m, m]``."""

        def make() -> Tensor:
            return self.matrix.double() + (other if isinstance(other, Tensor) else other()).double()

        return Covariance(make, name, width=self._width, shelf=self._shelf)

    def _derived(self, make: Callable[[], Tensor], name: str, change: str) -> Covariance:
        keeper = self._keeper and self._keeper.of(change)
        return Covariance(make, name, width=self._width, shelf=self._shelf, keeper=keeper)


@torch.no_grad()
def collect(
    model: EditableModel,
    layers: Sequence[int],
    texts: Iterable[str],
    *,
    tokens: int,
    max_length: int,
    budget: int | Budget,
    bookmark: Bookmark | None = None,
) -> tuple[Mapping[int, Tensor], int]:
    """Second moments of the keys of several layers from one pass over text, stopping at the deepest layer's key.

    Args:
        model: The model.
        layers: Layers to collect.
        texts: Plain texts, read until ``tokens`` tokens have been seen (special tokens that the tokenizer puts in
            front count, as they do in published statistics).
        tokens: Number of tokens.
        max_length: Longer texts are cut.
        budget: Tokens per batch.
        bookmark: Where the pass is taken up again if it was interrupted, and saved on the way.

    Returns:
        Per layer ``E[k k^T]`` ``[m, m]`` (see `ke_cli.engine.moments` for the precision), put together when it is
        asked for, and the tokens seen.

    Raises:
        UserError: If the texts hold no token at all.
        OutOfMemory: If a single text does not fit into memory.
    """
    going = Pass(model, layers, tokens, max_length, Budget.of(budget))
    seen = going.run(texts, bookmark)
    if not seen:
        raise UserError("the statistics text is empty", hint="statistics.text=FILE with plain text")
    return Moments(going.sums, seen), seen
