"""Pareto front of time and carbon: plans from the earliest finish to the deadline.

Every point of the front is the best plan that ends by a target. Sweeping the target reaches the whole front,
where a weighted sum of time and carbon reaches only the corners of its convex hull. A plan that ends early is
a plan for every later target, and a bound for a late target is one for every earlier target, so running
minima of plans and running maxima of bounds make the front monotone. The search for a point starts from the
prices and openings of the one before.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.errors import InputError, PlanInfeasibleError
from lowcarb_scheduler.planning.fairness import TurnRange, as_even_as_random, range_of
from lowcarb_scheduler.planning.job import relative_gap
from lowcarb_scheduler.planning.model import Limits
from lowcarb_scheduler.planning.planner import Problem, choice_of, plan_in_range

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job, Plan
    from lowcarb_scheduler.planning.solver import Solution


_GOOD_ENOUGH: Final = 1e-3  # relative gap at which the search for a point ends


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """Point of the front: a plan, by its finish and emissions.

    Parameters
    ----------
    patience : float
        Lowest patience among those tried that reaches the plan, in [0, 1].
    finish : datetime
        Closing time of its last round.
    emissions_g : float
        Its expected emissions [gCO2eq].
    lower_bound_g : float
        Lower bound on the expected emissions of every plan with this patience [gCO2eq].
    saving : float or None
        Part of the run-now emissions that is avoided; None where run-now is undefined.
    """

    patience: float
    finish: datetime
    emissions_g: float
    lower_bound_g: float
    saving: float | None

    @property
    def gap(self) -> float:
        """Relative gap to the lower bound, see :func:`~lowcarb_scheduler.planning.job.relative_gap`."""
        return relative_gap(self.emissions_g, self.lower_bound_g)


@dataclass(frozen=True, slots=True)
class Frontier:
    """Pareto front: points in order of finish, each later and cleaner than the one before.

    Parameters
    ----------
    points : tuple of FrontierPoint
        At least one.
    run_now_emissions_g : float or None
        Expected emissions of random clients back-to-back [gCO2eq].
    """

    points: tuple[FrontierPoint, ...]
    run_now_emissions_g: float | None

    @property
    def knee(self) -> FrontierPoint:
        """Knee of the front: from here on, waiting saves less per hour than on average.

        With both axes scaled to [0, 1], the knee is the point farthest below the line from the first point
        to the last [1]_; the first of equals, and the first point of all where none lies below the line.

        References
        ----------
        .. [1] V. Satopää et al., Finding a "Kneedle" in a Haystack, ICDCS Workshops (2011) 166-171.
        """
        finish_us, emissions_g = self._axes()
        span_us, span_g = finish_us[-1] - finish_us[0], emissions_g[0] - emissions_g[-1]
        if len(self.points) == 1:
            return self.points[0]
        below = (emissions_g[0] - emissions_g) / span_g - (finish_us - finish_us[0]) / span_us
        return self.points[int(np.argmax(np.round(below, 12)))]

    @property
    def has_knee(self) -> bool:
        """True if the front has a knee; otherwise later hours save no less than the first."""
        return self.knee != self.points[0]

    def earliest_saving(self, saving: float) -> FrontierPoint | None:
        """Return the earliest point with at least this saving; None if there is none.

        Parameters
        ----------
        saving : float
            Part of the run-now emissions, for example 0.2 for 20 %.
        """
        enough = (p for p in self.points if p.saving is not None and p.saving >= saving - 1e-9)
        return next(enough, None)

    def marginal_saving_g(self, finish: datetime) -> float:
        """Return the emissions that a finish one hour later avoids [gCO2eq], linear between points.

        Parameters
        ----------
        finish : datetime
            Finish to compare with. Aware.
        """
        finish_us, emissions_g = self._axes()
        now_g, later_g = np.interp([to_us(finish), to_us(finish) + HOUR_US], finish_us, emissions_g)
        return float(now_g - later_g)

    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return finish [µs] and emissions [gCO2eq] of the points, both of shape (P,)."""
        finish_us = np.array([to_us(point.finish) for point in self.points], dtype=np.float64)
        return finish_us, np.array([point.emissions_g for point in self.points])


def tradeoff(
    job: Job, intensity: IntensityTable, points: int = 11, progress: Callable[[int, int], None] | None = None
) -> Frontier:
    """Plan the Pareto front of time and carbon, by a sweep of patience from 0 to 1.

    Parameters
    ----------
    job : Job
        Job to be planned; its own patience and target are ignored.
    intensity : IntensityTable
        Expected carbon intensity [gCO2eq/kWh].
    points : int
        Number of values of patience to try, at least 2. The front has fewer points where waiting longer
        saves nothing.
    progress : callable (done, total), optional
        Called after each value.

    Raises
    ------
    PlanInfeasibleError, ForecastUnavailableError
        As :func:`~lowcarb_scheduler.plan`.
    InputError
        If there are fewer than two points.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise InputError("points", f"{points!r} is not a whole number >= 2", "give 11, for example")
    if job.mix_rounds is not None:
        raise InputError("mix_rounds", "has no certified front", "leave it out of tradeoff")
    if range_of(job) is not None:
        return _front_in_range(job, intensity, points, progress)
    problem = Problem.of(job, intensity, Limits())
    patiences = np.linspace(0.0, 1.0, points).tolist()
    plans: list[Plan] = []
    near: Solution | None = None
    for done, patience in enumerate(patiences, start=1):
        planned, near = problem.plan_by(problem.patient_us(patience), near, _GOOD_ENOUGH)
        plans.append(planned)
        if progress is not None:
            progress(done, points)
    return Frontier(_front(patiences, plans), plans[0].run_now_emissions_g)


# -- Cost of variety ----------------------------------------------------------------------------------------

BALANCES: Final = (1.2, 0.8, 0.4)  # between a free plan and rounds that are spread over all locations


@dataclass(frozen=True, slots=True, eq=False)
class Option:
    """Rule that a job could have, and its front.

    Parameters
    ----------
    rule : {"balance", "turns"}
        Rule that the option is one of.
    name : str
        The option, for people.
    front : Frontier
        Its front.
    """

    rule: Literal["balance", "turns"]
    name: str
    front: Frontier

    def saving(self, patience: float) -> float | None:
        """Return the saving of the best plan with at most some patience; None where run-now is undefined."""
        return [point for point in self.front.points if point.patience <= patience + 1e-9][-1].saving


def options_of(job: Job) -> tuple[tuple[Literal["balance", "turns"], str, Job], ...]:
    """Return a job under each rule of balance, and with turns that differ as far as they may."""
    clients, seats = np.bincount(job.fleet.location_index), job.clients_per_round
    spread = min(ceil(seats * clients.max() / len(job.fleet)) / seats, 1.0)
    equal = replace(job, participation="equal")
    found: list[tuple[Literal["balance", "turns"], str, Job]] = [
        ("balance", "free", replace(job, balance=None)),
        *(("balance", f"{reach:g}", replace(job, balance=reach)) for reach in BALANCES),
        ("balance", "spread", replace(job, balance=BALANCES[-1], max_location_share=spread)),
        ("turns", "equal", equal),
    ]
    widest = as_even_as_random(job.rounds, seats, len(job.fleet))
    if widest is not None and not job.fleet.turns_done.any():
        least, most = widest.least, widest.most
        ranges = [TurnRange(least + 1, most - 1)] if most - least > 3 else []
        for bounds in [*ranges, widest]:
            name = f"{bounds.least} to {bounds.most}"
            found.append(("turns", name, replace(job, participation=bounds)))
    return tuple(found)


def cost_of_variety(
    job: Job, intensity: IntensityTable, points: int = 3, progress: Callable[[], None] | None = None
) -> tuple[Option, ...]:
    """Plan the front of a job under each rule of :func:`options_of`; one without a plan is left out.

    Parameters
    ----------
    job : Job
        Job to be planned; its own balance holds where turns are varied.
    intensity : IntensityTable
        Expected carbon intensity [gCO2eq/kWh].
    points : int
        Number of values of patience.
    progress : callable, optional
        Called after each option.
    """
    found = []
    fronts: dict[object, Frontier] = {}  # the job itself may be one of each rule
    for rule, name, asked in options_of(job):
        varied = asked.balance, asked.participation, asked.max_location_share
        with suppress(PlanInfeasibleError):  # a cap that no plan keeps is no option
            if varied not in fronts:
                fronts[varied] = tradeoff(asked, intensity, points)
            found.append(Option(rule, name, fronts[varied]))
        if progress is not None:
            progress()
    return tuple(found)


def _front_in_range(
    job: Job, intensity: IntensityTable, points: int, progress: Callable[[int, int], None] | None
) -> Frontier:
    """Plan the front of a job whose turns differ by location; each point chooses them anew."""
    patiences = np.linspace(0.0, 1.0, points).tolist()
    plans: list[Plan] = []
    choice = choice_of(job, intensity, Limits())
    for done, patience in enumerate(patiences, start=1):
        plans.append(plan_in_range(job, choice.with_patience(patience))[0])
        if progress is not None:
            progress(done, points)
    return Frontier(_front(patiences, plans), plans[0].run_now_emissions_g)


def _front(patiences: list[float], plans: list[Plan]) -> tuple[FrontierPoint, ...]:
    """Return the points that are later and cleaner than all before them."""
    # No plan of this patience can be below the bound of a higher one: a running maximum from the end.
    bounds_g = [planned.lower_bound_g for planned in plans]
    tight_g = np.maximum.accumulate(np.array(bounds_g, dtype=np.float64)[::-1])[::-1]
    front: list[FrontierPoint] = []
    for patience, planned, bound_g in zip(patiences, plans, tight_g.tolist(), strict=True):
        emissions_g = planned.emissions_g
        while front and planned.finish <= front[-1].finish and emissions_g < front[-1].emissions_g:
            front.pop()  # with more time the search found a plan that needs no more of it
        if front and emissions_g >= front[-1].emissions_g - 1e-12 * abs(emissions_g):
            continue
        bound_g = min(bound_g, emissions_g)
        front.append(FrontierPoint(patience, planned.finish, emissions_g, bound_g, planned.saving))
    return tuple(front)
