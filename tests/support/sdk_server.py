"""A Carbon Aware SDK WebAPI in memory, its numbers those of the synthetic source."""

from __future__ import annotations

from datetime import datetime, timedelta

import httpx

from lowcarb_scheduler import Synthetic
from lowcarb_scheduler.clock import Clock, format_time

HOUR = timedelta(hours=1)


class SdkServer:
    """Answers as the WebAPI does with Electricity Maps behind it: hourly, 24 hours ahead.

    Parameters
    ----------
    clock : Clock
        Its clock.

    Attributes
    ----------
    requests : list of httpx.Request
        What it was asked.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock, self._world = clock, Synthetic()
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        now, location = self._clock.now(), request.url.params.get("location")
        if request.url.path == "/emissions/forecasts/current":
            known = self._world.forecast([location], now).intensity.slice(now, now + 24 * HOUR)
            data = [{"location": location, "timestamp": time, "duration": 60, "value": value}
                    for time, value in _hours(known)]  # fmt: skip
            made = {"generatedAt": format_time(now), "requestedAt": format_time(now), "location": location,
                    "windowSize": 0, "optimalDataPoints": [], "forecastData": data}  # fmt: skip
            return httpx.Response(200, json=[made])
        if request.url.path == "/emissions/bylocations":
            start, end = (datetime.fromisoformat(request.url.params[key]) for key in ("time", "toTime"))
            known = self._world.actual([location], start, min(end, now))
            data = [{"location": location, "time": time, "rating": value, "duration": "01:00:00"}
                    for time, value in _hours(known)]  # fmt: skip
            return httpx.Response(200, json=data)
        return httpx.Response(404)


def _hours(table):
    (column,) = table.to_points().values()
    return [(format_time(point["time"]), point["g_per_kwh"]) for point in column]
