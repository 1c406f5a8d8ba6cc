"""The Carbon Aware SDK client: what it asks, and what it makes of the answers."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lowcarb_scheduler.clock import VirtualClock, format_time
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.registry import open_source
from lowcarb_scheduler.forecasts.sources.carbon_aware_sdk import CarbonAwareSdk
from lowcarb_scheduler.settings import Settings
from support.any_json import assert_data_or_reasons
from support.openapi_check import FOLDER, Document, examples

RESPONSES = FOLDER / "responses" / "carbon-aware-sdk"
NOW = datetime(2026, 3, 10, 14, 25, 30, 250_000, tzinfo=UTC)
GENERATED = datetime(2026, 3, 10, 14, 20, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
PROVIDER = "the server's own data provider"


DOCUMENT = Document("carbon-aware-sdk")


class Server:
    """Answers by location (``None`` for any); checks and keeps what it was asked."""

    def __init__(self, answers):
        self.answers = answers if isinstance(answers, dict) else {None: answers}
        self.requests = []

    def __call__(self, request):
        DOCUMENT.check_request(request)
        self.requests.append(request)
        location = request.url.params.get("location")
        answer = self.answers.get(location, self.answers.get(None))
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, httpx.Response):
            return answer
        return httpx.Response(200, content=answer if isinstance(answer, bytes) else json.dumps(answer))

    def sdk(self, url="http://sdk:8080", **options):
        options = {"transport": httpx.MockTransport(self), "clock": VirtualClock(NOW), **options}
        return CarbonAwareSdk(url, **options)

    def why(self, location="here", now=NOW):
        """Return why the only location is missing."""
        with pytest.raises(ForecastUnavailableError) as error:
            self.sdk().forecast([location], now)
        assert list(error.value.missing) == [location]
        return error.value.missing[location]


def fixture(name):
    return (RESPONSES / name).read_bytes()


def forecast(*points, location="here", **changes):
    """Return an answer whose points are (minutes after generation, value) or whole objects."""
    data = [
        point
        if isinstance(point, dict)
        else {"timestamp": format_time(GENERATED + point[0] * MINUTE), "duration": 5, "value": point[1]}
        for point in points
    ]
    made = {"generatedAt": format_time(GENERATED), "location": location, "forecastData": data, **changes}
    return [{key: value for key, value in made.items() if value is not ...}]


def series(table, location):
    """Return [(minutes after generation, value)] of one column; None begins a gap."""
    return [
        ((point["time"] - GENERATED) / MINUTE, point["g_per_kwh"]) for point in table.to_points()[location]
    ]


# -- what it asks ------------------------------------------------------------------------------------------


def test_each_location_is_a_request_without_bounds():
    server = Server(
        {
            "westus": fixture("currentForecast-five-minutes.json"),
            "westeurope": fixture("currentForecast-hourly.json"),
        }
    )
    server.sdk("http://sdk:8080/prefix/").forecast(["westus", "westeurope", "westus"], NOW)
    assert sorted(str(request.url) for request in server.requests) == [
        "http://sdk:8080/prefix/emissions/forecasts/current?location=westeurope",
        "http://sdk:8080/prefix/emissions/forecasts/current?location=westus",
    ]
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize(
    "name", ["DE", "a,b", "Zürich & co/+?=#%20", " spaced ", "x" * 200, "<script>", "=cmd"]
)
def test_names_are_sent_as_they_are(name):
    server = Server(forecast((0, 1), (5, 2), (10, 3), location=name))
    assert server.sdk().forecast([name], NOW).intensity.locations == (name,)
    assert server.requests[0].url.params.multi_items() == [("location", name)]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("a\nb", "its name has characters that cannot be printed"),
        ("\x1b[31m", "its name has characters that cannot be printed"),
        ("\ud800", "its name has characters that cannot be printed"),
        ("x" * 201, "its name has 201 characters, more than 200"),
        (" ", "its name is empty"),
    ],
)
def test_a_name_that_cannot_be_one_is_not_sent(name, why):
    server = Server(forecast((0, 1), (5, 2), location="fine"))
    made = server.sdk().forecast([name, "fine"], NOW)
    assert made.missing == {name: why}
    assert len(server.requests) == 1


def test_actuals_are_asked_for_in_whole_seconds_of_utc():
    server = Server(fixture("past-with-minus-one.json"))
    berlin = datetime.fromisoformat("2026-03-10T10:30:00.25+01:00")
    server.sdk().actual(["westeurope"], berlin, berlin + timedelta(hours=3))
    url = server.requests[0].url
    assert url.path == "/emissions/bylocations"
    assert url.params.multi_items() == [
        ("location", "westeurope"), ("time", "2026-03-10T09:30:00Z"), ("toTime", "2026-03-10T12:30:01Z"),
    ]  # fmt: skip


def test_a_long_past_is_asked_for_in_parts_of_a_week_and_one_may_fail():
    server = Server({})

    def answer(request):
        server.requests.append(request)
        begin = request.url.params["time"]
        if begin == "2026-03-10T00:00:00Z":
            raise httpx.ReadError("reset")
        day = int(begin[8:10])
        point = {"location": "here", "time": begin, "rating": day, "duration": "01:00:00"}
        return httpx.Response(200, json=[point])

    start = datetime(2026, 3, 3, tzinfo=UTC)
    sdk = CarbonAwareSdk("http://sdk", transport=httpx.MockTransport(answer), clock=VirtualClock(NOW))
    table = sdk.actual(["here"], start, start + timedelta(days=16))
    bounds = {(request.url.params["time"], request.url.params["toTime"]) for request in server.requests}
    assert bounds == {
        ("2026-03-03T00:00:00Z", "2026-03-10T00:00:00Z"),
        ("2026-03-10T00:00:00Z", "2026-03-17T00:00:00Z"),
        ("2026-03-17T00:00:00Z", "2026-03-19T00:00:00Z"),
    }
    assert [point["g_per_kwh"] for point in table.to_points()["here"]] == [3, None, 17]


# -- forecasts ---------------------------------------------------------------------------------------------


def test_a_forecast_keeps_the_raw_points_of_each_location():
    answers = {
        "westus": fixture("currentForecast-five-minutes.json"),
        "westeurope": fixture("currentForecast-hourly.json"),
    }
    made = Server(answers).sdk(signal="marginal").forecast(["westus", "westeurope"], NOW)
    table = made.intensity
    assert (table.signal, table.source, table.synthetic) == ("marginal", "carbon-aware-sdk", False)
    assert table.locations == ("westus", "westeurope")
    assert made.missing == {}
    assert made.generated_at == datetime(2026, 3, 10, 14, 5, 31, 482_000, tzinfo=UTC)  # the older of the two
    west = Server(answers).sdk().forecast(["westus"], NOW).intensity
    assert series(west, "westus") == [(0, 401.5), (5, 398), (10, 395.125), (15, 392.25), (20, 394)]
    assert west.end == GENERATED + 25 * MINUTE
    europe = Server(answers).sdk().forecast(["westeurope"], NOW).intensity
    assert [value for _, value in series(europe, "westeurope")] == [262, 251, 240, 244]
    assert europe.end == datetime(2026, 3, 10, 18, tzinfo=UTC)


def test_the_forecasts_own_location_counts_without_case_and_points_may_say_otherwise():
    data = [{"location": "GRID_7", "timestamp": format_time(GENERATED), "duration": 60, "value": 5}]
    server = Server(forecast(*data, location="WestUS"))
    assert server.sdk().forecast(["westus"], NOW).intensity.locations == ("westus",)
    answer = forecast((0, 1)) + forecast((0, 9), (10, 9), location="mine")
    assert series(Server(answer).sdk().forecast(["mine"], NOW).intensity, "mine")[0] == (0, 9)
    assert Server(answer).why("other") == "asked for it, the server answered with here, mine"


def test_gaps_duplicates_and_order_are_put_right():
    answer = forecast((30, 6), (10, None), (0, 1), (5, 2), (5, 3), (15, -1), (20, 4), (25, 3001))
    table = Server(answer).sdk().forecast(["here"], NOW).intensity
    assert series(table, "here") == [(0, 1), (5, 3), (10, None), (20, 4), (25, None), (30, 6)]
    answer = forecast((0, 1), (5, 2), (20, 3))
    table = Server(answer).sdk().forecast(["here"], NOW).intensity
    assert series(table, "here") == [(0, 1), (5, 2), (10, None), (20, 3)]
    hour = np.array([int(GENERATED.timestamp() * 1e6)])
    assert np.isnan(table.integrate(hour, hour + 25 * 60_000_000, [0]))


def test_windows_of_the_server_hold_until_the_next_one():
    points = [
        {"timestamp": format_time(GENERATED + k * 5 * MINUTE), "duration": 30, "value": k} for k in range(4)
    ]
    table = Server(forecast(*points, windowSize=30)).sdk().forecast(["here"], NOW).intensity
    assert series(table, "here") == [(0, 0), (5, 1), (10, 2), (15, 3)]
    assert table.end == GENERATED + 45 * MINUTE


@pytest.mark.parametrize("duration", [None, 0, -5, "5", 1e300, ..., True])
def test_a_duration_that_says_nothing_is_done_without(duration):
    points = [{"timestamp": format_time(GENERATED + k * 5 * MINUTE), "duration": duration, "value": k}
              for k in range(4)]  # fmt: skip
    if duration is ...:
        points = [{key: point[key] for key in ("timestamp", "value")} for point in points]
    table = Server(forecast(*points)).sdk().forecast(["here"], NOW).intensity
    assert table.end == GENERATED + 20 * MINUTE


def test_literals_that_json_does_not_know_are_gaps():
    text = json.dumps(forecast((0, 1), (5, float("nan")), (10, float("inf")), (15, 2)))
    assert "NaN" in text
    table = Server(text.encode()).sdk().forecast(["here"], NOW).intensity
    assert series(table, "here") == [(0, 1), (5, None), (15, 2)]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"generatedAt": format_time(NOW + timedelta(hours=2))},
         "its forecast is dated 2 h ahead, 2026-03-10T16:25:30.250000Z: one of the clocks is wrong"),
        ({"generatedAt": format_time(NOW - timedelta(hours=37))},
         "its newest forecast is 1 d 13 h old, more than 1 d 12 h"),
        ({"generatedAt": "9999-12-31T23:59:59Z"}, "one of the clocks is wrong"),
        ({"generatedAt": "2026-03-10T14:20:00"},
         "generatedAt: 2026-03-10T14:20:00 has no UTC offset"),
        ({"generatedAt": None}, "generatedAt: None is not a time"),
        ({"generatedAt": ...}, "generatedAt: '' is not a time"),
        ({"forecastData": []}, "there is no usable value: it is empty"),
        ({"forecastData": [None, 3]}, "there is no usable value: 3 is not a time"),
        ({"forecastData": None}, "its forecast has no forecastData"),
        ({"forecastData": {"a": 1}}, "its forecast has no forecastData"),
        ({"forecastData": [{"timestamp": "2026-03-10T14:20:00", "value": 1}]}, "has no UTC offset"),
        ({"forecastData": [{"timestamp": "2026-03-10T14:20:00Z", "value": -1}]}, "-1 is not a plausible"),
        ({"forecastData": [{"timestamp": "2026-03-10T13:20:00Z", "duration": 60, "value": 1}]},
         "its forecast has no value after 2026-03-10T14:25:30.250000Z"),
        ({"location": "elsewhere"}, "asked for it, the server answered with elsewhere"),
        ({"location": None}, "asked for it, the server answered with None"),
    ],
)  # fmt: skip
def test_a_forecast_that_cannot_be_trusted_is_missing_and_says_why(changes, why):
    assert why in Server(forecast((0, 1), (5, 2), **changes)).why()


@pytest.mark.parametrize("off", [timedelta(minutes=10), -timedelta(hours=36)])
def test_clocks_may_differ_a_little_and_a_forecast_may_be_a_day_old(off):
    points = [{"timestamp": format_time(NOW), "duration": 60, "value": 1}]
    made = Server(forecast(*points, generatedAt=format_time(NOW + off))).sdk().forecast(["here"], NOW)
    assert made.generated_at == NOW + off


def test_a_dialect_without_forecast_data_is_explained():
    server = Server(fixture("currentForecast-optimal-only.json"))
    assert (
        server.why("westeurope") == "the server gives optimalDataPoints only; planning needs its forecastData"
    )


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({}, "answered with JSON that is not a list of objects"),
        ([[]], "answered with JSON that is not a list of objects"),
        (None, "answered with JSON that is not a list of objects"),
        ("x", "answered with JSON that is not a list of objects"),
        ([], "asked for it, the server answered with an empty list"),
        (b"", "answered 200 with an empty body"),
        (b"<html></html>", "answered with a web page; is the URL right?"),
        (fixture("currentForecast-hourly.json")[:300], "answered with something that is not JSON"),
        (httpx.Response(204), "the server has no forecast for it"),
        (httpx.Response(400, content=fixture("currentForecast-unknown-location-400.json")),
         "answered 400 ArgumentException; Unknown Location: 'atlantis' not found"),
        (httpx.Response(401, text="no"), f"answered 401 no ({PROVIDER}, or a proxy, refused it"),
        (httpx.Response(403, text="no"), f"answered 403 no ({PROVIDER}, or a proxy, refused it"),
        (httpx.Response(404), "(is the URL the root of a Carbon Aware SDK WebAPI?)"),
        (httpx.Response(429, content=fixture("currentForecast-provider-limit-429.json")),
         f"({PROVIDER} limits it)"),
        (httpx.Response(501), "answered 501 with an empty body (the server's data provider cannot do this)"),
        (httpx.Response(502, text="<html>"), "answered 502 with a web page"),
        (httpx.ConnectError("refused"), "cannot connect to http://sdk:8080: refused"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_forecast_is_missing_and_says_why(answer, why):
    assert why in Server(answer).why()


def test_one_bad_location_leaves_the_others():
    answers = {
        "westus": fixture("currentForecast-five-minutes.json"),
        "atlantis": httpx.Response(400),
        "down": b"[",
    }
    made = Server(answers).sdk().forecast(["atlantis", "westus", "down"], NOW)
    assert made.intensity.locations == ("westus",)
    assert made.missing == {
        "atlantis": "answered 400 with an empty body",
        "down": "answered with something that is not JSON: '['",
    }


def test_nothing_at_all_is_an_error_with_every_reason():
    with pytest.raises(ForecastUnavailableError) as error:
        Server(httpx.Response(400)).sdk().forecast(["a", "b"], NOW)
    assert error.value.missing == dict.fromkeys("ab", "answered 400 with an empty body")
    assert error.value.available == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(
        ["here", "2026-03-10T14:25:00Z", "00:05:00", 0, 5, 60, 3000]
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["location", "generatedAt", "forecastData", "optimalDataPoints", "timestamp", "value",
                         "duration", "time", "rating", "latitude", "x"]), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


@given(JSON, JSON)
def test_any_json_gives_a_forecast_or_a_reason(anything, point):
    for answer in (anything, [anything], forecast(point) if isinstance(point, dict) else forecast()):
        response = httpx.Response(200, content=json.dumps(answer))
        transport = httpx.MockTransport(lambda _: response)  # noqa: B023
        sdk = CarbonAwareSdk("http://sdk:8080", transport=transport, clock=VirtualClock(NOW))
        assert_data_or_reasons(
            lambda: sdk.forecast(["here"], NOW),  # noqa: B023
            lambda: sdk.actual(["here"], NOW - timedelta(hours=1), NOW),  # noqa: B023
            lambda: sdk.past_forecasts(["here"], GENERATED, NOW, 5 * MINUTE),  # noqa: B023
            sdk.known_locations,
        )


# -- actuals -----------------------------------------------------------------------------------------------


def hours(first, last):
    day = datetime(2026, 3, 10, tzinfo=UTC)
    return day + timedelta(hours=first), day + timedelta(hours=last)


def test_actuals_are_cut_to_the_period_and_minus_one_is_a_gap():
    table = Server(fixture("past-with-minus-one.json")).sdk().actual(["westeurope"], *hours(9.5, 12.5))
    assert (table.start, table.end) == hours(9.5, 12.5)
    assert (table.source, table.signal) == ("carbon-aware-sdk", "unknown")
    (column,) = table.to_points().values()
    assert [point["g_per_kwh"] for point in column] == [280, None, 251.5, 244]
    assert column[1]["time"] == hours(10, 10)[0]


@pytest.mark.parametrize(
    ("span", "minutes"),
    [("00:05:00", 5), ("01:00:00", 60), ("00:05:00.5000000", 5), ("1.02:00:00", 26 * 60), ("-01:00:00", 60),
     ("00:00:00", 60), ("5", 60), (5, 60), (None, 60), ("99.99:99:99", 60)],
)  # fmt: skip
def test_time_spans_say_how_long_a_value_holds(span, minutes):
    start, end = hours(0, 48)
    answer = [{"location": "here", "time": format_time(start), "rating": 7, "duration": span}]
    table = Server(answer).sdk().actual(["here"], start, end)
    assert table.end == start + minutes * MINUTE


def test_a_place_may_have_another_name_in_the_answer_if_it_is_the_only_one():
    start, end = hours(0, 1)

    def point(location, rating):
        return {"location": location, "time": format_time(start), "rating": rating, "duration": "01:00:00"}

    def ask(*points):
        return Server(list(points)).sdk().actual(["here"], start, end).values.tolist()

    assert ask(point("GRID_7", 5)) == [[5]]
    assert ask(point("GRID_7", 5), point("Here", 6)) == [[6]]
    with pytest.raises(ForecastUnavailableError):
        ask(point("GRID_7", 5), point("GRID_8", 6))


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(204), [], [{"location": "here", "time": "2026-03-10T00:00:00Z", "rating": None}],
     [{"location": "here", "time": "2026-03-09T00:00:00Z", "rating": 5, "duration": "01:00:00"}]],
)  # fmt: skip
def test_no_actuals_is_an_error_with_the_reason(answer):
    with pytest.raises(ForecastUnavailableError, match="here: "):
        Server(answer).sdk().actual(["here"], *hours(0, 1))


def test_a_location_without_actuals_is_left_out():
    server = Server({"westeurope": fixture("past-with-minus-one.json"), "other": httpx.Response(204)})
    assert server.sdk().actual(["other", "westeurope"], *hours(9, 13)).locations == ("westeurope",)


def test_where_nothing_is_recorded_the_averages_of_the_last_hours_stand_in():
    def answer(request):
        if request.url.path == "/emissions/bylocations":
            return httpx.Response(204)
        begin = request.url.params["startTime"]
        hour = int(begin[11:13])
        return {"location": "HERE", "startTime": begin, "endTime": begin, "carbonIntensity": 100 * (hour % 3)}

    server = Server(answer)
    table = server.sdk().actual(["here"], *hours(5, 14.5))
    asked = [request.url.params for request in server.requests[1:]]
    assert sorted((p["startTime"], p["endTime"]) for p in asked) == [
        ("2026-03-10T11:00:00Z", "2026-03-10T12:00:00Z"),
        ("2026-03-10T12:00:00Z", "2026-03-10T13:00:00Z"),
        ("2026-03-10T13:00:00Z", "2026-03-10T14:00:00Z"),
    ]
    (column,) = table.to_points().values()
    assert [(point["time"].hour, point["g_per_kwh"]) for point in column] == [
        (11, 200),
        (12, None),
        (13, 100),
    ]


@pytest.mark.parametrize(
    ("recorded", "average", "asked"),
    [
        (httpx.Response(204), 0, 3),  # what it gives where it has no data
        (httpx.Response(204), -1, 3),
        (httpx.Response(204), None, 3),
        ([{"location": "here", "time": "2026-03-10T09:00:00Z", "rating": -1, "duration": "01:00:00"}], 0, 3),
        (httpx.Response(400), 5, 0),  # it may not know the place at all
        (httpx.Response(503), 5, 0),
    ],
)
def test_averages_are_asked_for_only_where_nothing_is_recorded_and_zero_is_nothing(recorded, average, asked):
    def answer(request):
        if request.url.path == "/emissions/bylocations":
            return recorded
        return {"location": "here", "carbonIntensity": average}

    server = Server(answer)
    with pytest.raises(ForecastUnavailableError):
        server.sdk().actual(["here"], *hours(5, 14))
    paths = [request.url.path for request in server.requests]
    assert paths.count("/emissions/average-carbon-intensity") == asked


def test_a_short_period_has_fewer_full_hours():
    server = Server(httpx.Response(204))
    with pytest.raises(ForecastUnavailableError, match="no value from 2026-03-10T12:30:00Z"):
        server.sdk().actual(["here"], *hours(12.5, 14.5))
    assert len(server.requests) == 2  # 13 to 14 h is the only one


# -- past forecasts ----------------------------------------------------------------------------------------


def made_at(request):
    """Response as WattTime does through the SDK: with the forecast that was current, to five minutes."""
    (item,) = json.loads(request.content)
    when = datetime.fromisoformat(item["requestedAt"])
    made = when - timedelta(minutes=when.minute % 5)
    data = [{"timestamp": format_time(made + k * 5 * MINUTE), "duration": 5, "value": k} for k in range(3)]
    return [{"generatedAt": format_time(made), "requestedAt": item["requestedAt"],
             "location": item["location"], "optimalDataPoints": [], "forecastData": data}]  # fmt: skip


def test_past_forecasts_are_those_that_were_current_oldest_first():
    server = Server(made_at)
    start, end = hours(0, 12)
    forecasts = server.sdk().past_forecasts(["a", "b"], start + 7 * MINUTE, end, timedelta(hours=4))
    assert [made.generated_at for made in forecasts] == [start + m * MINUTE for m in (10, 250, 490)]
    assert {made.intensity.locations for made in forecasts} == {("a", "b")}
    assert all(made.intensity.start == made.generated_at for made in forecasts)
    assert {(request.method, request.url.path) for request in server.requests} == {
        ("POST", "/emissions/forecasts/batch")
    }
    asked = [json.loads(request.content) for request in server.requests]
    assert {len(items) for items in asked} == {1}
    assert asked[0] == [{"location": "a", "requestedAt": "2026-03-10T08:10:00Z"}]  # the newest first


def test_how_far_apart_is_at_least_five_minutes():
    start = hours(0, 1)[0]
    forecasts = Server(made_at).sdk().past_forecasts(["a"], start, start + 12 * MINUTE, MINUTE)
    assert [made.generated_at for made in forecasts] == [start + m * MINUTE for m in (0, 5, 10)]
    with pytest.raises(InputError, match=r"every: 0:00:00 is not positive"):
        Server(made_at).sdk().past_forecasts(["a"], start, start + 12 * MINUTE, timedelta(0))


def test_a_server_that_keeps_no_forecasts_is_asked_once():
    server = Server(fixture("pastForecasts-501.json"))
    server.answers[None] = httpx.Response(501, content=server.answers[None])
    start, end = hours(0, 12)
    assert server.sdk().past_forecasts(["a", "b"], start, end, timedelta(hours=1)) == []
    assert len(server.requests) == 1


def test_a_period_in_which_none_can_have_been_made_has_none():
    server = Server(made_at)
    assert server.sdk().past_forecasts(["a"], NOW, NOW + 4 * MINUTE, 5 * MINUTE) == []
    assert not server.requests


def test_a_time_without_a_forecast_is_left_out_and_not_asked_for_again():
    def answer(request):
        if "T02:00" in request.content.decode():
            return httpx.Response(500)
        return made_at(request)

    server = Server(answer)
    start, end = hours(0, 4)
    forecasts = server.sdk().past_forecasts(["a"], start, end, timedelta(hours=1))
    assert [made.generated_at.hour for made in forecasts] == [0, 1, 3]
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (httpx.Response(500), "answered 500 with an empty body"),
        (httpx.Response(400, content=fixture("currentForecast-not-configured-400.json")),
         "answered 400 ArgumentException; ForecastDataSource is not configured"),
        (forecast((0, 1), location="a"), "dated 14 h 20 min ahead"),
        (forecast((0, 1), location="a", generatedAt="2026-03-09T23:55:00Z"), "was not asked for"),
    ],
)  # fmt: skip
def test_no_past_forecast_at_all_is_an_error_with_the_reason(answer, why):
    start = hours(0, 1)[0]
    with pytest.raises(ForecastUnavailableError) as error:
        Server(answer).sdk().past_forecasts(["a"], start, start + 4 * MINUTE, timedelta(hours=1))
    assert why in error.value.missing["a"]


# -- time and credentials ----------------------------------------------------------------------------------


def test_calls_together_keep_to_one_budget():
    clock = VirtualClock(NOW)

    def slow(request):
        limit = request.extensions["timeout"]["read"]
        clock.sleep_until(clock.now() + timedelta(seconds=min(2, limit)))
        if limit < 2:
            raise httpx.ReadTimeout("")
        return made_at(request) if request.method == "POST" else httpx.Response(204)

    server = Server(slow)
    for budget in (timedelta(seconds=5), timedelta(seconds=30)):
        sdk = server.sdk(clock=clock)
        sdk.client.concurrency = 1  # on a virtual clock only that determines the order of events
        calls = (
            lambda: sdk.actual(["a"], *hours(0, 14), timeout=budget),  # noqa: B023
            lambda: sdk.past_forecasts(["a"], *hours(0, 4), timedelta(minutes=5), timeout=budget),  # noqa: B023
        )
        for call in calls:
            began = clock.now()
            with contextlib.suppress(ForecastUnavailableError):
                call()
            assert clock.now() - began <= budget


@pytest.mark.parametrize(
    ("auth", "header"),
    [
        ("me:pass:word", httpx.BasicAuth("me", "pass:word")),
        ("mé:ß", httpx.BasicAuth("mé", "ß")),
        ("Bearer abc.def", "Bearer abc.def"),
        ("bearer  abc.def\n", "Bearer abc.def"),
        (SecretStr("me:secret"), httpx.BasicAuth("me", "secret")),
    ],
)
def test_credentials_are_sent_in_a_header(auth, header):
    server = Server(b"Healthy")
    server.sdk("http://other:one@sdk:8080", auth=auth).health()
    if isinstance(header, httpx.BasicAuth):
        header = next(header.auth_flow(httpx.Request("GET", "http://sdk"))).headers["authorization"]
    assert server.requests[0].headers["authorization"] == header


@pytest.mark.parametrize("auth", ["secret", "Bearer ", "Token abc", " ", "\n", "", "Bearer ab\x00c"])
def test_credentials_that_are_none_are_refused_and_not_shown(auth):
    with pytest.raises(InputError) as error:
        Server(b"").sdk(auth=auth)
    assert error.value.field == "sdk-auth"
    assert not re.search("secret;|abc|ab.x00c", str(error.value))


def test_a_refusal_is_ours_or_the_servers():
    refusal = httpx.Response(401, text="no")
    assert "the SDK asks for no credentials" in Server(refusal).why()
    for options in ({"auth": "a:b"}, {"url": "http://me:pass@sdk:8080"}):
        with pytest.raises(ForecastUnavailableError, match="is sdk-auth right"):
            Server(refusal).sdk(**options).health()


def test_with_credentials_no_redirect_is_followed():
    server = Server(httpx.Response(307, headers={"location": "https://sdk/health"}))
    for options in ({"auth": "a:b"}, {"url": "http://me:pass@sdk:8080"}):
        with pytest.raises(ForecastUnavailableError, match="not followed with credentials"):
            server.sdk(**options).health()
    assert len(server.requests) == 2


# -- the document and the responses ------------------------------------------------------------------------


NOTHING_KNOWN = (
    "average-nothing",
    "currentForecast-no-points",
    "currentForecast-optimal-only",
    "past-empty-list",
)


@pytest.mark.parametrize("example", examples("carbon-aware-sdk"), ids=str)
def test_every_response_of_the_folder_is_as_documented_and_understood(example):
    body = example.body if example.path.suffix == ".json" else None
    first = body[0] if isinstance(body, list) and body else {}
    made = datetime.fromisoformat(first.get("generatedAt", format_time(GENERATED)))
    place = first.get("location", "westeurope")

    def answer(request):
        if request.url.path == "/emissions/bylocations" and example.operation != "past":
            return httpx.Response(204)
        if request.url.path == "/emissions/average-carbon-intensity" and example.operation != "average":
            return httpx.Response(200, content=fixture("average-nothing.json"),
                                  headers={"content-type": "application/json"})  # fmt: skip
        return example.response()

    transport = Document("carbon-aware-sdk").transport(answer)
    sdk = CarbonAwareSdk("http://sdk:8080", transport=transport, clock=VirtualClock(NOW))
    ask = {
        "currentForecast": lambda: sdk.forecast([place], NOW).intensity,
        "pastForecasts": lambda: sdk.past_forecasts([place], made, made + MINUTE, MINUTE)[0].intensity,
        "past": lambda: sdk.actual([place], *hours(0, 48)),
        "average": lambda: sdk.actual([place], *hours(13, 14)),
        "locations": sdk.known_locations,
        "health": sdk.health,
    }[example.operation]
    if example.path.name == "locations-204.txt":
        assert ask() == {}
    elif example.path.name == "pastForecasts-501.json":
        assert sdk.past_forecasts([place], made, made + MINUTE, MINUTE) == []
    elif example.status != 200 or example.path.stem in NOTHING_KNOWN:
        with pytest.raises(ForecastUnavailableError) as error:
            ask()
        (why,) = error.value.missing.values()
        if example.status >= 400 and example.operation != "average":  # that one only stands in
            parts = [str(example.status), *(body[key] for key in ("title", "detail") if body and key in body)]
            assert all(part in why for part in parts)
    elif example.operation == "locations":
        assert list(ask()) == list(body)
    elif example.operation == "health":
        assert ask() == "Healthy"
    else:
        points = [body] if example.operation == "average" else first.get("forecastData", body)
        keys = ("value", "rating", "carbonIntensity")
        values = [point[key] for point in points for key in keys if key in point]
        table = ask()
        assert table.values[~np.isnan(table.values)].tolist() == [value for value in values if value >= 0]


def test_there_is_a_response_of_every_operation():
    found = {example.operation for example in examples("carbon-aware-sdk") if example.status == 200}
    assert found == DOCUMENT.operations


# -- the server itself -------------------------------------------------------------------------------------


def test_locations_come_with_their_coordinates():
    server = Server(fixture("locations.json"))
    assert server.sdk("http://sdk:8080/prefix").known_locations() == {
        "westus": (37.783, -122.417), "westeurope": (52.3667, 4.9), "de-zone": (None, None),
    }  # fmt: skip
    assert server.requests[0].url.path == "/prefix/locations"
    assert Server(httpx.Response(204)).sdk().known_locations() == {}


def test_health_is_what_the_server_says():
    server = Server(b"Healthy")
    assert server.sdk().health() == "Healthy"
    assert server.requests[0].url.path == "/health"
    with pytest.raises(
        ForecastUnavailableError, match="answered 'Welcome to nginx', which is no state of health"
    ):
        Server(b"Welcome to nginx").sdk().health()


def test_what_is_wrong_with_the_server_stands_under_its_address():
    for answer, why in ((httpx.Response(503, text="Unhealthy"), "answered 503 Unhealthy"),
                        (b"<html>", "answered with a web page; is the URL right?")):  # fmt: skip
        with pytest.raises(ForecastUnavailableError) as error:
            Server(answer).sdk("http://me:secret@sdk:8080/prefix").health()
        assert error.value.missing == {"http://sdk:8080": why}
    with pytest.raises(ForecastUnavailableError, match="not locations by name"):
        Server([1]).sdk().known_locations()


@pytest.mark.parametrize(
    "url",
    ["", "sdk:8080", "localhost", "ftp://sdk", "http://", "http://sdk:99999", "http://sdk/?x=1", "/x", None],
)
def test_a_url_that_is_none_is_bad_input(url):
    with pytest.raises(
        InputError, match="LOWCARB_CARBON_AWARE_SDK_URL or give --carbon-aware-sdk-url"
    ) as error:
        CarbonAwareSdk(url)
    assert error.value.field == "carbon-aware-sdk-url"


@pytest.mark.parametrize(
    "url",
    ["me:secret@sdk:8080", "http://me:sec/secret@sdk", "http://me:12/secret@sdk", "http://me:s?secret@sdk",
     "http://me:" + "x" * 200 + "secret@sdk:0"],
)  # fmt: skip
def test_a_password_in_a_bad_url_is_not_shown(url):
    with pytest.raises(InputError) as error:
        CarbonAwareSdk(url)
    assert not re.search("sec|me:|12|xx", str(error.value).replace("8080", ""))


def test_the_source_is_opened_by_name():
    assert isinstance(
        open_source("carbon-aware-sdk", Settings.load({"sdk_url": "http://sdk"})), CarbonAwareSdk
    )
    with pytest.raises(
        InputError,
        match="carbon-aware-sdk-url: is not set; set LOWCARB_CARBON_AWARE_SDK_URL or give --",
    ):
        open_source("carbon-aware-sdk", Settings.load())
    with pytest.raises(InputError, match="signal: 'avg' is unknown; did you mean average"):
        CarbonAwareSdk("http://sdk", signal="avg")
    with pytest.raises(InputError, match=r"timeout: .* is not positive"):
        CarbonAwareSdk("http://sdk", timeout=timedelta(0))
