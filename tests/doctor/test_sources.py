from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

from lowcarb_scheduler.clock import VirtualClock, format_time
from lowcarb_scheduler.doctor import sources
from lowcarb_scheduler.doctor.sources import SourceProbe, ask
from lowcarb_scheduler.forecasts.base import ForecastSource
from lowcarb_scheduler.forecasts.sources.carbon_aware_sdk import CarbonAwareSdk
from lowcarb_scheduler.forecasts.sources.electricity_maps import ElectricityMaps
from lowcarb_scheduler.forecasts.sources.synthetic import Synthetic
from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import UkCarbonIntensity
from lowcarb_scheduler.settings import Settings

NOW = datetime(2026, 3, 2, 0, 5, tzinfo=UTC)
MADE = NOW - timedelta(minutes=5)
KNOWN = ("germanywestcentral", "uksouth")
TIMEOUT = timedelta(seconds=30)


class Server:
    """A WebAPI that knows two places, and may be slow, of another time, or refuse.

    Parameters
    ----------
    refuses : mapping of str to (status, body)
        Answers by the path they are given at; an empty path is every path.
    ahead : timedelta
        Of its clock.
    takes : timedelta
        For each answer.
    """

    def __init__(self, refuses=None, ahead=timedelta(0), takes=timedelta(0), hours=24):
        self.clock, self.refuses, self.ahead, self.takes = VirtualClock(NOW), refuses or {}, ahead, takes
        self.hours = hours

    def __call__(self, request):
        self.clock.sleep_until(self.clock.now() + self.takes)
        date = {"Date": format_datetime(self.clock.now() + self.ahead, usegmt=True)}
        refused = self.refuses.get(request.url.path, self.refuses.get(""))
        if refused:
            return httpx.Response(refused[0], headers=date, text=refused[1])
        if request.url.path == "/locations":
            return httpx.Response(200, headers=date, json={name: {"name": name} for name in KNOWN})
        name = request.url.params["location"]
        if name.lower() not in KNOWN:
            return httpx.Response(400, headers=date, json={"title": "ArgumentException", "detail": "Unknown"})
        points = [
            {"timestamp": format_time(MADE + timedelta(hours=h)), "duration": 60, "value": 100.0 + h}
            for h in range(self.hours)
        ]
        forecast = {"generatedAt": format_time(MADE), "location": name, "forecastData": points}
        return httpx.Response(200, headers=date, json=[forecast])

    def finding(self, *places, **names):
        source = CarbonAwareSdk("http://sdk:8080", transport=httpx.MockTransport(self), clock=self.clock)
        finding = SourceProbe("carbon-aware-sdk", source, dict.fromkeys(places) | names)
        finding.names = {place: name or place for place, name in finding.names.items()}
        finding.ask_names(self.clock)
        finding.ask_forecast(self.clock)
        return finding


def location_checks(findings, places):
    return {check.check: (check.state, check.fix) for check in sources.check_locations(findings, places)}


# -- the server --------------------------------------------------------------------------------------------


def test_a_source_that_answers_is_told_with_its_time():
    check = sources.check_source(Server(takes=timedelta(seconds=0.5)).finding("uksouth"), TIMEOUT)
    assert (check.state, check.detail) == ("ok", "http://sdk:8080 answers in 0.50 s")


def test_a_source_that_is_slow_is_a_warning():
    check = sources.check_source(Server(takes=timedelta(seconds=8)).finding("uksouth"), timedelta(seconds=20))
    assert (check.state, check.fix) == ("warning", "raise LOWCARB_TIMEOUT")


@pytest.mark.parametrize(
    "answer", [(200, "<html>"), (404, ""), (500, ""), (502, "<html>"), (200, ""), (200, "{")]
)
def test_a_server_of_something_else_is_a_fault(answer):
    finding = Server({"": answer}).finding("uksouth")
    check = sources.check_source(finding, TIMEOUT)
    assert check.state == "fault"
    assert "LOWCARB_CARBON_AWARE_SDK_URL" in check.fix
    assert location_checks([finding], ["uksouth"])["locations"][0] == "warning"


def test_a_server_that_cannot_be_reached_is_a_fault():
    server = Server()

    def refuse(request):
        raise httpx.ConnectError("Connection refused")

    source = CarbonAwareSdk("http://sdk:8080", transport=httpx.MockTransport(refuse), clock=server.clock)
    finding = SourceProbe("carbon-aware-sdk", source, {"uksouth": "uksouth"})
    ask([finding], server.clock)
    check = sources.check_source(finding, TIMEOUT)
    assert check.state == "fault"
    assert "cannot connect to http://sdk:8080" in check.detail


def test_a_place_the_server_refuses_is_no_fault_of_the_server():
    without_list = Server({"/locations": (404, "")}).finding("mars", "uksouth")
    assert sources.check_source(without_list, TIMEOUT).state == "ok"


def test_a_source_that_breaks_hides_no_other():
    class Broken(ForecastSource):
        def forecast(self, locations, now, *, timeout=None):
            raise ZeroDivisionError("oh")

        actual = None

    clock = VirtualClock(NOW)
    findings = [
        SourceProbe("mine", Broken(), {"DE": "DE"}),
        SourceProbe("synthetic", Synthetic(), {"DE": "DE"}),
    ]
    ask(findings, clock)
    assert findings[0].no_forecast == "ZeroDivisionError: oh"
    assert location_checks(findings, ["DE"]) == {"locations": ("ok", None)}


def test_made_up_numbers_are_a_warning():
    finding = SourceProbe("synthetic", Synthetic(), {})
    ask([finding], VirtualClock(NOW))
    assert sources.check_source(finding, TIMEOUT).state == "warning"


def test_without_places_a_list_of_its_own_is_put_to_the_proof():
    asked = []

    def answer(request):
        asked.append(request.url.path)
        return httpx.Response(503)

    clock = VirtualClock(NOW)
    finding = SourceProbe(
        "uk-carbon-intensity", UkCarbonIntensity(transport=httpx.MockTransport(answer), clock=clock), {}
    )
    ask([finding], clock)
    assert asked
    assert sources.check_source(finding, TIMEOUT).state == "fault"


def test_a_source_that_has_none_of_the_places_is_not_asked():
    clock = VirtualClock(NOW)
    finding = SourceProbe("uk-carbon-intensity", UkCarbonIntensity(clock=clock), {"Lodnon": "Lodnon"})
    ask([finding], clock)
    check = sources.check_source(finding, TIMEOUT)
    assert check.state == "warning"
    assert check.detail.startswith("not asked: ")
    assert location_checks([finding], ["Lodnon"])["location Lodnon"] == ("fault", "did you mean London?")


# -- credentials -------------------------------------------------------------------------------------------


def credentials(finding, **secrets):
    settings = Settings.load()
    checks = list(sources.check_credentials(finding, settings.model_copy(update=secrets)))
    return [(check.state, check.fix) for check in checks]


def test_credentials_are_accepted_where_a_forecast_comes():
    assert credentials(Server().finding("uksouth"), sdk_auth="x") == [("ok", None)]


def test_where_none_are_asked_for_nothing_is_said():
    assert credentials(Server().finding("uksouth")) == []


def test_a_proxy_that_refuses_is_a_fault():
    finding = Server({"": (401, "")}).finding("uksouth")
    assert sources.check_source(finding, TIMEOUT).state == "ok"
    assert credentials(finding, sdk_auth="x") == [("fault", "check LOWCARB_SDK_AUTH")]
    assert credentials(finding) == [
        ("fault", "if a proxy before the server asks for them, set LOWCARB_SDK_AUTH")
    ]
    assert location_checks([finding], ["uksouth"])["locations"][0] == "warning"


def test_a_data_provider_that_refuses_the_server_is_not_about_us():
    finding = Server({"/emissions/forecasts/current": (403, "")}).finding("uksouth")
    assert credentials(finding) == []
    assert location_checks([finding], ["uksouth"])["location uksouth"][0] == "fault"


def test_a_list_that_everybody_gets_proves_no_token():
    def answer(request):
        return httpx.Response(200, json={"DE": {}}) if "zones" in request.url.path else httpx.Response(401)

    clock = VirtualClock(NOW)
    source = ElectricityMaps("token", transport=httpx.MockTransport(answer), clock=clock)
    finding = SourceProbe("electricity-maps", source, {"DE": "DE"})
    ask([finding], clock)
    ((state, _),) = credentials(finding, electricity_maps_token="token")
    assert state == "fault"
    finding = SourceProbe("electricity-maps", source, {})
    ask([finding], clock)
    source.stats.statuses.clear()
    named = replace(finding, names={"DE": "DE"})
    assert credentials(finding, electricity_maps_token="token") == [
        ("warning", "name a location with --location")
    ]
    assert credentials(named, electricity_maps_token="token") == [("warning", None)]


# -- places ------------------------------------------------------------------------------------------------


def test_an_unknown_place_is_a_fault_with_the_nearest_name():
    finding = Server().finding("uksuoth", "uksouth", "atlantis")
    assert location_checks([finding], ["uksuoth", "uksouth", "atlantis"]) == {
        "location uksuoth": ("fault", "did you mean uksouth?"),
        "location atlantis": (
            "fault", "carbon-aware-sdk knows 2 names, for example germanywestcentral, uksouth"
        ),
        "locations": ("ok", None),
    }  # fmt: skip


def test_a_known_place_without_forecast_is_not_taken_for_a_slip():
    finding = Server({"/emissions/forecasts/current": (500, "")}).finding("UKsouth")
    assert "did you mean" not in location_checks([finding], ["UKsouth"])["location UKsouth"][1]


def test_a_closed_list_tells_upper_from_lower_case():
    finding = SourceProbe("synthetic", Synthetic(), {"de": "de"})
    ask([finding], VirtualClock(NOW))
    assert location_checks([finding], ["de"])["location de"] == ("fault", "did you mean DE?")


def test_a_place_is_asked_for_by_the_name_the_source_has():
    finding = Server().finding(London="uksouth")
    assert location_checks([finding], ["London"]) == {"locations": ("ok", None)}


def test_one_of_several_sources_is_enough():
    first, second = Server().finding("DE"), SourceProbe("synthetic", Synthetic(), {"DE": "DE"})
    ask([second], VirtualClock(NOW))
    assert location_checks([first, second], ["DE"]) == {"locations": ("ok", None)}


def test_no_place_at_all_is_a_warning():
    assert location_checks([Server().finding()], [])["locations"][0] == "warning"


def test_places_come_from_the_option_the_file_and_the_default():
    Path("places.toml").write_text('0 = "DE"\nb = { location = "FR" }\n', encoding="utf-8")
    settings = Settings.load({"locations": "places.toml", "default_location": "GB"})
    assert sources.places_of(settings, ["FR", "ES"]) == (["FR", "ES", "DE", "GB"], [])


def test_a_file_of_places_that_cannot_be_read_is_a_fault():
    places, (check,) = sources.places_of(Settings.load({"locations": "nowhere.toml"}), ["DE"])
    assert (places, check.state) == (["DE"], "fault")
    Path("places.toml").write_text("0 = 1\n", encoding="utf-8")
    _, (check,) = sources.places_of(Settings.load({"locations": "places.toml"}), [])
    assert check.detail == "places.toml: 0: has no location"


# -- forecast, clock, deadline, signals --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish_by", "state"),
    [(None, "ok"), (timedelta(hours=23), "ok"), (timedelta(hours=30), "warning"),
     (NOW + timedelta(hours=30), "warning")],
)  # fmt: skip
def test_a_forecast_tells_its_age_and_its_reach_against_the_deadline(finish_by, state):
    settings = Settings.load({"finish_by": finish_by})
    (check,) = sources.check_forecast(Server().finding("uksouth"), settings, NOW)
    assert check.state == state
    assert check.detail.startswith("made 5 min ago, reaches 23 h 55 min ahead")
    assert ("finish-by is 6 h 5 min later" in check.detail) == (state == "warning")


@pytest.mark.parametrize(
    ("seconds", "state"),
    [
        (0, "ok"),
        (119, "ok"),
        (-119, "ok"),
        (121, "warning"),
        (-599, "warning"),
        (601, "fault"),
        (-7200, "fault"),
    ],
)
def test_a_clock_that_is_wrong_is_a_warning_from_two_minutes_and_a_fault_from_ten(seconds, state):
    (check,) = sources.check_clock(Server(ahead=timedelta(seconds=seconds)).finding("uksouth"))
    assert check.state == state
    if state != "ok":
        assert ("ahead of" in check.detail) == (seconds > 0)


def test_a_source_without_server_has_no_clock():
    assert list(sources.check_clock(SourceProbe("synthetic", Synthetic(), {}))) == []


def test_a_deadline_that_is_over_is_a_fault():
    over = Settings.load({"finish_by": NOW})
    assert [check.state for check in sources.check_finish_by(over, NOW)] == ["fault"]
    for later in (NOW + timedelta(minutes=1), timedelta(hours=1), None):
        assert list(sources.check_finish_by(Settings.load({"finish_by": later}), NOW)) == []


def test_sources_that_measure_different_things_are_a_warning():
    uk = SourceProbe("uk-carbon-intensity", UkCarbonIntensity(clock=VirtualClock(NOW)), {})
    maps = SourceProbe("electricity-maps", ElectricityMaps("x", clock=VirtualClock(NOW)), {})
    assert list(sources.check_signals([])) == list(sources.check_signals([uk, maps])) == []
    (check,) = sources.check_signals([Server().finding("uksouth"), uk])
    assert "LOWCARB_SDK_SIGNAL" in check.fix
    of_a_file = replace(Server().finding("uksouth"), name="traces")  # its signal is unknown, too
    (check,) = sources.check_signals([uk, of_a_file])
    assert check.fix == "leave traces out"
