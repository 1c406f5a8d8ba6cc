"""Where locations lie from east to west, so that what the sun does is seen in a picture.

``longitudes.csv`` holds grid zones as Electricity Maps names them, Azure regions as the Carbon Aware SDK
does, and countries, each by where most of its people live. It orders rows; nothing is computed from it.
"""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from lowcarb_scheduler.flower.claims import coordinates_of

if TYPE_CHECKING:
    from collections.abc import Mapping


def longitude(location: str) -> float | None:
    """Return how far east a location lies [degrees], None where that is not known.

    Parameters
    ----------
    location : str
        A name, or ``latitude,longitude`` in degrees. Of a name that is not known, what stands before its last
        hyphen or underscore is tried: ``US-CAL-LDWP`` lies in ``US``.
    """
    if (coordinates := coordinates_of(location)) is not None:
        return coordinates[1] if abs(coordinates[1]) <= 180 else None
    known, name = _table(), location.casefold()
    while name not in known:
        shorter = re.sub(r"[-_][^-_]*$", "", name)
        if shorter == name:
            return None
        name = shorter
    return known[name]


@cache
def _table() -> Mapping[str, float]:
    text = resources.files("lowcarb_scheduler.report").joinpath("longitudes.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["location"].casefold(): float(row["degrees_east"]) for row in rows}
