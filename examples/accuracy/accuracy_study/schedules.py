"""Schedules of clients. Each trains the same model in as many rounds with Flower's own FedAvg."""

from __future__ import annotations

import pickle
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM, FedYogi

from lowcarb_scheduler import Job, carbon_aware
from lowcarb_scheduler.accounting.emissions import jain_index
from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.accounting.turns import Profile
from lowcarb_scheduler.backtest import chosen_by_rule_2022
from lowcarb_scheduler.backtest.methods import owed_turns
from lowcarb_scheduler.flower.correction.applicability import Applicability
from lowcarb_scheduler.flower.correction.correction import ParticipationCorrection
from lowcarb_scheduler.flower.grid import ScopedGrid, pinned_sampling
from lowcarb_scheduler.ledger import Ledger, read_ledger
from lowcarb_scheduler.planning.model import Limits
from lowcarb_scheduler.planning.planner import plan
from lowcarb_scheduler.scheduling import policy
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock

if TYPE_CHECKING:
    from flwr.serverapp import Grid

    from accuracy_study.task import Task
    from accuracy_study.world import World
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Plan

Choose = Callable[[int, datetime], Sequence[int]]  # the clients of a round, by its number and opening
LAST: Final = 10  # rounds over which scores are averaged: after the last one alone they are noisier
DIGITS: Final = 2  # of a score in the results


@dataclass(frozen=True, slots=True)
class Followed:
    """Result of a schedule.

    Parameters
    ----------
    opens : list of datetime
        Openings of the rounds.
    clients : ndarray of int, shape (R, n)
        Clients that trained in them.
    scores : list of float
        Score of the model after each round [%].
    final : float
        Score of the model that the run returns [%].
    """

    opens: list[datetime]
    clients: np.ndarray
    scores: list[float]
    final: float

    def entry(self, world: World) -> dict[str, Any]:
        """Return the entry in the results."""
        fleet = world.case.fleet
        turns = np.bincount(self.clients.ravel(), minlength=len(fleet))
        region = fleet.location_index[self.clients]
        return {
            "final": round(self.final, DIGITS),
            "last_ten": round(float(np.mean(self.scores[-LAST:])), DIGITS),
            "all_rounds": round(float(np.mean(self.scores)), DIGITS),
            "scores": [round(score, DIGITS) for score in self.scores],
            "emissions_g": round(float(world.emissions_g(self.opens, self.clients).sum()), 1),
            "hours": (self.opens[-1] - self.opens[0]) / timedelta(hours=1) + 1,
            "regions_a_round": round(float(np.mean([len(set(row)) for row in region.tolist()])), DIGITS),
            "jain": round(jain_index(turns), DIGITS),
            "fewest_turns": int(turns.min()),
            "most_turns": int(turns.max()),
        }


# -- Schedules that do not wait ---


class Choosing(FedAvg):
    """FedAvg that trains the clients that a function chooses."""

    def __init__(self, world: World, choose: Choose) -> None:
        super().__init__(fraction_evaluate=0.0)
        self._world, self._choose = world, choose

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Build messages for the chosen clients."""
        nodes = sorted(grid.get_node_ids())
        chosen = self._choose(server_round, self._world.opening(server_round))
        scope = ScopedGrid(grid, [nodes[k] for k in chosen], type(self).__name__)
        with pinned_sampling(self, "train", len(chosen)):
            return list(super().configure_train(server_round, arrays, config, scope))


class CorrectionMixin(FedAvg):
    """Mixin that puts the product's correction between the replies of a round and their mean."""

    def correct_with(self, world: World, ledger: Ledger) -> None:
        """Begin a run."""
        self._places = [str(own["location"]) for own in world.node_configs()]
        self._correction = ParticipationCorrection(Applicability("location"), self, ledger)
        self._nodes: dict[int, Profile] = {}

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Build messages for the clients of the round."""
        ids = sorted(grid.get_node_ids())
        self._nodes = {
            node_id: Profile(
                id=str(k),
                location=place,
                power_watts=0.0,
                duration=None,
                node_id=node_id,
                power_assumed=False,
            )
            for k, (node_id, place) in enumerate(zip(ids, self._places, strict=True))
        }
        messages = list(super().configure_train(server_round, arrays, config, grid))
        self._correction.sent(messages)
        return messages

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Correct the replies, and average them."""
        received = list(replies)
        self._correction.correct(
            server_round, [(reply.metadata.src_node_id, reply) for reply in received], self._nodes
        )
        return super().aggregate_train(server_round, received)


class CorrectedFedAvg(CorrectionMixin, FedAvg):
    """FedAvg that samples its clients at random, corrected."""


class CorrectedChoosing(CorrectionMixin, Choosing):
    """FedAvg that trains chosen clients, corrected."""


class AdamChoosing(Choosing, FedAdam):
    """FedAdam that trains chosen clients."""


class CorrectedAdamChoosing(CorrectionMixin, AdamChoosing):
    """FedAdam that trains chosen clients, corrected."""


class YogiChoosing(Choosing, FedYogi):
    """FedYogi that trains chosen clients."""


class CorrectedYogiChoosing(CorrectionMixin, YogiChoosing):
    """FedYogi that trains chosen clients, corrected."""


class Momentum(FedAvgM):
    """FedAvgM with the server momentum of its paper: Flower's own default is none."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(server_momentum=0.9, **arguments)


class MomentumChoosing(Choosing, Momentum):
    """FedAvgM that trains chosen clients."""


class CorrectedMomentumChoosing(CorrectionMixin, MomentumChoosing):
    """FedAvgM that trains chosen clients, corrected."""


def _corrected(world: World, task: Task, strategy: CorrectionMixin) -> Followed:
    with tempfile.TemporaryDirectory() as folder:
        ledger = Ledger(Path(folder), VirtualClock(world.case.start))
        strategy.correct_with(world, ledger)
        try:
            return _followed(world, task, strategy)
        finally:
            ledger.close()


def plain(world: World, task: Task, draw: int = 0, by: type[FedAvg] = FedAvg) -> Followed:
    """Train random clients back-to-back, by default with plain FedAvg."""
    random.seed(1000 * draw + world.seed)  # FedAvg draws from it
    return _followed(world, task, by(**_sampling(world)))


def plain_again(world: World, task: Task) -> Followed:
    """Repeat plain FedAvg with another draw: the difference is the noise of the study."""
    return plain(world, task, draw=1)


def plain_corrected(world: World, task: Task) -> Followed:
    """Train the clients of plain FedAvg with the correction: what it does to random sampling itself."""
    random.seed(world.seed)
    return _corrected(world, task, CorrectedFedAvg(**_sampling(world)))


def foreseen(world: World, task: Task, by: type[Choosing] = CorrectedChoosing, **rules: Any) -> Followed:
    """Train a plan that knows the intensity to come: planning it takes a hundredth of a run's.

    Parameters
    ----------
    world, task : World, Task
        World and task of the run.
    by : type
        Strategy.
    **rules
        Rules of the job.
    """
    case, setting = world.case, world.setting
    locations, end = case.fleet.locations, case.finish_by + case.scenario.round_duration
    job = Job(
        case.fleet, case.start, case.finish_by, setting.rounds, setting.clients_per_round,
        case.scenario.round_duration, **rules,
    )  # fmt: skip
    planned = plan(job, world.source.actual(locations, case.start, end).align(locations))
    strategy = by(world, lambda number, now: planned.seats[number - 1].tolist())
    train = _corrected if isinstance(strategy, CorrectionMixin) else _followed
    found = train(world, task, strategy)
    return replace(found, opens=[each.opens_at for each in planned.rounds])


def region_after_region(world: World, task: Task) -> Followed:
    """Train regions in turn, all clients equally often: a control that must lose accuracy."""
    setting = world.setting
    by_region = np.argsort(world.case.fleet.location_index, kind="stable")
    blocks = setting.clients // setting.clients_per_round

    def choose(number: int, now: datetime) -> Sequence[int]:
        block = (number - 1) * blocks // setting.rounds
        first = block * setting.clients_per_round
        return [int(k) for k in by_region[first : first + setting.clients_per_round]]

    return _followed(world, task, Choosing(world, choose))


def rule_2022(world: World, task: Task) -> Followed:
    """Follow the rule of flwr-lowcarb, back-to-back, on the newest forecast of each round."""
    case, taken = world.case, np.zeros(len(world.case.fleet), np.int64)
    owed = owed_turns(case)

    def choose(number: int, now: datetime) -> Sequence[int]:
        forecast = world.source.forecast(case.fleet.locations, now).intensity.align(case.fleet.locations)
        left = case.scenario.rounds - number + 1
        chosen = chosen_by_rule_2022(case, forecast, now, taken, owed, left)
        taken[chosen] += 1
        return [int(k) for k in chosen]

    return _followed(world, task, Choosing(world, choose))


def _sampling(world: World) -> dict[str, Any]:
    """Return arguments by which FedAvg samples a round's clients at random."""
    setting = world.setting
    fraction = setting.clients_per_round / setting.clients
    return {
        "fraction_train": fraction,
        "min_train_nodes": setting.clients_per_round,
        "fraction_evaluate": 0.0,
    }


# -- Carbon-aware schedules ---


def aware(world: World, folder: Path, **settings: Any) -> FedAvg:
    """Return FedAvg as :func:`carbon_aware` makes it, with the settings that say what the job is.

    Parameters
    ----------
    world : World
        World of the run.
    folder : Path
        For its run-dir.
    **settings
        Further settings; all others are the defaults.
    """
    case = world.case
    strategy: FedAvg = carbon_aware(
        FedAvg(fraction_evaluate=0.0), source=world.source, finish_by=case.finish_by,
        clients_per_round=case.scenario.clients_per_round, round_duration=case.scenario.round_duration,
        run_dir=folder / "run", archive_dir="none", **settings,
    )  # fmt: skip
    return strategy


def scheduled(world: World, task: Task, folder: Path, **settings: Any) -> Followed:
    """Train with a carbon-aware strategy, as a user does; its run-dir is in a folder."""
    found = _followed(world, task, aware(world, folder, clock=VirtualClock(world.case.start), **settings))
    run = summarise(read_ledger(folder / "run"))
    assert run.finish is not None
    assert run.finish <= world.case.finish_by
    return replace(found, opens=[each.opens_at for each in run.rounds])


@contextmanager
def remembered_plans() -> Iterator[None]:
    """Keep the plans of runs within the context.

    Planning takes most of a run's time, and runs that train other models on the same schedule ask for the
    same plans. A plan is a pure function of its job, intensities, and the openings that its search starts
    from, so it is the same from memory.
    """
    known: dict[bytes, Plan] = {}

    def remembering(
        job: Job, intensity: IntensityTable, *, previous: Plan | None = None, limits: Limits = Limits()
    ) -> Plan:
        # Whether the model is corrected decides only what a balance of auto means.
        turns = job.balance_turns
        alike = replace(job, corrected=True, balance=None if turns is None else turns / job.clients_per_round)
        start = None if previous is None else previous.opens_us
        asked = sha256(pickle.dumps((alike, intensity, start, limits))).digest()
        if asked not in known:
            known[asked] = plan(job, intensity, previous=previous, limits=limits)
        return known[asked]

    policy.plan = remembering
    try:
        yield
    finally:
        policy.plan = plan


@dataclass(frozen=True, slots=True)
class Schedule:
    """Schedule of the study.

    Parameters
    ----------
    name : str
        Name in tables.
    by : callable, optional
        Trains a task in a world, for a schedule that is not carbon-aware.
    settings : dict, optional
        Settings of a carbon-aware one.
    planned : str
        Group of schedules that make the same plans; empty for one that plans nothing.
    """

    name: str
    by: Callable[[World, Task], Followed] | None = None
    settings: dict[str, Any] | None = None
    planned: str = ""

    @property
    def is_corrected(self) -> bool:
        """Whether the model is corrected."""
        if self.settings is None:
            of_plan = isinstance(self.by, partial) and self.by.keywords.get("by", CorrectedChoosing)
            return self.by is plain_corrected or (of_plan and issubclass(of_plan, CorrectionMixin))
        return self.settings.get("participation_correction") != "off"

    def follow(self, world: World, task: Task) -> Followed:
        """Train a task."""
        if self.by is not None:
            return self.by(world, task)
        with tempfile.TemporaryDirectory() as folder:
            return scheduled(world, task, Path(folder), **(self.settings or {}))


# Equal turns, and clean locations may fill a round: it saves most of what equal turns can.
FREE: Final = {"participation": "equal", "balance": "off"}
BALANCED: Final = {"participation": "equal", "balance": 1.2}
OFF: Final = {"participation_correction": "off"}
MAIN: Final = {
    "plain": Schedule("plain FedAvg", plain),
    "again": Schedule("plain FedAvg, drawn again", plain_again),
    "plain-corrected": Schedule("plain FedAvg, corrected", plain_corrected),
    "region-after-region": Schedule("region after region", region_after_region),
    "rule-2022": Schedule("the rule of 2022", rule_2022),
    "free-off": Schedule("free, equal turns", settings={**FREE, **OFF}, planned="free"),
    "free": Schedule("free, equal turns, corrected", settings=FREE, planned="free"),
    "balance-off": Schedule("balanced, equal turns", settings={**BALANCED, **OFF}, planned="balance"),
    "balance": Schedule("balanced, equal turns, corrected", settings=BALANCED, planned="balance"),
    "foreseen-equal": Schedule(
        "balanced, equal turns, corrected; hours foreseen",
        partial(foreseen, participation="equal", balance=1.2),
    ),
    "foreseen-differ": Schedule(
        "balanced, turns that differ, corrected; hours foreseen",
        partial(foreseen, participation="auto", balance=1.2),
    ),
    "at-once": Schedule(
        "balanced, turns that differ, corrected, no waiting; hours foreseen",
        partial(foreseen, participation="auto", balance=1.2, patience=0.0),
    ),
    "defaults": Schedule(
        "**defaults**: balanced, turns that differ, corrected", settings={}, planned="defaults"
    ),
}


def _server(
    key: str, name: str, own: type[FedAvg], choosing: type[Choosing], corrected: type[Choosing]
) -> dict[str, Schedule]:
    """Return the schedules that show how tight a rule of balance a server needs that is no plain mean."""
    planned = partial(foreseen, by=corrected)
    differ = partial(planned, participation="auto")
    return {
        key: Schedule(f"plain {name}", partial(plain, by=own)),
        f"{key}-again": Schedule(f"plain {name}, drawn again", partial(plain, draw=1, by=own)),
        f"{key}-free-off": Schedule("free, equal turns", partial(foreseen, by=choosing)),
        f"{key}-free": Schedule("free, equal turns, corrected", planned),
        **{
            f"{key}-{turns}{balance}": Schedule(
                f"balance {balance}, {words}, corrected", partial(by, balance=balance)
            )
            for turns, words, by in (("", "equal turns", planned), ("differ-", "turns that differ", differ))
            for balance in (1.2, 0.8, 0.4, 0.2)
        },
    }


# With Flower's own defaults, but for a momentum.
SERVERS: Final = {
    "adaptive": _server("adam", "FedAdam", FedAdam, AdamChoosing, CorrectedAdamChoosing),
    "yogi": _server("yogi", "FedYogi", FedYogi, YogiChoosing, CorrectedYogiChoosing),
    "momentum": _server(
        "fedavgm", "FedAvgM, momentum 0.9", Momentum, MomentumChoosing, CorrectedMomentumChoosing
    ),
}
ALL: Final = {name: schedule for group in (MAIN, *SERVERS.values()) for name, schedule in group.items()}


def _followed(world: World, task: Task, strategy: FedAvg) -> Followed:
    """Train with a strategy; openings are recorded as if its rounds did not wait."""
    grid = world.grid(task)
    scores, final = trained(world, task, strategy, grid)
    return Followed(world.back_to_back(), trained_clients(grid, world.setting.rounds), scores, final)


def trained(world: World, task: Task, strategy: FedAvg, grid: Grid) -> tuple[list[float], float]:
    """Train with a strategy; return the score after each round, and that of the model it returns [%]."""
    found: list[float] = []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        found.append(task.score(arrays.to_numpy_ndarrays()))
        return MetricRecord({})

    weights = ArrayRecord(task.new_weights(world.seed))
    result = strategy.start(grid, weights, num_rounds=world.setting.rounds, evaluate_fn=evaluate)
    return found[1:], task.score(result.arrays.to_numpy_ndarrays())  # the first score is of new weights


def trained_clients(grid: InMemoryGrid, rounds: int) -> np.ndarray:
    """Return the clients of each round, shape (R, n)."""
    nodes = {node_id: k for k, node_id in enumerate(sorted(grid.get_node_ids()))}
    trained: dict[int, list[int]] = defaultdict(list)
    for message in grid.sent:
        if message.metadata.message_type == "train":
            number = int(message.content["config"]["server-round"])
            trained[number].append(nodes[message.metadata.dst_node_id])
    return np.array([trained[number] for number in range(1, rounds + 1)])
