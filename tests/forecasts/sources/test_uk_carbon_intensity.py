"""The Carbon Intensity API of Great Britain: what the client asks, and what it makes of the answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.registry import open_source
from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import REGIONS, URL, UkCarbonIntensity
from lowcarb_scheduler.settings import Settings
from support.any_json import assert_data_or_reasons
from support.openapi_check import Document, examples

NOW = datetime(2026, 3, 10, 14, 25, 30, 250_000, tzinfo=UTC)
BEGUN = datetime(2026, 3, 10, 14, tzinfo=UTC)  # the half hour that is running
HALF_HOUR = timedelta(minutes=30)
NOTHING = "the service has published nothing for that time"


def written(when):
    return when.strftime("%Y-%m-%dT%H:%MZ")


def half_hours(*values, start=BEGUN, kind="forecast"):
    return [
        {"from": written(start + k * HALF_HOUR), "to": written(start + (k + 1) * HALF_HOUR),
         "intensity": {"forecast": 999, kind: value}}
        for k, value in enumerate(values)
    ]  # fmt: skip


class Server:
    """Answers by the end of the path (``None`` for any); checks each request against the document."""

    def __init__(self, answers):
        self.answers = answers if isinstance(answers, dict) and None in answers else {None: answers}
        self.document = Document("uk-carbon-intensity")

    def __call__(self, request):
        self.document.check_request(request)
        ends = (end for end in self.answers if end and request.url.path.endswith(end))
        answer = self.answers[next(ends, None)]
        if callable(answer):
            answer = answer(request)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, json=answer)

    def source(self, **options):
        options = {"transport": httpx.MockTransport(self), "clock": VirtualClock(NOW), **options}
        return UkCarbonIntensity(**options)

    def paths(self):
        return sorted(request.url.path for request in self.document.requests)

    def why(self, location="GB"):
        with pytest.raises(ForecastUnavailableError) as error:
            self.source().forecast([location], NOW)
        return error.value.missing[location]


def column(table, location):
    """Return [(half hours after the running one, value)] of one location; None begins a gap."""
    points = table.to_points()[location]
    return [((point["time"] - BEGUN) / HALF_HOUR, point["g_per_kwh"]) for point in points]


# -- what it asks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["GB", "gb", "UK", "national", " National "])
def test_the_whole_has_several_names(name):
    server = Server({"data": half_hours(1, 2)})
    made = server.source().forecast([name], NOW)
    assert made.intensity.locations == (name,)
    assert server.paths() == ["/intensity/2026-03-10T14:00Z/fw48h"]


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("13", "regionid/13"), ("London", "regionid/13"), ("LONDON", "regionid/13"), ("1", "regionid/1"),
        ("Wales", "regionid/17"), ("Yorkshire", "regionid/5"), ("South Yorkshire", "regionid/5"),
        ("North Wales & Merseyside", "regionid/6"), ("North Wales, Merseyside and Cheshire", "regionid/6"),
        ("RG41", "postcode/RG41"), ("rg41", "postcode/RG41"), ("m1", "postcode/M1"),
        ("EC1A", "postcode/EC1A"), ("W1A", "postcode/W1A"),
    ],
)  # fmt: skip
def test_regions_and_postcodes_are_asked_for_by_themselves(name, place):
    key, value = place.split("/")
    server = Server({"data": {key: int(value) if value.isdigit() else value, "data": half_hours(7, 8)}})
    made = server.source().forecast([name], NOW)
    assert column(made.intensity, name) == [(0, 7), (1, 8)]
    assert server.paths() == [f"/regional/intensity/2026-03-10T14:00Z/fw48h/{place}"]


@pytest.mark.parametrize("name", ["0", "18", "DE", "RG41 1AA", "RG411", "Atlantis", "../GB", "R G", "1.0"])
def test_a_name_that_is_no_place_in_britain_is_not_sent(name):
    server = Server({"data": half_hours(1)})
    made = server.source().forecast([name, "GB"], NOW)
    assert made.missing[name].startswith("is not a location in Great Britain; ")
    assert len(server.paths()) == 1


def test_near_misses_are_named():
    why = Server({}).why("Lodnon")
    assert why == "is not a location in Great Britain; did you mean London?"


def test_all_regions_are_known_by_name_and_number():
    source = Server({}).source()
    assert list(source.known_locations()) == ["GB", *REGIONS]
    assert len(REGIONS) == 17
    server = Server({"data": {"data": half_hours(1)}})
    server.source().forecast(REGIONS, NOW)
    assert {path.rsplit("/")[-1] for path in server.paths()} == {str(number) for number in range(1, 18)}


def test_a_long_past_is_asked_for_by_the_week_in_whole_half_hours():
    server = Server({"data": half_hours(5, kind="actual")})
    berlin = datetime.fromisoformat("2026-02-20T10:10:00.25+01:00")
    with pytest.raises(ForecastUnavailableError):
        server.source().actual(["GB"], berlin, berlin + timedelta(days=15))
    assert server.paths() == [
        "/intensity/2026-02-20T09:00Z/2026-02-27T09:00Z",
        "/intensity/2026-02-27T09:00Z/2026-03-06T09:00Z",
        "/intensity/2026-03-06T09:00Z/2026-03-07T09:30Z",
    ]


# -- forecasts ---------------------------------------------------------------------------------------------


def test_a_forecast_is_dated_to_the_half_hour_it_was_asked_in():
    made = Server({"data": half_hours(153, 149, 141)}).source().forecast(["GB"], NOW)
    table = made.intensity
    assert made.generated_at == BEGUN
    assert (table.source, table.signal, table.synthetic) == ("uk-carbon-intensity", "average", False)
    assert column(table, "GB") == [(0, 153), (1, 149), (2, 141)]
    assert table.end == BEGUN + 3 * HALF_HOUR


def test_holes_are_gaps():
    data = half_hours(1, None, 3, -1, 5, "6", 7)
    del data[4]
    made = Server({"data": data}).source().forecast(["GB"], NOW)
    assert column(made.intensity, "GB") == [(0, 1), (1, None), (2, 3), (3, None), (6, 7)]


def test_a_region_may_be_given_as_a_list():
    region = {"regionid": 13, "data": half_hours(7, 8)}
    for data in (region, [region]):
        made = Server({"data": data}).source().forecast(["London"], NOW)
        assert column(made.intensity, "London") == [(0, 7), (1, 8)]


@pytest.mark.parametrize("answer", [{}, {"data": []}, {"data": {}}, {"data": None}])
def test_nothing_published_is_a_reason_and_leaves_the_others(answer):
    server = Server({None: {"data": half_hours(1, 2)}, "regionid/13": answer})
    made = server.source().forecast(["London", "GB"], NOW)
    assert made.missing == {"London": NOTHING}
    assert made.intensity.locations == ("GB",)


@pytest.mark.parametrize(
    ("location", "answer", "why"),
    [
        ("GB", {"data": half_hours(1, start=BEGUN - HALF_HOUR)}, "its forecast has no value after"),
        ("GB", {"data": half_hours(None)}, "there is no usable value: None is not a plausible intensity"),
        ("GB", {"data": [None, 3, {}]}, "there is no usable value: None is not a time"),
        ("GB", {"data": "x"}, "answered with JSON that is not a list of half hours"),
        ("GB", [], "answered with JSON that has no data"),
        ("GB", {"error": {}}, "answered with JSON that has no data"),
        ("RG41", {"data": {"postcode": "RG41", "data": []}}, NOTHING),
        ("RG41", {"data": {"postcode": "EC1A", "data": half_hours(1)}},
         "asked for postcode RG41, the service answered with EC1A"),
        ("13", {"data": {"regionid": 3, "data": half_hours(1)}},
         "asked for regionid 13, the service answered with 3"),
        ("13", {"data": [3]}, "answered with JSON that is not about a region"),
        ("13", {"data": {"regionid": 13, "data": {"a": 1}}}, "not a list of half hours"),
        ("ZZ99", httpx.Response(400, json={"error": {"message": "Please enter a valid postcode"}}),
         "Please enter a valid postcode"),
        ("GB", httpx.Response(500), "answered 500 with an empty body"),
        ("GB", httpx.Response(404), "(is the URL the root of the Carbon Intensity API?)"),
        ("GB", httpx.Response(200, text="<html>"), "answered with a web page; is the URL right?"),
        ("GB", httpx.ConnectError("refused"), f"cannot connect to {URL}: refused"),
    ],
)  # fmt: skip
def test_an_answer_that_is_no_forecast_says_why(location, answer, why):
    assert why in Server({None: answer}).why(location)


# -- actuals -----------------------------------------------------------------------------------------------


def test_the_whole_has_metered_actuals():
    start = BEGUN - 4 * HALF_HOUR
    server = Server({"data": half_hours(151, 150, None, 141, start=start, kind="actual")})
    table = server.source().actual(["GB"], start, BEGUN)
    assert column(table, "GB") == [(-4, 151), (-3, 150), (-2, None), (-1, 141)]
    assert (table.signal, table.source) == ("average", "uk-carbon-intensity")


def test_a_region_has_estimates_of_what_is_over_and_no_forecasts():
    start = BEGUN - 2 * HALF_HOUR
    data = {"data": {"regionid": 13, "data": half_hours(7, 8, 9, 10, start=start)}}
    table = Server(data).source().actual(["London"], start, start + timedelta(hours=2))
    assert column(table, "London") == [(-2, 7), (-1, 8)]
    assert table.end == BEGUN  # the running half hour is not over
    with pytest.raises(ForecastUnavailableError, match=r"no value from .*T15:00:00Z to"):
        Server(data).source().actual(["London"], BEGUN + 2 * HALF_HOUR, BEGUN + timedelta(days=1))


def test_a_part_that_fails_is_a_gap():
    def answer(request):
        begin = request.url.path.split("/")[2]
        if begin == "2026-03-01T00:00Z":
            return httpx.Response(400)
        return httpx.Response(200, json={"data": half_hours(
            3, start=datetime.fromisoformat(begin), kind="actual")})  # fmt: skip

    start = datetime(2026, 2, 22, tzinfo=UTC)
    table = Server({None: answer}).source().actual(["GB"], start, start + timedelta(days=16))
    known = [point["time"] for point in table.to_points()["GB"] if point["g_per_kwh"] == 3]
    assert known == [start, start + timedelta(days=14)]


# -- the document and the responses ------------------------------------------------------------------------


def values_of(example):
    """Return where a response is about, and its (time, value) pairs, read without the client."""
    data = example.body.get("data") or []
    region = data[0] if isinstance(data, list) and data and "data" in data[0] else data
    place, kind = "GB", "actual" if example.operation == "nationalPast" else "forecast"
    if isinstance(region, dict):
        place = str(region.get("postcode", region["regionid"]))
        data = region["data"]
    pairs = [(datetime.fromisoformat(item["from"]), item["intensity"][kind]) for item in data]
    return place, pairs


@pytest.mark.parametrize("example", examples("uk-carbon-intensity"), ids=str)
def test_every_response_of_the_folder_is_as_documented_and_understood(example):
    place = {"national": "GB", "region": "13"}.get(example.operation.removesuffix("Forecast"), "RG41")
    pairs = []
    if example.status == 200 and example.body.get("data"):
        place, pairs = values_of(example)
    start = pairs[0][0] if pairs else BEGUN
    end = start + max(len(pairs), 1) * HALF_HOUR
    document = Document("uk-carbon-intensity")
    source = UkCarbonIntensity(transport=document.transport(example.response), clock=VirtualClock(NOW))

    def ask():
        if example.operation.endswith("Past"):
            return source.actual([place], start, end)
        return source.forecast([place], start).intensity

    known = [value for _, value in pairs if value is not None]
    if known:
        table = ask()
        assert table.values[~np.isnan(table.values)].tolist() == known
        assert table.start == start
    else:
        with pytest.raises(ForecastUnavailableError) as error:
            ask()
        expected = NOTHING if example.status == 200 else f"answered {example.status} "
        assert expected in error.value.missing[place]


def test_there_is_a_response_of_every_operation():
    found = {example.operation for example in examples("uk-carbon-intensity") if example.status == 200}
    assert found == Document("uk-carbon-intensity").operations


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text()
    | st.sampled_from(["2026-03-10T14:00Z", "2026-03-10T14:30Z", 13, "RG41", 150]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(
        st.sampled_from(["data", "from", "to", "intensity", "forecast", "actual", "regionid", "postcode"]),
        inner, max_size=6),
    max_leaves=20,
)  # fmt: skip


@given(JSON, st.sampled_from(["GB", "13", "RG41"]), st.sampled_from(range(4)))
def test_any_json_gives_a_table_or_a_reason(anything, location, depth):
    answer = [anything, {"data": anything}, {"data": [anything]}, {"data": {"data": [anything]}}][depth]
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=json.dumps(answer).encode()))
    source = UkCarbonIntensity(transport=transport, clock=VirtualClock(NOW))
    assert_data_or_reasons(
        lambda: source.forecast([location], NOW),
        lambda: source.actual([location], NOW - HALF_HOUR, NOW),
    )


# -- the source itself -------------------------------------------------------------------------------------


def test_a_source_within_a_limit_gives_up_sooner():
    clock = VirtualClock(NOW)

    def silent(request):
        clock.sleep_until(clock.now() + timedelta(seconds=request.extensions["timeout"]["read"]))
        raise httpx.ReadTimeout("silent")

    source = UkCarbonIntensity(transport=httpx.MockTransport(silent), clock=clock)
    with pytest.raises(ForecastUnavailableError):
        source.forecast(["GB"], NOW, timeout=timedelta(seconds=3))
    assert clock.now() - NOW <= timedelta(seconds=3)


def test_the_source_is_opened_by_name():
    source = open_source("uk-carbon-intensity", Settings.load())
    assert isinstance(source, UkCarbonIntensity)
    assert (source.name, source.issued_every) == ("uk-carbon-intensity", HALF_HOUR)
    assert Settings.load().uk_carbon_intensity_url == URL
    with pytest.raises(
        InputError, match="set LOWCARB_UK_CARBON_INTENSITY_URL or give --uk-carbon-intensity-url"
    ):
        open_source("uk-carbon-intensity", Settings.load({"uk_url": "nowhere"}))
    with pytest.raises(InputError, match=r"timeout: .* is not positive"):
        UkCarbonIntensity(timeout=timedelta(0))
