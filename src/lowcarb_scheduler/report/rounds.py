"""Gantt chart of a plan or a run: rounds over the heat map of intensity, one row a location."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle

from lowcarb_scheduler.events import UNKNOWN_PLACE
from lowcarb_scheduler.report import formatting, style
from lowcarb_scheduler.report.figure import Picture

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.accounting.replay import Record
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Plan

_BEYOND: Final = 0.5  # how far after the rounds a deadline is still shown [fraction of their span]
_ROW_IN, _REST_IN = 0.29, 1.2  # height of a row, and of everything else [inches]
_CHARACTER_PT: Final = 4.2  # width of a digit at the size of ``_SMALL``
_SMALL: Final[dict[str, Any]] = {"ha": "center", "va": "center", "fontsize": 6.5}
_PLOT_SHARE: Final = 0.78  # part of a chart's width that is left for the time axis
_RASTER_FROM: Final = 2_000  # boxes; more are drawn as pixels, which keeps the page small


@dataclass(frozen=True, slots=True)
class RoundBar:
    """One round: its number, its opening and closing time, and its number of clients by location."""

    number: int
    opens_at: datetime
    closes_at: datetime
    clients: Mapping[str, int]


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
    finish_by: datetime | None = None
    hidden: int = 0

    @property
    def most(self) -> int:
        """Largest number of clients of a round at one location."""
        return max([1, *(count for bar in self.rounds for count in bar.clients.values())])


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
        rounds.append(RoundBar(number, planned.opens_at, planned.closes_at, clients))
    return arrange(names, intensity, tuple(rounds), (), now, finish_by)


def gantt_of_run(record: Record) -> Gantt | None:
    """Return the closed rounds of a run, and those of its initial plan; None before one has closed."""
    rounds = tuple(
        RoundBar(worked.number, worked.opens_at, worked.closes_at,
                 Counter(member.location or UNKNOWN_PLACE for member in worked.members))
        for worked in record.rounds
    )  # fmt: skip
    if not rounds:
        return None
    outlines = tuple(
        RoundBar(window.round, window.opens_at, window.closes_at, window.locations)
        for window in (record.first_plan.windows if record.first_plan else ())
    )
    names = tuple(dict.fromkeys(name for bar in (*rounds, *outlines) for name in bar.clients))
    return arrange(names, record.known_intensity, rounds, outlines, record.started.at, record.finish_by)


def arrange(
    names: Sequence[str],
    intensity: IntensityTable | None,
    rounds: tuple[RoundBar, ...],
    outlines: tuple[RoundBar, ...],
    now: datetime | None,
    finish_by: datetime | None,
) -> Gantt:
    """Choose the rows, their order and the period of the chart."""
    bars = (*rounds, *outlines)
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
    return Gantt(tuple(rows), table, start, end, rounds, outlines, finish_by, len(names) - len(rows))


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
    """Return the chart of a run; None before a round has closed."""
    if (gantt := gantt_of_run(record)) is None:
        return None
    title = f"{formatting.counted(len(gantt.rounds), 'round')} by time and location"
    return picture_of_rounds(gantt, title, formatting.labels(record.provenance))


def picture_of_rounds(gantt: Gantt, title: str, labels: str) -> Picture:
    """Return the chart with its texts."""
    height_in = _REST_IN + _ROW_IN * len(gantt.locations)
    return Picture("rounds", title, labels, tuple(_legend(gantt)), height_in, partial(_paint, gantt))


def _legend(gantt: Gantt) -> list[str]:
    parts = [f"bars on top: rounds (time: UTC, {gantt.start.year})"]
    if gantt.intensity is not None:
        parts.append("rows: locations, cleanest first")
    parts.append(f"boxes: number of clients that train there (at most {gantt.most})")
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
    planned = [(bar, row, 0.92) for bar, row, _ in _seats(gantt.outlines, rows)]
    _add_boxes(
        axes, planned, facecolor="none", edgecolor=style.PLANNED, linewidth=0.6 if narrow else 1.1,
        linestyle=(0, (2, 1.5)),
    )  # fmt: skip
    bars = _seats(gantt.rounds, rows)
    boxes = [(bar, row, 0.3 + 0.4 * count / gantt.most) for bar, row, count in bars]
    _add_boxes(axes, boxes, facecolor=style.BOX, edgecolor=style.ON_HEAT, linewidth=0.3 if narrow else 0.7)
    for bar, row, count in bars:
        opens, closes = style.day(bar.opens_at), style.day(bar.closes_at)
        # A number that is wider than its box is left out.
        if (closes - opens) * points_a_day > _CHARACTER_PT * len(str(count)) + 0.4:
            axes.text((opens + closes) / 2, row, str(count), color=style.ON_HEAT, **_SMALL)
    _number_rounds(axes, gantt.rounds, points_a_day)
    if gantt.finish_by is not None and gantt.finish_by <= gantt.end:
        axes.axvline(style.day(gantt.finish_by), color=style.DEADLINE, linewidth=2)


def _seats(rounds: Iterable[RoundBar], rows: Mapping[str, int]) -> list[tuple[RoundBar, int, int]]:
    """Return round, row and number of clients of every round at every location that has a row."""
    return [(bar, rows[name], count) for bar in rounds for name, count in bar.clients.items() if name in rows]


def _add_boxes(axes: Axes, boxes: Sequence[tuple[RoundBar, int, float]], **look: Any) -> None:
    """Draw a box for every round, row and height; one collection is much faster than single patches."""
    patches = []
    for bar, row, height in boxes:
        left, right = style.day(bar.opens_at), style.day(bar.closes_at)
        patches.append(Rectangle((left, row - height / 2), right - left, height))
    axes.add_collection(PatchCollection(patches, rasterized=len(patches) > _RASTER_FROM, **look))


def _number_rounds(axes: Axes, rounds: Sequence[RoundBar], points_a_day: float) -> None:
    """Draw the rounds above all rows, with as many of their numbers as fit."""
    spans = [style.day(bar.opens_at) for bar in rounds], [style.day(bar.closes_at) for bar in rounds]
    axes.hlines([-0.62] * len(rounds), *spans, color=style.INK, linewidth=2, capstyle="butt")
    free_from = -np.inf
    for bar, left, right in zip(rounds, *spans, strict=True):
        half = _CHARACTER_PT * len(str(bar.number)) / points_a_day / 2
        middle = (left + right) / 2
        if middle - half > free_from:
            axes.text(middle, -0.95, str(bar.number), color=style.INK, **_SMALL)
            free_from = middle + half + 2.5 / points_a_day
