"""Pictures: every function first gathers what is to be seen, then draws it, and returns the figure.

Nothing is shown, and nothing global is changed: figures are built without pyplot. ``save`` writes one; equal
figures give equal files.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.accounting.replay import deadline_of, entry_time, known_intensity, provenance_of
from lowcarb_scheduler.errors import InputError, MissingExtraError
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.figure import Picture
from lowcarb_scheduler.report.style import (
    BOX,
    DEADLINE,
    INK,
    NARROW_IN,
    NO_VALUE,
    ON_HEAT,
    PLANNED,
    WIDTH_IN,
    day,
    heat_map,
    new_figure,
    short_name,
    time_axis,
    writing,
)
from lowcarb_scheduler.validation import coordinates_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path
    from typing import BinaryIO

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Plan

# -- Where locations lie from east to west, so that what the sun does is seen in a picture ------------------
# ``longitudes.csv`` holds grid zones as Electricity Maps names them, Azure regions as the Carbon Aware SDK
# does, and countries, each by where most of its people live. It orders rows; nothing is computed from it.


def longitude(location: str) -> float | None:
    """Return how far east a location lies [degrees], None where that is not known.

    Parameters
    ----------
    location : str
        A name, or ``latitude,longitude`` in degrees. Of a name that is not known, what stands before its last
        hyphen or underscore is tried: ``US-CAL-LDWP`` lies in ``US``.
    """
    if (coordinates := coordinates_of(location)) is not None:
        return coordinates[1] if abs(coordinates[1]) <= 180 else None
    known, name = _table(), location.casefold()
    while name not in known:
        shorter = re.sub(r"[-_][^-_]*$", "", name)
        if shorter == name:
            return None
        name = shorter
    return known[name]


@cache
def _table() -> Mapping[str, float]:
    text = resources.files("lowcarb_scheduler.report").joinpath("longitudes.csv").read_text("utf-8")
    rows = csv.DictReader(text.splitlines())
    return {row["location"].casefold(): float(row["degrees_east"]) for row in rows}


# -- What the picture of a plan or a run shows: when each round ran, and where its clients sat --------------
# This module only gathers; :mod:`lowcarb_scheduler.report.rounds` draws.

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
                    RoundBar(window["round"], entry_time(window, "opens_at"), entry_time(window, "closes_at"),
                             window["locations"])
                    for window in event["windows"]
                )  # fmt: skip
            case "round_opened":
                nodes[event["round"]] = Counter(node["location"] or "unknown" for node in event["nodes"])
            case "round_closed":
                opens_at, closes_at = entry_time(event, "opens_at"), entry_time(event, "closes_at")
                number = event["round"]
                rounds.append(RoundBar(number, opens_at, closes_at, nodes.get(number, Counter())))
    if not rounds:
        return None
    names = tuple(dict.fromkeys(name for r in (*rounds, *outlines) for name in r.clients))
    known, finish_by = known_intensity(events), deadline_of(events)
    return arrange(names, known, tuple(rounds), outlines, events[0]["at"], finish_by)


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


try:
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle
except ImportError:
    raise MissingExtraError("matplotlib", "report") from None


_CHARACTER_PT: Final = 4.2  # width of a digit at the size of the small print
_SMALL: Final[dict[str, Any]] = {"ha": "center", "va": "center", "fontsize": 6.5}
_PLOT_SHARE: Final = 0.78  # of the width of a picture: what is left for time
_RASTER_FROM: Final = 2_000  # bars; more are drawn as pixels, so that a page stays light


def plot_plan(
    plan: Plan, intensity: IntensityTable, now: datetime | None = None, finish_by: datetime | None = None
) -> Figure:
    """Draw a plan's rounds over the heat map of the intensity it rests on.

    Parameters
    ----------
    plan : Plan
        What was planned.
    intensity : IntensityTable
        What it was planned on [gCO2eq/kWh].
    now, finish_by : datetime, optional
        Where the picture begins, and the deadline.

    Returns
    -------
    matplotlib.figure.Figure
    """
    title = f"Plan: {formatting.mass(plan.emissions_g)} CO2eq in {len(plan.opens_us)} rounds"
    if plan.saving is not None:
        title += f", {formatting.percent(plan.saving)} below run-now"
    labels = formatting.labels(plan.provenance)
    return _picture(gantt_of_plan(plan, intensity, now, finish_by), title, labels).figure()


def picture_of_run(events: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Gather what a run did, from the events of its ledger; dashed where its first plan had the rounds.

    Returns
    -------
    Picture or None
        None where no round has closed yet.
    """
    gantt = gantt_of_run(events)
    if gantt is None:
        return None
    return _picture(
        gantt,
        f"When and where {formatting.counted(len(gantt.rounds), 'round')} ran",
        formatting.labels(provenance_of(events)),
    )


def save(figure: Figure, file: Path | BinaryIO, kind: str | None = None) -> None:
    """Write a figure: .png, .svg or .pdf, by its suffix or ``kind``.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    kind = kind or str(file).rpartition(".")[2].lower()
    undated: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[kind]
    with writing():
        try:
            figure.savefig(file, format=kind, metadata=undated, dpi=150, facecolor="white")
        except OSError as error:
            problem = f"{file} cannot be written ({error.strerror})"
            raise InputError("plot", problem, "give another file") from None


# -- drawing -----------------------------------------------------------------------------------------------


def _picture(gantt: Gantt, title: str, labels: str) -> Picture:
    most = max([1, *(count for bar in gantt.rounds for count in bar.clients.values())])

    def draw(width_in: float) -> Figure:
        return _draw_gantt(gantt, most, width_in)

    return Picture("rounds", title, labels, tuple(_legend(gantt, most)), draw)


def _draw_gantt(gantt: Gantt, most: int, width_in: float) -> Figure:
    height, is_wide = len(gantt.locations), width_in > NARROW_IN
    figure = new_figure(1.2 + (0.32 if width_in == WIDTH_IN else 0.27) * height, width_in)
    axes = figure.subplots()
    left, right = day(gantt.start), day(gantt.end)
    axes.add_patch(Rectangle((left, -0.5), right - left, height, facecolor=NO_VALUE))
    if gantt.intensity is not None:
        heat_map(figure, axes, gantt.intensity)
    rows = {name: row for row, name in enumerate(gantt.locations)}
    bars = _seats(gantt.rounds, rows)
    points_a_day = _PLOT_SHARE * width_in * 72 / (right - left)
    _add_boxes(
        axes, [(bar, row, 0.92) for bar, row, _ in _seats(gantt.outlines, rows)],
        facecolor="none", edgecolor=PLANNED, linewidth=1.1 if is_wide else 0.6,
        linestyle=(0, (2, 1.5)),
    )  # fmt: skip
    _add_boxes(
        axes, [(bar, row, 0.3 + 0.4 * count / most) for bar, row, count in bars],
        facecolor=BOX, edgecolor=ON_HEAT, linewidth=0.7 if is_wide else 0.3,
    )  # fmt: skip
    for bar, row, count in bars:
        opens, closes = day(bar.opens_at), day(bar.closes_at)
        if (closes - opens) * points_a_day > _CHARACTER_PT * len(str(count)) + 0.4:
            axes.text((opens + closes) / 2, row, str(count), color=ON_HEAT, **_SMALL)
    _number_rounds(axes, gantt.rounds, points_a_day)
    if gantt.finish_by is not None and gantt.finish_by <= gantt.end:
        axes.axvline(day(gantt.finish_by), color=DEADLINE, linewidth=2)
    axes.set_yticks(range(height), labels=[short_name(name) for name in gantt.locations], fontsize=8)
    axes.set_ylim(height - 0.5, -1.3)
    margin = (right - left) * 0.005
    axes.set_xlim(left - margin, right + margin)
    time_axis(axes, gantt.start, gantt.end, most=14 if is_wide else 4)
    axes.spines[:].set_visible(False)
    return figure


def _seats(rounds: Sequence[RoundBar], rows: Mapping[str, int]) -> list[tuple[RoundBar, int, int]]:
    """Return round, row and number of clients wherever a round has clients on a row."""
    return [(bar, rows[name], count) for bar in rounds for name, count in bar.clients.items() if name in rows]


def _add_boxes(axes: Axes, boxes: Sequence[tuple[RoundBar, int, float]], **style: Any) -> None:
    """Add a box for each round, row and height."""
    patches = []
    for bar, row, height in boxes:
        left, right = day(bar.opens_at), day(bar.closes_at)
        patches.append(Rectangle((left, row - height / 2), right - left, height))
    axes.add_collection(PatchCollection(patches, rasterized=len(patches) > _RASTER_FROM, **style))


def _number_rounds(axes: Axes, rounds: Sequence[RoundBar], points_a_day: float) -> None:
    """Draw the rounds above all, and write their numbers there, as many as fit."""
    spans = [day(bar.opens_at) for bar in rounds], [day(bar.closes_at) for bar in rounds]
    axes.hlines([-0.62] * len(rounds), *spans, color=INK, linewidth=2, capstyle="butt")
    free_from = -np.inf
    for bar in rounds:
        left, right = day(bar.opens_at), day(bar.closes_at)
        half = _CHARACTER_PT * len(str(bar.number)) / points_a_day / 2
        middle = (left + right) / 2
        if middle - half > free_from:
            axes.text(middle, -0.95, str(bar.number), color=INK, **_SMALL)
            free_from = middle + half + 2.5 / points_a_day


def _legend(gantt: Gantt, most: int) -> list[str]:
    parts = [f"bars on top: rounds (time: UTC, {gantt.start.year})"]
    if any(longitude(name) is not None for name in gantt.locations):
        parts.append("rows: locations from east to west")
    parts.append(f"boxes: how many clients train there (most: {most})")
    if gantt.outlines:
        parts.append("dashed: the first plan")
    if gantt.intensity is None:
        parts.append("intensity is not known")
    elif np.isnan(gantt.intensity.values).any() or gantt.end > gantt.intensity.end:
        parts.append("grey: no value")
    if gantt.finish_by is not None:
        when = f"deadline {formatting.instant(gantt.finish_by)}"
        parts.append(f"red line: {when}" if gantt.finish_by <= gantt.end else f"the {when} lies beyond")
    if gantt.hidden:
        parts.append(f"{gantt.hidden} more locations are not shown")
    return parts
