"""Charts of numbers: waterfall, intensity while training, progress, participation, and methods of a backtest.

Each function first computes the data of its chart, if they are not at hand, and returns a picture that draws
them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from lowcarb_scheduler.accounting.attribution import natural_key
from lowcarb_scheduler.accounting.emissions import jain_index
from lowcarb_scheduler.backtest.comparison import SCHEDULER
from lowcarb_scheduler.clock import from_us, to_us
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.report import formatting, style
from lowcarb_scheduler.report.figure import Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lowcarb_scheduler.accounting.attribution import Step
    from lowcarb_scheduler.accounting.replay import Record
    from lowcarb_scheduler.backtest import Comparison
    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints


# -- Waterfall: from the emissions of run-now to those that were realised ---------------------------------

_HALF: Final = 0.31  # half the height of a bar [rows]
_ZERO: Final = 1e-9  # smaller changes are rounding errors [fraction of run-now]
_WIDE_ROOM, _NARROW_ROOM = 1.16, 1.34  # width with space for the text beside bars [fraction of the bars']


def picture_of_waterfall(steps: Sequence[Step], labels: str) -> Picture | None:
    """Return a chart with one bar per step, run-now on top; None without steps."""
    if not steps:
        return None
    run_now_g, realised_g = steps[0].change_g, steps[-1].change_g
    title = f"From run-now ({formatting.mass(run_now_g)}) to realised ({formatting.mass(realised_g)})"
    legend = ("blue: less emissions", "orange: more emissions", "percentages are relative to run-now")
    height_in = 0.5 + 0.36 * len(steps)
    return Picture("waterfall", title, labels, legend, height_in, partial(_paint_waterfall, steps))


def _paint_waterfall(steps: Sequence[Step], figure: Figure) -> None:
    axes = figure.subplots()
    unit_g, unit = formatting.mass_unit(max(abs(step.change_g) for step in steps))
    run_now_g = steps[0].change_g
    at_g, ends = 0.0, []
    for row, step in enumerate(steps):
        # A level starts at zero, a change where the bar above ends.
        start_g = 0.0 if step.kind == "level" else at_g
        at_g = start_g + step.change_g
        left, right = sorted((start_g / unit_g, at_g / unit_g))
        colour = style.FAINT if step.kind == "level" else style.LINE if step.change_g <= 0 else style.PLANNED
        if row == len(steps) - 1 and step.kind == "level":
            colour = style.INK
        (bar,) = axes.barh(row, right - left, left=left, height=2 * _HALF, color=colour)
        style.tip(bar, f"{step.name}: {_amount(step, run_now_g, unit_g, unit)}")
        if row + 1 < len(steps):
            axes.plot([at_g / unit_g] * 2, [row + _HALF, row + 1 - _HALF], color=style.FAINT, linewidth=0.8)
        axes.annotate(
            _amount(step, run_now_g, unit_g, unit), (right, row), xytext=(5, 0), textcoords="offset points",
            va="center"
        )  # fmt: skip
        ends += [left, right]
    low, high = min(0.0, *ends), max(ends)
    room = _NARROW_ROOM if style.is_narrow(axes) else _WIDE_ROOM
    axes.set_xlim(low, low + (high - low or 1.0) * room)
    axes.set_yticks(range(len(steps)), labels=[step.name for step in steps])
    axes.set_ylim(len(steps) - 0.5, -0.5)
    style.clean(axes, "x")
    axes.tick_params(axis="y", length=0, labelsize=8.5)
    axes.set_xlabel(f"emissions of training [{unit}CO2eq]")


def _amount(step: Step, run_now_g: float, unit_g: float, unit: str) -> str:
    if abs(step.change_g) < _ZERO * abs(run_now_g):
        return "0"
    value = formatting.significant(abs(step.change_g) / unit_g)
    if step.kind == "level":
        return f"{'−' if step.change_g < 0 else ''}{value} {unit}"
    sign = "−" if step.change_g < 0 else "+"
    part = f" ({sign}{formatting.percent(abs(step.change_g) / run_now_g)})" if run_now_g > 0 else ""
    return f"{sign}{value} {unit}{part}"


# -- Choice: intensity while training, against that of the whole fleet ------------------------------------

_RANGE: Final = (10, 90)  # percentiles of clients; the shaded band


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """Intensity at the locations of all clients, and of those that trained [gCO2eq/kWh].

    Parameters
    ----------
    edges_us : ndarray of int64, shape (S + 1,)
        Edges of the time steps [µs since 1970 UTC].
    mean, low, high : ndarray of float64, shape (S,)
        Mean, 10th and 90th percentile over all clients; NaN in a gap.
    rounds : tuple of (datetime, datetime, float)
        Opening and closing time of each round, and the mean over its clients in that time.
    """

    edges_us: Ints
    mean: Floats
    low: Floats
    high: Floats
    rounds: tuple[tuple[datetime, datetime, float], ...]

    @property
    def chosen_mean(self) -> float:
        """Mean over the rounds, weighted by their length."""
        # A round of no length counts a little, or the weights of a run of such rounds would sum to zero.
        seconds = [(closes - opens).total_seconds() for opens, closes, _ in self.rounds]
        return float(np.average([mean for _, _, mean in self.rounds], weights=np.maximum(seconds, 1.0)))

    @property
    def all_mean(self) -> float:
        """Mean over all clients and the whole run."""
        known = ~np.isnan(self.mean)
        return float(np.average(self.mean[known], weights=np.diff(self.edges_us)[known]))


def choice_of_run(record: Record) -> Choice | None:
    """Return the intensity of chosen and of all locations; None where too little is known."""
    intensity, closed = record.known_intensity, record.rounds
    locations = {key: node.place for key, node in record.all_nodes.items()}
    if intensity is None or not closed or not locations:
        return None
    shown = intensity.slice(record.started.at, max(worked.closes_at for worked in closed))
    names = sorted(set(locations.values()) & set(intensity.locations))
    if shown is None or not names:
        return None
    clients = Counter(locations.values())
    values = shown.align(names).values.repeat([clients[name] for name in names], axis=1)
    rounds = []
    for worked in closed:
        seats = Counter(member.location for member in worked.members if member.location)
        if (mean := _mean(intensity, seats, worked.opens_at, worked.closes_at)) is not None:
            rounds.append((worked.opens_at, worked.closes_at, mean))
    # A step with a gap at one location would have a mean over other clients than the next step.
    whole = ~np.isnan(values.sum(axis=1))
    if not rounds or not whole.any():
        return None
    values = np.where(whole[:, None], values, np.nan)
    low, high = np.percentile(values, _RANGE, axis=1)
    return Choice(shown.edges_us, values.mean(axis=1), low, high, tuple(rounds))


def _mean(table: IntensityTable, seats: Counter[str], opens: datetime, closes: datetime) -> float | None:
    """Return the mean intensity over a round's clients; None where a value is missing."""
    hours = (closes - opens).total_seconds() / 3600
    if not seats or hours <= 0:
        return None
    columns = table.columns(list(seats))
    grams = table.integrate(to_us(opens), to_us(closes), columns)
    mean = float(np.average(grams, weights=list(seats.values()))) / hours
    return None if np.isnan(mean) else mean


def picture_of_choice(choice: Choice, labels: str) -> Picture:
    """Return the chart of the rounds' intensity over that of the fleet."""
    chosen, fleet = (formatting.significant(value) for value in (choice.chosen_mean, choice.all_mean))
    title = f"Intensity while training: {chosen} g/kWh (fleet average {fleet})"
    legend = (
        "blue: mean over the clients of a round, one bar per round",
        "grey line: mean over all clients; shaded: the middle 80 % of them",
        f"time: UTC, {choice.rounds[0][0].year}",
    )
    return Picture("chosen", title, labels, legend, 2.8, partial(_paint_choice, choice))


def _paint_choice(choice: Choice, figure: Figure) -> None:
    axes = figure.subplots()
    edges = choice.edges_us / style.DAY_US
    axes.stairs(choice.high, edges, baseline=choice.low, fill=True, color=style.NO_VALUE)
    axes.stairs(choice.mean, edges, baseline=None, color=style.SOFT, linewidth=1.2)
    opens, closes, means = zip(*choice.rounds, strict=True)
    spans = [*map(style.day, opens)], [*map(style.day, closes)]
    lines = axes.hlines(means, *spans, color=style.LINE, linewidth=3.4, capstyle="butt")
    style.tip(lines, *(f"{formatting.span(opens, closes)} UTC: {formatting.significant(mean)} g/kWh"
                       for opens, closes, mean in choice.rounds))  # fmt: skip
    style.clean(axes)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    style.time_axis(axes, from_us(choice.edges_us[0]), from_us(choice.edges_us[-1]), margin=0)
    axes.set_ylabel(style.UNIT)


# -- Progress: metrics of the app against cumulative emissions --------------------------------------------

MOST_METRICS: Final = 4
_LONGEST_NAME: Final = 40


@dataclass(frozen=True, slots=True)
class Progress:
    """One metric of a run.

    Parameters
    ----------
    metric : str
        Its name.
    values : tuple of float
        Value after each round that reports it.
    spent : tuple of float
        Cumulative emissions [g], or the number of the round.
    of : {"realised", "planned", "rounds"}
        Meaning of ``spent``.
    run_now_g : float or None
        Emissions of run-now, all rounds [g].
    """

    metric: str
    values: tuple[float, ...]
    spent: tuple[float, ...]
    of: Literal["realised", "planned", "rounds"]
    run_now_g: float | None = None


def progress_of(run: Record) -> tuple[Progress, ...]:
    """Return a run's metrics, accuracies first.

    They are set against realised emissions; where those of a round are not known, against planned emissions;
    where these are not known either, against the rounds.
    """
    rounds = run.rounds
    spent: list[float] = [1.0] * len(rounds)
    of: Literal["realised", "planned", "rounds"] = "rounds"
    if run.realised_g is not None:
        of, spent = "realised", [r.realised_g or 0.0 for r in rounds]
    elif run.planned_g is not None:
        of, spent = "planned", [r.planned_g or 0.0 for r in rounds]
    totals = tuple(accumulate(spent))
    # Run-now is on actual intensity, so it is comparable with realised emissions only.
    run_now_g = run.run_now_g if of == "realised" else None
    found = []
    for name in sorted({name for r in rounds for name in r.metrics}, key=_accuracies_first):
        reported = [k for k, r in enumerate(rounds) if r.metrics.get(name) is not None]
        if len(reported) > 1:
            values = tuple(rounds[k].metrics[name] for k in reported)
            found.append(Progress(name, values, tuple(totals[k] for k in reported), of, run_now_g))
    return tuple(found[:MOST_METRICS])


def _accuracies_first(name: str) -> tuple[bool, str]:
    return not formatting.is_accuracy(name), name


def picture_of_progress(progress: Progress, number: int, labels: str) -> Picture:
    """Return the chart of one metric; ``number`` makes the name of its file unique."""
    name = one_line(progress.metric, _LONGEST_NAME)
    last = formatting.metric(name, progress.values[-1])
    name = formatting.sentence_case(name)
    if progress.of == "rounds":
        title, legend = f"{name} by round: {last} at the end", ["one dot per round"]
    else:
        title = f"{name} against emissions: {last} after {formatting.mass(progress.spent[-1])} CO2eq"
        legend = [f"one dot per round, at the cumulative {progress.of} emissions"]
    if progress.of == "planned":
        legend.append("actual intensity is not known for all rounds")
    if progress.run_now_g is not None:
        legend.append("dashed line: emissions of run-now, all rounds")
    paint = partial(_paint_progress, progress)
    return Picture(f"progress-{number}", title, labels, tuple(legend), 2.8, paint)


def _paint_progress(progress: Progress, figure: Figure) -> None:
    axes = figure.subplots()
    style.clean(axes)
    unit_g, unit = 1.0, ""
    if progress.of != "rounds":
        unit_g, unit = formatting.mass_unit(max(abs(progress.run_now_g or 0.0), *map(abs, progress.spent)))
    spent = [g / unit_g for g in progress.spent]
    axes.plot(spent, progress.values, color=style.LINE, linewidth=1.6)
    texts = [
        f"{f'{formatting.significant(at)} {unit}' if unit else f'round {at:g}'}: "
        f"{formatting.metric(progress.metric, value)}"
        for at, value in zip(spent, progress.values, strict=True)
    ]
    style.dots(axes, spent, progress.values, texts, style.LINE, 4.2)
    if progress.run_now_g is not None:
        run_now = progress.run_now_g / unit_g
        axes.axvline(run_now, color=style.SOFT, linewidth=1.2, linestyle="--")
        # The text stands away from the end of the curve: a rising one leaves room below, a falling one above.
        low = progress.values[-1] > (min(progress.values) + max(progress.values)) / 2
        axes.annotate(
            f"run-now: {formatting.mass(progress.run_now_g)}", (run_now, 0.05 if low else 0.95),
            xytext=(-5, 0), xycoords=("data", "axes fraction"), textcoords="offset points", ha="right",
            va="bottom" if low else "top", color=style.SOFT,
        )  # fmt: skip
    if progress.of == "rounds":
        axes.locator_params("x", nbins=6 if style.is_narrow(axes) else 12, integer=True)
        axes.set_xlabel("round")
    else:
        axes.set_xlim(left=min(0.0, *spent))
        axes.set_xlabel(f"cumulative emissions, {progress.of} [{unit}CO2eq]")
    axes.set_ylabel(style.short_name(progress.metric))


# -- Participation: completed turns of each client --------------------------------------------------------

MOST_CLIENTS: Final = 30  # bars of single clients; a larger fleet gets a histogram


def picture_of_turns(turns: Mapping[str, int], labels: str) -> Picture | None:
    """Return a chart with one bar per client, or a histogram for a large fleet; None without clients."""
    if not turns:
        return None
    title = _title(min(turns.values()), max(turns.values()), len(turns))
    jain = jain_index(list(turns.values()))
    legend = f"Jain's index {jain:.3f} (1: all equal; {1 / len(turns):.3f}: one client took every turn)"
    if len(turns) > MOST_CLIENTS:
        paint = partial(_paint_histogram, Counter(turns.values()))
        return Picture("turns", title, labels, ("clients by number of completed turns", legend), 2.4, paint)
    paint = partial(_paint_clients, sorted(turns.items(), key=lambda item: natural_key(item[0])))
    return Picture("turns", title, labels, ("one bar per client", legend), 0.6 + 0.17 * len(turns), paint)


def _title(least: int, most: int, clients: int) -> str:
    turns = f"{'' if least == most else f'{least} to '}{formatting.counted(most, 'turn')}"
    return f"{formatting.counted(clients, 'client')} completed {turns}{' each' if clients > 1 else ''}"


def _paint_clients(bars: Sequence[tuple[str, int]], figure: Figure) -> None:
    axes = figure.subplots()
    rows = range(len(bars))
    drawn = axes.barh(rows, [count for _, count in bars], height=0.5, color=style.LINE)
    for bar, (name, count) in zip(drawn, bars, strict=True):
        style.tip(bar, f"{name}: {formatting.counted(count, 'turn')}")
    axes.set_yticks(rows, labels=[style.short_name(name) for name, _ in bars])
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_xlim(0, max(1, *(count for _, count in bars)) * 1.02)
    style.clean(axes, "x")
    axes.tick_params(axis="y", length=0)
    axes.locator_params("x", nbins=10, integer=True)
    axes.set_xlabel("completed turns")


def _paint_histogram(clients: Counter[int], figure: Figure) -> None:
    axes = figure.subplots()
    # Numbers of turns that no client has keep their place on the axis.
    turns = range(min(clients), max(clients) + 1)
    bars = axes.bar(turns, [clients[number] for number in turns], width=0.7, color=style.LINE)
    for bar, number in zip(bars, turns, strict=True):
        each = formatting.counted(number, "turn")
        style.tip(bar, f"{each}: {formatting.counted(clients[number], 'client')}")
    if len(turns) <= (10 if style.is_narrow(axes) else 20):
        axes.bar_label(bars, padding=2)
    axes.margins(y=0.12)
    axes.set_xlim(turns[0] - 1, turns[-1] + 1)
    style.clean(axes)
    axes.locator_params("x", nbins=12, integer=True)
    axes.locator_params("y", nbins=5, integer=True)
    axes.set_xlabel("completed turns")
    axes.set_ylabel("clients")


# -- Backtest: reduction of each method, and its share of what is possible, by deadline -------------------

_LEAST_APART: Final = 0.047  # least distance of two names that can be read [fraction of the height]
_COLOURS: Final = {
    SCHEDULER: style.LINE, "rolling": "#4f8fc0", "one-shot": "#93b9d6", "flwr-lowcarb-2022": style.PLANNED,
    "temporal-only": "#9c6b30", "perfect": "#3b7a3b", "bound": style.INK, "run-now": "#8a8a8a",
}  # fmt: skip
_DASHED: Final = ("bound", "perfect", "run-now")  # references: no method that can be used in practice


def plot_backtest(found: Comparison, labels: str) -> Figure:
    """Plot capture and reduction of each method against the deadline.

    Parameters
    ----------
    found : Comparison
        Result of the backtest.
    labels : str
        Source and signal of the intensity.

    Returns
    -------
    matplotlib.figure.Figure
    """
    scenario = found.scenario
    rounds = formatting.counted(scenario.rounds, "round")
    legend = (
        f"{rounds} of {scenario.clients_per_round} of {scenario.clients} clients",
        "bound: no plan can save more",
        f"error bars: one standard error of {SCHEDULER}",
    )
    # The chart is only saved to files, which are wide: two panels fit side by side.
    title = f"Backtest: {scenario.name}, {found.seeds} starts per deadline"
    return Picture("backtest", title, labels, legend, 4.2, partial(_paint_methods, found)).figure()


def _paint_methods(found: Comparison, figure: Figure) -> None:
    left, right = figure.subplots(1, 2)
    captures = _lines(found, "capture")
    del captures["bound"], captures["run-now"]  # 100 % and 0 % by definition
    _paint_lines(left, found, captures, "capture [% of the bound's mean reduction]")
    reductions = _lines(found, "reduction")
    del reductions["run-now"]
    errors = _lines(found, "reduction_se")[SCHEDULER]
    _paint_lines(right, found, reductions, "reduction against run-now [%]", errors)


def _lines(found: Comparison, field: str) -> dict[str, Floats]:
    """Return a field of the scores by method, over increasing deadlines [%]; NaN where undefined."""
    rows = [found.scores[deadline] for deadline in sorted(found.scores)]
    return {
        score.method: 100 * np.array([getattr(row[k], field) for row in rows], dtype=np.float64)
        for k, score in enumerate(rows[0])
    }


def _paint_lines(
    axes: Axes, found: Comparison, lines: Mapping[str, Floats], values: str, errors: Floats | None = None
) -> None:
    """Draw lines with their names at the end, and error bars of the scheduler."""
    places = np.arange(len(found.scores))
    for name, line in lines.items():
        axes.errorbar(
            places, line, errors if name == SCHEDULER else None, color=_COLOURS[name], label=name, marker="o",
            linestyle="--" if name in _DASHED else "-", linewidth=2.6 if name == SCHEDULER else 1.5,
            markersize=4, elinewidth=1.2, capsize=3,
        )  # fmt: skip
    style.clean(axes)
    axes.set_xticks(places, labels=[f"{deadline:g}x" for deadline in sorted(found.scores)])
    axes.set_xlabel("deadline [multiples of the back-to-back time]")
    axes.set_ylabel(values)
    axes.set_xlim(-0.15, places[-1] + 0.15)
    # Names of lines with a similar end would overlap: they are moved, and a thin line leads to the end.
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
    """Move heights as little as it takes for names not to overlap, in their order, from the top down."""
    order = np.argsort(heights)[::-1]
    moved = np.array(heights)[order]
    for k in range(1, len(moved)):
        moved[k] = min(moved[k], moved[k - 1] - _LEAST_APART)
    found = np.empty(len(moved))
    found[order] = moved
    return found.tolist()
