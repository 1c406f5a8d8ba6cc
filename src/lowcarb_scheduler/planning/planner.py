"""``plan``: from a job and a table of intensity to a plan, in one pure function.

The story, in order: how many turns each client owes (participation), what a turn costs when (grid, groups,
windows), how soon it can all be over (feasibility), which moment to finish by (patience), when rounds open
and who trains (joint), and who exactly (hand-out).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import from_us, to_us
from lowcarb_scheduler.errors import PlanInfeasibleError
from lowcarb_scheduler.planning import feasibility
from lowcarb_scheduler.planning.aggregation import Classes, Groups
from lowcarb_scheduler.planning.assignment import Seating, assign
from lowcarb_scheduler.planning.fairness import decide_turns, location_cap
from lowcarb_scheduler.planning.feasibility import find_earliest
from lowcarb_scheduler.planning.job import Plan
from lowcarb_scheduler.planning.model import Model
from lowcarb_scheduler.planning.solver import GOOD_ENOUGH, Solution, solve
from lowcarb_scheduler.planning.timegrid import Grid, Windows

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints
    from lowcarb_scheduler.planning.fairness import Turns
    from lowcarb_scheduler.planning.job import Job

# -- Mixing: everybody in turn in every few rounds, for data that differs from place to place ---------------
# A plan that is free to choose lets the clients of a place train one after the other while its grid is
# clean. Each takes its turns, yet the model hears of one place for many rounds, and forgets what it has
# learned elsewhere. So the rounds can be planned in blocks: in each block turns are shared out equally
# anew, those with fewest before first, and each block has its part of the time. What a block owes is
# decided before carbon is looked at; inside it the planner is free.


def blocks_of(job: Job) -> list[int]:
    """Return how many rounds each block of a job has; the first goes on where earlier rounds have left it."""
    size = job.mix_rounds
    if size is None:
        return [job.rounds]
    done = round(int(job.fleet.turns_done.sum()) / job.clients_per_round)
    first = min(size - done % size, job.rounds)
    rest, odd = divmod(job.rounds - first, size)
    return [first, *[size] * rest, *([odd] if odd else [])]


def plan_in_blocks(
    job: Job, intensity: IntensityTable, target_us: int, solve: Callable[[Job, IntensityTable], Plan]
) -> Plan:
    """Plan a job block by block.

    Parameters
    ----------
    job : Job
        With ``mix_rounds``.
    intensity : IntensityTable
        What is expected [gCO2eq/kWh].
    target_us : int
        When the last round is over at the latest [µs since 1970 UTC]; a block has its part of the time.
    solve : callable
        Plans a job as one block.

    Returns
    -------
    Plan
        Without a lower bound. Where gaps leave a block without a plan, the rounds are planned as one block.
    """
    whole = replace(job, mix_rounds=None)
    fleet, opens_from_us = job.fleet, job.opens_from_us
    span_us, planned, parts = target_us - opens_from_us, 0, []
    for rounds in blocks_of(job):
        planned += rounds
        after_us = (job.rounds - planned) * job.round_us
        part = replace(
            whole,
            fleet=fleet,
            rounds=rounds,
            not_before=from_us(opens_from_us),
            grid_from=from_us(job.grid_from_us),
            finish_by=from_us(to_us(job.finish_by) - after_us),
            target_finish=from_us(job.opens_from_us + span_us * planned // job.rounds),
        )
        try:
            parts.append(solve(part, intensity))
        except PlanInfeasibleError:
            return solve(replace(whole, target_finish=from_us(target_us)), intensity)
        opens_from_us = int(parts[-1].closes_us[-1])
        fleet = replace(fleet, turns_done=parts[-1].turns)
    return _joined(job, intensity, parts)


def _joined(job: Job, intensity: IntensityTable, parts: Sequence[Plan]) -> Plan:
    """Return plans that follow each other as one."""
    return replace(
        parts[0],
        fleet=job.fleet,
        opens_us=np.concatenate([part.opens_us for part in parts]),
        closes_us=np.concatenate([part.closes_us for part in parts]),
        seats=np.concatenate([part.seats for part in parts]),
        starts_us=np.concatenate([part.starts_us for part in parts]),
        ends_us=np.concatenate([part.ends_us for part in parts]),
        client_emissions_g=np.concatenate([part.client_emissions_g for part in parts]),
        lower_bound_g=None,
        run_now_emissions_g=job.run_now_g(intensity),
    )


_APART_CELLS: Final = 150_000  # groups x slots up to which every power is a group of its own
_BUCKET_CELLS: Final = 700_000  # about as many where powers are put into buckets
_BUCKET_ARCS: Final = 200_000  # groups x rounds up to which there are more than the fewest
_BUCKETS: Final = 2, 8, 32  # fewest; most where turns are fixed; most where they are free
_REFINED_ARCS: Final = 120_000  # groups x rounds up to which the last assignment keeps every power apart
_ROUNDING: Final = 1e-9  # a gap this small is the rounding of sums and the tolerance of solvers


def plan(job: Job, intensity: IntensityTable) -> Plan:
    """Plan which client trains in which round and when each round opens, so that emissions are least.

    Parameters
    ----------
    job : Job
        What is to be planned.
    intensity : IntensityTable
        What is expected [gCO2eq/kWh].

    Returns
    -------
    Plan
        With a certified lower bound, unless its rounds are mixed. Equal input gives an equal plan.

    Raises
    ------
    PlanInfeasibleError
        If no plan obeys the rules of the job.
    ForecastUnavailableError
        If a location of the fleet has no forecast in the job's time.
    """
    problem = Problem.of(job, intensity)
    if len(blocks_of(job)) > 1:
        return plan_in_blocks(job, intensity, problem.target_us(), plan)
    return problem.plan_by(problem.target_us())[0]


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """A job that has a plan, in numbers.

    Parameters
    ----------
    job, intensity
        What is asked, and what is expected.
    turns : Turns
        What each client owes.
    model : Model
        All of it up to the deadline.
    earliest_slots : ndarray of int64, shape (R,)
        Openings that finish as early as can be.
    earliest_us : int
        That moment [µs since 1970 UTC].
    patience_from_us : int
        Where patience counts from: the earliest finish without stagger, if there is one. Stagger can be over
        earlier around gaps; counted from there it would leave less time, and could be worse than without.
    """

    job: Job
    intensity: IntensityTable
    turns: Turns
    model: Model
    earliest_slots: Ints
    earliest_us: int
    patience_from_us: int

    @classmethod
    def of(cls, job: Job, intensity: IntensityTable) -> Problem:
        """Return the problem of a job, or raise why it has no plan."""
        turns = decide_turns(job)
        grid = Grid.of(job, intensity)
        feasibility.check_time(job, grid)
        feasibility.check_forecast(job, intensity)
        feasibility.check_share(job, turns)
        feasibility.check_grid(job, intensity, grid)
        model = _model(job, intensity, turns, grid)
        earliest = find_earliest(model)
        feasibility.check_gaps(job, intensity, earliest)
        patience_from_us = earliest.end_us
        if job.stagger:
            together = find_earliest(_without_stagger(model))
            patience_from_us = together.end_us if together.complete else earliest.end_us
        return cls(job, intensity, turns, model, earliest.slots, earliest.end_us, patience_from_us)

    def target_us(self) -> int:
        """Return when the last round is over at the latest, as given or by patience [µs since 1970 UTC]."""
        if self.job.target_finish is None:
            return self.patient_us(self.job.patience)
        return min(max(to_us(self.job.target_finish), self.earliest_us), to_us(self.job.finish_by))

    def patient_us(self, patience: float) -> int:
        """Return that moment for some patience [µs since 1970 UTC]."""
        return self.patience_from_us + floor(patience * (to_us(self.job.finish_by) - self.patience_from_us))

    def plan_by(
        self, target_us: int, near: Solution | None = None, good_enough: float = GOOD_ENOUGH
    ) -> tuple[Plan, Solution]:
        """Return the best plan that is over by a moment, and the solution behind it.

        Parameters
        ----------
        target_us : int
            Not before ``earliest_us`` [µs since 1970 UTC].
        near : Solution, optional
            Of an earlier target, to begin with.
        good_enough : float
            Gap at which the search ends, as a part of the emissions.
        """
        model = self.model.until(self.model.windows.grid.until(target_us))
        if not model.windows.stagger:
            solution = solve(model, self.earliest_slots, near, good_enough)
            return self._to_plan(model, solution), solution
        # Rounds planned without stagger are rounds with it, so it can only gain.
        together = _without_stagger(model)
        earliest = find_earliest(together)
        plans = []
        if earliest.complete:
            near = solve(together, earliest.slots, near, good_enough)
            plans.append(self._to_plan(together, near))
        solution = solve(model, self.earliest_slots, near, good_enough)
        plans.append(self._to_plan(model, solution))
        best = min(plans, key=lambda planned: planned.emissions_g)
        return replace(best, lower_bound_g=_bound_g(solution, best.emissions_g)), solution

    def _to_plan(self, model: Model, solution: Solution) -> Plan:
        """Seat clients and charge each for its own window."""
        job, fleet, windows, grid = self.job, self.job.fleet, model.windows, model.windows.grid
        points, integrals = windows.cheapest_starts(solution.slots, model.boundaries(solution.slots))
        seats = self._seats(model, solution, integrals)
        klass, rounds = model.class_of_client[seats], np.arange(job.rounds)[:, None]
        starts_us = grid.opens_us[0] + points[rounds, klass] * grid.step_us
        ends_us = starts_us + windows.duration_us[klass]
        emissions_g = fleet.power_watts[seats] / 1000.0 * integrals[rounds, klass]
        opens_us = grid.opens_us[solution.slots]
        return Plan(
            fleet=fleet,
            opens_us=opens_us,
            closes_us=np.maximum(opens_us + grid.round_us, ends_us.max(axis=1)),
            seats=seats,
            starts_us=starts_us,
            ends_us=ends_us,
            client_emissions_g=emissions_g,
            lower_bound_g=_bound_g(solution, float(emissions_g.sum())),
            run_now_emissions_g=job.run_now_g(self.intensity),
            provenance=self.intensity.provenance,
            forecast_until=self.intensity.end,
        )

    def _seats(self, model: Model, solution: Solution, integrals: Floats) -> Ints:
        """Return who sits where, shape (R, n).

        Where turns are not fixed, low powers take more of them; buckets see that only on average, so the last
        assignment is done once more with every power apart.
        """
        groups, job = model.groups, self.job
        seats = groups.hand_out(solution.assignment.counts, integrals)
        if groups.exact or (groups.least == groups.most).all():
            return seats  # sorted by power already
        apart = groups.apart()
        if len(apart) * job.rounds > _REFINED_ARCS:
            return seats
        refined = Model(job.rounds, apart, model.windows, _seating(job, apart, model), model.class_of_client)
        prices_g = groups.spread(solution.prices_g, apart)
        found = assign(refined.seating, refined.costs_g(integrals), prices_g)
        assert found is not None, "the same rounds were filled in buckets"
        return apart.hand_out(found.counts, integrals)


def _bound_g(solution: Solution, emissions_g: float) -> float:
    """Return the bound of a solution beside what its plan emits, the same where only rounding is between."""
    proven = emissions_g - solution.bound_g <= _ROUNDING * abs(emissions_g)
    return emissions_g if proven else solution.bound_g


def _without_stagger(model: Model) -> Model:
    """Return a model whose clients all start when their round opens."""
    return replace(model, windows=replace(model.windows, stagger=False))


def _model(job: Job, intensity: IntensityTable, turns: Turns, grid: Grid) -> Model:
    """Return the model of a job up to its deadline."""
    classes = Classes.of(job)
    most = min(_BUCKET_CELLS // len(grid), _BUCKET_ARCS // job.rounds)
    fewest, fixed, free = _BUCKETS
    finest = fixed if (turns.least == turns.most).all() else free
    buckets = int(np.clip(most // len(classes.location), fewest, finest))
    groups = Groups.of(job, turns, classes, _APART_CELLS // len(grid), buckets)
    columns = intensity.columns(job.fleet.locations)[classes.location]
    windows = Windows.of(grid, classes, columns, intensity, job.stagger)
    location = classes.location[groups.klass]
    seating = Seating(job.clients_per_round, groups.size, groups.least, groups.most, location,
                      location_cap(job))  # fmt: skip
    return Model(job.rounds, groups, windows, seating, classes.of_client)


def _seating(job: Job, groups: Groups, like: Model) -> Seating:
    """Return the rules of seating for a finer grouping of a model's clients."""
    place = np.zeros(int(like.groups.klass.max()) + 1, dtype=np.int64)
    place[like.groups.klass] = like.seating.location
    return Seating(job.clients_per_round, groups.size, groups.least, groups.most, place[groups.klass],
                   like.seating.location_cap)  # fmt: skip
