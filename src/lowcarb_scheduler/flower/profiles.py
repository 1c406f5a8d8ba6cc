"""What is known of each node: where it runs, what it draws, how long a turn takes.

In this order: the server's ``locations`` file, what the node was registered with at the SuperLink, its own
answer to ``query.lowcarb``, the defaults. Nothing a node says is trusted: a claim that cannot be is replaced
by the default and noted once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from flwr.app import Message, RecordDict

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.claims import duration_of, name_of, power_of
from lowcarb_scheduler.flower.client import QUERY, RECORD
from lowcarb_scheduler.forecasts.names import NAMES, read_locations

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path

    from flwr.serverapp import Grid

    from lowcarb_scheduler.flower.gazetteer import Gazetteer

UNKNOWN_PLACE: Final = "unknown"  # where a node is of which nobody says where it is
_QUERY_TIMEOUT_S: Final = 60.0
_MOST_QUERIES: Final = 3  # to a node that does not answer
_MOST_NAMED: Final = 3  # nodes in a note
_MOST_NOTES: Final = 10  # at one look: each liar may tell another lie
Value = TypeVar("Value")
_PLACE_KEYS: Final = ("location", "power-watts", "duration-minutes")


@dataclass(frozen=True, slots=True)
class Place:
    """What the server's locations file says of a node."""

    location: str
    power_watts: float | None = None
    duration: timedelta | None = None


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
    ``hospital-a = { location = "DE", power-watts = 250, duration-minutes = 20 }``. What sources call
    a place stands there too, see :func:`lowcarb_scheduler.forecasts.names.read_names`.

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
    if watts is not None and power_of(watts) is None:
        raise InputError(f"{node}.power-watts", f"{watts!r} is not from 0 to 1e6", "give watts", file)
    minutes = entry.get("duration-minutes")
    if minutes is not None and duration_of(minutes) is None:
        problem = f"{minutes!r} is not from a second to a week"
        raise InputError(f"{node}.duration-minutes", problem, "give minutes", file)
    return Place(location, power_of(watts), duration_of(minutes))


class Registered(NamedTuple):
    """What a node was registered with at the SuperLink, by its operator; None where it was not."""

    name: str | None = None
    location: str | None = None


class Profiles:
    """The profiles of the nodes that are there, each asked for once; the silent a few times.

    Parameters
    ----------
    places : mapping of str to Place
        The server's locations file.
    gazetteer : Gazetteer
        Knows which places there are.
    default_location : str or None
        Of nodes of which nobody says where they are.
    default_power_watts : float
        Of nodes of which nobody says what they draw [W].
    note : callable
        Takes one line about claims that were replaced.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        gazetteer: Gazetteer,
        default_location: str | None,
        default_power_watts: float,
        note: Callable[[str], None],
    ) -> None:
        self._places, self._gazetteer = places, gazetteer
        self._default_location = default_location
        self._default_power_watts = default_power_watts
        self._note = note
        self._known: dict[int, Profile] = {}
        self._registered: dict[int, Registered] = {}
        self._claims: dict[int, Mapping[str, Any]] = {}
        self._matched: set[str] = set()
        self._silent: Counter[int] = Counter()  # queries that a node has not answered
        self._lost: set[int] = set()  # nodes that somebody has placed where no place was found
        self._doubts: defaultdict[str, list[str]] = defaultdict(list)  # what cannot be, and whose claim it is

    def of(self, grid: Grid, node_ids: Sequence[int]) -> dict[int, Profile]:
        """Return the profiles of these nodes, asking those not yet known."""
        there = set(node_ids)
        for kept in (self._known, self._registered, self._claims, self._silent):
            for gone in set(kept) - there:
                del kept[gone]
        self._lost &= there
        asked = {n for n in node_ids if n not in self._known or 0 < self._silent[n] < _MOST_QUERIES}
        if asked:
            self._ask(grid, [node_id for node_id in node_ids if node_id in asked])
        changed = asked | (self._lost if self._gazetteer.may_learn else set())
        if changed:
            self._update([node_id for node_id in node_ids if node_id in changed])
        return {node_id: self._known[node_id] for node_id in node_ids}

    def unmatched(self) -> list[str]:
        """Return the entries of the locations file that no node has answered to."""
        return sorted(set(self._places) - self._matched)

    def _ask(self, grid: Grid, node_ids: Sequence[int]) -> None:
        """Ask the SuperLink what these nodes were registered with, and the nodes themselves."""
        asked = set(node_ids)
        for info in grid.get_nodes():
            if info.node_id in asked:
                told = (name_of(getattr(info, field, "")) for field in Registered._fields)
                self._registered[info.node_id] = Registered(*told)
        known_claims = getattr(grid, "known_claims", None)  # of the old API
        known = known_claims(node_ids) if known_claims else None
        answers = _answers(grid, node_ids) if known is None else known
        self._claims |= answers
        for node_id in node_ids:
            self._silent[node_id] = 0 if node_id in answers else self._silent[node_id] + 1
        if silent := len(node_ids) - len(answers):
            self._note(
                f"{silent} of {len(node_ids)} node(s) did not answer query.lowcarb: without CarbonClientApp a"
                " node cannot say who it is, and an entry by partition-id does not reach it"
            )

    # -- from claims to profiles -----------------------------------------------------------------------------

    def _update(self, node_ids: Sequence[int]) -> None:
        """Make the profiles of these nodes of what is said of them."""
        claimed = {self._registered_as(node_id).location for node_id in node_ids}
        claimed |= {name_of(self._claims.get(node_id, {}).get("location")) for node_id in node_ids}
        ours = {place.location for place in self._places.values()} | {self._default_location}
        self._gazetteer.look_up(
            [name for name in claimed if name], [name for name in ours if name],
            check_names=self._default_location is not None,
        )  # fmt: skip
        changing = set(node_ids)
        taken = {profile.key for node_id, profile in self._known.items() if node_id not in changing}
        # Who was registered under a name has it before those who only say so.
        for node_id in sorted(node_ids, key=lambda each: self._registered_as(each).name is None):
            profile = self._profile(node_id, taken)
            taken.add(profile.key)
            self._known[node_id] = profile
        self._note_doubts()

    def _note_doubts(self) -> None:
        """Say what cannot be, and who claims it."""
        doubts = list(self._doubts.items())
        self._doubts.clear()
        for doubt, keys in doubts[:_MOST_NOTES]:
            named = ", ".join(map(repr, keys[:_MOST_NAMED]))
            who = f"node {named}" if len(keys) == 1 else f"{len(keys)} nodes: {named}"
            more = ", ..." if len(keys) > _MOST_NAMED else ""
            self._note(f"{doubt} ({who}{more})")
        if others := {key for _, keys in doubts[_MOST_NOTES:] for key in keys}:
            self._note(f"{len(others)} more node(s) say what cannot be, the defaults are used")

    def _profile(self, node_id: int, taken: Collection[str]) -> Profile:
        claims, registered = self._claims.get(node_id, {}), self._registered_as(node_id)
        partition = claims.get("partition-id")
        partition_key = str(partition) if isinstance(partition, int) else None
        names = (registered.name, name_of(claims.get("name")), partition_key, str(node_id))
        known_as = [name for name in names if name]
        key = self._free_key(known_as[0], node_id, taken)
        place = next((self._places[name] for name in known_as if name in self._places), None)
        self._matched.update(known_as)
        watts = place.power_watts if place else None
        if watts is None:
            watts = self._checked(key, claims, "power-watts", power_of, "a power")
        duration = place.duration if place else None
        if duration is None:
            duration = self._checked(key, claims, "duration-minutes", duration_of, "a duration")
        return Profile(
            node_id=node_id,
            key=key,
            location=self._place_of(node_id, key, place),
            power_watts=self._default_power_watts if watts is None else watts,
            power_assumed=watts is None,
            duration=duration,
        )

    def _free_key(self, name: str, node_id: int, taken: Collection[str]) -> str:
        """Return a name that no other node has."""
        key = name
        while key in taken:
            key = f"{key}@{node_id}"
        if key != name:
            self._doubts[f"{name!r} is the name of another node, it is counted apart"].append(key)
        return key

    def _checked(
        self,
        key: str,
        claims: Mapping[str, Any],
        field: str,
        read: Callable[[object], Value | None],
        what: str,
    ) -> Value | None:
        """Return a claim if it can be; if not, note it."""
        value = read(claims.get(field))
        if value is None and field in claims:
            self._doubts[f"{what} that cannot be, the default is used"].append(key)
        return value

    def _registered_as(self, node_id: int) -> Registered:
        return self._registered.get(node_id, Registered())

    def _place_of(self, node_id: int, key: str, place: Place | None) -> str | None:
        """Return where a node is: the first place that is told of it and exists, else the default."""
        claims = self._claims.get(node_id, {})
        self._lost.discard(node_id)
        for location, check_name in (
            (place.location if place else None, False),
            (self._registered_as(node_id).location, True),
            (self._checked(key, claims, "location", name_of, "a location") if place is None else None, True),
            (self._default_location, False),
        ):
            if location is not None:
                found = self._gazetteer.find(location, check_name)
                if found.place is not None:
                    return found.place
                self._lost.add(node_id)
                self._doubts[f"location {location!r} {found.why}, it is passed over"].append(key)
        return None


def _answers(grid: Grid, node_ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
    """Return what nodes answer to ``query.lowcarb``; the silent and the failing are left out."""
    messages = [Message(RecordDict(), node_id, QUERY, ttl=_QUERY_TIMEOUT_S) for node_id in node_ids]
    answers: dict[int, Mapping[str, Any]] = {}
    for reply in grid.send_and_receive(messages, timeout=_QUERY_TIMEOUT_S):
        if reply.has_content() and RECORD in reply.content.config_records:
            answers[reply.metadata.src_node_id] = dict(reply.content.config_records[RECORD])
    return answers
