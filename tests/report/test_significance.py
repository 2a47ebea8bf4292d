"""The tests against published examples, closed forms, and each other."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from ke_cli.report.significance import (
    EXCHANGE,
    FLIPS,
    MOST_ENUMERATED,
    SIGN_FLIP,
    Outcome,
    Problem,
    exchange,
    holm,
    mcnemar,
    sign_flip,
)
from ke_cli.report.statistics import FloatArray, mean_of_means

DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
"""Crossed less self-fertilised maize in eighths of an inch (Fisher 1935, The Design of Experiments, section 21)."""

SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
"""Hours of sleep gained by one drug over the other (Student 1908)."""


def mean_problem(differences: FloatArray) -> Problem:
    """The mean of one column, as a number made of a single source."""
    one = np.asarray(differences, dtype=float)[:, None]
    return Problem(one, np.zeros_like(one), np.array([float(len(one))]), lambda means: means[..., 0], SIGN_FLIP)


def all_flips(differences: FloatArray) -> float:
    """The definition: every flip, one after the other."""
    reached = abs(differences.sum()) - 1e-9
    sums = [abs(np.dot(signs, differences)) for signs in product((1, -1), repeat=len(differences))]
    return float(np.mean([total >= reached for total in sums]))


class TestMcNemar:
    @pytest.mark.parametrize(
        ("b", "c", "expected"),
        [
            (0, 0, 1.0),
            (1, 0, 1.0),
            (5, 5, 1.0),
            (0, 6, 2 / 2**6),
            (1, 9, 2 * (1 + 10) / 2**10),
            (9, 1, 2 * (1 + 10) / 2**10),
            (2, 6, 2 * (1 + 8 + 28) / 2**8),
        ],
    )
    def test_by_hand(self, b: int, c: int, expected: float) -> None:
        assert mcnemar(b, c) == expected

    def test_ratings_of_the_prime_minister(self) -> None:
        """Agresti's example: of 1,600 people 150 changed from approval to disapproval and 86 the other way."""
        assert mcnemar(150, 86) == pytest.approx(3.716e-05, rel=1e-3)
        assert mcnemar(150, 86) == 2 * sum(comb(236, i) for i in range(87)) / 2**236

    def test_many_pairs(self) -> None:
        assert mcnemar(5000, 5100) == pytest.approx(0.3246, abs=5e-4)  # normal with continuity correction: z = 0.985
        assert mcnemar(3000, 9000) < 1e-300


class TestSignFlip:
    def test_darwins_maize(self) -> None:
        """Fisher counts 1,726 of 32,768 arrangements."""
        assert sign_flip(np.array(DARWIN, dtype=float)) == Outcome(pytest.approx(1726 / 32768), SIGN_FLIP, True, 15)

    def test_students_sleep(self) -> None:
        assert sign_flip(np.array(SLEEP)) == Outcome(pytest.approx(2 / 2**9), SIGN_FLIP, True, 9)

    @pytest.mark.parametrize(("b", "c"), [(1, 9), (0, 6), (5, 5), (40, 60), (150, 86)])
    def test_of_zeros_and_ones_it_is_mcnemars_test(self, b: int, c: int) -> None:
        outcome = sign_flip(np.array([1.0] * b + [-1.0] * c + [0.0] * 7))
        assert outcome is not None
        assert outcome.p == pytest.approx(mcnemar(b, c), rel=1e-9, abs=1e-13)

    @pytest.mark.parametrize("grid", [1, 2, 3, 10, 12])
    def test_agrees_with_going_through_all_flips(self, grid: int) -> None:
        random = np.random.default_rng(grid)
        for _ in range(20):
            differences = random.integers(-12, 13, size=9) / grid
            outcome = sign_flip(differences)
            assert outcome is not None
            assert outcome.p == pytest.approx(all_flips(differences), abs=1e-12)

    def test_without_a_difference_nothing_is_found(self) -> None:
        assert sign_flip(np.zeros(5)) == Outcome(1.0, SIGN_FLIP, True, 0)
        assert sign_flip(np.array([1.0, -1.0])) == Outcome(1.0, SIGN_FLIP, True, 2)

    def test_numbers_on_no_grid_are_left_to_other_ways(self) -> None:
        assert sign_flip(np.array([0.1234567, np.pi])) is None
        assert sign_flip(np.array([1e-12, 1.0])) is None  # near a grid, but not on it

    def test_thousands_of_cases(self) -> None:
        differences = np.random.default_rng(0).integers(-20, 21, 2000) / 10
        outcome = sign_flip(differences)
        assert outcome is not None
        z = abs(differences.sum()) / np.sqrt((differences**2).sum())
        assert outcome.p == pytest.approx(0.0470, abs=0.002)
        assert z == pytest.approx(1.985, abs=0.01)


class TestExchange:
    def test_few_groups_are_gone_through(self) -> None:
        differences = np.random.default_rng(1).normal(0.4, 1, 10)
        (outcome,) = exchange([mean_problem(differences)])
        assert outcome == Outcome(pytest.approx(all_flips(differences)), SIGN_FLIP, True, 10)

    def test_groups_without_a_difference_do_not_count(self) -> None:
        differences = np.concatenate([np.zeros(500), np.random.default_rng(2).normal(size=MOST_ENUMERATED)])
        (outcome,) = exchange([mean_problem(differences)])
        assert outcome is not None
        assert (outcome.exact, outcome.groups) == (True, MOST_ENUMERATED)

    def test_random_flips_come_close_to_all_of_them(self) -> None:
        differences = np.array(DARWIN) + 1e-7 * np.pi * np.arange(15)
        (outcome,) = exchange([mean_problem(differences)])
        assert outcome is not None
        assert (outcome.exact, outcome.groups) == (False, 15)
        error = np.sqrt(0.0527 * (1 - 0.0527) / FLIPS)
        assert outcome.p == pytest.approx(1726 / 32768, abs=4 * error)

    def test_is_the_same_every_time_and_in_any_company(self) -> None:
        problems = [mean_problem(np.random.default_rng(seed).normal(size=50)) for seed in range(3)]
        assert exchange(problems) == [exchange([problem])[0] for problem in problems]

    def test_the_measured_arrangement_counts(self) -> None:
        (outcome,) = exchange([mean_problem(np.random.default_rng(3).normal(5, 0.1, 300))])
        assert outcome is not None
        assert outcome.p == 1 / (FLIPS + 1)

    def test_a_score_is_exchanged_as_a_whole(self) -> None:
        """Against every exchange of two cases' rows, one after the other."""
        random = np.random.default_rng(4)
        one, other = random.random((8, 2)), random.random((8, 2))
        problem = Problem(one, other, np.array([8.0, 8.0]), lambda means: mean_of_means("harmonic", means))
        measured = abs(mean_of_means("harmonic", one.mean(0)) - mean_of_means("harmonic", other.mean(0)))
        found = []
        for swapped in product((False, True), repeat=8):
            chosen = np.array(swapped)[:, None]
            first, second = np.where(chosen, other, one), np.where(chosen, one, other)
            found.append(abs(mean_of_means("harmonic", first.mean(0)) - mean_of_means("harmonic", second.mean(0))))
        assert exchange([problem]) == [
            Outcome(pytest.approx(np.mean(np.array(found) >= measured - 1e-9)), EXCHANGE, True, 8)
        ]

    def test_an_undefined_number_has_no_test(self) -> None:
        problem = Problem(
            np.full((3, 2), -1.0), np.ones((3, 2)), np.full(2, 3.0), lambda means: mean_of_means("harmonic", means)
        )
        assert exchange([problem, mean_problem(np.ones(3))])[0] is None


class TestHolm:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([], []),
            ([0.04], [0.04]),
            ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
            ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
            ([0.5, 0.9, 1.0], [1.0, 1.0, 1.0]),
            ([0.001, 0.001], [0.002, 0.002]),
        ],
    )
    def test_worked_examples(self, values: list[float], expected: list[float]) -> None:
        assert holm(values) == pytest.approx(expected)

    def test_is_never_below_the_plain_p_and_keeps_the_order(self) -> None:
        values = np.random.default_rng(5).random(50).tolist()
        adjusted = holm(values)
        assert all(after >= before for before, after in zip(values, adjusted, strict=True))
        assert [adjusted[i] for i in np.argsort(values)] == sorted(adjusted)
