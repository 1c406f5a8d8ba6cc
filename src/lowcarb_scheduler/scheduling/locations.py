"""Locations file of the server: location, power and duration of each node."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BeforeValidator

from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, unknown_name
from lowcarb_scheduler.forecasts.base import NAMES, read_locations
from lowcarb_scheduler.userfiles import Duration, FieldError, FileModel, validate
from lowcarb_scheduler.validation import coordinates_of, name_problem, power_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from lowcarb_scheduler.forecasts.base import ForecastSource

_LOOK_UP_TIMEOUT: Final = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class Place:
    """Entry of a node in the locations file."""

    location: str
    power_watts: float | None = None
    duration: timedelta | None = None


def _location(value: object) -> object:
    if not isinstance(value, str) or not value:
        raise FieldError("is not a location", 'write for example location = "DE"')
    if problem := name_problem(value):
        raise FieldError(f"{value!r} cannot be used, {problem}", 'write for example location = "DE"')
    return value


def _power(value: object) -> float:
    if (watts := power_of(value)) is None:
        raise FieldError(f"{value!r} is not from 0 to 1e6", "give watts")
    return watts


class _Entry(FileModel):
    """Content of an entry, its keys with underscores as in a job file."""

    in_minutes = ("duration",)

    location: Annotated[str, BeforeValidator(_location)]
    power_watts: Annotated[float | None, BeforeValidator(_power)] = None
    duration: Duration | None = None


def read_places(path: Path) -> dict[str, Place]:
    """Read a locations file.

    TOML, one entry a node by name or partition-id: ``0 = "DE"`` or
    ``hospital-a = { location = "DE", power-watts = 250, duration = "20m" }``. The names that sources use for
    a location are in the same file, see :func:`lowcarb_scheduler.forecasts.base.read_names`.

    Raises
    ------
    InputError
        If the file cannot be read, or an entry is of another form.
    """
    entries = read_locations(path)
    return {node: _place(node, entry, str(path)) for node, entry in entries.items() if node != NAMES}


def check_known(places: Mapping[str, Place], source: ForecastSource, file: str) -> None:
    """Refuse an entry of the locations file that the source says it does not know.

    Only a complete list says so. Without one, or without an answer, any name may be known: a fault of a
    source stops no training, but a typing error is found before the first round. ``default-location`` is not
    checked: nodes that all say where they are never need it.

    Raises
    ------
    InputError
        For the first unknown location.
    """
    wanted = {f"{node}": place.location for node, place in places.items()}
    named = {name for name in wanted.values() if name and not coordinates_of(name)}
    if not named:
        return
    try:
        known = source.complete_locations(timeout=_LOOK_UP_TIMEOUT)
    except ForecastUnavailableError:
        return
    if not known:
        return
    folded = set(map(str.casefold, known))  # servers ignore the case; of another list the source decides
    for node, location in wanted.items():
        if location in named and location.casefold() not in folded:
            raise unknown_name(node, location, known).within(file)


def _place(node: str, entry: Any, file: str) -> Place:
    fix = f'write {node} = "DE" or {node} = {{ location = "DE", power-watts = 250 }}'
    if isinstance(entry, str):
        entry = {"location": entry}
    if not isinstance(entry, dict) or not entry.get("location"):
        raise InputError(node, "has no location", fix, file)
    try:
        # The keys are written with hyphens, as settings are; underscores, as in a job file, are read too.
        read = validate(_Entry, {key.replace("-", "_"): value for key, value in entry.items()}, file)
        return Place(read.location, read.power_watts, read.duration)
    except InputError as error:
        field = f"{node}.{error.field.replace('_', '-')}"
        raise InputError(field, error.problem, error.fix, file) from None
