"""What the pluggable parts of a run promise; third parties implement these without importing them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from ke_cli.data.types import Dataset

REQUIRED: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "method": ("edit",),
        "dataset": ("load",),
        "metrics": ("version", "columns", "derived", "before", "after", "measure"),
        "protocol": ("units", "independent"),
    }
)
"""The attributes without which a target cannot be what its configuration group says."""


class DatasetLoader(Protocol):
    """Reads the cases of one data set."""

    def load(self) -> Dataset:
        """Return the validated cases in a fixed order."""
        ...
