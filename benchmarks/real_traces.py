"""Replay history: what plans on real forecasts would have saved, charged with what really happened.

    python benchmarks/real_traces.py DATA [--seeds 10] [--deadlines 1 2 4] [--cadence 6]

DATA holds two files in the trace format: ``actual.parquet`` (region, time, g_per_kwh) and
``forecast.parquet`` (region, issued_at, time, g_per_kwh). For each seed 100 clients are placed uniformly at
random in 16 grid zones; 50 rounds of 1 h train 10 of them each, everybody five times, 1 kWh a turn. Starts
are spread over the period. At hour t the planner sees the newest forecast issued at or before t and actuals
of hours that ended by t; it plans anew every ``cadence`` hours. Emissions are always charged with actual
intensity. The baseline is the exact expectation for random clients back-to-back.
"""

from __future__ import annotations

import argparse
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from lowcarb_scheduler import Fleet, IntensityTable, Job, plan, replan
from lowcarb_scheduler.accounting import emissions_g, run_now_g
from lowcarb_scheduler.clock import from_us, to_us

ZONES = [
    "DE", "FR", "GB", "NL", "ES", "PL", "IT", "SE", "US-CAL-CISO", "US-TEX-ERCO", "US-MIDA-PJM", "US-NY-NYIS",
    "AU-NSW", "AU-VIC", "KR", "CL-SEN",
]  # fmt: skip
CLIENTS, CLIENTS_PER_ROUND, ROUNDS = 100, 10, 50
HOUR = timedelta(hours=1)
HISTORY = timedelta(days=28)
PERIOD = datetime(2023, 7, 1, tzinfo=UTC), datetime(2023, 11, 20, tzinfo=UTC)


class Past:
    """Forecasts and actuals, of which a planner sees what was known at its time."""

    def __init__(self, data: Path) -> None:
        actual = pd.read_parquet(data / "actual.parquet")
        actual = actual[actual.region.isin(ZONES)]
        self._actual = actual.pivot_table(index="time", columns="region", values="g_per_kwh", observed=True)[
            ZONES
        ]
        self.actual = IntensityTable.from_frame(self._actual)
        issues = pd.read_parquet(data / "forecast.parquet")
        issues = issues[issues.region.isin(ZONES) & (issues.issued_at >= pd.Timestamp(PERIOD[0]) - HISTORY)]
        self._issues = {
            issued_at.to_pydatetime(): IntensityTable.from_frame(
                issue.pivot_table(index="time", columns="region", values="g_per_kwh", observed=True)[ZONES]
            )
            for issued_at, issue in issues.groupby("issued_at")
        }

    def forecast(self, now: datetime) -> IntensityTable:
        """Return the newest forecast issued at or before now."""
        return self._issues[max(at for at in self._issues if at <= now)]

    def history(self, now: datetime) -> IntensityTable:
        """Return what had happened by now."""
        table = self.actual.slice(now - HISTORY, now)
        assert table is not None
        return table


def instance(seed: int, starts: int, rng: np.random.Generator) -> tuple[Fleet, datetime]:
    """Return clients in random zones, and a start in the seed's part of the period."""
    zones = rng.choice(ZONES, CLIENTS)
    ids = [f"c{k:03}" for k in range(CLIENTS)]
    fleet = Fleet.from_frame(pd.DataFrame({"id": ids, "location": zones, "power_watts": 1000.0}))
    hours = (PERIOD[1] - PERIOD[0]) // HOUR
    return fleet, PERIOD[0] + HOUR * int((seed + rng.random()) / starts * hours)


def job(
    fleet: Fleet, start: datetime, now: datetime, finish_by: datetime, rounds: int, not_before: datetime
) -> Job:
    return Job(
        fleet, now, finish_by, rounds, CLIENTS_PER_ROUND, HOUR, not_before=not_before, grid_from=start,
        target_finish=finish_by,
    )  # fmt: skip


def charge(past: Past, plan_, rounds: int) -> float:
    """Return what the first rounds of a plan really emitted [gCO2eq]."""
    fleet, seats = plan_.fleet, plan_.seats[:rounds]
    columns = past.actual.columns(fleet.locations)[fleet.location_index[seats]]
    watts = fleet.power_watts[seats]
    return float(
        emissions_g(past.actual, columns, watts, plan_.starts_us[:rounds], plan_.ends_us[:rounds]).sum()
    )


def once(past: Past, fleet: Fleet, start: datetime, finish_by: datetime) -> float:
    """Plan once, at the start, and never again."""
    asked = job(fleet, start, start, finish_by, ROUNDS, start)
    return charge(past, replan(asked, past.forecast(start), past.history(start)), ROUNDS)


def rolling(past: Past, fleet: Fleet, start: datetime, finish_by: datetime, cadence: timedelta) -> float:
    """Plan anew every few hours; what has begun is not changed."""
    now, free_from, left, total, previous = start, start, ROUNDS, 0.0, None
    turns: Counter[str] = Counter()
    while left:
        asked = job(_with_turns(fleet, turns), start, now, finish_by, left, max(now, free_from))
        previous = replan(asked, past.forecast(now), past.history(now), previous=previous)
        begun = int((previous.opens_us < to_us(now + cadence)).sum())
        total += charge(past, previous, begun)
        turns.update(str(client) for client in fleet.ids[previous.seats[:begun].ravel()])
        if begun:
            free_from = from_us(previous.closes_us[begun - 1])
        left, now = left - begun, now + cadence
    assert set(turns.values()) == {ROUNDS * CLIENTS_PER_ROUND // CLIENTS}
    assert free_from <= finish_by
    return total


def perfect(past: Past, fleet: Fleet, start: datetime, finish_by: datetime) -> float:
    """Plan once, knowing what will happen."""
    return charge(past, plan(job(fleet, start, start, finish_by, ROUNDS, start), past.actual), ROUNDS)


def run_now(past: Past, fleet: Fleet, start: datetime) -> float:
    columns = past.actual.columns(fleet.locations)[fleet.location_index]
    opens = to_us(start) + np.arange(ROUNDS) * (HOUR // timedelta(microseconds=1))
    durations = np.full(CLIENTS, HOUR // timedelta(microseconds=1))
    return float(
        run_now_g(past.actual, columns, fleet.power_watts, durations, opens, CLIENTS_PER_ROUND).sum()
    )


def _with_turns(fleet: Fleet, turns: Counter[str]) -> Fleet:
    return replace(fleet, turns_done=np.array([turns[str(client)] for client in fleet.ids], dtype=np.int64))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--deadlines", type=float, nargs="+", default=[1, 2, 4])
    parser.add_argument("--cadence", type=float, default=6, help="hours between plans")
    told = parser.parse_args()
    past, cadence = Past(told.data), told.cadence * HOUR
    methods = {
        "planned once": lambda *case: once(past, *case),
        f"replanned every {told.cadence:g} h": lambda *case: rolling(past, *case, cadence),
        "perfect information": lambda *case: perfect(past, *case),
    }
    print(f"% less than random clients back-to-back, mean (standard error) of {told.seeds} starts")
    print("deadline " + "".join(f"{name:>26}" for name in methods))
    for factor in told.deadlines:
        cuts = {name: [] for name in methods}
        for seed in range(told.seeds):
            fleet, start = instance(seed, told.seeds, np.random.default_rng(seed))
            finish_by, base = start + factor * ROUNDS * HOUR, run_now(past, fleet, start)
            for name, method in methods.items():
                cuts[name].append(100 * (1 - method(fleet, start, finish_by) / base))
        error = np.sqrt(max(told.seeds - 1, 1))
        shown = [f"{np.mean(cut):.1f} ({np.std(cut) / error:.1f})" for cut in cuts.values()]
        print(f"{factor:g} x".ljust(9) + "".join(f"{text:>26}" for text in shown), flush=True)


if __name__ == "__main__":
    main()
