"""The ledger: append-only, readable after a crash, and summed up from its own lines."""

from __future__ import annotations

import errno
import json
import logging
from datetime import timedelta
from pathlib import Path

import pytest

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.ledger import Ledger, read_ledger, summarise

RUN = Path("run")


@pytest.fixture
def ledger(midnight):
    ledger = Ledger(RUN, VirtualClock(midnight))
    ledger.append("run_started", source="synthetic")
    yield ledger
    ledger.close()


def test_each_event_is_on_disk_before_the_run_goes_on(ledger, midnight):
    ledger.append("hold_started", round=1, until=midnight, seconds=timedelta(hours=1))
    lines = (RUN / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == {
        "v": 1, "at": "2026-03-02T00:00:00Z", "event": "hold_started", "round": 1,
        "until": "2026-03-02T00:00:00Z", "seconds": 3600.0,
    }  # fmt: skip


def test_a_torn_last_line_is_left_out(ledger):
    ledger.append("degraded", what="forecast", why="down", consequence="no waiting")
    path = RUN / "ledger.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert [event["event"] for event in read_ledger(RUN)] == ["run_started"]


def test_a_torn_line_in_the_middle_is_named(ledger):
    path = RUN / "ledger.jsonl"
    path.write_text('{"v": 1, "at\n' + path.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_ledger(RUN)
    assert (caught.value.field, caught.value.file) == ("line 1", str(path))


@pytest.mark.parametrize("line", ["[]", "5", '{"v": 2, "at": "2026-03-02T00:00:00Z", "event": "x"}', "{}"])
def test_what_is_not_an_event_is_named(ledger, line):
    path = RUN / "ledger.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_ledger(RUN)
    assert caught.value.field == "line 2"


def test_a_folder_without_a_ledger():
    with pytest.raises(InputError, match="give the folder of a run"):
        read_ledger(Path("nowhere"))


def test_a_folder_of_runs_names_them(ledger):
    with pytest.raises(InputError, match="give one of run"):
        read_ledger(Path())


def test_is_never_overwritten(ledger, midnight):
    with pytest.raises(InputError, match="holds the ledger of a run"):
        Ledger(RUN, VirtualClock(midnight))


def test_a_folder_that_cannot_be_written(midnight):
    Path("file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="is not writable"):
        Ledger(Path("file") / "run", VirtualClock(midnight))


def test_a_full_disk_ends_the_ledger_and_not_the_training(ledger, monkeypatch, caplog):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    monkeypatch.setattr("os.fsync", full)
    ledger.append("hold_started", round=1)
    ledger.append("hold_started", round=2)
    assert [record.message for record in caplog.records] == [
        "lowcarb: the ledger ends here, the training goes on: [Errno 28] No space left on device"
    ]


def closed(number, **grams):
    window = {"opens_at": f"2026-03-02T0{number}:00:00Z", "closes_at": f"2026-03-02T0{number + 1}:00:00Z"}
    given = {"planned_g": 10.0, "realised_g": 11.0, "run_now_g": 20.0, **grams}
    return {"round": number, **window, "nodes_done": 2, "nodes_failed": 0, "energy_kwh": 0.5, **given}


def test_the_summary_adds_up(ledger):
    ledger.append("nodes", joined=[{"id": name} for name in ("a", "b", "c")], left=[])
    for number in (1, 2):
        ledger.append("round_opened", round=number, held_s=60.0)
        for name in ("a", "b"):
            ledger.append("node_done", round=number, id=name, energy_kwh=0.25, energy_basis="estimated")
        ledger.append("round_closed", **closed(number))
    ledger.append("evaluated", round=2, where="server", metrics={"accuracy": 0.9})
    summary = summarise(read_ledger(RUN))
    assert (summary.planned_g, summary.realised_g, summary.run_now_g) == (20.0, 22.0, 40.0)
    assert summary.saving == pytest.approx(0.45)
    assert summary.energy_kwh == 1.0
    assert summary.energy_by_basis == {"estimated": 1.0}
    assert dict(summary.turns) == {"a": 2, "b": 2, "c": 0}
    assert summary.jain == pytest.approx(16 / 24)
    assert summary.rounds[1].metrics == {"accuracy": 0.9}
    assert summary.rounds[0].held == timedelta(minutes=1)
    assert summary.status == "unfinished"


def test_what_is_unknown_in_one_round_is_unknown_in_sum_until_it_is_learnt(ledger):
    for number, realised in ((1, 11.0), (2, None)):
        ledger.append("round_opened", round=number, held_s=0.0)
        ledger.append("round_closed", **closed(number, realised_g=realised))
    assert summarise(read_ledger(RUN)).realised_g is None
    assert summarise(read_ledger(RUN)).saving is None
    late = [{"round": 2, "planned_g": 10.0, "realised_g": 12.0, "run_now_g": 20.0}]
    ledger.append("run_finished", status="completed", rounds=late)
    summary = summarise(read_ledger(RUN))
    assert (summary.realised_g, summary.status) == (23.0, "completed")
