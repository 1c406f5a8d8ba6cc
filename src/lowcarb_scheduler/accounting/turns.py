"""Turns of nodes: their energy and emissions, and the emissions of the same work by random clients.

A ledger holds all of their inputs, so a run keeps no turns in memory until their actual intensity is known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g, run_now_g
from lowcarb_scheduler.clock import MICROSECOND, to_us
from lowcarb_scheduler.events import Node, NodeDone, NodeEvaluated
from lowcarb_scheduler.planning.fleet import Fleet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.events import Turn
    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints

_HOUR: Final = timedelta(hours=1)
_WHOLE_ROUND: Final = timedelta(0)  # stands for it in the durations of a fleet
AnyNode = TypeVar("AnyNode", bound=Node)
AnyTurn = TypeVar("AnyTurn", NodeDone, NodeEvaluated)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile(Node):
    """Known properties of a node that is connected; its id is node name, partition-id, or Flower's id.

    Parameters
    ----------
    node_id : int
        Flower's id in this run.
    power_assumed : bool
        Whether its power is the default.
    """

    node_id: int
    power_assumed: bool


@dataclass(frozen=True, slots=True)
class TurnReport:
    """Plausible part of a node's report of a turn.

    Parameters
    ----------
    duration : timedelta or None
        Duration of the turn; None if it is not reported.
    measured_kwh : float or None
        Measured energy [kWh]; None without a measurement. A node's own estimate is ignored.
    """

    duration: timedelta | None = None
    measured_kwh: float | None = None


def node_of(profile: Profile) -> Node:
    """Return the part of a profile that a ledger keeps."""
    return Node(id=profile.id, location=profile.location, power_watts=profile.power_watts,
                duration=profile.duration)  # fmt: skip


def with_turn(nodes: Iterable[AnyNode], duration: timedelta | None) -> list[AnyNode]:
    """Return nodes with a duration of turns for those that state none."""
    if duration is None:
        return list(nodes)
    return [node if node.duration else replace(node, duration=duration) for node in nodes]


def fleet_of(nodes: Mapping[str, Node], turns: Mapping[str, int], round_duration: timedelta) -> Fleet:
    """Return nodes as a fleet; a turn longer than a round is taken to fill it."""
    ids = sorted(nodes)
    ordered = [nodes[key] for key in ids]
    own = [node.duration or _WHOLE_ROUND for node in ordered]
    durations = [each if each <= round_duration else _WHOLE_ROUND for each in own]
    fleet = fleet_of_columns(
        ids,
        [node.place for node in ordered],
        np.array([node.power_watts for node in ordered], dtype=np.float64),
        np.array([each // MICROSECOND for each in durations], dtype=np.int64),
        np.array([turns.get(key, 0) for key in ids], dtype=np.int64),
    )
    # A ledger does not say of a node which power was assumed, only of its turns.
    assumed = [isinstance(node, Profile) and node.power_assumed for node in ordered]
    return replace(fleet, power_assumed=np.array(assumed, dtype=bool))


def fleet_of_columns(
    ids: Sequence[str], places: Sequence[str], watts: Floats, durations_us: Ints, turns: Ints
) -> Fleet:
    """Return a fleet from its columns; ids and powers were checked when the run read them."""
    locations, index = np.unique(places, return_inverse=True)
    return Fleet(
        ids=np.array(ids, dtype=object),
        locations=tuple(str(name) for name in locations),
        location_index=index.astype(np.int64),
        power_watts=watts,
        power_assumed=np.zeros(len(ids), dtype=bool),
        durations_us=durations_us,
        turns_done=turns,
    )


def turn_of(
    event: type[AnyTurn], number: int, profile: Profile, window: tuple[datetime, datetime],
    report: TurnReport | None = None,
) -> AnyTurn:  # fmt: skip
    """Return the event of a completed turn.

    Parameters
    ----------
    event : type
        ``NodeDone`` or ``NodeEvaluated``.
    number : int
        The round, from 1.
    profile : Profile
        The node.
    window : (datetime, datetime)
        When the turn really started and ended.
    report : TurnReport, optional
        The node's report; energy is what it has measured, otherwise power times time.
    """
    energy_kwh = profile.power_watts / 1000 * ((window[1] - window[0]) / _HOUR)
    basis = "assumed" if profile.power_assumed else "estimated"
    # Only counters beat power times time: an estimate of the node has no better inputs.
    if report is not None and report.measured_kwh is not None:
        energy_kwh, basis = report.measured_kwh, "measured"
    return event(
        round=number, id=profile.id, location=profile.location, started_at=window[0],
        duration=window[1] - window[0], power_watts=profile.power_watts, energy_kwh=energy_kwh,
        energy_basis=basis,
    )  # fmt: skip


def attributed(turn: Turn, node: Node) -> Turn:
    """Return a turn as one of a node whose profile became known only after it."""
    same_power = node.power_watts == turn.power_watts
    hours = turn.duration / _HOUR
    is_kept = same_power or turn.energy_basis == "measured"
    return replace(
        turn, id=node.id, location=node.location, power_watts=node.power_watts,
        energy_kwh=turn.energy_kwh if is_kept else node.power_watts / 1000 * hours,
        energy_basis=turn.energy_basis if is_kept else "estimated",
    )  # fmt: skip


def realised_g(turns: Sequence[Turn], actual: IntensityTable) -> float | None:
    """Return the emissions of turns [gCO2eq]; None if actual intensity has a gap."""
    return _sum_g(emitted_g(turns, actual))


def emitted_g(turns: Sequence[Turn], actual: IntensityTable) -> Floats:
    """Return the emissions of each turn [gCO2eq], NaN where actual intensity has a gap.

    Measured energy is assumed to be drawn evenly over a turn.
    """
    columns = actual.columns([turn.place for turn in turns])
    starts = np.array([to_us(turn.started_at) for turn in turns], dtype=np.int64)
    ends = np.array([to_us(turn.ended_at) for turn in turns], dtype=np.int64)
    ends = np.maximum(ends, starts + 1)  # a turn of no time can still have measured energy
    hours = (ends - starts) * (MICROSECOND / _HOUR)
    kwh = np.array([turn.energy_kwh for turn in turns], dtype=np.float64)
    # Without energy emissions are 0 even in a gap, where the product is NaN.
    return np.where(kwh == 0, 0.0, emissions_g(actual, columns, kwh * 1000 / hours, starts, ends))


def expected_g(
    nodes: Mapping[str, Node],
    turns: Sequence[Turn],
    actual: IntensityTable,
    opens_at: datetime,
    round_duration: timedelta,
) -> float | None:
    """Return the expected emissions of the same work by random clients [gCO2eq].

    The same work: as many turns as were completed, with their ratio of real to planned time, and their ratio
    of drawn energy to power times time.

    Parameters
    ----------
    nodes : mapping of str to Node
        All nodes that could have trained, by id.
    turns : sequence of Turn
        Completed turns of the round.
    actual : IntensityTable
        Actual intensity.
    opens_at : datetime
        Opening of the round in run-now.
    round_duration : timedelta
        Length of a round.

    Returns
    -------
    float or None
        None if actual intensity has a gap.
    """
    if not turns:
        return 0.0
    # A node that trained and has left since could have been drawn by run-now, too.
    gone = {
        turn.id: Node(id=turn.id, location=turn.location, power_watts=turn.power_watts, duration=None)
        for turn in turns
    }
    everyone = gone | dict(nodes)
    stretch = stretch_of(turns, everyone, round_duration)
    usual_kwh = sum(turn.power_watts / 1000 * (turn.duration / _HOUR) for turn in turns)
    drawn = sum(turn.energy_kwh for turn in turns) / usual_kwh if usual_kwh > 0 else 1.0
    lengths = [node.turn(round_duration) // MICROSECOND for node in everyone.values()]
    # At least 1 µs: an empty window has no mean intensity.
    durations = np.maximum(np.round(np.array(lengths, dtype=np.int64) * stretch), 1).astype(np.int64)
    columns = actual.columns([node.place for node in everyone.values()])
    watts = np.array([node.power_watts for node in everyone.values()])
    opens = np.array([to_us(opens_at)], dtype=np.int64)
    grams = _sum_g(run_now_g(actual, columns, watts, durations, opens, len(turns)))
    return None if grams is None else grams * drawn


def stretch_of(turns: Sequence[Turn], nodes: Mapping[str, Node], round_duration: timedelta) -> float:
    """Return the ratio of real to planned time of turns together; 1 if none was planned."""
    # The duration of a node that left before the round closed is unknown: its turn counts as a whole round.
    usual = [nodes[turn.id].turn(round_duration) if turn.id in nodes else round_duration for turn in turns]
    planned = sum(usual, timedelta(0))
    took = sum((turn.duration for turn in turns), timedelta(0))
    return took / planned if planned else 1.0


def _sum_g(grams: Any) -> float | None:
    """Return the sum of emissions, None if a gap makes one unknown."""
    return None if np.isnan(grams).any() else float(grams.sum())
