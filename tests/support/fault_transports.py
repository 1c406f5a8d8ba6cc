"""Servers that are slow, broken or wrong, for any source that reads JSON over HTTP.

A handler answers an httpx.Request; a :class:`Fault` makes a bad one of a good one. The slow ones cost
time on the clock they share with the client.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from email.utils import format_datetime
from functools import cache

import httpx

from lowcarb_scheduler.clock import Clock, format_time, parse_time

Handler = Callable[[httpx.Request], httpx.Response]

MEGABYTE = 2**20
VALUES = ("value", "rating", "carbonIntensity", "forecast", "actual")  # what intensity is called, by sources
MADE = ("generatedAt", "updatedAt", "generated_at")
TIMES = (*MADE, "timestamp", "time", "datetime", "from", "to", "point_time")


@dataclass(frozen=True)
class Fault:
    """Fault of a server.

    Parameters
    ----------
    name : str
        Its name.
    make : callable
        Returns a bad handler for a good one and a clock.
    why : str
        What the reason given for it contains; empty where nothing is lost.
    """

    name: str
    make: Callable[[Handler, Clock], Handler]
    why: str = ""

    def __str__(self):
        return self.name


class Body(httpx.SyncByteStream):
    """A body that comes in pieces, and may break off."""

    def __init__(self, pieces):
        self._pieces = pieces

    def __iter__(self):
        yield from self._pieces


def switching(good, bad, is_bad):
    """Return a handler that is good or bad as ``is_bad()`` says at the moment of a request."""
    return lambda request: (bad if is_bad() else good)(request)


def _always(answer):
    """Make a server that answers every request alike, whatever the good one says."""
    return lambda good, clock: lambda request: answer(request, clock)


def _raising(error, text):
    def answer(request, _):
        raise error(text, request=request)

    return _always(answer)


def _silent(request, clock):
    clock.sleep_until(clock.now() + timedelta(seconds=request.extensions["timeout"]["read"]))
    raise httpx.ReadTimeout("timed out", request=request)


def _dripping(good, clock):
    def answer(request):
        content = good(request).content

        def pieces():
            for start in range(len(content)):
                clock.sleep_until(clock.now() + timedelta(seconds=1))
                yield content[start : start + 1]

        return httpx.Response(200, stream=Body(pieces()))

    return answer


def _breaking_off(error):
    """Make a server that sends half of what is right, and then an error or nothing."""

    def make(good, _):
        def answer(request):
            content = good(request).content

            def pieces():
                yield content[: len(content) // 2]
                if error:
                    raise error

            return httpx.Response(200, stream=Body(pieces()))

        return answer

    return make


def _limiting(good, _):
    """Make a server that refuses each thing twice before it gives it."""
    seen = {}

    def answer(request):
        seen[request.url] = seen.get(request.url, 0) + 1
        return (
            good(request) if seen[request.url] % 3 == 0 else httpx.Response(429, headers={"retry-after": "2"})
        )

    return answer


def _limited(*_):
    return httpx.Response(429, headers={"retry-after": "3600"})


def _redirecting(request, _):
    return httpx.Response(307, headers={"location": str(request.url)})


def _huge(*_):
    return httpx.Response(200, stream=Body(b" " * MEGABYTE for _ in range(100)))


@cache
def _packed():
    return gzip.compress(bytes(200 * MEGABYTE), 1)


def _bomb(*_):
    pieces = (_packed()[start : start + 65_536] for start in range(0, len(_packed()), 65_536))
    return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=Body(pieces))


def _edited(edit):
    """Make a server whose JSON is edited: each object and each list of objects in it, from the inside out."""

    def make(good, _):
        def changed(item):
            if isinstance(item, dict):
                return edit({key: changed(value) for key, value in item.items()})
            return edit([changed(value) for value in item]) if isinstance(item, list) else item

        def answer(request):
            response = good(request)
            if not response.content:
                return response
            return httpx.Response(response.status_code, content=json.dumps(changed(response.json())))

        return answer

    return make


def _each(keys, change):
    """Edit the values under some keys of every object."""

    def edit(item):
        if isinstance(item, list):
            return item
        return {key: change(value) if key in keys and not isinstance(value, list | dict | None) else value
                for key, value in item.items()}  # fmt: skip

    return edit


def _points(change):
    """Edit every list of points."""

    def edit(item):
        points = isinstance(item, list) and len(item) > 2 and all(isinstance(point, dict) for point in item)
        return change(item) if points else item

    return edit


def _naive(text):
    return text.removesuffix("Z").removesuffix("+00:00")


def _later(hours):
    return lambda text: format_time(parse_time(text, "") + timedelta(hours=hours))


def _with_date(make, hours):
    """Let the server also tell its own time."""

    def made(good, clock):
        bad = make(good, clock)

        def answer(request):
            response = bad(request)
            response.headers["date"] = format_datetime(clock.now() + timedelta(hours=hours), usegmt=True)
            return response

        return answer

    return made


_TRUNCATED = httpx.RemoteProtocolError("peer closed connection without sending complete message body")
_UNTRUSTED = (
    "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed certificate (_ssl.c:1016)"
)

FAULTS = (
    Fault("silent", _always(_silent), "does not answer in time"),
    Fault("dripping", _dripping, "does not answer completely in time"),
    Fault("reset", _raising(httpx.ReadError, "Connection reset by peer"), "broke off the connection"),
    Fault("reset in the body", _breaking_off(httpx.ReadError("reset")), "broke off the connection"),
    Fault("truncated", _breaking_off(_TRUNCATED), "broke off the connection"),
    Fault("truncated unseen", _breaking_off(None), "something that is not JSON"),
    Fault("refused", _raising(httpx.ConnectError, "Connection refused"), "cannot connect"),
    Fault("TLS failure", _raising(httpx.ConnectError, _UNTRUSTED), "cannot connect"),
    Fault("HTML 502", _always(lambda *_: httpx.Response(502, html="<h1>Bad Gateway</h1>")), "a web page"),
    Fault("HTML 200", _always(lambda *_: httpx.Response(200, html="<h1>Sign in</h1>")), "a web page"),
    Fault("empty 500", _always(lambda *_: httpx.Response(500)), "answered 500 with an empty body"),
    Fault("empty 200", _always(lambda *_: httpx.Response(200)), "answered 200 with an empty body"),
    Fault("redirect loop", _always(_redirecting), "redirects more than"),
    Fault("429, 429, 200", _limiting),
    Fault("429 for an hour", _always(_limited), "answered 429"),
    Fault(
        "number for a document", _always(lambda *_: httpx.Response(200, json=5)), "answered with JSON that"
    ),
    Fault("strings for values", _edited(_each(VALUES, str)), "is not a plausible intensity"),
    Fault("lists for times", _edited(_each(TIMES, lambda time: [time])), "is not a time"),
    Fault("NaN", _edited(_each(VALUES, lambda _: float("nan"))), "nan is not a plausible intensity"),
    Fault("negative", _edited(_each(VALUES, lambda value: -1 - value)), "is not a plausible intensity"),
    Fault("duplicate", _edited(_points(lambda points: [point for point in points for _ in "ab"]))),
    Fault("unordered", _edited(_points(lambda points: points[::-2] + points[-2::-2]))),
    Fault("gapped", _edited(_points(lambda points: points[::2]))),
    Fault("year 9999", _edited(_each(TIMES, lambda _: "9999-12-31T23:59:59+00:00")), "clocks is wrong"),
    Fault("naive times", _edited(_each(TIMES, _naive)), "has no UTC offset"),
    Fault("100 MB", _always(_huge), "larger than 32 MB"),
    Fault("gzip bomb", _always(_bomb), "larger than 32 MB"),
    Fault("clock 2 h ahead", _with_date(_edited(_each(MADE, _later(2))), 2), "clocks is wrong"),
    Fault("clock 2 h behind", _with_date(_edited(_each(MADE, _later(-2))), -2)),
)
