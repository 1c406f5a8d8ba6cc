"""Rate of runs that waiting makes late although back-to-back they would be in time: at most 1 in 100.

    python benchmarks/deadline_coverage.py [--runs 500] [--confidence 0.99] [--through-flower 24]
        [--json FILE]

Every run waits before each of its rounds for the longest time allowed, so this is the worst case of all
plans. The allowed time comes from the code that a run in Flower uses, round by round, with the durations seen
by then. Half of the runs know the median beforehand, half learn from their first round; in the second part of
the table all have the rounds of earlier runs. Deadlines are multiples of the mean back-to-back time.

Durations are drawn anew for each round, except in three laws. The logarithm of "AR(0.9)" is autoregressive.
"doubles once" doubles for good after half of the rounds: it is not stationary, and may make 5 in 100 late.
With "drop-outs" each run has its own rate, from 0 to 1 %, at which any of five clients dies in a round. A
dead client holds its round up until the reply timeout: as long as ten typical rounds there, and as the slow
rounds in "1 % take 8 x" and the like. "In clusters" half of them are followed by two more.

A run counts as late only if it would have been in time without waiting. "used" is the part of the slack that
the runs have waited, half-way and in total. ``--through-flower`` adds runs through a strategy on an in-memory
Grid, with intensities that fall until the deadline, and compares them with the simulation.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.stats import beta

from lowcarb_scheduler.accounting.earlier import NO_EARLIER_ROUNDS, EarlierRounds
from lowcarb_scheduler.scheduling.durations import Durations
from lowcarb_scheduler.scheduling.schedule import RunTiming
from lowcarb_scheduler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.random import Generator

START, HOUR = datetime(2026, 3, 2, tzinfo=UTC), timedelta(hours=1)
ROUNDS = (3, 10, 50)
SHORT = (3, 10)  # of jobs with earlier runs
DEADLINES = (1.5, 2.0, 4.0)  # times the mean back-to-back time


class Law(NamedTuple):
    """Distribution of durations [typical rounds].

    Parameters
    ----------
    mean : callable
        Mean duration in a run of so many rounds.
    draw : callable
        Draws the rounds of a run.
    timeout : float
        Reply timeout; Flower extends its default to two rounds where they are long.
    most : float
        Rate of late runs that is allowed.
    """

    mean: Callable[[int], float]
    draw: Callable[[Generator, int], np.ndarray]
    timeout: float = 2.0
    most: float = 0.01


def lognormal(sigma, timeout=2.0):
    mean = float(np.exp(sigma**2 / 2))
    return Law(lambda _: mean, lambda rng, size: np.exp(sigma * rng.standard_normal(size)), timeout)


def pareto(rng: Generator, size: int):
    return (1.0 + rng.pareto(2.5, size)) / 2**0.4


def usual(rng: Generator, size: int):
    return np.exp(0.1 * rng.standard_normal(size))


def one_in_twenty(rng: Generator, size: int):
    return usual(rng, size) * np.where(rng.random(size) < 0.05, 5.0, 1.0)


def timed_out(part, length):
    mean = (1.0 - part) * float(np.exp(0.005)) + part * length
    return Law(
        lambda _: mean, lambda rng, size: np.where(rng.random(size) < part, length, usual(rng, size)), length
    )


def in_clusters(part, length):
    """Return the law of rounds that time out, of which half of the first ones are followed by two more."""
    mean = (1.0 - part) * float(np.exp(0.005)) + part * length

    def draw(rng: Generator, size: int):
        begins, more = rng.random(size) < part / 2.0 / (1.0 - part), rng.random(size) < 0.5
        lengths, k = usual(rng, size), 0
        while k < size:
            if begins[k]:
                lengths[k : k + 1 + 2 * more[k]] = length
                k += 2 * more[k]
            k += 1
        return lengths

    return Law(lambda _: mean, draw, length)


def drop_outs(rng: Generator, size: int, timeout=10.0, clients=5):
    rate = 1.0 - (1.0 - 0.01 * rng.random()) ** clients
    return np.where(rng.random(size) < rate, timeout, usual(rng, size))


def autoregressive(rng: Generator, size: int, phi=0.9, sigma=0.3):
    levels = rng.standard_normal(size)
    for k in range(1, size):
        levels[k] = phi * levels[k - 1] + np.sqrt(1 - phi**2) * levels[k]
    return np.exp(sigma * levels)


def doubling(rng: Generator, size: int):
    return usual(rng, size) * np.where(np.arange(size) < size // 2, 1.0, 2.0)


LAWS = {
    "lognormal .1": lognormal(0.1),
    "lognormal .1, short": lognormal(0.1, timeout=10.0),
    "lognormal .3": lognormal(0.3),
    "Pareto 2.5": Law(lambda _: 5 / 3 / 2**0.4, pareto, 10.0),
    "5 % take 5 x": Law(lambda _: 1.2 * float(np.exp(0.005)), one_in_twenty),
    "1 % take 8 x": timed_out(0.01, 8.0),
    "1 % take 12 x": timed_out(0.01, 12.0),
    "5 % take 8 x": timed_out(0.05, 8.0),
    "5 % take 12 x": timed_out(0.05, 12.0),
    "drop-outs": Law(lambda _: 1.0 + 9.0 * 0.02475, drop_outs, 10.0),
    "AR(0.9)": Law(lambda _: float(np.exp(0.045)), autoregressive),
    "doubles once": Law(lambda size: float(np.exp(0.005)) * (2 - size // 2 / size), doubling, most=0.05),
    "2 % take 8 x, in clusters": in_clusters(0.02, 8.0),
    "5 % take 12 x, in clusters": in_clusters(0.05, 12.0),
}
WITHOUT = tuple((law, 0, rounds) for law, rounds in product(LAWS, ROUNDS))
WITH = tuple((law, 30, rounds) for law, rounds in product(LAWS, SHORT))
FEWER = tuple(("lognormal .1", runs, rounds) for runs, rounds in product((3, 10), SHORT))


class Outcome(NamedTuple):
    """Simulated run: in time without waiting, late with it, slack, parts of it waited, openings."""

    could: bool
    late: bool
    slack: timedelta
    half: float
    used: float
    openings: list[datetime]


def settings_of(finish_by, confidence=0.99, is_given=True):
    length = {"round_duration": HOUR} if is_given else {}
    return Settings.load(keywords={"finish_by": finish_by, "deadline_confidence": confidence, **length})


def simulate(durations, settings, timeout=2.0, earlier=NO_EARLIER_ROUNDS) -> Outcome:
    """Simulate rounds of these durations, each after the longest wait that is allowed."""
    finish_by = settings.finish_by
    known = Durations(settings.round_duration, earlier=earlier, reply_timeout=timeout * HOUR)
    timing = RunTiming(
        START, len(durations), known, finish_by, settings.patience, settings.deadline_confidence
    )
    now, waited, half, openings = START, timedelta(0), timedelta(0), []
    for number, took in enumerate(durations, start=1):
        latest = timing.latest_opening(number)
        if latest is not None and latest > now:
            waited, now = waited + (latest - now), latest
        if number <= len(durations) // 2:
            half = waited
        openings.append(now)
        now += took
        timing.round_over(took, timing.round_closed(took))
    slack = finish_by - sum(durations, timedelta(0))
    could = slack >= timedelta(0)
    parts = (half / slack, waited / slack) if slack > timedelta(0) else (0.0, 0.0)
    return Outcome(could, could and now > START + finish_by, slack, *parts, openings)


def sample(law, rounds, rng):
    return [float(each) * HOUR for each in LAWS[law].draw(rng, rounds)]


def sample_earlier(law, rounds, runs, rng):
    """Return the rounds of earlier runs; those of the law that changes were steady."""
    law = "lognormal .1" if law == "doubles once" else law
    seconds = [each.total_seconds() for _ in range(runs) for each in sample(law, rounds, rng)]
    return EarlierRounds(tuple(seconds), runs)


def cell(task):
    """Return a summary of the runs of a row."""
    law, earlier, rounds, deadline, runs, confidence = task
    rng = np.random.default_rng([list(LAWS).index(law), earlier, rounds, int(10 * deadline)])
    finish_by = rounds * LAWS[law].mean(rounds) * deadline * HOUR
    settings = [settings_of(finish_by, confidence, is_given) for is_given in (False, True)]
    outcomes = [
        simulate(
            sample(law, rounds, rng), settings[k % 2], LAWS[law].timeout,
            sample_earlier(law, rounds, earlier, rng),
        )
        for k in range(runs)
    ]  # fmt: skip
    could = [outcome for outcome in outcomes if outcome.could]
    slacks = [max(outcome.slack / HOUR, 1e-9) for outcome in could]
    half, used = (
        float(np.average([getattr(outcome, name) for outcome in could], weights=slacks))
        for name in ("half", "used")
    )
    return task, len(could), sum(outcome.late for outcome in outcomes), half, used


def table(runs, confidence):
    logging.getLogger("flwr").setLevel(logging.WARNING)
    tasks = [
        (*key, deadline, runs, confidence)
        for key, deadline in product((*WITHOUT, *WITH, *FEWER), DEADLINES)
    ]  # fmt: skip
    print("durations            earlier  rounds  deadline   runs  in time  late   late %  95 % below"
          "  used half-way, all")  # fmt: skip
    late, total, found = 0, 0, []
    with ProcessPoolExecutor() as pool:
        for (law, earlier, rounds, deadline, count, _), could, bad, half, used in pool.map(cell, tasks):
            most = beta.ppf(0.95, bad + 1, count - bad)
            # More than chance explains: with many rows some lie a little above their rate.
            is_over = beta.ppf(0.05, bad, count - bad + 1) > LAWS[law].most if bad else False
            print(
                f"{law:20} {earlier:7d} {rounds:7d} {deadline:7.1f} x {count:6d} {could:8d} {bad:5d}"
                f" {bad / count:8.2%} {most:10.2%} {half:13.0%} {used:7.0%}{'  too many' if is_over else ''}",
                flush=True,
            )
            late, total = late + bad, total + count
            found.append({"durations": law, "earlier_runs": earlier, "rounds": rounds, "deadline": deadline,
                          "runs": count, "in_time_without": could, "late": bad, "half": half,
                          "used": used})  # fmt: skip
    print(f"{late} of {total} runs are late for waiting: {late / total:.2%}; promised: {1 - confidence:.2%}")
    return found


# -- Runs through a strategy --------------------------------------------------------------------------------


def through_flower(runs, confidence):
    """Run a strategy on intensities that fall until the deadline, and compare it with the simulation."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
    from flwr.serverapp.strategy import FedAvg

    from lowcarb_scheduler import CarbonClientApp, Forecast, IntensityTable, carbon_aware
    from lowcarb_scheduler.clock import HOUR_US, to_us
    from lowcarb_scheduler.events import RoundOpened
    from lowcarb_scheduler.intensity import Provenance
    from lowcarb_scheduler.ledger import read_ledger
    from lowcarb_scheduler.testing import InMemoryGrid

    class Machine:
        now_ = START

        def now(self):
            return self.now_

        def sleep_until(self, when):
            self.now_ = max(self.now_, when)

    class Falling:
        def forecast(self, locations, now):
            return Forecast(self.actual(locations, START, START + 60 * HOUR), now)

        def actual(self, locations, start, end):
            first = to_us(start) // HOUR_US
            hours = np.arange(first, max(to_us(end) // HOUR_US, first + 1) + 1)
            values = 1000.0 - 10.0 * (hours[:-1] - to_us(START) // HOUR_US)
            table_ = np.repeat(values[:, None], len(locations), axis=1)
            return IntensityTable(hours * HOUR_US, tuple(locations), table_, Provenance("falling", "average"))

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    rounds, late, sooner = 8, 0, []
    for k in range(runs):
        law = ("lognormal .1", "lognormal .3", "5 % take 5 x")[k % 3]
        durations, finish_by = sample(law, rounds, np.random.default_rng(k)), 4 * rounds * HOUR
        machine, app, worked = Machine(), CarbonClientApp(), set()

        @app.train()
        def train(message, _, machine=machine, worked=worked, durations=durations):
            number = message.content["config"]["server-round"]
            if number not in worked:
                worked.add(number)
                machine.now_ += durations[number - 1]
            reply = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
            return Message(RecordDict(reply), reply_to=message)

        grid = InMemoryGrid(app, [{"partition-id": n, "location": "DE"} for n in range(2)])
        with tempfile.TemporaryDirectory() as folder:
            run_dir = Path(folder) / "run"
            strategy = carbon_aware(
                FedAvg(fraction_evaluate=0.0), source=Falling(), clock=machine, run_dir=run_dir,
                round_duration=HOUR, finish_by=finish_by, deadline_confidence=confidence, clients_per_round=2,
            )  # fmt: skip
            strategy.start(grid, ArrayRecord([np.zeros(1)]), num_rounds=rounds)
            events = read_ledger(run_dir)
        simulated = simulate(durations, settings_of(finish_by, confidence))
        opened = [event.opened_at for event in events if isinstance(event, RoundOpened)]
        late += events[-1].late and simulated.could
        sooner += [(last - real) / HOUR for last, real in zip(simulated.openings, opened, strict=True)]
    print(f"through Flower: {late} of {runs} runs of {rounds} rounds are late for waiting; rounds open"
          f" {np.median(sooner):.1f} h (median; {min(sooner):.1f} to {max(sooner):.1f} h) before the last"
          " moment: on whole hours, and no later than is worth it")  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500, help="runs per row of the table")
    parser.add_argument("--confidence", type=float, default=0.99)
    parser.add_argument("--through-flower", type=int, default=24, help="runs through a strategy")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    options = parser.parse_args()
    began = time.perf_counter()
    found = table(options.runs, options.confidence)
    if options.json:
        options.json.write_text(
            json.dumps({"confidence": options.confidence, "rows": found}), encoding="utf-8"
        )
    if options.through_flower:
        through_flower(options.through_flower, options.confidence)
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
