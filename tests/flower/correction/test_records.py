"""Arrays of records: views show the same values as Flower's own copies."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, RecordDict

from lowcarb_scheduler.flower.correction.records import Layout, UnfitReplyError, add, values_of

VALUES = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        VALUES.astype(np.float32),
        VALUES.astype(np.float16),
        np.asfortranarray(VALUES),
        VALUES[:, ::2],
        np.array(3.5),
        np.zeros((0, 4)),
    ],
    ids=["float64", "float32", "float16", "Fortran order", "strided", "scalar", "empty"],
)
def test_a_view_has_the_values_of_a_copy(values):
    array = Array(values)
    view = values_of(array)
    assert view.dtype == array.numpy().dtype
    np.testing.assert_array_equal(view, array.numpy())
    assert not view.flags.writeable


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY\x01\x00", b"nothing", Array(VALUES).data[:-1]])
def test_bytes_that_are_no_array_are_unfit(data):
    with pytest.raises(UnfitReplyError):
        values_of(Array("float64", (2, 3), "numpy.ndarray", data))


def test_only_floats_that_training_changes_are_corrected():
    record = ArrayRecord(
        {
            "conv.weight": Array(np.zeros((2, 2), np.float32)),
            "conv.steps": Array(np.zeros(3, np.int64)),
            "norm.running_mean": Array(np.zeros(3, np.float32)),
            "norm.running_var": Array(np.zeros(3, np.float32)),
            "norm/moving_variance": Array(np.zeros(3, np.float32)),
            "head.empty": Array(np.zeros((0, 3), np.float32)),
            "head.swapped": Array(np.zeros(3, ">f4")),
            "head.mask": Array(np.zeros(3, bool)),
            "head.bfloat16": Array("bfloat16", (3,), "numpy.ndarray", Array(np.zeros(3, "V2")).data),
            "head.running_variety": Array(np.zeros(3, np.float32)),
        }
    )
    assert Layout.of(record).names == ("conv.weight", "head.running_variety")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_shifted_reply_reads_as_shifted_however_it_is_read(dtype):
    given = ArrayRecord({"weight": Array(VALUES.astype(dtype)), "count": Array(np.array([7]))})
    reply, shift = SimpleNamespace(content=RecordDict({"arrays": given})), [np.full(6, 0.5, np.float32)]
    add(reply, Layout.of(given), shift)
    shifted = reply.content["arrays"]
    for values in (shifted["weight"].numpy(), ArrayRecord(dict(shifted))["weight"].numpy(),
                   shifted.to_numpy_ndarrays()[0]):  # fmt: skip
        np.testing.assert_array_equal(values, VALUES + 0.5)
        assert values.dtype == dtype
        assert values.flags.writeable
        values += 1  # a strategy may write in what it has read
    assert shifted["weight"].data == Array((VALUES + 0.5).astype(dtype)).data
    np.testing.assert_array_equal(shifted["count"].numpy(), [7])
    np.testing.assert_array_equal(given["weight"].numpy(), VALUES)
