"""The contract of a metric: what it asks before and after an edit, and the columns it fills."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from ke_cli.data.types import Case
from ke_cli.engine.queries import Answers, Query

Direction = Literal["up", "down"]
Values = Mapping[str, float | None]
"""Column name to value in [0, 1] (or the column's own scale); None where the case has no such prompts."""


@dataclass(frozen=True, slots=True)
class Column:
    """One number per case.

    Args:
        name: Key in the results, for example ``efficacy``.
        title: Heading in tables.
        direction: Whether up or down is better.
        scale: Factor applied when shown (100 for shares).
        main: Whether tables show it unasked.
    """

    name: str
    title: str
    direction: Direction = "up"
    scale: float = 100.0
    main: bool = True


@dataclass(frozen=True, slots=True)
class Derived:
    """A column computed from the *means* of others over all cases (or, for ``all_in_unit``, per subject of a unit).

    Args:
        name: Key in tables.
        title: Heading in tables.
        kind: ``harmonic`` or ``arithmetic`` mean of the columns ``of``; ``all_in_unit`` is the share of the
            subjects of each unit of which every case has the full value 1 in the (single) column ``of``.
        of: Names of the source columns; those not measured in a run are left out of a mean.
        direction: Whether up or down is better.
        scale: Factor applied when shown.
        main: Whether tables show it unasked.
    """

    name: str
    title: str
    kind: Literal["harmonic", "arithmetic", "all_in_unit"]
    of: tuple[str, ...]
    direction: Direction = "up"
    scale: float = 100.0
    main: bool = True


class Metric(Protocol):
    """From raw answers to named numbers. One file per family in this folder, one YAML in ``conf/metrics``.

    Whoever derives from this class asks the unedited model nothing, and has no derived columns, unless told otherwise.
    """

    @property
    def name(self) -> str:
        """Key in the configuration and the results."""
        ...

    @property
    def version(self) -> int:
        """Rises whenever a number could change; part of a run's identity."""
        ...

    @property
    @abstractmethod
    def columns(self) -> Sequence[Column]:
        """The columns that `measure` fills for every case."""

    @property
    def derived(self) -> Sequence[Derived]:
        """Columns computed from the means of others."""
        return ()

    def before(self, case: Case) -> Sequence[Query]:
        """What to ask the unedited model."""
        return ()

    @abstractmethod
    def after(self, case: Case, before: Answers) -> Sequence[Query]:
        """What to ask the edited model, given the answers of the unedited one."""

    @abstractmethod
    def measure(self, case: Case, before: Answers, after: Answers) -> Values:
        """Turn the answers into one value per column."""
