"""The picture of participation: how many turns each client completed."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from lowcarb_scheduler.accounting import jain_index
from lowcarb_scheduler.report import wording
from lowcarb_scheduler.report.canvas import (
    INK,
    LINE,
    NARROW_IN,
    clean,
    new_figure,
    short_name,
    whole_numbers,
)
from lowcarb_scheduler.report.facts import MOST_CLIENTS
from lowcarb_scheduler.report.picture import Picture

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure


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
    turns = wording.counted(most, "turn") if least == most else f"{least} to {wording.counted(most, 'turn')}"
    each = " each" if len(counts) > 1 else ""
    return f"{wording.counted(len(counts), 'client')} completed {turns}{each}"


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
