"""The ledger: append-only, readable after a crash, and summed up from its own lines."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import threading
from pathlib import Path

import numpy as np
import pytest

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import (
    ActualReceived,
    Degraded,
    Event,
    ForecastReceived,
    HoldStarted,
    NodeDone,
    NodeEvaluated,
    RoundOpened,
    event_of,
)
from lowcarb_scheduler.ledger import Ledger, is_in_use, read_ledger
from support.ledgers import replayed
from support.report_ledger import event, run_events, write_ledger

RUN = Path("run")


@pytest.fixture
def ledger(midnight):
    ledger = Ledger(RUN, VirtualClock(midnight))
    ledger.append(replayed(run_events()).started)
    yield ledger
    ledger.close()


def hold(until):
    return HoldStarted(round=1, until=until, seconds=3600.0, reason="cleaner")


def test_each_event_is_on_disk_before_the_run_goes_on(ledger, midnight):
    ledger.append(hold(midnight))
    lines = (RUN / "ledger.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[1]) == {
        "v": 1, "at": "2026-03-02T00:00:00Z", "event": "hold_started", "round": 1,
        "until": "2026-03-02T00:00:00Z", "seconds": 3600.0, "reason": "cleaner", "planned_g": None,
        "at_once_g": None,
    }  # fmt: skip


def test_a_torn_last_line_is_left_out(ledger):
    ledger.append(Degraded(what="forecast", why="down", consequence="no waiting"))
    path = RUN / "ledger.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-20], encoding="utf-8")
    assert [each.name for each in read_ledger(RUN)] == ["run_started"]


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


def test_a_full_disk_ends_the_ledger_and_not_the_training(ledger, midnight, monkeypatch, caplog):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    monkeypatch.setattr("os.fsync", full)
    ledger.append(hold(midnight))
    ledger.append(hold(midnight))
    assert [record.message for record in caplog.records] == [
        "lowcarb: the ledger ends here, the training continues: [Errno 28] No space left on device"
    ]


# -- Events ------------------------------------------------------------------------------------------------

OLD_LINES = [
    line
    for path in sorted((Path(__file__).parent / "fixtures" / "ledgers").glob("*.jsonl"))
    for line in path.read_text(encoding="utf-8").splitlines()
]


def test_lines_of_earlier_versions_are_written_with_the_same_values():
    for line in OLD_LINES:
        record = json.loads(line)
        read = event_of(record)
        head = {"v": 1, "at": read.at, "event": record["event"]}
        assert type(read) is not Event
        written = to_json({**head, **read.to_record()})
        if not isinstance(read, ForecastReceived | ActualReceived):
            assert event_of(json.loads(written)) == read
            # Times that the rest of a line tells are not written any more.
            assert written == line or isinstance(read, RoundOpened | NodeDone | NodeEvaluated)
        elif written != line:
            # A large table is written in a shorter form today, with the same values.
            packed = json.loads(written)
            assert len(written) < len(line) / 3
            table, same = read.intensity, event_of(packed).intensity
            assert (same.locations, same.provenance) == (table.locations, table.provenance)
            np.testing.assert_array_equal(same.edges_us, table.edges_us)
            np.testing.assert_array_equal(same.values, table.values)
            for key in ("from", "step_s", "steps", "locations", "packed"):
                del packed[key]
            assert packed == {key: record[key] for key in record if key not in ("edges", "g_per_kwh")}


def test_keys_and_events_of_later_versions_are_ignored(ledger, midnight):
    later = [event(1, "invented", round=1), event(2, "degraded", what="a", why="b", consequence="c", more=1)]
    path = RUN / "ledger.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + "".join(to_json(each) + "\n" for each in later))
    assert read_ledger(RUN)[1:] == [
        Event(at=later[0]["at"]),
        Degraded(at=later[1]["at"], what="a", why="b", consequence="c"),
    ]


def test_an_event_that_lacks_a_key_is_bad_input_that_names_the_ledger(ledger):
    path = RUN / "ledger.jsonl"
    path.write_text(path.read_text(encoding="utf-8") + to_json(event(1, "round_opened", round=1)) + "\n")
    with pytest.raises(InputError, match=r"does not write \(KeyError: 'opened_at'\)") as caught:
        read_ledger(RUN)
    assert caught.value.file == str(path)


def test_a_duration_is_stored_in_seconds_and_a_member_by_its_own_keys():
    opened = next(each for each in run_events() if each["event"] == "round_opened")
    read = event_of(json.loads(to_json(opened)))
    assert isinstance(read, RoundOpened)
    assert (read.held.total_seconds(), read.nodes[0].id) == (opened["held_s"], opened["nodes"][0]["id"])


def test_a_file_in_place_of_the_folder_is_called_so(midnight):
    RUN.write_text("", encoding="utf-8")
    for use in (lambda: Ledger(RUN, VirtualClock(midnight)), lambda: read_ledger(RUN)):
        with pytest.raises(InputError, match=r"run-dir: run is a file; give "):
            use()
    for path, problem in ((Path("a\0b"), "a path has no NUL"), (Path("a" * 5000), "it has 5,000 characters")):
        with pytest.raises(InputError, match=problem) as error:
            read_ledger(path)
        assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("evaluated", "metrics", True),
        ("evaluated", "metrics", {"accuracy": "high"}),
        ("round_closed", "planned_g", "much"),
        ("round_closed", "round", True),
        ("run_finished", "energy_by_basis", []),
    ],
)
def test_a_value_of_another_type_is_an_error_that_names_the_file(name, key, value):
    events = run_events()
    next(each for each in events if each["event"] == name)[key] = value
    write_ledger(RUN, events)
    with pytest.raises(InputError, match=f"holds an event this version does not write .TypeError: {key} is"):
        read_ledger(RUN)


def test_a_look_at_whether_a_run_is_alive_keeps_no_run_from_its_ledger(tmp_path, midnight):
    run_dir = tmp_path / "run"
    Ledger(run_dir, VirtualClock(midnight)).close()
    look = (run_dir / "ledger.jsonl").open("rb")
    fcntl.flock(look, fcntl.LOCK_SH | fcntl.LOCK_NB)  # as is_in_use does for an instant
    assert not is_in_use(run_dir)
    end = threading.Timer(0.02, look.close)
    end.start()
    Ledger(run_dir, VirtualClock(midnight), goes_on=True).close()
    end.join()
