"""What is believed of a claim: nothing a node says is trusted.

Each function returns the claim as a value that can be, or None.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Final

MOST_POWER_WATTS: Final = 1e6
_LEAST_DURATION: Final = timedelta(seconds=1)
_MOST_DURATION: Final = timedelta(days=7)
_LONGEST_NAME: Final = 100
_COORDINATES: Final = re.compile(r"\s*(-?\d{1,3}(?:\.\d{1,20})?)\s*,\s*(-?\d{1,3}(?:\.\d{1,20})?)\s*")


def finite_number(claim: object) -> float | None:
    """Return a claim as a number; None if it is none, or not finite."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not math.isfinite(claim):
        return None
    return float(claim)


def name_of(claim: object) -> str | None:
    """Return a name that is short, printable and free of markup."""
    if not isinstance(claim, str) or not 0 < len(claim) <= _LONGEST_NAME:
        return None
    return claim if claim.isprintable() and not set(claim) & set("<>[]") and claim[0] not in "=+@" else None


def power_of(claim: object) -> float | None:
    """Return a power from 0 to 1 MW [W]."""
    watts = finite_number(claim)
    return watts if watts is not None and 0 <= watts <= MOST_POWER_WATTS else None


def duration_of(claim: object) -> timedelta | None:
    """Return a duration from a second to a week, from a number of minutes."""
    minutes = finite_number(claim)
    if minutes is None or abs(minutes) > _MOST_DURATION.total_seconds() / 60:
        return None
    duration = timedelta(minutes=minutes)
    return duration if duration >= _LEAST_DURATION else None


def coordinates_of(name: str) -> tuple[float, float] | None:
    """Return latitude and longitude [degrees] from what is written as ``52.52,13.40``; None for a name."""
    match = _COORDINATES.fullmatch(name)
    return (float(match[1]), float(match[2])) if match else None
