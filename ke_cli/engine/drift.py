r"""How far an instruction moves the key of an edited layer, and how much of that the edit lets through.

Notation, for one edited layer: ``Delta`` ``[d, m]`` is the edit's change of the down-projection; ``k`` ``[m]`` is the
input of that projection at the lookup position of the bare edit prompt, ``k'`` the same where the instruction, as it is
really asked, has the last token of the subject (lookup ``subject_last``) or its own last token (``prompt_last``). Both
are read with the edit attached, so a layer above the first sees the writes below it.

    drift              = ||k' - k|| / ||k||
    drift_gain         = ||Delta||_F ||k|| / ||Delta k||
    realised_deviation = ||Delta (k' - k)|| / ||Delta k||

The gain compares the edit with the smallest matrix that maps ``k`` to the same image: an input error in a uniformly
random direction comes out that many times larger. For rank one, ``Delta = r q^T``, it is ``1 / cos(k, q)``; 1 is the
least possible, reached only by a multiple of ``r k^T``. For a given error ``k' - k`` the deviation says what really
comes out, in units of what the edit writes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ke_cli.engine.edits import LowRank, Update
from ke_cli.engine.instructions import asked
from ke_cli.engine.queries import GeometryQuery
from ke_cli.engine.reading import Token
from ke_cli.models.editable import EditableModel


@dataclass(frozen=True, slots=True)
class LayerDrift:
    """Numbers of one edited layer; ``drift`` and ``realised_deviation`` have one entry per instruction."""

    drift_gain: float | None
    drift: tuple[float | None, ...]
    realised_deviation: tuple[float | None, ...]


def layer_drift(update: Update, key: Tensor, moved: Tensor) -> LayerDrift:
    """Compute the numbers of one layer.

    Args:
        update: The change ``Delta`` of its projection.
        key: ``k [m]``.
        moved: ``k' [n, m]``, one per instruction.
    """
    key, differences = key.double(), moved.double() - key.double()
    images = _image(update, torch.cat([key[None], differences]))  # [1 + n, d]
    written, *deviations = images.norm(dim=-1).tolist()
    length = float(key.norm())
    return LayerDrift(
        drift_gain=_ratio(_norm(update) * length, written),
        drift=tuple(_ratio(distance, length) for distance in differences.norm(dim=-1).tolist()),
        realised_deviation=tuple(_ratio(deviation, written) for deviation in deviations),
    )


def drifted_tokens(model: EditableModel, query: GeometryQuery, edit: int) -> list[Token]:
    """Where ``k'`` is read, in each instruction that names the subject literally.

    Of several mentions the last one counts, which has read all the others. The same instructions count for both
    lookups, so that columns of different editors average over the same ones.
    """
    found = []
    for question in query.instructions:
        row = asked(model, question)
        mention, begins = question.strip().rfind(query.subject), row.text.rfind(question.strip())
        if mention < 0 or begins < 0:
            continue
        start = begins + mention
        last = row.tokens.last_overlapping(start, start + len(query.subject))
        index = last if query.lookup == "subject_last" else len(row.tokens.ids) - 1
        found.append(Token(row.tokens.ids, index, edit))
    return found


def _image(update: Update, vectors: Tensor) -> Tensor:
    """``Delta x`` ``[n, d]`` in float64 for rows ``x [n, m]``; a dense change multiplies in float32 or better."""
    if isinstance(update, LowRank):
        return (vectors @ update.right.to(vectors).T) @ update.left.to(vectors).T
    exact = torch.promote_types(update.matrix.dtype, torch.float32)
    return (vectors.to(update.matrix.device, exact) @ update.matrix.to(exact).T).to(vectors)


def _norm(update: Update) -> float:
    """Frobenius norm, for a pair from its float64 Gram matrices (the sum over a rank may cancel)."""
    return LowRank(update.left.double(), update.right.double()).norm() if isinstance(update, LowRank) else update.norm()


def _ratio(above: float, below: float) -> float | None:
    ratio = above / below if below else math.nan
    return ratio if math.isfinite(ratio) else None


def transposed(rows: Sequence[Sequence[float | None]]) -> tuple[tuple[float | None, ...], ...]:
    """Numbers per layer and instruction as numbers per instruction and layer."""
    return tuple(zip(*rows, strict=True))
