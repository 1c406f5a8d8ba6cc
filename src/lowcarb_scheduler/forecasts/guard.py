"""Guard around a forecast source: whatever it does, its callers get valid values or a reason.

A source may be a user's own. It may raise anything, return anything, and declare anything; none of this may
stop a training, and :class:`GuardedSource` is the one place where it is checked. A call without a usable
result becomes a ForecastUnavailableError; a declaration that cannot be used counts as not given, and is noted
as a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

from lowcarb_scheduler.clock import to_utc
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, one_line, reason_of
from lowcarb_scheduler.forecasts.base import (
    Fault,
    Forecast,
    ForecastSource,
    adapt,
    distinct,
    period,
)
from lowcarb_scheduler.intensity import SIGNALS, IntensityTable, Provenance
from lowcarb_scheduler.validation import MAX_NAME, name_problem

if TYPE_CHECKING:
    from lowcarb_scheduler.forecasts.base import Names, Timeout

Value = TypeVar("Value")

_REACH: Final = timedelta(days=400)  # of a forecast, to either side of now
_DAY: Final = timedelta(days=1)
_MOST_VALUES: Final = 5_000_000  # of one table; a year of hours for 500 locations
_MOST_NAMES: Final = 100_000
_MOST_ISSUES: Final = 10_000
_MOST_FAULTS: Final = 100


class _UnusableError(Exception):
    """Raised if a source has returned a value that cannot be used; its text says which one."""


class GuardedSource(ForecastSource):
    """Forecast source that passes on only what its callers can use.

    ``KeyboardInterrupt`` and ``SystemExit`` pass, because they end the program, and so does the InputError of
    an unknown location.

    Parameters
    ----------
    source : object
        A forecast source, see :func:`~lowcarb_scheduler.forecasts.base.adapt`.

    Raises
    ------
    InputError
        If the object is no source.
    """

    def __init__(self, source: object) -> None:
        self._class = one_line(type(source).__name__, MAX_NAME)
        self._source, self._noted = adapt(source), list[Fault]()
        # What names the source in ledger and archive must not change in a run.
        self.name = self._declared("name", _name, self._class)
        self.signal = self._declared("signal", _signal, None)
        self.issued_every = self._declared("issued_every", _interval, None)
        self.is_certain = self._declared("is_certain", bool, False)
        self.server = self._declared("server", _address, "")
        self._keeps_past = self._declared("keeps_past_forecasts", bool, False)

    # -- Declarations --------------------------------------------------------------------------------------

    @property
    def locations(self) -> tuple[str, ...] | None:  # type: ignore[override]  # read anew, so never set
        """Complete list of locations, without names that cannot be shown; None where there is none."""
        return self._declared("locations", self._listed_names, None)

    @property
    def faults(self) -> list[Fault]:  # type: ignore[override]  # derived, so never set
        """Recent failures of the source, and declarations of it that cannot be used."""
        none: list[Fault] = []
        own = self._declared("faults", _faults, none)
        return [*self._noted, *own]

    @property
    def keeps_past_forecasts(self) -> bool:
        """Whether the source implements :meth:`past_forecasts`."""
        return self._keeps_past

    def _declared(self, attribute: str, check: Callable[[Any], Value], default: Value) -> Value:
        """Return a declaration of the source, or a default where it cannot be used."""
        try:
            return check(getattr(self._source, attribute))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001  no fault of a source stops training
            self._note("source", f"{attribute} of {self._class}: {_reason(error)}")
            return default

    def _listed_names(self, names: Any) -> tuple[str, ...] | None:
        if names is None:
            return None
        if isinstance(names, str | bytes | Mapping) or not isinstance(names, Iterable):
            raise _UnusableError(f"{_kind(names)} is no tuple of names")
        return tuple(self._usable(names))

    def _usable(self, names: Iterable[Any]) -> dict[str, None]:
        """Return the names that can be shown and sent, each once; note the first of the others."""
        listed = list(islice(names, _MOST_NAMES + 1))
        if len(listed) > _MOST_NAMES:
            raise _UnusableError(f"it lists more than {_MOST_NAMES:,} names")
        problems = [(name, _problem_of(name)) for name in listed]
        if wrong := [(name, problem) for name, problem in problems if problem]:
            name, problem = wrong[0]
            shown = f"{one_line(name, 40)!r}, {problem}" if isinstance(name, str) else problem
            others = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            self._note("source", f"a location of {self._class} cannot be used: {shown}{others}")
        return {str(name): None for name, problem in problems if not problem}

    def _note(self, what: str, why: str) -> None:
        fault = Fault(what, one_line(why))
        if fault not in self._noted and len(self._noted) < _MOST_FAULTS:
            self._noted.append(fault)

    # -- Calls ---------------------------------------------------------------------------------------------

    def forecast(self, locations: Names, now: datetime, *, timeout: Timeout = None) -> Forecast:
        """Return the source's forecast of the locations, cut to the year around now.

        Raises
        ------
        ForecastUnavailableError
            If not one location has usable data.
        """
        now, names = to_utc(now, "now"), distinct(locations)

        def check(answer: object) -> Forecast:
            return _forecast(answer, names, now - _REACH, now + _REACH)

        return self._call("forecast", names, check, names, now, timeout=timeout)

    def actual(
        self, locations: Names, start: datetime, end: datetime, *, timeout: Timeout = None
    ) -> IntensityTable:
        """Return the source's recorded intensity, cut to a day around the period.

        Raises
        ------
        ForecastUnavailableError
            If not one location has usable data.
        """
        (first, last), names = period(start, end), distinct(locations)

        def check(answer: object) -> IntensityTable:
            # Not cut to the period itself, which may end within a step.
            return _table(answer, names, first - _DAY, last + _DAY)

        return self._call("actual", names, check, names, first, last, timeout=timeout)

    def past_forecasts(
        self, locations: Names, start: datetime, end: datetime, every: timedelta, *, timeout: Timeout = None
    ) -> list[Forecast]:
        """Return the source's usable past forecasts, oldest first.

        Raises
        ------
        ForecastUnavailableError
            If none could be read.
        """
        (first, last), names = period(start, end), distinct(locations)

        def check(answer: Any) -> list[Forecast]:
            issues, problem = [], ""
            for issue in islice(answer, _MOST_ISSUES):
                try:
                    issues.append(_forecast(issue, names, first - _REACH, last + _REACH))
                except Exception as error:  # noqa: BLE001  a property of an answer may raise anything
                    problem = problem or f"some of {self._class} cannot be used: {_reason(error)}"
            if problem:
                self._note("past forecasts", problem)
            return sorted(issues, key=lambda issue: issue.generated_at)

        return self._call("past_forecasts", names, check, names, first, last, every, timeout=timeout)

    def known_locations(self, *, timeout: Timeout = None) -> Mapping[str, Any] | None:
        """Return the names that the source lists, without those that cannot be shown.

        Raises
        ------
        ForecastUnavailableError
            If the source does not answer.
        """

        def check(answer: Any) -> Mapping[str, Any] | None:
            if answer is None:
                return None
            if not isinstance(answer, Mapping):
                raise _UnusableError(f"gave {_kind(answer)}, not a mapping of names")
            return {name: answer[name] for name in self._usable(answer)}

        return self._call("known_locations", ("its locations",), check, timeout=timeout)

    def health(self, *, timeout: Timeout = None) -> str | None:
        """Return the server's own report of its state, in one line.

        Raises
        ------
        ForecastUnavailableError
            If the source does not answer.
        """

        def check(answer: Any) -> str | None:
            return None if answer is None else one_line(_text(answer))

        return self._call("health", ("its state",), check, timeout=timeout)

    def _call(
        self, method: str, names: tuple[str, ...], check: Callable[[Any], Value], *arguments: object,
        timeout: Timeout,
    ) -> Value:  # fmt: skip
        """Call a method of the source, and return the usable part of its answer.

        Raises
        ------
        ForecastUnavailableError
            If there is none; it gives a reason for each of the names.
        """
        try:
            return check(getattr(self._source, method)(*arguments, timeout=timeout))
        except (KeyboardInterrupt, SystemExit):
            raise
        except ForecastUnavailableError as error:
            missing, fault = _missing(error, names), ""
        except InputError as error:
            if error.field == "location":  # an unknown name, which the command line reports as such
                raise
            missing, fault = dict.fromkeys(names, reason_of(error)), reason_of(error)
        except BaseException as error:  # noqa: BLE001  see _declared
            missing, fault = dict.fromkeys(names, _reason(error)), _reason(error)
        if method == "known_locations":  # whose callers go on without names, and tell nobody
            self._note("locations of the source", missing[names[0]])
        raise ForecastUnavailableError(missing, fault=fault)


# -- Checks ------------------------------------------------------------------------------------------------


def _forecast(answer: Any, names: tuple[str, ...], start: datetime, end: datetime) -> Forecast:
    """Return the usable part of a forecast; an issue time may be of any age, which a run checks itself."""
    if not isinstance(answer, Forecast):
        raise _UnusableError(f"gave {_kind(answer)}, not a Forecast")
    table = _table(answer.intensity, names, start, end)
    issued = {name: to_utc(time, "issued") for name, time in answer.issued.items() if name in table.locations}
    missing = {name: one_line(_text(why)) for name, why in answer.missing.items() if name in names}
    good = {name: one_line(_text(why)) for name, why in answer.last_good.items() if name in table.locations}
    return Forecast(table, to_utc(answer.generated_at, "generated_at"), missing, issued, good)


def _table(answer: Any, names: tuple[str, ...], start: datetime, end: datetime) -> IntensityTable:
    """Return the columns of the requested locations, between two times."""
    if not isinstance(answer, IntensityTable):
        raise _UnusableError(f"gave {_kind(answer)}, not an IntensityTable")
    if answer.values.size > _MOST_VALUES:
        raise _UnusableError(f"gave {answer.values.size:,} values, more than {_MOST_VALUES:,}")
    known = [name for name in names if name in answer.locations]
    if not known:
        raise _UnusableError("gave none of the locations that it was asked for")
    # Cut first: the time of an edge may be outside of what a datetime holds.
    part = answer.slice(start, end)
    if part is None:
        raise _UnusableError("gave no value near the time that it was asked for")
    labels = part.provenance
    label = None if labels.source is None else one_line(_text(labels.source))
    provenance = Provenance(label, labels.signal, bool(labels.synthetic))
    return replace(part if known == list(part.locations) else part.align(known), provenance=provenance)


def _missing(error: ForecastUnavailableError, names: tuple[str, ...]) -> dict[str, str]:
    """Return the source's own reasons of the locations; its message where it gives none."""
    try:
        given = {name: one_line(_text(why)) for name, why in error.missing.items() if name in names}
    except Exception:  # noqa: BLE001  the attribute may hold anything
        given = {}
    return given or dict.fromkeys(names, reason_of(error))


def _faults(faults: Any) -> list[Fault]:
    if isinstance(faults, str | bytes | Mapping):
        raise _UnusableError(f"{_kind(faults)} is no sequence of faults")
    found = []
    for fault in islice(faults, _MOST_FAULTS):
        if not isinstance(fault, tuple) or len(fault) != 2:
            raise _UnusableError(f"{_kind(fault)} is no Fault")
        found.append(Fault(*(one_line(_text(part)) for part in fault)))
    return found


def _name(name: Any) -> str:
    if problem := _problem_of(name):
        raise _UnusableError(problem)
    return str(name)


def _problem_of(name: Any) -> str | None:
    return name_problem(name) if isinstance(name, str) else f"{_kind(name)} is no name"


def _signal(signal: Any) -> Any:
    if signal is not None and signal not in SIGNALS:
        raise _UnusableError(f"{one_line(_text(signal), 40)!r} is none of {', '.join(SIGNALS)}")
    return signal


def _interval(every: Any) -> timedelta | None:
    if every is not None and not (isinstance(every, timedelta) and timedelta(0) < every <= _REACH):
        raise _UnusableError(f"{_kind(every)} is no duration up to {_REACH.days} days")
    return every


def _address(server: Any) -> str:
    return one_line(_text(server))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _UnusableError(f"gave {_kind(value)} in place of a text")
    return value


def _kind(value: object) -> str:
    """Return the type of a value: its repr may be endless, or differ at each call."""
    return f"a value of type {one_line(type(value).__name__, 40)}"


def _reason(error: BaseException) -> str:
    """Return an error as one line; its type only where it is not the guard's."""
    return str(error) if isinstance(error, _UnusableError) else reason_of(error)
