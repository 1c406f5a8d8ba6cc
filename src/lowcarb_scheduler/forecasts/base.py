"""Interface of forecast sources, and the checks that all of them share."""

from __future__ import annotations

import tomllib
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

from lowcarb_scheduler.clock import format_duration, format_time, to_utc
from lowcarb_scheduler.errors import InputError, unknown_name
from lowcarb_scheduler.intensity import IntensityTable, Provenance, Signal
from lowcarb_scheduler.userfiles import check_regular
from lowcarb_scheduler.validation import name_problem

if TYPE_CHECKING:
    from pathlib import Path

    from lowcarb_scheduler.forecasts.http.client import ServerStats

Names = Sequence[str]  # of locations, as the source calls them
Timeout = timedelta | None  # longest duration of a call; None leaves it to the source

MAX_AGE: Final = timedelta(hours=36)  # an older forecast is no better than history
MAX_AHEAD: Final = timedelta(minutes=10)  # a forecast issued later than this from now shows a wrong clock


@dataclass(frozen=True, slots=True)
class Forecast:
    """Forecast of carbon intensity.

    Parameters
    ----------
    intensity : IntensityTable
        One column for each location that has data, in the order of the request [gCO2eq/kWh].
    generated_at : datetime
        Time at which the provider issued it; the oldest one where locations differ. Aware, UTC.
    missing : mapping of str to str
        Reason of each location without data, in one plain line.
    issued : mapping of str to datetime
        Time of issue of each location where it is not ``generated_at``.
    last_good : mapping of str to str
        Reason why there is no fresh forecast, of each location whose last good one stands in.
    """

    intensity: IntensityTable
    generated_at: datetime
    missing: Mapping[str, str] = field(default_factory=dict)
    issued: Mapping[str, datetime] = field(default_factory=dict)
    last_good: Mapping[str, str] = field(default_factory=dict)

    def issued_at(self, location: str) -> datetime:
        """Return the time of issue of a location's forecast."""
        return self.issued.get(location, self.generated_at)


class Fault(NamedTuple):
    """Failure of one part of a call that returned something nevertheless."""

    what: str
    why: str


class ForecastSource(ABC):
    """Base class of forecast sources.

    A source of your own implements :meth:`forecast` and :meth:`actual`; everything else has a default.

    Attributes
    ----------
    name : str (default: name of the class)
        Name in settings, messages and the ledger.
    signal : {"average", "marginal", "unknown"} or None (default: None)
        Signal of all values; None where only an answer shows it.
    locations : tuple of str or None (default: None)
        Complete list of locations: a run requests no others. None where any name may be known.
    issued_every : timedelta or None (default: None)
        Interval at which the provider issues forecasts. A source that has one is archived: a forecast
        younger than the interval is served from disk. None for files and other sources without a server.
    is_certain : bool (default: False)
        Whether the forecast is what will have happened, as in a file that is replayed: nothing is gained by
        waiting for a better one.
    server : str (default: "")
        Address of the server.
    stats : ServerStats or None (default: None)
        Observed statuses and clock of the server; None without a server.
    faults : sequence of Fault (default: empty)
        Recent failures of calls that returned something nevertheless.
    url_setting : str (default: "")
        Field of the settings that holds the address of the server.
    secret_settings : tuple of str (default: empty)
        Fields of the settings that hold credentials.
    listing_proves : {"nothing", "server", "credentials"} (default: "credentials")
        Conclusion from a successful :meth:`known_locations`: none where the list is built in; that the server
        answers where the list is public; that it accepts the credentials where it is not.
    """

    name: str = ""
    signal: Signal | None = None
    locations: tuple[str, ...] | None = None
    issued_every: timedelta | None = None
    is_certain: bool = False
    server: str = ""
    stats: ServerStats | None = None
    faults: Sequence[Fault] = ()
    url_setting: str = ""
    secret_settings: tuple[str, ...] = ()
    listing_proves: Literal["nothing", "server", "credentials"] = "credentials"

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.name or cls.__name__

    @abstractmethod
    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return the newest forecast that is known at ``now``.

        Parameters
        ----------
        locations : sequence of str
            Names as this source calls them.
        now : datetime
            The present. Aware. Nothing issued later is used.
        timeout : timedelta, optional
            Longest duration of the call. A run gives the time until a round could open.

        Returns
        -------
        Forecast
            With at least one location; the others are explained in ``missing``.

        Raises
        ------
        ForecastUnavailableError
            If not one location has data.
        """

    @abstractmethod
    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return the recorded intensity in [start, end).

        Parameters
        ----------
        locations : sequence of str
            Names as this source calls them.
        start, end : datetime
            Bounds of the period. Aware.
        timeout : timedelta, optional
            Longest duration of the call.

        Returns
        -------
        IntensityTable
            A column for each location that has data; a location without any is left out.

        Raises
        ------
        ForecastUnavailableError
            If not one location has data.
        """

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return forecasts issued in [start, end), oldest first, at most one per ``every``; default: none.

        Raises
        ------
        ForecastUnavailableError
            If the source keeps past forecasts and none could be read.
        """
        return []

    def known_locations(self, *, timeout: Timeout = None) -> Mapping[str, Any] | None:
        """Return the names that the source lists, with (latitude, longitude) or None for each [degrees].

        Returns
        -------
        mapping or None
            None, the default, where the source lists no names.

        Raises
        ------
        ForecastUnavailableError
            If the server does not answer.
        """
        return None

    def complete_locations(self, *, timeout: Timeout = None) -> tuple[str, ...] | None:
        """Return all names that the source knows; None, where it may know others.

        The list of a server counts as complete if each of its entries has coordinates: some servers list a
        part of their locations.

        Raises
        ------
        ForecastUnavailableError
            If the server does not answer.
        """
        if self.locations is not None:
            return self.locations
        listed = self.known_locations(timeout=timeout)
        return tuple(listed) if listed and None not in listed.values() else None

    def health(self, *, timeout: Timeout = None) -> str | None:
        """Return the server's own report of its state; None, the default, where it gives none.

        Raises
        ------
        ForecastUnavailableError
            If the server does not answer.
        """
        return None

    @property
    def provenance(self) -> Provenance:
        """Provenance of the tables of the source."""
        return Provenance(self.name, self.signal or "unknown")

    @property
    def keeps_past_forecasts(self) -> bool:
        """Whether the source implements :meth:`past_forecasts`."""
        return type(self).past_forecasts is not ForecastSource.past_forecasts


class _Adapted:
    """Attribute of an adapted source, looked up at each use; methods are given the argument ``timeout``."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, adapted: _AdaptedSource | None, owner: type) -> Any:
        if adapted is None:
            return self
        try:
            value = getattr(adapted.source, self._name)
        except AttributeError:
            value = getattr(super(_AdaptedSource, adapted), self._name)
        return _with_timeout(value) if callable(value) else value


class _AdaptedSource(ForecastSource):
    """Forecast source that wraps an object without the base class, or with methods that take no timeout."""

    signal: Any = _Adapted()
    locations: Any = _Adapted()
    issued_every: Any = _Adapted()
    is_certain: Any = _Adapted()
    server: Any = _Adapted()
    stats: Any = _Adapted()
    faults: Any = _Adapted()
    forecast: Any = _Adapted()
    actual: Any = _Adapted()
    past_forecasts: Any = _Adapted()
    known_locations: Any = _Adapted()
    health: Any = _Adapted()

    def __init__(self, source: object) -> None:
        self.source = source

    @property
    def name(self) -> Any:  # type: ignore[override]  # the source's own, so never set
        """Name of the source, by default that of its class."""
        return getattr(self.source, "name", type(self.source).__name__)

    @property
    def keeps_past_forecasts(self) -> bool:
        """Whether the source implements ``past_forecasts``."""
        return hasattr(self.source, "past_forecasts")


def _with_timeout(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that ignores the argument ``timeout`` if the given one does not take it."""
    return method if _takes_timeout(method) else lambda *arguments, timeout=None: method(*arguments)


def adapt(source: object) -> ForecastSource:
    """Return a source given in code as a :class:`ForecastSource`.

    An object without the base class needs the methods ``forecast`` and ``actual`` only.

    Raises
    ------
    InputError
        If the object lacks one of the two methods.
    """
    try:
        methods = [getattr(source, name, None) for name in ("forecast", "actual")]
    except Exception:  # noqa: BLE001  a property of a user's own may raise anything
        methods = [None]
    if isinstance(source, type) or not all(map(callable, methods)):
        problem = f"{type(source).__name__} is not an object with the methods forecast and actual"
        raise InputError("source", problem, "derive its class from lowcarb_scheduler.ForecastSource")
    if isinstance(source, ForecastSource) and all(_takes_timeout(method) for method in methods if method):
        return source
    return _AdaptedSource(source)


def _takes_timeout(method: Callable[..., Any]) -> bool:
    try:
        parameters = signature(method).parameters.values()
    except (TypeError, ValueError):  # a built-in function tells no parameters
        return False
    return any(each.name == "timeout" or each.kind is each.VAR_KEYWORD for each in parameters)


def distinct(locations: Sequence[str]) -> tuple[str, ...]:
    """Return the requested locations, each once, in their order.

    Raises
    ------
    InputError
        If there are none, or one is not a string.
    """
    if isinstance(locations, str) or not all(isinstance(name, str) for name in locations):
        raise InputError("location", f"{locations!r} is not a list of names", "give for example ['DE', 'FR']")
    if not locations:
        raise InputError("location", "no location was asked for", "name at least one")
    return tuple(dict.fromkeys(locations))


def sendable(locations: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the names that may be sent to a server, and the reason of each other one.

    Raises
    ------
    InputError
        If there are no names, or one is not a string.
    """
    problems = {name: name_problem(name) for name in distinct(locations)}
    return [name for name, why in problems.items() if not why], {n: why for n, why in problems.items() if why}


def period(start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return the bounds of a period in UTC.

    Raises
    ------
    InputError
        If a bound has no UTC offset, or the period is empty.
    """
    first, last = to_utc(start, "start"), to_utc(end, "end")
    if first >= last:
        raise InputError("end", f"{format_time(last)} is not after the start", "give a later end")
    return first, last


def age_problem(generated_at: datetime, now: datetime, max_age: timedelta = MAX_AGE) -> str | None:
    """Return why the age of a forecast is not plausible, None if it is."""
    if generated_at - now > MAX_AHEAD:
        ahead = format_duration(generated_at - now)
        return f"its forecast is dated {ahead} ahead, {format_time(generated_at)}: one of the clocks is wrong"
    if now - generated_at > max_age:
        age = format_duration(now - generated_at)
        return f"its newest forecast is {age} old, more than {format_duration(max_age)}"
    return None


# -- Locations file ---

NAMES: Final = "names"  # table of names; no node can have this name
_FIX: Final = 'write [names.DE] and below it lines like carbon-aware-sdk = "germanywestcentral"'


def read_locations(path: Path) -> dict[str, Any]:
    """Return the document of a locations file.

    Raises
    ------
    InputError
        If the file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(check_regular(path).read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"{path.absolute()} cannot be read ({error.strerror})"
        raise InputError("locations", problem, "give the absolute path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = 'write lines like 0 = "DE"'
        raise InputError("locations", f"is not TOML ({error})", fix, str(path)) from None


def read_names(path: Path, sources: Collection[str]) -> dict[str, dict[str, str]]:
    """Return the sources' own names of locations.

    Parameters
    ----------
    path : Path
        Locations file. Under ``[names.LOCATION]`` stand lines of a source and its name of that location.
    sources : collection of str
        Names of all sources.

    Returns
    -------
    dict of str to dict
        By source, its own name of each location.

    Raises
    ------
    InputError
        If the file cannot be read, or names are written in another form.
    """
    file, names = str(path), read_locations(path).get(NAMES, {})
    by_source: dict[str, dict[str, str]] = {}
    for location, entry in _table(NAMES, names, file).items():
        for source, name in _table(f"{NAMES}.{location}", entry, file).items():
            if source not in sources:
                raise unknown_name(f"{NAMES}.{location}", source, sources).within(file)
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"{NAMES}.{location}.{source}", f"{name!r} is no name", _FIX, file)
            by_source.setdefault(source, {})[location] = name
    return by_source


def _table(field: str, entry: object, file: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(field, "is not a table of names", _FIX, file)
    return entry
