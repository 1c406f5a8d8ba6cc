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
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Vector = Sequence[NDArray[Any]]  # a model: one flat array for each of its arrays
    Replies = Sequence[tuple[float, Vector]]  # weight and model of each reply

FIRST: Final = 0.5  # part of its first update that a location remembers
RATE: Final = 0.5  # part of the difference to a later update that it learns
TRUST: Final = 1.0  # longest shift, in usual steps of a round
_KEPT: Final = 0.9  # of the usual step, in a round
_FASTEST: Final = 2.0  # growth of the usual step, in a round
_IMPLAUSIBLE: Final = 30.0  # usual steps; 30 orthogonal updates average to a step 30 times shorter than each
_NOTHING: Final = 1e-6  # of a usual step: less than float32 can resolve, from shares that add up to 1 - 1e-16
_LEVELS: Final = 127  # of int8, on each side of zero
_BLOCK: Final = 1 << 16  # numbers that stay in a processor's cache


@dataclass(frozen=True, slots=True, eq=False)
class Remembered:
    """Memory of one location.

    Parameters
    ----------
    levels : ndarray of int8, shape (M,)
        All arrays of the model behind each other, in units of their scales.
    scales : ndarray of float32, shape (A,)
        Unit of each array.
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
        The vector, one flat array for each array of the model.
    norm : float
        Its Euclidean norm.
    was_cut : bool
        Whether the trust bound has shortened it.
    """

    arrays: Vector
    norm: float
    was_cut: bool


@dataclass(frozen=True, slots=True)
class Learned:
    """Result of an update.

    Parameters
    ----------
    step : float
        Euclidean norm of the round's own step; not finite where a reply was not.
    refused : tuple of str
        Locations with an update that is not finite, or implausibly large; their memory is as before.
    """

    step: float
    refused: tuple[str, ...]


class LocationMemory:
    """Memory of all locations of a run.

    Parameters
    ----------
    sizes : sequence of int
        Number of elements of each array of the model.
    first, rate, trust : float
        See the constants of this module.

    Attributes
    ----------
    usual_step : float or None
        Running mean of the norm of a round's own step; None before the first one.
    places : dict of str to Remembered
        Memories, by location.
    """

    def __init__(
        self, sizes: Sequence[int], *, first: float = FIRST, rate: float = RATE, trust: float = TRUST
    ) -> None:
        self.sizes = tuple(sizes)
        self._first, self._rate, self._trust = first, rate, trust
        self._bounds = [0, *np.cumsum(self.sizes, dtype=np.int64).tolist()]
        self.usual_step: float | None = None
        self.places: dict[str, Remembered] = {}

    def restore(self, place: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Restore the memory of a location from its arrays.

        Raises
        ------
        KeyError, ValueError
            If they are not the memory of such a model.
        """
        levels, scales, number = arrays["levels"], arrays["scales"], int(arrays["number"])
        shapes_fit = levels.shape == (self._bounds[-1],) and scales.shape == (len(self.sizes),)
        if not shapes_fit or levels.dtype != np.int8 or scales.dtype != np.float32:
            raise ValueError("is of another model")
        self.places[place] = Remembered(levels, scales, number)

    # -- Shift -------------------------------------------------------------------------------------------

    def shift(self, shares: Mapping[str, float], data: Mapping[str, float]) -> Shift | None:
        """Return the shift of a round, None where there is nothing to make up for.

        Parameters
        ----------
        shares : mapping of str to float
            Share of each location in the weights of the round, summing to 1.
        data : mapping of str to float
            Amount of data of each location, in any unit.
        """
        total = sum(data.get(place, 0.0) for place in self.places)
        if not self.usual_step or total <= 0:
            return None
        # One division for each share: equal ratios of whole numbers are equal floats, and their difference 0.
        missing = {
            place: data.get(place, 0.0) / total - shares.get(place, 0.0) for place in sorted(self.places)
        }
        factors = {place: share for place, share in missing.items() if share}
        arrays = [np.zeros(size, dtype=np.float32) for size in self.sizes]
        squares = 0.0
        for index, start, stop in self._blocks():
            out = arrays[index][start:stop]
            for place, factor in factors.items():
                out += self._recall(self.places[place], index, start, stop) * np.float32(factor)
            squares += float(np.dot(out, out))
        norm, longest = math.sqrt(squares), self._trust * self.usual_step
        if norm <= _NOTHING * self.usual_step or not math.isfinite(norm):
            return None
        if was_cut := norm > longest:
            for array in arrays:
                array *= np.float32(longest / norm)
        return Shift(arrays, min(norm, longest), was_cut)

    # -- Update ------------------------------------------------------------------------------------------

    def update(self, number: int, sent: Vector, replies: Mapping[str, Replies]) -> Learned:
        """Learn from the replies of a round.

        Parameters
        ----------
        number : int
            The round.
        sent : sequence of ndarray
            The model that was sent.
        replies : mapping of str to sequence of (float, sequence of ndarray)
            Weight and model of each reply, by location.
        """
        everything = sum(weight for group in replies.values() for weight, _ in group)
        total = [np.zeros(size, dtype=np.float32) for size in self.sizes]
        means, norms = {}, {}
        for place, group in sorted(replies.items()):
            weight = sum(weight for weight, _ in group)
            means[place] = mean = self._mean(sent, group, weight)
            norms[place] = _norm(mean)
            for whole, part in zip(total, mean, strict=True):
                whole += part * np.float32(weight / everything)
        step = _norm(total)
        # The steps before are the measure: one reply of 1e30 must not become the usual step.
        usual = self.usual_step or _usual(norms.values())
        refused = tuple(place for place, norm in norms.items() if not norm <= _IMPLAUSIBLE * usual)
        for place, mean in means.items():
            if place not in refused:
                self.places[place] = self._learn(self.places.get(place), mean, number)
        if math.isfinite(step):
            step_counted = min(step, _FASTEST * usual)
            self.usual_step = _KEPT * (self.usual_step or step_counted) + (1 - _KEPT) * step_counted
        return Learned(step, refused)

    def _mean(self, sent: Vector, group: Replies, weight: float) -> list[NDArray[np.float32]]:
        """Return the weighted mean of updates."""
        means = []
        for index, before in enumerate(sent):
            mean = np.empty(self.sizes[index], dtype=np.float32)
            with np.errstate(all="ignore"):  # what is not finite is found by its norm
                for start in range(0, len(mean), _BLOCK):
                    block = slice(start, start + _BLOCK)
                    # Differences in the precision of the model: an update is small beside its weights.
                    parts = (
                        (model[index][block] - before[block]).astype(np.float32) * np.float32(each / weight)
                        for each, model in group
                    )
                    mean[block] = sum(parts)
            means.append(mean)
        return means

    def _learn(self, known: Remembered | None, mean: Vector, number: int) -> Remembered:
        """Return the memory of a location after another update."""
        levels = np.empty(self._bounds[-1], dtype=np.int8)
        scales = np.zeros(len(self.sizes), dtype=np.float32)
        for index, ((start, stop), update) in enumerate(zip(pairwise(self._bounds), mean, strict=True)):
            if known is None:
                value = update * np.float32(self._first)
            else:
                value = self._recall(known, index, 0, self.sizes[index])
                value += (update - value) * np.float32(self._rate)
            largest = float(np.abs(value).max(initial=0.0))
            scales[index] = largest / _LEVELS
            if scales[index]:
                np.rint(value / scales[index], out=value)
                levels[start:stop] = np.clip(value, -_LEVELS, _LEVELS)
            else:
                levels[start:stop] = 0
        return Remembered(levels, scales, number)

    def _recall(self, known: Remembered, index: int, start: int, stop: int) -> NDArray[np.float32]:
        """Return a part of an array as it is remembered."""
        first = self._bounds[index]
        scale: np.float32 = known.scales[index]
        return known.levels[first + start : first + stop] * scale

    def _blocks(self) -> Iterator[tuple[int, int, int]]:
        """Yield (array, start, stop) of parts that stay in a processor's cache."""
        for index, size in enumerate(self.sizes):
            for start in range(0, size, _BLOCK):
                yield index, start, min(start + _BLOCK, size)


def _usual(norms: Iterable[float]) -> float:
    """Return the measure for the updates of a first round: their median, or the largest if that is 0."""
    finite = [norm for norm in norms if math.isfinite(norm)] or [0.0]
    return float(np.median(finite)) or max(finite)


def _norm(arrays: Iterable[NDArray[Any]]) -> float:
    """Return the Euclidean norm of a vector; not finite where it is not, or too large for float32."""
    with np.errstate(all="ignore"):
        return math.sqrt(sum(float(np.dot(array, array)) for array in arrays))


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
