from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from lowcarb_scheduler.clock import HOUR_US, VirtualClock, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource
from lowcarb_scheduler.intensity import IntensityTable, Provenance
from support.cli_files import NOW, opener, run, write_job

HOURS = [HOUR_US * h + to_us(NOW) for h in range(48)]


class Half(ForecastSource):
    """A source that knows every place but Mars, and nothing of the past."""

    def forecast(self, locations, now, *, timeout=None):
        known = {name: (HOURS, [100.0 + h % 24 for h in range(48)]) for name in locations if name != "Mars"}
        missing = {"Mars": "the server answered 404\nNot Found"} if "Mars" in locations else {}
        if not known:
            raise ForecastUnavailableError(missing)
        last_good = {"FR": "the server\nhangs"} if "FR" in known else {}
        table = IntensityTable.from_points(known, Provenance("half", "marginal"))
        return Forecast(table, NOW, missing, last_good=last_good)

    def actual(self, locations, start, end, *, timeout=None):
        raise ForecastUnavailableError(dict.fromkeys(locations, "nothing is recorded"))


class Whole(Half):
    """A source that also knows the past: always 50 more than the forecast says."""

    def __init__(self, clock):
        self.clock, self.limits = clock, []

    def forecast(self, locations, now, *, timeout=None):
        self.limits.append(timeout)
        return super().forecast(locations, now)

    def past_forecasts(self, locations, start, end, every, *, timeout=None):
        self.limits.append(timeout)
        return []

    def actual(self, locations, start, end, *, timeout=None):
        self.limits.append(timeout)
        first = to_us(start) // HOUR_US
        hours = [HOUR_US * h for h in range(first, to_us(end) // HOUR_US + 1)]
        values = [150.0 + (us // HOUR_US) % 24 for us in hours]
        return IntensityTable.from_points(
            dict.fromkeys(locations, (hours, values)), Provenance("whole", "marginal")
        )


class Ended(VirtualClock):
    """A clock whose user presses Ctrl-C in the third sleep."""

    def __init__(self, start):
        super().__init__(start)
        self.woken = []

    def sleep_until(self, when):
        if len(self.woken) == 2:
            raise KeyboardInterrupt
        super().sleep_until(when)
        self.woken.append(when)

    def jump(self, span):
        super().sleep_until(self.now() + span)


@pytest.fixture
def clock():
    return Ended(NOW + timedelta(minutes=90))


@pytest.fixture
def sources(clock):
    """Sources by name that ``forecast`` can open, besides our own."""
    return {"half": Half(), "whole": Whole(clock)}


@pytest.fixture
def forecast(capsys, clock, sources):
    """Run ``lowcarb forecast``."""

    def run_forecast(*arguments):
        return run(capsys, "forecast", *arguments, clock=clock, open_source=opener(sources))

    return run_forecast


def test_the_document_has_the_keys_of_the_contract(forecast):
    answer = forecast("--location", "DE", "--source", "half", "--json")
    document = answer.document
    assert answer.code == 0
    assert set(document) == {
        "schema_version", "source", "signal", "synthetic", "generated_at", "locations", "missing",
    }  # fmt: skip
    assert (document["source"], document["signal"], document["synthetic"]) == ("half", "marginal", False)
    assert document["generated_at"] == "2026-03-02T00:00:00Z"
    assert document["locations"]["DE"][1] == {"time": "2026-03-02T01:00:00Z", "g_per_kwh": 101.0}
    assert len(document["locations"]["DE"]) == 48
    assert document["missing"] == {}


def test_people_read_a_row_a_location(forecast):
    answer = forecast("--location", "DE", "--location", "ES", "--source", "half")
    assert answer.code == 0
    *_, de, es, after = answer.out.splitlines()
    assert after == "next: lowcarb plan --job JOB --source half"
    name, now, least, *when = de.split()
    assert (name, now, least) == ("DE", "101", "100")
    assert when[:5] == ["Tue", "00:00", "123", "Mon", "23:00"]
    assert when[-2:] == ["Wed", "00:00"]
    assert es.split()[0] == "ES"


def test_a_missing_location_is_named_and_the_others_are_shown(forecast):
    arguments = ["--location", "DE", "--location", "Mars", "--source", "half"]
    answer = forecast(*arguments)
    assert answer.code == 1
    assert answer.out.splitlines()[-1].startswith("DE")
    assert answer.line == "lowcarb: no forecast for Mars: the server answered 404 Not Found"
    document = forecast(*arguments, "--json").document
    assert list(document["locations"]) == ["DE"]
    assert document["missing"] == {"Mars": "the server answered 404 Not Found"}


def test_no_location_at_all_is_exit_1(forecast):
    answer = forecast("--location", "Mars", "--source", "half", "--json")
    assert answer.code == 1
    assert answer.document["error"]["kind"] == "forecast_unavailable"
    assert answer.document["error"]["missing"] == {"Mars": "the server answered 404 Not Found"}


def test_a_location_named_twice_is_one(forecast):
    twice = ["--location", "DE", "--location", "DE", "--source", "half", "--json"]
    assert list(forecast(*twice).document["locations"]) == ["DE"]


def test_equal_input_gives_equal_bytes(forecast):
    arguments = ["--location", "DE", "--source", "synthetic", "--json"]
    assert forecast(*arguments).out == forecast(*arguments).out


def test_a_forecast_is_drawn(forecast, tmp_path):
    file = tmp_path / "forecast.svg"
    assert forecast("--location", "DE", "--source", "half", "--plot", file).code == 0
    assert "<svg" in file.read_text(encoding="utf-8")


def test_the_synthetic_source_says_that_it_is(forecast):
    assert "Synthetic (made-up)" in forecast("--location", "DE", "--source", "synthetic").out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--source: no forecast source is named"),
        (["--source", "oracle"], "'oracle' is unknown"),
        (["--source", "carbon-aware-sdk"], "give --carbon-aware-sdk-url"),
        (["--source", "traces"], "give --traces"),
        (["--source", "traces", "--traces", "none.csv"], "none.csv"),
        (["--source", "synthetic", "--sdk-signal", "loud"], "--sdk-signal: 'loud'"),
        (["--source", "half", "--duration", "long"], "--duration: 'long' is not a duration"),
        (
            ["--source", "half", "--until", "2026-03-03T00:00"],
            "--until: 2026-03-03T00:00:00 has no UTC offset",
        ),
        (["--source", "half", "--until", "2026-03-02T00:00Z"], "--until: is past"),
        (["--source", "half", "--until", "999999999d"], "--until: is more than a year ahead"),
        (["--source", "half", "--until", "9999-12-31T00:00Z"], "--until: is more than a year ahead"),
        (
            ["--source", "half", "--watch", "--every", "999999999d"],
            "--every: '999999999d' is more than a day",
        ),
        (["--source", "half", "--every", "1h"], "--every: is given without --watch"),
        (["--source", "half", "--watch", "--every", "0m"], "--every: '0m' is not positive"),
        (["--source", "synthetic"], "location: 'Mars' is unknown"),
    ],
)
def test_bad_input_is_exit_2(forecast, arguments, part):
    answer = forecast("--location", "Mars", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert part in answer.line


def test_watch_and_json_do_not_go_together(forecast):
    answer = forecast("--location", "DE", "--source", "half", "--watch", "--json")
    assert answer.code == 2
    assert "--watch" in answer.document["error"]["message"]


def test_settings_come_from_the_environment_too(forecast, monkeypatch):
    monkeypatch.setenv("LOWCARB_SOURCE", "half")
    assert forecast("--location", "DE").code == 0
    assert "synthetic" in forecast("--location", "DE", "--source", "synthetic").out


def test_a_last_good_forecast_says_so_and_how_old_it_is(forecast):
    answer = forecast("--location", "DE", "--location", "FR", "--source", "half")
    assert answer.code == 0
    *_, de, fr, _ = answer.out.splitlines()
    assert de.endswith("forecast")
    assert fr.endswith("last good, 1 h 30 min old")
    assert answer.line == "lowcarb: the forecast for FR is the last good one: the server hangs"
    document = forecast("--location", "FR", "--source", "half", "--json").document
    assert document["last_good"] == {
        "FR": {"generated_at": "2026-03-02T00:00:00Z", "why": "the server hangs"}
    }


# -- the cleanest window -----------------------------------------------------------------------------------


def test_the_cleanest_window_is_told_with_what_it_saves(forecast):
    arguments = ["--location", "DE", "--source", "half", "--duration", "90m"]
    answer = forecast(*arguments)
    assert answer.code == 0
    *_, title, _, row, _ = answer.out.splitlines()
    assert title == "Cleanest 1 h 30 min"
    assert row.split() == ["DE", "Tue", "00:00", "Tue", "01:30", "100", "102", "1.3", "%"]
    best = forecast(*arguments, "--json").document["best"]["DE"]
    assert (best["start"], best["end"]) == ("2026-03-03T00:00:00Z", "2026-03-03T01:30:00Z")
    assert best["g_per_kwh"] == pytest.approx(100 + 1 / 3)
    assert best["now_g_per_kwh"] == pytest.approx(101 + 2 / 3)
    assert best["saving"] == pytest.approx(1 - best["g_per_kwh"] / best["now_g_per_kwh"])


def test_a_window_is_over_by_the_end_that_is_asked_for(forecast):
    arguments = ["--location", "DE", "--source", "half", "--duration", "1h", "--json", "--until"]
    for until in ("12h", "2026-03-02T14:30+01:00"):
        best = forecast(*arguments, until).document["best"]["DE"]
        assert best["start"] == "2026-03-02T01:30:00Z"
        assert best["saving"] == 0


def test_no_window_is_an_answer_and_exit_1(forecast):
    arguments = ["--location", "DE", "--location", "Mars", "--source", "half", "--duration", "3d"]
    answer = forecast(*arguments)
    assert answer.code == 1
    assert answer.err.splitlines()[-1] == "lowcarb: no gap-free window of 3 d for DE"
    assert forecast(*arguments, "--json").document["best"] == {"DE": None, "Mars": None}


# -- corrected ---------------------------------------------------------------------------------------------


def test_what_happened_corrects_and_extends_it(forecast):
    arguments = ["--location", "DE", "--source", "whole", "--corrected", "--until", "3d"]
    document = forecast(*arguments, "--json").document
    points = document["locations"]["DE"]
    assert points[0]["time"] == "2026-03-02T01:30:00Z"
    assert {point["origin"] for point in points} == {"corrected", "climatology"}
    assert 101 < points[0]["g_per_kwh"] <= 151
    late = [point for point in points if point["origin"] == "climatology"]
    assert late[0]["time"] == "2026-03-04T00:00:00Z"
    assert all(149.9 < point["g_per_kwh"] < 173.1 for point in late)
    shown = forecast(*arguments).out
    assert "corrected 46 h, climatology 26 h" in shown


def test_without_history_it_is_the_forecast_and_says_so(forecast):
    arguments = ["--location", "DE", "--source", "half", "--corrected"]
    answer = forecast(*arguments)
    assert answer.code == 0
    assert answer.line.startswith("lowcarb: not corrected, because there is no history: ")
    document = forecast(*arguments, "--json").document
    assert {(point["g_per_kwh"], point["origin"]) for point in document["locations"]["DE"]} == {
        (100.0 + h, "forecast") for h in range(24)
    }


def test_history_stands_in_for_a_place_without_forecast_and_it_is_still_exit_1(forecast):
    places = ["--location", "Mars", "--location", "DE"]
    answer = forecast(*places, "--source", "whole", "--corrected", "--json")
    assert answer.code == 1
    assert list(answer.document["locations"]) == ["Mars", "DE"]
    assert {point["origin"] for point in answer.document["locations"]["Mars"]} == {"climatology"}
    assert list(answer.document["missing"]) == ["Mars"]


class Slow(Whole):
    """A source that takes all the time that each call has."""

    def forecast(self, locations, now, *, timeout=None):
        self.clock.jump(timeout)
        return super().forecast(locations, now, timeout=timeout)

    def past_forecasts(self, locations, start, end, every, *, timeout=None):
        self.clock.jump(timeout)
        return super().past_forecasts(locations, start, end, every, timeout=timeout)

    def actual(self, locations, start, end, *, timeout=None):
        self.clock.jump(timeout)
        return super().actual(locations, start, end, timeout=timeout)


def test_all_of_it_takes_no_longer_than_the_time_limit(forecast, monkeypatch, sources, clock):
    slow, began = Slow(clock), clock.now()
    sources["slow"] = slow
    monkeypatch.setenv("LOWCARB_TIMEOUT", "30s")
    answer = forecast("--location", "DE", "--source", "slow", "--corrected")
    assert (answer.code, answer.err) == (0, "")
    assert [limit.total_seconds() for limit in slow.limits] == [27, 2, 1]
    assert clock.now() - began == timedelta(seconds=30)


def test_a_plan_waits_for_its_source_no_longer_either(capsys, tmp_path, sources, clock):
    sources["slow"] = slow = Slow(clock)
    files = ["--job", write_job(tmp_path), "--source", "slow"]
    assert run(capsys, "plan", *files, clock=clock, open_source=opener(sources)).code == 0
    assert [limit.total_seconds() for limit in slow.limits] == [27, 2, 1]


class Unlimited(Whole):
    """A source of somebody's own that knows no time limit."""

    def forecast(self, locations, now):
        self.clock.jump(timedelta(seconds=31))
        return super().forecast(locations, now)


def test_a_source_that_cannot_be_limited_may_leave_no_time_for_history(forecast, sources, clock):
    sources["unlimited"] = Unlimited(clock)
    answer = forecast("--location", "DE", "--source", "unlimited", "--corrected")
    assert answer.code == 0
    assert "used up the time limit" in answer.line


class Keeping(Whole):
    """A source that notes which past forecasts it is asked for."""

    def past_forecasts(self, locations, start, end, every, *, timeout=None):
        self.asked = locations, end - start, every
        return []


def test_past_issues_are_asked_for_where_a_source_keeps_them(forecast, sources, clock):
    sources["keeping"] = keeping = Keeping(clock)
    assert forecast("--location", "DE", "--source", "keeping", "--corrected").code == 0
    assert keeping.asked == (("DE",), timedelta(days=28), timedelta(hours=6))


# -- again and again ---------------------------------------------------------------------------------------


def test_watch_prints_a_table_every_so_often_until_ctrl_c(forecast, clock):
    start = clock.now()
    arguments = ["--location", "DE", "--source", "half", "--watch"]
    answer = forecast(*arguments)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.count("generated") == 3
    for minute in ("01:30", "01:35", "01:40"):
        assert f"updated at 2026-03-02 {minute} UTC, every 5 min" in answer.out
    assert clock.woken == [start + timedelta(minutes=5), start + timedelta(minutes=10)]


class Failing(Half):
    """A source that fails at the second call."""

    calls = 0

    def forecast(self, locations, now, *, timeout=None):
        self.calls += 1
        if self.calls == 2:
            raise ForecastUnavailableError({"DE": "it\nhangs"})
        return super().forecast(locations, now)


def test_watch_goes_on_when_a_source_fails(forecast, sources):
    sources["failing"] = Failing()
    answer = forecast("--location", "DE", "--source", "failing", "--watch", "--every", "1h")
    assert answer.code == 0
    pages = answer.out.strip().split("\n\n")
    assert ["this attempt failed" in page for page in pages] == [False, True, False]
    assert all("DE" in page for page in pages)
    assert "no forecast for 1 location(s): DE: it hangs" in pages[1]


def test_watch_ends_where_there_is_nothing_to_show_at_first(forecast):
    answer = forecast("--location", "Mars", "--source", "half", "--watch")
    assert (answer.code, answer.out) == (1, "")


def test_watch_says_what_is_missing_on_each_page(forecast):
    places = ["--location", "DE", "--location", "Mars"]
    answer = forecast(*places, "--source", "half", "--watch")
    assert answer.out.count("no forecast for Mars: the server answered 404 Not Found") == 3


# -- several names in one ----------------------------------------------------------------------------------


def test_names_with_a_comma_between_are_told_apart(forecast):
    answer = forecast("--location", "DE, FR", "--source", "synthetic")
    assert answer.code == 2
    assert answer.line.endswith("repeat the option: --location DE --location FR")


class Apart(Half):
    """A source that knows no name with a comma."""

    def forecast(self, locations, now, *, timeout=None):
        found = super().forecast([name for name in locations if "," not in name] or ["Mars"], now)
        return replace(found, missing={name: "not found" for name in locations if "," in name})


def test_a_source_may_know_a_name_with_a_comma(forecast, sources):
    assert forecast("--location", "DE,FR", "--source", "half").code == 0
    sources["apart"] = Apart()
    answer = forecast("--location", "DE", "--location", "DE,FR", "--source", "apart")
    assert answer.code == 1
    assert answer.line.endswith("not found; to name several, repeat the option: --location DE --location FR")
