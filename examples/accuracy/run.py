"""Accuracy under waiting for clean electricity: real data, real models, the real strategy.

    python examples/accuracy/run.py [--quick | --flower] [--settings main ...] [--out FOLDER]
        [--actual FILE --forecast FILE --from 2023-07-01T00:00Z --to 2023-12-20T00:00Z]

100 clients in 16 grid zones train four tasks with Flower's FedAvg for 50 rounds of an hour, ten of them each.
Every schedule trains the same clients with the same data in as many rounds; the seed draws where clients are,
what they know, and when the run starts. Without files intensities are SYNTHETIC. Writes ``accuracy.json`` and
``accuracy.png``, and prints the tables. Finished runs are kept in ``runs.jsonl``: the same command, started
again with ``--resume``, goes on where it was ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process a core is faster

import accuracy_study.schedules
from accuracy_study.evidence import PLAIN, tables, verdict
from accuracy_study.picture import draw
from accuracy_study.settings import FEW, OTHERS, SETTINGS
from accuracy_study.task import TASKS
from accuracy_study.world import Intensities, World

from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SCHEDULES = accuracy_study.schedules.ALL
MAIN, SERVERS = accuracy_study.schedules.MAIN, accuracy_study.schedules.SERVERS
FIRST_SEED = 100  # others were used to choose the correction's constants
QUICK_SEEDS, SEEDS = 3, 10


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the study: a schedule trains a task in a setting, with a seed."""

    seed: int
    setting: str
    task: str
    schedule: str


@dataclass(frozen=True, slots=True)
class Study:
    """Study: seeds, intensities, and the runs that are asked for.

    Parameters
    ----------
    seeds : tuple of int
        Seeds, in the order of their starts.
    intensities : Intensities
        Carbon intensity, and the period of the runs.
    settings : tuple of str
        Names of settings; the first is that of the picture.
    tasks, schedules : tuple of str
        Names.
    rounds : int
        Rounds of a run.
    """

    seeds: tuple[int, ...]
    intensities: Intensities
    settings: tuple[str, ...] = ("main",)
    tasks: tuple[str, ...] = tuple(TASKS)
    schedules: tuple[str, ...] = tuple(MAIN)
    rounds: int = 50

    def world(self, run: Run) -> World:
        """Return the world of a run."""
        setting = SETTINGS[run.setting].with_rounds(self.rounds)
        return World(setting, self.intensities, run.seed, self.seeds.index(run.seed), len(self.seeds))

    def runs(self) -> list[Run]:
        """Return all runs."""
        return [
            Run(seed, setting, task, schedule)
            for setting in self.settings
            for schedule in self.schedules
            for task in self.tasks
            for seed in self.seeds
        ]

    def batches(self, runs: Iterable[Run]) -> list[list[Run]]:
        """Return runs in groups that make the same plans, those first that many wait for."""
        groups: defaultdict[tuple[Any, ...], list[Run]] = defaultdict(list)
        for run in runs:
            setting = SETTINGS[run.setting]
            planned = SCHEDULES[run.schedule].planned
            groups[run.seed, setting.places, setting.deadline, planned].append(run)
        return list(groups.values())


def follow(study: Study, run: Run) -> dict[str, Any]:
    """Follow a schedule; return its entry in the results."""
    world = study.world(run)
    return SCHEDULES[run.schedule].follow(world, TASKS[run.task]).entry(world)


def quiet() -> None:
    """Restrict Flower's log to errors: 50 rounds of ten lines each are no news."""
    logging.getLogger("flwr").setLevel(logging.ERROR)


def follow_all(study: Study, runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Follow schedules that make the same plans."""
    quiet()
    with accuracy_study.schedules.remembered_plans():
        return [follow(study, run) for run in runs]


def conduct(study: Study, jobs: int, kept: Path | None = None, *, resume: bool = False) -> dict[Run, Any]:
    """Return the entries of all runs; those that are finished are kept in a file.

    Parameters
    ----------
    study : Study
        The study.
    jobs : int
        Number of processes.
    kept : Path, optional
        File of finished runs, one a line.
    resume : bool
        Whether runs that it holds are not repeated.
    """
    done: dict[Run, Any] = {}
    if kept is not None and not resume:
        kept.unlink(missing_ok=True)
    if kept is not None and kept.exists():
        for line in kept.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            done[Run(**entry.pop("run"))] = entry
    wanted, began = study.runs(), time.monotonic()
    batches = study.batches(run for run in wanted if run not in done)
    with ProcessPoolExecutor(jobs) as pool:
        pending = {pool.submit(follow_all, study, batch): batch for batch in batches}
        for number, future in enumerate(as_completed(pending), start=1):
            batch = pending[future]
            entries = dict(zip(batch, future.result(), strict=True))
            done |= entries
            if kept is not None:
                with kept.open("a", encoding="utf-8") as file:
                    file.writelines(f"{to_json({'run': asdict(run), **entries[run]})}\n" for run in batch)
            minutes = (time.monotonic() - began) / 60
            print(
                f"{number} of {len(batches)}: seed {batch[0].seed}, {batch[0].setting},"
                f" {len(batch)} runs of {batch[0].schedule} and the like; {minutes:.1f} min",
                file=sys.stderr, flush=True,
            )  # fmt: skip
    return {run: done[run] for run in wanted}


def results(study: Study, entries: dict[Run, Any]) -> dict[str, Any]:
    """Return the document of a study: numbers of each run, by setting, task, schedule and seed."""
    found: dict[str, Any] = {}
    for run, entry in entries.items():
        of_schedule = found.setdefault(run.setting, {}).setdefault(run.task, {})
        of_schedule.setdefault(run.schedule, []).append({k: v for k, v in entry.items() if k != "scores"})
    worlds = {
        setting: [study.world(Run(seed, setting, "", "")) for seed in study.seeds]
        for setting in study.settings
    }
    return {
        "schema_version": 2,
        "made_by": "examples/accuracy/run.py",
        "intensity": "synthetic" if study.intensities.forecast is None else "real",
        "seeds": list(study.seeds),
        "from": study.intensities.begin,
        "to": study.intensities.end,
        "rounds": study.rounds,
        "run_now_g": {name: [round(each.run_now_g(), 1) for each in own] for name, own in worlds.items()},
        "settings": found,
    }


def asked() -> tuple[Study, argparse.Namespace]:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three seeds, two tasks, few schedules")
    parser.add_argument("--seeds", type=int, help=f"number of seeds, from {FIRST_SEED} on")
    parser.add_argument("--settings", nargs="+", choices=[*SETTINGS, "others"], default=["main"])
    parser.add_argument("--tasks", nargs="+", choices=[*TASKS])
    parser.add_argument("--schedules", nargs="+", choices=[*SCHEDULES, *SERVERS])
    parser.add_argument("--actual", type=Path, help="trace file of what happened")
    parser.add_argument("--forecast", type=Path, help="trace file of forecasts, with issued_at")
    parser.add_argument("--from", dest="begin", default="2026-01-01T00:00:00Z", help="no run starts before")
    parser.add_argument("--to", dest="end", default="2026-12-31T00:00:00Z", help="all runs are over by then")
    parser.add_argument("--out", type=Path, default=Path("runs/accuracy"), help="folder for all results")
    parser.add_argument("--json", type=Path, help="file of the results, by default in that folder")
    parser.add_argument("--plot", type=Path, help="file of the picture, by default in that folder")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes, by default one a core")
    parser.add_argument("--resume", action="store_true", help="keep the runs that are finished")
    parser.add_argument(
        "--flower", action="store_true", help="one small run through flwr run, and nothing else"
    )
    told = parser.parse_args()
    if (told.actual is None) != (told.forecast is None):
        raise InputError("--forecast", "needs --actual, and the other way round", "give both or neither")
    seeds = told.seeds or (QUICK_SEEDS if told.quick else SEEDS)
    if seeds < 2:
        raise InputError("--seeds", "is too few to tell noise", f"give {SEEDS}")
    few = FEW if told.quick else OTHERS if told.settings != ["main"] else None
    groups = [SERVERS.get(name, (name,)) for name in told.schedules or ()]
    schedules = [name for group in groups for name in group]
    period = parse_time(told.begin, "--from"), parse_time(told.end, "--to")
    study = Study(
        tuple(range(FIRST_SEED, FIRST_SEED + seeds)),
        Intensities(*period, told.actual, told.forecast),
        tuple(SETTINGS)[1:] if "others" in told.settings else tuple(told.settings),
        tuple(told.tasks or (few.tasks if few else TASKS)),
        tuple(schedules or (few.schedules if few else MAIN)),
    )
    return study, told


def main() -> None:
    """Run the study, and write its results."""
    try:
        study, told = asked()
    except InputError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    told.out.mkdir(parents=True, exist_ok=True)
    if told.flower:
        print(compared(told.out, study.tasks[0]))
        return
    document = results(study, conduct(study, told.jobs, told.out / "runs.jsonl", resume=told.resume))
    text, files = (
        to_json(document),
        (told.json or told.out / "accuracy.json", told.plot or told.out / "accuracy.png"),
    )
    files[0].write_text(f"{text}\n", encoding="utf-8")
    read = json.loads(text)
    if PLAIN in study.schedules:
        draw(read).savefig(files[1], dpi=110)
    for name, table in tables(read).items():
        print(f"{name}\n\n{table}\n")
    print(verdict(read))
    print(f"\n{files[0]}  {files[1]}   ({read['intensity']} intensities)")


def compared(out: Path, task: str) -> str:
    """Return the scores of one run in the test kit's grid, and through ``flwr run``, as text."""
    from accuracy_study.flower_app import small_world, through_flower  # Ray is not installed everywhere

    quiet()
    here = SCHEDULES["defaults"].follow(small_world(FIRST_SEED), TASKS[task])
    there = through_flower(out, FIRST_SEED, task, "defaults")
    lines = [
        f"round {number:2}: {one:6.2f} % in memory, {other:6.2f} % through flwr run"
        for number, (one, other) in enumerate(zip(here.scores, there["scores"], strict=True), start=1)
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
