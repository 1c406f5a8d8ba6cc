"""What the sources' answers mean for a run: one check after the other, on what they said."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from threading import Thread
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import format_duration, from_us
from lowcarb_scheduler.doctor.checks import Check
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError, LowcarbError, near_miss, one_line
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.settings import ENVIRONMENT_PREFIX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource
    from lowcarb_scheduler.forecasts.http.client import ServerStats
    from lowcarb_scheduler.intensity import Signal
    from lowcarb_scheduler.settings import Settings

SKEW_WARNING: Final = timedelta(minutes=2)
SKEW_FAULT: Final = timedelta(minutes=10)  # beyond it a forecast is refused as dated ahead
_SLOW: Final = 1 / 3  # of the time limit
_REFUSED: Final = frozenset({401, 403})
_NOT_OURS: Final = frozenset({404, 405})  # what a server of something else answers


def answers(finding: SourceProbe) -> bool:
    """Return whether a source answers, be it by refusing what it was asked; also where nothing was."""
    if finding.contact is None or not finding.contact.asked:
        return True
    said = finding.contact.statuses
    listed = finding.listed and finding.source.listing_proves != "nothing"
    if finding.forecast is not None or (listed and said):
        return True
    return bool(said) and all(400 <= status < 500 and status not in _NOT_OURS for status in said)


def is_refused(finding: SourceProbe) -> bool:
    """Return whether a source answers nothing but that we may not ask."""
    if finding.contact is None:
        return False
    return not _let_in(finding) and bool(finding.contact.statuses & _REFUSED)


def check_source(finding: SourceProbe, timeout: timedelta) -> Check:
    """Check that a source answers, and how fast."""
    name = f"source {finding.name}"
    if finding.name == "synthetic":
        return Check(name, "warning", "its numbers are made up", "for a real run name a real source")
    if finding.contact is None:
        return Check(name, "ok", f"knows {len(finding.known)} locations" if finding.listed else "opened")
    server = finding.source.server or "the server"
    if not answers(finding):
        why = finding.no_forecast or finding.no_names or "it does not answer"
        address = variable_of(finding.source.url_setting) if finding.source.url_setting else "its address"
        fix = f"see that it runs and that {address} is right; if it is slow raise LOWCARB_TIMEOUT"
        return Check(name, "fault", f"{server}: {why}", fix)
    if not finding.contact.asked:
        problem = f"not asked: {finding.no_forecast or 'no place is named'}"
        return Check(name, "warning", problem, "name a place it knows")
    took = finding.took or timedelta(0)
    said = f"{server} answers in {formatting.significant(took.total_seconds(), 2)} s"
    if took > timeout * _SLOW:
        return Check(name, "warning", f"{said} of {format_duration(timeout)}", "raise LOWCARB_TIMEOUT")
    return Check(name, "ok", said)


def check_credentials(finding: SourceProbe, settings: Settings) -> Iterator[Check]:
    """Check that credentials are accepted, as an answer shows."""
    needed = finding.source.secret_settings
    if not needed or finding.contact is None:
        return
    name = f"credentials {finding.name}"
    variables = " and ".join(map(variable_of, needed))
    given = any(getattr(settings, field) is not None for field in needed)
    if is_refused(finding):
        why = finding.no_forecast or finding.no_names or "it refuses"
        fix = (
            f"check {variables}" if given else f"if a proxy before the server asks for them, set {variables}"
        )
        yield Check(name, "fault", why, fix)
    elif given and _let_in(finding):
        yield Check(name, "ok", "accepted")
    elif given:
        remedy = None if finding.names else "name a place with --location"
        yield Check(name, "warning", "not checked: no answer shows it", remedy)


def check_locations(findings: Sequence[SourceProbe], places: Sequence[str]) -> Iterator[Check]:
    """Check that every place has a forecast from one of the sources."""
    if not places:
        fix = "give --location L, or name a locations file"
        yield Check("locations", "warning", "none is named, so none was looked up", fix)
        return
    asked = [finding for finding in findings if answers(finding) and not is_refused(finding)]
    if not asked:
        yield Check("locations", "warning", "not checked: no source gives an answer")
        return
    good = [place for place in places if any(_has(finding, place) for finding in asked)]
    for place in places:
        if place in good:
            continue
        why = {finding.name: finding.missing.get(finding.names[place], "no forecast") for finding in asked}
        said = one_line("; ".join(f"{name}: {reason}" for name, reason in why.items()))
        yield Check(f"location {one_line(place, 40)}", "fault", said, _other_name(asked, place))
    if good:
        shown = ", ".join(one_line(place, 40) for place in good)
        yield Check("locations", "ok", f"{shown} ({len(good)} of {len(places)} have a forecast)")


def check_forecast(finding: SourceProbe, settings: Settings, now: datetime) -> Iterator[Check]:
    """Check how old a forecast is, and how far it reaches."""
    forecast = finding.forecast
    if forecast is None or not finding.names:
        return
    table = forecast.intensity
    age = min(now - forecast.issued_at(name) for name in table.locations)
    known = ~np.isnan(table.values)
    until = from_us(min(table.edges_us[1:][own][-1] for own in known.T if own.any()))
    made, ahead = (format_duration(max(span, timedelta(0))) for span in (age, until - now))
    said = f"made {made} ago, reaches {ahead} ahead"
    finish_by = settings.finish_by
    deadline = now + finish_by if isinstance(finish_by, timedelta) else finish_by
    name = f"forecast {finding.name}"
    if deadline is None or until >= deadline:
        yield Check(name, "ok", said)
        return
    short = f"{said}; finish-by is {format_duration(deadline - until)} later"
    fix = "later hours rest on each place's history: lowcarb archive fetch --days 28"
    yield Check(name, "warning", short, fix)


def check_clock(finding: SourceProbe) -> Iterator[Check]:
    """Check this machine's clock against a server's."""
    if finding.contact is None or finding.contact.ahead is None:
        return
    name, ahead = f"clock {finding.name}", finding.contact.ahead
    off = abs(ahead)
    side = "ahead of" if ahead > timedelta(0) else "behind"
    if off < SKEW_WARNING:
        yield Check(name, "ok", f"within {format_duration(max(off, timedelta(seconds=1)))} of the server's")
        return
    said = f"the server's clock is {format_duration(off)} {side} this machine's"
    yield Check(name, "fault" if off >= SKEW_FAULT else "warning", said, "set the wrong one, best by NTP")


def check_finish_by(settings: Settings, now: datetime) -> Iterator[Check]:
    """Check that a deadline that is a time is still to come."""
    if isinstance(settings.finish_by, datetime) and settings.finish_by <= now:
        problem = f"{formatting.instant(settings.finish_by)} UTC is over"
        yield Check("finish-by", "fault", problem, "give a later time, or a duration such as 48h")


def check_signals(findings: Sequence[SourceProbe]) -> Iterator[Check]:
    """Check that sources in order can stand in for the first."""
    signals = {finding.name: finding.signal for finding in findings if finding.signal is not None}
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
    """Return the places of a run, those named here and those its settings name, and what is wrong there."""
    places, faults = list(named), []
    if settings.locations is not None:
        try:
            from lowcarb_scheduler.scheduling.locations import read_places

            places += [place.location for place in read_places(settings.locations).values()]
        except InputError as error:
            faults.append(unreadable_locations(error))
        except ImportError as error:  # Flower is missing or broken: a check of its own says so
            faults.append(Check("locations", "fault", f"not read: {one_line(str(error))}"))
    if settings.default_location is not None:
        places.append(settings.default_location)
    return list(dict.fromkeys(places)), faults


def unreadable_locations(error: InputError) -> Check:
    """Return what is wrong with the locations file."""
    where = f"{error.file}: {error.field}: " if error.file else ""
    return Check("locations", "fault", f"{where}{error.problem}", error.fix)


def variable_of(field: str) -> str:
    """Return the environment variable of a setting."""
    return ENVIRONMENT_PREFIX + field.upper()


def _let_in(finding: SourceProbe) -> bool:
    """Return whether an answer shows that the credentials, if any, are good."""
    return finding.forecast is not None or (finding.listed and finding.source.listing_proves == "credentials")


def _has(finding: SourceProbe, place: str) -> bool:
    return finding.forecast is not None and finding.names[place] in finding.forecast.intensity.locations


def _other_name(findings: Sequence[SourceProbe], place: str) -> str:
    """Say what else a place without a forecast may be called."""
    if any(finding.knows(place) for finding in findings):
        return "the name is known; name another place or another source"
    nears = dict.fromkeys(near for finding in findings if (near := finding.near(place)))
    if nears:
        return f"did you mean {' or '.join(nears)}?"
    for finding in findings:
        if finding.known:
            shown = ", ".join(one_line(name, 40) for name in sorted(finding.known)[:5])
            return f"{finding.name} knows {len(finding.known)} names, for example {shown}"
    return "give a name the source knows"


# -- Asking sources what a run would ask them, all at once, and keeping what came of it ---------------------


@dataclass
class SourceProbe:
    """What one source answered.

    Parameters
    ----------
    name : str
        What settings call it.
    source : ForecastSource
        Itself.
    names : mapping of str to str
        What it calls the places of a run, by place.

    Attributes
    ----------
    forecast : Forecast or None
        Of the places, under its own names.
    known : tuple of str
        All names it knows, where it tells.
    listed : bool
        Whether it told them.
    missing : dict of str to str
        Why a place has no forecast, under its own name.
    no_forecast, no_names : str or None
        Why a look-up brought nothing at all.
    took : timedelta or None
        How long a look-up took.
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

    @property
    def contact(self) -> ServerStats | None:
        """What was seen of its server; None where it has none."""
        return self.source.stats

    @property
    def signal(self) -> Signal | None:
        """What its numbers measure; None where that is not known yet."""
        if self.forecast is not None:
            return self.forecast.intensity.signal
        return self.source.signal

    def knows(self, place: str) -> bool:
        """Return whether a place is among the names it told; no server tells upper from lower case."""
        if self.source.locations is not None:  # a closed list is no server's
            return self.names[place] in self.known
        return self.names[place].casefold() in map(str.casefold, self.known)

    def near(self, place: str) -> str | None:
        """Return the name that was probably meant by one it does not know."""
        return near_miss(self.names[place], self.known)

    def ask_forecast(self, clock: Clock) -> None:
        """Ask for the forecast of its places, as far as it may know them."""
        asked = list(dict.fromkeys(self.names.values()))
        closed = self.source.locations
        if closed is not None:  # it may refuse a whole call for one name that is not among them
            self.known, self.listed = closed, True
            self.missing |= {name: "does not know it" for name in asked if name not in closed}
            asked = [name for name in asked if name in closed]
        if asked:
            self._look_up(asked, clock)

    def ask_names(self, clock: Clock) -> None:
        """Ask for all names it knows, where it can tell."""
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
        if self.known and not self.names and self.contact is not None and not self.contact.asked:
            self._look_up(self.known[:1], clock)  # a list of its own: whether it answers is not seen yet

    def _look_up(self, names: Sequence[str], clock: Clock) -> None:
        began = clock.now()
        try:
            self.forecast = self.source.forecast(names, began)
            self.missing |= self.forecast.missing
        except Exception as error:  # noqa: BLE001  see above
            self.no_forecast = _reason(error)
            why = error.missing if isinstance(error, ForecastUnavailableError) else {}
            self.missing |= dict.fromkeys(names, self.no_forecast) | dict(why)
        self.took = clock.now() - began


def ask(findings: Iterable[SourceProbe], clock: Clock) -> None:
    """Ask all sources for forecasts and names, and wait for the slowest."""
    calls: list[Callable[[Clock], None]] = []
    for finding in findings:
        calls += [finding.ask_forecast, finding.ask_names]
    # Daemons: Ctrl-C ends the program at once. Sources end in time by themselves.
    threads = [Thread(target=call, args=(clock,), daemon=True, name="lowcarb-doctor") for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _reason(error: Exception) -> str:
    """Return why a call failed, in one line."""
    if isinstance(error, ForecastUnavailableError) and error.missing:
        return one_line(next(iter(error.missing.values())))
    return one_line(str(error) if isinstance(error, LowcarbError) else f"{type(error).__name__}: {error}")
