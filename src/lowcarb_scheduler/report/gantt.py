"""What the picture of a plan or a run shows: when each round ran, and where its clients sat.

This module only gathers; :mod:`lowcarb_scheduler.report.plots` draws.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.intensity import IntensityTable
from lowcarb_scheduler.report.longitudes import longitude

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.planning.job import Plan

MOST_ROWS: Final = 40  # locations that can still be told apart on one page
_BEYOND: Final = 0.5  # of the span of the rounds: how far after them a deadline is still drawn


@dataclass(frozen=True, slots=True)
class RoundBar:
    """One round: its number, when it opened and closed, and its clients by location."""

    number: int
    opens_at: datetime
    closes_at: datetime
    clients: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Gantt:
    """Rounds over the heat map of intensity.

    Parameters
    ----------
    locations : tuple of str, length L
        The rows: from east to west, then those that lie nobody knows where, cleanest first.
    intensity : IntensityTable or None
        Its columns are ``locations``; None where nothing is known [gCO2eq/kWh].
    start, end : datetime
        What is shown.
    rounds : tuple of RoundBar
        The rounds, in order.
    outlines : tuple of RoundBar
        Where they were planned at first; empty where that is the same question.
    finish_by : datetime or None
        The deadline.
    hidden : int
        How many locations had no row.
    """

    locations: tuple[str, ...]
    intensity: IntensityTable | None
    start: datetime
    end: datetime
    rounds: tuple[RoundBar, ...]
    outlines: tuple[RoundBar, ...] = ()
    finish_by: datetime | None = None
    hidden: int = 0


def gantt_of_plan(
    plan: Plan, intensity: IntensityTable, now: datetime | None = None, finish_by: datetime | None = None
) -> Gantt:
    """Gather the rounds of a plan over the intensity it rests on."""
    names = plan.fleet.locations
    at = plan.fleet.location_index[plan.seats]
    rounds = []
    for number, planned in enumerate(plan.rounds, start=1):
        seats = np.bincount(at[number - 1], minlength=len(names))
        clients = {names[k]: int(seats[k]) for k in np.flatnonzero(seats)}
        rounds.append(RoundBar(number, planned.opens_at, planned.closes_at, clients))
    return arrange(names, intensity, tuple(rounds), (), now, finish_by)


def gantt_of_run(events: Sequence[Mapping[str, Any]]) -> Gantt | None:
    """Gather the rounds of a run, and its first plan, from the events of its ledger.

    Returns
    -------
    Gantt or None
        None where no round has closed yet.
    """
    nodes: dict[int, Counter[str]] = {}
    rounds: list[RoundBar] = []
    outlines: tuple[RoundBar, ...] = ()
    for event in events:
        match event["event"]:
            case "planned" if not outlines:
                outlines = tuple(
                    RoundBar(window["round"], _time(window, "opens_at"), _time(window, "closes_at"),
                             window["locations"])
                    for window in event["windows"]
                )  # fmt: skip
            case "round_opened":
                nodes[event["round"]] = Counter(node["location"] or "unknown" for node in event["nodes"])
            case "round_closed":
                opens_at, closes_at = _time(event, "opens_at"), _time(event, "closes_at")
                number = event["round"]
                rounds.append(RoundBar(number, opens_at, closes_at, nodes.get(number, Counter())))
    if not rounds:
        return None
    names = tuple(dict.fromkeys(name for r in (*rounds, *outlines) for name in r.clients))
    known, finish_by = known_intensity(events), deadline_of(events)
    return arrange(names, known, tuple(rounds), outlines, events[0]["at"], finish_by)


def deadline_of(events: Sequence[Mapping[str, Any]]) -> datetime | None:
    """Return when a run had to be over, as it said last; None where it did not have to."""
    ended = next((event for event in reversed(events) if event["event"] == "run_finished"), events[0])
    finish_by = ended["finish_by"]
    return parse_time(finish_by, "finish_by") if finish_by else None


def known_intensity(events: Iterable[Mapping[str, Any]]) -> IntensityTable | None:
    """Return what a ledger knows of intensity: actuals, and where there are none the newest forecast.

    None where it holds neither.
    """
    forecasts: list[IntensityTable] = []
    actuals: list[IntensityTable] = []
    for event in events:
        if event["event"] in ("forecast", "actual"):
            (actuals if event["event"] == "actual" else forecasts).append(IntensityTable.from_record(event))
    return _overlaid([*forecasts, *actuals])


class Labels(NamedTuple):
    """What numbers of intensity are: where they come from, what they measure, whether they are made up."""

    source: str | None
    signal: str
    synthetic: bool


def labels_of(events: Sequence[Mapping[str, Any]]) -> Labels:
    """Return what a ledger's intensities are, as forecasts and actuals say; no source where it has none."""
    known = [event for event in events if event["event"] in ("forecast", "actual")]
    if known:
        return Labels(known[-1]["source"], known[-1]["signal"], known[-1]["synthetic"])
    return Labels(None, "unknown", synthetic=events[0]["source"] == "synthetic")


def _overlaid(tables: Sequence[IntensityTable]) -> IntensityTable | None:
    """Return one table, in which a later one covers those before it wherever it has a value."""
    if not tables:
        return None
    locations = tuple(dict.fromkeys(name for table in tables for name in table.locations))
    edges = np.unique(np.concatenate([table.edges_us for table in tables]))
    values = np.full((len(edges) - 1, len(locations)), np.nan)
    for table in tables:
        step = np.searchsorted(table.edges_us, edges[:-1], side="right") - 1
        inside = (step >= 0) & (step < len(table.values))
        found = table.align(locations).values[step[inside]]
        values[inside] = np.where(np.isnan(found), values[inside], found)
    last = tables[-1]
    return last.relaid(edges, locations, values)


def arrange(
    names: Sequence[str],
    intensity: IntensityTable | None,
    rounds: tuple[RoundBar, ...],
    outlines: tuple[RoundBar, ...],
    now: datetime | None,
    finish_by: datetime | None,
) -> Gantt:
    """Choose what is shown: which rows, in which order, and from when to when."""
    bars = (*rounds, *outlines)
    start = min([bar.opens_at for bar in bars] + ([now] if now else []))
    end = max(start + timedelta(minutes=1), *(bar.closes_at for bar in bars))
    if finish_by is not None and end < finish_by <= end + _BEYOND * (end - start):
        end = finish_by
    shown = intensity.slice(start, end) if intensity is not None else None
    seats: Counter[str] = Counter()
    for bar in bars:
        seats.update(bar.clients)
    kept = sorted(names, key=lambda name: (-seats[name], name))[:MOST_ROWS]
    means = dict.fromkeys(kept, np.inf)
    if shown is not None:
        shown = shown.align(kept)
        hours = np.where(np.isnan(shown.values), 0.0, np.diff(shown.edges_us)[:, None])
        known = hours.sum(axis=0)
        sums = (np.nan_to_num(shown.values) * hours).sum(axis=0)
        means |= {name: sums[k] / known[k] for k, name in enumerate(kept) if known[k]}
    rows = tuple(sorted(kept, key=lambda name: (_west(name), means[name], name)))
    table = shown.align(rows) if shown is not None else None
    return Gantt(rows, table, start, end, rounds, outlines, finish_by, len(names) - len(rows))


def _west(location: str) -> float:
    """Return how far west a location lies [degrees], beyond all where that is not known."""
    east = longitude(location)
    return np.inf if east is None else -east


def _time(entry: Mapping[str, Any], key: str) -> datetime:
    return parse_time(entry[key], key)
