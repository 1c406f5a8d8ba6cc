"""The recorder: what nodes owe after failures."""

from __future__ import annotations

from datetime import timedelta

import pytest

from lowcarb_scheduler.accounting.turns import Profile, TurnReport
from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.scheduling.messages import RunLog
from lowcarb_scheduler.scheduling.recorder import Round, RunRecorder

HOUR = timedelta(hours=1)
NODE = Profile(id="a", location="DE", power_watts=300.0, duration=HOUR, node_id=7, power_assumed=True)


@pytest.fixture
def recorder(tmp_path, midnight):
    ledger = Ledger(tmp_path / "run", VirtualClock(midnight))
    yield RunRecorder(ledger, RunLog(ledger), midnight)
    ledger.close()


def play(recorder, midnight, outcomes):
    """Run a round of one node for each outcome, in which it trains or fails."""
    recorder.update_nodes([NODE])
    for number, is_done in enumerate(outcomes, start=1):
        opened_at = midnight + number * HOUR
        window = opened_at, opened_at + HOUR
        recorder.open(Round(number, *window, {7: (NODE, window)}, None), timedelta(0), opened_at)
        recorder.train_ended({7: (window, TurnReport())} if is_done else {}, {} if is_done else {7: "died"})
        recorder.close(window[1], HOUR, None)


@pytest.mark.parametrize(
    ("outcomes", "turns"),
    [
        ([False, False], 0),
        ([False, False, False], 1),  # after three in a row a turn counts as done, or it would fail for ever
        ([False, False, False, False], 2),
        ([False, False, True, False, False], 1),  # one that has worked in between begins anew
        ([False, True, False, True, False, True], 3),
    ],
)
def test_a_node_owes_a_turn_until_it_has_failed_three_times_in_a_row(recorder, midnight, outcomes, turns):
    play(recorder, midnight, outcomes)
    assert recorder.turns == {"a": turns}
