"""Real Flower: SuperLink and SuperNodes on loopback, in real time; nodes die and join, runs end and go on.

Both deployments run side by side, and two runs on one of them: they mostly wait.
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

from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.demo.federation import script as script_of
from lowcarb_scheduler.demo.federation import stop, tail
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.ledger import read_ledger
from support.ledgers import read_records, replayed

pytestmark = [pytest.mark.flower, pytest.mark.enable_socket]
SCRIPT = Path(__file__).parents[2] / "examples" / "deployment" / "run.py"
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
    """Start the example, which takes about a minute; return its process and folder."""
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
            events = read_records(run_dir)
        except InputError:
            events = []
        for event in events:
            if event["event"] == name and all(event.get(key) == value for key, value in wanted.items()):
                return event
        time.sleep(0.5)
    pytest.fail(f"no {name} {wanted} in {timeout_s} s\n{tail(log, 40)}")


def who_writes(path):
    """Return the process that holds a file open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if link.readlink() == path:
                return int(link.parts[2])
        except OSError:  # not ours, or gone
            continue
    raise AssertionError(f"nobody writes {path}")


def open_now(run_dir):
    subprocess.run(
        [script_of("lowcarb"), "release", str(run_dir)], check=True, capture_output=True, timeout=60
    )


def staggered_settings(folder):
    """Return the run-config of a round of two minutes in which a turn takes six seconds."""
    places = {name: place for name, place, _ in example.SITES}
    lines = [f'{name} = {{ location = "{place}", duration-minutes = 0.1 }}' for name, place in places.items()]
    (folder / "quick.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_crossing_traces(folder / "crossing.csv", datetime.now(UTC))
    return example.settings(
        folder / "staggered", folder / "crossing.csv", num_server_rounds=1, lowcarb_clients_per_round=3,
        lowcarb_round_duration="2m", lowcarb_stagger="true", lowcarb_patience="0",
        lowcarb_locations=str(folder / "quick.toml"),
    )  # fmt: skip


def write_crossing_traces(path, begin):
    """Write a trace in which the north gets dirtier and the south cleaner, minute by minute."""
    lines = ["location,time,g_per_kwh"]
    for minute in range(-10, 60):
        time_ = (begin + minute * example.MINUTE).isoformat()
        lines += [f"north,{time_},{200 + 5 * minute}", f"south,{time_},{600 - 8 * minute}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture(scope="module")
def faulty(script, folder):
    """Three runs: one with holds of half an hour meets every fault, one is stopped, one is staggered.

    Of the first one an operator ends the holds. In that of its second round a SuperNode and the ServerApp are
    killed, and a SuperNode joins; then the run is started again. A SuperNode that was killed counts as
    connected for a minute.
    """
    run_dir, stopped, traces = folder / "faulty", folder / "stopped", folder / "trace.csv"
    home, more = run_dir / "flower", {"lowcarb_clients_per_round": 3, "lowcarb_finish_by": "50m"}

    def start(where, log):
        return running.run(example.settings(where, traces, **more), log)

    def happens(name, where=run_dir, **wanted):
        log = home / ("run.log" if where == run_dir else "stopped.log")
        return await_event(where, log, 150, name, **wanted)

    with example.deployment(home) as running:
        for site in example.SITES:
            running.join(*site)
        example.write_trace(traces, datetime.now(UTC) + 1800 * SECOND)
        process, other = start(run_dir, "run.log"), start(stopped, "stopped.log")
        third = running.run(staggered_settings(folder), "staggered.log")
        happens("hold_started", round=1)
        open_now(run_dir)
        held = happens("hold_started", stopped)
        asked_at = datetime.now(UTC)
        running.stop(happens("run_started", stopped)["run_id"])
        happens("hold_started", round=2)
        os.killpg(running.nodes["hospital-a"].pid, signal.SIGKILL)
        killed_at = time.monotonic()
        os.kill(who_writes(run_dir / "ledger.jsonl"), signal.SIGKILL)
        stop(process)  # it only shows the log
        running.join("hospital-d", "south", 220.0)
        process = start(run_dir, "resumed.log")
        happens("run_resumed")
        happens("hold_started", round=2)
        ended = happens("run_finished", stopped)
        time.sleep(max(0.0, killed_at + 62 - time.monotonic()))
        open_now(run_dir)
        happens("run_finished")
        code = process.wait(60)
        stop(other)
        third.wait(60)
    log = (home / "resumed.log").read_text("utf-8")
    return {"run_dir": run_dir, "code": code, "log": log, "stopped": stopped, "asked_at": asked_at,
            "ended": ended, "held": held}  # fmt: skip


def test_a_run_whose_serverapp_was_killed_goes_on_and_does_nothing_twice(faulty):
    assert faulty["code"] == 0
    events = read_records(faulty["run_dir"])
    found = replayed(events)
    assert (found.status, found.resumed, len(found.rounds)) == ("completed", 1, 2)
    opened = [event["round"] for event in events if event["event"] == "round_opened"]
    assert opened == [1, 2]
    resumed = next(k for k, event in enumerate(events) if event["event"] == "run_resumed")
    assert {event["round"] for event in events[:resumed] if event["event"] == "round_closed"} == {1}
    assert {event["round"] for event in events[resumed:] if event["event"] == "node_done"} == {2}
    assert "resuming the run of" in faulty["log"]


def test_a_node_that_dies_in_the_hold_is_replaced_by_one_that_joined(faulty):
    events = read_records(faulty["run_dir"])
    first, second = ({node["id"] for node in event["nodes"]} for event in events
                     if event["event"] == "round_opened")  # fmt: skip
    assert first == {"hospital-a", "hospital-b", "hospital-c"}
    assert second == {"hospital-b", "hospital-c", "hospital-d"}
    assert not [event for event in events if event["event"] == "node_failed"]
    done = {event["id"]: event for event in events if event["event"] == "node_done"}
    assert (done["hospital-d"]["location"], done["hospital-d"]["power_watts"]) == ("south", 220.0)
    assert {event["energy_basis"] for event in done.values()} == {"estimated"}


def test_an_operator_ends_a_hold(faulty):
    events = read_records(faulty["run_dir"])
    for number in (1, 2):
        wished = next(e for e in events if e["event"] == "open_now" and e["round"] == number)
        opened = next(e for e in events if e["event"] == "round_opened" and e["round"] == number)
        assert opened["at"] - wished["at"] < 10 * SECOND
        assert parse_time(wished["until"], "until") - wished["at"] > 600 * SECOND


def test_flwr_stop_ends_the_hold_at_once(faulty):
    assert parse_time(faulty["held"]["until"], "until") - faulty["asked_at"] > 600 * SECOND
    assert faulty["ended"]["status"] == "stopped"
    assert faulty["ended"]["at"] - faulty["asked_at"] < 40 * SECOND  # a ServerApp asks every 20 s
    assert not [event for event in read_records(faulty["stopped"]) if event["event"] == "round_opened"]


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


def test_staggered_nodes_start_when_the_plan_says(faulty, folder):
    events = read_records(folder / "staggered")
    assert replayed(events).status == "completed", tail(faulty["run_dir"] / "flower" / "staggered.log", 40)
    (opened,) = (event for event in events if event["event"] == "round_opened")
    starts = {node["id"]: node.get("starts_at", opened["opened_at"]) for node in opened["nodes"]}
    planned = {name: parse_time(start, "starts_at") for name, start in starts.items()}
    done = {e["id"]: parse_time(e["started_at"], "started_at") for e in events if e["event"] == "node_done"}
    assert planned["hospital-c"] - planned["hospital-a"] > 40 * SECOND  # the south gets cleaner
    assert done.keys() == planned.keys()
    assert all(timedelta(0) <= done[name] - planned[name] < 20 * SECOND for name in planned)


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
