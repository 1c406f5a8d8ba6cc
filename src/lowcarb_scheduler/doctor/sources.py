"""Checks of the forecast sources: their answers to the requests of a run, and the conclusions from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Thread
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import format_duration, from_us
from lowcarb_scheduler.doctor.checks import Check
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, near_miss, one_line, reason_of
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.scheduling.locations import read_places
from lowcarb_scheduler.settings import ENVIRONMENT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource
    from lowcarb_scheduler.intensity import Signal
    from lowcarb_scheduler.settings import Settings

SKEW_WARNING: Final = timedelta(minutes=2)
SKEW_FAULT: Final = timedelta(minutes=10)  # beyond it a forecast is refused as dated ahead
_SLOW: Final = 1 / 3  # of the time limit
_REFUSED: Final = frozenset({401, 403})
_NOT_OURS: Final = frozenset({404, 405})  # statuses of a server of something else


@dataclass
class SourceProbe:
    """Requests to one source, and its answers.

    Parameters
    ----------
    name : str
        Name in the settings.
    source : ForecastSource
        The source.
    names : mapping of str to str
        The source's own name of each location of a run.

    Attributes
    ----------
    forecast : Forecast or None
        Forecast of the locations, by the source's own names.
    known : tuple of str
        All names that the source lists.
    listed : bool
        Whether it listed them.
    missing : dict of str to str
        Reason why a location has no forecast, by the source's own name.
    no_forecast, no_names : str or None
        Reason why a call failed as a whole.
    took : timedelta or None
        Duration of a call.
    """

    name: str
    source: ForecastSource
    names: Mapping[str, str]
    forecast: Forecast | None = None
    known: tuple[str, ...] = ()
    listed: bool = False
    missing: dict[str, str] = field(default_factory=dict)
    no_forecast: str | None = None
    no_names: str | None = None
    took: timedelta | None = None

    def __post_init__(self) -> None:
        self.stats = self.source.stats

    @property
    def signal(self) -> Signal | None:
        """Signal of its values, None as long as it is not known."""
        return self.source.signal if self.forecast is None else self.forecast.intensity.signal

    @property
    def answers(self) -> bool:
        """Whether the source answers, even by a refusal; also true if nothing was requested."""
        if self.stats is None or not self.stats.asked:
            return True
        statuses = self.stats.statuses
        listed = self.listed and self.source.listing_proves != "nothing"
        if self.forecast is not None or (listed and statuses):
            return True
        return bool(statuses) and all(400 <= each < 500 and each not in _NOT_OURS for each in statuses)

    @property
    def is_accepted(self) -> bool:
        """Whether an answer shows that the credentials, if any, are good."""
        listed = self.listed and self.source.listing_proves == "credentials"
        return self.forecast is not None or listed

    @property
    def is_refused(self) -> bool:
        """Whether the source answers nothing but refusals of the credentials."""
        return self.stats is not None and not self.is_accepted and bool(self.stats.statuses & _REFUSED)

    def has(self, location: str) -> bool:
        """Return whether there is a forecast of a location."""
        return self.forecast is not None and self.names[location] in self.forecast.intensity.locations

    def knows(self, location: str) -> bool:
        """Return whether a location is in the source's list."""
        if self.source.locations is not None:
            return self.names[location] in self.known
        return self.names[location].casefold() in map(str.casefold, self.known)  # servers ignore the case

    def ask_forecast(self, clock: Clock) -> None:
        """Request the forecast of the locations that the source may know."""
        names = list(dict.fromkeys(self.names.values()))
        complete = self.source.locations
        if complete is not None:  # the source may refuse a whole call for one unknown name
            self.known, self.listed = complete, True
            self.missing |= {name: "does not know it" for name in names if name not in complete}
            names = [name for name in names if name in complete]
        if names:
            self._ask_forecast(names, clock)

    def ask_names(self, clock: Clock) -> None:
        """Request all names that the source lists."""
        began = clock.now()
        try:
            known = self.source.known_locations()
            if known is None:
                return
            self.known, self.listed = tuple(known), True
        except Exception as error:  # noqa: BLE001  one source that breaks must not hide the others
            self.no_names = _reason(error)
        if self.took is None:
            self.took = clock.now() - began
        if self.known and not self.names and self.stats is not None and not self.stats.asked:
            self._ask_forecast(self.known[:1], clock)  # a built-in list does not show that the server answers

    def _ask_forecast(self, names: Sequence[str], clock: Clock) -> None:
        began = clock.now()
        try:
            self.forecast = self.source.forecast(names, began)
            self.missing |= self.forecast.missing
        except Exception as error:  # noqa: BLE001  see ask_names
            self.no_forecast = _reason(error)
            reasons = error.missing if isinstance(error, ForecastUnavailableError) else {}
            self.missing |= dict.fromkeys(names, self.no_forecast) | dict(reasons)
        self.took = clock.now() - began


def ask(probes: Iterable[SourceProbe], clock: Clock) -> None:
    """Request forecasts and names from all sources at once, and wait for the slowest."""
    # Daemons: Ctrl-C ends the program at once. The time limit of the sources ends the calls.
    threads = [
        Thread(target=call, args=(clock,), daemon=True, name="lowcarb-doctor")
        for probe in probes
        for call in (probe.ask_forecast, probe.ask_names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _reason(error: Exception) -> str:
    """Return the reason of a failed call, in one line."""
    if isinstance(error, ForecastUnavailableError) and error.missing:
        return one_line(next(iter(error.missing.values())))
    return reason_of(error)


def _variable(field: str) -> str:
    """Return the environment variable of a setting."""
    return ENVIRONMENT_PREFIX + field.upper()


# -- Checks ---


def check_source(probe: SourceProbe, timeout: timedelta) -> Check:
    """Check that a source answers, and its speed."""
    name = f"source {probe.name}"
    if probe.name == "synthetic":
        return Check(name, "warning", "its numbers are made up", "for a real run name a real source")
    if probe.stats is None:
        return Check(name, "ok", f"knows {len(probe.known)} locations" if probe.listed else "opened")
    server = probe.source.server or "the server"
    if not probe.answers:
        why = probe.no_forecast or probe.no_names or "it does not answer"
        address = _variable(probe.source.url_setting) if probe.source.url_setting else "its address"
        fix = f"check that it runs and that {address} is right; if it is slow, raise LOWCARB_TIMEOUT"
        return Check(name, "fault", f"{server}: {why}", fix)
    if not probe.stats.asked:
        problem = f"not asked: {probe.no_forecast or 'no location is named'}"
        return Check(name, "warning", problem, "name a location that it knows")
    took = probe.took or timedelta(0)
    detail = f"{server} answers in {formatting.significant(took.total_seconds(), 2)} s"
    if took > timeout * _SLOW:
        return Check(name, "warning", f"{detail} of {format_duration(timeout)}", "raise LOWCARB_TIMEOUT")
    return Check(name, "ok", detail)


def check_credentials(probe: SourceProbe, settings: Settings) -> Iterator[Check]:
    """Check that an answer shows that the credentials are accepted."""
    needed = probe.source.secret_settings
    if not needed or probe.stats is None:
        return
    name = f"credentials {probe.name}"
    variables = " and ".join(map(_variable, needed))
    given = any(getattr(settings, field) is not None for field in needed)
    if probe.is_refused:
        why = probe.no_forecast or probe.no_names or "it refuses"
        fix = (
            f"check {variables}" if given else f"if a proxy before the server asks for them, set {variables}"
        )
        yield Check(name, "fault", why, fix)
    elif given and probe.is_accepted:
        yield Check(name, "ok", "accepted")
    elif given:
        remedy = None if probe.names else "name a location with --location"
        yield Check(name, "warning", "not checked: no answer shows it", remedy)


def check_locations(probes: Sequence[SourceProbe], places: Sequence[str]) -> Iterator[Check]:
    """Check that every location has a forecast from one of the sources."""
    if not places:
        fix = "give --location L, or name a locations file"
        yield Check("locations", "warning", "no location is named, so no forecast was requested", fix)
        return
    asked = [probe for probe in probes if probe.answers and not probe.is_refused]
    if not asked:
        yield Check("locations", "warning", "not checked: no source gives an answer")
        return
    good = [place for place in places if any(probe.has(place) for probe in asked)]
    for place in places:
        if place in good:
            continue
        why = {probe.name: probe.missing.get(probe.names[place], "no forecast") for probe in asked}
        detail = one_line("; ".join(f"{name}: {reason}" for name, reason in why.items()))
        yield Check(f"location {one_line(place, 40)}", "fault", detail, _other_name(asked, place))
    if good:
        shown = ", ".join(one_line(place, 40) for place in good)
        yield Check("locations", "ok", f"{shown} ({len(good)} of {len(places)} have a forecast)")


def check_forecast(probe: SourceProbe, settings: Settings, now: datetime) -> Iterator[Check]:
    """Check the age of a forecast, and that it reaches the deadline."""
    forecast = probe.forecast
    if forecast is None or not probe.names:
        return
    table = forecast.intensity
    age = min(now - forecast.issued_at(name) for name in table.locations)
    known = ~np.isnan(table.values)
    until = from_us(min(table.edges_us[1:][own][-1] for own in known.T if own.any()))
    made, ahead = (format_duration(max(span, timedelta(0))) for span in (age, until - now))
    detail = f"made {made} ago, reaches {ahead} ahead"
    finish_by = settings.finish_by
    deadline = now + finish_by if isinstance(finish_by, timedelta) else finish_by
    name = f"forecast {probe.name}"
    if deadline is None or until >= deadline:
        yield Check(name, "ok", detail)
        return
    short = f"{detail}; finish-by is {format_duration(deadline - until)} later"
    fix = "later hours are planned from each location's history: lowcarb archive fetch --days 28"
    yield Check(name, "warning", short, fix)


def check_clock(probe: SourceProbe) -> Iterator[Check]:
    """Check this machine's clock against a server's."""
    if probe.stats is None or probe.stats.ahead is None:
        return
    name, ahead = f"clock {probe.name}", probe.stats.ahead
    off = abs(ahead)
    side = "ahead of" if ahead > timedelta(0) else "behind"
    if off < SKEW_WARNING:
        yield Check(name, "ok", f"within {format_duration(max(off, timedelta(seconds=1)))} of the server's")
        return
    detail = f"the server's clock is {format_duration(off)} {side} this machine's"
    yield Check(
        name, "fault" if off >= SKEW_FAULT else "warning", detail, "correct the wrong clock, best with NTP"
    )


def check_finish_by(settings: Settings, now: datetime) -> Iterator[Check]:
    """Check that an absolute deadline is in the future."""
    if isinstance(settings.finish_by, datetime) and settings.finish_by <= now:
        problem = f"{formatting.instant(settings.finish_by)} UTC is over"
        yield Check("finish-by", "fault", problem, "give a later time, or a duration such as 48h")


def check_signals(probes: Sequence[SourceProbe]) -> Iterator[Check]:
    """Check that each further source can stand in for the first, by its signal."""
    signals = {probe.name: probe.signal for probe in probes if probe.signal is not None}
    first, *others = signals or [""]
    for name in others:
        if signals[first] == signals[name] != "unknown":
            continue
        problem = f"{name} is {signals[name]}, {first} {signals[first]}: they are never mixed"
        unknown = [each for each in (first, name) if signals[each] == "unknown"]
        of_sdk = unknown == ["carbon-aware-sdk"]
        fix = "set LOWCARB_SDK_SIGNAL to what the SDK gives" if of_sdk else f"leave {name} out"
        yield Check("signals", "warning", problem, fix)


def places_of(settings: Settings, named: Sequence[str]) -> tuple[list[str], list[Check]]:
    """Return the locations that are named here and in the settings, and faults of the locations file."""
    places, faults = list(named), []
    if settings.locations is not None:
        try:
            places += [place.location for place in read_places(settings.locations).values()]
        except InputError as error:
            faults.append(unreadable_locations(error))
    if settings.default_location is not None:
        places.append(settings.default_location)
    return list(dict.fromkeys(places)), faults


def unreadable_locations(error: InputError) -> Check:
    """Return the fault of a locations file that cannot be read."""
    where = f"{error.file}: {error.field}: " if error.file else ""
    return Check("locations", "fault", f"{where}{error.problem}", error.fix)


def _other_name(probes: Sequence[SourceProbe], place: str) -> str:
    """Return a fix for a location without forecast: the name that was probably meant, or examples."""
    if any(probe.knows(place) for probe in probes):
        return "the name is known, but has no forecast; name another location or source"
    nears = dict.fromkeys(near for probe in probes if (near := near_miss(probe.names[place], probe.known)))
    if nears:
        return f"did you mean {' or '.join(nears)}?"
    for probe in probes:
        if probe.known:
            shown = ", ".join(one_line(name, 40) for name in sorted(probe.known)[:5])
            return f"{probe.name} knows {len(probe.known)} names, for example {shown}"
    return "give a name the source knows"
