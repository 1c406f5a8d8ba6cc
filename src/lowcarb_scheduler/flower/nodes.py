"""What is known of each node: where it runs, what it draws, how long a turn takes.

In this order: the server's ``locations`` file, what the node was registered with at the SuperLink, its own
answer to ``query.lowcarb``, the defaults. Nothing a node says is trusted: a claim that cannot be is replaced
by the default and noted once.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import numpy as np
from flwr.app import Message, RecordDict

from lowcarb_scheduler.accounting.turns import Profile
from lowcarb_scheduler.errors import LowcarbError, near_miss, one_line
from lowcarb_scheduler.flower.client import QUERY, RECORD
from lowcarb_scheduler.validation import coordinates_of, duration_of, finite_number, name_of, power_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from flwr.serverapp import Grid

    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.scheduling.locations import Place

_QUERY_TIMEOUT_S: Final = 60.0
_MOST_QUERIES: Final = 3  # to a node that does not answer
_MOST_NAMED: Final = 3  # nodes in a note
_MOST_NOTES: Final = 10  # at one look: each liar may tell another lie
Value = TypeVar("Value")


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
    resolver : LocationResolver
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
        resolver: LocationResolver,
        default_location: str | None,
        default_power_watts: float,
        note: Callable[[str], None],
    ) -> None:
        self._places, self._resolver = places, resolver
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
        changed = asked | (self._lost if self._resolver.may_learn else set())
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
        self._resolver.look_up(
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
                found = self._resolver.find(location, check_name)
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


# -- Places as the forecast source knows them: is there one of a name, and which is nearest to coordinates --

MOST_KM: Final = 500.0  # a location further away is probably of another grid
_EARTH_RADIUS_KM: Final = 6371.0
_MOST_LOOK_UPS: Final = 3  # of a source that does not answer
_LOOK_UP: Final = timedelta(seconds=10)  # the most that one takes, where a source lets that be limited


class Found(NamedTuple):
    """The place that a location means, or what is wrong with it."""

    place: str | None
    why: str = ""


class LocationResolver:
    """The places of a source.

    Its closed list of ``locations`` decides which names there are. What its server lists, as of
    ``known_locations()``, does so only if it tells of each where it is: some servers list only a part.

    Parameters
    ----------
    source : ForecastSource or None
        Whose places they are; without one any name is a place.
    """

    def __init__(self, source: ForecastSource | None) -> None:
        self._source, closed = source, source.locations if source else None
        self._is_closed = closed is not None
        self._names = _by_folded_name(closed or ())
        self._looked_up = 0
        self._fault = ""
        self._located: tuple[str, ...] = ()
        self._degrees = np.empty((0, 2))  # latitude and longitude of each of them

    @property
    def may_learn(self) -> bool:
        """Whether the source has not answered yet, and is worth another attempt."""
        return bool(self._fault) and self._looked_up < _MOST_LOOK_UPS

    def look_up(self, claimed: Collection[str], given: Collection[str], check_names: bool) -> None:
        """Ask the source where its places are, if these locations need it and it is not known.

        Parameters
        ----------
        claimed, given : collection of str
            Names, or ``latitude,longitude`` in degrees: of nodes, and of those who run the server.
        check_names : bool
            Whether it matters that a claimed name is one the source knows.
        """
        needed = any(coordinates_of(location) for location in (*claimed, *given))
        needed = needed or (check_names and bool(claimed) and not self._is_closed)
        if self._source is None or not needed or (self._looked_up and not self.may_learn):
            return
        self._looked_up += 1
        try:
            known = self._source.known_locations(timeout=_LOOK_UP) or {}
            listed = {str(name): _degrees(where) for name, where in known.items()}
        except Exception as error:  # noqa: BLE001  a fault of a source, whoever wrote it, stops no training
            text = str(error) if isinstance(error, LowcarbError) else f"{type(error).__name__}: {error}"
            self._fault = one_line(text)
            return
        self._fault = ""
        located = {name: where for name, where in listed.items() if where is not None}
        self._located, self._degrees = tuple(located), np.array(list(located.values())).reshape(-1, 2)
        if not self._is_closed and located and len(located) == len(listed):
            self._names = _by_folded_name(listed)

    def find(self, location: str, check_name: bool) -> Found:
        """Return the place of that name, or the nearest one to these coordinates.

        Parameters
        ----------
        location : str
            A name, or ``latitude,longitude`` in degrees.
        check_name : bool
            Whether a name that the source does not know is no place.
        """
        if (coordinates := coordinates_of(location)) is not None:
            return self._nearest(*coordinates)
        if not (self._names and check_name):
            return Found(location)
        if (name := self._names.get(location.casefold())) is not None:
            return Found(name)
        near = near_miss(location, self._names.values())
        return Found(None, "is not known to the source" + (f" (did you mean {near}?)" if near else ""))

    def _nearest(self, latitude: float, longitude: float) -> Found:
        if not (abs(latitude) <= 90 and abs(longitude) <= 180):
            return Found(None, "is nowhere on earth")
        if not self._located:
            why = f" ({self._fault})" if self._fault else ""
            return Found(None, f"is of no use, the source does not say where its locations are{why}")
        away_km = _great_circle_km(self._degrees, latitude, longitude)
        nearest = int(np.argmin(away_km))
        name, km = self._located[nearest], float(away_km[nearest])
        if km > MOST_KM:
            return Found(None, f"is {km:,.0f} km from {name}, the nearest location of the source")
        return Found(name)


def _by_folded_name(names: Iterable[str]) -> dict[str, str]:
    return {name.casefold(): name for name in names}


def _degrees(where: Any) -> tuple[float, float] | None:
    """Return latitude and longitude as a source tells them, None where it does not."""
    if not isinstance(where, tuple | list) or len(where) != 2:
        return None
    latitude, longitude = map(finite_number, where)
    return None if latitude is None or longitude is None else (latitude, longitude)


def _great_circle_km(degrees: np.ndarray[Any, Any], latitude: float, longitude: float) -> Any:
    """Return the distances from places to a point by the haversine formula, shape (L,) [km]."""
    there, here = np.radians(degrees), np.radians((latitude, longitude))
    half = np.sin((there - here) / 2) ** 2
    chord = half[:, 0] + np.cos(there[:, 0]) * np.cos(here[0]) * half[:, 1]
    return 2 * _EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(chord, 0.0, 1.0)))
