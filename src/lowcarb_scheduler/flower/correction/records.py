"""Arrays of Flower's records, as flat views without a copy, and replies that are shifted."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord

from lowcarb_scheduler.flower.compat import PARTS
from lowcarb_scheduler.validation import finite_number

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flwr.app import Message
    from numpy.typing import NDArray

    from lowcarb_scheduler.flower.correction.memory import Vector

FLOATS: Final = ("float16", "float32", "float64")
# Statistics of normalisation layers are no sums of gradients: shifted, a variance can turn negative.
_STATISTICS: Final = re.compile(
    r"(?:^|[./_])(?:running_mean|running_var|num_batches_tracked|moving_mean|moving_variance)$"
)


class UnfitReplyError(ValueError):
    """Error for a reply that no memory can learn from."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Arrays of a model that are corrected.

    Parameters
    ----------
    names : tuple of str
        Their names in a record.
    shapes : tuple of tuple of int
        Their shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, record: Mapping[str, Array]) -> Layout:
        """Return the arrays of floats in a record that training changes."""
        chosen = {
            name: tuple(array.shape)
            for name, array in record.items()
            if PARTS.is_numpy(array)
            and array.dtype in FLOATS
            and 0 not in array.shape
            and not _STATISTICS.search(name)
        }
        return cls(tuple(chosen), tuple(chosen.values()))

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each array."""
        return tuple(int(np.prod(shape, dtype=np.int64)) for shape in self.shapes)

    def read(self, record: Mapping[str, Array]) -> Vector:
        """Return these arrays of a record, each flat and without a copy where that is possible.

        Raises
        ------
        UnfitReplyError
            If one is missing, or of another kind or shape.
        """
        arrays = []
        for name, shape in zip(self.names, self.shapes, strict=True):
            if (array := record.get(name)) is None:
                raise UnfitReplyError(f"lacks the array {name!r}")
            if not PARTS.is_numpy(array) or array.dtype not in FLOATS:
                raise UnfitReplyError(f"has an array {name!r} that is not of floats")
            values = values_of(array)
            if values.shape != shape:
                raise UnfitReplyError(f"has an array {name!r} of another shape")
            arrays.append(values.reshape(-1))
        return arrays


def values_of(array: Array) -> NDArray[Any]:
    """Return the values of an array, read-only and without the copy that ``Array.numpy()`` makes.

    Raises
    ------
    UnfitReplyError
        If the bytes are not those of an array.
    """
    data = array.data
    try:
        # The header is as long as its length field says: two bytes in format 1, the only one for plain types.
        if data[6:7] != b"\x01":
            return array.numpy()
        end = 10 + int.from_bytes(data[8:10], "little")
        shape, is_fortran, dtype = _header(bytes(data[:end]))
        flat = np.frombuffer(data, dtype, int(np.prod(shape, dtype=np.int64)), end)
    except (ValueError, TypeError, SyntaxError, EOFError):
        raise UnfitReplyError("has an array that cannot be read") from None
    return flat.reshape(shape[::-1]).T if is_fortran else flat.reshape(shape)


class _Lent(Array):
    """Array whose ``numpy()`` makes no copy; only for a strategy that writes in no reply.

    Parameters
    ----------
    array : Array
        Array to stand in for.
    """

    def __init__(self, array: Array) -> None:
        super().__init__(dtype=array.dtype, shape=tuple(array.shape), stype=array.stype, data=array.data)

    def numpy(self) -> NDArray[Any]:
        """Return the values."""
        return values_of(self)


class _Shifted(Array):
    """Array that is shifted when it is read, which costs no more than to read it.

    Parameters
    ----------
    array : Array
        Array to stand in for.
    shift : ndarray of float32
        Vector to add, which must not change until the array is read.
    """

    def __init__(self, array: Array, shift: NDArray[np.float32]) -> None:
        about = {"dtype": array.dtype, "shape": tuple(array.shape), "stype": array.stype}
        self.__dict__.update(about, _array=array, _shift=shift)

    def numpy(self) -> NDArray[Any]:
        """Return the shifted values, in an array of their own."""
        before = values_of(self.__dict__["_array"])
        moved = np.add(before, self.__dict__["_shift"].reshape(before.shape))
        return np.asarray(moved).astype(before.dtype, copy=False)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """Bytes of the shifted values."""
        return Array(self.numpy()).data


@lru_cache(maxsize=1024)  # the replies of a round have the same headers
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    stream = BytesIO(head)
    np.lib.format.read_magic(stream)
    shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.kind != "f":
        raise ValueError("not of floats")
    return shape, is_fortran, dtype


def only_record(message: Message) -> tuple[str, ArrayRecord]:
    """Return key and content of the only ArrayRecord of a message.

    Raises
    ------
    UnfitReplyError
        If it has none, or several.
    """
    records = list(message.content.array_records.items())
    if len(records) != 1:
        raise UnfitReplyError(f"has {len(records)} records of arrays")
    return records[0]


def weight_of(reply: Message, key: str) -> float | None:
    """Return the weight of a reply by its key in the first record of metrics; None for an invalid one."""
    metrics = next(iter(reply.content.metric_records.values()), None)
    weight = None if metrics is None else finite_number(metrics.get(key))
    return weight if weight is not None and weight >= 0 else None


def lend(reply: Message, layout: Layout) -> None:
    """Let a strategy read the arrays of a reply without a copy, which saves half of the time of a mean."""
    _replace(reply, dict.fromkeys(layout.names, _Lent))


def add(reply: Message, layout: Layout, shift: Vector) -> None:
    """Add a shift, which must not change until the reply is read, to its arrays."""
    _replace(
        reply, {name: partial(_Shifted, shift=part) for name, part in zip(layout.names, shift, strict=True)}
    )


def _replace(reply: Message, stand_in: Mapping[str, Callable[[Array], Array]]) -> None:
    """Replace arrays of a reply by others that stand in for them."""
    key, record = only_record(reply)
    # A new record: a simulated node may still hold this one. The constructor would copy arrays.
    replaced = ArrayRecord(dict(record))
    for name, make in stand_in.items():
        replaced[name] = make(record[name])
    reply.content[key] = replaced
