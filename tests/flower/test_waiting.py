"""The hold: when it wakes, what ends it, what it says, and who trains when it is over."""

from __future__ import annotations

import logging
import signal
import threading
from datetime import timedelta
from itertools import pairwise

import pytest

from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.cli import main
from lowcarb_scheduler.clock import SystemClock, parse_time
from lowcarb_scheduler.errors import ForecastUnavailableError
from lowcarb_scheduler.flower.waiting import GLANCE, WAKE, Wait, ending_in_order, request_release
from lowcarb_scheduler.ledger import read_ledger
from lowcarb_scheduler.testing import VirtualClock
from support.apps import WorkingGrid
from support.clocks import Machine
from support.forecast_sources import Curve
from support.ledgers import read_records
from support.runs import RUN, named, opened, run_curve

HOUR, MINUTE, SECOND = timedelta(hours=1), timedelta(minutes=1), timedelta(seconds=1)


@pytest.fixture
def grid():
    return WorkingGrid()


# -- the loop ------------------------------------------------------------------------------------------------


def hold(clock, opening, released=lambda: None):
    """Wait until a round opens that may be moved at every wake; return when that was."""
    RUN.mkdir(exist_ok=True)
    wait = Wait(clock, RUN, 1)
    for is_released in wait.wakes():
        if is_released:
            released()
        wait.until = opening()
    return clock.now()


def test_it_looks_at_least_once_a_minute_and_once_more_right_before_it_ends(midnight):
    machine, looks = Machine(midnight), []

    def opening():
        looks.append(machine.now())
        return midnight + 10 * MINUTE + 20 * SECOND

    assert hold(machine, opening) == midnight + 10 * MINUTE + 20 * SECOND
    assert max(later - sooner for sooner, later in pairwise(looks)) == WAKE
    assert looks[-1] == machine.now()


@pytest.mark.parametrize("back", [HOUR, 30 * timedelta(days=1)])
@pytest.mark.parametrize("after", [0, 1, 90])
def test_a_clock_that_is_set_back_does_not_lengthen_it(midnight, back, after):
    class SetBack(Machine):
        """A clock that is set back once; what passes is counted by ``passed``."""

        passed = timedelta(0)

        def sleep_until(self, when):
            self.passed += when - self._now
            super().sleep_until(when)
            if self.sleeps == after + 1:
                self._now -= back

    machine = SetBack(midnight)
    hold(machine, lambda: midnight + 2 * HOUR)
    assert machine.passed == 2 * HOUR


def test_a_clock_that_jumps_ahead_ends_it(midnight):
    machine = Machine(midnight, [(midnight + MINUTE, lambda: setattr(machine, "_now", midnight + 5 * HOUR))])
    assert hold(machine, lambda: midnight + 2 * HOUR) == midnight + 5 * HOUR


def test_a_nudge_is_noticed_within_seconds(midnight):
    requested_at, opens_at = midnight + 100 * GLANCE, [midnight + HOUR]
    machine = Machine(midnight, [(requested_at, lambda: request_release(RUN, 1))])

    def released():
        opens_at[0] = midnight

    assert hold(machine, lambda: opens_at[0], released) == requested_at
    assert GLANCE <= 5 * SECOND


def test_a_request_for_another_round_changes_nothing(midnight):
    machine = Machine(midnight, [(midnight + MINUTE, lambda: request_release(RUN, 2))])
    assert hold(machine, lambda: midnight + HOUR, lambda: 1 / 0) == midnight + HOUR


def test_on_a_virtual_clock_nobody_is_listened_to(midnight):
    RUN.mkdir()
    request_release(RUN, 1)
    assert hold(VirtualClock(midnight), lambda: midnight + HOUR, lambda: 1 / 0) == midnight + HOUR


# -- what it follows -----------------------------------------------------------------------------------------


def test_an_unchanged_forecast_never_changes_the_plan(midnight, grid):
    events = run_curve(grid, Machine(midnight), rounds=4)
    assert len(named(events, "forecast")) > 10  # it was made anew all the time
    (plan,) = named(events, "planned")
    assert opened(events) == [parse_time(window["opens_at"], "t") for window in plan["windows"]]
    assert len(named(events, "hold_started")) == 1


def test_a_new_forecast_moves_a_hold(midnight, grid):
    source = Curve(midnight, changes=[(midnight + 3 * HOUR, range(12, 16))])
    events = run_curve(grid, Machine(midnight), source=source)
    assert [event["until"] for event in named(events, "hold_started")] == [
        "2026-03-02T06:00:00Z", "2026-03-02T12:00:00Z",
    ]  # fmt: skip
    assert opened(events)[0] == midnight + 12 * HOUR
    assert "new forecast" in {event["reason"] for event in named(events, "planned")}


def test_a_node_that_joins_in_the_hold_may_train_in_that_round(midnight, grid):
    node = {"partition-id": 6, "location": "DE", "power-watts": 1.0}
    machine = Machine(midnight, [(midnight + HOUR, lambda: grid.join(node))])
    events = run_curve(grid, machine, rounds=1, participation="any")
    assert "nodes changed" in {event["reason"] for event in named(events, "planned")}
    assert "6" in {each["id"] for each in named(events, "round_opened")[0]["nodes"]}


def test_when_too_many_are_missing_right_before_dispatch_others_are_waited_for(midnight, grid):
    def act():
        for node_id in list(grid.get_node_ids())[:5]:
            grid.kill(node_id)
        machine.at.append((midnight + 6 * HOUR + 20 * SECOND, lambda: grid.join({"partition-id": 9})))

    machine = Machine(midnight, [(midnight + 6 * HOUR, act)])
    events = run_curve(grid, machine, rounds=1)
    assert opened(events) == [midnight + 6 * HOUR + 20 * SECOND]
    assert [each["id"] for each in named(events, "round_opened")[0]["nodes"]] == ["5", "9"]


@pytest.mark.parametrize("lost", range(6))
def test_a_missing_node_is_replaced_by_one_that_owes_a_turn(midnight, grid, lost):
    machine = Machine(midnight, [(midnight + 6 * HOUR, lambda: grid.kill(101 + lost))])
    events = run_curve(grid, machine, rounds=2)
    first, second = ({each["id"] for each in e["nodes"]} for e in named(events, "round_opened"))
    assert opened(events)[0] == midnight + 6 * HOUR
    assert len(first) == len(second) == 2
    assert str(lost) not in first | second
    assert not first & second  # everybody's first turn comes before anybody's second
    assert not named(events, "node_failed")


def test_max_hold_caps_one_hold_and_the_best_moment_within_it_is_taken(midnight, grid):
    source = Curve(midnight, told={2: 300.0})
    events = run_curve(grid, Machine(midnight), source=source, max_hold=3 * HOUR)
    assert named(events, "planned")[0]["windows"][0]["opens_at"] == "2026-03-02T06:00:00Z"
    assert opened(events)[0] == midnight + 2 * HOUR
    (held, *_) = named(events, "hold_started")
    assert held["reason"].endswith("; it waits no longer than max-hold allows")
    planned_g = named(events, "round_opened")[0]["planned_g"]
    assert planned_g == held["planned_g"] == pytest.approx(600.0)  # of the hour it opens in
    assert all(event["held_s"] <= 3 * 3600 for event in named(events, "round_opened"))


def test_where_no_moment_within_max_hold_is_cleaner_the_round_opens_at_once(midnight, grid):
    events = run_curve(grid, Machine(midnight), rounds=1, max_hold=90 * MINUTE)
    assert opened(events) == [midnight]
    assert not named(events, "hold_started")


def test_a_round_that_is_ready_sooner_and_as_clean_opens_sooner(midnight, grid):
    events = run_curve(grid, Machine(midnight), rounds=4, length=50 * MINUTE)
    assert opened(events) == [midnight + 6 * HOUR + k * 50 * MINUTE for k in range(4)]
    assert len(named(events, "hold_started")) == 1


def test_a_round_that_is_ready_sooner_and_dirtier_waits(midnight, grid):
    source = Curve(midnight, clean=(), told={6: 100.0, 7: 50.0})
    events = run_curve(grid, Machine(midnight), rounds=2, length=50 * MINUTE, source=source)
    assert opened(events) == [midnight + 6 * HOUR, midnight + 7 * HOUR]


# -- what ends it --------------------------------------------------------------------------------------------


def test_an_operator_lets_it_go_and_the_run_goes_on(midnight, grid, capsys):
    machine = Machine(midnight, [(midnight + 2 * HOUR, lambda: main(["open-now", str(RUN)]))])
    events = run_curve(grid, machine)
    assert "round 1 opens within" in capsys.readouterr().out
    first, second = opened(events)
    assert midnight + 2 * HOUR <= first <= midnight + 2 * HOUR + 5 * SECOND
    (noted,) = named(events, "open_now")
    assert (noted["round"], noted["until"]) == (1, "2026-03-02T06:00:00Z")
    assert named(events, "round_opened")[0]["planned_g"] == pytest.approx(1000.0)
    assert second == midnight + 6 * HOUR  # the first of the clean hours is free now
    assert [path.name for path in RUN.glob("open-now*")] == []


def test_who_is_missing_when_an_operator_lets_it_go_is_replaced(midnight, grid, capsys):
    def act():
        main(["open-now", str(RUN)])
        for node_id in list(grid.get_node_ids())[:4]:
            grid.kill(node_id)

    events = run_curve(grid, Machine(midnight, [(midnight + HOUR, act)]), rounds=1)
    assert {each["id"] for each in named(events, "round_opened")[0]["nodes"]} == {"4", "5"}


def test_status_tells_of_the_hold_while_it_lasts(midnight, grid, capsys):
    machine = Machine(midnight, [(midnight + HOUR, lambda: main(["status", str(RUN), "--json"]))])
    run_curve(grid, machine)
    out = capsys.readouterr().out
    for part in ('"state": "holding"', '"alive": true', '"round": 1', '"opens_at": "2026-03-02T06:00:00Z"'):
        assert part in out


def terminate():
    signal.raise_signal(signal.SIGTERM)


def test_sigterm_in_it_ends_the_run_in_order(midnight, grid):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run_curve(grid, Machine(midnight, [(midnight + 2 * HOUR, terminate)]))
    assert caught.value.code == 143
    last = read_records(RUN)[-1]
    assert (last["event"], last["status"], last["at"]) == ("run_finished", "stopped", midnight + 2 * HOUR)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])  # Flower handles both
def test_who_handled_a_signal_before_gets_it_when_the_ledger_is_closed(midnight, grid, number):
    seen = []
    before = signal.signal(number, lambda *_: seen.append(read_records(RUN)[-1]["status"]))
    try:
        with pytest.raises(SystemExit):
            run_curve(grid, Machine(midnight, [(midnight + HOUR, lambda: signal.raise_signal(number))]))
    finally:
        signal.signal(number, before)
    assert seen == ["stopped"]


def test_where_sigint_is_a_keyboard_interrupt_it_stays_so(midnight, grid):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            run_curve(
                grid, Machine(midnight, [(midnight + HOUR, lambda: signal.raise_signal(signal.SIGINT))])
            )
    finally:
        signal.signal(signal.SIGINT, before)
    assert read_records(RUN)[-1]["status"] == "stopped"


def test_where_sigterm_is_ignored_it_stays_so():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with ending_in_order():
            terminate()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_outside_the_main_thread_signals_are_left_alone():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with ending_in_order():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_a_real_sleep_is_cut_short_by_sigterm():
    timer = threading.Timer(0.1, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGTERM))
    clock = SystemClock()
    began = clock.now()
    timer.start()
    with pytest.raises(SystemExit), ending_in_order():
        hold(clock, lambda: began + HOUR)
    assert clock.now() - began < MINUTE


# -- what it says --------------------------------------------------------------------------------------------


def test_the_log_is_sparse(midnight, grid, caplog):
    caplog.set_level(logging.INFO, "flwr")
    events = run_curve(grid, Machine(midnight))
    (held,) = named(events, "hold_started")
    lines = [record.message for record in caplog.records if "hold" in record.message]
    assert lines[0] == (
        "lowcarb: holding round 1/2 until 2026-03-02 06:00:00 UTC (6 h): its clients' grids are cleaner "
        "then, 200.0 g instead of 1,000.0 g if it opened now"
    )
    assert (held["planned_g"], held["at_once_g"]) == (200.0, 1000.0)
    still = [line for line in lines if "still holding" in line]
    assert len(still) == 6 * 4 - 1  # every quarter of an hour
    assert still[0] == "lowcarb: still holding round 1 until 2026-03-02 06:00:00 UTC (5 h 45 min)"


class Behind(Curve):
    """A source that has actual intensity two hours later, as providers do."""

    def actual(self, locations, start, end):
        if end - 2 * HOUR <= start:
            raise ForecastUnavailableError(dict.fromkeys(locations, "not yet"))
        return super().actual(locations, start, end - 2 * HOUR)


def test_a_held_run_shows_what_its_last_round_emitted_once_the_source_knows(midnight):
    seen = []
    looks = [(midnight + hours * HOUR, lambda: seen.append(summarise(read_ledger(RUN)))) for hours in (2, 10)]
    grid = WorkingGrid()
    events = run_curve(grid, Machine(midnight, looks), source=Behind(midnight, (0, 20)), clients_per_round=3)
    assert opened(events) == [midnight, midnight + 20 * HOUR]
    assert [each.rounds[0].realised_g is None for each in seen] == [True, False]
    assert [each.activity for each in seen] == ["holding", "holding"]
    between = [
        event for event in named(events, "actual")
        if midnight + HOUR < event["at"] < midnight + 20 * HOUR
    ]  # fmt: skip
    assert len(between) == 1  # no request follows once it is known


def test_turns_that_are_shorter_than_a_round_are_planned_as_long_as_they_were_seen(
    midnight, caplog, monkeypatch
):
    """Rounds of an hour, in which clients of 1 kW train for 12 minutes at 500 g/kWh."""
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    caplog.set_level(logging.INFO, "flwr")
    source = Curve(midnight, clean=())
    run_curve(
        WorkingGrid(), Machine(midnight), 3, 12 * MINUTE, source=source, telemetry=False, clients_per_round=2
    )
    rounds = summarise(read_ledger(RUN)).rounds
    assert [each.planned_g for each in rounds] == pytest.approx([1000.0, 200.0, 200.0])
    assert [each.realised_g for each in rounds] == pytest.approx([200.0] * 3)
    assert [each.run_now_g for each in rounds] == pytest.approx([200.0] * 3)
    assert [line for line in caplog.messages if "the longest so far" in line] == [
        "lowcarb: turns of clients without a stated duration are planned as 12 min, the longest so far;"
        " before, a whole round (1 h) was assumed"
    ]
    assumed = "turns of 6 are planned as long as a round until one is observed"
    assert any(assumed in line for line in caplog.messages)
