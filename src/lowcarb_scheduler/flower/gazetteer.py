"""Places as the forecast source knows them: is there one of a name, and which is nearest to coordinates."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.errors import LowcarbError, near_miss, one_line
from lowcarb_scheduler.flower.claims import coordinates_of, finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from lowcarb_scheduler.forecasts.source import ForecastSource

MOST_KM: Final = 500.0  # a location further away is probably of another grid
_EARTH_RADIUS_KM: Final = 6371.0
_MOST_LOOK_UPS: Final = 3  # of a source that does not answer
_LOOK_UP: Final = timedelta(seconds=10)  # the most that one takes, where a source lets that be limited


class Found(NamedTuple):
    """The place that a location means, or what is wrong with it."""

    place: str | None
    why: str = ""


class Gazetteer:
    """The places of a source.

    Its closed list of ``locations`` decides which names there are. What its server lists, as of
    ``known_locations()``, does so only if it tells of each where it is: some servers list only a part.

    Parameters
    ----------
    source : ForecastSource or None
        Whose places they are; without one any name is a place.
    """

    def __init__(self, source: ForecastSource | None) -> None:
        closed = getattr(source, "locations", None)
        self._is_closed = isinstance(closed, tuple)
        self._names = _by_folded_name(closed if isinstance(closed, tuple) else ())
        within = getattr(source, "within", None)
        limited = within(_LOOK_UP) if within else source
        self._list: Callable[[], Mapping[str, Any]] | None = getattr(limited, "known_locations", None)
        self._looked_up = 0
        self._fault = ""
        self._located: tuple[str, ...] = ()
        self._degrees = np.empty((0, 2))  # latitude and longitude of each of them

    @property
    def may_learn(self) -> bool:
        """Whether the source has not answered yet, and is worth another attempt."""
        return bool(self._fault) and self._looked_up < _MOST_LOOK_UPS

    def look_up(self, claimed: Collection[str], given: Collection[str], check_names: bool) -> None:
        """Ask the source where its places are, if these locations need it and it is not known.

        Parameters
        ----------
        claimed, given : collection of str
            Names, or ``latitude,longitude`` in degrees: of nodes, and of those who run the server.
        check_names : bool
            Whether it matters that a claimed name is one the source knows.
        """
        needed = any(coordinates_of(location) for location in (*claimed, *given))
        needed = needed or (check_names and bool(claimed) and not self._is_closed)
        if self._list is None or not needed or (self._looked_up and not self.may_learn):
            return
        self._looked_up += 1
        try:
            listed = {str(name): _degrees(where) for name, where in self._list().items()}
        except Exception as error:  # noqa: BLE001  a fault of a source, whoever wrote it, stops no training
            text = str(error) if isinstance(error, LowcarbError) else f"{type(error).__name__}: {error}"
            self._fault = one_line(text)
            return
        self._fault = ""
        located = {name: where for name, where in listed.items() if where is not None}
        self._located, self._degrees = tuple(located), np.array(list(located.values())).reshape(-1, 2)
        if not self._is_closed and located and len(located) == len(listed):
            self._names = _by_folded_name(listed)

    def find(self, location: str, check_name: bool) -> Found:
        """Return the place of that name, or the nearest one to these coordinates.

        Parameters
        ----------
        location : str
            A name, or ``latitude,longitude`` in degrees.
        check_name : bool
            Whether a name that the source does not know is no place.
        """
        if (coordinates := coordinates_of(location)) is not None:
            return self._nearest(*coordinates)
        if not (self._names and check_name):
            return Found(location)
        if (name := self._names.get(location.casefold())) is not None:
            return Found(name)
        near = near_miss(location, self._names.values())
        return Found(None, "is not known to the source" + (f" (did you mean {near}?)" if near else ""))

    def _nearest(self, latitude: float, longitude: float) -> Found:
        if not (abs(latitude) <= 90 and abs(longitude) <= 180):
            return Found(None, "is nowhere on earth")
        if not self._located:
            why = f" ({self._fault})" if self._fault else ""
            return Found(None, f"is of no use, the source does not say where its locations are{why}")
        away_km = _great_circle_km(self._degrees, latitude, longitude)
        nearest = int(np.argmin(away_km))
        name, km = self._located[nearest], float(away_km[nearest])
        if km > MOST_KM:
            return Found(None, f"is {km:,.0f} km from {name}, the nearest location of the source")
        return Found(name)


def _by_folded_name(names: Iterable[str]) -> dict[str, str]:
    return {name.casefold(): name for name in names}


def _degrees(where: Any) -> tuple[float, float] | None:
    """Return latitude and longitude as a source tells them, None where it does not."""
    if not isinstance(where, tuple | list) or len(where) != 2:
        return None
    latitude, longitude = map(finite_number, where)
    return None if latitude is None or longitude is None else (latitude, longitude)


def _great_circle_km(degrees: np.ndarray[Any, Any], latitude: float, longitude: float) -> Any:
    """Return the distances from places to a point by the haversine formula, shape (L,) [km]."""
    there, here = np.radians(degrees), np.radians((latitude, longitude))
    half = np.sin((there - here) / 2) ** 2
    chord = half[:, 0] + np.cos(there[:, 0]) * np.cos(here[0]) * half[:, 1]
    return 2 * _EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0)))
