"""Staggered dispatch: each message is sent at the planned start, and every wait for replies ends."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from flwr.app import DEFAULT_TTL, ArrayRecord, Message, MessageType, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from lowcarb_scheduler import Forecast, IntensityTable, carbon_aware
from lowcarb_scheduler.clock import HOUR_US, format_time, to_us
from lowcarb_scheduler.flower.client import RECORD
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import add_one, make_app
from support.clocks import Machine, SetBack
from support.ledgers import read_records
from support.runs import RUN, named

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
CLEAN = {"A": 1, "B": 3}  # the hour of each four in which a place is clean
ROUND = 4 * HOUR


class Tides:
    """A source: each place is clean in one hour of four."""

    def forecast(self, locations, now):
        return Forecast(self.actual(locations, now, now + 48 * HOUR), now)

    def actual(self, locations, start, end):
        hours = np.arange(to_us(start) // HOUR_US, to_us(end) // HOUR_US + 1)
        columns = [np.where(hours % 4 == CLEAN[place], 50.0, 500.0) for place in locations]
        edges = np.append(hours, hours[-1] + 1) * HOUR_US
        return IntensityTable(
            edges, tuple(locations), np.column_stack(columns), Provenance("tides", "average")
        )


class SlowGrid(InMemoryGrid):
    """A Grid whose nodes answer an hour after they are asked, as its clock tells; it keeps who was sent when.

    A node in ``mute`` never answers, and none says how long it took.
    """

    def __init__(self, app, configs, clock):
        super().__init__(app, configs)
        self.clock, self.mute, self.pushed = clock, set(), []
        self._due = {}

    def push_messages(self, messages):
        messages = list(messages)
        ids = super().push_messages(messages)
        for message, message_id in zip(messages, ids, strict=True):
            if message.metadata.message_type == MessageType.TRAIN:
                self.pushed.append((self.clock.now(), message.metadata.dst_node_id, message))
                self._due[message_id] = self.clock.now() + HOUR
                if message.metadata.dst_node_id in self.mute:
                    self._due[message_id] = None
        return ids

    def pull_messages(self, message_ids):
        now = self.clock.now()
        ready = [key for key in message_ids if (due := self._due.get(key, now)) is not None and due <= now]
        return super().pull_messages(ready)

    def _reply(self, message):
        reply = super()._reply(message)
        if reply.has_content() and message.metadata.message_type == MessageType.TRAIN:
            reply.content.pop(RECORD, None)
        return reply


CONFIGS = [{"name": f"{place.lower()}{k}", "location": place, "duration-minutes": 60.0}
           for place in CLEAN for k in range(2)]  # fmt: skip
NODES = {101 + k: config["name"] for k, config in enumerate(CONFIGS)}


@pytest.fixture(params=[Machine, VirtualClock])
def clock(request, midnight):
    return request.param(midnight)


@pytest.fixture
def machine(midnight):
    return Machine(midnight)


def run(grid, clock, rounds=1, strategy=None, timeout=7200.0, **settings):
    given = {
        "source": Tides(), "clock": clock, "run_dir": RUN, "clients_per_round": 4, "round_duration": ROUND,
        "finish_by": rounds * ROUND, "stagger": True,
    }  # fmt: skip
    aware = carbon_aware(strategy or FedAvg(fraction_evaluate=0.0), **{**given, **settings})
    result = aware.start(grid, ArrayRecord([np.zeros(2)]), num_rounds=rounds, timeout=timeout)
    return read_records(settings.get("run_dir", RUN)), result


def test_each_client_starts_when_its_location_is_clean(clock):
    grid = SlowGrid(make_app(add_one), CONFIGS, clock)
    if isinstance(clock, VirtualClock):
        grid.pull_messages = lambda ids: InMemoryGrid.pull_messages(grid, ids)  # nodes work in real time
    events, _ = run(grid, clock, rounds=2)
    assert len(grid.pushed) == 8
    for when, node_id, _ in grid.pushed:
        assert when.hour % 4 == CLEAN[NODES[node_id][0].upper()]
        assert when.minute == 0
    done = {(event["round"], event["id"]): event for event in named(events, "node_done")}
    assert len(done) == 8
    first = {event["started_at"] for event in done.values() if event["round"] == 1}
    assert len(first) == 2
    started = {(format_time(when), NODES[node_id]) for when, node_id, _ in grid.pushed}
    assert {(event["started_at"], event["id"]) for event in done.values()} == started
    assert {event["duration_s"] for event in done.values()} == {3600.0}
    end = named(events, "run_finished")[0]
    assert end["planned_g"] == pytest.approx(end["realised_g"]) == pytest.approx(8 * 0.3 * 50.0)


def test_without_stagger_all_start_together(machine):
    grid = SlowGrid(make_app(add_one), CONFIGS, machine)
    grid.pull_messages = lambda ids: InMemoryGrid.pull_messages(grid, ids)
    events, _ = run(grid, machine, stagger=False)
    assert len({when for when, _, _ in grid.pushed}) == 1
    assert len(named(events, "node_done")) == 4


def test_the_time_to_live_begins_when_a_message_is_sent(machine):
    grid = SlowGrid(make_app(add_one), CONFIGS, machine)
    run(grid, machine)
    assert len({when for when, _, _ in grid.pushed}) == 2
    assert all(message.metadata.created_at == when.timestamp() for when, _, message in grid.pushed)


@pytest.mark.parametrize(
    ("timeout", "given", "ttl"),
    [
        (600.0, 600.0, DEFAULT_TTL),  # what the user says holds
        (3600.0, 7200.0, DEFAULT_TTL),  # Flower's default is too short for turns of an hour: twice that
        (90_000.0, 90_000.0, 90_060.0),  # messages live as long as replies are waited for
        (None, DEFAULT_TTL, DEFAULT_TTL),  # for ever is as long as a reply can come
    ],
)
def test_reply_timeouts_follow_the_plan(machine, timeout, given, ttl):
    asked = []

    class Asked(InMemoryGrid):
        def send_and_receive(self, messages, *, timeout=None):
            if messages and messages[0].metadata.message_type == MessageType.TRAIN:
                asked.extend((timeout, message.metadata.ttl) for message in messages)
            return super().send_and_receive(messages, timeout=timeout)

    run(Asked(make_app(add_one), CONFIGS), machine, timeout=timeout, stagger=False)
    assert asked == [(given, ttl)] * 4


@pytest.mark.parametrize(("timeout", "limit"), [(7200.0, 2 * HOUR), (None, timedelta(seconds=DEFAULT_TTL))])
def test_the_reply_timeout_of_a_node_begins_at_its_own_start(machine, timeout, limit):
    grid = SlowGrid(make_app(add_one), CONFIGS, machine)
    grid.mute = {103}  # of place B: it starts last
    events, _ = run(grid, machine, timeout=timeout)
    sent_at = next(when for when, node_id, _ in grid.pushed if node_id == 103)
    assert limit <= machine.now() - sent_at < limit + MINUTE
    assert [(event["id"], event["reason"]) for event in named(events, "node_failed")] == [("b0", "no reply")]
    assert {event["id"] for event in named(events, "node_done")} == {"a0", "a1", "b1"}


def test_a_clock_that_is_set_back_delays_neither_a_start_nor_a_timeout(midnight):
    class Nodes(SlowGrid):
        """Nodes whose own clocks were right all along."""

        @property
        def clock(self):
            return back.steady

        @clock.setter
        def clock(self, _):
            pass

    back = SetBack(midnight, 30 * MINUTE)
    grid = Nodes(make_app(add_one), CONFIGS, back)
    grid.mute = {103}
    events, _ = run(grid, back)
    assert {event["id"] for event in named(events, "node_done")} == {"a0", "a1", "b1"}
    assert [event["reason"] for event in named(events, "node_failed")] == ["no reply"]
    # As where the clock is right: the last start, and two hours for a reply.
    right, other = Machine(midnight), SlowGrid(make_app(add_one), CONFIGS, Machine(midnight))
    other.clock, other.mute = right, {103}
    run(other, right, run_dir=Path("right"))
    one, same = ([node_id for _, node_id, _ in each.pushed] for each in (grid, other))
    assert (set(one[:2]), set(one[2:])) == (set(same[:2]), set(same[2:]))
    assert abs(back.passed - (right.now() - midnight)) <= MINUTE


def test_a_node_that_dies_before_its_start_is_sent_nothing(machine, midnight):
    grid = SlowGrid(make_app(add_one), CONFIGS, machine)
    machine.at.append((midnight + 2 * HOUR, lambda: grid.kill(104)))
    # A wrapper that drops a whole round for one error reply gets none.
    strategy = DifferentialPrivacyServerSideFixedClipping(FedAvg(fraction_evaluate=0.0), 0.0, 100.0, 4)
    events, result = run(grid, machine, strategy=strategy)
    assert {node_id for _, node_id, _ in grid.pushed} == {101, 102, 103}
    failed = [(event["id"], event["reason"]) for event in named(events, "node_failed")]
    assert failed == [("b1", "the node had left when its turn came")]
    np.testing.assert_allclose(result.arrays.to_numpy_ndarrays()[0], 1.0)


def test_a_round_ends_when_all_its_nodes_are_lost(machine, midnight):
    grid = SlowGrid(make_app(add_one), CONFIGS, machine)
    machine.at.append((midnight + MINUTE, lambda: [grid.kill(node_id) for node_id in NODES]))
    events, _ = run(grid, machine)
    assert not grid.pushed
    assert len(named(events, "node_failed")) == 4
    assert named(events, "run_finished")[0]["status"] == "completed"


def test_a_message_that_cannot_be_sent_is_not_waited_for(machine):
    class Full(SlowGrid):
        def push_messages(self, messages):
            ids = super().push_messages(messages)
            return [] if self.pushed and self.pushed[-1][1] in (103, 104) else ids

    grid = Full(make_app(add_one), CONFIGS, machine)
    events, _ = run(grid, machine)
    reasons = {event["id"]: event["reason"] for event in named(events, "node_failed")}
    assert reasons == dict.fromkeys(("b0", "b1"), "its message could not be sent")


def test_stopping_in_a_round_stops_at_once(machine, midnight):
    def stop():
        raise KeyboardInterrupt

    grid = SlowGrid(make_app(add_one), CONFIGS, machine)
    machine.at.append((midnight + 2 * HOUR, stop))
    with pytest.raises(KeyboardInterrupt):
        run(grid, machine)
    assert machine.now() == midnight + 2 * HOUR
    assert named(read_records(RUN), "run_finished")[0]["status"] == "stopped"


def test_messages_of_a_strategy_outside_a_round_are_sent_at_once(machine):
    class Warming(FedAvg):
        def start(self, grid, *args, **kwargs):
            warm = [Message(RecordDict(), node_id, "query.lowcarb") for node_id in grid.get_node_ids()]
            self.warmed = len(list(grid.send_and_receive(warm, timeout=None)))
            return super().start(grid, *args, **kwargs)

    strategy = Warming(fraction_evaluate=0.0)
    events, _ = run(SlowGrid(make_app(add_one), CONFIGS, machine), machine, strategy=strategy)
    assert strategy.warmed == 4
    assert len(named(events, "node_done")) == 4
