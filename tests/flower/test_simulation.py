"""Real Flower: ``flwr run`` in a simulation with Ray, on loopback. These tests wait."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("ray")
pytest.importorskip("sklearn")

from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.demo.federation import federation, tail
from lowcarb_scheduler.demo.runner import APP, NODES
from support.ledgers import read_records, replayed

pytestmark = [pytest.mark.flower, pytest.mark.enable_socket]
TIMEOUT_S = 240


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the folder of two runs of the embedded app: four rounds in twelve hours, and staggered ones."""
    folder = tmp_path_factory.mktemp("simulation")
    config = {
        "num-server-rounds": 4,
        "lowcarb-finish-by": "12h",
        "lowcarb-run-dir": str(folder / "run"),
        "lowcarb-locations": str(APP / "locations.toml"),
        "results-file": str(folder / "results.json"),
    }
    places = (APP / "locations.toml").read_text(encoding="utf-8")
    (folder / "quick.toml").write_text(places.replace(" }", ", duration-minutes = 20 }"), encoding="utf-8")
    staggered = {
        **config,
        "num-server-rounds": 2,
        "lowcarb-stagger": True,
        "lowcarb-run-dir": str(folder / "staggered"),
        "lowcarb-locations": str(folder / "quick.toml"),
        "results-file": str(folder / "staggered.json"),
    }
    with federation(folder / "flower", NODES) as local:
        for name, told in (("run", config), ("staggered", staggered)):
            log = folder / f"{name}.log"
            code = local.run(APP, told, log).wait(TIMEOUT_S)
            assert code == 0, tail(log, 40)
    return folder


def test_the_run_completes_and_waits_for_clean_hours(finished):
    events = read_records(finished / "run")
    summary = replayed(events)
    assert summary.status == "completed"
    assert [r.nodes for r in summary.rounds] == [6, 6, 6, 6]
    assert summary.saving is not None
    assert summary.finish is not None
    assert any(event["event"] == "hold_started" for event in events)
    assert not summary.degraded


def test_partition_ids_lead_to_the_places_of_the_locations_file(finished):
    done = [event for event in read_records(finished / "run") if event["event"] == "node_done"]
    assert {event["id"] for event in done} == {str(partition) for partition in range(NODES)}
    where = {event["id"]: (event["location"], event["power_watts"]) for event in done}
    assert where["0"] == ("DE", 300.0)
    assert where["23"] == ("KR", 250.0)
    assert {event["energy_basis"] for event in done} == {"estimated"}


def test_it_learns(finished):
    accuracy = json.loads((finished / "results.json").read_text(encoding="utf-8"))["accuracy"]
    assert accuracy["4"] > accuracy["0"] + 0.2


def test_the_log_says_plan_hold_and_saving(finished):
    log = (finished / "run.log").read_text(encoding="utf-8")
    for words in ("planned finish", "SYNTHETIC numbers", "holding round", "saving against run-now"):
        assert words in log


def test_staggered_clients_start_when_the_plan_says(finished):
    events = read_records(finished / "staggered")
    assert replayed(events).status == "completed"
    done = {
        (e["round"], e["id"]): parse_time(e["started_at"], "") for e in events if e["event"] == "node_done"
    }
    planned = {
        (event["round"], node["id"]): parse_time(node.get("starts_at", event["opened_at"]), "")
        for event in events
        if event["event"] == "round_opened"
        for node in event["nodes"]
    }
    assert len(planned) == 12
    assert any(planned[key] != planned[other] for key in planned for other in planned if key[0] == other[0])
    assert done == planned
