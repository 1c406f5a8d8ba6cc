"""What is known of each node: where it runs, what it draws, how long a turn takes.

In this order: the server's ``locations`` file, the node's own answer to ``query.lowcarb``, the defaults.
Nothing a node says is trusted: a claim that cannot be is replaced by the default and noted once.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from flwr.app import Message, RecordDict

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.client import QUERY, RECORD
from lowcarb_scheduler.forecasts.names import NAMES, read_locations

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from flwr.serverapp import Grid

UNKNOWN_PLACE: Final = "unknown"  # where a node is of which nobody says where it is
MOST_POWER_WATTS: Final = 1e6
_MOST_DURATION: Final = timedelta(days=7)
_LONGEST_NAME: Final = 100
_QUERY_TIMEOUT_S: Final = 60.0
_MOST_QUERIES: Final = 3  # to a node that does not answer
_PLACE_KEYS: Final = ("location", "power-watts")


@dataclass(frozen=True, slots=True)
class Place:
    """What the server's locations file says of a node."""

    location: str
    power_watts: float | None = None


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


def read_places(path: Path) -> dict[str, Place]:
    """Read a locations file.

    TOML, one entry a node by name or partition-id: ``0 = "DE"`` or
    ``hospital-a = { location = "DE", power-watts = 250 }``. What sources call a place stands there too, see
    :func:`lowcarb_scheduler.forecasts.names.read_names`.

    Raises
    ------
    InputError
        If it cannot be read, or an entry is not of this form.
    """
    entries = read_locations(path)
    return {node: _place(node, entry, str(path)) for node, entry in entries.items() if node != NAMES}


def _place(node: str, entry: Any, file: str) -> Place:
    if isinstance(entry, str):
        entry = {"location": entry}
    fix = f'write {node} = "DE" or {node} = {{ location = "DE", power-watts = 250 }}'
    if not isinstance(entry, dict):
        raise InputError(node, "is not a location", fix, file)
    entry = {key.replace("_", "-"): value for key, value in entry.items()}  # as a job spells it
    if unknown := sorted(set(entry) - set(_PLACE_KEYS)):
        raise InputError(f"{node}.{unknown[0]}", "is no key of a location", fix, file)
    location, watts = entry.get("location"), entry.get("power-watts")
    if not isinstance(location, str) or not location:
        raise InputError(node, "has no location", fix, file)
    if watts is not None and _power(watts) is None:
        raise InputError(f"{node}.power-watts", f"{watts!r} is not from 0 to 1e6", "give watts", file)
    return Place(location, _power(watts))


class Profiles:
    """The profiles of the nodes that are there, each asked for once; the silent a few times.

    Parameters
    ----------
    places : mapping of str to Place
        The server's locations file.
    default_location : str or None
        Of nodes of which nobody says where they are.
    default_power_watts : float
        Of nodes of which nobody says what they draw [W].
    note : callable
        Takes one line about a claim that was replaced.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        default_location: str | None,
        default_power_watts: float,
        note: Callable[[str], None],
    ) -> None:
        self._places = places
        self._default_location = default_location
        self._default_power_watts = default_power_watts
        self._note = note
        self._known: dict[int, Profile] = {}
        self._matched: set[str] = set()
        self._silent: Counter[int] = Counter()  # queries that a node has not answered

    def of(self, grid: Grid, node_ids: Sequence[int]) -> dict[int, Profile]:
        """Return the profiles of these nodes, asking those not yet known."""
        self._known = {node_id: self._known[node_id] for node_id in node_ids if node_id in self._known}
        again = [node_id for node_id in self._known if 0 < self._silent.get(node_id, 0) < _MOST_QUERIES]
        new = [node_id for node_id in node_ids if node_id not in self._known or node_id in again]
        if new:
            answers = _ask(grid, new)
            self._silent.update(node_id for node_id in new if node_id not in answers)
            for node_id in answers:
                self._silent.pop(node_id, None)
            silent = len(new) - len(answers)
            if silent:
                self._note(
                    f"{silent} of {len(new)} node(s) did not answer query.lowcarb: without CarbonClientApp a"
                    " node cannot say who it is, and an entry by partition-id does not reach it"
                )
            taken = {p.key for node_id, p in self._known.items() if node_id not in again}
            for node_id in new:
                profile = self._profile(node_id, answers.get(node_id, {}), taken)
                taken.add(profile.key)
                self._known[node_id] = profile
        return {node_id: self._known[node_id] for node_id in node_ids}

    def unmatched(self) -> list[str]:
        """Return the entries of the locations file that no node has answered to."""
        return sorted(set(self._places) - self._matched)

    def _profile(self, node_id: int, claims: Mapping[str, Any], taken: set[str]) -> Profile:
        name, partition = _name(claims.get("name")), claims.get("partition-id")
        partition_key = str(partition) if isinstance(partition, int) else None
        names = [known for known in (name, partition_key, str(node_id)) if known]
        key = names[0]
        if key in taken:
            self._note(f"two nodes call themselves {key!r}: the second is counted apart")
            while key in taken:
                key = f"{key}@{node_id}"
        place = next((self._places[known] for known in names if known in self._places), None)
        self._matched.update(names)
        location = place.location if place else _name(claims.get("location"))
        if location is None and "location" in claims:
            self._note(f"node {key!r} claims a location that cannot be: its default is used")
        watts = place.power_watts if place else None
        if watts is None:
            watts = _power(claims.get("power-watts"))
            if watts is None and "power-watts" in claims:
                self._note(f"node {key!r} claims a power that cannot be: the default is used")
        return Profile(
            node_id=node_id,
            key=key,
            location=location or self._default_location,
            power_watts=self._default_power_watts if watts is None else watts,
            power_assumed=watts is None,
            duration=self._duration(key, claims),
        )

    def _duration(self, key: str, claims: Mapping[str, Any]) -> timedelta | None:
        minutes = _number(claims.get("duration-minutes"))
        if minutes is not None and 0 < minutes <= _MOST_DURATION.total_seconds() / 60:
            return timedelta(minutes=minutes)
        if "duration-minutes" in claims:
            self._note(f"node {key!r} claims a duration that cannot be: the round's is used")
        return None


def _ask(grid: Grid, node_ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """Return what nodes answer to ``query.lowcarb``; the silent and the failing are left out."""
    messages = [Message(RecordDict(), node_id, QUERY) for node_id in node_ids]
    replies = grid.send_and_receive(messages, timeout=_QUERY_TIMEOUT_S)
    answers: dict[int, Mapping[str, Any]] = {}
    for reply in replies:
        if reply.has_content() and RECORD in reply.content.config_records:
            answers[reply.metadata.src_node_id] = dict(reply.content.config_records[RECORD])
    return answers


def _name(claim: object) -> str | None:
    """Return a name that is short, printable and free of markup, or None."""
    if not isinstance(claim, str) or not 0 < len(claim) <= _LONGEST_NAME:
        return None
    return claim if claim.isprintable() and not set(claim) & set("<>[]") and claim[0] not in "=+@" else None


def _power(claim: object) -> float | None:
    watts = _number(claim)
    return watts if watts is not None and 0 <= watts <= MOST_POWER_WATTS else None


def _number(claim: object) -> float | None:
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not math.isfinite(claim):
        return None
    return float(claim)
