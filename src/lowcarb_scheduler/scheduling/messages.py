"""Messages of a run: its log, and the blocks of lines in it."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.accounting.emissions import jain_index
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.events import UNKNOWN_PLACE, Degraded
from lowcarb_scheduler.planning.fairness import squared_variation_of_random

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.accounting.earlier import EarlierRounds
    from lowcarb_scheduler.events import Event, RunFinished
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.planning.job import Plan
    from lowcarb_scheduler.scheduling.policy import Decision
    from lowcarb_scheduler.scheduling.schedule import Schedule

logger = logging.getLogger("flwr")

_ONE_SIDED: Final = 0.7  # part of the locations in a round of random clients, below which a plan is one-sided


class RunLog:
    """Log of one run: information in Flower's log, warnings there and in the ledger.

    Parameters
    ----------
    ledger : Ledger
        Takes the event of each report, and a ``degraded`` event for each warning.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._warned: set[tuple[str, str]] = set()

    def info(self, line: str) -> None:
        """Log a line for people."""
        logger.info("lowcarb: %s", line)

    def report(self, line: str, event: Event) -> None:
        """Log a line for people, and write its event to the ledger."""
        self._ledger.append(event)
        self.info(line)

    def warn(self, what: str, why: str, consequence: str) -> None:
        """Log that the run goes on with less than it should have, once for each cause.

        Parameters
        ----------
        what : str
            The part that does not work, for example ``forecast``.
        why : str
            The cause, on one line.
        consequence : str
            What the run does instead.
        """
        # A fault that lasts is met at every wake-up, and would fill log and ledger.
        if (what, why) in self._warned:
            return
        self._warned.add((what, why))
        logger.warning("lowcarb: %s: %s; %s", what, why, consequence)
        self._ledger.append(Degraded(what=what, why=why, consequence=consequence))


def listed(names: Sequence[str], most: int = 5) -> str:
    """Write the first names of a list, with dots for the others."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def instant(when: datetime) -> str:
    """Write a time for people, to the second."""
    return f"{when:%Y-%m-%d %H:%M:%S} UTC"


def plan_lines(
    decision: Decision, schedule: Schedule, latest: datetime | None, quiet: bool = False,
    with_equal_turns: float | None = None,
) -> list[str]:  # fmt: skip
    """Return the log lines before the first hold: plan, finish, expected saving, assumptions.

    Parameters
    ----------
    decision : Decision
        The first plan.
    schedule : Schedule
        Deadline of the run, and the length of a round.
    latest : datetime or None
        Latest opening of the first round.
    quiet : bool
        Whether rounds are mixed or the model is corrected, so that few locations a round need no advice.
    with_equal_turns : float, optional
        Saving of the plan in which all clients take equal turns, where those of this one differ by location.
    """
    plan, fleet = decision.plan, decision.plan.fleet
    locations = len(set(fleet.locations) - {UNKNOWN_PLACE})
    rounds = "1 round" if len(plan.opens_us) == 1 else f"{len(plan.opens_us)} rounds"
    lines = [
        f"{rounds} of {plan.seats.shape[1]} out of {len(fleet)} clients"
        f" in {locations} location(s), {format_duration(schedule.round_duration)} each",
        f"planned finish {instant(plan.finish)}, deadline {instant(schedule.finish_by)}",
    ]
    if not decision.on_forecast:
        return [*lines, "rounds open at once; see the warnings above"]
    if latest is not None and latest + len(plan.opens_us) * schedule.round_duration < schedule.finish_by:
        lines.append(f"waits until {instant(latest)} at most: the rest is kept free for slow rounds")
    if plan.saving is not None:
        lines.append(
            f"expected {plan.emissions_g:,.0f} gCO2eq, {plan.saving:.1%} less than the"
            f" {plan.run_now_emissions_g:,.0f} g of random clients back-to-back"
            + ("" if with_equal_turns is None else f": {saving_parts(plan.saving, with_equal_turns)}")
        )
    if np.ptp(turns := plan.turns) > 1:
        even = f"Jain's index {jain_index(turns):.2f}; random sampling {_jain_of_random(plan):.2f}"
        lines.append(f"{turns.min()} to {turns.max()} turns per client ({even})")
    # Such rounds save most, and may cost accuracy where data differ by location.
    if not quiet and (one_sided := _one_sided(plan)):
        lines.append(one_sided)
    labels = plan.provenance
    numbers = "SYNTHETIC numbers, " if labels.synthetic else ""
    assumed = int(fleet.power_assumed.sum())
    whole = int((fleet.durations_us == 0).sum())
    lines.append(
        f"assumes: {labels.source} forecasts ({numbers}{labels.signal} signal); power assumed for {assumed}"
        f" of {len(fleet)} clients; turns of {whole} are planned as long as a round until one is observed;"
        " energy is power times time unless measured"
    )
    return lines


def earlier_rounds(earlier: EarlierRounds) -> str:
    """Return the line about earlier runs of the same job, from which durations are learned."""
    runs = "1 earlier run" if earlier.runs == 1 else f"{earlier.runs} earlier runs"
    typical = format_duration(timedelta(seconds=earlier.typical_s))
    return f"round durations are learned from {len(earlier.seconds)} round(s) of {runs}: about {typical}"


def saving_parts(saving: float, with_equal_turns: float) -> str:
    """Write a saving in its two parts: equal turns would have the first one, too."""
    return (
        f"{with_equal_turns:.1%} with equal turns,"
        f" {saving - with_equal_turns:.1%} more with turns that differ by location"
    )


def _jain_of_random(plan: Plan) -> float:
    """Return Jain's index of the turns that random sampling is expected to give."""
    (rounds, seats), clients = plan.seats.shape, len(plan.fleet)
    mean = max((rounds * seats + plan.fleet.turns_done.sum()) / clients, 1e-9)
    return 1.0 / (1.0 + squared_variation_of_random(float(mean), seats, clients))


def _one_sided(plan: Plan) -> str | None:
    """Return advice if rounds see far fewer locations than rounds of random clients would."""
    fleet, seats = plan.fleet, plan.seats.shape[1]
    locations = fleet.location_index[plan.seats]
    heard = float(np.mean([len(np.unique(round_locations)) for round_locations in locations]))
    others = len(fleet) - np.bincount(fleet.location_index, minlength=len(fleet.locations))
    drawn = np.arange(seats)
    # Probability that none of the seats goes to a location, drawing clients without replacement.
    absent = np.clip((others[:, None] - drawn) / (len(fleet) - drawn), 0, 1).prod(axis=1)
    usual = float((1 - absent).sum())
    if heard >= _ONE_SIDED * usual:
        return None
    return (
        f"a round has clients from {heard:.1f} locations, a random one from {usual:.1f}; if data differ by"
        " location, set lowcarb-mix-rounds and lowcarb-max-location-share"
    )


def hold_reason(planned_g: float | None, at_once_g: float | None) -> str:
    """Return the reason of a hold, from emissions as planned and of opening at once [gCO2eq]."""
    if at_once_g is None or planned_g is None or planned_g >= at_once_g:
        return "the remaining rounds together emit less if it waits"
    return (
        "its clients' grids are cleaner then, "
        f"{planned_g:,.1f} g instead of {at_once_g:,.1f} g if it opened now"
    )


def nodes_awaited(alive: int, wanted: int, at_least: int, until: datetime) -> str:
    """Return the line about a round that waits for nodes."""
    needed = f", {at_least} are needed" if alive < at_least else ""
    return f"{alive} of {wanted} nodes are connected{needed}; waiting for more until {instant(until)} at most"


def answers_awaited(answered: int, nodes: int, until: datetime) -> str:
    """Return the line about nodes that have still to answer the profile query."""
    known = f"{answered} of {nodes} nodes have answered the profile query"
    return f"{known}; waiting for the others until {instant(until)} at most"


def summary_lines(finished: RunFinished, run_dir: Path) -> list[str]:
    """Return the log lines at the end of a run, from its ``run_finished`` event."""

    def grams(name: str) -> str:
        return "unknown" if getattr(finished, name) is None else f"{getattr(finished, name):,.0f} g"

    of, saving = "", finished.saving
    if finished.known_rounds:
        of, saving = f" over {finished.known_rounds} of {len(finished.rounds)} rounds", finished.known_saving
    avoided = "unknown" if saving is None else f"{saving:.1%}{of}"
    if finished.max_turns - finished.min_turns > 1:  # no headline without it: uneven turns save, too
        avoided += f", with {finished.min_turns} to {finished.max_turns} turns per client"
    if finished.unknown_because:
        avoided += f" ({finished.unknown_because})"
    bases = [f"{kwh:.3f} {name}" for name, kwh in sorted(finished.energy_by_basis.items())]
    return [
        f"run {finished.status}, {len(finished.rounds)} round(s)",
        f"run-now {grams('run_now_g')}, planned {grams('planned_g')}, realised {grams('realised_g')}",
        f"saving against run-now: {avoided}",
        f"training {finished.energy_kwh:.3f} kWh ({', '.join(bases) or 'no turn'});"
        f" evaluation {finished.evaluation_energy_kwh:.3f} kWh, {grams('evaluation_g')}",
        f"{finished.min_turns} to {finished.max_turns} turns per client, Jain's index {finished.jain:.3f}",
        f"next: lowcarb report {run_dir.absolute()}",
    ]
