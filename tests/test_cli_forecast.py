from __future__ import annotations

from datetime import timedelta

import pytest

from cli_files import NOW, run
from lowcarb_scheduler import clock
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.forecasts import opening as sources
from lowcarb_scheduler.forecasts.source import Forecast
from lowcarb_scheduler.intensity import IntensityTable

HOURS = [3_600_000_000 * h + clock.to_us(NOW) for h in range(48)]


class Half:
    """A source that knows every place but Mars."""

    def forecast(self, locations, now):
        known = {name: (HOURS, [100.0 + h % 24 for h in range(48)]) for name in locations if name != "Mars"}
        missing = {"Mars": "the server answered 404\nNot Found"} if "Mars" in locations else {}
        if not known:
            raise ForecastUnavailableError(missing)
        return Forecast(IntensityTable.from_points(known, "marginal", "half"), NOW, missing)


@pytest.fixture(autouse=True)
def _a_source_and_a_clock(monkeypatch):
    monkeypatch.setattr(clock, "SystemClock", lambda: clock.VirtualClock(NOW + timedelta(minutes=90)))
    by_name = sources.open_source

    def open_source(name, settings):
        return Half() if name == "half" else by_name(name, settings)

    monkeypatch.setattr(sources, "open_source", open_source)


def test_the_document_has_the_keys_of_the_contract(capsys):
    answer = run(capsys, "forecast", "--location", "DE", "--source", "half", "--json")
    document = answer.document
    assert answer.code == 0
    assert set(document) == {
        "schema_version", "source", "signal", "synthetic", "generated_at", "locations", "missing",
    }  # fmt: skip
    assert (document["source"], document["signal"], document["synthetic"]) == ("half", "marginal", False)
    assert document["generated_at"] == "2026-03-02T00:00:00Z"
    assert document["locations"]["DE"][1] == {"time": "2026-03-02T01:00:00Z", "g_per_kwh": 101.0}
    assert len(document["locations"]["DE"]) == 48
    assert document["missing"] == {}


def test_people_read_a_row_a_location(capsys):
    answer = run(capsys, "forecast", "--location", "DE", "--location", "FR", "--source", "half")
    assert answer.code == 0
    *_, de, fr = answer.out.splitlines()
    name, now, least, *when = de.split()
    assert (name, now, least) == ("DE", "101", "100")
    assert when[:5] == ["Tue", "00:00", "123", "Mon", "23:00"]
    assert when[-2:] == ["Wed", "00:00"]
    assert fr.split()[0] == "FR"


def test_a_missing_location_is_named_and_the_others_are_shown(capsys):
    arguments = ["--location", "DE", "--location", "Mars", "--source", "half"]
    answer = run(capsys, "forecast", *arguments)
    assert answer.code == 1
    assert answer.out.splitlines()[-1].startswith("DE")
    assert answer.line == "lowcarb: no forecast for Mars: the server answered 404 Not Found"
    document = run(capsys, "forecast", *arguments, "--json").document
    assert list(document["locations"]) == ["DE"]
    assert document["missing"] == {"Mars": "the server answered 404\nNot Found"}


def test_no_location_at_all_is_exit_1(capsys):
    answer = run(capsys, "forecast", "--location", "Mars", "--source", "half", "--json")
    assert answer.code == 1
    assert answer.document["error"]["kind"] == "forecast_unavailable"
    assert answer.document["error"]["missing"] == {"Mars": "the server answered 404\nNot Found"}


def test_a_location_named_twice_is_one(capsys):
    twice = ["--location", "DE", "--location", "DE", "--source", "half", "--json"]
    assert list(run(capsys, "forecast", *twice).document["locations"]) == ["DE"]


def test_equal_input_gives_equal_bytes(capsys):
    arguments = ["forecast", "--location", "DE", "--source", "synthetic", "--json"]
    assert run(capsys, *arguments).out == run(capsys, *arguments).out


def test_a_forecast_is_drawn(capsys, tmp_path):
    file = tmp_path / "forecast.svg"
    assert run(capsys, "forecast", "--location", "DE", "--source", "half", "--plot", file).code == 0
    assert "<svg" in file.read_text(encoding="utf-8")


def test_the_synthetic_source_says_that_it_is(capsys):
    assert "synthetic (made-up)" in run(capsys, "forecast", "--location", "DE", "--source", "synthetic").out


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "--source: no forecast source is named"),
        (["--source", "oracle"], "'oracle' is unknown"),
        (["--source", "carbon-aware-sdk"], "give --sdk-url"),
        (["--source", "traces"], "give --traces"),
        (["--source", "traces", "--traces", "none.csv"], "none.csv"),
        (["--source", "synthetic", "--sdk-signal", "loud"], "--sdk-signal: 'loud'"),
        (["--source", "synthetic"], "location: 'Mars' is unknown"),
    ],
)
def test_bad_input_is_exit_2(capsys, arguments, part):
    answer = run(capsys, "forecast", "--location", "Mars", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert part in answer.line


def test_settings_come_from_the_environment_too(capsys, monkeypatch):
    monkeypatch.setenv("LOWCARB_SOURCE", "half")
    assert run(capsys, "forecast", "--location", "DE").code == 0
    assert "synthetic" in run(capsys, "forecast", "--location", "DE", "--source", "synthetic").out
