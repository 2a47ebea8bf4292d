"""When the benchmark says that two sides have computed the same."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ke_cli.engine.edits import Dense, Edit, LowRank

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from benchmark import agreement


def pair(scale: float = 1.0) -> LowRank:
    generator = torch.Generator().manual_seed(3)
    return LowRank(scale * torch.randn(6, 2, generator=generator), torch.randn(2, 9, generator=generator))


def test_the_difference_of_edits_is_that_of_the_matrices() -> None:
    one, other = pair(), LowRank(pair().left + 0.01, pair().right)
    expected = float((one.delta() - other.delta()).norm() / one.delta().norm())
    for first, second in ((one, other), (Dense(one.delta()), other), (one, Dense(other.delta()))):
        assert agreement.edit_difference(first, second) == pytest.approx(expected, rel=1e-5)
    assert agreement.edit_difference(one, one) < 1e-7
    assert agreement.edit_difference(one, None) == agreement.edit_difference(None, one) == 1.0


def test_the_worst_edit_is_named_and_nan_is_worse_than_anything() -> None:
    good, off, broken = (Edit({"w": pair(scale)}) for scale in (1.0, 1.1, float("nan")))
    found = agreement.compare_edits(["a", "b"], [good, good], [good, off], agreement.SINGLE)
    assert found.worst == pytest.approx(0.1, rel=1e-3) and found.where == "b, w" and not found.agrees
    found = agreement.compare_edits(["a", "b", "c"], [good] * 3, [off, broken, good], agreement.HALF)
    assert found.where == "b, w" and not found.agrees
    assert agreement.compare_edits(["a"], [good], [good], agreement.SINGLE).agrees
    assert not agreement.compare_edits([], [], [], agreement.HALF).agrees, "nothing was compared"


def outcome(efficacy: float | None, nlls: tuple[float, ...] = (1.0, 2.0), prompt: str = "p") -> dict[str, Any]:
    asked = {"ask": "target", "prompt": prompt, "target": "t", "nlls": list(nlls), "hits": [True, False]}
    return {"metrics": {"efficacy": efficacy, "none": None}, "before": [], "after": [asked]}


def test_columns_may_differ_case_by_case_in_half_precision_only() -> None:
    first = {str(i): outcome(float(i % 2)) for i in range(100)}
    swapped = {**first, "0": outcome(1.0), "1": outcome(0.0)}
    answers, means, values = agreement.compare_outcomes(first, swapped, agreement.SINGLE)
    assert answers.agrees and means.agrees and not values.agrees
    assert values.where in ("efficacy of case 0", "efficacy of case 1")
    assert [one.agrees for one in agreement.compare_outcomes(first, swapped, agreement.HALF)] == [True, True]
    missing = {**first, "5": outcome(None)}
    assert not any(one.agrees for one in agreement.compare_outcomes(first, missing, agreement.SINGLE)[1:])
    assert not agreement.compare_outcomes(first, {}, agreement.HALF)[0].agrees


def test_every_single_likelihood_counts_but_in_half_precision() -> None:
    first = {str(i): outcome(1.0) for i in range(100)}
    off = {**first, "7": outcome(1.0, (1.0, 2.01))}
    found = agreement.compare_outcomes(first, off, agreement.SINGLE)[0]
    assert found.worst == pytest.approx(0.01) and found.where == "case 7, after, target p t" and not found.agrees
    found = agreement.compare_outcomes(first, off, agreement.HALF)[0]
    assert found.agrees and found.worst == pytest.approx(1e-4) and found.compared == 100
    for other in (outcome(1.0, prompt="q"), outcome(1.0, (1.0,)), outcome(1.0, (1.0, float("nan")))):
        assert not agreement.compare_outcomes(first, {**first, "7": other}, agreement.SINGLE)[0].agrees
    assert agreement.compare_outcomes(first, {**first, "7": outcome(1.0, prompt="q")}, agreement.HALF)[0].agrees


def test_texts_and_matrices() -> None:
    assert agreement.compare_texts(["a", "b"], ["a", "b"], agreement.SINGLE).agrees
    found = agreement.compare_texts(["a", "b", "c"], ["a", "x", "c"], agreement.SINGLE)
    assert found.worst == pytest.approx(1 / 3) and not found.agrees and "'b' and 'x'" in found.where
    one = torch.eye(3)
    assert agreement.compare_matrices({1: one}, {1: one + 1e-7}, agreement.SINGLE).agrees
    assert not agreement.compare_matrices({1: one}, {1: one + 1e-3}, agreement.SINGLE).agrees
