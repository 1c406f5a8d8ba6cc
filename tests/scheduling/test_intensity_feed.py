"""The feed: what is believed of a source, how often it is asked, and what remains when it fails."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler import Synthetic
from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.forecasts.base import Fault, Forecast, ForecastSource
from lowcarb_scheduler.forecasts.registry import arranged
from lowcarb_scheduler.intensity import IntensityTable, Provenance, neutral_table, sanitize
from lowcarb_scheduler.scheduling.intensity_feed import IntensityFeed
from lowcarb_scheduler.scheduling.messages import RunLog
from lowcarb_scheduler.settings import Settings

HOUR, MINUTE, DAY = timedelta(hours=1), timedelta(minutes=1), timedelta(days=1)


class Journal(list):
    def named(self, name):
        return [event.to_record() for event in self if event.name == name]


def table(start, **columns):
    length = max(len(values) for values in columns.values())
    index = pd.date_range(start, periods=length, freq="h")
    return IntensityTable.from_frame(pd.DataFrame(columns, index=index, dtype=float), source="s")


class Source(ForecastSource):
    """A source whose answers a test can change."""

    def __init__(self, value=100.0):
        self.value, self.asked, self.error = value, [], None
        self.age, self.missing = timedelta(0), {}

    def forecast(self, locations, now, *, timeout=None):
        self.asked.append(now)
        if self.error:
            raise self.error
        known = {name: [self.value] * 48 for name in locations if name not in self.missing}
        return Forecast(table(now, **known), now - self.age, self.missing)

    def actual(self, locations, start, end, *, timeout=None):
        if self.error:
            raise self.error
        return table(start, **dict.fromkeys(locations, [self.value] * 2))


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def journal():
    return Journal()


def feed_of(source, journal):
    return IntensityFeed(source, journal, RunLog(journal))


@pytest.fixture
def feed(source, journal):
    return feed_of(source, journal)


@pytest.mark.parametrize(("is_certain", "known"), [((True, True), True), ((True, False), False), ((), False)])
def test_what_is_known_is_certain_if_all_sources_are(journal, is_certain, known):
    class Replayed(Source):
        """A source that says of itself whether it is certain."""

    sources = [Replayed() for _ in is_certain] or [object.__new__(Source)]
    for source, certain in zip(sources, is_certain, strict=False):
        source.is_certain = certain
    whole = arranged(sources, Settings.load({"archive_dir": "none"}))
    assert feed_of(whole, journal).known.is_certain == known


def test_a_source_is_asked_every_quarter_of_an_hour(feed, source, midnight):
    for minute in range(0, 61):
        feed.refresh(["DE"], midnight + minute * MINUTE)
    assert len(source.asked) == 5


def test_a_failing_source_is_asked_ever_more_rarely_and_noted_once(feed, source, journal, midnight):
    source.error = OSError("refused")
    for minute in range(0, 24 * 60):
        assert not feed.refresh(["DE"], midnight + minute * MINUTE)
    assert len(source.asked) <= 15
    whats = [data["what"] for data in journal.named("degraded")]
    assert whats == ["forecast", "actual intensity"]


def test_it_recovers(feed, source, midnight):
    source.error = OSError("refused")
    feed.refresh(["DE"], midnight)
    source.error = None
    assert feed.refresh(["DE"], midnight + HOUR)
    assert feed.forecast is not None


def test_the_last_good_forecast_is_used_for_36_hours(feed, source, midnight):
    feed.refresh(["DE"], midnight)
    source.error = OSError("refused")
    feed.refresh(["DE"], midnight + 35 * HOUR)
    assert feed.forecast is not None
    feed.refresh(["DE"], midnight + 38 * HOUR)
    assert feed.forecast is None


@pytest.mark.parametrize(("age", "good"), [(35 * HOUR, True), (37 * HOUR, False), (-5 * MINUTE, True),
                                           (-2 * HOUR, False)])  # fmt: skip
def test_a_forecast_of_an_implausible_age_is_refused(feed, source, midnight, age, good):
    source.age = age
    assert feed.refresh(["DE"], midnight) == good


@pytest.mark.parametrize(("start_s", "end_s"), [(0, 7200), (3570, 7200), (0, 7220), (3599, 3601), (10, 20)])
def test_a_part_of_a_minute_at_either_end_is_known(midnight, start_s, end_s):
    start, end = midnight + timedelta(seconds=start_s), midnight + timedelta(seconds=end_s)
    believed = sanitize(table(midnight, DE=[100, 200, 300]).slice(start, end))
    assert (believed.start, believed.end) == (start, end)
    assert np.isfinite(believed.values).all()


@pytest.mark.parametrize("value", [-1.0, 3001.0, 1e300])
def test_no_hold_rests_on_an_implausible_number(feed, source, midnight, value):
    feed.refresh(["DE"], midnight)
    source.value = value
    feed.refresh(["DE"], midnight + HOUR)
    assert (feed.forecast.values == 100.0).all()  # the last good one


def test_a_place_that_goes_missing_keeps_its_last_good_forecast(feed, source, journal, midnight):
    feed.refresh(["DE", "FR"], midnight)
    source.missing, source.value = {"FR": "404"}, 50.0
    feed.refresh(["DE", "FR"], midnight + HOUR)
    values = dict(zip(feed.forecast.locations, feed.forecast.sampled(
        np.array([0, 1]) + int((midnight + 2 * HOUR).timestamp() * 1e6))[0], strict=True))  # fmt: skip
    assert values == {"DE": 50.0, "FR": 100.0}
    assert journal.named("degraded")[0]["what"] == "forecast of FR"


def test_an_unchanged_issue_is_no_change(feed, source, journal, midnight):
    assert feed.refresh(["DE"], midnight)
    source.age = 15 * MINUTE
    assert not feed.refresh(["DE"], midnight + 15 * MINUTE)
    assert len(journal.named("forecast")) == 1


def test_a_new_place_is_asked_for_at_once(feed, source, midnight):
    feed.refresh(["DE"], midnight)
    assert feed.refresh(["DE", "FR"], midnight + MINUTE)
    assert set(feed.forecast.locations) == {"DE", "FR"}


def test_once_closed_nothing_is_asked(feed, source, midnight):
    feed.close()
    assert not feed.refresh(["DE"], midnight)
    assert source.asked == []


def test_a_place_without_preference_has_the_mean_of_the_others(midnight):
    known = table(midnight, DE=[100.0, 200.0], FR=[np.nan, 300.0])
    flat = neutral_table(known, ["X", "Y"], midnight, midnight + HOUR)
    np.testing.assert_array_equal(flat.values, [[200.0, 200.0]])
    assert neutral_table(None, ["X"], midnight, midnight + HOUR).values.tolist() == [[1.0]]


# -- each place for itself ---------------------------------------------------------------------------------


class Kept(Source):
    """A source that tells of each place when its forecast was made, and what stands in for a fresh one."""

    name = "kept"

    def __init__(self, *args):
        super().__init__(*args)
        self.ages, self.last_good, self.past, self.faults, self.limits = {}, {}, [], [], []

    def forecast(self, locations, now, *, timeout=None):
        self.limits += [timeout] if timeout else []
        known = super().forecast(locations, now)
        issued = {name: now - self.ages.get(name, self.age) for name in known.intensity.locations}
        return Forecast(known.intensity, min(issued.values()), known.missing, issued, self.last_good)

    def actual(self, locations, start, end, *, timeout=None):
        self.limits += [timeout] if timeout else []
        return super().actual(locations, start, end)

    def past_forecasts(self, locations, start, end, every, *, timeout=None):
        self.asked.append((tuple(locations), start, end, every))
        return self.past


@pytest.fixture
def kept():
    return Kept()


class HalfHours(Source):
    """A source with steps of half an hour, of which one is not known at first."""

    hole, since = 3, None

    def actual(self, locations, start, end, *, timeout=None):
        self.since = start
        edges = np.arange(to_us(start), to_us(end) + 1, to_us(start + 30 * MINUTE) - to_us(start))
        values = np.full((len(edges) - 1, len(locations)), 100.0)
        if self.hole is not None:
            values[self.hole] = np.nan
        return IntensityTable(edges, tuple(locations), values, Provenance("s", "unknown"))


def test_a_hole_of_half_an_hour_is_asked_for_again_from_its_hour_on(journal, midnight):
    source = HalfHours()
    feed = feed_of(source, journal)
    feed.refresh(["DE"], midnight)
    feed.actual = None
    feed.learn_actual(midnight, midnight + 10 * HOUR)
    source.hole = None
    feed.learn_actual(midnight, midnight + 11 * HOUR)
    assert source.since == midnight + HOUR  # the fourth half hour is in the second hour
    feed.learn_actual(midnight, midnight + 12 * HOUR)
    assert source.since == midnight + 9 * HOUR  # what is recent may be revised


def test_a_place_whose_forecast_is_too_old_is_dropped_and_the_others_stay(kept, journal, midnight):
    kept.ages = {"FR": 35 * HOUR}
    feed = feed_of(kept, journal)
    feed.refresh(["DE", "FR"], midnight)
    assert set(feed.forecast.locations) == {"DE", "FR"}
    kept.error = OSError("refused")
    assert feed.refresh(["DE", "FR"], midnight + 61 * MINUTE)
    assert feed.forecast.locations == ("DE",)
    assert "forecast of FR" in [data["what"] for data in journal.named("degraded")]
    assert feed.refresh(["DE"], midnight + 38 * HOUR)
    assert feed.forecast is None


def test_a_column_that_is_carried_over_ages_too(feed, source, midnight):
    feed.refresh(["DE", "FR"], midnight)
    source.missing = {"FR": "404"}
    for hour in range(1, 37):
        feed.refresh(["DE", "FR"], midnight + hour * HOUR)
        assert "FR" in feed.forecast.locations
    feed.refresh(["DE", "FR"], midnight + 36 * HOUR + MINUTE)
    assert feed.forecast.locations == ("DE",)


def test_a_place_dated_wrongly_is_missing_and_the_others_count(kept, journal, midnight):
    kept.ages = {"FR": 40 * HOUR, "GB": -HOUR}
    feed = feed_of(kept, journal)
    feed.refresh(["DE", "FR", "GB"], midnight)
    assert feed.forecast.locations == ("DE",)
    (event,) = journal.named("forecast")
    assert set(event["missing"]) == {"FR", "GB"}


def test_the_ledger_says_which_places_are_fresh_and_which_last_good(kept, journal, midnight):
    kept.ages, kept.last_good = {"FR": 5 * HOUR}, {"FR": "answered 503"}
    feed_of(kept, journal).refresh(["DE", "FR"], midnight)
    (event,) = journal.named("forecast")
    assert event["last_good"] == {"FR": "answered 503"}
    assert event["issued_at"] == {"DE": midnight, "FR": midnight - 5 * HOUR}
    assert event["generated_at"] == midnight - 5 * HOUR
    (fault,) = journal.named("degraded")
    assert (fault["what"], fault["why"]) == ("forecast of FR", "answered 503")
    assert fault["consequence"] == "the last good forecast, of 2026-03-01T19:00:00Z, is used"


def test_a_source_that_serves_last_good_forecasts_only_is_asked_ever_more_rarely(kept, journal, midnight):
    kept.last_good, kept.ages = {"DE": "no answer"}, {"DE": HOUR}
    feed = feed_of(kept, journal)
    for minute in range(24 * 60):
        feed.refresh(["DE"], midnight + minute * MINUTE)
    assert len([when for when in kept.asked if not isinstance(when, tuple)]) <= 15
    assert len(journal.named("degraded")) == 1


def test_places_with_one_reason_stand_in_one_line(feed, source, journal, midnight):
    places = [f"P{k}" for k in range(8)]
    source.missing = dict.fromkeys(places[:7], "answered 500")
    feed.refresh(places, midnight)
    assert [data["what"] for data in journal.named("degraded")] == ["forecast of P0, P1, P2, P3, P4, ..."]


def test_what_did_not_work_although_there_was_an_answer_is_noted_once(kept, journal, midnight):
    kept.faults = [Fault("archive", "it is locked"), Fault("forecast from x", "answered 500")]
    feed = feed_of(kept, journal)
    for hour in range(3):
        feed.refresh(["DE"], midnight + hour * HOUR)
    assert [(data["what"], data["why"]) for data in journal.named("degraded")] == kept.faults


# -- what corrections are learned from ---------------------------------------------------------------------


def test_past_forecasts_are_looked_up_once_and_those_to_come_join_them(kept, journal, midnight):
    kept.past = [
        Forecast(table(midnight - 6 * k * HOUR, DE=[k] * 24), midnight - 6 * k * HOUR) for k in (3, 2, 1)
    ]
    feed = feed_of(kept, journal)
    for hour in range(25):
        feed.refresh(["DE"], midnight + hour * HOUR)
    looked_up = [asked for asked in kept.asked if isinstance(asked, tuple)]
    assert looked_up == [(("DE",), midnight - 28 * DAY, midnight, 6 * HOUR)]
    begins = [past.start for past in feed.known.past_forecasts]
    assert begins == [midnight + 6 * k * HOUR for k in range(-3, 5)]
    feed.refresh(["DE", "FR"], midnight + 25 * HOUR)
    assert kept.asked[-1][0] == ("FR",)
    feed.refresh(["DE", "FR"], midnight + 27 * DAY + 20 * HOUR)
    assert feed.known.past_forecasts[0].start >= midnight - 6 * HOUR


def test_past_forecasts_of_another_signal_are_left_out(kept, journal, midnight):
    kept.past = [
        Forecast(
            replace(table(midnight - DAY, DE=[1.0]), provenance=Provenance("s", "marginal")), midnight - DAY
        )
    ]
    feed = feed_of(kept, journal)
    feed.refresh(["DE"], midnight)
    assert [past.signal for past in feed.known.past_forecasts] == ["unknown"]


def test_past_forecasts_that_cannot_be_had_stop_nothing(kept, journal, midnight):
    kept.past = None
    feed = feed_of(kept, journal)
    assert feed.refresh(["DE"], midnight)
    assert [data["what"] for data in journal.named("degraded")] == ["past forecasts"]


# -- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spare_s", "limits_s"),
    [(None, []), (3600, [1800, 1800]), (10, [5, 5]), (2, [1, 1]), (1.9, None), (0, [2]), (-7, [2])],
)
def test_a_look_up_gets_half_of_what_can_be_spared(kept, journal, midnight, spare_s, limits_s):
    spare = None if spare_s is None else timedelta(seconds=spare_s)
    feed = feed_of(kept, journal)
    assert feed.refresh(["DE"], midnight, spare) == (limits_s is not None)
    assert kept.limits == [timedelta(seconds=s) for s in limits_s or []]
    assert (feed.actual is not None) == (spare_s is None or spare_s >= 2)


def test_where_nothing_can_be_spared_a_source_that_failed_is_left_alone(kept, journal, midnight):
    feed = feed_of(kept, journal)
    kept.error = OSError("refused")
    for hour in range(5):
        feed.refresh(["DE"], midnight + hour * HOUR, timedelta(0))
    assert kept.limits == [timedelta(seconds=2)]


# -- Steps off the whole minute ----------------------------------------------------------------------------


def test_steps_off_the_whole_minute_are_taken_as_they_are(midnight):
    """A request that begins within a step makes a short one, and two sources may be seconds apart."""
    edges = to_us(midnight) + np.array([0, 23, 37, 3637, 3661, 7237, 10837]) * 1_000_000
    values = np.array([[100.0, 200.0, 900.0, 50.0, 400.0, 10.0]]).T
    fine = IntensityTable(edges, ("DE",), values, Provenance("fine", "average"))
    believed = sanitize(fine)
    np.testing.assert_array_equal(believed.edges_us, edges)
    windows = np.arange(edges[0], edges[-1], 7_300_000)
    pairs = windows[:-1], windows[1:]
    np.testing.assert_array_equal(believed.integrate(*pairs), fine.integrate(*pairs))


def test_a_great_many_short_steps_keep_the_integral_of_each_minute(midnight):
    seconds = np.arange(60_001) + 30
    values = np.random.default_rng(7).uniform(0, 1000, (60_000, 2))
    edges = to_us(midnight) + seconds * 1_000_000
    fine = IntensityTable(edges, ("DE", "FR"), values, Provenance("", "average"))
    believed = sanitize(fine)
    assert (believed.start, believed.end) == (fine.start, fine.end)
    assert len(believed.values) < 1_100
    edges = believed.edges_us
    np.testing.assert_allclose(
        believed.integrate(edges[:-1], edges[1:]), fine.integrate(edges[:-1], edges[1:]), rtol=1e-9
    )


# -- what is kept small ------------------------------------------------------------------------------------


class Listener(Source):
    """A source that notes which locations it is asked for, and whose actuals end an hour ago."""

    def __init__(self):
        super().__init__()
        self.forecast_of, self.actual_of = [], []

    def forecast(self, locations, now, *, timeout=None):
        self.forecast_of.append(tuple(locations))
        return super().forecast(locations, now, timeout=timeout)

    def actual(self, locations, start, end, *, timeout=None):
        self.actual_of.append(tuple(locations))
        hours = int((end - start) / HOUR)
        return table(start, **dict.fromkeys(locations, [self.value] * max(hours - 1, 1)))


def test_a_place_that_nobody_is_at_is_asked_for_no_more(journal, midnight):
    source = Listener()
    feed = feed_of(source, journal)
    feed.refresh(["DE", "FR"], midnight)
    for hour in range(1, 4):
        feed.refresh(["DE"], midnight + hour * HOUR)
        feed.learn_actual(midnight - HOUR, midnight + hour * HOUR)
    assert source.forecast_of == [("DE", "FR"), ("DE",), ("DE",), ("DE",)]
    # What FR emitted until its nodes had left is still wanted, until it is known.
    assert source.actual_of[1:] == [("DE", "FR"), ("DE", "FR"), ("DE",)]
    assert [list(event.intensity.locations) for event in journal if event.name == "forecast"] == [
        ["DE", "FR"], ["DE"], ["DE"], ["DE"],
    ]  # fmt: skip


def test_a_place_that_was_left_and_never_has_actuals_is_forgotten(journal, midnight):
    source = Listener()
    source.actual = lambda locations, start, end, timeout=None: table(start, DE=[1.0])
    feed = feed_of(source, journal)
    feed.refresh(["DE", "FR"], midnight)
    feed.refresh(["DE"], midnight + HOUR)
    feed.refresh(["DE"], midnight + 30 * HOUR)
    feed.learn_actual(midnight, midnight + 30 * HOUR)
    assert "FR" in feed.memory()["left"]
    feed.learn_actual(midnight, midnight + 38 * HOUR)
    assert feed.memory()["left"] == {}
    feed.refresh(["DE"], midnight + 38 * HOUR)
    assert feed.forecast.locations == ("DE",)
    assert not [event for event in journal if event.name == "degraded"]


def test_a_place_that_returns_is_not_asked_for_out_of_turn(feed, source, midnight):
    for minute, places in enumerate((["DE", "FR"], ["DE"], ["DE", "FR"], ["DE"], ["DE", "FR"])):
        feed.refresh(places, midnight + minute * MINUTE)
    assert source.asked == [midnight]


def test_a_run_plans_on_the_numbers_that_its_ledger_has(journal, midnight):
    places, forecast = Synthetic().locations[:20], Synthetic().forecast
    feed = feed_of(Synthetic(), journal)
    feed.refresh(places, midnight)
    (event,) = [event for event in journal if event.name == "forecast"]
    stored = IntensityTable.from_record(json.loads(to_json(event.to_record())))
    np.testing.assert_array_equal(stored.values, feed.forecast.values)
    np.testing.assert_array_equal(stored.edges_us, feed.forecast.edges_us)
    told = forecast(places, midnight).intensity.values
    np.testing.assert_allclose(stored.values, told, rtol=0, atol=told.mean(axis=0).max() / 1000)
    assert (
        np.abs(stored.values - told).max(axis=0) <= 0.0501 * np.maximum(told.mean(axis=0) / 10, 0.1)
    ).all()
    assert len(to_json(event.to_record())) < 2500
