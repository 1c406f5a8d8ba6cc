"""Location memory: what each location recently added to the model, and the shift that a round needs.

A schedule chosen by carbon trains clean locations together, so a round has too much of some locations and too
little of others. The memory of a location is the mean update of its clients, remembered slowly. With data
shares p, the shares f of a round and memories m, the mean of the round moves by sum (p - f) m.

This is FedVARP [1]_ with a memory a location instead of a client, a slow memory, and a bound on the shift;
MIFA [2]_ is its form without an innovation.

References
----------
.. [1] Jhunjhunwala, Sharma, Nagarkatti and Joshi, "FedVARP: Tackling the variance due to partial client
   participation in federated learning", UAI 2022, arXiv:2207.14130.
.. [2] Gu, Huang, Zhang and Huang, "Fast federated learning in the presence of arbitrary device
   unavailability", NeurIPS 2021, arXiv:2106.04159.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from itertools import pairwise
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Vector = Sequence[NDArray[Any]]  # a model: one flat array for each of its arrays
    Replies = Sequence[tuple[float, Vector]]  # weight and model of each reply

FIRST: Final = 0.5  # part of its first update that a location remembers
RATE: Final = 0.5  # part of the difference to a later update that it learns
TRUST: Final = 1.0  # longest shift, in steps of a round
_KEPT: Final = 0.9  # of the usual step, in a round
_FASTEST: Final = 2.0  # growth of the usual step, in a round
_IMPLAUSIBLE: Final = 30.0  # usual steps; 30 orthogonal updates average to a step 30 times shorter than each
_NOTHING: Final = 1e-6  # of a usual step: less than float32 can resolve, from shares that add up to 1 - 1e-16
_LEVELS: Final = 127  # of int8, on each side of zero
_SMALLEST: Final = float(np.finfo(np.float32).tiny) * _LEVELS  # its inverse is finite
_BLOCK: Final = 1 << 16  # numbers; the buffers of a block stay in a processor's cache
_SHORT: Final = 1 << 13  # numbers; the result of BLAS depends on the number of its threads from 10,000 on
_SAMPLES: Final = 64  # blocks


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """Memory of one location.

    Parameters
    ----------
    levels : ndarray of int8, shape (M,)
        All arrays of the model behind each other, in units of their scales.
    scales : ndarray of float32, shape (B,)
        Unit of each block of up to 65,536 numbers of one array.
    number : int
        The round that the location trained in last.
    """

    levels: NDArray[np.int8]
    scales: NDArray[np.float32]
    number: int

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the memory as arrays for a file."""
        return {"levels": self.levels, "scales": self.scales, "number": np.array(self.number)}


@dataclass(frozen=True, slots=True, eq=False)
class Shift:
    """Vector that is added to the mean of a round.

    Parameters
    ----------
    arrays : sequence of ndarray of float32
        The vector, one flat array for each array of the model; the next round overwrites it.
    norm : float
        Its Euclidean norm.
    was_cut : bool
        Whether the trust bound has shortened it.
    """

    arrays: Vector
    norm: float
    was_cut: bool


@dataclass(frozen=True, slots=True, eq=False)
class Advance:
    """Result of a round.

    Parameters
    ----------
    shift : Shift or None
        Shift of the round; None where there is nothing to make up for.
    step : float
        Euclidean norm of the round's own step; not finite where a reply was not.
    refused : tuple of str
        Locations with an update that is not finite, or implausibly large; their memory is as before.
    """

    shift: Shift | None
    step: float
    refused: tuple[str, ...]


class _Block(NamedTuple):
    """Part of one array of the model.

    Parameters
    ----------
    array : int
        Index of the array.
    inside : slice
        The part.
    behind : slice
        The same part of all arrays behind each other.
    """

    array: int
    inside: slice
    behind: slice


class LocationMemory:
    """Memory of all locations of a run.

    Parameters
    ----------
    sizes : sequence of int
        Number of elements of each array of the model.
    first, rate, trust : float
        See the constants of this module.
    most_bytes : int, optional
        Memory to use for what is remembered [bytes]; the rest is mapped from files.
    folder : Path, optional
        Folder of these files, which vanish with the process.

    Attributes
    ----------
    usual_step : float or None
        Running mean of the norm of a round's own step; None before the first one.
    places : dict of str to Remembered
        Memories, by location.
    """

    def __init__(
        self, sizes: Sequence[int], *, first: float = FIRST, rate: float = RATE, trust: float = TRUST,
        most_bytes: int | None = None, folder: Path | None = None,
    ) -> None:  # fmt: skip
        self.sizes = tuple(sizes)
        self.first, self.rate, self._trust = first, rate, trust
        self._most_bytes, self._folder = most_bytes, folder
        edges = [0, *np.cumsum(self.sizes, dtype=np.int64).tolist()]
        self._length = edges[-1]
        self.blocks = [
            _Block(index, slice(start - begin, stop - begin), slice(start, stop))
            for index, (begin, end) in enumerate(pairwise(edges))
            for start in range(begin, end, _BLOCK)
            for stop in (min(start + _BLOCK, end),)
        ]
        self.sampled = max(
            1, len(self.blocks) // _SAMPLES
        )  # every so many blocks the norm of updates is measured
        self.usual_step: float | None = None
        self.places: dict[str, Remembered] = {}
        # Kept from round to round: fresh memory costs more time than the work in it.
        self._spare: list[NDArray[np.int8]] = []
        self._shift = [np.empty(size, dtype=np.float32) for size in self.sizes]

    def restore(self, place: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the memory of a location from its arrays.

        Raises
        ------
        KeyError, ValueError
            If they are not the memory of such a model.
        """
        levels, scales, number = arrays["levels"], arrays["scales"], int(arrays["number"])
        shapes_fit = levels.shape == (self._length,) and scales.shape == (len(self.blocks),)
        if not shapes_fit or levels.dtype != np.int8 or scales.dtype != np.float32:
            raise ValueError("is of another model")
        kept = self._new_levels({})
        kept[:] = levels
        self.places[place] = Remembered(kept, scales, number)

    def advance(
        self, number: int, sent: Vector, replies: Mapping[str, Replies], data: Mapping[str, float]
    ) -> Advance:
        """Return the shift of a round by what was remembered before it, and learn from its replies.

        Parameters
        ----------
        number : int
            The round.
        sent : sequence of ndarray
            The model that was sent.
        replies : mapping of str to sequence of (float, sequence of ndarray)
            Positive weight and model of each reply, by location.
        data : mapping of str to float
            Amount of data of each location, in any unit.
        """
        weights = {place: sum(weight for weight, _ in replies[place]) for place in sorted(replies)}
        everything = sum(weights.values())
        shares = {place: weight / everything for place, weight in weights.items()}
        staged: dict[str, Remembered] = {}
        for place in shares:
            scales = np.zeros(len(self.blocks), dtype=np.float32)
            staged[place] = Remembered(self._new_levels(staged), scales, number)
        missing, shift = self._missing(shares, data), self._shift
        work = _Pass(self, sent, replies, everything, shares, missing, staged, shift)
        shift_norm, step, *sampled = np.sqrt(work.sums()).tolist()
        measured = sum(block.inside.stop - block.inside.start for block in self.blocks[:: self.sampled])
        norms = [norm * math.sqrt(self._length / measured) for norm in sampled]
        # The steps before are the measure: one reply of 1e30 must not become the usual step.
        usual, known = self.usual_step or _usual(norms), self.usual_step
        # Norms are of some blocks, scales of all. NaN is no less than any limit, so both are compared alone.
        limit = _IMPLAUSIBLE * usual
        refused = tuple(
            place
            for (place, each), norm in zip(staged.items(), norms, strict=True)
            if not (norm <= limit and float(each.scales.max()) * _LEVELS <= limit)
        )
        for place, each in staged.items():
            replaced = each if place in refused else self.places.get(place)
            self._spare += [replaced.levels] if replaced is not None else []
            if place not in refused:
                self.places[place] = each
        if math.isfinite(step):
            counted = min(step, _FASTEST * usual)
            self.usual_step = _KEPT * (known or counted) + (1 - _KEPT) * counted
        return Advance(self._bounded(shift, shift_norm, known, step), step, refused)

    def _missing(self, shares: Mapping[str, float], data: Mapping[str, float]) -> dict[str, float]:
        """Return the share of each remembered location that a round lacks, negative for one too much."""
        total = sum(data.get(place, 0.0) for place in self.places)
        if total <= 0 or not self.usual_step:
            return {}
        # One division for each share: equal ratios of whole numbers are equal floats, and their difference 0.
        return {place: data.get(place, 0.0) / total - shares.get(place, 0.0) for place in sorted(self.places)}

    def _bounded(
        self, shift: list[NDArray[np.float32]], norm: float, usual: float | None, step: float
    ) -> Shift | None:
        """Return a shift that is no longer than the trust bound.

        That is a usual step of a round, or this round's own where it is shorter: where training has nearly
        converged, memories of its long first steps would carry the model past its optimum.
        """
        if not usual or norm <= _NOTHING * usual:
            return None
        longest = self._trust * min(usual, step)
        if was_cut := norm > longest:
            for array in shift:
                array *= np.float32(longest / norm)
        return Shift(shift, min(norm, longest), was_cut)

    def _new_levels(self, staged: Mapping[str, Remembered]) -> NDArray[np.int8]:
        """Return an array for a memory, in a file where the others leave no room."""
        if self._spare:
            return self._spare.pop()
        held = [each.levels for each in (*self.places.values(), *staged.values())]
        used = sum(levels.nbytes for levels in held if not isinstance(levels, np.memmap))
        if self._most_bytes is None or not self._length or used + self._length <= self._most_bytes:
            return np.empty(self._length, dtype=np.int8)
        with TemporaryFile(dir=self._folder) as file:  # the map outlives its name
            # A full disk is an error here; without this the first write to a page would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, self._length)
            return np.memmap(file, dtype=np.int8, mode="w+", shape=(self._length,))


class _Pass:
    """One pass over the blocks of a model, in which each block is read, used and remembered at once.

    Parameters
    ----------
    memory : LocationMemory
        Memories before the round.
    sent, replies, everything, shares
        The round: its model, its replies, their summed weight, and the share of each location.
    missing : mapping of str to float
        Factor of each memory in the shift.
    staged : mapping of str to Remembered
        Memories after the round, to be filled in.
    shift : sequence of ndarray
        Shift, to be filled in.
    """

    def __init__(
        self, memory: LocationMemory, sent: Vector, replies: Mapping[str, Replies], everything: float,
        shares: Mapping[str, float], missing: Mapping[str, float], staged: Mapping[str, Remembered],
        shift: Vector,
    ) -> None:  # fmt: skip
        self._memory, self._sent, self._replies, self._everything = memory, sent, replies, everything
        self._shares, self._missing, self._staged, self._shift = shares, missing, staged, shift
        self._places = [*shares, *(place for place in missing if place not in shares)]
        models = [sent, *(model for group in replies.values() for _, model in group)]
        # Sums in the precision of the model: an update is small beside its weights.
        self._kinds = [
            np.float64 if any(model[index].dtype == np.float64 for model in models) else np.float32
            for index in range(len(sent))
        ]

    def sums(self) -> NDArray[np.float64]:
        """Return sums of squares: of the shift, of the step, and of each location's update.

        One thread does it: two that take turns with Python's lock after each block need as long together, and
        twice the processor time.
        """
        found = np.zeros(2 + len(self._shares))
        buffers = {kind: np.empty((3, _BLOCK), dtype=kind) for kind in {np.float32, *self._kinds}}
        narrow = np.empty((2, _BLOCK), dtype=np.float32)
        with np.errstate(all="ignore"):  # what is not finite is found by the sums
            for position, block in enumerate(self._memory.blocks):
                size = block.inside.stop - block.inside.start
                wide = [buffer[:size] for buffer in buffers[self._kinds[block.array]]]
                found += self._exchange(position, block, wide, [buffer[:size] for buffer in narrow])
        return found

    def _exchange(
        self,
        position: int,
        block: _Block,
        wide: Sequence[NDArray[Any]],
        narrow: Sequence[NDArray[np.float32]],
    ) -> list[float]:
        """Fill in a block of the shift and of the memories; return its sums of squares."""
        (mean, total, weighted), (value, scratch) = wide, narrow
        memory, before = self._memory, self._sent[block.array][block.inside]
        shift = self._shift[block.array][block.inside]
        shift.fill(0)
        total.fill(0)
        squares = []
        for place in self._places:
            missing = self._missing.get(place, 0.0)
            if (known := memory.places.get(place)) is not None and (missing or place in self._shares):
                value[:] = known.levels[block.behind]
            if known is not None and missing:
                np.multiply(value, known.scales[position] * np.float32(missing), out=scratch)
                np.add(shift, scratch, out=shift)
            if (share := self._shares.get(place)) is None:
                continue
            parts = [(weight, model[block.array][block.inside]) for weight, model in self._replies[place]]
            _add_up(parts, self._everything, mean, weighted)
            np.add(total, mean, out=total)
            np.multiply(mean, 1 / share, out=mean)
            update = mean if mean.dtype == np.float32 else scratch
            np.subtract(mean, before, out=update, casting="same_kind")
            # A part is enough to tell an update that is 30 times too long.
            squares.append(_squares(update) if position % memory.sampled == 0 else 0.0)
            # The mix of memory and update is encoded without its last factor, which goes into the scale.
            mixed, factor = update, memory.first
            if known is not None:
                factor = memory.rate
                np.multiply(value, known.scales[position] * np.float32((1 - factor) / factor), out=value)
                mixed = np.add(value, update, out=value)
            new = self._staged[place]
            new.scales[position] = factor * _encode(mixed, new.levels[block.behind], scratch)
        np.subtract(total, before, out=total)
        return [_squares(shift), _squares(total), *squares]


def _add_up(
    parts: Sequence[tuple[float, NDArray[Any]]], everything: float, out: NDArray[Any], scratch: NDArray[Any]
) -> None:
    """Write the sum of parts, each times its share of the whole weight."""
    (first, values), *others = parts
    if all(weight == first for weight, _ in others):  # the usual case, in half the time
        out[:] = values
        for _, values in others:
            np.add(out, values, out=out)
        np.multiply(out, first / everything, out=out)
        return
    np.multiply(values, out.dtype.type(first / everything), out=out)
    for weight, values in others:
        np.multiply(values, out.dtype.type(weight / everything), out=scratch)
        np.add(out, scratch, out=out)


def _encode(values: NDArray[np.float32], levels: NDArray[np.int8], scratch: NDArray[np.float32]) -> float:
    """Write values as levels, and return their scale: 0 if all are 0, NaN if one is not finite."""
    largest = max(float(values.max()), -float(values.min()))
    if not _SMALLEST <= largest < math.inf:
        levels[:] = 0
        return 0.0 if largest < _SMALLEST else math.nan
    np.multiply(values, np.float32(_LEVELS / largest), out=scratch)
    np.rint(scratch, out=scratch)
    levels[:] = scratch
    return largest / _LEVELS


def _squares(values: NDArray[Any]) -> float:
    """Return the sum of squares, in parts so short that BLAS does not share them out among threads."""
    return sum(
        float(np.dot(part, part))
        for part in (values[start : start + _SHORT] for start in range(0, len(values), _SHORT))
    )


def _usual(norms: Iterable[float]) -> float:
    """Return the measure for the updates of a first round: their median, or the largest if that is 0."""
    finite = [norm for norm in norms if math.isfinite(norm)] or [0.0]
    return float(np.median(finite)) or max(finite)


def learn_from_mean(
    memories: Mapping[str, Vector], shares: Mapping[str, float], mean: Vector, rate: float = RATE
) -> dict[str, Vector]:
    """Return memories after a round of which only the mean is known, as under secure aggregation.

    The least-mean-squares step towards ``sum f m = mean``: each location of the round learns
    ``rate * f / sum f^2`` of the error. It is post-processing of the aggregate.

    Parameters
    ----------
    memories : mapping of str to sequence of ndarray
        Memories by location; a location that is missing begins with zero.
    shares : mapping of str to float
        Share of each location in the weights of the round, summing to 1.
    mean : sequence of ndarray
        Mean update of the round.
    rate : float
        Part of the error that is learned.
    """
    known = {place: memories.get(place) or [np.zeros_like(part) for part in mean] for place in shares}
    errors = [
        part - sum(share * known[place][index] for place, share in sorted(shares.items()))
        for index, part in enumerate(mean)
    ]
    squares = sum(share * share for share in shares.values())
    learned = {
        place: [
            part + rate * shares[place] / squares * error
            for part, error in zip(known[place], errors, strict=True)
        ]
        for place in shares
    }
    return {**memories, **learned}
