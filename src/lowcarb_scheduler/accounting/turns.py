"""Turns: what one node did in one round, what that emitted, and what run-now would have emitted instead.

All of it can be read back from a ledger, so nothing of a round has to be kept in memory for the day its
actual intensity is known.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.accounting.emissions import emissions_g, run_now_g
from lowcarb_scheduler.clock import MICROSECOND, parse_time, to_us

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.intensity import Floats, IntensityTable


UNKNOWN_PLACE: Final = "unknown"  # where a node is of which nobody says where it is

_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a node.

    Parameters
    ----------
    node_id : int
        Flower's id in this run.
    key : str
        A name that outlives the run: node name, partition-id, or the node id where there is neither.
    location : str or None
        Where it runs; None where nobody says.
    power_watts : float
        Power drawn while training [W].
    power_assumed : bool
        Whether that is the default.
    duration : timedelta or None
        Expected time of a turn, where it says one.
    """

    node_id: int
    key: str
    location: str | None
    power_watts: float
    power_assumed: bool
    duration: timedelta | None

    @property
    def place(self) -> str:
        """Its location, or the name of nowhere."""
        return self.location or UNKNOWN_PLACE


@dataclass(frozen=True, slots=True)
class TurnReport:
    """What a node says of a turn, as far as it can be.

    Parameters
    ----------
    duration : timedelta or None
        How long it took; None where it does not say.
    measured_kwh : float or None
        What it has measured [kWh]; None where it has not. What it estimates is not asked: its power is known.
    """

    duration: timedelta | None = None
    measured_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """What run-now needs to know of a node.

    Parameters
    ----------
    location : str or None
        Where it is; None where nobody says.
    power_watts : float
        What it draws [W].
    duration : timedelta or None
        Its own time for a turn; None is the whole round.
    """

    location: str | None
    power_watts: float
    duration: timedelta | None

    @classmethod
    def of(cls, profile: Profile) -> Node:
        """Return what is kept of a profile."""
        return cls(profile.location, profile.power_watts, profile.duration)

    @property
    def place(self) -> str:
        """Its location, or the name of nowhere."""
        return self.location or UNKNOWN_PLACE

    @property
    def features(self) -> tuple[str, float, timedelta | None]:
        """What a plan rests on."""
        return self.place, self.power_watts, self.duration

    def turn(self, round_duration: timedelta) -> timedelta:
        """Return how long a turn is planned; one that claims to be longer than a round fills it."""
        return self.duration if self.duration and self.duration <= round_duration else round_duration

    def to_entry(self, key: str) -> dict[str, object]:
        """Return it as it stands in a ledger."""
        return {"id": key, "location": self.location, "power_watts": self.power_watts,
                "duration_s": self.duration}  # fmt: skip

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> Node:
        """Read it back."""
        seconds = entry["duration_s"]
        duration = None if seconds is None else timedelta(seconds=seconds)
        return cls(entry["location"], entry["power_watts"], duration)


def update_nodes(nodes: dict[str, Node], event: Mapping[str, Any]) -> None:
    """Bring nodes, by key, up to a ``nodes`` event."""
    for key in event["left"]:
        nodes.pop(key, None)
    for entry in event["joined"]:
        nodes[entry["id"]] = Node.from_entry(entry)


@dataclass(frozen=True, slots=True)
class Turn:
    """One completed turn of training, or of evaluating.

    Parameters
    ----------
    key : str
        The node's name that outlives the run.
    location : str or None
        Where it is.
    started_at, ended_at : datetime
        Its window.
    power_watts : float
        What the node is taken to draw [W].
    energy_kwh : float
        What it has drawn [kWh].
    basis : {"measured", "estimated", "assumed"}
        What that energy rests on: counters, power times time, or a power that is a default.
    """

    key: str
    location: str | None
    started_at: datetime
    ended_at: datetime
    power_watts: float
    energy_kwh: float
    basis: str

    @classmethod
    def of(cls, profile: Profile, window: tuple[datetime, datetime], said: TurnReport | None = None) -> Turn:
        """Return a turn of a node: its energy is what it has measured, else power times time."""
        kwh = profile.power_watts / 1000 * ((window[1] - window[0]) / _HOUR)
        basis = "assumed" if profile.power_assumed else "estimated"
        if said is not None and said.measured_kwh is not None:
            kwh, basis = said.measured_kwh, "measured"
        return cls(profile.key, profile.location, *window, profile.power_watts, kwh, basis)

    @property
    def usual_kwh(self) -> float:
        """Power times time [kWh]."""
        return self.power_watts / 1000 * ((self.ended_at - self.started_at) / _HOUR)

    def to_event(self) -> dict[str, object]:
        """Return it as it stands in a ledger."""
        return {
            "id": self.key, "location": self.location, "started_at": self.started_at,
            "ended_at": self.ended_at, "duration_s": self.ended_at - self.started_at,
            "power_watts": self.power_watts, "energy_kwh": self.energy_kwh, "energy_basis": self.basis,
        }  # fmt: skip

    @classmethod
    def from_event(cls, event: Mapping[str, Any]) -> Turn:
        """Read it back."""
        return cls(
            event["id"], event["location"], parse_time(event["started_at"], "started_at"),
            parse_time(event["ended_at"], "ended_at"), event["power_watts"], event["energy_kwh"],
            event["energy_basis"],
        )  # fmt: skip


def realised_g(turns: Sequence[Turn], actual: IntensityTable) -> float | None:
    """Return what turns have emitted [gCO2eq]; None where actual intensity has a gap."""
    return _sum_g(emitted_g(turns, actual))


def emitted_g(turns: Sequence[Turn], actual: IntensityTable) -> Floats:
    """Return what each turn has emitted [gCO2eq], NaN where actual intensity has a gap.

    Measured energy is taken to be drawn evenly over a turn.
    """
    columns = actual.columns([turn.location or UNKNOWN_PLACE for turn in turns])
    starts = np.array([to_us(turn.started_at) for turn in turns], dtype=np.int64)
    ends = np.array([to_us(turn.ended_at) for turn in turns], dtype=np.int64)
    ends = np.maximum(ends, starts + 1)  # what took no time at all has still an energy
    hours = (ends - starts) * (MICROSECOND / _HOUR)
    kwh = np.array([turn.energy_kwh for turn in turns], dtype=np.float64)
    # Without energy nothing is emitted, whatever is known of the place.
    return np.where(kwh == 0, 0.0, emissions_g(actual, columns, kwh * 1000 / hours, starts, ends))


def expected_g(
    nodes: Mapping[str, Node],
    turns: Sequence[Turn],
    actual: IntensityTable,
    opens_at: datetime,
    round_duration: timedelta,
) -> float | None:
    """Return what to expect of the same work by random clients that begin then [gCO2eq].

    The same work: as many turns as were completed, as much longer or shorter than planned as they were, and
    as much more or less energy than power times time as was measured.

    Parameters
    ----------
    nodes : mapping of str to Node
        Everyone who could have trained, by key.
    turns : sequence of Turn
        The round's turns.
    actual : IntensityTable
        What intensity really was.
    opens_at : datetime
        When the round would have opened.
    round_duration : timedelta
        Length of a round.

    Returns
    -------
    float or None
        None where actual intensity has a gap.
    """
    if not turns:
        return 0.0
    everyone = {**{turn.key: Node(turn.location, turn.power_watts, None) for turn in turns}, **nodes}
    stretch = stretch_of(turns, everyone, round_duration)
    usual_kwh = sum(turn.usual_kwh for turn in turns)
    drawn = sum(turn.energy_kwh for turn in turns) / usual_kwh if usual_kwh > 0 else 1.0
    lengths = [node.turn(round_duration) // MICROSECOND for node in everyone.values()]
    durations = np.maximum(np.round(np.array(lengths, dtype=np.int64) * stretch), 1).astype(np.int64)
    columns = actual.columns([node.place for node in everyone.values()])
    watts = np.array([node.power_watts for node in everyone.values()])
    opens = np.array([to_us(opens_at)], dtype=np.int64)
    grams = _sum_g(run_now_g(actual, columns, watts, durations, opens, len(turns)))
    return None if grams is None else grams * drawn


def stretch_of(turns: Sequence[Turn], nodes: Mapping[str, Node], round_duration: timedelta) -> float:
    """Return how many times as long as planned turns took, all together; 1 where none was planned."""
    usual = [nodes[turn.key].turn(round_duration) if turn.key in nodes else round_duration for turn in turns]
    planned = sum(usual, timedelta(0))
    took = sum((turn.ended_at - turn.started_at for turn in turns), timedelta(0))
    return took / planned if planned else 1.0


@dataclass(slots=True)
class Figures:
    """The emissions of a round [gCO2eq]; None is not known, or not yet.

    Parameters
    ----------
    planned_g : float or None
        Of training, as expected when the round opened.
    realised_g : float or None
        Of training, on actual intensity.
    run_now_g : float or None
        Of the same work by random clients, back-to-back from the start of the run.
    evaluation_g : float or None
        Of evaluating on clients, on actual intensity.
    """

    planned_g: float | None
    realised_g: float | None = None
    run_now_g: float | None = None
    evaluation_g: float | None = 0.0

    @property
    def are_known(self) -> bool:
        """Whether nothing more can be learned."""
        return None not in (self.realised_g, self.run_now_g, self.evaluation_g)


def settle(
    events: Iterable[Mapping[str, Any]], actual: IntensityTable, started_at: datetime
) -> Iterator[tuple[int, str, float | None]]:
    """Compute from a ledger what its rounds have really emitted, holding one round at a time.

    Parameters
    ----------
    events : iterable of mapping
        The ledger's.
    actual : IntensityTable
        What is known of intensity by now.
    started_at : datetime
        When the run began.

    Yields
    ------
    (int, str, float or None)
        A round, the name of one of its :class:`Figures`, and its value [gCO2eq].
    """
    nodes: dict[str, Node] = {}
    trained: list[Turn] = []
    evaluated: list[Turn] = []
    run_now_opens_at = started_at
    for event in events:
        match event["event"]:
            case "nodes":
                update_nodes(nodes, event)
            case "round_opened":
                trained, evaluated = [], []
            case "node_done":
                trained.append(Turn.from_event(event))
            case "node_evaluated":
                evaluated.append(Turn.from_event(event))
            case "evaluated" if event["where"] == "clients":
                yield event["round"], "evaluation_g", realised_g(evaluated, actual)
            case "round_closed":
                length = timedelta(seconds=event["round_duration_s"])
                yield event["round"], "realised_g", realised_g(trained, actual)
                expected = expected_g(nodes, trained, actual, run_now_opens_at, length)
                yield event["round"], "run_now_g", expected
                run_now_opens_at += took(event)


def took(closed: Mapping[str, Any]) -> timedelta:
    """Return how long a round took, from its ``round_closed`` event."""
    return parse_time(closed["closes_at"], "closes_at") - parse_time(closed["opens_at"], "opens_at")


def _sum_g(grams: Any) -> float | None:
    """Return the sum of emissions, None where a gap makes one unknown."""
    return None if np.isnan(grams).any() else float(grams.sum())
