"""Every forecast source passes the contract that users can run on their own source."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import count
from typing import ClassVar

import httpx
import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler import Forecast, ForecastSource, IntensityTable, Synthetic, Traces
from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.archive.cached_source import CachedSource
from lowcarb_scheduler.forecasts.archive.database import Archive
from lowcarb_scheduler.forecasts.base import adapt
from lowcarb_scheduler.forecasts.fallback import FallbackSource
from lowcarb_scheduler.forecasts.sources.carbon_aware_sdk import CarbonAwareSdk
from lowcarb_scheduler.forecasts.sources.electricity_maps import ElectricityMaps
from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import UkCarbonIntensity
from lowcarb_scheduler.forecasts.sources.watttime import WattTime
from support.forecast_sources import Web
from support.openapi_check import FOLDER, Document
from support.source_contract import ForecastSourceContract

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


# -- Sources of the user's own -----------------------------------------------------------------------------


class OwnRoof(ForecastSource):
    """Smallest source: solar power from 9 to 15 UTC, else the grid."""

    def _table(self, locations, start, end):
        times = pd.date_range(start.replace(minute=0, second=0), end, freq=HOUR)
        sunny = (times.hour >= 9) & (times.hour < 15)
        frame = pd.DataFrame({place: np.where(sunny, 45.0, 380.0) for place in locations}, index=times)
        return IntensityTable.from_frame(frame, signal="average", source="own roof")

    def forecast(self, locations, now, *, timeout=None):
        return Forecast(self._table(locations, now, now + 72 * HOUR), generated_at=now)

    def actual(self, locations, start, end, *, timeout=None):
        return self._table(locations, start, end).slice(start, end)


class Plain:
    """Source without the base class, whose methods take no time limit."""

    def forecast(self, locations, now):
        return OwnRoof().forecast(locations, now)

    def actual(self, locations, start, end):
        return OwnRoof().actual(locations, start, end)


class TestMinimalSource(ForecastSourceContract):
    unknown_location = None

    def make_source(self):
        return OwnRoof()


class TestSourceWithoutBaseClass(ForecastSourceContract):
    unknown_location = None

    def make_source(self):
        return Plain()


def test_what_a_source_without_the_base_class_declares_is_kept():
    class Declaring(Plain):
        name, signal, locations, faults = "roof", "average", ("DE",), ("a fault",)

        def known_locations(self):
            return {"DE": (52.5, 13.4)}

        def past_forecasts(self, locations, start, end, every):
            return [OwnRoof().forecast(locations, start)]

    source = adapt(Declaring())
    assert (source.name, source.signal, source.locations, source.faults) == (
        "roof", "average", ("DE",), ("a fault",),
    )  # fmt: skip
    assert source.known_locations(timeout=HOUR) == {"DE": (52.5, 13.4)}
    now = TestMinimalSource.now
    assert len(source.past_forecasts(["DE"], now, now + HOUR, HOUR)) == 1


def test_a_source_is_named_after_its_class_where_it_has_no_name():
    assert (OwnRoof().name, adapt(Plain()).name, Synthetic().name) == ("OwnRoof", "Plain", "synthetic")


def test_nothing_else_is_a_source():
    class HalfASource:
        def forecast(self, locations, now):
            raise NotImplementedError

    for wrong in (HalfASource(), OwnRoof, 7, None):
        with pytest.raises(InputError, match=r"derive its class from lowcarb_scheduler\.ForecastSource"):
            adapt(wrong)


def broken(**methods):
    """Return the smallest source with some methods replaced."""
    return type("Broken", (OwnRoof,), methods)


def flat(locations, start, value=1.0, signal="average"):
    frame = pd.DataFrame(
        {place: [value] * 3 for place in locations}, index=pd.date_range(start, periods=3, freq=HOUR)
    )
    return IntensityTable.from_frame(frame, signal=signal, source="flat")


NUMBERS = count()
BERLIN = timezone(2 * HOUR)
BROKEN = {
    "test_a_forecast_covers_the_locations_asked_for_and_reaches_past_now": broken(
        forecast=lambda self, locations, now: Forecast(flat(locations, now - 9 * HOUR), now)
    ),
    "test_times_are_aware_and_in_utc": broken(
        forecast=lambda self, locations, now: Forecast(flat(locations, now), now.astimezone(BERLIN))
    ),
    "test_a_forecast_is_not_issued_after_now": broken(
        forecast=lambda self, locations, now: Forecast(flat(locations, now), now + HOUR)
    ),
    "test_only_the_locations_asked_for_are_returned": broken(
        forecast=lambda self, locations, now: Forecast(flat(["DE", "FR"], now), now)
    ),
    "test_an_equal_question_has_an_equal_answer": broken(
        forecast=lambda self, locations, now: Forecast(flat(locations, now, float(next(NUMBERS))), now)
    ),
    "test_threads_may_share_a_source": broken(
        forecast=lambda self, locations, now: Forecast(flat(locations, now, float(next(NUMBERS))), now)
    ),
    "test_recorded_intensity_lies_inside_the_period": broken(
        actual=lambda self, locations, start, end: self._table(locations, start, end + HOUR)
    ),
    "test_the_provenance_is_constant": broken(
        actual=lambda self, locations, start, end: flat(locations, start, signal="marginal")
    ),
    "test_an_unknown_location_is_named_with_a_reason": OwnRoof,  # makes up numbers for any name
    "test_no_location_is_an_error": broken(forecast=lambda self, locations, now: None),
    "test_a_time_without_offset_is_an_error": broken(forecast=lambda self, locations, now: None),
}


@pytest.mark.parametrize("name", BROKEN)
def test_the_contract_finds_what_is_broken(name):
    class Contract(ForecastSourceContract):
        def make_source(self):
            return BROKEN[name]()

    with pytest.raises(AssertionError):
        getattr(Contract(), name)()


# -- Sources without a server ------------------------------------------------------------------------------


class TestSynthetic(ForecastSourceContract):
    def make_source(self):
        return Synthetic()


class TestTraces(ForecastSourceContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path):
        self.path = tmp_path / "trace.csv"
        times = pd.date_range(self.now - 24 * HOUR, self.now + 24 * HOUR, freq=HOUR)
        rows = [f"{place},{time.isoformat()},{k}" for place in self.locations for k, time in enumerate(times)]
        self.path.write_text("\n".join(["location,time,g_per_kwh", *rows]), encoding="utf-8")

    def make_source(self):
        return Traces(self.path)


# -- Web sources over recorded responses -------------------------------------------------------------------


class WebContract(ForecastSourceContract):
    """Contract of a source whose server gives the recorded responses in ``responses``, by end of the path."""

    now = datetime(2026, 3, 10, 14, 25, 30, tzinfo=UTC)
    past = timedelta(hours=30)
    document: str
    responses: ClassVar[dict[str, str]]
    refusal: ClassVar = (404, {"error": "not known"})

    def open(self, **options):
        raise NotImplementedError

    def make_source(self):
        return self.open(
            transport=Document(self.document).transport(self.answer), clock=VirtualClock(self.now)
        )

    def make_hanging_source(self):
        clock = VirtualClock(self.now)

        def hang(request):
            clock.sleep_until(clock.now() + timedelta(seconds=request.extensions["timeout"]["read"]))
            raise httpx.ReadTimeout("no response")

        return self.open(transport=httpx.MockTransport(hang), clock=clock), clock

    def answer(self, request):
        path, query = request.url.path, request.url.params
        asked = query.get("zone") or query.get("location") or query.get("region") or self.locations[0]
        file = next((file for end, file in self.responses.items() if path.endswith(end)), None)
        if asked not in self.locations or file is None:
            status, body = self.refusal
            return httpx.Response(status, json=body)
        content = (FOLDER / "responses" / self.document / f"{file}.json").read_bytes()
        return httpx.Response(200, content=content, headers={"content-type": "application/json"})


class TestCarbonAwareSdk(WebContract):
    document, locations = "carbon-aware-sdk", ("westeurope",)
    responses: ClassVar = {
        "/forecasts/current": "currentForecast-hourly", "/bylocations": "past-with-minus-one",
        "/locations": "locations", "/average-carbon-intensity": "average",
    }  # fmt: skip
    refusal: ClassVar = (400, {"title": "ArgumentException", "status": 400, "detail": "Unknown Location"})

    def open(self, **options):
        return CarbonAwareSdk("http://sdk:8080", **options)


class TestElectricityMaps(WebContract):
    document, locations, unknown_location = "electricity-maps", ("DE",), "XX"
    responses: ClassVar = {"/forecast": "forecast", "/past-range": "past", "/zones": "zones"}
    refusal: ClassVar = (400, {"error": "no such zone"})

    def open(self, **options):
        return ElectricityMaps("token", **options)


class TestElectricityMapsInVersion3(TestElectricityMaps):
    document = "electricity-maps-v3"

    def make_source(self):
        version_3 = Document(self.document).transport(self.answer)

        def answer(request):
            if request.url.path.startswith("/v4/"):
                return httpx.Response(410)
            return version_3.handle_request(request)

        return self.open(transport=httpx.MockTransport(answer), clock=VirtualClock(self.now))


class TestUkCarbonIntensity(WebContract):
    document, locations, unknown_location = "uk-carbon-intensity", ("GB",), "Atlantis"
    responses: ClassVar = {"/fw48h": "nationalForecast", "Z": "nationalPast"}

    def open(self, **options):
        return UkCarbonIntensity(**options)


class TestWattTime(WebContract):
    document, locations, unknown_location = "watttime", ("CAISO_NORTH",), "XX"
    responses: ClassVar = {
        "/forecast": "forecast", "/forecast/historical": "pastForecasts-empty", "/historical": "past",
        "/login": "login", "/my-access": "access",
    }  # fmt: skip
    refusal: ClassVar = (403, {"message": "no access"})

    def open(self, **options):
        return WattTime("user", "password", **options)


# -- Sources that ask other sources ------------------------------------------------------------------------


class TestFallback(ForecastSourceContract):
    def make_source(self):
        first = Web("first", places={"DE"})
        return FallbackSource([first, Web("second", places={"FR"})], clock=VirtualClock(self.now))

    def make_hanging_source(self):
        clock = VirtualClock(self.now)
        sources = [Web("first", clock=clock), Web("second", clock=clock)]
        for source in sources:
            source.takes = HOUR
        return FallbackSource(sources, clock=clock), clock


class TestCached(ForecastSourceContract):
    @pytest.fixture(autouse=True)
    def _archive(self, tmp_path):
        self.clock = VirtualClock(self.now)
        self.archive = Archive(tmp_path, clock=self.clock)

    def make_source(self):
        return CachedSource(Web("web", places=set(self.locations)), self.archive, self.clock)

    def make_hanging_source(self):
        source = Web("web", clock=self.clock)
        source.takes = HOUR
        return CachedSource(source, self.archive, self.clock), self.clock
