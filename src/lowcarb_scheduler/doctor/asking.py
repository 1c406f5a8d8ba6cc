"""Asking sources what a run would ask them, all at once, and keeping what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Thread
from typing import TYPE_CHECKING

from lowcarb_scheduler.errors import ForecastUnavailableError, LowcarbError, near_miss, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import timedelta

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.source import Forecast, ForecastSource
    from lowcarb_scheduler.forecasts.web.contact import Contact
    from lowcarb_scheduler.intensity import Signal


@dataclass
class Finding:
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
    def contact(self) -> Contact | None:
        """What was seen of its server; None where it has none."""
        return getattr(self.source, "contact", None)

    @property
    def signal(self) -> Signal | None:
        """What its numbers measure; None where that is not known yet."""
        if self.forecast is not None:
            return self.forecast.intensity.signal
        return getattr(self.source, "signal", None)

    def knows(self, place: str) -> bool:
        """Return whether a place is among the names it told; no server tells upper from lower case."""
        if isinstance(getattr(self.source, "locations", None), tuple):  # a closed list is no server's
            return self.names[place] in self.known
        return self.names[place].casefold() in map(str.casefold, self.known)

    def near(self, place: str) -> str | None:
        """Return the name that was probably meant by one it does not know."""
        return near_miss(self.names[place], self.known)

    def ask_forecast(self, clock: Clock) -> None:
        """Ask for the forecast of its places, as far as it may know them."""
        asked = list(dict.fromkeys(self.names.values()))
        closed = getattr(self.source, "locations", None)
        if isinstance(closed, tuple):  # it may refuse a whole call for one name that is not among them
            self.known, self.listed = closed, True
            self.missing |= {name: "does not know it" for name in asked if name not in closed}
            asked = [name for name in asked if name in closed]
        if asked:
            self._look_up(asked, clock)

    def ask_names(self, clock: Clock) -> None:
        """Ask for all names it knows, where it can tell."""
        known_locations = getattr(self.source, "known_locations", None)
        if known_locations is None:
            return
        began = clock.now()
        try:
            self.known, self.listed = tuple(known_locations()), True
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
            self.missing |= getattr(error, "missing", dict.fromkeys(names, self.no_forecast))
        self.took = clock.now() - began


def ask(findings: Iterable[Finding], clock: Clock) -> None:
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
