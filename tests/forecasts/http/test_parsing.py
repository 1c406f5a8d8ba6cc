"""Code shared by sources on the web: cutting periods, joining answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.clock import EPOCH, MICROSECOND
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.http.client import FetchError
from lowcarb_scheduler.forecasts.http.parsing import (
    PART,
    actual_of,
    floored,
    forecast_of,
    issue_of,
    moments,
    parts,
    past_forecasts_of,
    time_of,
)
from lowcarb_scheduler.intensity import Provenance

NOW = datetime(2026, 3, 10, 14, tzinfo=UTC)
HOUR = timedelta(hours=1)
HOUR_US = HOUR // MICROSECOND
TIMES = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
LENGTHS = st.timedeltas(MICROSECOND, timedelta(days=60))
GRIDS = st.sampled_from([timedelta(seconds=1), timedelta(minutes=5), timedelta(minutes=30), HOUR])


@given(TIMES, LENGTHS, GRIDS)
def test_parts_cover_a_period_on_the_grid_and_are_short(first, length, grid):
    last = first + length
    cut = parts(first, last, grid)
    assert cut[0][0] <= first < cut[0][0] + grid
    assert cut[-1][1] - grid < last <= cut[-1][1]
    assert all(end == begin for (_, end), (begin, _) in pairwise(cut))
    assert all(timedelta(0) < end - begin <= PART for begin, end in cut)
    assert all((when - EPOCH) % grid == timedelta(0) for bounds in cut for when in bounds)


@given(TIMES, LENGTHS, st.timedeltas(MICROSECOND, timedelta(days=3)), GRIDS)
def test_moments_are_on_the_grid_in_the_period_and_apart(first, length, every, grid):
    length = min(length, 500 * max(every, grid))
    found = moments(first, first + length, every, grid)
    assert all(first <= when < first + length for when in found)
    assert all((when - EPOCH) % grid == timedelta(0) for when in found)
    assert all(every <= after - before < every + grid for before, after in pairwise(found))
    if not found:
        assert length <= grid
    else:
        assert found[0] - first < grid
        assert first + length - found[-1] <= every + grid


def test_moments_are_some_time_apart():
    with pytest.raises(InputError, match=r"every: 0:00:00 is not positive"):
        moments(NOW, NOW + HOUR, timedelta(0), HOUR)


@given(TIMES, GRIDS)
def test_floored_is_the_last_multiple(when, grid):
    assert floored(when, grid) <= when < floored(when, grid) + grid


def test_a_time_that_is_none_is_a_reason():
    assert time_of("2026-03-10T14:00Z", "made") == NOW
    with pytest.raises(FetchError, match="made: 2026-03-10T14:00:00 has no UTC offset"):
        time_of("2026-03-10T14:00", "made")


def issue(value, made=NOW):
    return issue_of(made, [(made.isoformat(), value, HOUR_US)], made)


def test_a_forecast_knows_when_each_location_had_its_own():
    older = issue(2, NOW - HOUR)
    made = forecast_of({"A": issue(1), "B": older, "C": FetchError("gone")}, {}, Provenance("x", "average"))
    assert made.intensity.locations == ("A", "B")
    assert (made.issued_at("A"), made.issued_at("B")) == (NOW, NOW - HOUR)
    assert made.generated_at == NOW - HOUR
    assert made.missing == {"C": "gone"}


def test_past_forecasts_are_sorted_and_each_issue_comes_once():
    times = [NOW + k * HOUR for k in range(3)]
    answers = {("A", when): issue(1, when) for when in reversed(times)}
    answers["A", times[1]] = answers["A", times[0]]  # a server that answers with an older one again
    answers |= {("B", when): FetchError("gone") for when in times}
    found = past_forecasts_of(answers, {}, Provenance("x", "average"))
    assert [made.generated_at for made in found] == [times[0], times[2]]
    assert [made.missing for made in found] == [{"B": "gone"}] * 2


def test_no_past_forecast_at_all_is_an_error_with_the_reasons():
    with pytest.raises(ForecastUnavailableError) as error:
        past_forecasts_of(
            {("A", NOW): FetchError("gone")}, {"": "its name is empty"}, Provenance("x", "average")
        )
    assert error.value.missing == {"A": "gone", "": "its name is empty"}


def test_actuals_are_joined_from_their_parts():
    def hour(k, value):
        return [((NOW + k * HOUR).isoformat(), value, HOUR_US)]

    answers = {("A", 0): hour(0, 1), ("A", 1): FetchError("late"), ("A", 2): hour(2, 3),
               ("B", 0): [], ("B", 1): FetchError("late"), ("C", 0): []}  # fmt: skip
    missing = {}
    table = actual_of(answers, missing, (NOW, NOW + 3 * HOUR), Provenance("x", "average"))
    assert table.to_frame()["A"].dropna().tolist() == [1, 3]
    assert missing == {"B": "late", "C": "no value from 2026-03-10T14:00:00Z to 2026-03-10T17:00:00Z"}
