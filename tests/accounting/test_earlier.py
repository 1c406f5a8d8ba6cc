"""Rounds of earlier runs: which ledgers count, and how long their rounds took."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lowcarb_scheduler.accounting import earlier
from lowcarb_scheduler.accounting.earlier import EarlierRounds, JobKind, earlier_rounds
from lowcarb_scheduler.documents import to_json

START, MINUTE = datetime(2026, 3, 2, tzinfo=UTC), timedelta(minutes=1)
RUNS = Path("runs")
KIND = JobKind("FedAvg", 80, timedelta(hours=1))
STARTED = {
    "event": "run_started", "run_id": "1", "flwr_version": "1", "version": "1", "strategy": "FedAvg",
    "source": None, "settings": {}, "rounds": 3, "clients_per_round": 2, "round_duration_s": 3600.0,
    "finish_by": None, "target_finish": None, "patience": 1.0, "participation": "equal", "clock": "system",
    "model_bytes": 80,
}  # fmt: skip


def opened(number, at, held=0):
    return {
        "event": "round_opened", "round": number, "opened_at": START + at * MINUTE, "held_s": 60.0 * held,
        "planned_opens_at": START, "nodes": [], "planned_g": None, "mean_g_per_kwh": None,
    }  # fmt: skip


def closed(number, opens, closes):
    return {
        "event": "round_closed", "round": number, "opens_at": START + opens * MINUTE,
        "closes_at": START + closes * MINUTE, "round_duration_s": 3600.0, "nodes_done": 1, "nodes_failed": 0,
        "energy_kwh": 1.0, "planned_g": None, "realised_g": None, "run_now_g": None,
    }  # fmt: skip


def write(name, *events, age=0, **started):
    """Write the ledger of a run."""
    folder = RUNS / name
    folder.mkdir(parents=True)
    lines = [to_json({"v": 1, "at": START, **event}) for event in ({**STARTED, **started}, *events)]
    path = folder / "ledger.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.utime(path, (10**9 - age, 10**9 - age))
    return path


def read(kind=KIND):
    return earlier_rounds(RUNS, kind, before=RUNS / "now")


def in_minutes(found):
    return [each / 60 for each in found.seconds]


def test_without_any_run_there_are_none():
    assert read() == EarlierRounds()
    assert earlier_rounds(Path("nowhere"), KIND, before=Path("nowhere/now")) == EarlierRounds()


def test_rounds_of_all_runs_of_a_kind_count_the_newest_first():
    write("a", opened(1, 0), closed(1, 0, 30), age=9)
    write("b", opened(1, 0), closed(1, 0, 50), age=1)
    write("now", opened(1, 0), closed(1, 0, 10))
    found = read()
    assert (in_minutes(found), found.runs, found.typical_s) == ([50, 30], 2, 40 * 60)


@pytest.mark.parametrize(
    "other",
    [
        {"strategy": "FedAdam"},
        {"model_bytes": 81},
        {"model_bytes": None},  # as in ledgers of earlier versions
        {"round_duration_s": None},
        {"clock": "virtual"},
    ],
)
def test_other_jobs_do_not_count(other, caplog):
    write("a", opened(1, 0), closed(1, 0, 30), **other)
    assert read().runs == 0
    assert not caplog.messages


def test_a_round_lasts_until_the_next_one_could_open():
    write("a", opened(1, 0), closed(1, 0, 30), opened(2, 100, held=60), closed(2, 100, 125))
    assert in_minutes(read()) == [40, 25]  # ten minutes of evaluation on the server


def test_the_time_in_which_a_run_was_down_does_not_count():
    resumed = {
        "event": "run_resumed", "run_id": "1", "flwr_version": "1", "version": "1", "strategy": "FedAvg",
        "source": None, "after": 3, "cut_bytes": 0, "round": 1, "stage": "OVER",
    }  # fmt: skip
    write("a", opened(1, 0), closed(1, 0, 30), opened(2, 40), resumed, opened(2, 500), closed(2, 500, 535))
    write("b", opened(1, 0), closed(1, 0, 30), resumed, opened(2, 500), closed(2, 500, 535), age=1)
    assert in_minutes(read()) == [40, 35, 30, 35]


@pytest.mark.parametrize(("status", "rounds"), [("completed", 2), ("out of time", 2), ("stopped", 1)])
def test_a_round_that_was_stopped_does_not_count(status, rounds):
    end = {
        "event": "run_finished", "status": status, "rounds": [], "planned_g": None, "realised_g": None,
        "run_now_g": None, "evaluation_g": None, "saving": None, "energy_kwh": 0.0,
        "energy_by_basis": {}, "evaluation_energy_kwh": 0.0, "finish": START, "finish_by": None,
        "late": False, "jain": 1.0, "min_turns": 0, "max_turns": 0,
    }  # fmt: skip
    write("a", opened(1, 0), closed(1, 0, 30), opened(2, 30), closed(2, 30, 35), end)
    assert len(read().seconds) == rounds


@pytest.mark.parametrize(
    "text",
    [
        b"no ledger at all\n",
        b'{"v": 1, "at": "2026-03-02T00:00:00Z", "event": "run_started"}\n',
        b'{"v": 2, "at": "2026-03-02T00:00:00Z", "event": "run_started"}\n',
        b"",
        b"\xff\xfe\n",
    ],
)
def test_broken_and_foreign_ledgers_are_left_out_with_one_line_each(text, caplog):
    caplog.set_level(logging.WARNING, "flwr")
    write("a", opened(1, 0), closed(1, 0, 30))
    write("b").write_bytes(text)
    assert read().runs == 1
    (line,) = caplog.messages
    assert "the rounds of an earlier run are ignored" in line
    assert str(RUNS / "b") in line


def test_a_torn_last_line_breaks_nothing(caplog):
    path = write("a", opened(1, 0), closed(1, 0, 30), opened(2, 30))
    path.write_bytes(path.read_bytes()[:-20])
    assert in_minutes(read()) == [30]
    assert not caplog.messages


def test_a_broken_round_leaves_its_run_out(caplog):
    caplog.set_level(logging.WARNING, "flwr")
    path = write("a", opened(1, 0), closed(1, 0, 30))
    path.write_bytes(path.read_bytes() + b'{"event": "round_closed", "round": 2\n')
    assert read().runs == 0
    assert len(caplog.messages) == 1


def test_only_the_newest_runs_are_read():
    for k in range(60):
        write(f"r{k}", opened(1, 0), closed(1, 0, k), age=k)
    found = read()
    assert (found.runs, in_minutes(found)[-1]) == (earlier.MOST_RUNS, 49)


def test_lines_of_other_events_are_not_read():
    path = write("a", opened(1, 0), closed(1, 0, 30))
    path.write_bytes(path.read_bytes() + b'{"event": "forecast", "intensity": [\n')
    assert in_minutes(read()) == [30]
