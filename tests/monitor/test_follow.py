"""Ledgers that grow: read again where they have changed, and after a rest."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.monitor.follow import Follower, RunFolder
from support.report_ledger import START, run_events, write_ledger


class Slow(VirtualClock):
    """A clock on which every look at it takes a second."""

    def now(self):
        self.sleep_until(super().now() + timedelta(seconds=1))
        return super().now()


def test_a_ledger_that_has_not_changed_is_not_read_again(tmp_path):
    events = run_events()
    follower = Follower(write_ledger(tmp_path / "run", events[:4]), VirtualClock(START))
    first = follower.read()
    assert follower.read() is first
    write_ledger(tmp_path / "run", events)
    assert follower.read().rounds_done == 3


def test_between_two_readings_there_is_a_rest(tmp_path):
    events, clock = run_events(), Slow(START)
    follower = Follower(write_ledger(tmp_path / "run", events[:4]), clock)
    first, seen = follower.read(), follower.seen
    write_ledger(tmp_path / "run", events)
    assert follower.read() is first
    assert follower.seen == seen  # that is what was read
    clock.sleep_until(clock.now() + timedelta(seconds=10))
    assert follower.read().rounds_done == 3
    assert follower.seen != seen


def test_a_ledger_that_cannot_be_read_rests_too_and_is_tried_again(tmp_path):
    clock = Slow(START)
    follower = Follower(write_ledger(tmp_path / "run", []), clock)
    with pytest.raises(InputError, match="no run_started event") as first:
        follower.read()
    write_ledger(tmp_path / "run", run_events())
    with pytest.raises(InputError) as second:
        follower.read()
    assert second.value is first.value
    clock.sleep_until(clock.now() + timedelta(seconds=10))
    assert follower.read().rounds_done == 3


def test_of_many_runs_those_that_were_asked_for_last_are_kept(tmp_path):
    for k in range(40):
        write_ledger(tmp_path / f"run-{k}", run_events())
    runs = RunFolder(tmp_path, VirtualClock(START))
    kept = [runs.follow(tmp_path / f"run-{k}") for k in range(40)]
    assert runs.follow(tmp_path / "run-39") is kept[39]
    assert runs.follow(tmp_path / "run-0") is not kept[0]
