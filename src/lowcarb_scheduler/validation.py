"""Validation of the values that nodes and servers report, none of which is trusted.

Each ``..._of`` returns a valid value, or None for an invalid one: a node with a wrong report stays in.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

MOST_POWER_WATTS: Final = 1e6
_LEAST_DURATION: Final = timedelta(seconds=1)
_MOST_DURATION: Final = timedelta(days=7)
_LARGEST: Final = 1e15  # no quantity is near it, and JSON has integers that overflow a float
_LONGEST_NAME: Final = 100
_LONGEST_PATH: Final = 4_000  # characters; Linux takes 4,095 bytes
MAX_NAME: Final = 200  # characters of a location that are sent to a server
_MARKUP: Final = frozenset("<>[]")  # of HTML and of the terminal
_FORMULA: Final = frozenset("=+@")  # a spreadsheet would run a name that begins like that
_COORDINATES: Final = re.compile(r"\s*(-?\d{1,3}(?:\.\d{1,20})?)\s*,\s*(-?\d{1,3}(?:\.\d{1,20})?)\s*")


def finite_number(claim: object) -> float | None:
    """Return a number as a float."""
    # bool is a subclass of int: True would pass as 1. The comparison is false for NaN, too.
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not abs(claim) < _LARGEST:
        return None
    return float(claim)


def name_of(claim: object) -> str | None:
    """Return a name that is short, printable, and safe in reports and spreadsheets."""
    if not isinstance(claim, str) or not 0 < len(claim) <= _LONGEST_NAME:
        return None
    safe = claim.isprintable() and not _MARKUP & set(claim) and claim[0] not in _FORMULA
    return claim if safe else None


def name_problem(name: str) -> str | None:
    """Return why a name can be neither sent nor shown; None if it can."""
    if not name.strip():
        return "its name is empty"
    if len(name) > MAX_NAME:
        return f"its name has {len(name)} characters, more than {MAX_NAME}"
    if not name.isprintable():  # control characters, direction marks and halves of a pair are not
        return "its name has characters that cannot be printed"
    return None


def path_problem(path: Path) -> str | None:
    """Return why no file system takes a path; None if one may."""
    if "\0" in str(path):
        return "a path has no NUL"
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return "a path has no half of a surrogate pair"
    if len(str(path)) > _LONGEST_PATH:
        return f"it has {len(str(path)):,} characters, more than {_LONGEST_PATH:,}"
    return None


def power_of(claim: object) -> float | None:
    """Return a power from 0 to 1 MW [W]."""
    watts = finite_number(claim)
    return watts if watts is not None and 0 <= watts <= MOST_POWER_WATTS else None


def duration_of(claim: object) -> timedelta | None:
    """Return a duration from a second to a week, given in minutes."""
    minutes = finite_number(claim)
    if minutes is None or abs(minutes) > _MOST_DURATION.total_seconds() / 60:
        return None
    # Compared as a number before: timedelta raises OverflowError for a large one.
    duration = timedelta(minutes=minutes)
    return duration if duration >= _LEAST_DURATION else None


def coordinates_of(name: str) -> tuple[float, float] | None:
    """Return latitude and longitude [degrees] of a location written as ``52.52,13.40``."""
    match = _COORDINATES.fullmatch(name)
    return (float(match[1]), float(match[2])) if match else None
