"""The picture of choice: intensity where and when clients trained, against that of all clients' places."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.clock import from_us, parse_time, to_us
from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.canvas import (
    DAY_US,
    INK,
    LINE,
    NARROW_IN,
    NO_VALUE,
    SOFT,
    UNIT,
    clean,
    day,
    new_figure,
    time_axis,
)
from lowcarb_scheduler.report.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from matplotlib.figure import Figure

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints

_RANGE: Final = (10, 90)  # percent of clients: what is shaded


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
    chosen, everywhere = (wording.significant(value) for value in (choice.chosen_mean, choice.all_mean))
    title = f"Chosen places and hours: {chosen} {UNIT} on average; all clients, all the time: {everywhere}"
    says = (
        "blue: mean of the places that trained, a bar a round",
        "grey line: mean of all clients' places; shaded: the middle 80 % of them",
        f"time: UTC, {choice.rounds[0][0].year}",
    )
    return Picture("chosen", title, labels, says, lambda width_in: _draw(choice, width_in))


def _mean(table: IntensityTable, seats: Counter[str], opens: datetime, closes: datetime) -> float | None:
    """Return the mean intensity of a round's places, None where one of them is not known all the time."""
    hours = (closes - opens).total_seconds() / 3600
    if not seats or hours <= 0:
        return None
    columns = table.columns(list(seats))
    grams = table.integrate(to_us(opens), to_us(closes), columns)
    mean = float(np.average(grams, weights=list(seats.values()))) / hours
    return None if np.isnan(mean) else mean


def _draw(choice: Choice, width_in: float) -> Figure:
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
