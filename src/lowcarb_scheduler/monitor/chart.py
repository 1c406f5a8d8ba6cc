"""Data of the charts on the page of a run, for plotly: rounds over the heat map, emissions, metrics.

It imports matplotlib, as it arranges rounds and metrics as the report does.
"""

from __future__ import annotations

from collections import Counter
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.clock import from_us
from lowcarb_scheduler.errors import one_line
from lowcarb_scheduler.events import UNKNOWN_PLACE
from lowcarb_scheduler.monitor.cells import edges_of, means_of
from lowcarb_scheduler.monitor.state import TRAINING
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.charts import progress_of
from lowcarb_scheduler.report.rounds import RoundBar, arrange

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.accounting.replay import RoundRecord
    from lowcarb_scheduler.events import Member, Window
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.monitor.state import RunState
    from lowcarb_scheduler.report.formatting import Times

Chart = dict[str, Any]
_MOST_COLUMNS: Final = 1_200  # more could not be told apart, and would make the page slow
_LONGEST_NAME: Final = 24  # characters


def charts_of(run: RunState, now: datetime, times: Times) -> Chart:
    """Return the data of all charts; those that would be empty are None."""
    return {
        "rounds": rounds_chart(run, now, times),
        "emissions": emissions_chart(run.record.rounds),
        "metrics": [
            {
                "name": one_line(each.metric, 40), "values": each.values, "of": each.of,
                "spent": [g if each.of == "rounds" else g / 1000 for g in each.spent],
                "last": formatting.significant(each.values[-1]),
            }
            for each in progress_of(run.record)
        ],
    }  # fmt: skip


# -- Rounds over the heat map --------------------------------------------------------------------------------


def rounds_chart(run: RunState, now: datetime, times: Times) -> Chart | None:
    """Return the rounds that have closed, the one that trains, those of the newest and of the first plan."""
    record = run.record
    done = [_bar_of(worked, worked.opens_at, worked.closes_at) for worked in record.rounds]
    training = []
    if run.state == TRAINING and record.current is not None:
        opened = record.current.opened
        training = [_bar_of(record.current, opened.opened_at, run.closes_at or opened.opened_at)]
    planned = [_bar_of_window(window) for window in run.upcoming]
    first = record.first_plan if record.first_plan is not run.plan else None
    initial = [_bar_of_window(window) for window in (first.windows if first else ())]
    bars = (*done, *training, *planned)
    if not bars and not initial:
        return None
    names = tuple(dict.fromkeys(name for bar in (*bars, *initial) for name in bar.clients))
    gantt = arrange(
        names, record.known_intensity, bars, tuple(initial), record.started.began_at, run.finish_by
    )
    rows = dict(zip(gantt.locations, _labels(gantt.locations), strict=True))
    most, moment = gantt.most, run.moment(now)
    by_number = {worked.number: worked for worked in record.rounds}
    windows = {window.round: window for window in run.upcoming}
    kinds = {"done": done, "training": training, "planned": planned}
    boxes = {}
    for kind, of_kind in kinds.items():
        told = [
            _told(bar, kind, by_number.get(bar.number), windows.get(bar.number), times) for bar in of_kind
        ]
        boxes[kind] = _boxes(of_kind, told, rows, most, times)
    return {
        "places": list(rows.values()),
        "heat": None if gantt.intensity is None else _heat(gantt.intensity, times),
        **boxes,
        "initial": _boxes(initial, [""] * len(initial), rows, 1, times),
        "start": _local(gantt.start, times), "end": _local(gantt.end, times),
        "now": _local(moment, times) if gantt.start <= moment <= gantt.end else None,
        "deadline": _local(run.finish_by, times) if run.finish_by and run.finish_by <= gantt.end else None,
        "zone": times.names(gantt.start, gantt.end), "hidden": gantt.hidden,
    }  # fmt: skip


def _bar_of(worked: RoundRecord, opens_at: datetime, closes_at: datetime) -> RoundBar:
    members: Sequence[Member] = worked.members
    clients = Counter(member.location or UNKNOWN_PLACE for member in members)
    return RoundBar(worked.number, opens_at, closes_at, clients)


def _bar_of_window(window: Window) -> RoundBar:
    return RoundBar(window.round, window.opens_at, window.closes_at, window.locations)


def _told(bar: RoundBar, kind: str, worked: RoundRecord | None, window: Window | None, times: Times) -> str:
    """Return the lines of a round's tooltip that its boxes share."""
    clients = sum(bar.clients.values())
    lines = [
        f"<b>Round {bar.number}</b> · {kind}",
        f"{times.instant(bar.opens_at)} to {times.local(bar.closes_at):%H:%M}",
        formatting.counted(clients, "client"),
    ]
    if worked is not None:
        grams = {"planned": worked.planned_g, "realised": worked.realised_g, "run-now": worked.run_now_g}
        lines += [f"{name} {formatting.mass(g)}" for name, g in grams.items()]
    elif window is not None and window.emissions_g is not None:
        lines.append(f"planned {formatting.mass(window.emissions_g)}")
    return "<br>".join(lines)


def _boxes(
    bars: Sequence[RoundBar], told: Sequence[str], rows: Mapping[str, str], most: int, times: Times
) -> Chart:
    """Return a box for every round at every place that has a row."""
    found: Chart = {"base": [], "ms": [], "place": [], "width": [], "count": [], "told": []}
    for bar, text in zip(bars, told, strict=True):
        base = _local(bar.opens_at, times)
        ms = (bar.closes_at - bar.opens_at).total_seconds() * 1000
        for name, count in bar.clients.items():
            if name in rows:
                # A box is the higher the more clients, as in the report.
                entry = (base, ms, rows[name], round(0.3 + 0.4 * min(count, most) / most, 3), count, text)
                for key, value in zip(found, entry, strict=True):
                    found[key].append(value)
    return found


def _heat(intensity: IntensityTable, times: Times) -> Chart:
    """Return the mean intensity in cells [gCO2eq/kWh], by place and time."""
    edges, values = intensity.edges_us, intensity.values
    if len(edges) > _MOST_COLUMNS:
        edges = edges_of(intensity.start, intensity.end, _MOST_COLUMNS)
        values = means_of(intensity, intensity.locations, edges)
    known = values[np.isfinite(values)]
    return {
        "edges": [_local(from_us(int(edge)), times) for edge in edges],
        "values": np.round(values.T, 1),
        # Zero is on the scale: otherwise a small range would look as dramatic as a large one.
        "low": min(0.0, float(known.min())) if len(known) else 0.0,
        "high": float(known.max()) if len(known) else 1.0,
    }  # fmt: skip


def _local(when: datetime, times: Times) -> str:
    """Write a time as plotly reads one that has no zone."""
    return f"{times.local(when):%Y-%m-%d %H:%M:%S}"


def _labels(names: Sequence[str]) -> list[str]:
    """Return names as labels of rows, which must differ."""
    seen: Counter[str] = Counter()
    labels = []
    for name in names:
        label = _label(name)
        seen[label] += 1
        labels.append(label if seen[label] == 1 else f"{label} ({seen[label]})")
    return labels


def _label(name: str) -> str:
    """Return an external name as plotly shows it: it reads links and a few other tags in texts."""
    return escape(one_line(name, _LONGEST_NAME), quote=False)


# -- Emissions -----------------------------------------------------------------------------------------------


def emissions_chart(rounds: Sequence[RoundRecord]) -> Chart | None:
    """Return planned, realised and run-now emissions, summed up over the rounds [g]; None before two."""
    if len(rounds) < 2:
        return None
    columns = {
        "planned": [each.planned_g for each in rounds],
        "realised": [each.realised_g for each in rounds],
        "run-now": [each.run_now_g for each in rounds],
    }
    sums = {name: _sums(grams) for name, grams in columns.items()}
    largest = max((abs(g) for line in sums.values() for g in line if g is not None), default=0.0)
    unit_g, unit = formatting.mass_unit(largest)
    return {
        "rounds": [each.number for each in rounds], "unit": unit,
        "lines": {name: [None if g is None else g / unit_g for g in line] for name, line in sums.items()},
        "told": {name: [formatting.mass(g) for g in line] for name, line in sums.items()},
    }  # fmt: skip


def _sums(grams: Iterable[float | None]) -> list[float | None]:
    """Return the sums so far; after a round whose emissions are not known no sum is."""
    sums: list[float | None] = []
    so_far: float | None = 0.0
    for g in grams:
        so_far = None if so_far is None or g is None else so_far + g
        sums.append(so_far)
    return sums
