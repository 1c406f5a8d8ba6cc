"""The outlook: what is believed of a source, how often it is asked, and what remains when it fails."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler.flower.outlook import Outlook, without_preference
from lowcarb_scheduler.forecasts.source import Forecast
from lowcarb_scheduler.intensity import IntensityTable

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


class Journal(list):
    def append(self, event, **data):
        super().append((event, data))

    def named(self, name):
        return [data for event, data in self if event == name]


def table(start, **columns):
    length = max(len(values) for values in columns.values())
    index = pd.date_range(start, periods=length, freq="h")
    return IntensityTable.from_frame(pd.DataFrame(columns, index=index, dtype=float), source="s")


class Source:
    """A source whose answers a test can change."""

    def __init__(self, value=100.0):
        self.value, self.asked, self.error = value, [], None
        self.age, self.missing = timedelta(0), {}

    def forecast(self, locations, now):
        self.asked.append(now)
        if self.error:
            raise self.error
        known = {name: [self.value] * 48 for name in locations if name not in self.missing}
        return Forecast(table(now, **known), now - self.age, self.missing)

    def actual(self, locations, start, end):
        if self.error:
            raise self.error
        return table(start, **dict.fromkeys(locations, [self.value] * 2))


@pytest.fixture
def source():
    return Source()


@pytest.fixture
def journal():
    return Journal()


@pytest.fixture
def outlook(source, journal):
    return Outlook(source, journal)


def test_a_source_is_asked_every_quarter_of_an_hour(outlook, source, midnight):
    for minute in range(0, 61):
        outlook.refresh(["DE"], midnight + minute * MINUTE)
    assert len(source.asked) == 5


def test_a_failing_source_is_asked_ever_more_rarely_and_noted_once(outlook, source, journal, midnight):
    source.error = OSError("refused")
    for minute in range(0, 24 * 60):
        assert not outlook.refresh(["DE"], midnight + minute * MINUTE)
    assert len(source.asked) <= 15
    whats = [data["what"] for data in journal.named("degraded")]
    assert whats == ["actual intensity", "forecast"]


def test_it_recovers(outlook, source, midnight):
    source.error = OSError("refused")
    outlook.refresh(["DE"], midnight)
    source.error = None
    assert outlook.refresh(["DE"], midnight + HOUR)
    assert outlook.forecast is not None


def test_the_last_good_forecast_is_used_for_36_hours(outlook, source, midnight):
    outlook.refresh(["DE"], midnight)
    source.error = OSError("refused")
    outlook.refresh(["DE"], midnight + 35 * HOUR)
    assert outlook.forecast is not None
    outlook.refresh(["DE"], midnight + 38 * HOUR)
    assert outlook.forecast is None


@pytest.mark.parametrize(("age", "good"), [(35 * HOUR, True), (37 * HOUR, False), (-5 * MINUTE, True),
                                           (-2 * HOUR, False)])  # fmt: skip
def test_a_forecast_of_an_implausible_age_is_refused(outlook, source, midnight, age, good):
    source.age = age
    assert outlook.refresh(["DE"], midnight) == good


@pytest.mark.parametrize("value", [-1.0, 3001.0, 1e300])
def test_no_hold_rests_on_an_implausible_number(outlook, source, midnight, value):
    source.value = value
    outlook.refresh(["DE"], midnight)
    assert np.isnan(outlook.forecast.values).all()


def test_a_place_that_goes_missing_keeps_its_last_good_forecast(outlook, source, journal, midnight):
    outlook.refresh(["DE", "FR"], midnight)
    source.missing, source.value = {"FR": "404"}, 50.0
    outlook.refresh(["DE", "FR"], midnight + HOUR)
    values = dict(zip(outlook.forecast.locations, outlook.forecast.sampled(
        np.array([0, 1]) + int((midnight + 2 * HOUR).timestamp() * 1e6))[0], strict=True))  # fmt: skip
    assert values == {"DE": 50.0, "FR": 100.0}
    assert journal.named("degraded")[0]["what"] == "forecast of FR"


def test_an_unchanged_issue_is_no_change(outlook, source, journal, midnight):
    assert outlook.refresh(["DE"], midnight)
    source.age = 15 * MINUTE
    assert not outlook.refresh(["DE"], midnight + 15 * MINUTE)
    assert len(journal.named("forecast")) == 1


def test_a_new_place_is_asked_for_at_once(outlook, source, midnight):
    outlook.refresh(["DE"], midnight)
    assert outlook.refresh(["DE", "FR"], midnight + MINUTE)
    assert set(outlook.forecast.locations) == {"DE", "FR"}


def test_once_closed_nothing_is_asked(outlook, source, midnight):
    outlook.close()
    assert not outlook.refresh(["DE"], midnight)
    assert source.asked == []


def test_a_place_without_preference_has_the_mean_of_the_others(midnight):
    known = table(midnight, DE=[100.0, 200.0], FR=[np.nan, 300.0])
    flat = without_preference(known, ["X", "Y"], midnight, midnight + HOUR)
    np.testing.assert_array_equal(flat.values, [[200.0, 200.0]])
    assert without_preference(None, ["X"], midnight, midnight + HOUR).values.tolist() == [[1.0]]
