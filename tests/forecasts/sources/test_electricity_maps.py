"""Electricity Maps: requests of both versions of its API, and what becomes of the responses."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.registry import open_source
from lowcarb_scheduler.forecasts.sources.electricity_maps import URL, ElectricityMaps
from lowcarb_scheduler.settings import Settings
from support.any_json import assert_data_or_reasons
from support.openapi_check import Document, examples

NOW = datetime(2026, 3, 10, 14, 25, 30, 250_000, tzinfo=UTC)
BEGUN = datetime(2026, 3, 10, 14, tzinfo=UTC)  # the hour that is running
UPDATED = "2026-03-10T14:07:41.336Z"
HOUR = timedelta(hours=1)
TOKEN = "tok-0123456789"
VARIABLE = "LOWCARB_ELECTRICITY_MAPS_TOKEN"


def points(*values, start=BEGUN):
    return [
        {"carbonIntensity": value, "datetime": (start + k * HOUR).strftime("%Y-%m-%dT%H:%M:%S.000Z")}
        for k, value in enumerate(values)
    ]


def forecast(*values, zone="DE", **changes):
    made = {"zone": zone, "forecast": points(*values), "updatedAt": UPDATED,
            "temporalGranularity": "hourly", **changes}  # fmt: skip
    return {key: value for key, value in made.items() if value is not ...}


VERSIONS = {"v4": "electricity-maps", "v3": "electricity-maps-v3"}
V4 = "&temporalGranularity=hourly&disableCallerLookup=true"


class Server:
    """Server that answers by zone (``None`` for any); each request is checked against its version's document.

    ``refuses_v4`` is the status with which version 4 is refused, if it is.
    """

    def __init__(self, answers, refuses_v4=None):
        self.answers = answers if isinstance(answers, dict) and None in answers else {None: answers}
        self.documents = {version: Document(name) for version, name in VERSIONS.items()}
        self.refuses_v4, self.requests = refuses_v4, []

    def __call__(self, request):
        self.requests.append(request)
        version = request.url.path.split("/")[1]
        self.documents[version].check_request(request)
        if version == "v4" and self.refuses_v4:
            return httpx.Response(self.refuses_v4, json={"error": "not this version"})
        answer = self.answers.get(request.url.params.get("zone"), self.answers[None])
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def source(self, token=TOKEN, **options):
        options = {"transport": httpx.MockTransport(self), "clock": VirtualClock(NOW), **options}
        return ElectricityMaps(token, **options)

    def asked(self):
        """Return path and query of all requests."""
        return sorted(str(request.url).removeprefix(URL) for request in self.requests)

    def why(self, zone="DE"):
        with pytest.raises(ForecastUnavailableError) as error:
            self.source().forecast([zone], NOW)
        return error.value.missing[zone]


def column(table, zone):
    """Return [(hours after the running one, value)] of one zone; None begins a gap."""
    return [((point["time"] - BEGUN) / HOUR, point["g_per_kwh"]) for point in table.to_points()[zone]]


# -- what it asks ------------------------------------------------------------------------------------------


def test_each_zone_is_a_request_with_the_token_and_the_longest_horizon():
    server = Server({None: forecast(1, 2), "FR": forecast(3, 4, zone="FR")})
    made = server.source().forecast(["DE", "FR", "DE"], NOW)
    assert made.intensity.locations == ("DE", "FR")
    assert server.asked() == [
        f"/v4/carbon-intensity/forecast?zone=DE&horizonHours=72{V4}",
        f"/v4/carbon-intensity/forecast?zone=FR&horizonHours=72{V4}",
    ]
    assert {request.headers["auth-token"] for request in server.requests} == {TOKEN}


@pytest.mark.parametrize("status", [400, 401, 402, 403, 422])
def test_a_refusal_of_the_longest_horizon_costs_no_forecast(status):
    def answer(request):
        long = "horizonHours" in request.url.params
        return httpx.Response(status, json={"error": "not in your plan"}) if long else forecast(1, 2)

    server = Server({None: answer, "FR": forecast(3, 4, zone="FR")})
    source = server.source()
    for _ in range(2):
        assert source.forecast(["DE", "FR"], NOW).missing == {}
    longest = f"/v4/carbon-intensity/forecast?zone=DE&horizonHours=72{V4}"
    # 401 may be too many requests, which pass: then the longest is asked for again.
    assert server.asked().count(longest) == (2 if status == 401 else 1)
    assert server.asked().count(f"/v4/carbon-intensity/forecast?zone=DE{V4}") == 2
    # 401 may mean the version, too.
    assert len([path for path in server.asked() if path.startswith("/v3/")]) == (2 if status == 401 else 0)


@pytest.mark.parametrize("status", [401, 404, 410])
def test_a_server_that_refuses_version_4_is_asked_in_version_3(status):
    zones = {None: forecast(1, 2), "FR": forecast(3, 4, zone="FR")}
    server = Server(zones, refuses_v4=status)
    source = server.source()
    for _ in range(2):
        assert source.forecast(["DE", "FR"], NOW).missing == {}
    asked = server.asked()
    assert asked.count("/v3/carbon-intensity/forecast?zone=DE&horizonHours=72") == 2
    # 401 may be too many requests, which pass: then version 4 is asked again.
    assert len([path for path in asked if path.startswith("/v4/")]) == (4 if status == 401 else 2)


@pytest.mark.parametrize("status", [400, 402, 403, 422, 429, 500])
def test_another_refusal_of_version_4_is_final(status):
    server = Server(forecast(1, 2), refuses_v4=status)
    assert f"answered {status} " in server.why()
    assert not [path for path in server.asked() if path.startswith("/v3/")]


def test_version_4_is_asked_again_once_version_3_is_gone():
    server = Server({None: forecast(1, 2)}, refuses_v4=410)
    source = server.source()
    assert source.forecast(["DE"], NOW).missing == {}
    server.answers[None] = httpx.Response(410)
    with pytest.raises(ForecastUnavailableError):
        source.forecast(["DE"], NOW)
    server.refuses_v4, server.answers[None] = None, forecast(1, 2)
    assert source.forecast(["DE"], NOW).missing == {}
    assert server.asked()[-1] == f"/v4/carbon-intensity/forecast?zone=DE&horizonHours=72{V4}"


@pytest.mark.parametrize("status", [401, 404, 410])
def test_recorded_intensity_and_zones_are_asked_in_version_3_too(status):
    server = Server({None: {"zone": "DE", "data": points(5, start=BEGUN - HOUR)}}, refuses_v4=status)
    source = server.source()
    assert source.actual(["DE"], BEGUN - HOUR, BEGUN).locations == ("DE",)
    assert [request.url.path[:3] for request in server.requests] == ["/v4", "/v3"]
    server.answers[None] = {"DE": {"zoneName": "Germany"}}
    assert list(source.known_locations()) == ["DE"]
    assert [path for path in server.asked() if path.endswith("/zones")] == ["/v3/zones", "/v4/zones"]


def test_past_of_a_zone_that_is_read_in_version_3_is_not_asked_in_version_4():
    server = Server({None: forecast(1, 2)}, refuses_v4=410)
    source = server.source()
    source.forecast(["DE"], NOW)
    server.requests.clear()
    server.answers[None] = {"zone": "DE", "data": points(5, start=BEGUN - HOUR)}
    source.actual(["DE"], BEGUN - HOUR, BEGUN)
    assert [request.url.path for request in server.requests] == ["/v3/carbon-intensity/past-range"]


def test_both_requests_keep_to_one_budget():
    clock = VirtualClock(NOW)

    def answer(request):
        read = timedelta(seconds=request.extensions["timeout"]["read"])
        if "horizonHours" in request.url.params:
            clock.sleep_until(clock.now() + 0.9 * read)
            return httpx.Response(403)
        clock.sleep_until(clock.now() + read)
        raise httpx.ReadTimeout("silent")

    source = Server({None: answer}).source(clock=clock, timeout=timedelta(seconds=10))
    with pytest.raises(ForecastUnavailableError):
        source.forecast(["DE"], NOW)
    assert clock.now() - NOW <= timedelta(seconds=10)


def test_a_long_past_is_asked_for_by_the_week_in_whole_hours():
    server = Server({"zone": "DE", "data": points(5)})
    berlin = datetime.fromisoformat("2026-03-01T10:10:00.25+01:00")
    server.source().actual(["DE"], berlin, berlin + timedelta(days=10))
    asked = [dict(request.url.params) for request in server.requests]
    hourly = {"temporalGranularity": "hourly", "disableCallerLookup": "true"}
    assert sorted(asked, key=lambda query: query["start"]) == [
        {"zone": "DE", "start": "2026-03-01T09:00:00Z", "end": "2026-03-08T09:00:00Z", **hourly},
        {"zone": "DE", "start": "2026-03-08T09:00:00Z", "end": "2026-03-11T10:00:00Z", **hourly},
    ]


# -- forecasts and actuals ---------------------------------------------------------------------------------


def test_a_forecast_keeps_its_points_and_when_it_was_made():
    made = Server(forecast(412, None, 371)).source().forecast(["DE"], NOW)
    table = made.intensity
    assert made.generated_at == datetime.fromisoformat(UPDATED)
    assert (table.source, table.signal, table.synthetic) == ("electricity-maps", "average", False)
    assert column(table, "DE") == [(0, 412), (1, None), (2, 371)]
    assert table.end == BEGUN + 3 * HOUR


def test_each_zone_says_when_its_forecast_was_made():
    older = "2026-03-10T13:07:00.000Z"
    server = Server({None: forecast(1, 2), "FR": forecast(3, 4, zone="FR", updatedAt=older)})
    made = server.source().forecast(["DE", "FR"], NOW)
    assert made.generated_at == made.issued_at("FR") == datetime.fromisoformat(older)
    assert made.issued_at("DE") == datetime.fromisoformat(UPDATED)


def test_a_forecast_that_does_not_say_when_it_was_made_is_of_this_hour():
    for undated in (forecast(1, 2, updatedAt=...), forecast(1, 2, updatedAt=None)):
        assert Server(undated).source().forecast(["DE"], NOW).generated_at == BEGUN


@pytest.mark.parametrize(
    ("granularity", "minutes"),
    [("hourly", 60), ("15_minutes", 15), ("5_minutes", 5), ("daily", 240), (None, 240), (..., 60)],
)
def test_the_granularity_says_how_long_a_value_holds(granularity, minutes):
    data = [point for k, point in enumerate(points(*range(9))) if k % 4 == 0]
    made = Server(forecast(forecast=data, temporalGranularity=granularity)).source().forecast(["DE"], NOW)
    first, *_ = made.intensity.to_points()["DE"][1:]
    assert first["time"] - BEGUN == timedelta(minutes=minutes)


def test_what_was_recorded_may_be_estimated_or_null():
    data = [
        {**point, "zone": "DE", "isEstimated": True} for point in points(9, None, 7, start=BEGUN - 3 * HOUR)
    ]
    source = Server({None: {"zone": "DE", "data": data}}).source()
    table = source.actual(["DE"], BEGUN - 2.5 * HOUR, BEGUN)
    assert column(table, "DE") == [(-2.5, 9), (-2, None), (-1, 7)]
    assert (table.signal, table.source) == ("average", "electricity-maps")


def test_zones_are_known_by_name():
    server = Server({None: {"DE": {"zoneName": "Germany"}, "FR": {"zoneName": "France", "access": ["*"]}}})
    assert list(server.source().known_locations()) == ["DE", "FR"]
    assert server.asked() == ["/v4/zones"]
    with pytest.raises(ForecastUnavailableError) as error:
        Server([1]).source().known_locations()
    assert error.value.missing == {URL: "answered with JSON that is not zones by name"}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (forecast(1, zone="FR"), "asked for it, the service answered with zone FR"),
        (forecast(1, zone=...), "asked for it, the service answered with zone None"),
        (forecast(1, updatedAt="yesterday"), "updatedAt: 'yesterday' is not a time"),
        (forecast(1, updatedAt="2026-03-08T14:00:00.000Z"), "its newest forecast is 2 d 25 min old"),
        (forecast(1, updatedAt="2026-03-10T16:00:00.000Z"), "one of the clocks is wrong"),
        (forecast(forecast=points(1, start=BEGUN - HOUR)), "its forecast has no value after"),
        (forecast(None), "there is no usable value: None is not a plausible intensity"),
        (forecast(), "there is no usable value: it is empty"),
        (forecast(forecast=[3, None]), "there is no usable value: None is not a time"),
        (forecast(forecast={}), "answered with JSON that has no list of points called forecast"),
        ([], "answered with JSON that has no list of points called forecast"),
        (httpx.Response(401, json={"error": "Invalid auth-token"}), f"(check {VARIABLE}; too many requests"),
        (httpx.Response(403), f"(the plan of {VARIABLE} does not include it"),
        (httpx.Response(404), "(the zone does not exist, or has no data)"),
        (httpx.Response(301, headers={"location": "/elsewhere"}), "which is not followed with credentials"),
        (httpx.Response(301, headers={"location": "https://evil.org"}), "redirects to https://evil.org"),
        (httpx.Response(200, text="<html>"), "answered with a web page; is the URL right?"),
        (httpx.ConnectError("refused"), f"cannot connect to {URL}: refused"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_forecast_says_why(answer, why):
    assert why in Server({None: answer}).why()


# -- the document and the responses ------------------------------------------------------------------------


BOTH = [(version, example) for version, name in VERSIONS.items() for example in examples(name)]


@pytest.mark.parametrize(
    ("version", "example"), BOTH, ids=[f"{version}-{example}" for version, example in BOTH]
)
def test_every_response_of_the_folders_is_as_documented_and_understood(version, example):
    server = Server({None: example.response}, refuses_v4=410 if version == "v3" else None)

    def answer(request):
        response = server(request)
        server.documents[request.url.path.split("/")[1]].check_response(request, response)
        return response

    source = ElectricityMaps(TOKEN, transport=httpx.MockTransport(answer), clock=VirtualClock(NOW))
    zone = example.body.get("zone", "DE")
    data = example.body.get("forecast", example.body.get("data", []))
    pairs = [(datetime.fromisoformat(point["datetime"]), point["carbonIntensity"]) for point in data]
    known = [value for _, value in pairs if value is not None]

    def ask():
        if example.operation == "zones":
            return source.known_locations()
        if example.operation == "past":
            return source.actual([zone], BEGUN - 24 * HOUR, BEGUN)
        return source.forecast([zone], NOW).intensity

    if example.operation == "zones" and example.status == 200:
        assert list(ask()) == list(example.body)
    elif known:
        table = ask()
        assert table.values[~np.isnan(table.values)].tolist() == known
        assert table.start == pairs[0][0]
    else:
        with pytest.raises(ForecastUnavailableError) as error:
            ask()
        (why,) = error.value.missing.values()
        expected = "there is no usable value" if example.status == 200 else f"answered {example.status} "
        assert expected in why
        assert example.body.get("error", "") in why


@pytest.mark.parametrize("name", VERSIONS.values())
def test_there_is_a_response_of_every_operation(name):
    found = {example.operation for example in examples(name) if example.status == 200}
    assert found == Document(name).operations


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["DE", "hourly", UPDATED, "2026-03-10T14:00:00.000Z", 150]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["zone", "forecast", "data", "datetime", "carbonIntensity", "updatedAt",
                         "temporalGranularity"]), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.sampled_from(range(3)))
def test_any_json_gives_a_table_or_a_reason(anything, depth):
    answer = [anything, {"zone": "DE", "forecast": anything, "data": anything},
              {"zone": "DE", "forecast": [anything], "data": [anything]}][depth]  # fmt: skip
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=json.dumps(answer).encode()))
    source = ElectricityMaps(TOKEN, transport=transport, clock=VirtualClock(NOW))
    assert_data_or_reasons(
        lambda: source.forecast(["DE"], NOW),
        lambda: source.actual(["DE"], NOW - HOUR, NOW),
        source.known_locations,
    )


# -- the source itself -------------------------------------------------------------------------------------


def test_the_source_is_opened_by_name(monkeypatch):
    with pytest.raises(InputError, match=f"electricity-maps-token: is not set; set {VARIABLE} in the env"):
        open_source("electricity-maps", Settings.load())
    monkeypatch.setenv(VARIABLE, TOKEN)
    source = open_source("electricity-maps", Settings.load())
    assert isinstance(source, ElectricityMaps)
    assert (source.name, source.issued_every) == ("electricity-maps", HOUR)
    assert Settings.load().electricity_maps_url == URL
    with pytest.raises(InputError, match="LOWCARB_ELECTRICITY_MAPS_URL or give --electricity-maps-url"):
        open_source("electricity-maps", Settings.load({"electricity_maps_url": "nowhere"}))


@pytest.mark.parametrize("given_token", [TOKEN, SecretStr(TOKEN), f"{TOKEN}\n"])
def test_a_token_is_text_or_a_secret(given_token):
    server = Server(forecast(1, 2))
    server.source(given_token).forecast(["DE"], NOW)
    assert server.requests[0].headers["auth-token"] == TOKEN


@pytest.mark.parametrize("wrong", ["", " ", None, SecretStr(""), 5, "two words", "tök", "a\nb", "a\tb"])
def test_a_token_that_is_none_is_bad_input_and_is_not_shown(wrong):
    with pytest.raises(InputError) as error:
        ElectricityMaps(wrong)
    assert VARIABLE in str(error.value)
    assert error.value.field == "electricity-maps-token"
    shown = wrong.get_secret_value() if isinstance(wrong, SecretStr) else str(wrong)
    assert not shown.strip() or shown not in str(error.value)
