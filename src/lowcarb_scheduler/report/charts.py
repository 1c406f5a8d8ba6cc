"""The picture of the waterfall: what leads from the emissions of run-now to those that were realised."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from lowcarb_scheduler.accounting.emissions import jain_index
from lowcarb_scheduler.backtest.comparison import SCHEDULER
from lowcarb_scheduler.clock import from_us, parse_time, to_us
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.figure import Picture
from lowcarb_scheduler.report.style import (
    DAY_US,
    FAINT,
    INK,
    LINE,
    NARROW_IN,
    NO_VALUE,
    PLANNED,
    SOFT,
    UNIT,
    clean,
    day,
    explain,
    head,
    new_figure,
    short_name,
    time_axis,
    whole_numbers,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.accounting.attribution import Step
    from lowcarb_scheduler.backtest import Comparison
    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints
    from lowcarb_scheduler.ledger import RunSummary

_HALF: Final = 0.31  # of a row: half the height of a bar
_NOTHING: Final = 1e-9  # of run-now: what is left of rounding
_ROOM: Final = {True: 1.16, False: 1.34}  # on a wide and on a narrow picture: for what stands beside bars


def picture_of_waterfall(steps: Sequence[Step], labels: str) -> Picture | None:
    """Return a bar a step, from run-now above to realised below; None where there are no steps."""
    if not steps:
        return None
    run_now_g, realised_g = steps[0].change_g, steps[-1].change_g
    title = f"From run-now ({formatting.mass(run_now_g)}) to realised ({formatting.mass(realised_g)})"
    says = ("blue: less", "orange: more", "percent are of run-now")
    return Picture("waterfall", title, labels, says, lambda width_in: _draw_waterfall(steps, width_in))


def _draw_waterfall(steps: Sequence[Step], width_in: float) -> Figure:
    figure = new_figure(0.5 + 0.36 * len(steps), width_in)
    axes = figure.subplots()
    unit_g, unit = formatting.mass_unit(max(abs(step.change_g) for step in steps))
    base_g = steps[0].change_g
    at_g, ends = 0.0, []
    for row, step in enumerate(steps):
        start_g = 0.0 if step.kind == "level" else at_g
        at_g = start_g + step.change_g
        left, right = sorted((start_g / unit_g, at_g / unit_g))
        colour = FAINT if step.kind == "level" else LINE if step.change_g <= 0 else PLANNED
        if row == len(steps) - 1 and step.kind == "level":
            colour = INK
        axes.barh(row, right - left, left=left, height=2 * _HALF, color=colour)
        if row + 1 < len(steps):
            axes.plot([at_g / unit_g] * 2, [row + _HALF, row + 1 - _HALF], color=FAINT, linewidth=0.8)
        axes.annotate(
            _says(step, base_g, unit_g, unit), (right, row), xytext=(5, 0), textcoords="offset points",
            va="center", fontsize=8.5, color=INK,
        )  # fmt: skip
        ends += [left, right]
    low, high = min(0.0, *ends), max(ends)
    axes.set_xlim(low, low + (high - low or 1.0) * _ROOM[width_in > NARROW_IN])
    axes.set_yticks(range(len(steps)), labels=[step.name for step in steps])
    axes.set_ylim(len(steps) - 0.5, -0.5)
    clean(axes, "x")
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.set_xlabel(f"emissions of training [{unit}CO2eq]", fontsize=8.5, color=INK)
    return figure


def _says(step: Step, base_g: float, unit_g: float, unit: str) -> str:
    if abs(step.change_g) < _NOTHING * abs(base_g):
        return "0"
    value = formatting.significant(abs(step.change_g) / unit_g)
    if step.kind == "level":
        return f"{'−' if step.change_g < 0 else ''}{value} {unit}"
    sign = "−" if step.change_g < 0 else "+"
    part = f" ({sign}{formatting.percent(abs(step.change_g) / base_g)})" if base_g > 0 else ""
    return f"{sign}{value} {unit}{part}"


# -- The picture of participation: how many turns each client completed -------------------------------------


def picture_of_turns(turns: Mapping[str, int], labels: str) -> Picture | None:
    """Return a bar a client, or for a large fleet a bar for each number of turns; None without clients."""
    if not turns:
        return None
    counts, jain = sorted(turns.values()), jain_index(list(turns.values()))
    title = _title(counts)
    fair = f"Jain's index {jain:.3f} (1: all alike; {1 / len(turns):.3f}: one client took every turn)"
    if len(turns) <= MOST_CLIENTS:
        bars = sorted(turns.items(), key=_natural)
        return Picture("turns", title, labels, ("a bar a client", fair), lambda w: _draw_clients(bars, w))
    clients = Counter(counts)
    numbers = [(turn, clients[turn]) for turn in range(counts[0], counts[-1] + 1)]
    says = ("a bar for each number of turns: how many clients completed as many", fair)
    return Picture("turns", title, labels, says, lambda w: _draw_numbers(numbers, w))


def _title(counts: Sequence[int]) -> str:
    """Say how many turns sorted ``counts`` are from and to."""
    least, most = counts[0], counts[-1]
    turns = (
        formatting.counted(most, "turn")
        if least == most
        else f"{least} to {formatting.counted(most, 'turn')}"
    )
    each = " each" if len(counts) > 1 else ""
    return f"{formatting.counted(len(counts), 'client')} completed {turns}{each}"


def _natural(item: tuple[str, int]) -> list[str | int]:
    """Order names as people do: site-2 before site-10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", item[0])]


def _draw_clients(bars: Sequence[tuple[str, int]], width_in: float) -> Figure:
    figure = new_figure(0.6 + 0.17 * len(bars), width_in)
    axes = figure.subplots()
    rows = range(len(bars))
    axes.barh(rows, [count for _, count in bars], height=0.5, color=LINE)
    axes.set_yticks(rows, labels=[short_name(name) for name, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, max(1, *(count for _, count in bars)) * 1.02)
    clean(axes, "x")
    axes.tick_params(axis="y", length=0)
    whole_numbers(axes.xaxis, 10)
    axes.set_xlabel("completed turns", fontsize=8.5, color=INK)
    return figure


def _draw_numbers(numbers: Sequence[tuple[int, int]], width_in: float) -> Figure:
    figure = new_figure(2.4, width_in)
    axes = figure.subplots()
    bars = axes.bar([turns for turns, _ in numbers], [of for _, of in numbers], width=0.7, color=LINE)
    if len(numbers) <= (20 if width_in > NARROW_IN else 10):
        axes.bar_label(bars, fontsize=8.5, color=INK, padding=2)
    axes.margins(y=0.12)
    axes.set_xlim(numbers[0][0] - 1, numbers[-1][0] + 1)
    clean(axes)
    whole_numbers(axes.xaxis, 12)
    whole_numbers(axes.yaxis, 5)
    axes.set_xlabel("completed turns", fontsize=8.5, color=INK)
    axes.set_ylabel("clients", fontsize=8.5, color=INK)
    return figure


# -- The picture of choice: intensity where and when clients trained, against that of all clients' places ---

_RANGE: Final = (10, 90)  # percent of clients: what is shaded

MOST_CLIENTS: Final = 30  # bars or rows, one a client; a larger fleet is shown by how many had so many turns


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Intensity of the places of all clients by step, and of those that trained by round [gCO2eq/kWh].

    Parameters
    ----------
    edges_us : ndarray of int64, shape (S + 1,)
        The steps [µs since 1970 UTC].
    mean, low, high : ndarray of float64, shape (S,)
        Over all clients: mean, and the range of the middle 80 % of them; NaN in a gap.
    rounds : tuple of (datetime, datetime, float)
        When a round opened and closed, and the mean of its clients' places meanwhile.
    """

    edges_us: Ints
    mean: Floats
    low: Floats
    high: Floats
    rounds: tuple[tuple[datetime, datetime, float], ...]

    @property
    def chosen_mean(self) -> float:
        """Mean of the rounds, each as long as it was."""
        hours = [(closes - opens).total_seconds() for opens, closes, _ in self.rounds]
        return float(np.average([mean for _, _, mean in self.rounds], weights=np.maximum(hours, 1.0)))

    @property
    def all_mean(self) -> float:
        """Mean of all clients' places over the whole run."""
        known = ~np.isnan(self.mean)
        return float(np.average(self.mean[known], weights=np.diff(self.edges_us)[known]))


def choice_of_run(events: Sequence[Mapping[str, Any]], intensity: IntensityTable | None) -> Choice | None:
    """Gather the intensity of chosen and of all places; None where too little is known.

    Parameters
    ----------
    events : sequence of mapping
        The run's.
    intensity : IntensityTable or None
        What is known of it.
    """
    places: dict[str, str] = {}
    seats: dict[int, Counter[str]] = {}
    spans: list[tuple[int, datetime, datetime]] = []
    for event in events:
        match event["event"]:
            case "nodes":
                places |= {node["id"]: node.get("location") or "" for node in event["joined"]}
            case "round_opened":
                seats[event["round"]] = Counter(
                    node["location"] for node in event["nodes"] if node["location"]
                )
            case "round_closed":
                times = (parse_time(event[key], key) for key in ("opens_at", "closes_at"))
                spans.append((event["round"], *times))
    if intensity is None or not spans or not places:
        return None
    shown = intensity.slice(events[0]["at"], max(closes for _, _, closes in spans))
    names = sorted(set(places.values()) & set(intensity.locations))
    if shown is None or not names:
        return None
    clients = Counter(places.values())
    values = shown.align(names).values.repeat([clients[name] for name in names], axis=1)
    rounds = []
    for number, opens, closes in spans:
        if (mean := _mean(intensity, seats.get(number, Counter()), opens, closes)) is not None:
            rounds.append((opens, closes, mean))
    whole = ~np.isnan(values.sum(axis=1))
    if not rounds or not whole.any():
        return None
    values = np.where(whole[:, None], values, np.nan)
    low, high = np.percentile(values, _RANGE, axis=1)
    return Choice(shown.edges_us, values.mean(axis=1), low, high, tuple(rounds))


def picture_of_choice(choice: Choice, labels: str) -> Picture:
    """Draw the rounds over what all clients' places had."""
    chosen, everywhere = (formatting.significant(value) for value in (choice.chosen_mean, choice.all_mean))
    title = f"Chosen places and hours: {chosen} {UNIT} on average; all clients, all the time: {everywhere}"
    says = (
        "blue: mean of the places that trained, a bar a round",
        "grey line: mean of all clients' places; shaded: the middle 80 % of them",
        f"time: UTC, {choice.rounds[0][0].year}",
    )
    return Picture("chosen", title, labels, says, lambda width_in: _draw_chosen(choice, width_in))


def _mean(table: IntensityTable, seats: Counter[str], opens: datetime, closes: datetime) -> float | None:
    """Return the mean intensity of a round's places, None where one of them is not known all the time."""
    hours = (closes - opens).total_seconds() / 3600
    if not seats or hours <= 0:
        return None
    columns = table.columns(list(seats))
    grams = table.integrate(to_us(opens), to_us(closes), columns)
    mean = float(np.average(grams, weights=list(seats.values()))) / hours
    return None if np.isnan(mean) else mean


def _draw_chosen(choice: Choice, width_in: float) -> Figure:
    figure = new_figure(2.8, width_in)
    axes = figure.subplots()
    edges = choice.edges_us / DAY_US
    axes.stairs(choice.high, edges, baseline=choice.low, fill=True, color=NO_VALUE)
    axes.stairs(choice.mean, edges, baseline=None, color=SOFT, linewidth=1.2)
    opens, closes, means = zip(*choice.rounds, strict=True)
    axes.hlines(means, [*map(day, opens)], [*map(day, closes)], color=LINE, linewidth=3.4, capstyle="butt")
    clean(axes)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    time_axis(
        axes,
        from_us(choice.edges_us[0]),
        from_us(choice.edges_us[-1]),
        most=14 if width_in > NARROW_IN else 4,
    )
    axes.set_ylabel(UNIT, fontsize=8.5, color=INK)
    return figure


# -- The picture of progress: what the app reports after each round, against what had been emitted by then --

MOST_METRICS: Final = 4
_LONGEST_NAME: Final = 40
_VERB: Final = {
    "realised": "emitted",
    "planned": "been planned to emit (actual intensity is not known for all)",
}


@dataclass(frozen=True, slots=True)
class Progress:
    """One metric of a run.

    Parameters
    ----------
    metric : str
        Its name.
    values : tuple of float
        After each round that has it.
    spent : tuple of float
        What had been emitted by then [g], or how many rounds were over.
    of : {"realised", "planned", "rounds"}
        What ``spent`` is.
    run_now_g : float or None
        What as many rounds, run at once by random clients, would have emitted [g].
    """

    metric: str
    values: tuple[float, ...]
    spent: tuple[float, ...]
    of: Literal["realised", "planned", "rounds"]
    run_now_g: float | None = None


def progress_of(run: RunSummary) -> tuple[Progress, ...]:
    """Gather a run's metrics, accuracies first, against realised emissions.

    Where one of those is not known, against planned ones; where neither is, by round.
    """
    rounds = run.rounds
    realised_g = [r.realised_g for r in rounds if r.realised_g is not None]
    planned_g = [r.planned_g for r in rounds if r.planned_g is not None]
    of: Literal["realised", "planned", "rounds"] = "rounds"
    spent = [float(r.number) for r in rounds]
    if len(realised_g) == len(rounds):
        of, spent = "realised", list(accumulate(realised_g))
    elif len(planned_g) == len(rounds):
        of, spent = "planned", list(accumulate(planned_g))
    names = sorted({name for r in rounds for name in r.metrics}, key=_rank)
    found = []
    for name in names:
        values = [
            (value, g)
            for r, g in zip(rounds, spent, strict=True)
            if (value := r.metrics.get(name)) is not None
        ]
        if len(values) > 1:
            of_metric, at = zip(*values, strict=True)
            run_now_g = run.run_now_g if of == "realised" else None
            found.append(Progress(name, of_metric, at, of, run_now_g))
    return tuple(found[:MOST_METRICS])


def picture_of_progress(progress: Progress, number: int, labels: str) -> Picture:
    """Draw one metric against what had been emitted; ``number`` tells its file from others."""
    name = one_line(progress.metric, _LONGEST_NAME)
    last = formatting.significant(progress.values[-1])
    if progress.of == "rounds":
        title, says = f"{name} by round: {last} in the end", ["a dot a round"]
    else:
        spent = formatting.mass(progress.spent[-1])
        title = f"{name} against emissions: {last} after {spent} CO2eq"
        says = [f"a dot a round, at what all rounds up to it have {_VERB[progress.of]}"]
    if progress.run_now_g is not None:
        says.append("dashed line: what as many rounds emit when random clients run them at once")
    return Picture(
        f"progress-{number}", title, labels, tuple(says), lambda width_in: _draw_progress(progress, width_in)
    )


def _rank(name: str) -> tuple[bool, str]:
    """Put accuracies first."""
    return "acc" not in name.lower(), name


def _draw_progress(progress: Progress, width_in: float) -> Figure:
    figure = new_figure(2.8, width_in)
    axes = figure.subplots()
    unit_g, unit = 1.0, ""
    if progress.of != "rounds":
        unit_g, unit = formatting.mass_unit(max(abs(progress.run_now_g or 0.0), *map(abs, progress.spent)))
    spent = [g / unit_g for g in progress.spent]
    axes.plot(spent, progress.values, color=LINE, linewidth=1.6, marker="o", markersize=3.2)
    if progress.run_now_g is not None:
        run_now = progress.run_now_g / unit_g
        axes.axvline(run_now, color=SOFT, linewidth=1.2, linestyle="--")
        # Where the curve does not end: a rising one leaves room below, a falling one above.
        low = progress.values[-1] > (min(progress.values) + max(progress.values)) / 2
        axes.annotate(
            f"run-now: {formatting.mass(progress.run_now_g)}", (run_now, 0.05 if low else 0.95),
            xytext=(-5, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points", ha="right",
            va="bottom" if low else "top", fontsize=8.5, color=SOFT,
        )  # fmt: skip
    clean(axes)
    axes.set_ylabel(short_name(progress.metric), fontsize=8.5, color=INK)
    if progress.of == "rounds":
        whole_numbers(axes.xaxis, 12 if width_in > NARROW_IN else 6)
        axes.set_xlabel("round", fontsize=8.5, color=INK)
    else:
        axes.set_xlim(left=min(0.0, *spent))
        axes.set_xlabel(f"cumulative emissions, {progress.of} [{unit}CO2eq]", fontsize=8.5, color=INK)
    return figure


# -- The picture of a backtest: how much of what is possible was saved, and how much that is, by deadline ---

_HEIGHT_IN: Final = 4.6
_LEAST_APART: Final = 0.047  # of the height: names that are nearer to each other cannot be read
_COLOURS: Final = {
    "scheduler": LINE, "rolling": "#4f8fc0", "one-shot": "#93b9d6", "flwr-lowcarb-2022": PLANNED,
    "temporal-only": "#9c6b30", "perfect": "#3b7a3b", "bound": INK, "run-now": "#8a8a8a",
}  # fmt: skip
_DASHED: Final = ("bound", "perfect", "run-now")  # what nobody can follow, or would want to


@dataclass(frozen=True, slots=True, eq=False)
class BacktestPicture:
    """The lines of the picture.

    Parameters
    ----------
    deadlines : tuple of float
        In back-to-back times, increasing.
    reductions, errors, captures : mapping of str to ndarray, shape (D,)
        By method: mean reduction, its standard error, and capture, all in %; NaN where there is none.
    """

    deadlines: tuple[float, ...]
    reductions: Mapping[str, Floats]
    errors: Mapping[str, Floats]
    captures: Mapping[str, Floats]


def picture_of_backtest(found: Comparison) -> BacktestPicture:
    """Gather reduction and capture by method, over deadlines."""
    deadlines = tuple(sorted(found.scores))
    rows = [found.scores[deadline] for deadline in deadlines]
    names = [score.method for score in rows[0]]

    def line(field: str) -> dict[str, Floats]:
        return {
            name: 100 * np.array([getattr(row[k], field) for row in rows], dtype=np.float64)
            for k, name in enumerate(names)
        }

    return BacktestPicture(deadlines, line("reduction"), line("reduction_se"), line("capture"))


def plot_backtest(found: Comparison, labels: str) -> Figure:
    """Draw capture and reduction against the deadline, one line a method.

    Parameters
    ----------
    found : Comparison
        What was replayed.
    labels : str
        What the numbers of intensity are.

    Returns
    -------
    matplotlib.figure.Figure
    """
    picture, setting = picture_of_backtest(found), found.scenario
    figure = new_figure(_HEIGHT_IN)
    left, right = figure.subplots(1, 2)
    captured = {name: line for name, line in picture.captures.items() if name not in ("bound", "run-now")}
    _draw_backtest(left, picture, captured, "capture, % of the bound's mean reduction")
    saved = {name: line for name, line in picture.reductions.items() if name != "run-now"}
    _draw_backtest(right, picture, saved, "reduction against run-now, %", picture.errors)
    head(left, f"Backtest: {setting.name}, {found.seeds} starts by deadline", labels)
    clients = f"{setting.rounds} rounds of {setting.clients_per_round} of {setting.clients} clients"
    explain(left, ["deadline, in back-to-back times", clients])
    explain(right, ["deadline, in back-to-back times", "bars: one standard error of scheduler"])
    return figure


def _draw_backtest(
    axes: Axes,
    picture: BacktestPicture,
    lines: Mapping[str, Floats],
    title: str,
    errors: Mapping[str, Floats] | None = None,
) -> None:
    """Draw lines, and beside the end of each its name."""
    places = np.arange(len(picture.deadlines))
    for name, line in lines.items():
        bars = errors[name] if errors is not None and name == SCHEDULER else None
        axes.errorbar(
            places, line, bars, color=_COLOURS[name], linestyle="--" if name in _DASHED else "-",
            linewidth=2.6 if name == SCHEDULER else 1.5, marker="o", markersize=4, elinewidth=1.2, capsize=3,
        )  # fmt: skip
    axes.set_xticks(places, labels=[f"{deadline:g}x" for deadline in picture.deadlines])
    axes.set_ylabel(title, fontsize=9, color=INK)
    axes.set_xlim(-0.15, places[-1] + 0.15)
    clean(axes)
    low, high = axes.get_ylim()
    ends = {name: float(line[-1]) for name, line in lines.items() if np.isfinite(line[-1])}
    heights = _apart([(end - low) / (high - low) for end in ends.values()])
    for (name, end), height in zip(ends.items(), heights, strict=True):
        axes.annotate(
            name, (places[-1], end), xytext=(1.03, height), textcoords="axes fraction", va="center",
            fontsize=8, color=_COLOURS[name], fontweight="bold" if name == SCHEDULER else "normal",
            arrowprops={"arrowstyle": "-", "color": _COLOURS[name], "linewidth": 0.5, "shrinkB": 3},
        )  # fmt: skip


def _apart(heights: list[float]) -> list[float]:
    """Move heights as little as it takes for names to stand apart, in their order, from the top down."""
    order = np.argsort(heights)[::-1]
    moved = np.array(heights)[order]
    for k in range(1, len(moved)):
        moved[k] = min(moved[k], moved[k - 1] - _LEAST_APART)
    found = np.empty(len(moved))
    found[order] = moved
    return found.tolist()
