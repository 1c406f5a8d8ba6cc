"""``tradeoff``: what waiting buys, as a front of plans from the earliest finish to the deadline.

Every point of the front is the best plan that is over by a moment; sweeping that moment reaches all of it,
where a weighted sum of time and carbon reaches only the corners of its convex hull. A plan that is over early
is a plan for every later moment, and a bound for a late moment is one for every earlier moment, so running
minima of plans and maxima of bounds make the front monotone. Prices and openings of one point are where the
search for the next begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.planning.planner import Problem

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Job, Plan
    from lowcarb_scheduler.planning.solver import Solution


_GOOD_ENOUGH: Final = 1e-3  # gap at which the search for a point ends


@dataclass(frozen=True, slots=True)
class FrontierPoint:
    """One plan of the front.

    Parameters
    ----------
    patience : float
        The least of those tried that reaches it, in [0, 1].
    finish : datetime
        When its last round closes.
    emissions_g : float
        What it is expected to emit [gCO2eq].
    lower_bound_g : float
        No plan with this patience is expected to emit less [gCO2eq].
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
        """How far the point can be from the best plan with this patience, as a part of its emissions."""
        if self.emissions_g == self.lower_bound_g:
            return 0.0
        return (self.emissions_g - self.lower_bound_g) / max(abs(self.emissions_g), 1e-9)


@dataclass(frozen=True, slots=True)
class Frontier:
    """Time against carbon: points in order of finish, each later and cleaner than the one before.

    Parameters
    ----------
    points : tuple of FrontierPoint
        At least one.
    run_now_emissions_g : float or None
        Expectation over random clients, back-to-back [gCO2eq].
    """

    points: tuple[FrontierPoint, ...]
    run_now_emissions_g: float | None

    @property
    def knee(self) -> FrontierPoint:
        """The point after which waiting buys less than it did on average.

        With both axes scaled to [0, 1], it is the one farthest below the line from the first point to the
        last [1]_; the first of equals, and the first point where all lie on that line.

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
        """Whether a point lies below that line; if none does, later hours buy no less than the first."""
        return self.knee != self.points[0]

    def earliest_saving(self, saving: float) -> FrontierPoint | None:
        """Return the earliest point that saves at least this part of the run-now emissions, if there is one.

        Parameters
        ----------
        saving : float
            For example 0.2 for 20 %.
        """
        enough = (p for p in self.points if p.saving is not None and p.saving >= saving - 1e-9)
        return next(enough, None)

    def marginal_saving_g(self, finish: datetime) -> float:
        """Return what finishing one hour later avoids [gCO2eq], between points in proportion.

        Parameters
        ----------
        finish : datetime
            When the job would be over otherwise. Aware.
        """
        finish_us, emissions_g = self._axes()
        now_g, later_g = np.interp([to_us(finish), to_us(finish) + HOUR_US], finish_us, emissions_g)
        return float(now_g - later_g)

    def _axes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return finish [µs] and emissions [g] of the points."""
        finish_us = np.array([to_us(point.finish) for point in self.points], dtype=np.float64)
        return finish_us, np.array([point.emissions_g for point in self.points])


def tradeoff(
    job: Job, intensity: IntensityTable, points: int = 12, progress: Callable[[int, int], None] | None = None
) -> Frontier:
    """Sweep patience from 0 to 1.

    Parameters
    ----------
    job : Job
        What is to be planned; its own patience and target are left out of account.
    intensity : IntensityTable
        What is expected [gCO2eq/kWh].
    points : int
        How many values of patience are tried, at least 2. The front has fewer points where waiting longer
        buys nothing.
    progress : callable (done, of), optional
        Called after each.

    Raises
    ------
    PlanInfeasibleError, ForecastUnavailableError
        As :func:`~lowcarb_scheduler.plan`.
    InputError
        If there are fewer than two points.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise InputError("points", f"{points!r} is not a whole number >= 2", "give 12, for example")
    if job.mix_rounds is not None:
        raise InputError("mix_rounds", "has no certified front", "leave it out of tradeoff")
    problem = Problem.of(job, intensity)
    patiences = np.linspace(0.0, 1.0, points).tolist()
    plans: list[Plan] = []
    near: Solution | None = None
    for done, patience in enumerate(patiences, start=1):
        planned, near = problem.plan_by(problem.patient_us(patience), near, _GOOD_ENOUGH)
        plans.append(planned)
        if progress is not None:
            progress(done, points)
    return Frontier(_front(patiences, plans), plans[0].run_now_emissions_g)


def _front(patiences: list[float], plans: list[Plan]) -> tuple[FrontierPoint, ...]:
    """Return the points that are later and cleaner than all before them."""
    bounds_g = [planned.lower_bound_g for planned in plans]
    tight_g = np.maximum.accumulate(np.array(bounds_g, dtype=np.float64)[::-1])[::-1]
    front: list[FrontierPoint] = []
    for patience, planned, bound_g in zip(patiences, plans, tight_g.tolist(), strict=True):
        emissions_g = planned.emissions_g
        while front and planned.finish <= front[-1].finish and emissions_g < front[-1].emissions_g:
            front.pop()  # the search did better with more time than it took
        if front and emissions_g >= front[-1].emissions_g - 1e-12 * abs(emissions_g):
            continue
        bound_g = min(bound_g, emissions_g)
        front.append(FrontierPoint(patience, planned.finish, emissions_g, bound_g, planned.saving))
    return tuple(front)
