"""Accuracy under waiting for clean electricity: real data, a real model, the real strategy.

    python examples/accuracy/run.py [--seeds 10] [--deadline 2] [--out FOLDER]
        [--actual FILE --forecast FILE --from 2023-07-01 --to 2023-12-20]

100 clients in 16 grid zones train softmax regression on scikit-learn's digits for 50 rounds of an hour, ten
of them each. Every schedule trains the same clients with the same images in as many rounds; the seed draws
where clients are, what they know, and when the run starts. Without files intensities are SYNTHETIC. Writes
``accuracy.json`` (every accuracy and emission) and ``accuracy.png``, and prints the table.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core is faster

import numpy as np
from accuracy_study.evidence import table
from accuracy_study.picture import draw
from accuracy_study.schedules import SCHEDULES, World
from accuracy_study.task import load

from lowcarb_scheduler import Synthetic
from lowcarb_scheduler.backtest import SCENARIOS, instance
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.sources.traces import Traces

if TYPE_CHECKING:
    from lowcarb_scheduler.forecasts.base import ForecastSource


class Study(NamedTuple):
    """Study: number of seeds, deadline in back-to-back times, intensities, and period of starts."""

    seeds: int
    deadline: float
    begin: datetime
    end: datetime
    actual: Path | None
    forecast: Path | None
    rounds: int = 50

    def world(self, seed: int) -> World:
        """Return the setup of a seed."""
        scenario = replace(SCENARIOS["main"], rounds=self.rounds)
        period = (self.begin, self.end - self.deadline * scenario.back_to_back)
        return World(instance(scenario, seed, self.seeds, self.deadline, period), self.source(), seed)

    def source(self) -> ForecastSource:
        """Return the source of carbon intensity."""
        return Synthetic() if self.forecast is None else _traces(self.forecast, self.actual)


@cache
def _traces(forecast: Path, actual: Path) -> Traces:
    return Traces(forecast, actual=actual)


def follow(study: Study, seed: int, name: str) -> dict[str, Any]:
    """Follow a schedule; return its entry in the results."""
    world = study.world(seed)
    found = SCHEDULES[name](world)
    region = world.case.fleet.location_index[found.clients]
    turns = np.bincount(found.clients.ravel(), minlength=len(world.case.fleet))
    return {
        "right": found.right,
        "emissions_g": [round(grams, 1) for grams in world.emissions_g(found.opens, found.clients).tolist()],
        "hours": (found.opens[-1] - found.opens[0]) / timedelta(hours=1) + 1,
        "regions_a_round": float(np.mean([len(set(row)) for row in region.tolist()])),
        "fewest_turns": int(turns.min()),
        "most_turns": int(turns.max()),
    }


def _quiet() -> None:
    """Restrict Flower's log to errors, in the processes that train."""
    logging.getLogger("flwr").setLevel(logging.ERROR)


def conduct(study: Study, jobs: int) -> dict[str, Any]:
    """Return the results of a study for every schedule and seed."""
    seeds = range(study.seeds)
    with ProcessPoolExecutor(jobs, initializer=_quiet) as pool:
        asked = {(name, seed): pool.submit(follow, study, seed, name) for seed in seeds for name in SCHEDULES}
        for number, each in enumerate(asked.values(), start=1):
            each.result()
            print(f"\r{number} of {len(asked)} runs", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "schema_version": 1,
        "made_by": "examples/accuracy/run.py",
        "intensity": "synthetic" if study.forecast is None else "real",
        "seeds": study.seeds,
        "deadline": study.deadline,
        "from": study.begin,
        "to": study.end,
        "rounds": study.rounds,
        "test_images": len(load()[1]),
        "run_now_g": [round(study.world(seed).run_now_g(), 1) for seed in seeds],
        "schedules": {name: [asked[name, seed].result() for seed in seeds] for name in SCHEDULES},
    }


def asked() -> tuple[Study, Path, int]:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--deadline", type=float, default=2.0, help="in back-to-back times")
    parser.add_argument("--actual", type=Path, help="trace file of what happened")
    parser.add_argument("--forecast", type=Path, help="trace file of forecasts, with issued_at")
    parser.add_argument("--from", dest="begin", default="2026-01-01T00:00:00Z", help="no run starts before")
    parser.add_argument("--to", dest="end", default="2026-12-31T00:00:00Z", help="all runs are over by then")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    told = parser.parse_args()
    if (told.actual is None) != (told.forecast is None):
        raise InputError("--forecast", "needs --actual, and the other way round", "give both or neither")
    if told.seeds < 2:
        raise InputError("--seeds", "is too few to tell noise", "give 10")
    begin, end = parse_time(told.begin, "--from"), parse_time(told.end, "--to")
    return Study(told.seeds, told.deadline, begin, end, told.actual, told.forecast), told.out, told.jobs


def main() -> None:
    """Run the study, and write its results."""
    try:
        study, out, jobs = asked()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    results = conduct(study, jobs)
    out.mkdir(parents=True, exist_ok=True)
    (out / "accuracy.json").write_text(to_json(results) + "\n", encoding="utf-8")
    draw(results).savefig(out / "accuracy.png", dpi=110)
    print(table(results))
    print(f"\n{out / 'accuracy.json'}  {out / 'accuracy.png'}   ({results['intensity']} intensities)")


if __name__ == "__main__":
    main()
