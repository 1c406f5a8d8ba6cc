"""``python -m support.killed_run PLACE``: a run in a process of its own, which kills itself at that place."""

from __future__ import annotations

import os
import signal
import sys
from datetime import UTC, datetime

from flwr.serverapp.strategy import FedAvgM

from lowcarb_scheduler.events import RoundClosed
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.testing import VirtualClock
from support.resume_runs import make_aware, make_grid, start
from support.runs import events_of

append, commit, sleep_until = Ledger.append, Checkpoint.commit, VirtualClock.sleep_until


def run_until_killed(place):
    def die_if(is_here):
        if is_here:
            os.kill(os.getpid(), signal.SIGKILL)

    def in_a_line(self, event):
        if place == "line" and isinstance(event, RoundClosed) and event.round == 2:
            self._file.write('{"v": 1, "at": "2026-')
            self._file.flush()
            die_if(True)
        append(self, event)

    def between(self, state):
        die_if(place == "between" and state["round"] == 2)
        commit(self, state)

    def in_a_hold(self, when):
        die_if(place == "hold" and any(event["round"] == 3 for event in events_of("hold_started")))
        sleep_until(self, when)

    Ledger.append, Checkpoint.commit, VirtualClock.sleep_until = in_a_line, between, in_a_hold
    grid = make_grid(on_train=lambda node, number: die_if(place == "training" and number == 3))
    start(make_aware(datetime(2026, 3, 2, tzinfo=UTC), FedAvgM(server_momentum=0.9), balance=1.2), grid)


if __name__ == "__main__":
    run_until_killed(sys.argv[1])
