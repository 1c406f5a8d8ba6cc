"""Comparison of methods on the same instances: means, standard errors, paired differences, capture.

Instances are independent, so they are replayed in several processes. Their number changes no result but the
seconds of planning.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from math import sqrt
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.accounting.emissions import jain_index
from lowcarb_scheduler.backtest.methods import METHODS
from lowcarb_scheduler.backtest.scenario import REPLAN_EVERY, instance
from lowcarb_scheduler.clock import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime, timedelta

    from lowcarb_scheduler.backtest.history import History
    from lowcarb_scheduler.backtest.scenario import Instance, Outcome, Scenario
    from lowcarb_scheduler.intensity import Floats

BASELINE, BOUND, SCHEDULER = "run-now", "bound", "scheduler"
_WITHOUT_TURNS: Final = (BASELINE, BOUND)  # an expectation and a relaxation: neither seats clients
_Outcomes = dict[str, "tuple[Outcome, float]"]  # outcome and CPU seconds by method


@dataclass(frozen=True, slots=True)
class Score:
    """Score of a method with one deadline, over all instances.

    Parameters
    ----------
    method : str
        Name of the method.
    emissions_g : float
        Mean emissions [gCO2eq].
    reduction, reduction_se : float
        Mean part of the run-now emissions that is avoided, and its standard error; None for one instance.
    difference, difference_se : float or None
        Mean difference of its reduction and that of *scheduler* on the same instance, and its standard
        error; None if *scheduler* was not replayed.
    capture : float or None
        Mean reduction over the mean reduction of the bound, a ratio of means; None if the bound avoids
        nothing.
    jain : float or None
        Mean of Jain's index of turns; None for run-now and the bound, which have no turns of clients.
    min_turns, max_turns : int or None
        Fewest and most turns of any client in any instance.
    plan_seconds : float
        Mean CPU time of one instance [s].
    """

    method: str
    emissions_g: float
    reduction: float
    reduction_se: float | None
    difference: float | None
    difference_se: float | None
    capture: float | None
    jain: float | None
    min_turns: int | None
    max_turns: int | None
    plan_seconds: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores of all methods by deadline.

    Parameters
    ----------
    scenario : Scenario
        Kind of job that was replayed.
    seeds : int
        Number of instances for each deadline.
    period : (datetime, datetime)
        Earliest start and latest end of an instance.
    replan_every : timedelta
        Time between two plans.
    scores : dict of float to tuple of Score
        By deadline in back-to-back times, methods in the order of ``METHODS``.
    """

    scenario: Scenario
    seeds: int
    period: tuple[datetime, datetime]
    replan_every: timedelta
    scores: dict[float, tuple[Score, ...]]


def compare(
    history: History, scenario: Scenario, deadlines: Sequence[float], seeds: int,
    period: tuple[datetime, datetime], methods: Sequence[str] = tuple(METHODS),
    replan_every: timedelta = REPLAN_EVERY, jobs: int = 1, done: Callable[[], None] = lambda: None,
) -> Comparison:  # fmt: skip
    """Replay methods on the same instances.

    Parameters
    ----------
    history : History
        Actual intensity and past forecasts.
    scenario : Scenario
        Kind of job to replay.
    deadlines : sequence of float
        In back-to-back times of its rounds.
    seeds : int
        Number of instances for each deadline.
    period : (datetime, datetime)
        Earliest start and latest end of an instance.
    methods : sequence of str
        Names from ``METHODS``; run-now and the bound are always replayed.
    replan_every : timedelta
        Time between two plans, for methods that revise their plan.
    jobs : int
        Number of processes.
    done : callable
        Called after each instance.

    Raises
    ------
    InputError
        If actual intensity has a gap in the period.
    """
    names = tuple(name for name in METHODS if name in methods or name in _WITHOUT_TURNS)
    latest = {factor: period[1] - factor * scenario.back_to_back for factor in deadlines}
    # Late deadlines take longest; they start first, so that no process is left alone with one at the end.
    keys = [(factor, seed) for factor in sorted(latest, reverse=True) for seed in range(seeds)]
    cases = [
        instance(scenario, seed, seeds, factor, (period[0], latest[factor]), replan_every)
        for factor, seed in keys
    ]
    found: dict[tuple[float, int], _Outcomes] = {}
    for key, outcomes in zip(keys, _replayed(history, cases, names, jobs), strict=True):
        found[key] = outcomes
        done()
    scores = {factor: _scores([found[factor, seed] for seed in range(seeds)], names) for factor in deadlines}
    return Comparison(scenario, seeds, period, replan_every, scores)


def _replayed(
    history: History, cases: Sequence[Instance], names: Sequence[str], jobs: int
) -> Iterator[_Outcomes]:
    """Yield the outcome of each method on each instance, in order."""
    if jobs == 1:
        _Worker.begin(history, names)
        yield from map(_Worker.replay, cases)
        return
    # A fresh interpreter each: a fork while another thread draws the progress bar could hang.
    context = get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(cases)), context, _Worker.begin, (history, names)) as pool:
        yield from pool.map(_Worker.replay, cases)


class _Worker:
    """State of a process, kept between instances: a history has many megabytes and is sent once."""

    history: History
    names: Sequence[str]

    @classmethod
    def begin(cls, history: History, names: Sequence[str]) -> None:
        cls.history, cls.names = history, names

    @classmethod
    def replay(cls, case: Instance) -> _Outcomes:
        outcomes = {}
        for name in cls.names:
            # CPU seconds: wall-clock time would depend on the number of processes.
            before = cpu_seconds()
            outcome = METHODS[name](case, cls.history)
            outcomes[name] = outcome, cpu_seconds() - before
        return outcomes


def _scores(instances: Sequence[_Outcomes], names: Sequence[str]) -> tuple[Score, ...]:
    emitted = {name: np.array([each[name][0].emissions_g for each in instances]) for name in names}
    reductions = {name: 1.0 - grams / emitted[BASELINE] for name, grams in emitted.items()}
    possible = float(reductions[BOUND].mean())
    scores = []
    for name in names:
        turns = [each[name][0].turns for each in instances] if name not in _WITHOUT_TURNS else []
        # Paired by instance: starts differ much more than methods do, so unpaired errors would hide all.
        against = reductions[name] - reductions[SCHEDULER] if SCHEDULER in reductions else None
        reduction = float(reductions[name].mean())
        scores.append(
            Score(
                method=name,
                emissions_g=float(emitted[name].mean()),
                reduction=reduction,
                reduction_se=_standard_error(reductions[name]),
                difference=None if against is None else float(against.mean()),
                difference_se=None if against is None else _standard_error(against),
                capture=reduction / possible if possible > 0 else None,
                jain=float(np.mean([jain_index(each) for each in turns])) if turns else None,
                min_turns=min(int(each.min()) for each in turns) if turns else None,
                max_turns=max(int(each.max()) for each in turns) if turns else None,
                plan_seconds=float(np.mean([each[name][1] for each in instances])),
            )
        )
    return tuple(scores)


def _standard_error(values: Floats) -> float | None:
    """Return the standard error of a mean; None for a single value."""
    return float(values.std(ddof=1)) / sqrt(len(values)) if len(values) > 1 else None
