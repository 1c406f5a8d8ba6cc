"""Real Flower: SuperLink and SuperNodes on loopback, in real time; nodes die and join, a run is stopped.

Both deployments run side by side: they mostly wait.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.demo.federation import stop, tail
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.ledger import read_ledger, summarise

pytestmark = [pytest.mark.flower, pytest.mark.enable_socket]
SCRIPT = Path(__file__).parent.parent / "examples" / "deployment" / "run.py"
SECOND = timedelta(seconds=1)


def load_example():
    spec = importlib.util.spec_from_file_location("deployment_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its annotations are resolved there
    spec.loader.exec_module(module)
    return module


example = load_example()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("deployment")


@pytest.fixture(scope="module")
def script(folder):
    """Start the example, which takes about two minutes; return its process and folder."""
    run_dir = folder / "example"
    with (folder / "example.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT), str(run_dir)], stdout=log, stderr=log, start_new_session=True
        )
    yield process, run_dir
    stop(process)


def await_event(run_dir, log, timeout_s, name, **wanted):
    """Return the first event of a ledger that is as wanted, once it is there."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            events = read_ledger(run_dir)
        except InputError:
            events = []
        for event in events:
            if event["event"] == name and all(event.get(key) == value for key, value in wanted.items()):
                return event
        time.sleep(0.5)
    pytest.fail(f"no {name} {wanted} in {timeout_s} s\n{tail(log, 40)}")


@pytest.fixture(scope="module")
def faulty(script, folder):
    """Run a round in which three train; in its hold a SuperNode dies and one joins, in the next `flwr stop`.

    A SuperNode that is killed counts as connected for a minute: the first hold is longer.
    """
    run_dir, traces = folder / "faulty", folder / "trace.csv"
    log = run_dir / "flower" / "run.log"
    with example.deployment(run_dir / "flower") as running:
        for site in example.SITES:
            running.join(*site)
        clean_at = datetime.now(UTC) + 105 * SECOND
        example.write_trace(traces, clean_at, clean_at + 360 * SECOND)
        more = {"lowcarb_clients_per_round": 3, "lowcarb_round_duration": "50s", "lowcarb_finish_by": "40m"}
        process = running.run(example.settings(run_dir, traces, **more))
        started = await_event(run_dir, log, 60, "run_started")
        await_event(run_dir, log, 60, "hold_started", round=1)
        os.killpg(running.nodes["hospital-a"].pid, signal.SIGKILL)
        running.join("hospital-d", "south", 220.0)
        await_event(run_dir, log, 150, "round_closed", round=1)
        held = await_event(run_dir, log, 90, "hold_started", round=2)
        asked_at = datetime.now(UTC)
        running.stop(started["run_id"])
        process.wait(60)
        ended = await_event(run_dir, log, 60, "run_finished")
        stop(process)
    return {"run_dir": run_dir, "clean_at": clean_at, "asked_at": asked_at, "ended": ended, "held": held}


def test_a_node_that_dies_in_the_hold_is_replaced_by_one_that_joined(faulty):
    events = read_ledger(faulty["run_dir"])
    opened = next(event for event in events if event["event"] == "round_opened")
    assert {node["id"] for node in opened["nodes"]} == {"hospital-b", "hospital-c", "hospital-d"}
    assert opened["held_s"] > 60
    assert not [event for event in events if event["event"] == "node_failed"]
    done = {event["id"]: event for event in events if event["event"] == "node_done"}
    assert (done["hospital-d"]["location"], done["hospital-d"]["power_watts"]) == ("south", 220.0)
    assert {event["energy_basis"] for event in done.values()} == {"estimated"}


def test_the_round_opened_when_it_was_clean(faulty):
    opened = next(event for event in read_ledger(faulty["run_dir"]) if event["event"] == "round_opened")
    assert faulty["clean_at"] - 2 * SECOND <= opened["at"] <= faulty["clean_at"] + 60 * SECOND
    assert opened["mean_g_per_kwh"] < example.DIRTY / 2  # a slow machine may end it in a dirty minute


def test_flwr_stop_ends_the_hold_at_once(faulty):
    assert parse_time(faulty["held"]["until"], "until") - faulty["asked_at"] > 120 * SECOND
    assert faulty["ended"]["status"] == "stopped"
    assert faulty["ended"]["at"] - faulty["asked_at"] < 40 * SECOND  # a ServerApp asks every 20 s
    assert len([event for event in read_ledger(faulty["run_dir"]) if event["event"] == "round_closed"]) == 1


def test_the_example_waits_for_clean_electricity(script, faulty):
    process, run_dir = script
    code = process.wait(240)
    assert code == 0, tail(run_dir.parent / "example.log", 40)
    found = summarise(read_ledger(run_dir))
    assert found.status == "completed"
    assert [each.nodes for each in found.rounds] == [2, 2]
    assert found.rounds[0].held > 5 * SECOND
    assert found.saving > 0.5
    assert "all waited" in (run_dir.parent / "example.log").read_text(encoding="utf-8")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")
def test_nothing_is_left_behind(script, faulty):
    script[0].wait(240)
    folders = (script[1], faulty["run_dir"])
    deadline = time.monotonic() + 30  # what a killed SuperNode has started ends when it sees that
    while (left := [line for folder in folders for line in _processes_of(folder)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(1)
    assert not left


def _processes_of(folder):
    """Yield the command lines of processes that have a folder as their Flower home."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"FLWR_HOME={folder}/".encode() in (process / "environ").read_bytes():
                yield (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
