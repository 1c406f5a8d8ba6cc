"""The list of runs: what a full reading finds, from the head and the tail of a ledger that has ended."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest

from lowcarb_scheduler.clock import VirtualClock, cpu_seconds
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.monitor.listing import RunSummary, list_runs, newest_run
from lowcarb_scheduler.monitor.state import RunState
from support.report_ledger import START, at, event, run_events, write_ledger

LEDGERS = sorted((Path(__file__).parents[1] / "fixtures" / "ledgers").glob("*.jsonl"))


def summary_of(run_dir):
    """Return the figures of a finished run from a full reading of its ledger."""
    run = RunState.read(run_dir)
    saved = run.saved
    return RunSummary(
        run_dir, run.run_id, run.state, run.rounds, run.rounds_done, None, run.is_virtual,
        saved and saved.avoided_g, saved and saved.saving, run.started_at, app=run.app,
    )  # fmt: skip


def append(run_dir, *events):
    with (run_dir / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(to_json(each) + "\n" for each in events)


@pytest.mark.parametrize("ledger", LEDGERS, ids=lambda path: path.stem)
def test_head_and_tail_tell_as_much_as_the_whole_ledger(tmp_path, ledger):
    shutil.copy(ledger, tmp_path / "ledger.jsonl")
    found = RunSummary.read(tmp_path)
    expected = summary_of(tmp_path)
    assert found.saved_g == pytest.approx(expected.saved_g)
    assert found.saving == pytest.approx(expected.saving)
    same = {"saved_g": None, "saving": None}
    assert _without(found, same) == _without(expected, same)


def _without(summary, names):
    return {name: getattr(summary, name) for name in summary.__slots__ if name not in names}


def test_of_a_run_that_has_ended_nothing_else_is_read(tmp_path):
    run_dir = write_ledger(tmp_path / "run", run_events())
    lines = (run_dir / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (run_dir / "ledger.jsonl").write_bytes(b"".join([lines[0], b"no event\n", lines[-1]]))
    assert (RunSummary.read(run_dir).state, RunSummary.read(run_dir).rounds_done) == ("completed", 3)


def test_figures_that_became_known_later_count(tmp_path):
    run_dir = write_ledger(tmp_path / "run", run_events(actual=False))
    assert RunSummary.read(run_dir).saved_g is None
    late = {"round": 2, "planned_g": 1.0, "realised_g": 30.0, "run_now_g": 40.0, "evaluation_g": 0.0}
    append(run_dir, event(5, "refreshed", rounds=[late]))
    found = RunSummary.read(run_dir)
    assert (found.state, found.saved_g, found.saving) == ("completed", 10.0, 0.25)
    assert found == summary_of(run_dir)


def test_a_run_that_was_stopped_and_goes_on_is_read_whole(tmp_path):
    events = run_events()
    events[-1]["status"] = "stopped"
    run_dir = write_ledger(tmp_path / "run", events)
    assert RunSummary.read(run_dir).state == "stopped"
    about = {
        "run_id": "7",
        "flwr_version": "1.41.0",
        "strategy": "FedAvg",
        "source": None,
        "version": "0.1.0",
    }
    lines = len(events) - 1
    append(run_dir, event(5, "run_resumed", **about, after=lines, cut_bytes=0, round=3, stage="OVER"))
    assert RunSummary.read(run_dir).state == "gone"
    ledger = Ledger(run_dir, VirtualClock(START), goes_on=True)
    assert RunSummary.read(run_dir).state == "preparing"
    ledger.close()


def test_a_last_event_of_many_rounds_is_found(tmp_path):
    events = run_events()
    events[-1]["rounds"] = [{**events[-1]["rounds"][0], "round": k} for k in range(1, 2001)]
    run_dir = write_ledger(tmp_path / "run", events)
    assert RunSummary.read(run_dir).state == "completed"


def test_the_newest_run_is_the_one_that_began_last(tmp_path):
    for name, hours in {"a": 2, "b": 3, "c": 1}.items():
        events = run_events()
        events[0] |= {"at": START + timedelta(hours=hours)}
        if name == "c":
            events[0] |= {"started_at": at(9)}
        write_ledger(tmp_path / name, events)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "ledger.jsonl").write_text("[]\n", encoding="utf-8")
    assert newest_run(tmp_path) == tmp_path / "c"
    assert [run.run_dir.name for run in list_runs(tmp_path)] == ["c", "b", "a", "d"]
    assert "ledger" in list_runs(tmp_path)[-1].problem
    with pytest.raises(InputError, match="no run in"):
        newest_run(tmp_path / "a")


def test_a_thousand_runs_take_less_than_a_second_of_cpu(tmp_path):
    for k in range(100):
        (tmp_path / f"run-{k}").mkdir()
        (tmp_path / f"run-{k}" / "ledger.jsonl").symlink_to(LEDGERS[0])
    began = cpu_seconds()
    assert len(list_runs(tmp_path)) == 100
    assert cpu_seconds() - began < 0.1 * 2  # twice the time of a tenth, for slow machines
