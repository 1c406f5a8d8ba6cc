"""Faulty servers: a call keeps its time limit, a run its deadline, and the ledger records the fault."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

import httpx
import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import CarbonAwareSdk, CarbonClientApp, carbon_aware
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts.base import ForecastSource
from lowcarb_scheduler.forecasts.sources.electricity_maps import ElectricityMaps
from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import UkCarbonIntensity
from lowcarb_scheduler.forecasts.sources.watttime import WattTime
from lowcarb_scheduler.intensity import MAX_G_PER_KWH
from lowcarb_scheduler.testing import InMemoryGrid
from support.clocks import Machine
from support.fault_transports import FAULTS, switching
from support.openapi_check import FOLDER
from support.runs import RUN, events_of
from support.sdk_server import SdkServer

HOUR = timedelta(hours=1)
BUDGET = timedelta(seconds=30)
ROUNDS = 3
USED = {"at first": "no waiting", "mid-run": "the last good forecast is used"}


class Timed(ForecastSource):
    """A source that is watched: no call may take longer than it was given."""

    def __init__(self, source, clock):
        self._source, self._clock, self.signal = source, clock, source.signal
        source.client.concurrency = 1  # on a virtual clock only that determines the order of events

    def forecast(self, *args, timeout=None):
        return self._timed(self._source.forecast, *args, timeout=timeout)

    def actual(self, *args, timeout=None):
        return self._timed(self._source.actual, *args, timeout=timeout)

    def _timed(self, call, *args, timeout):
        began = self._clock.now()
        try:
            return call(*args, timeout=timeout)
        finally:
            assert self._clock.now() - began <= min(timeout or BUDGET, BUDGET)


def train(handler, clock):
    """Run a strategy against a server and return what was trained."""
    app = CarbonClientApp()
    worked = set()

    @app.train()
    def train(message, context):
        (weights,) = message.content["arrays"].to_numpy_ndarrays()
        if (number := message.content["config"]["server-round"]) not in worked:
            worked.add(number)
            clock.sleep_until(clock.now() + HOUR)
        reply = {"arrays": ArrayRecord([weights + 1]), "metrics": MetricRecord({"num-examples": 5})}
        return Message(RecordDict(reply), reply_to=message)

    grid = InMemoryGrid(
        app, [{"partition-id": k, "location": place} for k, place in enumerate(["DE", "GB"] * 2)]
    )
    sdk = CarbonAwareSdk("http://sdk:8080", transport=httpx.MockTransport(handler), clock=clock)
    strategy = carbon_aware(
        FedAvg(fraction_evaluate=0.0), source=Timed(sdk, clock), clock=clock, finish_by=24 * HOUR + BUDGET,
        round_duration=HOUR, clients_per_round=2, run_dir=RUN, archive_dir="none",
        participation_correction="off",  # it follows the schedule, on which a fault has an effect
    )  # fmt: skip
    result = strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=ROUNDS, timeout=5)
    return result.arrays.to_numpy_ndarrays()[0]


@pytest.mark.parametrize("since", ["at first", "mid-run"])
@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_a_run_lives_through_every_fault_of_a_server(fault, since, midnight):
    clock = Machine(midnight)
    good = SdkServer(clock)
    bad = fault.make(good, clock)
    begins = midnight if since == "at first" else midnight + timedelta(minutes=20)
    hits = []

    def count(request):
        hits.append(clock.now())
        return bad(request)

    weights = train(switching(good, count, lambda: clock.now() >= begins), clock)
    assert weights.tolist() == [ROUNDS] * 3  # what it is without any forecast
    (begun,), (ended,), closed = (
        events_of("run_started"),
        events_of("run_finished"),
        events_of("round_closed"),
    )
    assert hits
    assert (ended["status"], ended["late"], len(closed)) == ("completed", False, ROUNDS)
    assert parse_time(closed[-1]["closes_at"], "") <= parse_time(begun["finish_by"], "")
    told = [event for event in events_of("degraded") if event["what"] == "forecast"]
    if not fault.why:
        assert not told
        assert events_of("hold_started")
        return
    assert fault.why in told[0]["why"]
    assert USED[since] in told[0]["consequence"]
    if since == "at first":
        assert not events_of("forecast")
        assert bool(events_of("hold_started")) == bool(events_of("actual"))  # history is worth a wait as well


# -- every source on the web -------------------------------------------------------------------------------

NOW = datetime(2026, 3, 10, 14, 25, 30, tzinfo=UTC)
WEB = {
    "carbon-aware-sdk": (lambda **given: CarbonAwareSdk("http://sdk:8080", **given), "westeurope",
                         "currentForecast-hourly"),
    "electricity-maps": (lambda **given: ElectricityMaps("token", **given), "DE", "forecast"),
    "uk-carbon-intensity": (UkCarbonIntensity, "GB", "nationalForecast"),
    "watttime": (lambda **given: WattTime("user", "password", **given), "CAISO_NORTH", "forecast"),
}  # fmt: skip


def response(name, request):
    """Return the response of a healthy server."""
    file = "login" if request.url.path == "/login" else WEB[name][2]
    return httpx.Response(200, content=(FOLDER / "responses" / name / f"{file}.json").read_bytes())


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("name", WEB)
def test_every_call_of_every_source_ends_in_time_with_numbers_or_a_reason(name, fault):
    clock, (make, place, _) = Machine(NOW), WEB[name]
    good, faulty = partial(response, name), False
    handler = switching(good, fault.make(good, clock), lambda: faulty)
    source = Timed(make(transport=httpx.MockTransport(handler), clock=clock), clock)
    assert np.isfinite(source.forecast([place], NOW).intensity.values).any()
    faulty = True
    for call in (
        lambda: source.forecast([place], NOW).intensity,
        lambda: source.actual([place], NOW - 3 * HOUR, NOW),
        lambda: source.forecast([place], NOW, timeout=BUDGET / 10).intensity,
    ):
        clock.sleep_until(clock.now() + HOUR)  # past the circuit breaker, and the life of a token
        try:
            values = call().values
        except ForecastUnavailableError as error:
            (why,) = error.missing.values()
            assert why.isprintable()
            assert len(why) < 500
        else:
            assert "clock" in fault.why or not fault.why  # not every source tells when it was made
            assert np.nanmin(values) >= 0
            assert np.nanmax(values) <= MAX_G_PER_KWH
