"""Planner: from a job and a table of carbon intensity to a plan, in one pure function.

The steps, in order: bounds on the turns of each client (fairness), cost of a turn at any time (timegrid,
aggregation), earliest finish (feasibility), target for the last round (patience), openings and seats
together (solver), and clients for the seats (aggregation). The steps between know arrays alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import floor
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.clock import from_us, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, PlanInfeasibleError
from lowcarb_scheduler.planning import feasibility
from lowcarb_scheduler.planning.aggregation import Classes, Groups
from lowcarb_scheduler.planning.assignment import Seating, assign
from lowcarb_scheduler.planning.balance import Balance
from lowcarb_scheduler.planning.fairness import (
    Turns,
    decide_turns,
    hand_out,
    is_seated,
    location_cap,
    open_turns,
    range_of,
    share_out,
    with_cap,
)
from lowcarb_scheduler.planning.job import Plan, start_step_us
from lowcarb_scheduler.planning.lagrangian import TurnPath
from lowcarb_scheduler.planning.model import Limits, Model
from lowcarb_scheduler.planning.solver import GOOD_ENOUGH, Solution, bound_of_range, solve
from lowcarb_scheduler.planning.timegrid import Grid, Windows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints
    from lowcarb_scheduler.planning.job import Job

# Powers are put into as many buckets as these sizes allow, within Limits.buckets.
_BUCKET_CELLS: Final = 700_000  # groups x slots, about, where powers are put into buckets
_BUCKET_ARCS: Final = 200_000  # groups x rounds up to which there are more than the fewest buckets
_ROUNDING: Final = 1e-9  # relative gap that is rounding of sums and tolerance of solvers


def plan(
    job: Job, intensity: IntensityTable, *, previous: Plan | None = None, limits: Limits = Limits()
) -> Plan:
    """Plan the clients and the opening of every round for the lowest expected emissions.

    Parameters
    ----------
    job : Job
        Fleet, times, size and rules of the job.
    intensity : IntensityTable
        Expected carbon intensity [gCO2eq/kWh].
    previous : Plan, optional
        A plan whose last rounds are those of the job, for nearly the same intensity. The search starts from
        their openings and ends sooner.
    limits : Limits, optional
        Sizes up to which exact and finer methods are used.

    Returns
    -------
    Plan
        With a certified lower bound, unless its rounds are mixed. Equal input gives an equal plan.

    Raises
    ------
    PlanInfeasibleError
        If no plan obeys the rules of the job.
    ForecastUnavailableError
        If a location of the fleet has no forecast between the first opening and the deadline.
    """
    return plan_problem(job, problem_of(job, intensity, limits), previous)


def problem_of(job: Job, intensity: IntensityTable, limits: Limits) -> Problem:
    """Build the problem that :func:`plan_problem` solves, also for other patience than the job's.

    Raises
    ------
    PlanInfeasibleError, ForecastUnavailableError
        As :func:`plan`.
    """
    return Problem.of(job, intensity, limits) if range_of(job) is None else choice_of(job, intensity, limits)


def plan_problem(job: Job, problem: Problem, previous: Plan | None = None) -> Plan:
    """Plan a job, whose problem is built; parameters and exceptions as for :func:`plan`."""
    if range_of(job) is not None:
        return plan_in_range(job, problem, previous)[0]
    if len(blocks_of(job)) > 1:
        return _plan_in_blocks(problem)
    return problem.plan_by(problem.target_us(), previous=previous)[0]


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """Feasible job as a model, with its earliest finish.

    Parameters
    ----------
    job : Job
        Fleet, times, size and rules of the job.
    intensity : IntensityTable
        Expected carbon intensity [gCO2eq/kWh].
    model : Model
        The planning problem up to the deadline.
    earliest_slots : ndarray of int64, shape (R,)
        Openings that finish first.
    earliest_us : int
        Their finish [µs since 1970 UTC].
    patience_from_us : int
        Finish at patience 0: the earliest without stagger, if there is one [µs since 1970 UTC]. Staggered
        rounds can finish earlier around gaps; counted from there, patience would leave less time, and a
        staggered plan could be worse than one without stagger.
    relaxed : mapping of str to str
        As in :class:`~lowcarb_scheduler.planning.job.Plan`.
    """

    job: Job
    intensity: IntensityTable
    model: Model
    earliest_slots: Ints
    earliest_us: int
    patience_from_us: int
    relaxed: Mapping[str, str]

    @classmethod
    def of(cls, job: Job, intensity: IntensityTable, limits: Limits, turns: Turns | None = None) -> Problem:
        """Build the problem of a job; ``turns`` are bounds on the turns of each client, if they are known.

        Raises
        ------
        PlanInfeasibleError, ForecastUnavailableError
            As :func:`plan`.
        """
        grid = Grid.between(
            job.opens_from_us, int(intensity.edges_us[-1]), to_us(job.finish_by), origin_us=job.grid_from_us,
            step_us=start_step_us(job, intensity), round_us=job.round_us, rounds=job.rounds,
        )  # fmt: skip
        feasibility.check_time(job, grid)
        feasibility.check_forecast(job, intensity)
        if len(grid) == 0:  # no round may open before the forecast ends
            none = feasibility.Earliest(np.empty(0, dtype=np.int64), grid.end_us, complete=False)
            feasibility.check_gaps(job, intensity, none)
        job, model, earliest, relaxed = _feasible(job, intensity, turns, grid, limits)
        feasibility.check_gaps(job, intensity, earliest)
        patience_from_us = earliest.end_us
        if job.stagger:
            together = feasibility.find_earliest(model.without_stagger())
            patience_from_us = together.end_us if together.complete else earliest.end_us
        return cls(job, intensity, model, earliest.slots, earliest.end_us, patience_from_us, relaxed)

    def with_patience(self, patience: float) -> Problem:
        """Return the same problem with other patience, and without a finish that is given."""
        return replace(self, job=replace(self.job, patience=patience, target_finish=None))

    def target_us(self) -> int:
        """Return the latest end of the last round, as given or by patience [µs since 1970 UTC]."""
        if self.job.target_finish is None:
            return self.patient_us(self.job.patience)
        return min(max(to_us(self.job.target_finish), self.earliest_us), to_us(self.job.finish_by))

    def patient_us(self, patience: float) -> int:
        """Return the latest end of the last round at some patience [µs since 1970 UTC]."""
        return self.patience_from_us + floor(patience * (to_us(self.job.finish_by) - self.patience_from_us))

    def plan_by(
        self, target_us: int, near: Solution | None = None, good_enough: float = GOOD_ENOUGH,
        first: Ints | None = None, previous: Plan | None = None,
    ) -> tuple[Plan, Solution]:  # fmt: skip
        """Return the best plan that ends by a target, and the solution behind it.

        Parameters
        ----------
        target_us : int
            Latest end of the last round, not before ``earliest_us`` [µs since 1970 UTC].
        near : Solution, optional
            Solution for an earlier target, from which the search starts.
        good_enough : float
            Relative gap at which the search ends.
        first : ndarray of int64, shape (R,), optional
            Openings to try first.
        previous : Plan, optional
            As for :func:`plan`; its openings are tried first unless ``first`` is given.
        """
        model, plans = self.model.until(self.model.windows.grid.until(target_us)), list[Plan]()
        rounds = self.job.rounds
        brief = previous is not None and len(previous.opens_us) >= rounds
        if previous is not None and brief and first is None:
            first = model.windows.grid.nearest(previous.opens_us[-rounds:])
        if model.windows.stagger:
            # A plan without stagger obeys the rules of stagger too, so the better of both is never worse.
            together = model.without_stagger()
            earliest = feasibility.find_earliest(together)
            if earliest.complete:
                near = solve(together, earliest.slots, near, good_enough)
                plans.append(self._to_plan(together, near))
        solution = solve(model, self.earliest_slots, near, good_enough, first, brief=brief)
        plans.append(self._to_plan(model, solution))
        best = min(plans, key=lambda planned: planned.emissions_g)
        proven = best.emissions_g - solution.bound_g <= _ROUNDING * abs(best.emissions_g)
        return replace(best, lower_bound_g=best.emissions_g if proven else solution.bound_g), solution

    def _to_plan(self, model: Model, solution: Solution) -> Plan:
        """Seat clients and charge each for its own window; the bound is set later."""
        job, fleet, windows, grid = self.job, self.job.fleet, model.windows, model.windows.grid
        points, integrals = windows.cheapest(solution.slots, model.boundaries(solution.slots))
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
            lower_bound_g=None,
            run_now_emissions_g=job.run_now_g(self.intensity),
            provenance=self.intensity.provenance,
            forecast_until=self.intensity.end,
            relaxed=self.relaxed,
        )

    def _seats(self, model: Model, solution: Solution, integrals: Floats) -> Ints:
        """Return the clients of each round, shape (R, n).

        Where turns are not fixed, low powers should take more of them, which buckets of powers show only on
        average: the last assignment is solved once more with every power as a group of its own.
        """
        groups = model.groups
        seats = groups.hand_out(solution.assignment.counts, integrals)
        if groups.exact or (groups.least == groups.most).all():
            return seats  # sorted by power already, which is optimal
        apart = groups.apart()
        if len(apart) * model.rounds > model.limits.refined_arcs:
            return seats
        refined = model.regrouped(apart)
        prices_g = groups.spread(solution.prices_g[: len(groups)], apart)
        prices_g = np.append(prices_g, solution.prices_g[len(groups) :])
        found = assign(refined.seating, refined.costs_g(integrals), refined.limits, prices_g)
        if found is None:  # rounding for balance can fail where groups are finer, and their seats stand
            assert model.seating.balance is not None, "the same rounds were filled in buckets"
            return seats
        return apart.hand_out(found.counts, integrals)


def _model(job: Job, intensity: IntensityTable, turns: Turns, grid: Grid, limits: Limits) -> Model:
    """Build the model of a job up to its deadline."""
    classes = Classes.of(job.fleet, job.durations_us)
    most = min(_BUCKET_CELLS // len(grid), _BUCKET_ARCS // job.rounds)
    fewest, fixed, free = limits.buckets
    finest = fixed if (turns.least == turns.most).all() else free
    buckets = int(np.clip(most // len(classes.location), fewest, finest))
    groups = Groups.of(
        job.fleet.power_watts, turns.least, turns.most, classes, limits.apart_cells // len(grid), buckets
    )
    columns = intensity.columns(job.fleet.locations)[classes.location]
    windows = Windows.of(grid, classes.duration_us, columns, intensity, job.stagger)
    seating = Seating(
        job.clients_per_round, groups.size, groups.least, groups.most, classes.location[groups.klass],
        location_cap(job), _balance(job, turns),
    )  # fmt: skip
    return Model(job.rounds, groups, windows, seating, classes.of_client, limits)


def _balance(job: Job, turns: Turns) -> Balance | None:
    """Return the rule of balance of a job; None where it has none or one location alone."""
    fleet, places = job.fleet, len(job.fleet.locations)
    if (reach := job.balance_turns) is None or places == 1:
        return None
    done: Floats = np.bincount(fleet.location_index, fleet.turns_done, places).astype(np.float64)
    fixed = None
    if (turns.least == turns.most).all():
        fixed = np.bincount(fleet.location_index, weights=turns.least, minlength=places).astype(np.int64)
    return Balance.of(done, job.rounds, job.clients_per_round, reach, fixed)


# -- Rules that conflict ------------------------------------------------------------------------------------
# A rule that cannot be kept gives way as little as it can, in this order: balance, mix_rounds,
# max_location_share, equal turns. A job has no plan only if it has none without them.

_Feasible = tuple["Job", "Model", feasibility.Earliest, dict[str, str]]


def _feasible(
    job: Job, intensity: IntensityTable, turns: Turns | None, grid: Grid, limits: Limits
) -> _Feasible:
    """Return a job and a model whose rules can be kept, its earliest rounds, and the rules that gave way.

    Where nothing helps, these are the rounds under the rules as given, and they are not complete.
    """

    def found(job: Job, turns: Turns) -> _Feasible:
        return job, *_with_balance(_model(job, intensity, turns, grid, limits), job)

    is_equal = turns is None and range_of(job) is None and job.participation in ("equal", "auto")
    seated, decided, relaxed = _seated(job, turns)
    job, model, earliest, unbalanced = found(seated, decided)
    if earliest.complete:
        return job, model, earliest, {**relaxed, **unbalanced}
    loosest = replace(job, max_location_share=1.0, balance=None)
    anyhow = open_turns(job, _widest(job)) if is_equal else decided
    if not feasibility.find_earliest(_model(loosest, intensity, anyhow, grid, limits)).complete:
        return job, model, earliest, relaxed
    for gentler, some, why in _gentler(seated, decided, is_equal):
        tried = found(gentler, some)
        if tried[2].complete and is_equal and "participation" not in why:
            # Who takes the odd turns is decided here: none goes to a client because it is clean there.
            taken = feasibility.turns_of_strata(tried[1], tried[2].slots)
            tried = found(gentler, hand_out(gentler, some, tried[1].strata_of_clients(), taken))
        if tried[2].complete:
            return *tried[:3], {**relaxed, **why, **tried[3]}
    return job, model, earliest, relaxed


def _gentler(job: Job, turns: Turns, is_equal: bool) -> Iterator[tuple[Job, Turns, dict[str, str]]]:
    """Yield jobs whose rules give way further and further, with their turns and the reasons."""
    relaxed = dict[str, str]()
    if is_equal:
        turns = open_turns(job)
        yield job, turns, relaxed
    for cap in range(location_cap(job) + 1, job.clients_per_round + 1):
        relaxed = {"max_location_share": _crowded(job, cap)}
        yield with_cap(job, cap), turns, relaxed
    for spread in range(1, _widest(job) + 1) if is_equal else ():
        why = f"no plan gives all clients equally many turns; these differ by up to {2 * spread + 1}"
        loose = replace(job, max_location_share=1.0)
        yield loose, open_turns(job, spread), {**relaxed, "participation": why}


def _widest(job: Job) -> int:
    """Return the spread with which any client may take any turns, whatever it has done before."""
    return job.rounds + int(np.ptp(job.fleet.turns_done))


def _seated(job: Job, turns: Turns | None) -> tuple[Job, Turns, dict[str, str]]:
    """Return a job whose cap on locations leaves seats for its turns, these, and why the cap was raised."""
    asked, decided, cap = job, decide_turns(job) if turns is None else turns, location_cap(job)
    while not is_seated(job, decided):
        cap += 1
        job = with_cap(job, cap)
        decided = decide_turns(job) if turns is None else turns
    return job, decided, {} if job is asked else {"max_location_share": _crowded(asked, cap)}


def _crowded(job: Job, cap: int) -> str:
    """Return the reason why the cap on locations of a job was raised."""
    asked = f"{location_cap(job)} of {job.clients_per_round} client(s) of a round"
    return f"no plan keeps every location within {asked}; in this one it is {cap}"


def _with_balance(model: Model, job: Job) -> tuple[Model, feasibility.Earliest, dict[str, str]]:
    """Return a model whose rule of balance can be kept, its earliest rounds, and why the rule gave way."""
    earliest, rule = feasibility.find_earliest(model), model.seating.balance
    if earliest.complete or rule is None:
        return model, earliest, {}
    free = model.balanced(None)
    without = feasibility.find_earliest(free)
    if not without.complete:  # balance is not what keeps the job from a plan
        return free, without, {}
    asked = f"within {job.balance_turns:g} turns of its share of the seats so far"
    widened = feasibility.least_widened(model, without.slots)
    if widened is not None:
        relaxed = model.balanced(widened)
        earliest = feasibility.find_earliest(relaxed)
        if earliest.complete:
            why = f"no plan keeps every location {asked}; this one stays within {widened.reach.max():.3g}"
            return relaxed, earliest, {"balance": why}
    return free, without, {"balance": f"no plan was found that keeps every location {asked}"}


# -- Turns that differ by location --------------------------------------------------------------------------
# The turns of each location are chosen by a plan in which its clients are alike, each with their mean power:
# then no turn goes to a client because it draws little. With the turns shared out evenly inside each
# location, rounds are planned as with equal turns. The bound is that of all choices of turns.


def choice_of(job: Job, intensity: IntensityTable, limits: Limits) -> Problem:
    """Build the problem in which a job chooses the turns of each location.

    Raises
    ------
    PlanInfeasibleError, ForecastUnavailableError
        As :func:`plan`.
    """
    fleet, classes = job.fleet, Classes.of(job.fleet, job.durations_us)
    count = np.bincount(classes.of_client)
    mean_watts = (np.bincount(classes.of_client, weights=fleet.power_watts) / count)[classes.of_client]
    alike = np.allclose(mean_watts, fleet.power_watts, rtol=1e-12)
    level = fleet if alike else replace(fleet, power_watts=mean_watts)
    return Problem.of(replace(job, fleet=level), intensity, limits, decide_turns(job))


def plan_in_range(job: Job, choice: Problem, previous: Plan | None = None) -> tuple[Plan, Solution]:
    """Plan a job whose turns differ by location within a range; the solution is that of their choice."""
    turns, fleet = decide_turns(job), job.fleet
    intensity, limits, target_us = choice.intensity, choice.model.limits, choice.target_us()
    chosen, solution = choice.plan_by(target_us, previous=previous)
    of_location = np.bincount(fleet.location_index[chosen.seats.ravel()], minlength=len(fleet.locations))
    shared = share_out(job, of_location)
    problem = Problem.of(job, intensity, limits, Turns(shared, shared))
    if problem.earliest_us > target_us:  # gaps: these turns need more time than the best choice for less
        target_us = problem.earliest_us
        chosen, solution = choice.plan_by(target_us, previous=previous)
    planned, _ = problem.plan_by(target_us, first=solution.slots, previous=previous)
    bound_g = chosen.lower_bound_g
    if not np.array_equal(choice.job.fleet.power_watts, fleet.power_watts):
        every = Problem.of(job, intensity, limits, turns).model
        model = every.until(every.windows.grid.until(target_us))
        prices_g = _by_power(choice.model, model, solution.prices_g)
        bound_g = bound_of_range(model, _path(job, turns, model), prices_g, planned.emissions_g)
    if bound_g is not None:
        bound_g = min(bound_g, planned.emissions_g)
    return replace(planned, lower_bound_g=bound_g), solution


def _by_power(level: Model, model: Model, prices_g: Floats) -> Floats:
    """Return prices for groups of single powers, in proportion to those of clients that are alike."""
    of_client = level.groups.of_client(len(level.class_of_client))
    first = model.groups.members[np.cumsum(model.groups.size) - model.groups.size]
    alike = of_client[first]
    kilowatts = np.maximum(level.groups.kilowatts[alike], 1e-12)
    turn_g = prices_g[alike] * model.groups.kilowatts / kilowatts
    return np.append(turn_g, prices_g[len(level.groups) :])


def _path(job: Job, turns: Turns, model: Model) -> TurnPath:
    """Return the order in which further turns of each location go to the groups of a model."""
    fleet, more = job.fleet, turns.most - turns.least
    of_client = model.groups.of_client(len(fleet))
    client = np.repeat(np.arange(len(fleet)), more)
    nth = np.arange(len(client)) - np.repeat(np.cumsum(more) - more, more)
    # As water-filling does: the lowest level first, inside a level in the seeded order of the location.
    rank = np.empty(len(fleet), dtype=np.int64)
    for index in range(len(fleet.locations)):
        here = np.flatnonzero(fleet.location_index == index)
        rank[here[np.random.default_rng(job.seed).permutation(len(here))]] = np.arange(len(here))
    level = (fleet.turns_done + turns.least)[client] + nth
    order = np.lexsort((rank[client], level, fleet.location_index[client]))
    group, location = of_client[client[order]], fleet.location_index[client[order]]
    taking = turns.least > 0
    base = np.bincount(of_client[taking], turns.least[taking], len(model.groups)).astype(np.int64)
    cuts = np.flatnonzero(np.diff(location)) + 1
    return TurnPath(base, tuple(np.split(group, cuts)) if len(group) else ())


# -- Mixed rounds -------------------------------------------------------------------------------------------
# A plan that is free to choose lets the clients of a location train one after the other while its grid is
# clean. Each takes its turns, yet the model sees data of one location for many rounds, and forgets what it
# has learned elsewhere. With ``mix_rounds`` the rounds are planned in blocks: in each block turns are shared
# out equally anew, fewest turns first, and each block has its part of the time.


def blocks_of(job: Job) -> list[int]:
    """Return the number of rounds in each block; the first block continues where earlier rounds left it."""
    size = job.mix_rounds
    if size is None:
        return [job.rounds]
    done = job.rounds_done
    if done is None:
        done = round(int(job.fleet.turns_done.sum()) / job.clients_per_round)
    first = min(size - done % size, job.rounds)
    rest, odd = divmod(job.rounds - first, size)
    return [first, *[size] * rest, *([odd] if odd else [])]


def _plan_in_blocks(problem: Problem) -> Plan:
    """Plan a job with ``mix_rounds`` block by block, without a lower bound.

    The last round ends by the target of the whole. Where a block has no plan, or none under rules that all
    rounds together can keep, these are planned as one block.
    """
    job, intensity = problem.job, problem.intensity
    limits, target_us = problem.model.limits, problem.target_us()
    whole = replace(job, mix_rounds=None)
    fleet, opens_from_us = job.fleet, job.opens_from_us
    span_us, planned, parts, trouble = target_us - opens_from_us, 0, list[Plan](), ""
    for rounds in blocks_of(job):
        planned += rounds
        after_us = (job.rounds - planned) * job.round_us  # kept free for the blocks that follow
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
            parts.append(plan(part, intensity, limits=limits))
        except PlanInfeasibleError as error:
            trouble = error.reason
            break
        except ForecastUnavailableError as error:
            trouble = f"there is no forecast of {', '.join(error.missing)}"
            break
        # Balance is the first rule to give way, mixed rounds the second.
        if broken := parts[-1].relaxed.keys() - problem.relaxed.keys() - {"balance"}:
            trouble = parts[-1].relaxed[min(broken)]
            break
        opens_from_us = int(parts[-1].closes_us[-1])
        fleet = replace(fleet, turns_done=parts[-1].turns)
    if not trouble:
        return _joined(problem, parts)
    together = problem.plan_by(target_us)[0]
    why = f"in {rounds} rounds together, {trouble}"
    return replace(together, relaxed={"mix_rounds": why, **together.relaxed})


def _joined(problem: Problem, parts: Sequence[Plan]) -> Plan:
    """Join plans that follow each other into one."""
    job, intensity = problem.job, problem.intensity
    relaxed = {rule: why for rule, why in problem.relaxed.items() if rule != "balance"}
    for part in parts:
        relaxed |= part.relaxed
    names = ("opens_us", "closes_us", "seats", "starts_us", "ends_us", "client_emissions_g")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return replace(
        parts[0], fleet=job.fleet, lower_bound_g=None, run_now_emissions_g=job.run_now_g(intensity),
        relaxed=relaxed, **arrays,
    )  # fmt: skip
