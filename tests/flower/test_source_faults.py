"""A run on web sources: what one run learned serves the next, and no fault of a source makes it late."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import Traces, carbon_aware
from lowcarb_scheduler.clock import format_time, parse_time, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.base import Forecast
from lowcarb_scheduler.forecasts.registry import arranged
from lowcarb_scheduler.forecasts.sources.traces import read_table
from lowcarb_scheduler.scheduling.locations import Place, check_known
from lowcarb_scheduler.settings import Settings
from lowcarb_scheduler.testing import InMemoryGrid
from support.apps import make_app, node_configs, takes
from support.clocks import Machine
from support.forecast_sources import DAY, HOUR, NOW, Web
from support.runs import named, run

SECOND = timedelta(seconds=1)
PLACES = ("DE", "FR", "GB")


class Tide(Web):
    """A source by which the night is dirty and the day is clean."""

    def _table(self, places, start, end):
        table = super()._table(places, start, end)
        hours = table.edges_us[:-1] // 3_600_000_000 % 24
        values = np.where((hours < 6) | (hours >= 18), 400.0, 100.0)[:, None] + np.zeros(len(places))
        return table.relaid(table.edges_us, table.locations, values)


@pytest.fixture
def clock():
    return Machine(NOW)


def train(clock, source, run_dir="run", rounds=4, **settings):
    """Run rounds of exactly an hour, and return the ledger."""
    app = make_app(on_train=takes(clock, lambda _: HOUR))
    given = {"source": source, "round_duration": HOUR, "run_dir": Path(run_dir), "finish_by": 24 * HOUR}
    return run(InMemoryGrid(app, node_configs(6, PLACES)), clock, rounds, **given | settings)


def test_what_one_run_has_learned_serves_the_next(clock):
    first = train(clock, Tide(clock=clock))
    assert any(event["held_s"] for event in named(first, "round_opened"))
    down = Tide(clock=clock)
    down.down = "answered 503"
    second = train(clock, down, run_dir="second")
    (event,) = named(second, "forecast")
    assert event["last_good"] == dict.fromkeys(PLACES, "answered 503")
    assert named(second, "planned")[0]["basis"] == "forecast"
    faults = {event["what"]: event for event in named(second, "degraded")}
    assert "the last good forecast, of" in faults["forecast of DE, FR, GB"]["consequence"]
    assert faults["actual intensity"]["consequence"] == "without it there are no realised emissions"
    assert len(named(second, "round_closed")) == 4


class Hopeful(Tide):
    """A source that foresees half of what comes."""

    def forecast(self, locations, now, *, timeout=None):
        told = super().forecast(locations, now, timeout=timeout)
        table = told.intensity
        half = table.relaid(table.edges_us, table.locations, table.values / 2)
        return Forecast(half, told.generated_at, told.missing)


def test_corrections_are_learned_from_the_archive(clock):
    train(clock, Hopeful(clock=clock))
    clock.sleep_until(NOW + 3 * DAY)
    expected_g = {}
    for run_dir, settings in (("learned", {}), ("as-foreseen", {"archive_dir": "none"})):
        now = Machine(clock.now())
        events = train(now, Hopeful(clock=now), run_dir=run_dir, **settings)
        expected_g[run_dir] = named(events, "planned")[0]["emissions_g"]
    assert expected_g["learned"] > 1.1 * expected_g["as-foreseen"]


def test_an_archive_that_cannot_be_used_stops_nothing(clock, tmp_path):
    (tmp_path / "file").touch()
    events = train(clock, Tide(clock=clock), archive_dir=tmp_path / "file")
    assert len(named(events, "round_closed")) == 4
    assert any(event["held_s"] for event in named(events, "round_opened"))
    assert [event["what"] for event in named(events, "degraded")] == ["archive"]


def test_without_an_archive_nothing_is_kept(clock, tmp_path):
    train(clock, Tide(clock=clock), archive_dir="none")
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("slack_s", [3, 10, 45, 3600])
@pytest.mark.parametrize("patience", [0.0, 1.0])
@pytest.mark.parametrize("good_calls", [0, 2])
def test_a_source_that_hangs_makes_no_job_late(clock, slack_s, patience, good_calls):
    class Hanging(Tide):
        def _begin(self, timeout, *what):
            self.takes = HOUR if len(self.asked) >= good_calls else timedelta(0)
            return super()._begin(timeout, *what)

    source = Hanging(clock=clock)
    finish_by = NOW + 4 * HOUR + slack_s * SECOND
    events = train(clock, source, finish_by=finish_by, patience=patience)
    closed = named(events, "round_closed")
    assert len(closed) == 4
    assert all(one["closes_at"] <= other["opens_at"] for one, other in pairwise(closed))
    assert source.asked  # it was given a chance
    assert parse_time(closed[-1]["closes_at"], "closes_at") <= finish_by


def test_a_forecast_shorter_than_the_job_is_used_as_far_as_it_reaches(clock):
    class Short(Tide):
        def forecast(self, locations, now, *, timeout=None):
            known = super().forecast(locations, now, timeout=timeout)
            return Forecast(known.intensity.slice(now, now + 9 * HOUR), now)

        def actual(self, locations, start, end, *, timeout=None):
            raise ForecastUnavailableError(dict.fromkeys(locations, "it keeps no past"))

    events = train(clock, Short(clock=clock), rounds=12, finish_by=22 * HOUR, archive_dir="none")
    first = named(events, "planned")[0]
    assert first["basis"] == "forecast"
    assert set(first["rests_on"]) == {"forecast", "default"}
    # Hours 6 to 9 are clean; those after them have the mean, for the rounds that are left.
    clean = [window["opens_at"] for window in first["windows"] if "T06" <= window["opens_at"][10:13] < "T09"]
    assert len(clean) == 3
    assert len(named(events, "round_closed")) == 12
    (fault,) = [event for event in named(events, "degraded") if event["what"] == "forecast"]
    assert fault["why"] == "it ends or has gaps before the deadline, and no history fills them"


def test_realised_emissions_are_integrated_on_the_edges_of_the_trace(clock, tmp_path):
    clock.sleep_until(NOW + 11 * SECOND)
    edges = [NOW - HOUR + hour * HOUR + 37 * SECOND for hour in range(30)]
    rows = [f"DE,{format_time(edge)},{100 + 800 * (k % 2)}" for k, edge in enumerate(edges)]
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(["location,time,g_per_kwh", *rows]), encoding="utf-8")
    app = make_app(on_train=takes(clock, lambda _: 40 * SECOND))
    grid = InMemoryGrid(app, node_configs(2, ("DE",), **{"power-watts": 1000.0}))
    settings = {"round_duration": 45 * SECOND, "finish_by": NOW + 5 * HOUR, "telemetry": False}
    events = run(grid, clock, 3, source=Traces(path), **settings)
    truth = read_table(path)
    turns = named(events, "node_done")
    expected = sum(
        float(truth.integrate(start, start + round(1e6 * turn["duration_s"]))[0])
        for turn in turns
        for start in [to_us(parse_time(turn["started_at"], "started_at"))]
    )
    assert len(turns) == 6
    assert expected > 0.1
    assert named(events, "run_finished")[0]["realised_g"] == pytest.approx(expected, rel=1e-9)


class Listing(Tide):
    """A source that lists its places as told."""

    def __init__(self, clock, listed):
        super().__init__(clock=clock)
        self.listed = listed

    def known_locations(self, *, timeout=None):
        self.asked.append(("names", timeout))
        if isinstance(self.listed, Exception):
            raise self.listed
        return self.listed


@pytest.mark.parametrize("closed", [True, False])
@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('0 = "DEE"', "locations.toml: 0: 'DEE' is unknown; did you mean DE?"),
        ('0 = "DE"\n1 = {location = "Atlantis"}', "locations.toml: 1: 'Atlantis' is unknown"),
    ],
)
def test_an_unknown_place_is_an_error_before_anything_trains(clock, tmp_path, closed, text, error):
    path = tmp_path / "locations.toml"
    path.write_text(text, encoding="utf-8")
    source = Listing(clock, dict.fromkeys(PLACES, (50.0, 10.0)))
    source.locations = PLACES if closed else None
    with pytest.raises(InputError) as caught:
        train(clock, source, locations=path)
    assert error in str(caught.value)
    assert not Path("run").exists()


def test_a_default_that_no_node_needs_may_be_unknown(clock):
    source = Listing(clock, dict.fromkeys(PLACES, (50.0, 10.0)))
    events = train(clock, source, default_location="Atlantis")
    assert len(named(events, "round_closed")) == 4


@pytest.mark.parametrize(
    "listed",
    [
        None,
        {},
        {"DE": (50.0, 10.0), "FR": None},  # a part of its places
        ForecastUnavailableError({"its locations": "answered 503"}),
        RuntimeError("boom"),
        7,
    ],
)
def test_a_place_that_may_be_known_stops_no_run(clock, tmp_path, listed):
    path = tmp_path / "locations.toml"
    path.write_text('0 = "Atlantis"\n1 = "de"\n2 = "50.0,10.0"', encoding="utf-8")
    events = train(clock, Listing(clock, listed), locations=path)
    assert len(named(events, "round_closed")) == 4


def test_of_two_sources_both_must_not_know_a_place(clock, tmp_path):
    path = tmp_path / "locations.toml"
    path.write_text('0 = "Ghent"\n[names.Ghent]\nweb = "BE"\n', encoding="utf-8")
    listing = [Listing(clock, dict.fromkeys(names, (50.0, 10.0))) for names in (PLACES, ("BE", "GB"))]
    given = Settings.load({"locations": path, "archive_dir": "none"})
    for names, known in ((listing, True), (listing[:1], False)):
        source = arranged(names, given, clock)
        places = {"0": Place("Ghent")}
        if known:
            check_known(places, source, str(path))
        else:
            with pytest.raises(InputError, match="'Ghent' is unknown"):
                check_known(places, source, str(path))


def test_the_locations_file_names_places_for_a_source_given_in_code(clock, tmp_path):
    path = tmp_path / "locations.toml"
    path.write_text('0 = "here"\n[names.here]\nmine = "DE"\n', encoding="utf-8")
    source = Tide("mine", places=set(PLACES), clock=clock)
    events = train(clock, source, locations=path)
    assert set(named(events, "forecast")[0]["g_per_kwh"]) == {*PLACES, "here"}
    assert "here" not in source.asked[0][1]
    assert named(events, "run_started")[0]["source"] == "mine"


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"source": "uk"}, "lowcarb-source: 'uk' is unknown"),
        (
            {"source": "carbon-aware-sdk"},
            "lowcarb-carbon-aware-sdk-url: is not set; set lowcarb-carbon-aware-sdk-url in the run-config",
        ),
        (
            {"source": "electricity-maps"},
            "electricity-maps-token: is not set; set LOWCARB_ELECTRICITY_MAPS_TOKEN",
        ),
        ({"source": "synthetic", "locations": "none.toml"}, "lowcarb-locations: /"),
        ({"locations": "none.toml"}, "lowcarb-locations: /"),
        ({"source": "synthetic", "locations": "bad.toml"}, "bad.toml: names.DE: 'uk' is unknown"),
    ],
)
def test_what_cannot_be_opened_fails_before_anything_trains(settings, error):
    Path("bad.toml").write_text('[names.DE]\nuk = "DE"\n', encoding="utf-8")
    with pytest.raises(InputError) as caught:
        carbon_aware(FedAvg(), **settings)
    assert error in str(caught.value)
    assert "lowcarb-lowcarb" not in str(caught.value)


def test_there_is_a_setting_for_each_thing_tested_here():
    assert {"archive_dir", "archive_days", "traces_actual", "locations"} <= set(Settings.model_fields)
