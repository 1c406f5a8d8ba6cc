"""Fixtures and settings that all tests share."""

from __future__ import annotations

import gc
import os
import sys
import time
from datetime import UTC, datetime

import pytest
from hypothesis import settings

# Before NumPy is imported: on small matrices threads of BLAS do nothing but wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["TZ"] = "UTC"  # what a command prints must not depend on where the tests run
time.tzset()
# Speed is for benchmarks: on a busy machine a correct example may take longer than any limit.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(autouse=True, scope="module")
def _modules_are_no_garbage():
    """Keep what is imported by now from being searched: Flower collects garbage for each reply it reads."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run each test in an empty folder, without settings from outside, its own archive, and no meter."""
    monkeypatch.setitem(sys.modules, "codecarbon", None)  # what it sees of this machine is not of a test
    # Only a power failure needs it, and a busy disk takes seconds: a killed process loses no page of a file.
    monkeypatch.setattr("os.fsync", lambda _: None)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    for name in list(os.environ):
        if name.startswith("LOWCARB_"):
            monkeypatch.delenv(name)


@pytest.fixture
def midnight() -> datetime:
    """A fixed time, on a full hour."""
    return datetime(2026, 3, 2, tzinfo=UTC)
