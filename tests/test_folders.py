"""Folders of what has to survive a power failure are on disk before anything in them counts."""

from __future__ import annotations

import errno
import os
from datetime import timedelta
from pathlib import Path

import pytest

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.folders import make_folder
from lowcarb_scheduler.forecasts.archive.database import Archive
from lowcarb_scheduler.ledger import Ledger

NEW = Path("runs/of-today/run")


@pytest.fixture
def synced(monkeypatch):
    """Return the folders that are forced to disk, by their inodes."""
    found = set()

    def sync(fd):
        found.add(os.fstat(fd).st_ino)

    monkeypatch.setattr("os.fsync", sync)
    return found


def open_ledger(midnight):
    Ledger(NEW, VirtualClock(midnight)).close()
    return NEW / "ledger.jsonl"


def write_checkpoint(midnight):
    Checkpoint(NEW).commit({"arrays": {}})
    return Checkpoint(NEW).path


def write_archive(midnight):
    archive = Archive(NEW, clock=VirtualClock(midnight))
    archive.prune(timedelta(days=1))
    return archive.path


@pytest.mark.parametrize("write", [open_ledger, write_checkpoint, write_archive])
def test_every_new_folder_above_a_file_is_named_on_disk(midnight, synced, write):
    parents = write(midnight).parent.parents
    assert {folder.stat().st_ino for folder in parents} <= synced


def test_the_new_file_of_a_ledger_is_named_on_disk(midnight, synced):
    assert open_ledger(midnight).parent.stat().st_ino in synced


def test_folders_that_were_there_are_left_alone(synced):
    NEW.mkdir(parents=True)
    make_folder(NEW)
    assert synced == set()


@pytest.mark.parametrize(("code", "is_raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_file_system_that_forces_no_folder_is_taken_as_it_is(monkeypatch, code, is_raised):
    def refuse(_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("os.fsync", refuse)
    if is_raised:
        with pytest.raises(OSError, match=os.strerror(code)):
            make_folder(NEW)
    else:
        make_folder(NEW)
        assert NEW.is_dir()
