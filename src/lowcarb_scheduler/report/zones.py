"""Names of grid zones, for readers who do not know the codes."""

from __future__ import annotations

import csv
from functools import cache
from importlib import resources


@cache
def _names() -> dict[str, str]:
    """Return the names of zones by code, as Electricity Maps spells the codes."""
    text = resources.files("lowcarb_scheduler.report").joinpath("zones.csv").read_text("utf-8")
    return dict(csv.reader(text.splitlines()))


def zone_name(location: str) -> str | None:
    """Return the name of a zone, for example ``Germany``; None for a location that is no known code."""
    return _names().get(location)


def with_name(location: str) -> str:
    """Write a location with the name of its zone, for example ``DE (Germany)``."""
    name = zone_name(location)
    return f"{location} ({name})" if name else location
