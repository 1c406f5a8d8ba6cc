"""The JSON writer."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from lowcarb_scheduler.documents import to_json


def test_writes_times_durations_and_numpy_plainly():
    document = {
        "at": datetime(2026, 1, 31, 18, tzinfo=UTC),
        "held": timedelta(minutes=1.5),
        "grams": np.float64(0.1),
        "turns": np.array([1, 2]),
        "yes": np.bool_(True),
        1: (None, "ü"),
    }
    assert to_json(document) == (
        '{"at": "2026-01-31T18:00:00Z", "held": 90.0, "grams": 0.1, "turns": [1, 2], "yes": true, '
        '"1": [null, "ü"]}'
    )


def test_what_is_not_finite_is_null():
    assert json.loads(to_json([float("nan"), float("inf"), np.float64("-inf")])) == [None, None, None]


def test_refuses_what_has_no_json_form():
    with pytest.raises(TypeError, match="object has no JSON form"):
        to_json({"x": object()})


def test_half_of_a_surrogate_pair_is_written_as_an_escape():
    text = to_json({"name": "uksouth\ud800"})
    assert text.encode("utf-8") == b'{"name": "uksouth\\ud800"}'
    assert json.loads(text) == {"name": "uksouth\ud800"}
