"""Locations file of the server: location, power and duration of each node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.base import NAMES, read_locations
from lowcarb_scheduler.validation import duration_of, power_of

if TYPE_CHECKING:
    from datetime import timedelta
    from pathlib import Path


_PLACE_KEYS: Final = ("location", "power-watts", "duration-minutes")


@dataclass(frozen=True, slots=True)
class Place:
    """Entry of a node in the locations file."""

    location: str
    power_watts: float | None = None
    duration: timedelta | None = None


def read_places(path: Path) -> dict[str, Place]:
    """Read a locations file.

    TOML, one entry a node by name or partition-id: ``0 = "DE"`` or
    ``hospital-a = { location = "DE", power-watts = 250, duration-minutes = 20 }``. The names that sources
    use for a location are in the same file, see :func:`lowcarb_scheduler.forecasts.base.read_names`.

    Raises
    ------
    InputError
        If the file cannot be read, or an entry is of another form.
    """
    entries = read_locations(path)
    return {node: _place(node, entry, str(path)) for node, entry in entries.items() if node != NAMES}


def _place(node: str, entry: Any, file: str) -> Place:
    if isinstance(entry, str):
        entry = {"location": entry}
    fix = f'write {node} = "DE" or {node} = {{ location = "DE", power-watts = 250 }}'
    if not isinstance(entry, dict):
        raise InputError(node, "is not a location", fix, file)
    # Keys with an underscore, as in a job file, are accepted.
    entry = {key.replace("_", "-"): value for key, value in entry.items()}
    if unknown := sorted(set(entry) - set(_PLACE_KEYS)):
        raise InputError(f"{node}.{unknown[0]}", "is no key of a location", fix, file)
    location, watts = entry.get("location"), entry.get("power-watts")
    if not isinstance(location, str) or not location:
        raise InputError(node, "has no location", fix, file)
    if watts is not None and power_of(watts) is None:
        raise InputError(f"{node}.power-watts", f"{watts!r} is not from 0 to 1e6", "give watts", file)
    minutes = entry.get("duration-minutes")
    if minutes is not None and duration_of(minutes) is None:
        problem = f"{minutes!r} is not from a second to a week"
        raise InputError(f"{node}.duration-minutes", problem, "give minutes", file)
    return Place(location, power_of(watts), duration_of(minutes))
