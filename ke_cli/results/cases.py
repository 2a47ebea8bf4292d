"""The finished cases of a run as columns: what tables need of thousands of cases, in the space of those numbers."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from sys import intern
from typing import Self

import numpy as np
import numpy.typing as npt

from ke_cli.results.journal import CaseLine

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class CaseTable:
    """Finished cases, kept by column; a single one can be looked at as the line it was.

    Equal texts of all tables are one object, because runs that are compared are about the same cases.
    Shapes: ``n`` cases, ``m`` columns.

    Args:
        ids: The ``case_id`` of each case, no two alike.
        units: The unit of each case.
        prompts: The hash of the prompts of each case.
        sizes: ``[n]``: how many cases its unit has.
        names: The columns.
        values: ``[n, m]``, NaN where a case has no value.
        subjects: What each case is about, empty text where it does not tell; without any, the same as all empty.
        relations: The relation of each case, in the same way.
    """

    ids: tuple[str, ...]
    units: tuple[str, ...]
    prompts: tuple[str, ...]
    sizes: IntArray
    names: tuple[str, ...]
    values: FloatArray
    subjects: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()

    @classmethod
    def gather(cls, lines: Sequence[CaseLine], wanted: Container[str]) -> Self:
        """Keep the ``wanted`` columns of cases whose values are finite or None."""
        layouts = dict.fromkeys(tuple(line.metrics) for line in lines)  # most often a single one
        names = tuple(dict.fromkeys(name for layout in layouts for name in layout if name in wanted))
        values = [[line.metrics.get(name) for name in names] for line in lines]
        return cls(
            ids=tuple(line.case_id for line in lines),
            units=tuple(line.unit for line in lines),
            prompts=tuple(line.prompts_sha256 for line in lines),
            sizes=np.array([line.unit_size for line in lines], dtype=np.intp),
            names=names,
            values=np.array(values, dtype=np.float64).reshape(len(lines), len(names)),
            subjects=tuple(line.subject for line in lines),
            relations=tuple(line.relation for line in lines),
        )

    def __post_init__(self) -> None:
        """Share the texts with all other tables."""
        for field in ("subjects", "relations"):
            object.__setattr__(self, field, getattr(self, field) or ("",) * len(self.ids))
        for field in ("ids", "units", "prompts", "subjects", "relations"):
            object.__setattr__(self, field, tuple(map(intern, getattr(self, field))))

    def __reduce__(self) -> tuple[type[Self], tuple[object, ...]]:
        """Have a table that comes from another process made anew, so that its texts are shared here too."""
        plain = (self.ids, self.units, self.prompts, self.sizes, self.names, self.values)
        return type(self), (*plain, self.subjects, self.relations)

    def column(self, name: str) -> FloatArray:
        """Return the values of a column, ``[n]``; all NaN where no case has it."""
        return self.values[:, self.names.index(name)] if name in self.names else np.full(len(self), np.nan)

    def __len__(self) -> int:
        """Return the number of cases."""
        return len(self.ids)

    def __iter__(self) -> Iterator[CaseLine]:
        """Yield every case as `__getitem__` returns it."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, place: int) -> CaseLine:
        """Return a case as it was read, with the columns of the table."""
        values = (None if math.isnan(value) else value for value in self.values[place].tolist())
        return CaseLine(
            case_id=self.ids[place],
            unit=self.units[place],
            unit_size=int(self.sizes[place]),
            ok=True,
            error="",
            prompts_sha256=self.prompts[place],
            metrics=dict(zip(self.names, values, strict=True)),
            subject=self.subjects[place],
            relation=self.relations[place],
        )
