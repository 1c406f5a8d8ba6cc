"""The synthetic source: plausible, repeatable, and honest about time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.clock import HOUR_US, to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.registry import open_source
from lowcarb_scheduler.forecasts.sources.synthetic import (
    HORIZON_HOURS,
    Synthetic,
    _regular,
    zones,
)
from lowcarb_scheduler.settings import Settings

NOW = datetime(2026, 3, 10, 14, 25, tzinfo=UTC)
HOUR = timedelta(hours=1)
ZONES = tuple(dict.fromkeys(zone.zone for zone in zones().values()))
PINNED = [[302.67, 3.3], [303.27, 3.04]]  # DE and SE from 2026-03-10T14:00Z on [g/kWh]


@pytest.fixture(scope="module")
def two_years():
    return Synthetic().actual(ZONES, datetime(2024, 1, 1, tzinfo=UTC), datetime(2026, 1, 10, tzinfo=UTC))


def test_a_forecast_starts_at_the_last_full_hour_and_reaches_four_days():
    forecast = Synthetic().forecast(["DE", "westeurope"], NOW)
    assert forecast.generated_at == NOW.replace(minute=0)
    assert forecast.intensity.start == NOW.replace(minute=0)
    assert forecast.intensity.end == NOW.replace(minute=0) + timedelta(hours=HORIZON_HOURS)
    assert forecast.intensity.step == HOUR
    assert forecast.intensity.locations == ("DE", "westeurope")
    assert forecast.missing == {}


def test_every_table_says_that_it_is_synthetic():
    source = Synthetic()
    for table in (source.forecast(["DE"], NOW).intensity, source.actual(["DE"], NOW - HOUR, NOW)):
        assert (table.signal, table.source, table.synthetic) == ("average", "synthetic", True)


def test_equal_seeds_give_equal_worlds_and_others_differ():
    first, again, other = (Synthetic(seed).forecast(["DE"], NOW).intensity.values for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_the_world_does_not_change_from_version_to_version():
    # Saved runs and printed figures rest on these numbers.
    table = Synthetic().actual(["DE", "SE"], NOW.replace(minute=0), NOW.replace(minute=0) + 2 * HOUR)
    assert table.values.tolist() == PINNED


def test_regions_are_on_the_grid_of_their_zone():
    pairs = [("westeurope", "NL"), ("uksouth", "GB"), ("francecentral", "FR"), ("eastus", "US-MIDA-PJM"),
             ("southcentralus", "US-TEX-ERCO"), ("brazilsouth", "BR-CS")]  # fmt: skip
    for region, zone in pairs:
        table = Synthetic().actual([region, zone], NOW, NOW + 24 * HOUR)
        assert np.array_equal(table.values[:, 0], table.values[:, 1])
    regions = [region for name in ZONES for region in zones()[name].azure_regions]
    assert set(Synthetic().locations) == {*ZONES, *regions}
    assert len(regions) == len(set(regions)) == 29
    assert len(ZONES) == 24


@settings(max_examples=30)
@given(
    days=st.integers(-5000, 25000),
    minutes=st.integers(1, 3000),
    zone=st.sampled_from(ZONES),
)
def test_an_hour_is_the_same_whatever_it_is_asked_with(days, minutes, zone):
    start = NOW + timedelta(days=days - 15000, minutes=minutes)
    end = start + timedelta(minutes=minutes)
    table = Synthetic().actual([zone], start, end)
    assert (table.start, table.end) == (start, end)
    wider = Synthetic().actual(["ZA", zone], start - 9 * HOUR, end + 9 * HOUR).slice(start, end)
    assert np.array_equal(wider.align([zone]).values, table.values)
    assert (table.values > 0).all()
    assert (table.values < 3000).all()


@settings(max_examples=30)
@given(late=st.integers(0, 3599))
def test_a_forecast_does_not_change_within_its_hour(late):
    hour = NOW.replace(minute=0)
    now = Synthetic().forecast(["FR"], hour + timedelta(seconds=late))
    assert np.array_equal(now.intensity.values, Synthetic().forecast(["FR"], hour).intensity.values)
    assert now.generated_at == hour


def test_levels_and_swings_are_those_of_the_figures(two_years):
    frame = two_years.to_frame()
    for name in ZONES:
        zone = zones()[name]
        series = frame[name]
        # Two years say the less of a mean the more its days differ.
        assert series.mean() == pytest.approx(zone.mean_g_per_kwh, rel=max(0.1, 0.3 * zone.daily_log_sd))
        profile = series[series.index.month.isin([6, 7, 8])].groupby(lambda time: time.hour).mean()
        swing = (profile.max() - profile.min()) / 2 / profile.mean()
        assert swing == pytest.approx(zone.summer_amp, rel=0.35, abs=0.04)
        if zone.summer_amp >= 0.2:
            off = abs(int(profile.idxmin()) - zone.summer_min_utc)
            assert min(off, 24 - off) <= 2, name


def test_errors_grow_by_lead_day_as_those_of_real_forecasts(two_years):
    errors = []
    for day in range(0, 720, 6):
        now = two_years.start + timedelta(days=day, hours=day * 7 % 24)
        foreseen = Synthetic().forecast(ZONES, now).intensity
        first = (to_us(now) - int(two_years.edges_us[0])) // HOUR_US
        errors.append(foreseen.values - two_years.values[first : first + HORIZON_HOURS])
    squared = (np.array(errors) ** 2).reshape(-1, 4, 24, len(ZONES)).mean(axis=(0, 2))
    by_day = (np.sqrt(squared) / two_years.values.mean(axis=0)).mean(axis=1)
    assert by_day == pytest.approx([0.18, 0.24, 0.26, 0.27], abs=0.02)


def test_a_newer_issue_is_better_and_errors_run_over_issues_and_hours(two_years):
    old_error, new_error = [], []
    for day in range(0, 700, 2):
        target = two_years.start + timedelta(days=day + 3)
        actual = Synthetic().actual(["DE"], target, target + 6 * HOUR).values
        for errors, lead in ((old_error, 36), (new_error, 12)):
            table = Synthetic().forecast(["DE"], target - lead * HOUR).intensity
            errors.append((table.values[lead : lead + 6] - actual)[:, 0])
    old, new = np.array(old_error), np.array(new_error)
    assert np.sqrt((new**2).mean()) < 0.85 * np.sqrt((old**2).mean())
    assert np.corrcoef(old.ravel(), new.ravel())[0, 1] > 0.5
    assert np.corrcoef(old[:, 0], old[:, 5])[0, 1] > 0.7


@pytest.mark.parametrize("lead", [6, 24, 72])
def test_a_forecast_is_the_expectation_whatever_the_weather_is_now(lead):
    # If dirty days were followed by less than is forecast, or by more, a planner could bet on it.
    weather, surprise = [], []
    for day in range(0, 6000, 5):
        now = NOW.replace(minute=0) + timedelta(days=day)
        before = Synthetic().actual(["DE"], now - HOUR, now).values[0, 0]
        weather.append(before / _regular(zones()["DE"], np.array([to_us(now) // HOUR_US - 1]))[0])
        foreseen = Synthetic().forecast(["DE"], now).intensity.values[lead, 0]
        happened = Synthetic().actual(["DE"], now + lead * HOUR, now + (lead + 1) * HOUR).values[0, 0]
        surprise.append(happened / foreseen - 1)
    assert abs(np.mean(surprise)) < 0.03
    assert abs(np.corrcoef(weather, surprise)[0, 1]) < 0.15  # not 0: lines between knots have momentum


def test_an_unknown_location_is_bad_input_and_the_near_one_is_named():
    with pytest.raises(
        InputError, match=r"location: 'westeurop' is unknown; did you mean westeurope\?"
    ) as error:
        Synthetic().forecast(["DE", "westeurop"], NOW)
    assert error.value.field == "location"
    assert "there are" not in str(error.value)
    with pytest.raises(InputError, match="'de' is unknown; did you mean DE"):
        Synthetic().forecast(["de"], NOW)
    with pytest.raises(InputError, match="'@@@' is unknown; there are AU-NSW, AU-VIC, "):
        Synthetic().actual(["@@@"], NOW, NOW + HOUR)
    with pytest.raises(InputError) as error:
        Synthetic().forecast(["<b>\n" * 9999], NOW)
    assert "\n" not in str(error.value)


def test_bad_times_and_lists_are_bad_input():
    source = Synthetic()
    with pytest.raises(InputError, match="no UTC offset"):
        source.forecast(["DE"], NOW.replace(tzinfo=None))
    with pytest.raises(InputError, match=r"end: .* is not after the start"):
        source.actual(["DE"], NOW, NOW)
    with pytest.raises(InputError, match="no location was asked for"):
        source.forecast([], NOW)
    with pytest.raises(InputError, match="is not a list of names"):
        source.forecast("DE", NOW)
    assert source.forecast(["DE", "DE"], NOW).intensity.locations == ("DE",)


def test_a_source_is_opened_by_name():
    source = open_source("synthetic", Settings.load())
    expected = Synthetic().forecast(["DE"], NOW).intensity.values
    assert np.array_equal(source.forecast(["DE"], NOW).intensity.values, expected)
    with pytest.raises(InputError, match=r"source: 'syntetic' is unknown; did you mean synthetic\?"):
        open_source("syntetic", Settings.load())
