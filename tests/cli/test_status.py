"""``lowcarb status`` and ``lowcarb release``, on ledgers cut off where a run may be looked at."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.flower.waiting import REQUEST_FILE, pop_release_request
from lowcarb_scheduler.ledger import Ledger
from support import cli_files
from support.report_ledger import START, at, event, run_events, write_ledger

HOLD = {"until": at(2), "reason": "its clients' grids are cleaner then", "seconds": 3600.0}


def run(capsys, *arguments):
    now = VirtualClock(START + timedelta(hours=1, minutes=30))
    return cli_files.run(capsys, *arguments, clock=now)


@pytest.fixture
def written(tmp_path):
    """Return a writer of the ledger of a run up to an event: that of round 2 if each round has one."""
    held = []

    def write(last, alive=True, **first):
        events = run_events(finished=True)
        events[0] |= {"clock": "system", **first}
        for each in events:
            if each["event"] == "hold_started":
                each |= {**HOLD, "planned_g": 300.0, "at_once_g": 500.0}
        found = [k for k, each in enumerate(events) if each["event"] == last]
        of_round_2 = [k for k in found if events[k].get("round") == 2]
        events = events[: (of_round_2 or found)[0] + 1]
        run_dir = write_ledger(tmp_path / "run", events)
        if alive:
            held.append(Ledger(run_dir, VirtualClock(START), goes_on=True))
        return run_dir

    yield write
    for ledger in held:
        ledger.close()


@pytest.mark.parametrize(
    ("last", "alive", "state", "number", "done", "opens_at"),
    [
        ("planned", True, "preparing", 1, 0, at(1)),
        ("hold_started", True, "holding", 2, 1, at(2)),
        ("round_opened", True, "training", 2, 1, at(2)),
        ("round_closed", True, "preparing", 3, 2, at(3)),
        ("hold_started", False, "gone", 2, 1, at(2)),
        ("run_finished", False, "completed", None, 3, None),
    ],
)
def test_what_a_run_is_doing(capsys, written, last, alive, state, number, done, opens_at):
    run_dir = written(last, alive=alive)
    document = run(capsys, "status", run_dir, "--json").document
    found = [document[name] for name in ("state", "alive", "round", "rounds_done", "opens_at")]
    assert found == [state, alive, number, done, opens_at]
    assert (document["rounds"], document["finish"], document["finish_by"]) == (3, at(4), at(6))
    assert document["late"] is False
    degraded = [{"at": at(0), "what": "forecast", "why": "the source did not answer"}]
    assert document["degraded"] == (degraded if last != "planned" else [])


def test_a_hold_says_until_when_why_and_what_it_saves(capsys, written):
    run_dir = written("hold_started")
    document = run(capsys, "status", run_dir, "--json").document
    assert document["why"] == HOLD["reason"]
    assert (document["held_g"], document["at_once_g"], document["saves_g"]) == (300.0, 500.0, 200.0)
    shown = run(capsys, "status", run_dir / "ledger.jsonl").out
    assert shown.startswith("Run 7: holding round 2\n")
    facts = dict(line.split("  ", 1) for line in shown.splitlines()[1:])
    assert facts["next opening"].strip() == "2026-03-02 02:00 UTC, in 30 min"
    assert facts["waiting saves"].strip() == "200 g of 500 g CO2eq in this round"
    assert facts["planned finish"].strip() == "2026-03-02 04:00 UTC, 2 h before the deadline"
    assert facts["process"].strip() == "alive"


def test_a_run_that_waits_for_nodes_says_so(capsys, written):
    run_dir = written("hold_started")  # and then too many have left
    line = "1 of 3 nodes are connected, 2 are needed; waiting for more until 2026-03-02 04:00:00 UTC at most"
    awaited = {**event(1, "nodes_awaited", round=2, until=at(4), reason=line), "at": at(1)}
    with (run_dir / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(awaited) + "\n")
    document = run(capsys, "status", run_dir, "--json").document
    found = [document[name] for name in ("state", "round", "why", "saves_g")]
    assert found == ["waiting for nodes", 2, line, None]
    assert run(capsys, "status", run_dir).out.startswith("Run 7: waiting for nodes\n")
    assert "the run is waiting for nodes" in run(capsys, "release", run_dir).err


def test_of_another_state_no_wait_is_claimed(capsys, written):
    document = run(capsys, "status", written("round_opened"), "--json").document
    assert document["why"] is document["saves_g"] is None


def test_a_run_that_was_killed_is_told_from_one_that_waits(capsys, written):
    shown = run(capsys, "status", written("hold_started", alive=False)).out
    assert shown.startswith("Run 7: gone\n")
    assert "ended without closing its ledger" in shown
    assert "next opening" not in shown


def test_where_locks_are_unknown_nothing_is_claimed(capsys, written, monkeypatch):
    run_dir = written("hold_started", alive=False)
    monkeypatch.setattr("lowcarb_scheduler.ledger.fcntl", None)
    document = run(capsys, "status", run_dir, "--json").document
    assert (document["state"], document["alive"]) == ("holding", None)
    assert "unknown" in run(capsys, "status", run_dir).out


def test_after_a_restart_an_earlier_hold_is_over(capsys, written):
    run_dir = written("hold_started", alive=False)
    about = {
        "run_id": "7",
        "flwr_version": "1.41.0",
        "strategy": "FedAvg",
        "source": None,
        "version": "0.1.0",
    }
    resumed = event(2, "run_resumed", **about, after=4, cut_bytes=0, round=0, stage="OVER")
    with (run_dir / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({**resumed, "at": at(2)}) + "\n")
    assert run(capsys, "status", run_dir, "--json").document["state"] == "gone"


def test_release_names_the_held_round_and_no_other(capsys, written):
    run_dir = written("hold_started")
    answer = run(capsys, "release", run_dir, "--json")
    assert answer.code == 0
    assert (answer.document["round"], answer.document["was_to_open_at"]) == (2, at(2))
    assert sorted(path.name for path in run_dir.iterdir()) == ["ledger.jsonl", REQUEST_FILE]
    assert not pop_release_request(run_dir, 3)  # it comes too late, and is void
    assert not (run_dir / REQUEST_FILE).exists()
    for command in ("release", "open-now"):  # the former name
        assert run(capsys, command, run_dir).out == "round 2 opens within 5 seconds\n"
    assert pop_release_request(run_dir, 2)
    assert not pop_release_request(run_dir, 2)


@pytest.mark.parametrize(
    ("last", "alive", "first", "state", "why"),
    [
        ("round_opened", True, {}, "training", ""),
        ("round_closed", True, {}, "preparing", ""),
        ("run_finished", False, {}, "completed", ", and opens no more rounds"),
        ("run_finished", False, {"clock": "virtual"}, "completed", ", and opens no more rounds"),
        ("hold_started", False, {}, "gone", ", and opens no more rounds"),
        ("hold_started", True, {"clock": "virtual"}, "on a virtual clock", ", which waits for nobody"),
    ],
)
def test_release_is_refused_where_nothing_is_held(capsys, written, last, alive, first, state, why):
    run_dir = written(last, alive=alive, **first)
    answer = run(capsys, "release", run_dir)
    assert (answer.code, answer.out) == (1, "")
    assert answer.line == (
        f"lowcarb: no round of {run_dir} is held: the run is {state}{why}; see lowcarb status {run_dir}"
    )
    error = run(capsys, "release", run_dir, "--json").document["error"]
    assert (error["kind"], error["state"]) == ("nothing_held", state)
    assert not (run_dir / REQUEST_FILE).exists()


@pytest.mark.parametrize("command", ["status", "release"])
def test_a_folder_without_a_run_is_exit_2(capsys, tmp_path, command):
    answer = run(capsys, command, tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert "ledger.jsonl" in answer.line


@pytest.mark.parametrize("text", ["", "{", "[]", '{"round": "2"}', "\udcff"])
def test_a_file_that_is_no_wish_is_taken_away(tmp_path, text):
    (tmp_path / REQUEST_FILE).write_bytes(text.encode("utf-8", "surrogateescape"))
    assert not pop_release_request(tmp_path, 2)
    assert not (tmp_path / REQUEST_FILE).exists()
