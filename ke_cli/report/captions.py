"""What a caption says: on which cases the numbers stand, and how intervals, marks and tests were made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ke_cli.report.aggregate import Comparison
from ke_cli.report.clusters import FEW
from ke_cli.report.rows import UNEDITED, Row
from ke_cli.report.significance import ALPHA, EXCHANGE, FLIPS, MCNEMAR, SIGN_FLIP, Outcome, holm
from ke_cli.report.statistics import LEVEL, RESAMPLES, Sample
from ke_cli.results.record import ColumnRecord

MARK = "\N{DAGGER}"
"""Stands behind numbers that differ significantly."""


def caption(
    parts: Mapping[str, Comparison],
    columns: Iterable[ColumnRecord] = (),
    *,
    all_cases: bool = False,
    against: str = "",
    plain: bool = False,
    intervals: bool = True,
) -> str:
    """Return the sentences that say on how many cases the numbers stand and how intervals and tests were made.

    Args:
        parts: What the table was measured in, by name: mostly a single comparison, the name of which is not used.
        columns: Those that are shown.
        all_cases: Whether each row stands on all its own cases.
        against: The row that others are compared with, if any.
        plain: Whether the numbers themselves are shown and not differences to it.
        intervals: Whether these are shown.
    """
    shown, comparisons = list(columns), list(parts.values())
    resampled = ", ".join(dict.fromkeys(map(_resampled, comparisons)))
    sentences = [_on_cases(parts, all_cases), *_seeds(comparisons)]
    if intervals:
        sentences.append(f"In brackets: {LEVEL:.0%} intervals from {RESAMPLES:,} bootstrap resamples of {resampled}.")
        sentences += _few_cases(comparisons)
        sentences += _certain(comparisons, shown)
    sentences += _deviations(comparisons, shown)
    if against and not plain:
        sentences.append(f"Numbers with a sign are paired differences to {against}.")
    return " ".join([*sentences, *_tests(comparisons, shown, against)])


def _tests(comparisons: Sequence[Comparison], columns: Sequence[ColumnRecord], against: str) -> Iterator[str]:
    """Yield what the mark means, where anything was tested."""
    tested = [
        (pairing.outcomes[column.name], comparison)
        for comparison in comparisons
        for column in columns
        for pairing in comparison.pairings
        if column.name in pairing.outcomes
    ]
    if tested:
        is_any = any(p < ALPHA for p in holm([outcome.p for outcome, _ in tested]))
        what = f"{MARK} differs from {against}:" if is_any else f"No number differs from {against} at"
        many = f"Holm's correction over the {len(tested)} tests of this table" if len(tested) > 1 else "one test"
        yield f"{what} p < {ALPHA:g} after {many} ({'; '.join(_kinds(tested))})."


def _kinds(tested: Sequence[tuple[Outcome, Comparison]]) -> Iterator[str]:
    """Yield a few words for each kind of test that was made."""
    found: dict[str, set[bool]] = {}
    for outcome, comparison in tested:
        found.setdefault(_words(outcome.test, comparison), set()).add(outcome.exact)
    for words, made in found.items():
        how = " or ".join([*["exact"] * (True in made), *[f"{FLIPS:,} random ones"] * (False in made)])
        yield f"{words}, {how}"


def _words(test: str, comparison: Comparison) -> str:
    names = {"subject": "whole subjects", "relation": "whole relations", "unit": "cases edited together"}
    alone = comparison.grouping.are_cases
    units = "single cases" if alone else names[comparison.grouping.by]
    return {
        MCNEMAR: "McNemar's",
        SIGN_FLIP: f"sign flips of the differences{'' if alone else f' of {units}'}",
        EXCHANGE: f"exchange of the two rows in {units}",
    }[test]


def _on_cases(parts: Mapping[str, Comparison], all_cases: bool) -> str:
    (first, *others) = parts.values()
    several = any(len(comparison.rows) > 1 for comparison in parts.values())
    if all_cases and several:
        return "Each row on all its own finished cases, which need not be the same."
    if others:
        counts = ", ".join(f"{name} ({max(part.used):,} of {part.total:,})" for name, part in parts.items())
        return f"On the cases common to all rows of a part: {counts}."
    if several:
        rows = "both rows" if len(first.rows) == 2 else f"all {len(first.rows)} rows"
        return f"On the {max(first.used):,} cases common to {rows}, of {first.total:,}."
    return f"On {max(first.used):,} of {first.total:,} cases."


def _resampled(comparison: Comparison) -> str:
    return "the cases" if comparison.grouping.are_cases else comparison.grouping.text


def _few_cases(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield that intervals from few single cases are too narrow; `grouping_notes` says it of few groups."""
    counts = [part.grouping.count for part in comparisons if part.grouping.are_cases and any(part.used)]
    if counts and min(counts) < FEW:
        yield f"Those from only {min(counts)} case{'s' * (min(counts) > 1)} are rather too narrow."


def _certain(comparisons: Sequence[Comparison], columns: Sequence[ColumnRecord]) -> Iterator[str]:
    """Yield what an interval without width leaves open: of shares, the exact bound by Clopper and Pearson."""
    unseen = [
        _bound(sample[column.name].spread)
        for comparison in comparisons
        for row, sample in zip(comparison.rows, comparison.samples, strict=True)
        for column in columns
        if row.method != UNEDITED and column.scale == 100 and column.name in sample and _agrees(sample[column.name])
    ]
    if unseen:
        yield (
            f"Where all cases agree (0 or 100), an interval has no width, and yet up to {max(unseen):.2g}% of all "
            f"cases may be otherwise (exact {LEVEL:.0%} bound)."
        )


def _agrees(sample: Sample) -> bool:
    return sample.spread > 1 and sample.point in (0, 1) and bool((sample.draws == sample.point).all())


def _bound(n: int) -> float:
    return float(100 * (1 - ((1 - LEVEL) / 2) ** (1 / n)))


def _seeds(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yield how many seeds the rows stand for, where any has more than one."""
    rows = [row for comparison in comparisons for row in comparison.rows]
    pooled = [row for row in rows if row.are_seeds]
    counts = sorted({len(row.runs) for row in pooled}, reverse=True)
    if len(counts) == 1:
        which = "Each row is a" if len(pooled) == len(rows) else f"{_labels(pooled)}:"
        yield f"{which} mean over {counts[0]} seeds."
    elif counts:
        named = (f"{count} ({_labels([row for row in pooled if len(row.runs) == count])})" for count in counts)
        yield f"Means over seeds: {', '.join(named)}."


def _labels(rows: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(row.label for row in rows))


def _deviations(comparisons: Sequence[Comparison], columns: Sequence[ColumnRecord]) -> Iterator[str]:
    """Yield what stands behind ``±``, where a row has several runs."""
    samples = [sample for comparison in comparisons for sample in comparison.samples]
    runs = [sample[column.name].runs for sample in samples for column in columns if column.name in sample]
    if any(np.isfinite(found).sum() > 1 for found in runs):
        rows = [row for comparison in comparisons for row in comparison.rows if len(row.runs) > 1]
        what = "seeds" if all(row.are_seeds for row in rows) else "runs"
        yield f"±: standard deviation over the {what} of a row, which the intervals over cases do not contain."


def grouping_notes(comparison: Comparison) -> Iterator[str]:
    """Yield what is unusual about the groups of cases that were resampled."""
    grouping = comparison.grouping
    if grouping.note:
        yield grouping.note
    if not grouping.are_cases and grouping.count < FEW:
        yield f"With only {grouping.text} the intervals are rather too narrow."
