"""Carbon Intensity API of Great Britain's system operator NESO [1]_; it needs no key.

Particularities of its responses:

- Past the end of the published data it answers 200 with ``{}`` or an empty list, so a forecast may be shorter
  than the 48 hours requested.
- A forecast has no time of issue: it is dated to the half hour of the request.
- Regions have no metered actuals. The API keeps its own last estimate of their past.
- A region's response is an object, although the documentation prints a list; both are read.

References
----------
.. [1] National Energy System Operator, https://carbon-intensity.github.io/api-definitions, CC BY 4.0
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import MICROSECOND
from lowcarb_scheduler.errors import near_miss, one_line
from lowcarb_scheduler.forecasts.http import parsing
from lowcarb_scheduler.forecasts.http.client import FetchError, Request, Response
from lowcarb_scheduler.forecasts.sources.web import WebSource

if TYPE_CHECKING:
    from lowcarb_scheduler.forecasts.base import Names, Timeout
    from lowcarb_scheduler.forecasts.series import Issue, Point
    from lowcarb_scheduler.settings import Settings

URL: Final = "https://api.carbonintensity.org.uk"
REGIONS: Final = (  # in order of their numbers, from 1
    "North Scotland", "South Scotland", "North West England", "North East England", "Yorkshire",
    "North Wales & Merseyside", "South Wales", "West Midlands", "East Midlands", "East England",
    "South West England", "South England", "London", "South East England", "England", "Scotland", "Wales",
)  # fmt: skip
_NATIONAL: Final = ""  # path of the whole country: none
_NATIONAL_NAMES: Final = ("gb", "uk", "national")
_HALF_HOUR: Final = timedelta(minutes=30)
_HALF_HOUR_US: Final = _HALF_HOUR // MICROSECOND
_OUTCODE: Final = re.compile(r"[A-Z]{1,2}[0-9][A-Z0-9]?")
_NUMBERS: Final = {
    **{name.casefold(): number for number, name in enumerate(REGIONS, 1)},
    **{str(number): number for number in range(1, len(REGIONS) + 1)},
    "south yorkshire": 5,  # in the documentation two regions have other names than in the responses
    "north wales, merseyside and cheshire": 6,
}


class UkCarbonIntensity(WebSource):
    """Forecast source that reads the Carbon Intensity API: average intensity of Great Britain.

    A location is ``GB`` (also ``UK``, ``national``), a region by its number (1 to 17) or name (``London``),
    or the first half of a postcode (``RG41``), in upper or lower case. The parameters are ``url``,
    ``timeout``, ``transport`` and ``clock`` of :class:`WebSource`.

    Raises
    ------
    InputError
        If the URL is invalid.
    """

    name = "uk-carbon-intensity"
    signal = "average"
    issued_every = grid = _HALF_HOUR
    url_setting = "uk_carbon_intensity_url"
    default_url = URL
    listing_proves = "nothing"
    hints = {  # noqa: RUF012  (it is never changed)
        404: "is the URL the root of the Carbon Intensity API?",
        429: "the service limits requests; it publishes no rate",
    }

    @classmethod
    def from_settings(cls, settings: Settings) -> UkCarbonIntensity:
        """Open the source that settings describe."""
        return cls(settings.uk_carbon_intensity_url, timeout=settings.timeout)

    def known_locations(self, *, timeout: Timeout = None) -> dict[str, None]:
        """Return the names of the country and the regions; postcodes are too many to list."""
        return dict.fromkeys(("GB", *REGIONS))

    def _sendable(self, locations: Names) -> tuple[list[str], dict[str, str]]:
        names, missing = super()._sendable(locations)
        for name in names:
            if _path(name) is None:
                near = near_miss(name, REGIONS)
                hint = (
                    f"did you mean {near}?" if near else "give GB, a region, or the first half of a postcode"
                )
                missing[name] = f"is not a location in Great Britain; {hint}"
        return [name for name in names if name not in missing], missing

    def _forecast_request(self, name: str, now: datetime) -> Request:
        return _request(name, parsing.floored(now, _HALF_HOUR), "fw48h")

    def _parse_forecast(self, name: str, answer: Response, now: datetime) -> Issue:
        # The service does not tell the time of issue; the begin of the half hour is one for all locations.
        generated_at = parsing.floored(now, _HALF_HOUR)
        return parsing.issue_of(generated_at, _points(name, answer, "forecast"), now)

    def _past_request(self, name: str, begin: datetime, end: datetime) -> Request:
        return _request(name, begin, _written(end))

    def _parse_past(self, name: str, answer: Response) -> list[Point]:
        if _path(name) == _NATIONAL:
            return _points(name, answer, "actual")
        # A half hour of a region that is not over is a forecast, not an estimate of the past.
        over = self._clock.now() - _HALF_HOUR
        return [point for point in _points(name, answer, "forecast") if _began_by(over, point)]


def _path(name: str) -> str | None:
    """Return the part of the path that names a location; None if there is no such location."""
    plain = name.strip().casefold()
    if plain in _NATIONAL_NAMES:
        return _NATIONAL
    if plain in _NUMBERS:
        return f"/regionid/{_NUMBERS[plain]}"
    outcode = plain.upper()  # the service wants it in upper case
    return f"/postcode/{outcode}" if _OUTCODE.fullmatch(outcode) else None


def _request(name: str, begin: datetime, until: str) -> Request:
    """Return the request for the half hours between two times, or for the next 48 hours."""
    path = _path(name)
    folder = "intensity" if path == _NATIONAL else "regional/intensity"
    return Request(f"{folder}/{_written(begin)}/{until}{path}")


def _written(when: datetime) -> str:
    """Format a time as the API expects it."""
    return f"{when:%Y-%m-%dT%H:%MZ}"


def _points(name: str, answer: Response, kind: str) -> list[Point]:
    """Return the half hours of a response, forecast or actual."""
    path, document = _path(name) or _NATIONAL, answer.json()
    if not isinstance(document, dict) or (document and "data" not in document):
        raise FetchError("answered with JSON that has no data")
    data = document.get("data")
    if data and path != _NATIONAL:
        data = _of_region(path, data[0] if isinstance(data, list) else data)
    # Past the end of the published data the service answers {} or an empty list, with status 200.
    if not data:
        raise FetchError("the service has published nothing for that time")
    if not isinstance(data, list):
        raise FetchError("answered with JSON that is not a list of half hours")
    return [_point(half_hour, kind) for half_hour in data]


def _of_region(path: str, region: Any) -> object:
    """Return the data of the region or postcode that was requested."""
    if not isinstance(region, dict):
        raise FetchError("answered with JSON that is not about a region")
    key, asked = path.strip("/").split("/")
    # Only the field that was requested by: a postcode's response names its region, too.
    given = str(region.get(key, asked))
    if given.casefold() != asked.casefold():
        raise FetchError(f"asked for {key} {asked}, the service answered with {one_line(given, 40)}")
    return region.get("data")


def _point(half_hour: Any, kind: str) -> Point:
    """Return one half hour; an entry that is no object has neither time nor value."""
    if not isinstance(half_hour, dict):
        return None, None, None
    intensity = half_hour.get("intensity")
    return half_hour.get("from"), intensity.get(kind) if isinstance(intensity, dict) else None, _HALF_HOUR_US


def _began_by(when: datetime, point: Point) -> bool:
    """Return whether a point began by a time."""
    try:
        return parsing.time_of(point[0], "from") <= when
    except FetchError:
        return True  # the parser of points drops it, with a reason
