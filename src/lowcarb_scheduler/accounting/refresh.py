"""Refresh of a ledger: actual intensity that was unknown when the run ended, requested later.

Two events are appended: ``actual`` with the new intensity, and ``refreshed`` with the figures of rounds that
become known by it. Known values never change, and a request without news appends nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.accounting.hindsight import Rules
from lowcarb_scheduler.accounting.replay import Record
from lowcarb_scheduler.accounting.turns import stretch_of
from lowcarb_scheduler.clock import MICROSECOND, SystemClock, to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import UNKNOWN_PLACE, ActualReceived, FiguresRefreshed
from lowcarb_scheduler.intensity import sanitize
from lowcarb_scheduler.ledger import FILE_NAME, Ledger, as_written, is_in_use, read_ledger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.accounting.replay import RoundRecord
    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.events import RunStarted
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.intensity import IntensityTable, Provenance
    from lowcarb_scheduler.settings import Settings

SETTINGS: Final = (
    "archive_days",
    "archive_dir",
    "carbon_aware_sdk_url",
    "electricity_maps_url",
    "locations",
    "sdk_signal",
    "source",
    "traces",
    "traces_actual",
    "traces_signal",
    "uk_carbon_intensity_url",
    "watttime_url",
)  # fmt: skip  settings of a run that name its source


@dataclass(frozen=True, slots=True)
class Refreshed:
    """Result of a refresh.

    Parameters
    ----------
    lacking : tuple of int
        Rounds with an unknown figure before.
    learned : tuple of int
        Rounds among them whose figures are all known now.
    lacks_hours : bool
        Whether hindsight may choose hours whose actual intensity was unknown.
    has_news : bool
        Whether events were appended.
    """

    lacking: tuple[int, ...]
    learned: tuple[int, ...] = ()
    lacks_hours: bool = False
    has_news: bool = False

    @property
    def unknown(self) -> tuple[int, ...]:
        """Rounds with a figure that is still unknown."""
        return tuple(number for number in self.lacking if number not in self.learned)


def source_settings(started: RunStarted, options: Mapping[str, Any]) -> Settings:
    """Return settings that open the source of a run again.

    Parameters
    ----------
    started : RunStarted
        The start of the run; its settings hold no secret.
    options : mapping
        Options of the command, which take precedence.

    Raises
    ------
    InputError
        If neither the run nor the options name a source.
    """
    from lowcarb_scheduler.forecasts.registry import SOURCES
    from lowcarb_scheduler.settings import FORMER_NAMES, RUN_CONFIG_PREFIX, Settings

    recorded = {FORMER_NAMES.get(name, name): value for name, value in started.settings.items()}
    values = {name: recorded.get(name) for name in SETTINGS}
    own = started.source or ""
    if set(own.split(",")) <= set(SOURCES):
        values["source"] = own  # the source may have been given in code, not as a setting
    # Values that were hidden in the ledger, such as passwords in a URL, cannot be used again.
    values = {name: value for name, value in values.items() if value is not None and "***" not in str(value)}
    if options.get("source") is not None:  # locations and files of the run belong to its own source
        values = {
            name: values[name] for name in values if name in ("archive_days", "archive_dir", "locations")
        }
    run_config = {RUN_CONFIG_PREFIX + name.replace("_", "-"): value for name, value in values.items()}
    settings = Settings.load(options=options, run_config=run_config)
    if settings.source is None:
        problem = f"the run's was given in code ({own})" if own else "the run had none"
        raise InputError("--source", problem, "name one that knows what happened, for example traces")
    return settings


def refresh(run_dir: Path, source: ForecastSource | None, clock: Clock | None = None) -> Refreshed:
    """Request actual intensity that the accounts of a run lack, and append it to the ledger.

    It is lacking if a round has no realised or run-now emissions, or for an hour that hindsight may choose.

    Parameters
    ----------
    run_dir : Path
        Folder of a run that is not being written.
    source : ForecastSource or None
        Source of actual intensity; not needed if none is lacking.
    clock : Clock, optional
        Stamps the events; hours after its time are not requested.

    Raises
    ------
    InputError
        If a run is still writing there, or the signal of the source is not that of the run.
    ForecastUnavailableError
        If the source has no data for any location.
    """
    clock = clock or SystemClock()
    events, file = read_ledger(run_dir), str(run_dir / FILE_NAME)
    # Two writers would mix their lines.
    if is_in_use(run_dir):
        raise InputError("ledger", "a run is still writing it", "wait until it has ended", file)
    with as_written(file):
        record = Record.of(events)
    # Computed from turns, not read from events: stored figures may be older than the stored intensity.
    before = record.figures_on(record.actual)
    lacking = tuple(number for number, figures in before.items() if not figures.are_known)
    places = _places(record)
    lacks_hours = bool(lacking) or _lacks_hours(record, places, clock)
    if not lacks_hours or source is None or not places:
        return Refreshed(lacking, (), lacks_hours)
    start, end = _period(record, [worked for worked in record.rounds if worked.number in lacking], clock)
    new = sanitize(source.actual(places, start, end))
    _check_provenance(new, record.provenance)
    known = new.slice(start, end)
    # Values that were known never change.
    news = None if known is None else known.changes_from(record.actual, holes_only=True)
    if news is None:
        return Refreshed(lacking, (), lacks_hours)
    after = record.figures_on(news if record.actual is None else news.fill(record.actual))
    ledger = Ledger(run_dir, clock, goes_on=True)
    try:
        ledger.append(ActualReceived(intensity=news))
        if any(after[number] != before[number] for number in lacking):
            ledger.append(FiguresRefreshed(rounds=tuple(after[number] for number in lacking)))
    finally:
        ledger.close()
    learned = tuple(number for number in lacking if after[number].are_known)
    return Refreshed(lacking, learned, lacks_hours, has_news=True)


def _lacks_hours(record: Record, places: Sequence[str], clock: Clock) -> bool:
    """Return whether a past hour that hindsight may choose has no actual intensity."""
    if record.actual is None or not record.rounds:
        return False
    rules = Rules.of(record)
    start, end = rules.grid_from, min(rules.target_finish, clock.now())
    if start >= end:  # the run began in the future of this clock
        return False
    known = record.actual.integrate(to_us(start), to_us(end), record.actual.columns(places))
    return bool(np.isnan(known).any())


def _period(record: Record, rounds: Sequence[RoundRecord], clock: Clock) -> tuple[datetime, datetime]:
    """Return the period in which anything that is to be charged happened.

    Hindsight may choose any hour of the run, so the period covers the whole run as far as it is past.
    """
    starts, ends = [record.started.began_at], [min(Rules.of(record).finish_by, clock.now())]
    for worked in rounds:
        # The turns of run-now overrun as the real ones did, so its last window ends later.
        stretch = max(stretch_of(worked.turns, worked.connected, worked.length), 1.0)
        ends += [worked.closes_at, worked.run_now_at + stretch * worked.length]
        ends += [turn.ended_at for turn in (*worked.turns, *worked.evaluated)]
        ends += [min(member.ends_at, clock.now()) for member in worked.members]
        starts += [turn.started_at for turn in (*worked.turns, *worked.evaluated)]
    start = min(starts)
    return start, max(*ends, start + MICROSECOND)


def _places(record: Record) -> list[str]:
    """Return the known locations of nodes and turns."""
    # Rounds share their mapping of nodes until one joins or leaves: few differ.
    nodes = {id(worked.connected): worked.connected for worked in record.rounds}.values()
    places = {node.place for there in nodes for node in there.values()}
    places |= {turn.place for worked in record.rounds for turn in worked.turns}
    return sorted(places - {UNKNOWN_PLACE})


def _check_provenance(new: IntensityTable, known: Provenance) -> None:
    """Refuse intensity that must not be mixed with that of the run."""
    if known.source is None:
        return  # the run knew of no intensity at all
    if new.signal != known.signal:
        problem = f"its signal is {new.signal}, the run's {known.signal}: they are never mixed"
        raise InputError("--source", problem, "name a source of the same signal")
    if new.synthetic != known.synthetic:
        raise InputError("--source", "made-up numbers are never mixed with real ones", f"name {known.source}")
