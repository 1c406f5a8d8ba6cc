from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.forecasts.http.client import Fetcher, Request, ServerStats
from lowcarb_scheduler.forecasts.registry import open_source
from lowcarb_scheduler.settings import Settings

NOW = datetime(2026, 3, 2, tzinfo=UTC)


def date(ahead: timedelta) -> str:
    return format_datetime(NOW + ahead, usegmt=True)


@pytest.mark.parametrize("ahead", [timedelta(0), timedelta(minutes=11), -timedelta(hours=2)])
def test_the_clock_of_a_server_is_compared_with_ours(ahead):
    contact = ServerStats(VirtualClock(NOW))
    contact.note(httpx.Response(200, headers={"Date": date(ahead)}))
    assert contact.ahead == ahead


def test_a_cached_answer_has_an_older_date():
    contact = ServerStats(VirtualClock(NOW))
    contact.note(httpx.Response(200, headers={"Date": date(-timedelta(minutes=20)), "Age": "1200"}))
    assert contact.ahead == timedelta(0)


@pytest.mark.parametrize(
    "headers", [{}, {"Date": "yesterday"}, {"Date": ""}, {"Date": date(timedelta(0)), "Age": "old"},
                {"Date": date(timedelta(0)), "Age": "9" * 30}],
)  # fmt: skip
def test_a_server_need_not_tell_the_time(headers):
    contact = ServerStats(VirtualClock(NOW))
    contact.note(httpx.Response(200, headers=headers))
    assert contact.ahead is None


def test_a_fetcher_sees_refusals_too_and_shares_what_it_has_seen():
    def answer(request):
        return httpx.Response(401 if request.url.path == "/a" else 200, headers={"Date": date(timedelta(9))})

    fetcher = Fetcher(
        httpx.URL("http://sdk:8080"), timedelta(seconds=30), VirtualClock(NOW), httpx.MockTransport(answer)
    )
    requests = {path: Request(path) for path in ("a", "b")}
    assert not fetcher.contact.asked
    fetcher.within(timedelta(seconds=5)).get_all(requests, lambda _, answer: answer.status)
    assert fetcher.contact.statuses == {200, 401}
    assert fetcher.contact.ahead == timedelta(9)
    assert fetcher.contact.asked


def test_a_server_that_is_silent_was_asked_all_the_same():
    def silent(request):
        raise httpx.ConnectError("refused")

    fetcher = Fetcher(
        httpx.URL("http://sdk:8080"), timedelta(seconds=30), VirtualClock(NOW), httpx.MockTransport(silent)
    )
    fetcher.get_all({"a": Request("a")}, lambda _, answer: answer.status)
    assert (fetcher.contact.asked, fetcher.contact.statuses) == (True, set())


@pytest.mark.parametrize("name", ["carbon-aware-sdk", "electricity-maps", "uk-carbon-intensity", "watttime"])
def test_every_source_on_the_web_says_what_it_saw_of_its_server(name, monkeypatch):
    for secret in ("ELECTRICITY_MAPS_TOKEN", "WATTTIME_USER", "WATTTIME_PASSWORD"):
        monkeypatch.setenv(f"LOWCARB_{secret}", "x")
    source = open_source(name, Settings.load({"sdk_url": "http://sdk:8080"}))
    assert source.stats.statuses == set()
