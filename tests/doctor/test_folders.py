from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowcarb_scheduler.clock import HOUR_US, VirtualClock, to_us
from lowcarb_scheduler.doctor.checks import LEAST_FREE_BYTES, check_archive, check_run_dir
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed
from lowcarb_scheduler.intensity import IntensityTable
from lowcarb_scheduler.settings import Settings
from support.report_ledger import run_events, write_ledger


def settings(**keywords) -> Settings:
    return Settings.load(keywords)


def everything(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


@pytest.mark.parametrize("keywords", [{}, {"run_dir": "deep/er/run"}])
def test_checking_a_writable_run_dir_does_not_create_it(tmp_path, keywords):
    assert check_run_dir(settings(**keywords)).state == "ok"
    assert everything(tmp_path) == []


def test_a_run_dir_that_cannot_be_written_is_a_fault():
    Path("file").write_text("", encoding="utf-8")
    check = check_run_dir(settings(run_dir="file/run"))
    assert check.state == "fault"
    assert "LOWCARB_RUN_DIR" in check.fix


@pytest.mark.parametrize(("finished", "state"), [(True, "fault"), (False, "warning")])
def test_a_run_dir_with_a_ledger_is_a_fault_unless_the_run_may_go_on(finished, state):
    write_ledger(Path("run"), run_events(finished=finished))
    assert check_run_dir(settings(run_dir="run")).state == state


def test_a_run_dir_with_an_unreadable_ledger_is_a_fault():
    Path("run").mkdir()
    Path("run/ledger.jsonl").write_text("no ledger\n", encoding="utf-8")
    assert check_run_dir(settings(run_dir="run")).state == "fault"


def test_a_disk_that_is_nearly_full_is_a_warning(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=LEAST_FREE_BYTES - 1))
    assert check_run_dir(settings()).state == "warning"


def test_checking_an_archive_does_not_create_it(tmp_path, midnight):
    check = check_archive(settings(), VirtualClock(midnight))
    assert check.state == "ok"
    assert "does not exist yet" in check.detail
    assert "lowcarb archive fetch" in check.fix
    assert everything(tmp_path) == []


def test_an_archive_tells_its_size_and_days_of_history(midnight):
    archive = Archive(Path("kept"), clock=VirtualClock(midnight))
    hours = [to_us(midnight - timedelta(days=3)) + HOUR_US * h for h in range(36)]
    table = IntensityTable.from_points({"DE": (hours, [1.0] * 36)})
    archive.put_actual(Feed("sdk", "unknown", "http://sdk"), table)
    check = check_archive(settings(archive_dir="kept"), VirtualClock(midnight))
    assert check.state == "ok"
    assert "MB; days of history: DE 1.5" in check.detail


@pytest.mark.parametrize(
    ("days", "source", "state"),
    [
        (2, "watttime", "warning"), (4, "watttime", "ok"), (2, "traces,watttime", "warning"),
        (2, "synthetic", "ok"), (None, "watttime", "warning"), (None, "traces", "ok"),
    ],
)  # fmt: skip
def test_less_history_than_can_stand_in_for_a_forecast_is_a_warning(midnight, days, source, state):
    if days is not None:
        hours = [to_us(midnight - timedelta(days=5)) + HOUR_US * h for h in range(24 * days)]
        archive = Archive(Path("kept"), clock=VirtualClock(midnight))
        table = IntensityTable.from_points({"DE": (hours, [1.0] * len(hours))})
        archive.put_actual(Feed("watttime", "marginal", "http://server"), table)
    check = check_archive(settings(archive_dir="kept", source=source), VirtualClock(midnight))
    assert check.state == state
    if state == "warning":
        assert check.fix == "fill it: lowcarb archive fetch --days 28"


def test_no_archive_is_a_warning(midnight):
    assert check_archive(settings(archive_dir="none"), VirtualClock(midnight)).state == "warning"


@pytest.mark.parametrize(("named", "state"), [(True, "fault"), (False, "warning")])
def test_an_archive_that_cannot_be_used_is_a_fault_where_it_was_named(tmp_path, midnight, named, state):
    folder = tmp_path / "data" / "lowcarb-scheduler"  # the default
    folder.mkdir(parents=True)
    (folder / "archive.sqlite").write_text("no database, and long enough not to be taken for an empty one")
    check = check_archive(settings(**({"archive_dir": str(folder)} if named else {})), VirtualClock(midnight))
    assert check.state == state
    assert check.fix


def test_a_folder_for_the_archive_that_cannot_be_made_is_a_fault(midnight):
    Path("file").write_text("", encoding="utf-8")
    check = check_archive(settings(archive_dir="file/archive"), VirtualClock(midnight))
    assert check.state == "fault"
    assert "cannot be written" in check.detail
