"""Profiles of the nodes of a run: location, power, and duration of a turn.

Each value comes from the first of these that has a valid one: the locations file, the registration of the
node at the SuperLink, its answer to ``query.lowcarb``, the default. No node is trusted: an invalid claim is
logged once and passed over. Nobody waits here for an answer: a node has a profile from the first look on, and
a better one once it has answered.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from flwr.app import Message, RecordDict

from lowcarb_scheduler.accounting.turns import Profile
from lowcarb_scheduler.clock import SteadyClock
from lowcarb_scheduler.errors import ForecastUnavailableError, near_miss, reason_of
from lowcarb_scheduler.flower.client import QUERY, RECORD
from lowcarb_scheduler.flower.compat import id_answered, id_of, push
from lowcarb_scheduler.forecasts.backoff import Backoff
from lowcarb_scheduler.scheduling.messages import listed
from lowcarb_scheduler.validation import coordinates_of, duration_of, finite_number, name_of, power_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
    from datetime import datetime

    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.scheduling.locations import Place

ANSWERING: Final = timedelta(seconds=60)  # time for the first answer of a node
_LONGEST_PAUSE: Final = timedelta(hours=1)  # between two queries of a node that does not answer
_MAX_NAMED: Final = 3  # nodes in a log line
_MAX_LINES: Final = 10  # of one update: 2,000 nodes may make 2,000 different claims
_MAX_DISTANCE_KM: Final = 500.0  # a location further away is probably in another grid
_EARTH_RADIUS_KM: Final = 6371.0
_MAX_LOOK_UPS: Final = 3  # at a source that does not answer
_LOOK_UP_TIMEOUT: Final = timedelta(seconds=10)
Value = TypeVar("Value")


@dataclass(slots=True)
class _Node:
    """Registration and claims of a connected node, and the profile made of them."""

    name: str | None = None  # as registered at the SuperLink by the operator of the node
    location: str | None = None
    claims: Mapping[str, Any] = field(default_factory=dict)
    is_unplaced: bool = False  # a location was given, but could not be resolved
    profile: Profile | None = None


class _Queries:
    """Queries of nodes for their claims: pushed at one look, and their answers taken at later ones.

    A node that does not answer is asked again after pauses that double.
    """

    def __init__(self, clock: Clock, answering: timedelta) -> None:
        self._clock, self._answering = SteadyClock(clock), answering
        self._paces: dict[int, Backoff] = {}  # of connected nodes, by id
        self._answered: set[int] = set()
        self._open: dict[str, int] = {}  # node ids by the id of the message
        self.silent: set[int] = set()  # nodes with an error for an answer, or none in time

    @property
    def awaited(self) -> int:
        """Number of nodes that may still answer in time."""
        return len(set(self._open.values()) - self.silent)

    def update(self, grid: Grid, node_ids: Sequence[int]) -> dict[int, Mapping[str, Any]]:
        """Take the answers that have come, ask the nodes that are due, and return the claims by node id."""
        connected = set(node_ids)  # others are forgotten, and asked again should they return
        self._answered &= connected
        self.silent &= connected
        self._open = {key: node_id for key, node_id in self._open.items() if node_id in connected}
        self._paces = {
            node_id: self._paces.get(node_id) or Backoff(self._answering, _LONGEST_PAUSE)
            for node_id in node_ids
        }
        claims = self._collect(grid)
        now = self._clock.now()
        due = [n for n, pace in self._paces.items() if n not in self._answered and pace.due(now)]
        if due:
            self._ask(grid, due, now)
            claims |= self._collect(grid)
        return claims

    def _ask(self, grid: Grid, node_ids: Sequence[int], now: datetime) -> None:
        self.silent.update(node_id for node_id in node_ids if self._paces[node_id].failures)
        asked = set(node_ids)
        self._open = {key: node_id for key, node_id in self._open.items() if node_id not in asked}
        messages = []
        for node_id in node_ids:
            self._paces[node_id].record(now, succeeded=False)
            # A node that is offline must not find more than one query when it returns.
            ttl = self._paces[node_id].pause.total_seconds()
            messages.append(Message(RecordDict(), node_id, QUERY, ttl=ttl))
        push(grid, messages)
        self._open |= {id_of(message): message.metadata.dst_node_id for message in messages}

    def _collect(self, grid: Grid) -> dict[int, Mapping[str, Any]]:
        claims: dict[int, Mapping[str, Any]] = {}
        for reply in grid.pull_messages(list(self._open)) if self._open else ():
            node_id = self._open.pop(id_answered(reply), None)
            if node_id is None:
                continue
            if reply.has_content() and RECORD in reply.content.config_records:
                claims[node_id] = dict(reply.content.config_records[RECORD])
                self._answered.add(node_id)
                self.silent.discard(node_id)
            else:
                self.silent.add(node_id)
        return claims


class NodeRegistry:
    """Registry of the connected nodes and their profiles.

    Parameters
    ----------
    places : mapping of str to Place
        Entries of the server's locations file.
    resolver : LocationResolver
        Locations of the forecast source.
    default_location : str or None
        Location of nodes without a valid one.
    default_power_watts : float
        Power of nodes without a valid one [W].
    note : callable
        Logs a line about invalid claims.
    clock : Clock
        Clock of the nodes, in real time.
    answering : timedelta (default: a minute)
        Time for the first answer of a node, after which it is asked again.

    Attributes
    ----------
    alive : dict of int to Profile
        Profiles of the connected nodes, by Flower's id.
    """

    def __init__(
        self,
        places: Mapping[str, Place],
        resolver: LocationResolver,
        default_location: str | None,
        default_power_watts: float,
        note: Callable[[str], None],
        clock: Clock,
        answering: timedelta = ANSWERING,
    ) -> None:
        self._places, self._resolver, self._note = places, resolver, note
        self._default_location, self._default_power_watts = default_location, default_power_watts
        self.alive: dict[int, Profile] = {}
        self._nodes: dict[int, _Node] = {}
        self._matched: set[str] = set()
        self._queries = _Queries(clock, answering)
        self._silent = 0
        self._invalid: defaultdict[str, list[str]] = defaultdict(list)  # problem: keys of the nodes with it

    @property
    def awaited(self) -> int:
        """Number of nodes whose answer may still come in time."""
        return self._queries.awaited

    def observe(self, grid: Grid, node_ids: Sequence[int]) -> dict[int, Profile]:
        """Return the profiles of connected nodes by what is known now.

        New nodes are asked for theirs, and silent ones again; answers are taken at later looks.
        """
        # Others are forgotten: a node id can come back with another configuration.
        self._nodes = {node_id: self._nodes.get(node_id) or _Node() for node_id in node_ids}
        changed = {node_id: node for node_id, node in self._nodes.items() if node.profile is None}
        if changed:
            self._read_registrations(grid, changed)
        # The client manager of Flower's old API may know claims, of nodes that cannot be queried.
        known_claims = getattr(grid, "known_claims", None)
        told = known_claims(changed) if known_claims else None
        claims = self._queries.update(grid, node_ids) if told is None else told
        for node_id, claimed in claims.items():
            self._nodes[node_id].claims = claimed
            changed[node_id] = self._nodes[node_id]
        self._note_silent(len(self._queries.silent if told is None else changed.keys() - told.keys()))
        if self._resolver.may_learn:
            changed |= {node_id: node for node_id, node in self._nodes.items() if node.is_unplaced}
        if changed:
            self._update(changed)
        self.alive = {node_id: node.profile for node_id, node in self._nodes.items() if node.profile}
        return self.alive

    def forget_lost(self, node_ids: Collection[int]) -> None:
        """Forget nodes that are not connected any more."""
        self.alive = {node_id: profile for node_id, profile in self.alive.items() if node_id in node_ids}

    def unmatched(self) -> list[str]:
        """Return the entries of the locations file that no node has matched."""
        return sorted(set(self._places) - self._matched)

    def _read_registrations(self, grid: Grid, nodes: Mapping[int, _Node]) -> None:
        """Read name and location of nodes as registered at the SuperLink, where it stores them."""
        for info in grid.get_nodes():
            if node := nodes.get(info.node_id):
                node.name, node.location = (name_of(getattr(info, key, "")) for key in ("name", "location"))

    def _note_silent(self, silent: int) -> None:
        if silent > self._silent:
            self._note(
                f"{silent} of {len(self._nodes)} node(s) did not answer query.lowcarb: without"
                " CarbonClientApp the partition-id of a node is unknown, and entries of the locations file by"
                " it do not match"
            )
        self._silent = silent

    def _update(self, nodes: Mapping[int, _Node]) -> None:
        """Make new profiles of nodes."""
        claimed = {
            name for node in nodes.values() for name in (node.location, name_of(node.claims.get("location")))
        }
        configured = {place.location for place in self._places.values()} | {self._default_location}
        self._resolver.look_up(claimed - {None}, configured - {None}, self._default_location is not None)
        taken = {
            node.profile.id for node_id, node in self._nodes.items() if node.profile and node_id not in nodes
        }
        # A name belongs to the node that is registered with it, before nodes that only claim it.
        for node_id in sorted(nodes, key=lambda each: nodes[each].name is None):
            node = nodes[node_id]
            node.profile = self._profile(node_id, node, taken)
            taken.add(node.profile.id)
        problems = list(self._invalid.items())
        self._invalid.clear()
        for problem, keys in problems[:_MAX_LINES]:
            named = listed([*map(repr, keys)], _MAX_NAMED)
            self._note(f"{problem} ({f'node {named}' if len(keys) == 1 else f'{len(keys)} nodes: {named}'})")
        if others := {key for _, keys in problems[_MAX_LINES:] for key in keys}:
            self._note(f"{len(others)} more node(s) make invalid claims, the defaults are used")

    def _profile(self, node_id: int, node: _Node, taken: Collection[str]) -> Profile:
        partition = node.claims.get("partition-id")
        partition_key = str(partition) if isinstance(partition, int) else None
        # Flower's node ids change at each start, so they are the last resort as a key.
        names = [
            name
            for name in (node.name, name_of(node.claims.get("name")), partition_key, str(node_id))
            if name
        ]
        self._matched.update(names)
        place = next((self._places[name] for name in names if name in self._places), None)
        key = names[0]
        while key in taken:
            key = f"{key}@{node_id}"
        if key != names[0]:
            self._invalid[f"{names[0]!r} is the name of another node, this one is counted separately"].append(
                key
            )
        watts = place.power_watts if place else None
        if watts is None:
            watts = self._claim(key, node, "power-watts", power_of)
        duration = place.duration if place else None
        if duration is None:
            duration = self._claim(key, node, "duration-minutes", duration_of)
        return Profile(
            node_id=node_id,
            id=key,
            location=self._location(key, node, place),
            power_watts=self._default_power_watts if watts is None else watts,
            power_assumed=watts is None,
            duration=duration,
        )

    def _claim(
        self, key: str, node: _Node, name: str, read: Callable[[object], Value | None]
    ) -> Value | None:
        """Return a valid claim of a node, None without one."""
        value = read(node.claims.get(name))
        if value is None and name in node.claims:
            self._invalid[f"invalid {name}, the default is used"].append(key)
        return value

    def _location(self, key: str, node: _Node, place: Place | None) -> str | None:
        """Return the first given location of a node that can be resolved."""
        given: list[tuple[str | None, bool]] = [(place.location, False)] if place else []
        given.append((node.location, True))
        if place is None:
            given.append((self._claim(key, node, "location", name_of), True))
        given.append((self._default_location, False))
        node.is_unplaced = False
        for location, check_name in given:
            if location is not None:
                resolved, problem = self._resolver.find(location, check_name)
                if resolved is not None:
                    return resolved
                node.is_unplaced = True
                self._invalid[f"location {location!r} {problem}, it is ignored"].append(key)
        return None


class LocationResolver:
    """Resolver of names and coordinates to the locations of a forecast source.

    The ``locations`` of a source are complete: other names are unknown. The list of its server counts as
    complete only if each of its entries has coordinates: some servers list a part of their locations.

    Parameters
    ----------
    source : ForecastSource or None
        Forecast source; without one, any name is accepted.
    """

    def __init__(self, source: ForecastSource | None) -> None:
        self._source, complete = source, source.locations if source else None
        self._is_complete = complete is not None
        self._names = _by_folded_name(complete or ())
        self._look_ups, self._fault = 0, ""
        self._located: tuple[str, ...] = ()
        self._degrees = np.empty((0, 2))  # latitude and longitude of each

    @property
    def may_learn(self) -> bool:
        """True if the source has not answered yet, and another attempt is allowed."""
        return bool(self._fault) and self._look_ups < _MAX_LOOK_UPS

    def look_up(self, claimed: Collection[Any], configured: Collection[Any], check_names: bool) -> None:
        """Request the locations of the source, if resolving these locations needs them.

        Parameters
        ----------
        claimed, configured : collection of str
            Names, or ``latitude,longitude`` in degrees: those of nodes, and those of the server's settings.
        check_names : bool
            Whether a claimed name is replaced if the source does not know it.
        """
        needed = any(coordinates_of(location) for location in (*claimed, *configured))
        needed = needed or (check_names and bool(claimed) and not self._is_complete)
        if self._source is None or not needed or (self._look_ups and not self.may_learn):
            return
        self._look_ups += 1
        try:
            known = self._source.known_locations(timeout=_LOOK_UP_TIMEOUT) or {}
            listed = {str(name): _degrees(coordinates) for name, coordinates in known.items()}
        except Exception as error:  # noqa: BLE001  no fault of a source, also of a user's own, stops training
            self._fault = error.reasons if isinstance(error, ForecastUnavailableError) else reason_of(error)
            return
        self._fault = ""
        located = {name: degrees for name, degrees in listed.items() if degrees is not None}
        self._located, self._degrees = tuple(located), np.array(list(located.values())).reshape(-1, 2)
        if not self._is_complete and located and len(located) == len(listed):
            self._names = _by_folded_name(listed)

    def find(self, location: str, check_name: bool) -> tuple[str | None, str]:
        """Return the location of the source for a name or coordinates, or None and the problem.

        Parameters
        ----------
        location : str
            Name, or ``latitude,longitude`` in degrees.
        check_name : bool
            Whether to reject a name that the source does not know.
        """
        if (coordinates := coordinates_of(location)) is not None:
            return self._nearest(*coordinates)
        if not (self._names and check_name):
            return location, ""
        if (name := self._names.get(location.casefold())) is not None:
            return name, ""
        near = near_miss(location, self._names.values())
        return None, "is not known to the source" + (f" (did you mean {near}?)" if near else "")

    def _nearest(self, latitude: float, longitude: float) -> tuple[str | None, str]:
        if not (abs(latitude) <= 90 and abs(longitude) <= 180):
            return None, "is not a valid latitude and longitude"
        if not self._located:
            fault = f" ({self._fault})" if self._fault else ""
            return None, f"cannot be used, the source has no coordinates of its locations{fault}"
        distances_km = _great_circle_km(self._degrees, latitude, longitude)
        nearest = int(np.argmin(distances_km))
        name, km = self._located[nearest], float(distances_km[nearest])
        if km > _MAX_DISTANCE_KM:
            return None, f"is {km:,.0f} km from {name}, the nearest location of the source"
        return name, ""


def _by_folded_name(names: Iterable[str]) -> dict[str, str]:
    return {name.casefold(): name for name in names}


def _degrees(coordinates: Any) -> tuple[float, float] | None:
    """Return valid (latitude, longitude), None for anything else that a user's source returns."""
    if not isinstance(coordinates, tuple | list) or len(coordinates) != 2:
        return None
    latitude, longitude = map(finite_number, coordinates)
    return None if latitude is None or longitude is None else (latitude, longitude)


def _great_circle_km(degrees: np.ndarray[Any, Any], latitude: float, longitude: float) -> Any:
    """Return the distances from locations to a point by the haversine formula, shape (L,) [km]."""
    locations, point = np.radians(degrees), np.radians((latitude, longitude))
    half = np.sin((locations - point) / 2) ** 2
    chord = half[:, 0] + np.cos(locations[:, 0]) * np.cos(point[0]) * half[:, 1]
    # Rounding can push the chord of antipodes above 1, where arcsin is NaN.
    return 2 * _EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0)))
