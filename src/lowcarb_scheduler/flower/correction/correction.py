"""Participation correction of a run: between the replies of a round and the strategy that aggregates them."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from lowcarb_scheduler.errors import InputError, reason_of
from lowcarb_scheduler.events import UNKNOWN_PLACE, RoundCorrected
from lowcarb_scheduler.flower.correction.applicability import is_plain_mean
from lowcarb_scheduler.flower.correction.memory import LocationMemory
from lowcarb_scheduler.flower.correction.records import (
    Layout,
    UnfitReplyError,
    add,
    lend,
    only_record,
    weight_of,
)
from lowcarb_scheduler.flower.grid import layers
from lowcarb_scheduler.scheduling.messages import RunLog, listed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from flwr.app import Array, Message

    from lowcarb_scheduler.accounting.turns import Profile
    from lowcarb_scheduler.flower.correction.applicability import Applicability
    from lowcarb_scheduler.flower.correction.memory import Advance, Remembered, Shift, Vector
    from lowcarb_scheduler.ledger import Ledger

_NUM_EXAMPLES: Final = "num-examples"
_LARGE: Final = 0.7  # mean norm of a correction, in the round's own steps
_FOR_LONG: Final = 10  # rounds
_NO_ARRAYS: Final = Layout((), ())


@dataclass(slots=True)
class _Data:
    """Amounts of data of the nodes that have ever been connected."""

    places: dict[str, str] = field(default_factory=dict)  # by name of the node
    weights: dict[str, float] = field(default_factory=dict)  # as its last reply had it

    def by_place(self) -> dict[str, float]:
        """Return the amount of data of each place; a node that never replied counts as the mean of others."""
        seen = [(self.places[name], weight) for name, weight in self.weights.items()]
        overall = sum(weight for _, weight in seen) / len(seen) if seen else 1.0
        of_place: defaultdict[str, list[float]] = defaultdict(list)
        for place, weight in seen:
            of_place[place].append(weight)
        means = {place: sum(weights) / len(weights) for place, weights in of_place.items()}
        amounts: defaultdict[str, float] = defaultdict(float)
        for name, place in sorted(self.places.items()):
            amounts[place] += self.weights.get(name, means.get(place, overall))
        return dict(amounts)


@dataclass(slots=True)
class _Replies:
    """Replies of a round that have a part in its mean, and the fault that one of them has."""

    weights: list[tuple[float, Message]] = field(default_factory=list)
    by_place: defaultdict[str, list[tuple[float, Vector]]] = field(default_factory=lambda: defaultdict(list))
    fault: str = ""


class ParticipationCorrection:
    """Correction of a run, for a strategy that averages replies.

    Parameters
    ----------
    settled : Applicability
        Mode of the run.
    strategy : Strategy
        The strategy, with those it wraps.
    ledger : Ledger
        Takes an event of each round, and warnings.
    most_bytes : int, optional
        Memory to use [bytes]; the rest is mapped from files in the folder of the run.
    """

    def __init__(
        self, settled: Applicability, strategy: object, ledger: Ledger, most_bytes: int | None = None
    ) -> None:
        self._mode, self._ledger, self._log = settled.mode, ledger, RunLog(ledger)
        self._most_bytes = most_bytes
        innermost = [*layers(strategy)][-1]
        self._key: str = getattr(innermost, "weighted_by_key", _NUM_EXAMPLES)
        self._is_plain_mean = is_plain_mean(strategy)
        self._sent: Mapping[str, Array] = {}
        self._layout = _NO_ARRAYS
        self._memory = self._new_memory()
        self._data = _Data()
        self._recent: list[float] = []  # ratios of the last rounds

    @property
    def is_on(self) -> bool:
        """Whether rounds are corrected."""
        return self._mode != "off"

    def sent(self, messages: Sequence[Message]) -> None:
        """Remember the model that a round sends; none where nodes are sent different ones."""
        if not self.is_on or not messages:
            return
        try:
            first, *others = [only_record(message)[1] for message in messages]
        except UnfitReplyError:
            self._sent = {}
            return
        # A strategy sends the same objects to all nodes, so that equality is found without comparing values.
        are_equal = all(other is first or {**other} == {**first} for other in others)
        self._sent = dict(first) if are_equal else {}

    def correct(
        self, number: int, replies: Sequence[tuple[int, Message]], nodes: Mapping[int, Profile]
    ) -> None:
        """Shift the replies of a round by what it lacks, and learn from them.

        Parameters
        ----------
        number : int
            The round.
        replies : sequence of (int, Message)
            Id of the node and reply, in a stable order; errors are passed over.
        nodes : mapping of int to Profile
            The nodes that are connected.
        """
        if not self.is_on:
            return
        sent, self._sent = self._sent, {}
        self._data.places |= {node.id: self._place_of(node) for node in nodes.values()}
        try:
            event = self._correct(number, Layout.of(sent), sent, replies, nodes)
        except (UnfitReplyError, OSError, MemoryError) as error:  # as of a full disk: the training goes on
            event = self._uncorrected(number, reason_of(error))
        self._ledger.append(event)
        self._note_large(event)

    def _correct(
        self, number: int, layout: Layout, sent: Mapping[str, Array], replies: Sequence[tuple[int, Message]],
        nodes: Mapping[int, Profile],
    ) -> RoundCorrected:  # fmt: skip
        if not layout.names:
            return self._event(number, "nodes were not sent one model with arrays of floats")
        if layout != self._layout:
            if self._layout.names:
                why = f"the model has other arrays since round {number}"
                self._log.warn("correction", why, "the memory of locations starts empty")
            self._layout, self._memory = layout, self._new_memory(layout)
        if len(set(self._data.places.values())) < 2:
            if number == 1:
                self._log.info("all nodes are at one location, so there is nothing to correct")
            return self._event(number, "all nodes are at one location")
        found = self._sorted(replies, nodes)
        if not found.by_place:
            return self._uncorrected(number, found.fault or "no reply has a weight")
        advance = self._memory.advance(number, layout.read(sent), found.by_place, self._data.by_place())
        if advance.refused:
            places = listed(advance.refused)
            return self._uncorrected(number, f"updates of {places} are not finite, or implausibly large")
        if found.fault:
            return self._uncorrected(number, found.fault)
        self._shift(found.weights, advance.shift)
        return self._event(number, "", advance)

    def _uncorrected(self, number: int, why: str) -> RoundCorrected:
        self._log.warn("correction", f"round {number}: {why}", "the round counts without correction")
        return self._event(number, why)

    def _note_large(self, event: RoundCorrected) -> None:
        """Warn where the correction is nearly as large as the rounds themselves for long."""
        self._recent = [*self._recent, event.ratio or 0.0][-_FOR_LONG:]
        if len(self._recent) == _FOR_LONG and sum(self._recent) / _FOR_LONG >= _LARGE:
            why = f"over {_FOR_LONG} rounds it was nearly as large as the rounds' own steps"
            self._log.warn(
                "correction", f"{why}: locations differ much, and each round has few of them",
                "the model depends on older updates; lowcarb-max-location-share = 0.3 mixes rounds",
            )  # fmt: skip

    def _shift(self, weights: Sequence[tuple[float, Message]], shift: Shift | None) -> None:
        """Move the weighted mean of replies by a shift."""
        if not self._is_plain_mean:
            if shift is not None:
                kept = [array.copy() for array in shift.arrays]  # a strategy may read replies later, too
                for _, reply in weights:
                    add(reply, self._layout, kept)
            return
        # A mean moves as far if its heaviest reply alone is shifted, for a fraction of the work.
        heaviest = max(range(len(weights)), key=lambda position: weights[position][0])
        total = sum(weight for weight, _ in weights)
        for position, (weight, reply) in enumerate(weights):
            if position == heaviest and shift is not None:
                for array in shift.arrays:
                    array *= np.float32(total / weight)
                add(reply, self._layout, shift.arrays)
            else:
                lend(reply, self._layout)

    def _sorted(self, replies: Sequence[tuple[int, Message]], nodes: Mapping[int, Profile]) -> _Replies:
        """Sort the good replies of a round by place; the fault is of the first that cannot be used."""
        found = _Replies()
        for node_id, reply in replies:
            if not reply.has_content():
                continue  # a failed node has no part in the mean
            node = nodes.get(node_id)
            name = node.id if node else str(node_id)
            try:
                if (weight := weight_of(reply, self._key)) is None:
                    raise UnfitReplyError(f"has no weight {self._key!r}")
                values = self._layout.read(only_record(reply)[1])
            except UnfitReplyError as error:
                found.fault = found.fault or f"the reply of node {name!r} {error}"
                continue
            place = self._place_of(node) if node else UNKNOWN_PLACE
            if weight > 0:  # one that counts nothing is no part of the mean
                self._data.places[name], self._data.weights[name] = place, weight
                found.by_place[place].append((weight, values))
            found.weights.append((weight, reply))
        return found

    def rename(self, ids: Mapping[str, str]) -> None:
        """Count the data of nodes under the names by which they are known now, not a second time."""
        places, weights = self._data.places, self._data.weights
        places |= {new: places.pop(old) for old, new in ids.items() if old in places}
        weights |= {new: weights.pop(old) for old, new in ids.items() if old in weights}

    def _new_memory(self, layout: Layout = _NO_ARRAYS) -> LocationMemory:
        return LocationMemory(layout.sizes, most_bytes=self._most_bytes, folder=self._ledger.run_dir)

    def _place_of(self, node: Profile) -> str:
        return node.id if self._mode == "node" else node.place

    def _event(self, number: int, reason: str = "", advance: Advance | None = None) -> RoundCorrected:
        known, ratio, was_cut = self._memory.places.values(), None, False
        if advance is not None:
            shift = advance.shift
            was_cut = shift is not None and shift.was_cut
            ratio = 0.0 if shift is None else shift.norm / advance.step if advance.step else None
        return RoundCorrected(
            round=number, ratio=ratio, places=len(known),
            oldest=max((number - each.number for each in known), default=0),
            was_cut=was_cut, reason=reason or None,
        )  # fmt: skip

    # -- Checkpoint ----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the part of a checkpoint that holds the correction, without the memories."""
        return {
            "mode": self._mode, "usual_step": self._memory.usual_step, "names": list(self._layout.names),
            "shapes": [list(shape) for shape in self._layout.shapes], "places": dict(self._data.places),
            "weights": dict(self._data.weights), "recent": self._recent,
        }  # fmt: skip

    @property
    def memories(self) -> Mapping[str, Remembered]:
        """The memory of each location; one that has changed is another object."""
        return self._memory.places

    def recall(
        self, state: Mapping[str, Any], memories: Mapping[str, Callable[[], Mapping[str, Any]]]
    ) -> None:
        """Restore the correction from a checkpoint; a memory that cannot be read begins anew.

        Parameters
        ----------
        state : mapping
            Result of :meth:`state`.
        memories : mapping of str to callable
            Reads the arrays of each location's memory.
        """
        if state["mode"] != self._mode:
            why = f"participation-correction was {state['mode']} before the restart, is {self._mode}"
            self._log.warn(
                "correction", why, "the memory starts empty" if self.is_on else "the memory is dropped"
            )
            return
        self._layout = Layout(tuple(state["names"]), tuple(map(tuple, state["shapes"])))
        self._memory = self._new_memory(self._layout)
        self._memory.usual_step, self._recent = state["usual_step"], list(state["recent"])
        self._data = _Data(dict(state["places"]), dict(state["weights"]))
        for place, read in memories.items():
            try:
                self._memory.restore(place, read())
            except (InputError, KeyError, TypeError, ValueError) as error:
                self._log.warn("correction", f"memory of {place}: {error}", "this memory starts empty")
