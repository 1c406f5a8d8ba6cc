"""``lowcarb status``, ``runs`` and ``release``, on ledgers cut off where a run may be looked at."""

from __future__ import annotations

import io
import json
import re
from datetime import timedelta
from functools import partial
from itertools import pairwise

import pytest
from rich.console import Console

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.flower.waiting import REQUEST_FILE, pop_release_request
from lowcarb_scheduler.ledger import Ledger, read_ledger
from support import cli_files
from support.apps import WorkingGrid
from support.clocks import Machine
from support.report_ledger import START, at, event, run_events, write_ledger
from support.runs import RUN, run_curve

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
    head = shown.partition("\n\n")[0].splitlines()[1:]  # the strip of hours and the rounds follow
    facts = dict(line.split("  ", 1) for line in head)
    assert facts["next opening"].strip() == "2026-03-02 02:00 UTC, in 30 min"
    assert facts["waiting saves"].strip() == "200 g of 500 g CO2eq in this round"
    assert facts["planned finish"].strip() == "2026-03-02 04:00 UTC, 2 h before the deadline"
    assert facts["process"].strip() == "alive"


def test_the_document_has_what_the_view_shows(capsys, written):
    document = run(capsys, "status", written("hold_started"), "--json").document
    assert document["saved"] == {"rounds": 1, "realised_g": 572.0, "run_now_g": 572.0, "saving": 0.0}
    assert document["plan"] == {
        "round": 1, "emissions_g": 1200.0, "run_now_emissions_g": 1500.0, "saving": 0.2,
    }  # fmt: skip
    assert [(each["round"], each["opens_at"]) for each in document["upcoming"]] == [(2, at(2)), (3, at(3))]
    assert document["to_come_g"] == 1200.0 - 400.0
    # Two rounds of an hour are left, 4.5 hours before the deadline.
    assert document["slack_s"] == 2.5 * 3600
    forecast = document["forecast"]
    assert (forecast["source"], forecast["signal"], forecast["synthetic"]) == ("traces", "average", False)
    assert forecast["locations"]["FR"][0] == {"time": at(0), "g_per_kwh": 60.0}
    assert document["events"][-1] == {"at": at(2), "event": "hold_started"}


def test_a_document_of_a_run_that_is_over_has_no_plan_to_come(capsys, written):
    document = run(capsys, "status", written("run_finished", alive=False), "--json").document
    assert (document["upcoming"], document["slack_s"]) == ([], None)
    assert document["saved"]["rounds"] == 3


class Watched(VirtualClock):
    """A clock that does something in each sleep."""

    def __init__(self, *acts):
        super().__init__(START + timedelta(hours=1, minutes=30))
        self.acts = list(acts)

    def sleep_until(self, when):
        super().sleep_until(when)
        self.acts.pop(0)()

    def jump(self, seconds):
        super().sleep_until(self.now() + timedelta(seconds=seconds))


def terminal(width=80, height=60):
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None,
                   legacy_windows=False)  # fmt: skip


def watch(capsys, run_dir, *acts):
    """Watch a run on a terminal; return the exit code, the pages, and how many acts were left."""
    screen, clock = terminal(), Watched(*acts)
    answer = cli_files.run(capsys, "status", run_dir, "--watch", "--utc", clock=clock, console=lambda: screen)
    pages = re.split("(?=Run 7)", screen.file.getvalue())[1:]
    assert not answer.err
    return answer.code, pages, len(clock.acts)


def test_watch_follows_the_run_and_ends_with_it(capsys, written):
    run_dir = written("hold_started")
    whole = [to_json(each) + "\n" for each in run_events()]
    ledger = run_dir / "ledger.jsonl"
    (opened,) = [line for line in whole if '"round_opened"' in line and '"round": 2' in line]
    last = whole[-1]

    def append(text):
        with ledger.open("a", encoding="utf-8") as file:
            file.write(text)

    acts = [lambda: None, *(partial(append, text) for text in (opened[:40], opened[40:], last))]
    code, pages, left = watch(capsys, run_dir, *acts)
    assert (code, left) == (0, 0)
    assert [page.splitlines()[0] for page in pages[:5]] == [
        "Run 7: holding round 2", "Run 7: holding round 2", "Run 7: holding round 2",  # a torn line is none
        "Run 7: training round 2", "Run 7: completed",
    ]  # fmt: skip
    assert "in 30 min" in pages[0]
    assert "in 29 min 59 s" in pages[1]  # the countdown needs no news in the ledger


def test_watch_reads_the_ledger_only_when_it_has_grown(capsys, written, monkeypatch):
    run_dir, read = written("hold_started"), []
    monkeypatch.setattr(
        "lowcarb_scheduler.monitor.state.read_ledger",
        lambda folder: read.append(folder) or read_ledger(folder),
    )

    def stop():
        raise KeyboardInterrupt

    assert watch(capsys, run_dir, lambda: None, lambda: None, stop)[0] == 0
    assert len(read) == 1


def test_watch_of_a_ledger_that_takes_long_to_read_rests_between_readings(capsys, written, monkeypatch):
    run_dir, read = written("hold_started"), []
    ledger = run_dir / "ledger.jsonl"
    failed = to_json(event(1, "node_failed", round=1, id="a", location=None, reason="no reply")) + "\n"
    clock = Watched()

    def slow(folder):
        clock.jump(3)
        read.append(clock.now())
        return read_ledger(folder)

    def grow():
        with ledger.open("a", encoding="utf-8") as file:
            file.write(failed)

    def stop():
        raise KeyboardInterrupt

    clock.acts = [*[grow] * 60, stop]
    monkeypatch.setattr("lowcarb_scheduler.monitor.state.read_ledger", slow)
    answer = cli_files.run(capsys, "status", run_dir, "--watch", clock=clock, console=terminal)
    assert (answer.code, answer.err) == (0, "")
    pauses = [later - earlier for earlier, later in pairwise(read)]
    assert len(pauses) >= 2
    assert min(pauses) >= timedelta(seconds=30)


def test_watch_ends_when_the_process_is_killed(capsys, tmp_path):
    events = [each for each in run_events() if each["at"] < START + timedelta(hours=1)]
    run_dir = write_ledger(tmp_path / "run", events)
    ledger = Ledger(run_dir, VirtualClock(START), goes_on=True)
    code, pages, _ = watch(capsys, run_dir, ledger.close)
    assert code == 0
    assert [page.split("\n")[0].strip() for page in pages[:2]] == ["Run 7: training round 1", "Run 7: gone"]


def test_watch_in_a_pipe_prints_once_and_json_is_refused(capsys, written):
    run_dir = written("hold_started")
    assert run(capsys, "status", run_dir, "--watch").out == run(capsys, "status", run_dir).out
    answer = run(capsys, "status", run_dir, "--watch", "--json")
    assert (answer.code, "--watch" in answer.document["error"]["message"]) == (2, True)


def test_a_run_shows_itself_while_it_is_held(capsys, midnight):
    """A real run, which is looked at an hour into its hold."""
    hour, machine, seen = timedelta(hours=1), Machine(midnight), []

    def look():
        seen.append(cli_files.run(capsys, "status", RUN, "--utc", clock=machine).out)

    machine.at = [(midnight + hour, look), (midnight + 7.5 * hour, look)]
    run_curve(WorkingGrid(), machine, rounds=3)  # clean from six to ten
    held, training = seen
    assert held.splitlines()[0].endswith(": holding round 1")
    assert "next opening    2026-03-02 06:00 UTC, in 5 h\n" in held
    assert "saved so far    no round is done yet\n" in held
    assert "plan expects    to save 2.40 kg of 3.00 kg CO2eq (80.0 %) in rounds 1 to 3\n" in held
    assert "slack left      1 d 20 h\n" in held
    assert "process         alive\n" in held
    assert "opens  " + 15 * " " + "1  2  3\n" in held  # the fifth hour from now on, three columns each
    assert "unknown" not in held
    assert training.splitlines()[0].endswith(": training round 2")
    # The nodes work for milliseconds, and say so.
    assert re.search(r"^saved so far    [\d.]+ m?g of [\d.]+ m?g CO2eq \(80\.0 %\)$", training, re.MULTILINE)


def test_status_without_a_folder_is_of_the_newest_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answer = run(capsys, "status")
    assert (answer.code, "there is no run in runs/" in answer.line) == (2, True)
    for name, hours in {"b": 5, "a": 9, "c": 1}.items():
        events = run_events()
        events[0] |= {"at": START + timedelta(hours=hours), "run_id": name}
        write_ledger(tmp_path / "runs" / name, events)
    (tmp_path / "runs" / "empty").mkdir()
    (tmp_path / "runs" / "empty" / "ledger.jsonl").touch()  # a run that is just beginning
    assert run(capsys, "status").out.startswith("Run a: completed\n")


def test_runs_lists_the_newest_first(capsys, written):
    folder = written("hold_started").parent
    ended = run_events()
    ended[0] |= {"at": START - timedelta(days=1)}
    write_ledger(folder / "ended", ended)
    write_ledger(folder / "broken", [])
    answer = run(capsys, "runs", folder, "--utc")
    assert answer.code == 0
    assert [line.split("  ")[0] for line in answer.out.splitlines()] == ["run", "run", "ended", "broken"]
    held, done, broken = answer.out.splitlines()[1:]
    assert "holding     1 of 3  2026-03-02 02:00 UTC, in 30 min  0 g CO2eq (0.0 %)" in held
    assert "completed" in done
    assert "unreadable" in broken
    found = run(capsys, "runs", folder, "--json").document["runs"]
    assert [(each["state"], each["rounds_done"], each["opens_at"]) for each in found] == [
        ("holding", 1, at(2)), ("completed", 3, None), ("unreadable", None, None),
    ]  # fmt: skip


def test_runs_of_a_folder_that_is_none_is_exit_2_and_of_an_empty_one_a_line(capsys, tmp_path):
    assert run(capsys, "runs", tmp_path).out == f"there is no run in {tmp_path}/\n"
    assert run(capsys, "runs", tmp_path, "--json").document["runs"] == []
    answer = run(capsys, "runs", tmp_path / "missing")
    assert (answer.code, answer.line.startswith("lowcarb: FOLDER: ")) == (2, True)


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
        ("run_finished", False, {}, "completed", ", and opens no further rounds"),
        ("run_finished", False, {"clock": "virtual"}, "completed", ", and opens no further rounds"),
        ("hold_started", False, {}, "gone", ", and opens no further rounds"),
        ("hold_started", True, {"clock": "virtual"}, "on a virtual clock", ", which does not wait"),
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
