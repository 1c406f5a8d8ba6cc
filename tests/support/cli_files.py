"""A job and a forecast on disk, and one way to run a command on them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from lowcarb_scheduler.cli import main
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.forecasts import registry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import pytest

NOW = datetime.fromisoformat("2026-03-02T00:00:00+00:00")
HEADER = "location,time,g_per_kwh"
INTENSITY = {"DE": (500, 300), "FR": (60, 40)}  # by location: at night, by day [gCO2eq/kWh]


def job(**changes: object) -> dict[str, Any]:
    """Return a job of four rounds that can wait for the day; None leaves a key out."""
    clients = [{"id": f"site-{k}", "location": ("DE", "FR")[k % 2], "power_watts": 1000} for k in range(4)]
    document = {
        "now": format_time(NOW), "finish_by": "24h", "rounds": 4, "clients_per_round": 2,
        "round_duration_minutes": 60, "clients": clients, **changes,
    }  # fmt: skip
    return {key: value for key, value in document.items() if value is not None}


def clients(**changes: object) -> list[dict[str, object]]:
    """Return the job's clients, the fourth of them changed; None leaves a key out."""
    listed: list[dict[str, object]] = job()["clients"]
    listed[3] = {key: value for key, value in (listed[3] | changes).items() if value is not None}
    return listed


def write_job(folder: Path, **changes: object) -> Path:
    path = folder / "job.json"
    path.write_text(json.dumps(job(**changes)), encoding="utf-8")
    return path


def forecast_rows(hours: int = 48, issued_at: str | None = None) -> list[str]:
    issue = f",{issued_at}" if issued_at else ""
    return [
        f"{location},{format_time(NOW + timedelta(hours=h))},{day if 8 <= h % 24 < 16 else night}{issue}"
        for location, (night, day) in INTENSITY.items()
        for h in range(hours)
    ]


def write_forecast(folder: Path, rows: list[str] | None = None, header: str = HEADER) -> Path:
    path = folder / "forecast.csv"
    path.write_text("\n".join([header, *(forecast_rows() if rows is None else rows)]), encoding="utf-8")
    return path


class Response:
    """Result of a command: exit code and both streams."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out, parse_constant=lambda name: [][0])  # NaN is no JSON

    @property
    def line(self) -> str:
        """The one line on stderr."""
        (line,) = self.err.splitlines()
        return line


def opener(sources: Mapping[str, Any]) -> Callable[[str, Any], Any]:
    """Return a function that opens these sources by their names, and all others as usual."""
    return lambda name, settings: sources.get(name) or registry.open_source(name, settings)


def run(capsys: pytest.CaptureFixture[str], *arguments: object, **outside: Any) -> Response:
    """Run a command; ``outside`` are parts of its runtime that are not this machine's."""
    code = main([str(argument) for argument in arguments], Runtime(**outside))
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    return Response(code, out, err)
