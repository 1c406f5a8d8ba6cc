"""Gantt chart of a plan or a run: rounds over the heat map of intensity, one row a location."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from lowcarb_scheduler.clock import from_us
from lowcarb_scheduler.events import UNKNOWN_PLACE
from lowcarb_scheduler.report import formatting, style
from lowcarb_scheduler.report.figure import Picture
from lowcarb_scheduler.report.zones import with_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.accounting.replay import Record, RoundRecord
    from lowcarb_scheduler.events import Window
    from lowcarb_scheduler.intensity import IntensityTable, Ints
    from lowcarb_scheduler.planning.job import Plan

    _Box = tuple["RoundBar", str, "Turns", int, float]  # round, location, turns, row, height

_BEYOND: Final = 0.5  # how far after the rounds a deadline is still shown [fraction of their span]
_ROW_IN, _REST_IN = 0.29, 1.2  # height of a row, and of everything else [inches]
_CHARACTER_PT: Final = 4.2  # width of a digit at the size of ``_SMALL``
_SMALL: Final[dict[str, Any]] = {"ha": "center", "va": "center", "fontsize": 6.5}
_PLOT_SHARE: Final = 0.78  # part of a chart's width that is left for the time axis
_BOX: Final = 0.42  # height of a box, and where its foot is below the middle of the row [rows]
_FOOT: Final = 0.46
_TO_COME: Final = "#ffd7a3"
_RASTER_FROM: Final = 2_000  # boxes; more are drawn as pixels, which keeps the page small


class Turns(NamedTuple):
    """Turns of a round at one location that begin together: begin, end of the last one, and number."""

    starts_at: datetime
    ends_at: datetime
    clients: int


@dataclass(frozen=True, slots=True)
class RoundBar:
    """One round.

    Parameters
    ----------
    number : int
        Its number, from 1.
    opens_at, closes_at : datetime
        Its opening and closing time.
    clients : mapping of str to int
        Number of its clients by location.
    turns : mapping of str to tuple of Turns
        Their turns by location; those of a location that is not in it take the whole round.
    """

    number: int
    opens_at: datetime
    closes_at: datetime
    clients: Mapping[str, int]
    turns: Mapping[str, tuple[Turns, ...]] = field(default_factory=dict)

    def turns_at(self, location: str) -> tuple[Turns, ...]:
        """Return the turns at one location."""
        return self.turns.get(location) or (Turns(self.opens_at, self.closes_at, self.clients[location]),)


@dataclass(frozen=True, slots=True)
class Gantt:
    """Data of the chart.

    Parameters
    ----------
    locations : tuple of str, length L
        The rows, cleanest first.
    intensity : IntensityTable or None
        Its columns are ``locations`` [gCO2eq/kWh]; None where no intensity is known.
    start, end : datetime
        Period of the chart.
    rounds : tuple of RoundBar
        The rounds, in order.
    outlines : tuple of RoundBar
        The rounds of a run's initial plan; empty for a plan.
    upcoming : tuple of RoundBar
        Rounds of a run that have not opened; empty for a plan.
    finish_by : datetime or None
        Deadline.
    hidden : int
        Number of locations without a row.
    """

    locations: tuple[str, ...]
    intensity: IntensityTable | None
    start: datetime
    end: datetime
    rounds: tuple[RoundBar, ...]
    outlines: tuple[RoundBar, ...] = ()
    upcoming: tuple[RoundBar, ...] = ()
    finish_by: datetime | None = None
    hidden: int = 0

    @property
    def most(self) -> int:
        """Largest number of clients of a round at one location."""
        bars = (*self.rounds, *self.upcoming)
        return max([1, *(count for bar in bars for count in bar.clients.values())])


# -- Data -------------------------------------------------------------------------------------------------


def gantt_of_plan(
    plan: Plan, intensity: IntensityTable, now: datetime | None = None, finish_by: datetime | None = None
) -> Gantt:
    """Return the rounds of a plan over the intensity that it was made on."""
    # Seats are counted by arrays: a plan may have a million clients, each an object if asked for.
    names = plan.fleet.locations
    at = plan.fleet.location_index[plan.seats]
    rounds = []
    for number, planned in enumerate(plan.rounds, start=1):
        seats = np.bincount(at[number - 1], minlength=len(names))
        clients = {names[k]: int(seats[k]) for k in np.flatnonzero(seats)}
        turns = _turns_of_plan(names, at[number - 1], plan.starts_us[number - 1], plan.ends_us[number - 1])
        rounds.append(RoundBar(number, planned.opens_at, planned.closes_at, clients, turns))
    return arrange(names, intensity, tuple(rounds), (), now, finish_by)


def _turns_of_plan(
    names: Sequence[str], at: Ints, starts_us: Ints, ends_us: Ints
) -> dict[str, tuple[Turns, ...]]:
    """Return the turns of a round by location; those that begin together are one entry."""
    kinds, inverse = np.unique(np.stack([at, starts_us]), axis=1, return_inverse=True)
    last_us = np.full(kinds.shape[1], np.iinfo(np.int64).min)
    np.maximum.at(last_us, inverse.ravel(), ends_us)
    found: dict[str, tuple[Turns, ...]] = {}
    for (place, start_us), end_us, count in zip(kinds.T, last_us, np.bincount(inverse.ravel()), strict=True):
        turns = Turns(from_us(start_us), from_us(end_us), int(count))
        found[names[place]] = (*found.get(names[place], ()), turns)
    return found


def gantt_of_run(record: Record) -> Gantt | None:
    """Return the closed, coming and initially planned rounds of a run; None before there is any."""
    rounds = tuple(
        RoundBar(worked.number, worked.opens_at, worked.closes_at,
                 Counter(member.location or UNKNOWN_PLACE for member in worked.members), _turns_of(worked))
        for worked in record.rounds
    )  # fmt: skip
    upcoming = tuple(map(_planned_bar, record.upcoming))
    if not rounds and not upcoming:
        return None
    outlines = tuple(map(_planned_bar, record.first_plan.windows if record.first_plan else ()))
    names = tuple(dict.fromkeys(name for bar in (*rounds, *upcoming, *outlines) for name in bar.clients))
    return arrange(
        names, record.known_intensity, rounds, outlines, record.started.at, record.finish_by, upcoming
    )


def _planned_bar(window: Window) -> RoundBar:
    return RoundBar(window.round, window.opens_at, window.closes_at, window.locations)


def _turns_of(worked: RoundRecord) -> dict[str, tuple[Turns, ...]]:
    """Return the turns of a round as they were planned, by location, until they really ended."""
    ended = {turn.id: turn.ended_at for turn in worked.turns}
    starts: dict[str, dict[datetime, list[datetime]]] = {}
    for member in worked.members:
        at = starts.setdefault(member.location or UNKNOWN_PLACE, {})
        at.setdefault(member.starts_at, []).append(
            max(ended.get(member.id, member.ends_at), member.starts_at)
        )
    return {
        name: tuple(Turns(start, max(ends), len(ends)) for start, ends in sorted(at.items()))
        for name, at in starts.items()
    }


def arrange(
    names: Sequence[str],
    intensity: IntensityTable | None,
    rounds: tuple[RoundBar, ...],
    outlines: tuple[RoundBar, ...],
    now: datetime | None,
    finish_by: datetime | None,
    upcoming: tuple[RoundBar, ...] = (),
) -> Gantt:
    """Choose the rows, their order and the period of the chart."""
    bars = (*rounds, *upcoming, *outlines)
    start = min([bar.opens_at for bar in bars] + ([now] if now else []))
    end = max(start + timedelta(minutes=1), *(bar.closes_at for bar in bars))
    # A deadline far away would squeeze the rounds into a corner.
    if finish_by is not None and end < finish_by <= end + _BEYOND * (end - start):
        end = finish_by
    seats: Counter[str] = Counter()
    for bar in bars:
        seats.update(bar.clients)
    # Locations with most clients get a row if there are too many; ties are broken by name.
    rows = sorted(sorted(names, key=lambda name: (-seats[name], name))[: style.MOST_ROWS])
    table = intensity.slice(start, end) if intensity is not None else None
    if table is not None:
        rows = style.cleanest_first(table.align(rows))
        table = table.align(rows)
    hidden = len(names) - len(rows)
    return Gantt(tuple(rows), table, start, end, rounds, outlines, upcoming, finish_by, hidden)


# -- Chart ------------------------------------------------------------------------------------------------


def plot_plan(
    plan: Plan, intensity: IntensityTable, now: datetime | None = None, finish_by: datetime | None = None
) -> Figure:
    """Plot the rounds of a plan over the heat map of intensity.

    Parameters
    ----------
    plan : Plan
        The plan.
    intensity : IntensityTable
        The intensity that it was made on [gCO2eq/kWh].
    now : datetime, optional
        Begin of the chart (default: the first round opens).
    finish_by : datetime, optional
        Deadline, marked by a red line.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rounds = formatting.counted(len(plan.opens_us), "round")
    title = f"Plan: {formatting.mass(plan.emissions_g)} CO2eq in {rounds}"
    if plan.saving is not None:
        title += f", {formatting.percent(plan.saving)} below run-now"
    labels = formatting.labels(plan.provenance)
    return picture_of_rounds(gantt_of_plan(plan, intensity, now, finish_by), title, labels).figure()


def picture_of_run(record: Record) -> Picture | None:
    """Return the chart of a run; None before a round is planned or has closed."""
    if (gantt := gantt_of_run(record)) is None:
        return None
    if gantt.upcoming:
        done, coming = len(gantt.rounds), formatting.counted(len(gantt.upcoming), "planned round")
        title = f"{formatting.counted(done, 'finished round')} and the next {coming}, by time and location"
        title = title if done else f"{coming[:1].upper()}{coming[1:]} by time and location"
    else:
        title = f"{formatting.counted(len(gantt.rounds), 'round')} by time and location"
    return picture_of_rounds(gantt, title, formatting.labels(record.provenance))


def picture_of_rounds(gantt: Gantt, title: str, labels: str) -> Picture:
    """Return the chart with its texts."""
    height_in = _REST_IN + _ROW_IN * len(gantt.locations)
    return Picture("rounds", title, labels, tuple(_legend(gantt)), height_in, partial(_paint, gantt))


def _legend(gantt: Gantt) -> list[str]:
    parts = [f"bars on top: rounds (time: UTC, {gantt.start.year})"]
    if gantt.intensity is not None:
        parts.append("rows: locations, cleanest first; colour: carbon intensity")
    parts.append(f"white boxes: turns, with the number of clients (at most {gantt.most} at one location)")
    if gantt.upcoming:
        parts.append("orange boxes: planned turns of rounds to come")
    if gantt.outlines:
        parts.append("dashed: initial plan")
    if gantt.intensity is None:
        parts.append("intensity is not known")
    elif np.isnan(gantt.intensity.values).any() or gantt.end > gantt.intensity.end:
        parts.append("grey: no data")
    if gantt.finish_by is not None:
        when = f"deadline {formatting.instant(gantt.finish_by)}"
        parts.append(f"red line: {when}" if gantt.finish_by <= gantt.end else f"{when}: outside the chart")
    if gantt.hidden:
        parts.append(f"{gantt.hidden} more locations are not shown")
    return parts


def _paint(gantt: Gantt, figure: Figure) -> None:
    axes = figure.subplots()
    narrow = style.is_narrow(axes)
    style.heat_map(axes, gantt.intensity, gantt.locations, gantt.start, gantt.end)
    axes.set_ylim(len(gantt.locations) - 0.5, -1.3)  # room for the bars on top
    points_a_day = _PLOT_SHARE * figure.get_figwidth() * 72 / (style.day(gantt.end) - style.day(gantt.start))
    rows = {name: row for row, name in enumerate(gantt.locations)}
    # An outline is higher than any box, so that it is seen around the box of a round that ran as planned.
    _add_boxes(
        axes, _boxes(gantt.outlines, rows, 0.92), facecolor="none", edgecolor=style.PLANNED,
        linewidth=0.6 if narrow else 1.1, linestyle=(0, (2, 1.5)),
    )  # fmt: skip
    # Boxes lie at the foot of their row: the intensity that they were chosen for stays in sight above them.
    done, coming = _boxes(gantt.rounds, rows, _BOX), _boxes(gantt.upcoming, rows, _BOX)
    look = {"edgecolor": style.ON_HEAT, "linewidth": 0.3 if narrow else 0.7}
    tips = [_tip(bar, name, turns) for bar, name, turns, *_ in done]
    style.tip(_add_boxes(axes, done, facecolor=style.BOX, **look), *tips)
    planned = [f"planned {_tip(bar, name, turns)}" for bar, name, turns, *_ in coming]
    style.tip(_add_boxes(axes, coming, facecolor=_TO_COME, **look), *planned)
    for _, _, turns, row, height in (*done, *coming):
        opens, closes = style.day(turns.starts_at), style.day(turns.ends_at)
        # A number that is wider than its box is left out.
        if (closes - opens) * points_a_day > _CHARACTER_PT * len(str(turns.clients)) + 0.4:
            middle = (opens + closes) / 2, row + _FOOT - height / 2
            axes.text(*middle, str(turns.clients), color=style.ON_HEAT, **_SMALL)
    _number_rounds(axes, (*gantt.rounds, *gantt.upcoming), points_a_day)
    if gantt.finish_by is not None and gantt.finish_by <= gantt.end:
        axes.axvline(style.day(gantt.finish_by), color=style.DEADLINE, linewidth=2)


def _boxes(rounds: Iterable[RoundBar], rows: Mapping[str, int], height: float) -> list[_Box]:
    """Return the turns of every round at every location that has a row, with row and height of their box."""
    return [
        (bar, name, turns, rows[name], height)
        for bar in rounds
        for name in bar.clients
        if name in rows
        for turns in bar.turns_at(name)
    ]


def _tip(bar: RoundBar, name: str, turns: Turns) -> str:
    """Write the meaning of a box."""
    clients = formatting.counted(turns.clients, "client")
    return f"round {bar.number}: {clients} at {with_name(name)}, {formatting.span(*turns[:2])} UTC"


def _add_boxes(axes: Axes, boxes: Sequence[_Box], **look: Any) -> PatchCollection:
    """Draw boxes; one collection is much faster than single patches."""
    patches = []
    for _, _, turns, row, height in boxes:
        left, right = style.day(turns.starts_at), style.day(turns.ends_at)
        foot = row + (_FOOT if height == _BOX else height / 2)
        patches.append(Rectangle((left, foot - height), right - left, height))
    collection = PatchCollection(patches, rasterized=len(patches) > _RASTER_FROM, **look)
    axes.add_collection(collection)
    return collection


def _number_rounds(axes: Axes, rounds: Sequence[RoundBar], points_a_day: float) -> None:
    """Draw the rounds above all rows, with as many of their numbers as fit."""
    spans = [style.day(bar.opens_at) for bar in rounds], [style.day(bar.closes_at) for bar in rounds]
    lines = axes.hlines([-0.62] * len(rounds), *spans, color=style.INK, linewidth=2, capstyle="butt")
    style.tip(lines, *(f"round {bar.number}: {formatting.span(bar.opens_at, bar.closes_at)} UTC"
                       for bar in rounds))  # fmt: skip
    free_from = -np.inf
    for bar, left, right in zip(rounds, *spans, strict=True):
        half = _CHARACTER_PT * len(str(bar.number)) / points_a_day / 2
        middle = (left + right) / 2
        if middle - half > free_from:
            axes.text(middle, -0.95, str(bar.number), color=style.INK, **_SMALL)
            free_from = middle + half + 2.5 / points_a_day
