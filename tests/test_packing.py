"""Text of a table: the same numbers to the last bit, and short where they change little."""

from __future__ import annotations

import tracemalloc
from base64 import b64encode
from zlib import compress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.packing import pack, unpack

whole = st.integers(-(10**6), 10**6)
numbers = st.builds(lambda k, decimals: k / 10**decimals, whole, st.integers(0, 2)) | st.just(float("nan"))


@given(st.integers(1, 30).flatmap(lambda steps: st.lists(
    st.lists(numbers, min_size=steps, max_size=steps), min_size=1, max_size=4)))  # fmt: skip
def test_numbers_of_two_decimals_are_kept_to_the_last_bit(columns):
    values = np.array(columns).T
    text = pack(values)
    assert text is not None
    np.testing.assert_array_equal(unpack(text, *values.shape), values, strict=True)


@pytest.mark.parametrize("value", [1 / 3, 0.123, 1e12, np.inf])
def test_numbers_that_would_change_are_not_packed(value):
    assert pack(np.array([[100.0, value], [100.0, 1.0]])) is None


def test_a_forecast_of_four_days_takes_less_than_a_byte_a_value():
    hours, places = np.arange(96)[:, None], np.arange(20)
    values = 300 + 100 * np.sin(hours / 3.8 + places) + np.random.default_rng(0).normal(0, 3, (96, 20))
    assert len(pack(values.round()) or "") < 1920


@pytest.mark.parametrize("text", ["", "no", "AAAA", "ü", pack(np.ones((3, 1)))])
def test_a_text_of_another_shape_is_an_error(text):
    with pytest.raises(ValueError, match="is not a table of 2 x 2 numbers"):
        unpack(text, 2, 2)


def test_a_text_that_inflates_to_far_more_takes_no_memory():
    text = b64encode(compress(bytes(20_000_000))).decode()
    tracemalloc.start()
    with pytest.raises(ValueError, match="is not a table"):
        unpack(text, 2, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
