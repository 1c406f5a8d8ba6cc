"""Benchmark of the planner: certified gaps, CPU time, and emissions of other ways of planning.

    python benchmarks/planner.py [--quick] [--expanded] [--actual FILE]

CPU seconds of one thread without imports; each row is the worst of its seeds. Curves are synthetic but shaped
like real ones (daily and half-daily waves with a phase per location, slow weather); ``--actual`` adds a
comparison with other ways of planning on real ones, from a table of region, time and g_per_kwh.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import resource
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.optimize

from lowcarb_scheduler import Fleet, IntensityTable, Job, plan, tradeoff
from lowcarb_scheduler.planning.assignment import assign_aggregated
from lowcarb_scheduler.planning.model import Limits
from lowcarb_scheduler.planning.planner import Problem

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOURS = 96
SEEDS = (1, 2)
CLASSES_WATTS = np.array([100.0, 180.0, 250.0, 300.0, 450.0])


class Case(NamedTuple):
    """One row of the table."""

    clients: int
    rounds: int
    seats: int
    locations: int
    step_minutes: int
    round_minutes: int
    powers: str = "5 classes"


SCALE = (
    Case(100, 10, 10, 10, 60, 60),
    Case(100, 10, 10, 10, 5, 120, "all differ"),
    Case(100, 50, 10, 16, 60, 60),
    Case(100, 200, 10, 16, 15, 15),
    Case(1_000, 50, 50, 24, 60, 60, "all differ"),
    Case(1_000, 50, 50, 24, 15, 60),
    Case(1_000, 100, 15, 10, 15, 30, "all differ"),
    Case(1_000, 200, 50, 40, 5, 20),
    Case(10_000, 50, 100, 40, 15, 60),
    Case(10_000, 100, 100, 40, 15, 30, "all differ"),
    Case(10_000, 200, 100, 40, 5, 20),
    Case(10_000, 200, 100, 400, 60, 15),
    Case(10_000, 200, 100, 400, 5, 20),
)
MILLION = (
    Case(1_000_000, 200, 1_000, 40, 5, 20),
    Case(1_000_000, 200, 10_000, 40, 5, 20),
    Case(1_000_000, 200, 10_000, 40, 5, 20, "all differ"),
)


# -- Jobs and intensities -----------------------------------------------------------------------------------


def curves(locations: int, step_minutes: int, seed: int, iid: bool = False) -> IntensityTable:
    """Return intensity by location: waves with a phase and level per location, and slow weather."""
    rng = np.random.default_rng(seed)
    steps = HOURS * 60 // step_minutes
    hour = np.arange(steps)[:, None] * step_minutes / 60
    if iid:
        values = rng.uniform(20, 600, (steps, locations))
    else:
        base, phase = rng.uniform(50, 600, locations), rng.uniform(0, 24, locations)
        swing = rng.uniform(0.1, 0.5, locations)
        weather = np.zeros((steps, locations))
        memory = 1 - 0.02 * step_minutes / 60
        shocks = rng.normal(0, 0.02 * (step_minutes / 60) ** 0.5, weather.shape)
        for k in range(1, steps):
            weather[k] = memory * weather[k - 1] + shocks[k]
        day = 2 * np.pi * (hour - phase) / 24
        values = base * np.clip(1 + swing * (np.cos(day) + 0.3 * np.cos(2 * day)) + weather, 0.05, None)
    index = pd.date_range(NOW, periods=steps, freq=f"{step_minutes}min")
    names = [f"L{k:03d}" for k in range(locations)]
    return IntensityTable.from_frame(pd.DataFrame(values, index=index, columns=names), synthetic=True)


def read_actual(path: str, locations: int, seed: int) -> IntensityTable:
    """Return four real days of some locations."""
    rows = pd.read_parquet(path) if path.endswith("parquet") else pd.read_csv(path, parse_dates=["time"])
    wide = rows.pivot_table(index="time", columns="region", values="g_per_kwh")
    first = int(np.random.default_rng(seed).integers(len(wide) - HOURS))
    part = wide.iloc[first : first + HOURS, :locations]
    start = pd.Timestamp(NOW)
    part.index = start + (part.index - part.index[0])
    part.columns = [f"L{k:03d}" for k in range(part.shape[1])]
    return IntensityTable.from_frame(part)


def fleet(clients: int, locations: int, powers: str, seed: int) -> Fleet:
    """Return clients spread over the locations at random."""
    rng = np.random.default_rng(1000 + seed)
    watts = rng.uniform(80, 500, clients) if powers == "all differ" else rng.choice(CLASSES_WATTS, clients)
    names = np.array([f"L{k:03d}" for k in range(locations)], dtype=object)
    return Fleet.from_frame(
        pd.DataFrame(
            {
                "id": [f"c{k:07d}" for k in range(clients)],
                "location": names[rng.integers(0, locations, clients)],
                "power_watts": watts,
            }
        )
    )


def job_of(case: Case, seed: int, stagger: bool = False) -> Job:
    return Job(
        fleet(case.clients, case.locations, case.powers, seed),
        now=NOW,
        finish_by=NOW + timedelta(hours=HOURS),
        rounds=case.rounds,
        clients_per_round=case.seats,
        round_duration=timedelta(minutes=case.round_minutes),
        stagger=stagger,
    )


def timed(work: Callable[..., Any], *arguments: object) -> tuple[Any, float]:
    """Call a function; return its result and the CPU seconds."""
    start = time.process_time()
    return work(*arguments), time.process_time() - start


# -- Other ways of planning: openings first, or clients first -----------------------------------------------


def evenly(problem: Problem) -> np.ndarray:
    grid, rounds = problem.model.windows.grid, problem.job.rounds
    slack = len(grid) - 1 - (rounds - 1) * grid.width
    return np.arange(rounds) * grid.width + slack * np.arange(rounds) // max(rounds - 1, 1)


def fleet_mean_best(problem: Problem) -> np.ndarray:
    """Return the openings of least mean intensity over the fleet that do not overlap."""
    model = problem.model
    slots, rounds, width = len(model.windows.grid), problem.job.rounds, model.windows.grid.width
    costs = model.costs_g(model.windows.integrals[:slots]) @ model.groups.size
    best = np.full((rounds + 1, slots + width), np.inf)
    best[0] = 0
    for r in range(1, rounds + 1):
        best[r, width:] = np.minimum.accumulate(best[r - 1, :slots] + costs)
    chosen, end = [], slots + width - 1
    for r in range(rounds, 0, -1):
        end = int(np.argmax(best[r] <= best[r, end])) - width
        chosen.append(end)
    return np.array(chosen[::-1])


def assigned_g(problem: Problem, slots: np.ndarray) -> float:
    model = problem.model
    return assign_aggregated(model.seating, model.round_costs_g(slots), model.limits).emissions_g


def round_by_round_g(problem: Problem, slots: np.ndarray) -> float:
    """Return the emissions of rounds that each take the cleanest clients that still owe turns [gCO2eq]."""
    seating, costs = problem.model.seating, problem.model.round_costs_g(slots)
    left, total = seating.members * seating.most, 0.0
    for r in range(len(slots)):
        # Turns that the remaining rounds have no room for must be taken now.
        must = np.maximum(left - seating.members * (len(slots) - 1 - r), 0)
        taken, open_seats = must.copy(), seating.seats - must.sum()
        for g in np.argsort(costs[r]):
            more = min(open_seats, left[g] - taken[g], seating.members[g] - taken[g])
            taken[g] += more
            open_seats -= more
        left -= taken
        total += float(costs[r] @ taken)
    return total


def monte_carlo_g(problem: Problem, slots: np.ndarray, seconds: float, seed: int) -> float:
    """Return the emissions after random swaps of clients between rounds for some CPU time [gCO2eq]."""
    rng = np.random.default_rng(seed)
    costs = problem.model.round_costs_g(slots)
    seating = problem.model.seating
    turns = np.repeat(np.arange(costs.shape[1]), seating.members * seating.most)
    seats = rng.permutation(turns).reshape(len(slots), -1)
    total = float(np.take_along_axis(costs, seats, axis=1).sum())
    end = time.process_time() + seconds
    while time.process_time() < end:
        a, b = rng.integers(0, seats.size, (2, 512))
        for one, two in zip(a.tolist(), b.tolist(), strict=True):
            r, s = one // seats.shape[1], two // seats.shape[1]
            g, h = seats.flat[one], seats.flat[two]
            gain = costs[r, g] + costs[s, h] - costs[r, h] - costs[s, g]
            if gain > 0:
                seats.flat[one], seats.flat[two] = h, g
                total -= gain
    return total


# -- Tables -------------------------------------------------------------------------------------------------


def show_scale(title: str, cases: tuple[Case, ...], iid: bool = False) -> None:
    """Print gap, time, saving and peak memory; gap and time of the worst seed."""
    print(f"\n{title}\n  clients rounds  seats places step round  powers      gap %   CPU s   saving %   MiB")
    for case in cases:
        rows = []
        for seed in SEEDS:
            job, intensity = job_of(case, seed), curves(case.locations, case.step_minutes, seed, iid)
            found, spent = timed(plan, job, intensity)
            rows.append((100 * found.gap, spent, 100 * found.saving))
        gap, spent, saving = np.max(rows, axis=0)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(
            f"{case.clients:9} {case.rounds:6} {case.seats:6} {case.locations:6} {case.step_minutes:4}"
            f" {case.round_minutes:5}  {case.powers:10} {gap:6.3f} {spent:7.2f} {saving:10.1f} {peak:5}"
        )


def show_rules() -> None:
    """Print gap, time and saving under rules of balance and with turns that differ; the worst seed."""
    print("\nbalance and turns, 100 clients, 50 rounds of 10, 16 places (must: 2 %, 1 s at balance 1.2)\n"
          "  powers       balance  turns       gap %   CPU s   saving %   imbalance")  # fmt: skip
    for powers in ("5 classes", "all differ"):
        case = Case(100, 50, 10, 16, 60, 60, powers)
        rules = [
            (None, "equal"),
            (1.2, "equal"),
            (0.8, "equal"),
            (0.4, "equal"),
            (None, "auto"),
            (1.2, "auto"),
        ]
        for balance, turns in rules:
            rows = []
            for seed in (*SEEDS, 3):
                job = replace(job_of(case, seed), balance=balance, participation=turns)
                found, spent = timed(plan, job, curves(case.locations, case.step_minutes, seed))
                assert not found.relaxed
                rows.append((100 * found.gap, spent, -100 * found.saving, found.imbalance))
            gap, spent, saving, imbalance = np.max(rows, axis=0)
            print(f"  {powers:12} {balance or 'off':>7}  {turns:8} {gap:8.3f} {spent:7.2f} {-saving:10.1f}"
                  f"   {imbalance:6.1f} turns")  # fmt: skip


def show_others(cases: tuple[Case, ...], actual: str | None = None) -> None:
    """Print the emissions of other ways of planning as a multiple of the plan's, the least of all seeds."""
    kind = "real" if actual else "made-up"
    print(f"\nother ways of planning, emissions as a multiple of the plan's ({kind} curves)\n"
          "  clients rounds places      evenly  fleet-mean by-the-round Monte-Carlo")  # fmt: skip
    for case in cases:
        ratios = []
        for seed in SEEDS:
            made_up = curves(case.locations, case.step_minutes, seed)
            intensity = read_actual(actual, case.locations, seed) if actual else made_up
            job = job_of(case, seed)
            found, spent = timed(plan, job, intensity)
            problem = Problem.of(job, intensity, Limits())
            even = evenly(problem)
            others = (
                assigned_g(problem, even),
                assigned_g(problem, fleet_mean_best(problem)),
                round_by_round_g(problem, even),
                monte_carlo_g(problem, even, spent, seed),
            )
            ratios.append([other / found.emissions_g for other in others])
        least = np.min(ratios, axis=0)
        print(f"{case.clients:9} {case.rounds:6} {case.locations:6} "
              + "".join(f"{value:12.4f}" for value in least))  # fmt: skip


def show_expanded() -> None:
    """Print the aggregated assignment against ``linear_sum_assignment`` (0.8 GB, minutes)."""
    print("\n10,000 clients, 50 rounds of 200, 5 power classes, one turn each: seats alone")
    case = Case(10_000, 50, 200, 40, 60, 60)
    problem = Problem.of(job_of(case, 1), curves(case.locations, 60, 1), Limits())
    costs, members = problem.model.round_costs_g(evenly(problem)), problem.model.seating.members
    aggregated, spent = timed(assign_aggregated, problem.model.seating, costs)
    matrix = np.repeat(np.repeat(costs, case.seats, axis=0), members, axis=1)
    pairs, expanded = timed(scipy.optimize.linear_sum_assignment, matrix)
    difference = aggregated.emissions_g / float(matrix[pairs].sum()) - 1
    print(f"  linear_sum_assignment {expanded:.2f} s   aggregated {spent:.3f} s   {expanded / spent:.0f} x"
          f"   difference {difference:.1e}")  # fmt: skip


def show_front() -> None:
    """Print the time of a front against that of one plan."""
    print("\nfront of 12 points, 1,000 clients\n  rounds seats step   plan s  front s  ratio  points  gap %")
    for case in (Case(1_000, 50, 50, 20, 60, 60), Case(1_000, 100, 50, 40, 15, 30)):
        for seed in SEEDS:
            job, intensity = job_of(case, seed), curves(case.locations, case.step_minutes, seed)
            _, one = timed(plan, job, intensity)
            front, twelve = timed(tradeoff, job, intensity)
            worst = 100 * max(point.gap for point in front.points)
            print(f"{case.rounds:8} {case.seats:5} {case.step_minutes:4} {one:8.2f} {twelve:8.2f}"
                  f" {twelve / one:6.1f} {len(front.points):7} {worst:6.3f}")  # fmt: skip


def show_stagger() -> None:
    """Print the gain of staggered starts."""
    print("\nstagger\n  clients rounds seats step  without g     with g   gap %   CPU s")
    for case in (
        Case(100, 20, 10, 16, 60, 60),
        Case(200, 20, 100, 16, 60, 120),
        Case(1_000, 50, 50, 16, 15, 60),
    ):
        intensity = curves(case.locations, case.step_minutes, 1)
        without = plan(job_of(case, 1), intensity)
        found, spent = timed(plan, job_of(case, 1, stagger=True), intensity)
        print(
            f"{case.clients:9} {case.rounds:6} {case.seats:5} {case.step_minutes:4}"
            f" {without.emissions_g:10.1f} {found.emissions_g:10.1f} {100 * found.gap:7.3f} {spent:7.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="leave out the million clients")
    parser.add_argument(
        "--expanded", action="store_true", help="include linear_sum_assignment, which takes minutes"
    )
    parser.add_argument("--actual", help="real intensities: region, time, g_per_kwh; CSV or Parquet")
    options = parser.parse_args()
    plan(job_of(SCALE[0], 1), curves(10, 60, 1))  # warm up
    show_scale("scale (must: 1 %, 2 s)", SCALE)
    show_scale("random numbers (must: 5 %)", SCALE[2:10:2], iid=True)
    show_rules()
    show_others((SCALE[2], SCALE[5], SCALE[8]))
    if options.actual:
        show_others((SCALE[2], SCALE[4]), options.actual)
    show_stagger()
    show_front()
    if not options.quick:
        show_scale("a million clients (must: 1 %, 5 s, 1 GiB)", MILLION)
    if options.expanded:
        show_expanded()


if __name__ == "__main__":
    main()
