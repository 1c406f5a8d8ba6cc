"""Secrets: credentials appear in no error, log or repr, even if a server echoes them."""

from __future__ import annotations

import base64
import logging
from datetime import UTC, datetime, timedelta
from traceback import format_exception

import httpx
import pytest

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import ForecastUnavailableError, LowcarbError
from lowcarb_scheduler.forecasts.sources.electricity_maps import ElectricityMaps
from lowcarb_scheduler.forecasts.sources.watttime import WattTime

NOW = datetime(2026, 3, 10, 14, 25, tzinfo=UTC)
SECRET = "s3cret-Zk9/+x"
USER = "somebody@example.org"
BASIC = base64.b64encode(f"{USER}:{SECRET}".encode()).decode()
BEARER = "eyJhbGciOi.J9token"


def sources(respond):
    transport, clock = httpx.MockTransport(respond), VirtualClock(NOW)
    yield ElectricityMaps(SECRET, transport=transport, clock=clock)
    yield WattTime(USER, SECRET, transport=transport, clock=clock)


def calls(source):
    yield lambda: source.forecast(["DE"], NOW)
    yield lambda: source.actual(["DE"], NOW - timedelta(days=8), NOW)
    yield source.known_locations
    yield lambda: source.forecast(["DE"], NOW, timeout=timedelta(seconds=5))
    if source.keeps_past_forecasts:
        yield lambda: source.past_forecasts(["DE"], NOW, NOW + timedelta(hours=1), timedelta(hours=1))


def echo(request):
    """Return all that a server has seen, in the clear and as it came."""
    seen = [SECRET, USER, BASIC] if "watttime" in request.url.host else [SECRET]
    return " ".join([*request.headers.values(), *seen])


def raising(error):
    def respond(request):
        raise error(f"failed at {request.url} with {echo(request)}", request=request)

    return respond


ANSWERS = {
    "401 that echoes": lambda request: httpx.Response(401, json={"error": echo(request)}),
    "403 page that echoes": lambda request: httpx.Response(403, text=f"<html>{echo(request)}</html>"),
    "500 that echoes": lambda request: httpx.Response(500, text=echo(request)),
    "problem that echoes": lambda request: httpx.Response(400, json={"title": "no", "detail": echo(request)}),
    "JSON that echoes": lambda request: httpx.Response(200, json={"token": BEARER, "zone": SECRET,
        "meta": {"units": f"{BEARER} {SECRET}"}, "data": [], "forecast": []}),
    "text that echoes": lambda request: httpx.Response(200, text=echo(request)),
    "redirect to itself": lambda request: httpx.Response(302, headers={"location": f"/{SECRET}"}),
    "redirect elsewhere": lambda request: httpx.Response(302, headers={"location": f"https://{USER}:{SECRET}@e.org"}),
    "no connection": raising(httpx.ConnectError),
    "reset": raising(httpx.ReadError),
    "silence": raising(httpx.ReadTimeout),
    "protocol error": raising(httpx.RemoteProtocolError),
    "not decodable": raising(httpx.DecodingError),
}  # fmt: skip


def after_login(respond):
    """Log in first, then answer."""

    def answer(request):
        if request.url.path == "/login":
            return httpx.Response(200, json={"token": BEARER})
        return respond(request)

    return answer


@pytest.mark.parametrize("logged_in", [False, True])
@pytest.mark.parametrize("kind", ANSWERS)
def test_no_credential_is_shown_whatever_fails(kind, logged_in, caplog):
    respond = ANSWERS[kind]
    shown = []
    with caplog.at_level(logging.DEBUG):
        for source in sources(after_login(respond) if logged_in else respond):
            for call in calls(source):
                with pytest.raises(LowcarbError) as error:
                    call()
                assert isinstance(error.value, ForecastUnavailableError)
                shown += [repr(error.value), str(error.value.data()), *format_exception(error.value)]
            shown.append(repr(source))
    shown += [record.getMessage() for record in caplog.records]
    for text in shown:
        for secret in (SECRET, USER, BASIC, BEARER):
            assert secret not in text


@pytest.mark.parametrize("kind", ["401 that echoes", "problem that echoes", "reset"])
def test_what_is_left_of_an_echo_still_says_what_happened(kind):
    for source in sources(after_login(ANSWERS[kind])):
        with pytest.raises(ForecastUnavailableError, match=r"answered 4|broke off the connection"):
            source.forecast(["DE"], NOW)


def test_credentials_are_sent_to_no_other_host_and_over_no_redirect():
    hosts = set()

    def respond(request):
        hosts.add((request.url.host, request.url.path))
        return httpx.Response(307, headers={"location": "https://evil.org/login"})

    for source in sources(respond):
        for call in calls(source):
            with pytest.raises(ForecastUnavailableError, match=r"redirects to https://evil\.org"):
                call()
    assert {host for host, _ in hosts} == {"api.electricitymaps.com", "api.watttime.org"}


# -- Proxies of the environment ----------------------------------------------------------------------------

PROXIES = {
    "slash": "http://user:s3cr/etpw@proxy:80",
    "question mark": "http://user:s3cr?etpw@proxy:80",
    "hash": "http://user:s3cr#etpw@proxy:80",
    "scheme": "gopher://user:s3cretpw@proxy:80",
    "control character": "http://user:s3cr\x01etpw@proxy",
    "no socksio": "socks5://user:s3cretpw@proxy:80",
    "port": "http://user:pw@proxy:s3cretpw",
}


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("kind", PROXIES)
def test_a_wrong_proxy_is_named_and_no_part_of_its_password_shown(monkeypatch, variable, kind):
    monkeypatch.setenv(variable, PROXIES[kind])
    with pytest.raises(ForecastUnavailableError) as caught:
        ElectricityMaps(SECRET, clock=VirtualClock(NOW)).forecast(["DE"], NOW)
    text = str(caught.value)
    assert variable.upper() in text
    assert not any(part in text for part in ("user", "s3cr", "etpw"))


def test_a_proxy_that_echoes_its_credentials_is_masked(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://operator:s3cretpw@proxy:80")
    coded = base64.b64encode(b"operator:s3cretpw").decode()
    refusal = httpx.MockTransport(lambda _: httpx.Response(407, text=f"no: Basic {coded}, operator:s3cretpw"))
    with pytest.raises(ForecastUnavailableError) as caught:
        ElectricityMaps(SECRET, clock=VirtualClock(NOW), transport=refusal).forecast(["DE"], NOW)
    assert "answered 407" in str(caught.value)
    assert not any(part in str(caught.value) for part in (coded, "operator", "s3cretpw"))


def test_a_redirect_to_an_impossible_address_shows_no_part_of_it():
    moved = httpx.MockTransport(
        lambda _: httpx.Response(302, headers={"location": "http://user:s3cr/etpw@proxy"})
    )
    with pytest.raises(ForecastUnavailableError) as caught:
        ElectricityMaps(SECRET, clock=VirtualClock(NOW), transport=moved).forecast(["DE"], NOW)
    assert "s3cr" not in str(caught.value)
