"""Short text of a table of numbers: a forecast of 20 locations and four days takes 2 kB in a ledger.

Consecutive hours differ little, and their differences differ even less. These second differences, of whole
numbers of the last decimal, are nearly all small; deflate takes a byte and less for each of them.
"""

from __future__ import annotations

import binascii
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_DECIMALS: Final = (0, 1, 2)
_LARGEST: Final = 2**28  # of a code: its second differences fit in 32 bits


def pack(values: Floats) -> str | None:
    """Return the text of a table, from which :func:`unpack` returns the same numbers to the last bit.

    Parameters
    ----------
    values : ndarray of float64, shape (T, L)
        Numbers, NaN is a gap.

    Returns
    -------
    str or None
        None if a number has more than two decimals, or is too large for this form.
    """
    gaps, columns, decimals = np.isnan(values).T, [], []
    known = np.where(gaps.T, 0.0, values)
    if not (np.abs(known) < _LARGEST / 10.0 ** _DECIMALS[-1]).all():
        return None
    for column in known.T:
        for places in _DECIMALS:
            codes = np.rint(column * 10.0**places)
            if np.array_equal(codes / 10.0**places, column):
                columns.append(codes.astype(np.int64))
                decimals.append(places)
                break
        else:
            return None
    codes = np.array(columns, np.int64).reshape(gaps.shape)
    # A gap repeats the value before it, which costs nothing; the bits say where gaps are.
    before = np.maximum.accumulate(np.where(gaps, 0, np.arange(gaps.shape[1])), axis=1)
    codes = np.take_along_axis(codes, before, axis=1)
    steps = np.diff(codes, n=2, axis=1, prepend=np.zeros((len(codes), 2), np.int64))
    # The sign goes to the last bit: else the upper bytes of small negative numbers are not zero.
    bare = ((steps << 1) ^ (steps >> 63)).astype("<u4")
    planes = bare.reshape(-1, 1).view(np.uint8).T  # the lowest bytes of all, then the next ones
    data = bytes(decimals) + np.packbits(gaps).tobytes() + planes.tobytes()
    return binascii.b2a_base64(zlib.compress(data, 9), newline=False).decode("ascii")


def unpack(text: str, steps: int, columns: int) -> Floats:
    """Return the table of a text.

    Parameters
    ----------
    text : str
        Text that :func:`pack` returned.
    steps, columns : int
        Shape of the table.

    Raises
    ------
    ValueError
        If the text is not that of a table of this shape.
    """
    cells = steps * columns
    begin = columns + -(-cells // 8)
    inflating, data = zlib.decompressobj(), b""
    with suppress(ValueError, zlib.error):
        # No more than the table needs: a line of a few kilobytes may be made to inflate to gigabytes.
        data = inflating.decompress(binascii.a2b_base64(text, strict_mode=True), begin + 4 * cells + 1)
    if not inflating.eof or len(data) != begin + 4 * cells:
        raise ValueError(f"is not a table of {steps} x {columns} numbers")
    decimals = np.frombuffer(data[:columns], np.uint8)
    gaps = np.unpackbits(np.frombuffer(data[columns:begin], np.uint8), count=cells).reshape(columns, steps)
    planes = np.frombuffer(data[begin:], np.uint8).reshape(4, cells)
    bare = np.ascontiguousarray(planes.T).view("<u4").reshape(columns, steps).astype(np.int64)
    differences = (bare >> 1) ^ -(bare & 1)
    codes = differences.cumsum(axis=1).cumsum(axis=1)
    return np.where(gaps, np.nan, codes / 10.0 ** decimals[:, None].astype(np.float64)).T
