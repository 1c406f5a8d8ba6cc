"""The check of requests against OpenAPI documents finds what it should."""

from __future__ import annotations

import httpx
import pytest

from support.openapi_check import Document

TOKEN = {"auth-token": "t"}
BEARER = {"Authorization": "Bearer t"}


def refused(source, url, headers=None):
    """Return whether a request is refused."""
    document = Document(source)
    try:
        document.check_request(httpx.Request("GET", f"{document.url}{url}", headers=headers or {}))
    except Exception:  # noqa: BLE001 (of many kinds)
        return True
    return False


@pytest.mark.parametrize(
    ("source", "url", "headers"),
    [
        ("uk-carbon-intensity", "/intensity/2026-03-10T14:00Z/fw48h", {}),
        ("uk-carbon-intensity", "/intensity/2026-03-10T14:00Z/2026-03-10T14:30Z", {}),
        ("uk-carbon-intensity", "/regional/intensity/2026-03-10T14:00Z/fw48h/postcode/RG41", {}),
        ("electricity-maps-v3", "/v3/carbon-intensity/forecast?zone=US-CAL-CISO&horizonHours=72", TOKEN),
        ("watttime", "/v3/forecast?region=PJM_DC&signal_type=co2_moer&horizon_hours=72", BEARER),
        ("watttime", "/login", {"Authorization": "Basic eDp5"}),
    ],
)
def test_good_requests_pass(source, url, headers):
    assert not refused(source, url, headers)


@pytest.mark.parametrize(
    ("source", "url", "headers"),
    [
        ("uk-carbon-intensity", "/intensity/2026-03-10T14:25Z/fw48h", {}),  # no half hour
        ("uk-carbon-intensity", "/intensity/2026-03-10/fw48h", {}),
        ("uk-carbon-intensity", "/intensity/2026-03-10T14:00Z/fw48h?x=1", {}),
        ("uk-carbon-intensity", "/regional/intensity/2026-03-10T14:00Z/fw48h/regionid/18", {}),
        ("uk-carbon-intensity", "/regional/intensity/2026-03-10T14:00Z/fw48h/postcode/rg41", {}),
        ("uk-carbon-intensity", "/elsewhere", {}),
        ("electricity-maps-v3", "/v3/carbon-intensity/forecast?zone=DE", {}),  # no token
        ("electricity-maps-v3", "/v3/carbon-intensity/forecast", TOKEN),
        ("electricity-maps-v3", "/v3/carbon-intensity/forecast?zone=DE&horizonHours=71", TOKEN),
        ("electricity-maps-v3", "/v3/carbon-intensity/forecast?zone=DE&lat=1&lon=2", TOKEN),
        ("electricity-maps-v3", "/v3/carbon-intensity/forecast?zone=DE&zone=FR", TOKEN),
        ("electricity-maps-v3", "/v3/carbon-intensity/past-range?zone=DE&start=2026-03-10T14:00:00Z", TOKEN),
        ("watttime", "/v3/forecast?region=DE&signal_type=co2_moer&horizon_hours=72", {}),
        ("watttime", "/v3/forecast?region=DE&signal_type=co2_aoer&horizon_hours=72", BEARER),
        ("watttime", "/v3/forecast?region=DE&signal_type=co2_moer&horizon_hours=73", BEARER),
        ("watttime", "/v3/historical?region=DE&signal_type=co2_moer&start=2026-03-10T14:00:00Z"
         "&end=2026-03-10T15:00:00.5Z", BEARER),
        ("watttime", "/login", BEARER),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(source, url, headers):
    assert refused(source, url, headers)


@pytest.mark.parametrize(
    "body", [{"data": [{"from": "2026-03-10T14:00Z"}]}, {"data": [], "more": 1}, {"data": 3}, []]
)
def test_bad_responses_are_refused(body):
    document = Document("uk-carbon-intensity")
    request = httpx.Request("GET", f"{document.url}/intensity/2026-03-10T14:00Z/fw48h")
    document.check_response(request, httpx.Response(200, json={"data": []}))
    with pytest.raises(Exception, match=r".+"):
        document.check_response(request, httpx.Response(200, json=body))
