"""Settings that mean nothing are refused in one wording, which names the field: ``field: expected ..., got ...``."""

from __future__ import annotations


def check_at_least(settings: object, least: float, *names: str) -> None:
    """Raise ValueError if one of the named fields is below ``least``; null is no number and passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")


def check_above_zero(settings: object, *names: str) -> None:
    """Raise ValueError if one of the named fields is not above zero; null is no number and passes."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")
