"""The expectation: forecast, what it will be wrong by, and what is usual where there is no forecast."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.bias_correction import (
    FADING,
    ORIGINS,
    HourlyIssue,
    correct_forecast,
    expect,
    learned_correction,
)
from lowcarb_scheduler.intensity import IntensityTable

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
DAYS = 28


def hourly(start, values, **labels):
    index = pd.date_range(start, periods=len(values), freq="h")
    return IntensityTable.from_frame(pd.DataFrame({"DE": values}, index=index), **labels)


@pytest.fixture
def noon(midnight):
    return midnight + 12 * HOUR


def at(table, when):
    """Return the value that holds at a time."""
    part = table.slice(when, when + timedelta(minutes=1))
    return float(part.values[0, 0])


# -- without past issues -----------------------------------------------------------------------------------


def test_without_history_it_is_the_forecast_and_a_gap_after_it(noon):
    table = correct_forecast(hourly(noon, [100.0, 200.0]), None, noon, noon + 4 * HOUR)
    assert (table.start, table.end) == (noon, noon + 4 * HOUR)
    assert [at(table, noon + k * HOUR) for k in range(2)] == [100.0, 200.0]
    assert np.isnan(at(table, noon + 2 * HOUR))


def test_with_nothing_to_learn_from_the_last_error_is_taken_off_and_fades(noon):
    issue = hourly(noon - 3 * HOUR, [100.0] * 3 + [60.0, 100.0] * 12)
    happened = hourly(noon - 3 * HOUR, [80.0, 100.0, 90.0])
    table = correct_forecast(issue, happened, noon, noon + 24 * HOUR)
    for ahead in range(1, 24, 2):
        assert at(table, noon + ahead * HOUR) == pytest.approx(100.0 - 10.0 * FADING ** (ahead + 1))
    assert at(table, noon) == 60.0  # no lower than what was seen or forecast


def test_beyond_the_forecast_stands_what_is_usual_at_that_hour(noon):
    shape = 100.0 + np.arange(24.0)
    history = hourly(noon.replace(hour=0) - 5 * DAY, np.tile(shape, 6)[: 5 * 24 + 12])
    table = correct_forecast(hourly(noon, [100.0]), history, noon, noon + 30 * HOUR)
    for ahead in (1, 5, 13, 29):
        hour = (noon + ahead * HOUR).hour
        assert at(table, noon + ahead * HOUR) == pytest.approx(shape[hour])


def test_the_same_day_of_the_week_counts_most(noon):
    days = np.arange(28)
    hours = np.repeat(np.where(days % 7 == 0, 300.0, 100.0), 24)  # one day a week is dirty
    for today in range(7):
        now = noon.replace(hour=0) + today * DAY
        history = hourly(now - 28 * DAY, np.roll(hours, -24 * today))  # day 0 of the pattern is a Monday
        table = correct_forecast(hourly(now, [np.nan]), history, now, now + 7 * DAY)
        expected = [at(table, now + day * DAY + 12 * HOUR) for day in range(7)]
        assert np.argmax(expected) == -today % 7


def test_a_step_that_is_still_running_is_no_history(noon):
    issue = hourly(noon - 6 * HOUR, [100.0] * 30)
    edges = [noon - 8 * HOUR, noon - 5 * HOUR, noon - 2 * HOUR, noon + HOUR]  # three hours each
    known, guess = ([90.0, 80.0, last] for last in (np.nan, 500.0))
    tables = [
        correct_forecast(issue, IntensityTable.from_points(
            {"DE": ([to_us(edge) for edge in edges[:-1]], values)}, ends={"DE": to_us(edges[-1])}
        ), noon, noon + DAY)
        for values in (known, guess)
    ]  # fmt: skip
    assert at(tables[0], noon) < 100.0  # the steps that have ended are used
    np.testing.assert_array_equal(tables[0].values, tables[1].values)


@pytest.mark.parametrize(("days", "known"), [(2, False), (3, True)])
def test_three_days_of_history_are_needed(noon, days, known):
    history = hourly(noon - days * DAY, [50.0] * 24 * days)
    table = correct_forecast(hourly(noon, [100.0]), history, noon, noon + 6 * HOUR)
    assert np.isfinite(at(table, noon + 5 * HOUR)) == known


def test_a_place_without_a_forecast_gets_its_own_history(noon):
    history = hourly(noon - 4 * DAY, [50.0] * 96)
    unknown = hourly(noon, [100.0]).align(["FR"])
    assert np.isnan(correct_forecast(unknown, history, noon, noon + 6 * HOUR).values).all()
    table = correct_forecast(unknown.align(["DE"]), history, noon, noon + 6 * HOUR)
    np.testing.assert_allclose(table.values, 50.0)


def test_a_hole_in_the_forecast_is_filled(noon):
    history = hourly(noon - 4 * DAY, [50.0] * 96)
    issue = hourly(noon, [60.0, np.nan, 60.0])
    table = correct_forecast(issue, history, noon, noon + 3 * HOUR)
    assert at(table, noon + HOUR) == pytest.approx(50.0)


# -- learned from past issues ------------------------------------------------------------------------------


class World:
    """Places whose provider errs in a way of its own: too high by a share of the day's swing, and more later.

    Parameters
    ----------
    every : int
        Hours between issues.
    horizon : int
        Hours an issue reaches.
    """

    places = ("A", "B", "C", "D")

    def __init__(self, now, seed=0, every=24, horizon=96):
        self.now, self.every, self.horizon = now, every, horizon
        rng = np.random.default_rng(seed)
        hours = np.arange((DAYS + 30) * 24)
        swing = np.cos((hours[:, None] - 3.0 * np.arange(4)) * np.pi / 12)
        noise = np.zeros((len(hours), 4))
        for hour in range(1, len(hours)):
            noise[hour] = 0.97 * noise[hour - 1] + rng.normal(0, 6, 4)
        self.truth = 300 + 80 * swing + noise
        self._bias = 40 * np.sin(np.arange(200) * np.pi / 24) + 25  # by lead
        self._noise = rng.normal(0, 5, (len(hours), 4))
        self.first = now.replace(minute=0, second=0, microsecond=0) - DAYS * DAY

    def table(self, hour, values):
        index = pd.date_range(self.first + hour * HOUR, periods=len(values), freq="h")
        return IntensityTable.from_frame(pd.DataFrame(values, index=index, columns=list(self.places)))

    def issue(self, hour):
        part = slice(hour, hour + self.horizon)
        return self.table(hour, self.truth[part] + self._noise[part] + self._bias[: self.horizon, None])

    @property
    def history(self):
        return self.table(0, self.truth[: DAYS * 24])

    def issues(self, age=6):
        newest = DAYS * 24 - age
        past = [self.issue(hour) for hour in range(newest % self.every, newest, self.every)]
        return self.issue(newest), past

    def error(self, table, first=0, last=None):
        """Return the root mean square error of the coming hours."""
        last = last or self.horizon - 6
        truth = self.truth[DAYS * 24 + first : DAYS * 24 + last]
        edges = self.table(DAYS * 24 + first, truth).edges_us
        return float(np.sqrt(np.nanmean((table.sampled(edges) - truth) ** 2)))


@pytest.mark.parametrize("every", [6, 24])
@pytest.mark.parametrize("seed", range(3))
def test_a_providers_own_error_is_learned(noon, every, seed):
    world = World(noon, seed, every)
    newest, past = world.issues()
    errors = [
        world.error(correct_forecast(newest, world.history, noon, noon + 90 * HOUR, known))
        for known in ((), past[-3:], past)
    ]
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 0.6 * world.error(newest)


def issues_of(truth, error_by_lead, age=6):
    """Return the newest issue, made ``age`` hours ago, and one a day before it, with errors by lead."""

    def issued(start):
        part = truth[start : start + len(error_by_lead)]
        return HourlyIssue(start, part + error_by_lead[: len(part), None])

    newest = DAYS * 24 - age
    return issued(newest), [issued(start) for start in range(newest % 24, newest, 24)]


def test_forecasts_that_were_right_are_left_alone():
    truth = np.random.default_rng(0).normal(500, 100, (DAYS * 24 + 48, 4))
    newest, past = issues_of(truth, np.zeros(48))
    assert np.abs(learned_correction(truth[: DAYS * 24], newest, past, 24)).max() < 1e-6


def test_an_error_is_learned_at_its_own_lead():
    truth = np.random.default_rng(0).normal(500, 1, (DAYS * 24 + 48, 12))
    error = 30.0 + 20.0 * np.sin(np.arange(1, 49))
    newest, past = issues_of(truth, error)
    correction = learned_correction(truth[: DAYS * 24], newest, past, 20).mean(axis=1)
    assert abs((correction + error[6:26]).mean()) < 3.0  # learned of the hour beside it, it would be 6


def test_one_issue_more_is_a_small_step(noon):
    world = World(noon)
    newest, past = world.issues()
    tables = [correct_forecast(newest, world.history, noon, noon + 90 * HOUR, past[-k:] if k else ())
              for k in range(4)]  # fmt: skip
    for before, after in pairwise(tables):
        assert np.abs(after.values - before.values).max() < 45  # the provider errs by up to 65


def test_the_order_of_past_issues_and_of_places_does_not_matter(noon):
    world = World(noon)
    newest, past = world.issues()
    table = correct_forecast(newest, world.history, noon, noon + 90 * HOUR, past)
    turned = [issue.align(world.places[::-1]) for issue in reversed(past)]
    again = correct_forecast(newest, world.history, noon, noon + 90 * HOUR, turned)
    np.testing.assert_array_equal(table.values, again.values)


def test_what_was_issued_after_the_newest_forecast_is_not_used(noon):
    world = World(noon)
    newest, past = world.issues()
    later = world.issue(DAYS * 24 - 2)
    tables = [correct_forecast(newest, world.history, noon, noon + 90 * HOUR, issues)
              for issues in (past, [*past, newest, later])]  # fmt: skip
    np.testing.assert_array_equal(tables[0].values, tables[1].values)


@pytest.mark.parametrize("hours", [1, 20, 24, 60])
def test_actuals_may_have_ended_weeks_ago(noon, hours):
    world = World(noon)
    newest, past = world.issues()
    history = world.table(0, world.truth[:hours])
    table = correct_forecast(newest, history, noon, noon + 90 * HOUR, past)
    np.testing.assert_array_equal(table.values, newest.sampled(table.edges_us))


@pytest.mark.parametrize("late", [2, 30, 100])
def test_actuals_may_be_late(noon, late):
    world = World(noon)
    newest, past = world.issues()
    history = world.table(0, world.truth[: DAYS * 24 - late])
    table = correct_forecast(newest, history, noon, noon + 90 * HOUR, past)
    assert world.error(table) < 0.75 * world.error(newest)


def test_actuals_of_one_place_that_are_early_do_not_make_the_others_worse(noon):
    world = World(noon)
    newest, past = world.issues()
    late = world.truth[: DAYS * 24].copy()
    late[-2:] = np.nan
    one_early = late.copy()
    one_early[-2:, 0] = world.truth[DAYS * 24 - 2 : DAYS * 24, 0]
    errors = [
        world.error(correct_forecast(newest, world.table(0, known), noon, noon + 90 * HOUR, past), last=6)
        for known in (one_early, late)
    ]
    assert errors[0] < 1.05 * errors[1]


@pytest.mark.parametrize(
    ("happened", "forecast"),
    [(28.0, 1.0), (28.0, 1e9), (0.0, 500.0)],
    ids=["hardly varies", "absurd forecast", "never as forecast"],
)
def test_a_place_that_hardly_varies_does_not_outweigh_the_others(noon, happened, forecast):
    world = World(noon)
    newest, past = world.issues()
    rng = np.random.default_rng(1)

    def odd(table):
        """Return a table in which the last place is forecast at random."""
        values = table.values.copy()
        values[:, 3] = happened + forecast * rng.random(len(values))
        return table.relaid(table.edges_us, table.locations, values)

    steady = world.truth[: DAYS * 24].copy()
    steady[:, 3] = happened
    without = correct_forecast(newest, world.history, noon, noon + 90 * HOUR, past)
    beside = correct_forecast(odd(newest), world.table(0, steady), noon, noon + 90 * HOUR, [*map(odd, past)])
    assert np.isfinite(beside.values).all()
    errors = [world.error(table.align(world.places[:3]).align(world.places)) for table in (beside, without)]
    assert errors[0] < 1.25 * errors[1]  # twice as large where it counts by its own deviation


def test_a_place_may_lack_actuals_issues_or_both(noon):
    world = World(noon)
    newest, past = world.issues()
    history = world.history.align(["A", "B"])
    table = correct_forecast(newest, history, noon, noon + 90 * HOUR, [i.align(["B", "C"]) for i in past])
    assert np.isfinite(table.values).all()
    before = newest.sampled(table.edges_us)
    assert np.nanmax(np.abs(table.values - before)[:, 3]) == 0.0  # of D nothing is known but the forecast
    assert world.error(table.align(["A", "B", "C", "D"])) < world.error(newest)


def test_half_hours_five_minutes_and_an_issue_every_few_minutes(noon):
    """Check data as from a Carbon Aware SDK: 24 h in steps of 5 min; a run kept an issue every 15 min."""
    world = World(noon, horizon=24)
    now = noon + timedelta(minutes=17)
    fine = {
        "past": [
            _refined(world.issue(hour), timedelta(minutes=minute))
            for hour in range(DAYS * 24 - 96, DAYS * 24 - 1)
            for minute in (5, 20, 35, 50)
        ],
        "newest": _refined(world.issue(DAYS * 24), timedelta(minutes=15)),
    }
    table = correct_forecast(fine["newest"], world.history, now, now + 40 * HOUR, fine["past"])
    assert table.start == now
    assert table.step == timedelta(minutes=5)
    assert np.isfinite(table.values).all()
    assert world.error(table, 1, 24) < 0.9 * world.error(fine["newest"], 1, 24)


def _refined(table, after):
    """Return a table by five minutes, from some minutes after its begin on."""
    edges = np.arange(
        table.edges_us[0] + after // timedelta(microseconds=1), table.edges_us[-1] + 1, 300_000_000
    )
    return table.relaid(edges, table.locations, table.sampled(edges))


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(-500, 500), st.integers(0, 59), st.integers(0, 23))
def test_what_happens_after_now_changes_nothing(seed, change, minute, age):
    now = pd.Timestamp("2026-03-02T12:00Z").to_pydatetime() + timedelta(minutes=minute)
    world = World(now, seed % 7)
    newest, past = world.issues(age)
    altered = world.truth.copy()
    altered[DAYS * 24 :] += change  # the hour that runs and all after it
    histories = [world.table(0, values[: (DAYS + 2) * 24]) for values in (world.truth, altered)]
    tables = [correct_forecast(newest, history, now, now + 120 * HOUR, past) for history in histories]
    np.testing.assert_array_equal(tables[0].values, tables[1].values)


@settings(max_examples=40)
@given(st.data())
def test_whatever_is_known_the_result_is_bounded_and_keeps_what_is_known(data):
    now = pd.Timestamp("2026-03-02T12:00Z").to_pydatetime()
    world = World(now, data.draw(st.integers(0, 5)))
    newest, past = world.issues(data.draw(st.integers(0, 30)))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    holes = data.draw(st.sampled_from([0.0, 0.2, 0.9, 1.0]))

    def gappy(table):
        values = np.where(rng.random(table.values.shape) < holes, np.nan, table.values)
        return table.relaid(table.edges_us, table.locations, values)

    history, newest = gappy(world.history), gappy(newest)
    table = correct_forecast(newest, history, now, now + 100 * HOUR, [gappy(issue) for issue in past])
    given_ = newest.sampled(table.edges_us)
    assert np.isfinite(table.values)[np.isfinite(given_)].all()
    assert np.nanmax(table.values, initial=0) < 2000
    assert np.nanmin(table.values, initial=0) >= -500


# -- labels ------------------------------------------------------------------------------------------------


def test_each_value_says_where_it_came_from(noon):
    world = World(noon)
    newest, past = world.issues()
    partly = newest.align(["A", "B", "E"])
    history = world.history.align(["A", "E"]).fill(world.table(0, world.truth[:20]).align(["B"]))
    found = expect(partly, history, noon, noon + 120 * HOUR, past, last_good=["B"])
    names = np.array(ORIGINS)[found.origin]
    forecast_ends = int((found.intensity.edges_us[:-1] < newest.edges_us[-1]).sum())
    assert set(names[:forecast_ends, 0]) == {"corrected"}
    assert set(names[forecast_ends:, 0]) == {"climatology"}
    assert set(names[:forecast_ends, 1]) == {"last good"}
    assert set(names[forecast_ends:, 1]) == {"unknown"}
    assert set(names[:, 2]) == {"unknown"}
    alone = expect(newest, None, noon, noon + 90 * HOUR)
    assert set(np.array(ORIGINS)[alone.origin].ravel()) == {"forecast"}
    np.testing.assert_array_equal(found.origin == ORIGINS.index("unknown"), np.isnan(found.intensity.values))


def test_keeps_the_labels_and_the_step_of_the_forecast(noon):
    index = pd.date_range(noon, periods=12, freq="5min")
    issue = IntensityTable.from_frame(
        pd.DataFrame({"DE": 1.0}, index=index), signal="marginal", source="s", synthetic=True
    )
    table = correct_forecast(issue, None, noon, noon + HOUR)
    assert (table.signal, table.source, table.synthetic) == ("marginal", "s", True)
    assert table.step == timedelta(minutes=5)


def test_refuses_to_mix_signals_and_an_empty_span(noon):
    average, marginal = (hourly(noon, [1.0], signal=signal) for signal in ("average", "marginal"))
    before = hourly(noon - 2 * DAY, [1.0] * 48, signal="average")
    with pytest.raises(InputError, match="the history's is marginal, the forecast's average"):
        correct_forecast(average, marginal, noon, noon + HOUR)
    with pytest.raises(InputError, match="the past forecast's is marginal, the forecast's average"):
        correct_forecast(
            average, before, noon, noon + HOUR, [hourly(noon - DAY, [1.0] * 30, signal="marginal")]
        )
    with pytest.raises(InputError, match="is not after now"):
        correct_forecast(average, None, noon, noon)
    with pytest.raises(InputError, match=r"until: .* has no UTC offset"):
        correct_forecast(average, None, noon, (noon + HOUR).replace(tzinfo=None))
