"""A source with a memory: what it asks for, what it serves from disk, and what remains when either fails."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pytest

from lowcarb_scheduler.clock import VirtualClock, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.archive.cached_source import CachedSource
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed
from support.forecast_sources import DAY, HOUR, MINUTE, NOW, Web

PLACES = ["DE", "FR"]


@pytest.fixture
def clock():
    return VirtualClock(NOW)


@pytest.fixture
def web(clock):
    return Web(clock=clock)


@pytest.fixture
def archive(tmp_path, clock):
    return Archive(tmp_path / "kept", clock=clock)


@pytest.fixture
def source(web, archive, clock):
    return CachedSource(web, archive, clock)


def values(forecast):
    """Return each place's first value after the forecast was made."""
    return {place: forecast.intensity.values[0, k] for k, place in enumerate(forecast.intensity.locations)}


# -- forecasts ---------------------------------------------------------------------------------------------


def test_until_the_next_issue_a_forecast_comes_from_the_archive(source, web):
    first = source.forecast(PLACES, NOW)
    for minute in (0, 15, 59):
        again = source.forecast(PLACES, NOW + minute * MINUTE)
        np.testing.assert_array_equal(again.intensity.values, first.intensity.values)
        assert (again.generated_at, again.last_good, again.missing) == (NOW, {}, {})
    assert web.kinds == ["forecast"]
    web.value = 200.0
    assert values(source.forecast(PLACES, NOW + HOUR)) == {"DE": 200.0, "FR": 200.0}


def test_another_process_finds_it_too(source, web, archive, clock):
    source.forecast(PLACES, NOW)
    other = Web(value=7.0)
    assert values(CachedSource(other, archive, clock).forecast(PLACES, NOW)) == {"DE": 100.0, "FR": 100.0}
    assert other.asked == []
    elsewhere = Web(value=7.0)
    elsewhere.server = "http://elsewhere"
    assert values(CachedSource(elsewhere, archive, clock).forecast(PLACES, NOW)) == {"DE": 7.0, "FR": 7.0}


def test_only_the_places_that_lack_it_are_asked_for(source, web):
    source.forecast(["FR"], NOW)
    web.value = 50.0
    known = source.forecast(["DE", "FR", "GB"], NOW + 5 * MINUTE)
    assert web.asked[-1] == ("forecast", ["DE", "GB"])
    assert known.intensity.locations == ("DE", "FR", "GB")
    assert values(known.__class__(known.intensity.slice(NOW + 5 * MINUTE, NOW + DAY), NOW)) == {
        "DE": 50.0, "FR": 100.0, "GB": 50.0,
    }  # fmt: skip
    assert known.generated_at == NOW
    assert known.issued_at("GB") == NOW + 5 * MINUTE


@pytest.mark.parametrize(("hours", "stands_in"), [(1, True), (23, True), (24, False), (37, False)])
def test_when_it_fails_the_last_good_forecast_stands_in_while_it_lasts(source, web, hours, stands_in):
    source.forecast(PLACES, NOW)  # it reaches a day
    web.down = "answered 503"
    later = NOW + hours * HOUR
    if not stands_in:
        with pytest.raises(ForecastUnavailableError, match="answered 503"):
            source.forecast(PLACES, later)
        return
    known = source.forecast(PLACES, later)
    assert known.last_good == {"DE": "answered 503", "FR": "answered 503"}
    assert (known.generated_at, known.missing) == (NOW, {})


def test_no_last_good_forecast_is_older_than_36_hours(source, web, archive):
    feed = Feed("web", "average", "http://server")
    for age in (36, 37):
        made = web.forecast(["DE" if age == 36 else "FR"], NOW - age * HOUR)
        archive.put(feed, type(made)(web._table(made.intensity.locations, NOW - 37 * HOUR, NOW + DAY),  # noqa: SLF001
                                     NOW - age * HOUR))  # fmt: skip
    web.down = "answered 503"
    known = source.forecast(PLACES, NOW)
    assert known.intensity.locations == ("DE",)
    assert known.missing == {"FR": "answered 503"}


def test_a_place_that_fails_gets_its_last_good_forecast_among_fresh_ones(source, web):
    source.forecast(PLACES, NOW)
    web.missing, web.value = {"FR": "answered 404"}, 30.0
    known = source.forecast([*PLACES, "GB"], NOW + 2 * HOUR)
    assert known.last_good == {"FR": "answered 404"}
    assert known.issued_at("FR") == known.generated_at == NOW
    assert known.issued_at("DE") == NOW + 2 * HOUR
    web.missing |= {"GB": "answered 500"}
    known = source.forecast([*PLACES, "GB", "ES"], NOW + 3 * HOUR)
    assert known.last_good == {"FR": "answered 404", "GB": "answered 500"}
    web.missing |= {"ES": "answered 500", "IT": "it is unknown"}
    assert source.forecast(["DE", "IT"], NOW + 4 * HOUR).missing == {"IT": "it is unknown"}


def test_a_place_about_which_nothing_is_said_is_missing(source, web):
    plain = web.forecast
    web.forecast = lambda locations, now, timeout=None: plain(["DE"], now)
    assert set(source.forecast(PLACES, NOW).missing) == {"FR"}


def test_an_issue_dated_ahead_is_used_as_it_came_but_is_never_seen_before_its_time(source, web, archive):
    web.issued_at = NOW + 5 * MINUTE
    assert source.forecast(["DE"], NOW).generated_at == NOW + 5 * MINUTE
    web.down = "answered 503"
    with pytest.raises(ForecastUnavailableError):
        source.forecast(["DE"], NOW)
    assert source.forecast(["DE"], NOW + 5 * MINUTE).generated_at == NOW + 5 * MINUTE


# -- actuals -----------------------------------------------------------------------------------------------


def test_of_actuals_only_the_last_two_hours_are_asked_for_again(source, web, clock):
    source.actual(PLACES, NOW - 28 * DAY, NOW)
    assert web.asked.pop() == ("actual", PLACES, NOW - 28 * DAY, NOW)
    clock.sleep_until(NOW + 90 * MINUTE)
    web.value = 50.0
    table = source.actual(PLACES, NOW - 28 * DAY, NOW + 90 * MINUTE)
    assert web.asked.pop() == ("actual", PLACES, NOW - HOUR, NOW + 90 * MINUTE)  # from a full hour
    assert (table.start, table.end) == (NOW - 28 * DAY, NOW + 90 * MINUTE)
    edges = to_us(NOW) + np.array([-24 * 3600, -7200, -3600, 3600, 5400]) * 10**6
    assert table.sampled(edges, ["DE"])[:, 0].tolist() == [100, 100, 50, 50]  # revised
    assert source.actual(PLACES, NOW - 5 * DAY, NOW - 3 * HOUR).step == HOUR
    assert web.asked == []  # all of that is settled


def test_actuals_that_were_missing_are_asked_for_again_but_not_at_once(source, web, clock):
    web.unknown_hours = {NOW - 10 * HOUR}
    source.actual(["DE"], NOW - DAY, NOW)
    source.actual(["DE"], NOW - DAY, NOW)
    assert [begin for _, _, begin, _ in web.asked] == [NOW - DAY, NOW - 2 * HOUR]
    clock.sleep_until(NOW + HOUR)
    web.unknown_hours = set()
    table = source.actual(["DE"], NOW - DAY, NOW + HOUR)
    assert web.asked[-1] == ("actual", ["DE"], NOW - 10 * HOUR, NOW + HOUR)
    assert not np.isnan(table.values).any()


def test_in_a_simulation_late_actuals_are_asked_for_although_no_real_time_passes(web, tmp_path):
    today = VirtualClock(NOW + 20 * DAY)
    source = CachedSource(web, Archive(tmp_path, clock=today), today)
    web.unknown_hours = {NOW - HOUR}
    source.actual(["DE"], NOW - DAY, NOW)
    web.unknown_hours = set()
    assert np.isnan(source.actual(["DE"], NOW - DAY, NOW + 15 * MINUTE).values).any()
    assert not np.isnan(source.actual(["DE"], NOW - DAY, NOW + HOUR).values).any()
    web.down = "answered 503"
    source.actual(["DE"], NOW - DAY, NOW + 2 * HOUR)
    web.down = None
    assert source.actual(["DE"], NOW - DAY, NOW + 3 * HOUR).end == NOW + 3 * HOUR


def test_actuals_that_cannot_be_kept_are_asked_for_whenever_they_are_needed(web, tmp_path):
    today = VirtualClock(NOW + 100 * DAY)  # what is that old is dropped at once
    source = CachedSource(web, Archive(tmp_path, clock=today), today)
    for _ in range(3):
        assert source.actual(["DE"], NOW - DAY, NOW).start == NOW - DAY


def test_a_new_place_is_asked_for_without_the_known_ones(source, web):
    source.actual(["DE"], NOW - DAY, NOW - 3 * HOUR)
    assert source.actual(PLACES, NOW - DAY, NOW - 3 * HOUR).locations == ("DE", "FR")
    assert web.asked[-1] == ("actual", ["FR"], NOW - DAY, NOW - 3 * HOUR)


def test_history_is_there_although_the_source_is_not(source, web, clock):
    source.actual(PLACES, NOW - 28 * DAY, NOW)
    web.down = "answered 503"
    clock.sleep_until(NOW + DAY)
    for _ in range(3):
        table = source.actual(PLACES, NOW - 28 * DAY, NOW + DAY)
        assert table.end == NOW
    assert len(web.asked) == 2  # it is left alone for a while
    assert [(fault.what, "answered 503" in fault.why) for fault in source.faults] == [
        ("actual intensity", True)
    ]
    web.down = None
    clock.sleep_until(NOW + DAY + 30 * MINUTE)
    assert source.actual(PLACES, NOW - 28 * DAY, clock.now()).end == clock.now()


def test_without_any_history_the_reason_is_told(source, web):
    web.down = "answered 503"
    for why in ("answered 503", "the last request failed a moment ago"):
        with pytest.raises(ForecastUnavailableError, match=why):
            source.actual(PLACES, NOW - DAY, NOW)


# -- past forecasts ----------------------------------------------------------------------------------------


def test_past_forecasts_are_those_that_were_seen(source):
    for hour in range(24):
        source.forecast(PLACES, NOW + hour * HOUR)
    past = source.past_forecasts(PLACES, NOW, NOW + 13 * HOUR, 6 * HOUR)
    assert [issue.generated_at for issue in past] == [NOW, NOW + 6 * HOUR, NOW + 12 * HOUR]
    assert past[1].intensity.start == NOW + 6 * HOUR


# -- faults of the archive, and time -----------------------------------------------------------------------


def test_a_broken_archive_costs_one_warning_and_no_answer(source, web, archive, clock):
    archive.path.parent.mkdir()
    archive.path.write_bytes(b"no database" * 100)
    for hour in range(10):
        known = source.forecast(PLACES, NOW + hour * HOUR)
        assert (known.generated_at, known.last_good) == (NOW + hour * HOUR, {})
        assert source.actual(PLACES, NOW - DAY, NOW).end == NOW
        assert source.past_forecasts(PLACES, NOW - DAY, NOW, HOUR) == []
        clock.sleep_until(NOW + hour * HOUR)
    assert [fault.what for fault in source.faults] == ["archive"]
    assert str(archive.path) in source.faults[0].why
    archive.path.unlink()  # and when it is whole again it is used again
    clock.sleep_until(NOW + DAY)
    source.forecast(PLACES, NOW + DAY)
    assert archive.holdings()


def test_a_broken_archive_is_left_alone_for_half_an_hour(web, tmp_path, clock):
    tried = []

    class Locked(Archive):
        def newest(self, *_):
            tried.append(clock.now())
            raise InputError("archive-dir", "it is locked", "wait")

    source = CachedSource(web, Locked(tmp_path / "kept", clock=clock), clock)
    for minute in range(60):
        clock.sleep_until(NOW + minute * MINUTE)
        source.forecast(PLACES, clock.now())
    assert tried == [NOW, NOW + 30 * MINUTE]


def test_an_archive_that_cannot_be_written_is_read(source, web, archive, monkeypatch):
    source.forecast(PLACES, NOW)
    monkeypatch.setattr(
        "pathlib.Path.mkdir", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "no"))
    )
    web.down = "answered 503"
    assert source.forecast(PLACES, NOW + 2 * HOUR).last_good
    web.down = None
    assert source.forecast(PLACES, NOW + 3 * HOUR).generated_at == NOW + 3 * HOUR
    assert [fault.what for fault in source.faults] == ["archive"]


def test_a_limit_is_handed_on_and_the_memory_shared(source, web, clock):
    source.forecast(PLACES, NOW)
    web.takes = 20 * timedelta(seconds=1)
    limit = timedelta(seconds=3)
    assert source.forecast(PLACES, NOW + HOUR, timeout=limit).last_good == {
        "DE": "no answer in time",
        "FR": "no answer in time",
    }
    assert clock.now() == NOW + timedelta(seconds=3)
    with pytest.raises(ForecastUnavailableError):
        source.actual(PLACES, NOW - DAY, NOW, timeout=limit)
    assert source.faults
