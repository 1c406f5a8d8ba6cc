"""WattTime: logging in, what the client asks, and what it makes of the answers."""

from __future__ import annotations

import base64
import json
import threading
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from lowcarb_scheduler.clock import VirtualClock, format_time
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.registry import open_source
from lowcarb_scheduler.forecasts.sources.watttime import G_PER_KWH, URL, WattTime
from lowcarb_scheduler.settings import Settings
from support.any_json import assert_data_or_reasons
from support.openapi_check import Document, examples

NOW = datetime(2026, 3, 10, 14, 25, 30, 250_000, tzinfo=UTC)
GENERATED = datetime(2026, 3, 10, 14, 25, tzinfo=UTC)
STEP = timedelta(minutes=5)
HOUR = timedelta(hours=1)
REGION = "CAISO_NORTH"
USER, PASSWORD = "somebody", "pass:word é"
REFUSED = "the login was refused; check LOWCARB_WATTTIME_USER and LOWCARB_WATTTIME_PASSWORD"


def points(*values, start=GENERATED):
    return [{"point_time": (start + k * STEP).isoformat(), "value": value} for k, value in enumerate(values)]


def meta(region=REGION, **changes):
    made = {"data_point_period_seconds": 300, "region": region, "signal_type": "co2_moer",
            "units": "lbs_co2_per_mwh", "generated_at": GENERATED.isoformat(), **changes}  # fmt: skip
    return {key: value for key, value in made.items() if value is not ...}


def answer_of(*values, region=REGION, **changes):
    return {"data": points(*values), "meta": meta(region, **changes)}


class Server:
    """Gives out tokens and takes the last ones; checks each request against the document.

    Parameters
    ----------
    answers : object
        What it answers, by region (``None`` for any): JSON, a response, an exception, or a function of the
        request that returns one.
    valid : int
        How many of the last tokens it takes.
    """

    def __init__(self, answers=None, valid=1):
        self.answers = answers if isinstance(answers, dict) and None in answers else {None: answers}
        self.document, self.clock, self.valid = Document("watttime"), VirtualClock(NOW), valid
        self.logins, self.refusal = 0, httpx.Response(401, json={"error": "expired"})
        self.login = lambda: httpx.Response(200, json={"token": f"token-{self.logins}"})

    def __call__(self, request):
        self.document.check_request(request)
        if request.url.path == "/login":
            self.logins += 1
            return self.login()
        taken = [f"Bearer token-{self.logins - k}" for k in range(self.valid)]
        if request.headers["authorization"] not in taken:
            return self.refusal
        answer = self.answers.get(request.url.params.get("region"), self.answers[None])
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def source(self, user=USER, password=PASSWORD, **options):
        options = {"transport": httpx.MockTransport(self), "clock": self.clock, **options}
        return WattTime(user, password, **options)

    def asked(self):
        """Return path and query of all requests but logins."""
        urls = [str(request.url).removeprefix(URL) for request in self.document.requests]
        return sorted(url for url in urls if url != "/login")

    def why(self, region=REGION):
        with pytest.raises(ForecastUnavailableError) as error:
            self.source().forecast([region], NOW)
        return error.value.missing[region]


def column(table, region):
    """Return [(steps after generation, value)] of one region; None begins a gap."""
    return [((point["time"] - GENERATED) / STEP, point["g_per_kwh"]) for point in table.to_points()[region]]


# -- logging in --------------------------------------------------------------------------------------------


def test_one_login_serves_many_requests_for_twenty_five_minutes():
    server = Server(answer_of(1, 2))
    source = server.source()
    source.forecast([REGION], NOW)
    source.forecast([REGION], NOW, timeout=timedelta(seconds=5))
    server.clock.sleep_until(NOW + timedelta(minutes=24, seconds=59))
    source.forecast([REGION], NOW)
    assert server.logins == 1
    server.clock.sleep_until(NOW + timedelta(minutes=25))
    source.forecast([REGION], NOW, timeout=timedelta(seconds=5))
    source.forecast([REGION], NOW)
    assert server.logins == 2


def test_the_login_is_basic_and_the_rest_bear_the_token():
    server = Server(answer_of(1, 2))
    server.source().forecast([REGION], NOW)
    login, data = (request.headers["authorization"] for request in server.document.requests)
    assert base64.b64decode(login.removeprefix("Basic ")).decode() == f"{USER}:{PASSWORD}"
    assert data == "Bearer token-1"


@pytest.mark.parametrize(
    "refusal", [httpx.Response(401, json={}), httpx.Response(403, text="<html>", headers={"x": "html"})]
)
def test_a_token_that_is_refused_is_renewed_once(refusal):
    server = Server({None: answer_of(1, 2), "DE": answer_of(3, 4, region="DE")})
    server.refusal = refusal
    source = server.source()
    source.forecast([REGION], NOW)
    server.logins += 1  # somebody else logged in, and the service takes the newest token only
    assert source.forecast([REGION, "DE"], NOW).missing == {}
    assert server.logins == 3


def test_a_region_that_is_not_allowed_is_asked_for_no_more_than_twice():
    forbidden = httpx.Response(403, json={"error": "not in your plan"})
    server = Server({None: answer_of(1, 2), "DE": forbidden})
    source = server.source()
    for logins in (1, 2):
        made = source.forecast([REGION, "DE"], NOW)
        assert made.intensity.locations == (REGION,)
        assert "not in your plan" in made.missing["DE"]
        assert "without a subscription there is CAISO_NORTH only" in made.missing["DE"]
        assert server.logins == logins


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_says_what_to_check(status):
    server = Server(answer_of(1, 2))
    server.login = lambda: httpx.Response(status, text="<html>")
    assert server.why() == REFUSED
    assert server.logins == 1
    assert server.asked() == []


@pytest.mark.parametrize(
    ("login", "why"),
    [
        (httpx.Response(429), "login: answered 429 with an empty body (3,000 requests in 5 minutes"),
        (httpx.Response(200, json={}), "login: answered without a token"),
        (httpx.Response(200, json={"token": "a\r\nb"}), "login: answered without a token"),
        (httpx.Response(200, text="<html>"), "login: answered with a web page; is the URL right?"),
        (httpx.Response(302, headers={"location": "https://evil.org"}), "login: redirects to https://evil.org"),
        (httpx.Response(302, headers={"location": "/other"}), "which is not followed with credentials"),
    ],
)  # fmt: skip
def test_a_login_that_fails_says_why(login, why):
    server = Server(answer_of(1, 2))
    server.login = lambda: login
    assert why in server.why()
    assert server.asked() == []


def test_threads_share_one_token():
    server = Server(answer_of(1, 2), valid=10)
    source = server.source()
    source.forecast([REGION], NOW)
    threads = [threading.Thread(target=source.forecast, args=([REGION], NOW)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.logins == 1


def test_a_login_is_part_of_the_budget():
    server = Server(httpx.ReadTimeout("silent"))

    def wait_then(end):
        def answer(request):
            read = timedelta(seconds=request.extensions["timeout"]["read"])
            server.clock.sleep_until(server.clock.now() + 0.9 * read)
            return end(request)

        return answer

    slow = wait_then(lambda request: server(request))
    source = server.source(transport=httpx.MockTransport(slow), timeout=timedelta(seconds=10))
    with pytest.raises(ForecastUnavailableError):
        source.forecast([REGION], NOW)
    assert server.clock.now() - NOW <= timedelta(seconds=10)


# -- forecasts and actuals ---------------------------------------------------------------------------------


def test_pounds_per_megawatt_hour_become_grams_per_kilowatt_hour():
    made = Server(answer_of(1000, 0, None, 500.5)).source().forecast([REGION], NOW)
    table = made.intensity
    assert column(table, REGION) == [(0, 453.59237), (1, 0), (2, None), (3, 500.5 * G_PER_KWH)]
    assert (table.source, table.signal, table.synthetic) == ("watttime", "marginal", False)
    assert made.generated_at == GENERATED
    assert table.end == GENERATED + 4 * STEP


def test_each_region_is_a_request_for_three_days():
    server = Server({None: answer_of(1, 2), "DE": answer_of(3, 4, region="DE")})
    assert server.source().forecast([REGION, "DE", REGION], NOW).intensity.locations == (REGION, "DE")
    assert server.asked() == [
        "/v3/forecast?region=CAISO_NORTH&signal_type=co2_moer&horizon_hours=72",
        "/v3/forecast?region=DE&signal_type=co2_moer&horizon_hours=72",
    ]


@pytest.mark.parametrize("units", ["kg_co2_per_mwh", "lbs_co2_per_kwh", "", None, ..., 5])
def test_an_unknown_unit_is_refused(units):
    why = Server(answer_of(1, 2, units=units)).why()
    assert why.startswith("its units is ")
    assert why.endswith(", not lbs_co2_per_mwh")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (answer_of(1, region="DE"), "its region is 'DE', not CAISO_NORTH"),
        (answer_of(1, signal_type="co2_aoer"), "its signal_type is 'co2_aoer', not co2_moer"),
        (answer_of(1, generated_at=...), "generated_at: None is not a time"),
        (answer_of(1, generated_at="2026-03-10T14:25:00"), "has no UTC offset"),
        (answer_of(1, generated_at="2026-03-08T14:00:00+00:00"), "its newest forecast is 2 d 25 min old"),
        (answer_of(1, generated_at="2026-03-10T15:00:00+00:00"), "one of the clocks is wrong"),
        ({"data": points(1, start=GENERATED - STEP), "meta": meta()}, "its forecast has no value after"),
        (answer_of(), "there is no usable value: it is empty"),
        (answer_of(7000), "is not a plausible intensity"),
        ({"data": [3, None], "meta": meta()}, "there is no usable value: None is not a time"),
        ({"data": {}, "meta": meta()}, "answered with JSON that has no meta and data"),
        ({"data": []}, "answered with JSON that has no meta and data"),
        ([], "answered with JSON that has no meta and data"),
        (httpx.Response(429), "(3,000 requests in 5 minutes are allowed)"),
        (httpx.Response(200, text="<html>"), "answered with a web page; is the URL right?"),
        (httpx.ReadError("reset"), "broke off the connection: reset"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_forecast_says_why(answer, why):
    assert why in Server({None: answer}).why()


@pytest.mark.parametrize("seconds", [300, ..., None, 0, -1, 1e14, "300"])
def test_the_period_of_the_points_may_be_wrong(seconds):
    made = Server(answer_of(1, 2, 3, data_point_period_seconds=seconds)).source().forecast([REGION], NOW)
    assert made.intensity.end == GENERATED + 3 * STEP


def test_a_long_past_is_asked_for_by_the_week_in_whole_seconds():
    def answer(request):
        return {"data": points(1000, start=datetime.fromisoformat(request.url.params["start"])),
                "meta": meta(generated_at=...)}  # fmt: skip

    server = Server({None: answer})
    berlin = datetime.fromisoformat("2026-02-20T10:10:00.25+01:00")
    table = server.source().actual([REGION], berlin, berlin + timedelta(days=10))
    assert [point["g_per_kwh"] for point in table.to_points()[REGION]] == [453.59237, None, 453.59237]
    assert (table.signal, table.source) == ("marginal", "watttime")
    asked = [dict(request.url.params) for request in server.document.requests[1:]]
    common = {"region": REGION, "signal_type": "co2_moer"}
    assert sorted(asked, key=lambda query: query["start"]) == [
        {**common, "start": "2026-02-20T09:10:00Z", "end": "2026-02-27T09:10:00Z"},
        {**common, "start": "2026-02-27T09:10:00Z", "end": "2026-03-02T09:10:01Z"},
    ]


def test_regions_are_known_by_name():
    access = {"signal_types": [
        {"signal_type": "co2_moer", "regions": [{"region": "CAISO_NORTH"}, {"region": "DE"}]},
        {"signal_type": "health_damage", "regions": [{"region": "PJM_DC"}]},
    ]}  # fmt: skip
    server = Server(access)
    assert list(server.source().known_locations()) == ["CAISO_NORTH", "DE"]
    assert server.asked() == ["/v3/my-access"]
    for wrong in ({}, [], {"signal_types": [3]}, {"signal_types": [{"signal_type": "co2_moer"}]}):
        with pytest.raises(ForecastUnavailableError, match="not what an account has access to"):
            Server(wrong).source().known_locations()


# -- forecasts of the past ---------------------------------------------------------------------------------


def made_at(request):
    """Response with the forecast that was made at the time that is asked for."""
    assert request.url.params["start"] == request.url.params["end"]
    when = datetime.fromisoformat(request.url.params["start"])
    region = request.url.params["region"]
    issue = {"generated_at": when.isoformat(), "forecast": points(1000, 2000, start=when)}
    return {"data": [issue], "meta": meta(region, generated_at=...)}


def test_past_forecasts_come_oldest_first_with_one_request_each():
    server = Server({None: made_at})
    start = datetime(2026, 3, 1, 0, 2, tzinfo=UTC)
    found = server.source().past_forecasts([REGION, "DE"], start, start + timedelta(hours=18), 6 * HOUR)
    begin = start + timedelta(minutes=3)  # forecasts are made every five minutes
    assert [forecast.generated_at for forecast in found] == [begin + k * 6 * HOUR for k in range(3)]
    for forecast in found:
        assert forecast.intensity.locations == (REGION, "DE")
        assert forecast.intensity.start == forecast.generated_at
        assert forecast.intensity.signal == "marginal"
        assert forecast.missing == {}
    assert len(server.asked()) == 6
    assert server.asked()[0] == (
        "/v3/forecast/historical?region=CAISO_NORTH&signal_type=co2_moer"
        "&start=2026-03-01T00%3A05%3A00Z&end=2026-03-01T00%3A05%3A00Z&horizon_hours=72"
    )


@given(st.integers(0, 600), st.integers(1, 200), st.integers(1, 200))
def test_past_forecasts_are_made_in_the_period_and_as_far_apart_as_asked(first, length, every):
    def respond(request):
        made = {"token": "t"} if request.url.path == "/login" else made_at(request)
        return httpx.Response(200, json=made)

    source = WattTime(USER, PASSWORD, transport=httpx.MockTransport(respond), clock=VirtualClock(NOW))
    start, every = GENERATED + timedelta(seconds=first), timedelta(minutes=every)
    end = start + timedelta(seconds=60 * length)
    first_made = start + (GENERATED - start) % STEP
    found = [made.generated_at for made in source.past_forecasts([REGION], start, end, every)]
    if first_made >= end:
        assert found == []
        return
    assert found[0] == first_made
    assert found[-1] < end <= found[-1] + every + STEP
    assert all(after - before >= every for before, after in pairwise(found))


def test_past_forecasts_that_are_not_there_are_left_out():
    start = datetime(2026, 3, 1, tzinfo=UTC)

    def answer(request):
        if request.url.params["region"] == "DE" or request.url.params["start"] == format_time(start):
            return {"data": [], "meta": meta(request.url.params["region"])}
        return made_at(request)

    server = Server({None: answer})
    (found,) = server.source().past_forecasts([REGION, "DE"], start, start + 2 * HOUR, HOUR)
    assert found.generated_at == start + HOUR
    assert found.missing == {"DE": "there is no forecast made at 2026-03-01T01:00:00Z"}
    with pytest.raises(ForecastUnavailableError, match="there is no forecast made at"):
        server.source().past_forecasts(["DE"], start, start + 2 * HOUR, HOUR)


@pytest.mark.parametrize(
    "issue",
    [3, {}, {"generated_at": "2026-03-01T00:05:00+00:00", "forecast": points(1)}, {"forecast": {}},
     {"generated_at": "2026-03-01T00:00:00+00:00", "forecast": []}, {"forecast": [], "generated_at": 3}],
)  # fmt: skip
def test_what_is_no_past_forecast_is_left_out(issue):
    start = datetime(2026, 3, 1, tzinfo=UTC)
    server = Server({"data": [issue], "meta": meta()})
    with pytest.raises(ForecastUnavailableError):
        server.source().past_forecasts([REGION], start, start + HOUR, HOUR)


def test_how_far_apart_past_forecasts_are_is_positive():
    with pytest.raises(InputError, match=r"every: 0:00:00 is not positive"):
        Server().source().past_forecasts([REGION], NOW, NOW + HOUR, timedelta(0))


# -- the document and the responses ------------------------------------------------------------------------


@pytest.mark.parametrize("example", examples("watttime"), ids=str)
def test_every_response_of_the_folder_is_as_documented_and_understood(example):
    def answer(request):
        if request.url.path == "/login" and example.operation != "login":
            return httpx.Response(200, json={"token": "token"})
        return example.response() if example.operation != "login" or request.url.path == "/login" else (
            httpx.Response(200, json=answer_of(1, 2)))  # fmt: skip

    document = Document("watttime")
    source = WattTime(USER, PASSWORD, transport=document.transport(answer), clock=VirtualClock(NOW))
    body = example.body if example.path.suffix == ".json" else {}
    about = body.get("meta", {})
    region, data = about.get("region", REGION), body.get("data", [])
    if example.operation == "pastForecasts":
        data = data[0]["forecast"] if data else []
    start = datetime.fromisoformat(data[0]["point_time"]) if data else GENERATED
    asks = {
        "login": lambda: source.forecast([region], NOW).intensity,
        "forecast": lambda: source.forecast([region], NOW).intensity,
        "past": lambda: source.actual([region], start, start + HOUR),
        "pastForecasts": lambda: source.past_forecasts([region], start, start + HOUR, HOUR)[0].intensity,
        "access": source.known_locations,
    }
    ask = asks[example.operation]
    if example.status != 200:
        with pytest.raises(ForecastUnavailableError) as error:
            ask()
        (why,) = error.value.missing.values()
        assert why == REFUSED if example.operation == "login" else f"answered {example.status} " in why
    elif example.operation == "access":
        assert list(ask()) == [place["region"] for place in body["signal_types"][0]["regions"]]
    elif example.operation == "login":
        ask()
        assert document.requests[-1].headers["authorization"] == f"Bearer {body['token']}"
    elif data and about["units"] == "lbs_co2_per_mwh":
        table = ask()
        known = [point["value"] * 0.45359237 for point in data]
        assert table.values[~np.isnan(table.values)].tolist() == known
        assert table.start == start
    else:
        with pytest.raises(ForecastUnavailableError):
            ask()


def test_there_is_a_response_of_every_operation():
    found = {example.operation for example in examples("watttime") if example.status == 200}
    assert found == Document("watttime").operations


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from([REGION, "co2_moer", "lbs_co2_per_mwh", GENERATED.isoformat(), 300, 1000]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["data", "meta", "units", "region", "signal_type", "generated_at", "point_time",
                         "value", "forecast", "signal_types", "regions", "token"]), inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.sampled_from(range(3)))
def test_any_json_gives_a_table_or_a_reason(anything, depth):
    answer = [anything, {"data": anything, "meta": meta()}, {"data": [anything], "meta": meta()}][depth]

    def respond(request):
        made = {"token": "t"} if request.url.path == "/login" and depth else answer
        return httpx.Response(200, content=json.dumps(made).encode())

    source = WattTime(USER, PASSWORD, transport=httpx.MockTransport(respond), clock=VirtualClock(NOW))
    assert_data_or_reasons(
        lambda: source.forecast([REGION], NOW),
        lambda: source.actual([REGION], NOW - HOUR, NOW),
        lambda: source.past_forecasts([REGION], GENERATED, NOW, HOUR),
        source.known_locations,
    )


# -- the source itself -------------------------------------------------------------------------------------


def test_the_source_is_opened_by_name(monkeypatch):
    with pytest.raises(InputError, match="watttime-user: is not set; set LOWCARB_WATTTIME_USER in the"):
        open_source("watttime", Settings.load())
    monkeypatch.setenv("LOWCARB_WATTTIME_USER", USER)
    with pytest.raises(InputError, match="watttime-password: is not set; set LOWCARB_WATTTIME_PASSWORD"):
        open_source("watttime", Settings.load())
    monkeypatch.setenv("LOWCARB_WATTTIME_PASSWORD", PASSWORD)
    source = open_source("watttime", Settings.load())
    assert isinstance(source, WattTime)
    assert (source.name, source.issued_every) == ("watttime", STEP)
    assert Settings.load().watttime_url == URL
    with pytest.raises(InputError, match="LOWCARB_WATTTIME_URL or give --watttime-url"):
        open_source("watttime", Settings.load({"watttime_url": "nowhere"}))


def test_user_and_password_are_text_or_secrets():
    server = Server(answer_of(1, 2))
    server.source(SecretStr(USER), SecretStr(f"{PASSWORD}\n")).forecast([REGION], NOW)
    login = server.document.requests[0].headers["authorization"]
    assert base64.b64decode(login.removeprefix("Basic ")).decode() == f"{USER}:{PASSWORD}"
    with pytest.raises(InputError, match="watttime-user: has a colon"):
        WattTime("some:body", PASSWORD)
