"""Whether two sides computed the same.

A ratio of two times means nothing if the numbers differ, so every comparison ends here. Tolerances depend on the data
type of the model alone:

- edits: relative Frobenius norm of the difference of the weight changes, the worst over units and weights;
- answers: difference of the negative log-likelihoods (nats) behind the metrics, of every scored token and every likely
  token, before and after the edit: the worst in double and single precision, where both sides must have been asked the
  same; the mean over what both were asked in half precision. Metrics alone would not do, because objects that a random
  model finds unlikely stay unlikely whatever is done;
- columns: difference of each metric's mean over the cases, the worst over columns. In double and single precision every
  single value must agree as well; in half precision two objects that are nearly as likely may change places;
- matrices (covariances): relative Frobenius norm of the difference, the worst over layers;
- texts: share of generated texts that differ; none may in double and single precision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ke_cli.engine.edits import Dense, Edit, LowRank, Update

Outcomes = Mapping[str, Mapping[str, Any]]
"""Case id to ``metrics`` (column to value) and raw answers ``before`` and ``after``, as in a line of the case log."""

ANSWER = ("nlls", "hits", "ids", "texts", "text")
"""What in a raw answer is not the question."""


@dataclass(frozen=True)
class Tolerance:
    """How far two sides may differ.

    Args:
        edits: Relative norm.
        answers: Nats.
        values: Absolute difference of a column's value in a case; None where single cases may differ.
        columns: Absolute difference of a column's mean.
        matrices: Relative norm.
        texts: Share of different texts.
    """

    edits: float
    answers: float
    values: float | None
    columns: float
    matrices: float
    texts: float


EXACT = Tolerance(edits=1e-6, answers=1e-6, values=1e-6, columns=1e-6, matrices=1e-8, texts=0.0)
SINGLE = Tolerance(edits=1e-3, answers=1e-3, values=1e-3, columns=1e-3, matrices=1e-5, texts=0.0)
HALF = Tolerance(edits=0.2, answers=0.1, values=None, columns=0.1, matrices=1e-2, texts=0.5)
TOLERANCES = {torch.float64: EXACT, torch.float32: SINGLE, torch.bfloat16: HALF, torch.float16: HALF}


@dataclass(frozen=True)
class Finding:
    """How far something differs.

    Args:
        what: What was compared.
        worst: The largest difference.
        tolerance: What it may be.
        where: Where it is largest.
        compared: Number of comparisons.
    """

    what: str
    worst: float
    tolerance: float
    where: str
    compared: int

    @property
    def agrees(self) -> bool:
        """Whether it is within the tolerance (NaN is not); without anything to compare nothing agrees."""
        return self.compared > 0 and self.worst <= self.tolerance


def _worst(what: str, tolerance: float, found: Mapping[str, float]) -> Finding:
    """The finding about differences by place; NaN is the worst of all."""
    order = sorted(found, key=lambda place: (found[place] == found[place], -found[place]))
    return Finding(what, found[order[0]] if order else 0.0, tolerance, order[0] if order else "", len(found))


def compare_edits(names: Sequence[str], first: Sequence[Edit], second: Sequence[Edit], allowed: Tolerance) -> Finding:
    """Edits of the same units by both sides."""
    found = {}
    for name, one, other in zip(names, first, second, strict=True):
        for module in sorted({*one.updates, *other.updates}):
            found[f"{name}, {module}"] = edit_difference(one.updates.get(module), other.updates.get(module))
    return _worst("edits", allowed.edits, found)


def edit_difference(one: Update | None, other: Update | None) -> float:
    """Norm of the difference of two changes of one weight in units of the first one's norm; NaN if one is not finite.

    Of low-rank pairs it is found without the matrices, to about 1e-8 of the norm.
    """
    if one is None or other is None:
        return 1.0
    if not Edit({"": one}).is_finite() or not Edit({"": other}).is_finite():
        return float("nan")  # a norm from a Gram matrix would be 0
    if isinstance(one, LowRank) and isinstance(other, LowRank):
        left = torch.cat([one.left.double(), -other.left.to(one.left).double()], dim=1)
        right = torch.cat([one.right.double(), other.right.to(one.right).double()], dim=0)
        return LowRank(left, right).norm() / LowRank(one.left.double(), one.right.double()).norm()
    difference = one.delta().double() - other.delta().to(one.delta()).double()
    return Dense(difference).norm() / Dense(one.delta().double()).norm()


def compare_outcomes(first: Outcomes, second: Outcomes, allowed: Tolerance) -> list[Finding]:
    """Raw answers and metric columns of the same cases."""
    if missing := [case for case in first if case not in second]:
        return [Finding("answers", float("nan"), allowed.answers, f"case {missing[0]} is missing", 1)]
    return [compare_answers(first, second, allowed), *compare_columns(first, second, allowed)]


def compare_answers(first: Outcomes, second: Outcomes, allowed: Tolerance) -> Finding:
    """Negative log-likelihoods; NaN where one side was asked what the other was not, if every value counts."""
    found: dict[str, float] = {}
    for case, outcome in first.items():
        for when in ("before", "after"):
            one, other = _nlls(outcome[when]), _nlls(second[case][when])
            questions = one.keys() | other.keys() if allowed.values is not None else one.keys() & other.keys()
            found.update({f"case {case}, {when}, {q}": _farthest(one.get(q), other.get(q)) for q in questions})
    if allowed.values is not None or not found:
        return _worst("answers", allowed.answers, found)
    return Finding("answers, on average", sum(found.values()) / len(found), allowed.answers, "", len(found))


def _nlls(answers: Sequence[Mapping[str, Any]]) -> dict[str, Sequence[float]]:
    """The numbers of raw answers by question; generated texts have none."""
    told = [answer for answer in answers if "nlls" in answer]
    return {
        " ".join(str(value) for key, value in answer.items() if key not in ANSWER): answer["nlls"] for answer in told
    }


def _farthest(one: Sequence[float] | None, other: Sequence[float] | None) -> float:
    if one is None or other is None or len(one) != len(other):
        return float("nan")
    differences = [abs(a - b) for a, b in zip(one, other, strict=True)]
    return float("nan") if any(value != value for value in differences) else max(differences, default=0.0)


def compare_columns(first: Outcomes, second: Outcomes, allowed: Tolerance) -> list[Finding]:
    """Metric columns of the same cases."""
    pairs = {case: (outcome["metrics"], second[case]["metrics"]) for case, outcome in first.items()}
    names = sorted({name for one, other in pairs.values() for name in (*one, *other)})
    changes = {name: {case: _change(a.get(name), b.get(name)) for case, (a, b) in pairs.items()} for name in names}
    means = {name: abs(sum(by_case.values())) / len(pairs) for name, by_case in changes.items()}
    findings = [_worst("means of the metric columns", allowed.columns, means)]
    if allowed.values is not None:
        values = {f"{name} of case {case}": abs(one) for name, some in changes.items() for case, one in some.items()}
        findings.append(_worst("metric columns, case by case", allowed.values, values))
    return findings


def _change(first: float | None, second: float | None) -> float:
    """Second minus first; None agrees with None only."""
    if first is None or second is None:
        return 0.0 if first is second else float("nan")
    return second - first


def compare_matrices(first: Mapping[int, Tensor], second: Mapping[int, Tensor], allowed: Tolerance) -> Finding:
    """Matrices by layer."""
    found = {f"layer {layer}": _relative(matrix, second[layer]) for layer, matrix in first.items()}
    return _worst("covariances", allowed.matrices, found)


def _relative(one: Tensor, other: Tensor) -> float:
    exact = one.double()
    return float((exact - other.to(exact)).norm() / exact.norm())


def compare_texts(first: Sequence[str], second: Sequence[str], allowed: Tolerance) -> Finding:
    """Generated texts, one by one."""
    different = [i for i, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    where = f"text {different[0]}: {first[different[0]]!r} and {second[different[0]]!r}" if different else ""
    return Finding("generated texts", len(different) / max(1, len(first)), allowed.texts, where, len(first))


def sentences(findings: Sequence[Finding]) -> Iterator[str]:
    """What does not agree, in words."""
    for one in findings:
        if not one.agrees:
            place = f" at {one.where}" if one.where else ""
            what = f"differ by {one.worst:.3g}{place}, more than {one.tolerance:g}"
            yield f"{one.what} {what if one.compared else 'could not be compared: there are none'}"
