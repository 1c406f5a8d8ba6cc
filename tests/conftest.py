"""What all tests share."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """Run each test in an empty folder and without settings from outside."""
    import os

    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("LOWCARB_"):
            monkeypatch.delenv(name)


@pytest.fixture
def midnight() -> datetime:
    """A fixed time, on a full hour."""
    return datetime(2026, 3, 2, tzinfo=UTC)
