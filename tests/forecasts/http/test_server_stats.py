from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.forecasts.http.client import HttpClient, Request, ServerStats
from lowcarb_scheduler.forecasts.registry import open_source
from lowcarb_scheduler.settings import Settings

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def date(ahead: timedelta) -> str:
    return format_datetime(NOW + ahead, usegmt=True)


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(minutes=11), -timedelta(hours=2)])
def test_the_clock_of_a_server_is_compared_with_ours(ahead):
    stats = ServerStats(VirtualClock(NOW))
    stats.on_response(httpx.Response(200, headers={"Date": date(ahead)}))
    assert stats.ahead == ahead


def test_a_cached_answer_has_an_older_date():
    stats = ServerStats(VirtualClock(NOW))
    stats.on_response(httpx.Response(200, headers={"Date": date(-timedelta(minutes=20)), "Age": "1200"}))
    assert stats.ahead == timedelta(0)


@pytest.mark.parametrize(
    "headers", [{}, {"Date": "yesterday"}, {"Date": ""}, {"Date": date(timedelta(0)), "Age": "old"},
                {"Date": date(timedelta(0)), "Age": "9" * 30}],
)  # fmt: skip
def test_without_a_valid_date_the_lead_of_the_clock_is_unknown(headers):
    stats = ServerStats(VirtualClock(NOW))
    stats.on_response(httpx.Response(200, headers=headers))
    assert stats.ahead is None


def test_stats_include_error_responses():
    def answer(request):
        return httpx.Response(401 if request.url.path == "/a" else 200, headers={"Date": date(timedelta(9))})

    client = HttpClient(
        httpx.URL("http://sdk:8080"), timedelta(seconds=30), VirtualClock(NOW), httpx.MockTransport(answer)
    )
    requests = {path: Request(path) for path in ("a", "b")}
    assert not client.stats.asked
    client.send_all(requests, lambda _, answer: answer.status, timedelta(seconds=5))
    assert client.stats.statuses == {200, 401}
    assert client.stats.ahead == timedelta(9)
    assert client.stats.asked


def test_a_request_without_a_response_counts_as_sent():
    def silent(request):
        raise httpx.ConnectError("refused")

    client = HttpClient(
        httpx.URL("http://sdk:8080"), timedelta(seconds=30), VirtualClock(NOW), httpx.MockTransport(silent)
    )
    client.send_all({"a": Request("a")}, lambda _, answer: answer.status)
    assert (client.stats.asked, client.stats.statuses) == (True, set())


@pytest.mark.parametrize("name", ["carbon-aware-sdk", "electricity-maps", "uk-carbon-intensity", "watttime"])
def test_every_web_source_has_stats_of_its_server(name, monkeypatch):
    for secret in ("ELECTRICITY_MAPS_TOKEN", "WATTTIME_USER", "WATTTIME_PASSWORD"):
        monkeypatch.setenv(f"LOWCARB_{secret}", "x")
    source = open_source(name, Settings.load({"sdk_url": "http://sdk:8080"}))
    assert source.stats.statuses == set()
