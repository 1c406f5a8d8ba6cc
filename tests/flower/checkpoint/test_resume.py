"""Killed and resumed runs: no step is done twice, and the result is that of an uninterrupted run."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, MessageType, MetricRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from lowcarb_scheduler import (
    CarbonAwareMixin,
    Forecast,
    IntensityTable,
    Synthetic,
)
from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.clock import HOUR_US, parse_time, to_us
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.ledger import Ledger, read_ledger
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import do_nothing, fails, make_app, make_tree_app, node_configs, takes
from support.clocks import Machine
from support.kill_points import KillPoints, cut_in_two, fresh
from support.ledgers import rounds_shown
from support.resume_runs import NODES, ROUNDS, make_aware, make_grid, start
from support.runs import RUN, asked, events_of

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def make_adam(midnight):
    """Return a strategy that adds up three clients: a sum of two is the same in any order."""
    return make_aware(midnight, FedAdam(), clients_per_round=3)


class Losses:
    """An evaluate_fn that remembers for which rounds it was called."""

    def __init__(self):
        self.rounds = []

    def __call__(self, number, arrays):
        self.rounds.append(number)
        return MetricRecord({"loss": float(number) - float(arrays.to_numpy_ndarrays()[0].sum())})


def rounds_of(grid, kind=MessageType.TRAIN):
    """Return the rounds that nodes were asked for."""
    return [number for number, _ in asked(grid, kind)]


def weights(result):
    return [array.tobytes() for array in result.arrays.to_numpy_ndarrays()]


def histories(result):
    on_clients = result.train_metrics_clientapp, result.evaluate_metrics_clientapp
    return *on_clients, result.evaluate_metrics_serverapp


def figures(folder):
    """Return the figures that a report shows for a run."""
    run = summarise(read_ledger(folder))
    return run.status, rounds_shown(run), run.turns, run.saving, run.energy_by_basis


# -- Killed at every step ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Return a run that was not killed, and what it would have left on disk at every step of it."""
    from datetime import UTC, datetime

    home = tmp_path_factory.mktemp("killed")
    midnight = datetime(2026, 3, 2, tzinfo=UTC)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setitem(sys.modules, "codecarbon", None)
        points = KillPoints(RUN, home / "copies")
        grid = make_grid(on_train=lambda *_: points.copy())
        points.watch(patch)
        result = start(make_adam(midnight), grid, evaluate_fn=Losses())
        return {"result": result, "copies": points.found, "folder": home / RUN, "midnight": midnight}


def test_the_run_has_many_steps(killed):
    assert len(killed["copies"]) > 100


PARTS = 24  # each test takes one step in so many; together they take all
SHORT = (0, 13)  # parts outside `make soak`, an even and an odd one


@pytest.mark.parametrize(
    "part", [part if part in SHORT else pytest.param(part, marks=pytest.mark.soak) for part in range(PARTS)]
)
def test_killed_at_any_step_it_ends_as_if_nothing_had_happened(killed, part):
    for copy in killed["copies"][part::PARTS]:
        folder = fresh(RUN, copy)
        ledger = folder / "ledger.jsonl"
        before = Checkpoint(folder).read() if Checkpoint(folder).exists else {"round": -1, "stage": "OVER"}
        grid, losses = make_grid(backwards=True), Losses()
        if ledger.exists() and '"completed"' in ledger.read_text("utf-8"):
            with pytest.raises(InputError, match="has completed"):
                start(make_adam(killed["midnight"]), grid)
            continue
        if part % 2 and ledger.exists():
            cut_in_two(folder)
        result = start(make_adam(killed["midnight"]), grid, evaluate_fn=losses)
        assert weights(result) == weights(killed["result"])
        assert histories(result) == histories(killed["result"])
        assert figures(RUN) == figures(killed["folder"])
        done = before["round"]
        assert set(rounds_of(grid)) == set(range(max(done, 0) + 1, ROUNDS + 1))
        is_evaluated = before["stage"] in ("EVALUATED", "OVER")
        evaluated = set(rounds_of(grid, MessageType.EVALUATE))
        assert evaluated == set(range(max(done + is_evaluated, 1), ROUNDS + 1))
        assert losses.rounds == list(range(done + (before["stage"] == "OVER"), ROUNDS + 1))


@pytest.mark.parametrize("every", [45, pytest.param(15, marks=pytest.mark.soak)])
def test_a_run_may_be_killed_again_and_again(killed, monkeypatch, tmp_path, every):
    """Resumed from a copy, it is watched, and resumed from a copy of that."""
    fresh(RUN, killed["copies"][len(killed["copies"]) // 3])
    points = KillPoints(RUN, tmp_path / "again")
    with monkeypatch.context() as patch:
        points.watch(patch)
        start(make_adam(killed["midnight"]), make_grid(), evaluate_fn=Losses())
    for copy in points.found[5:-5:every]:
        fresh(RUN, copy)
        result = start(make_adam(killed["midnight"]), make_grid(), evaluate_fn=Losses())
        assert weights(result) == weights(killed["result"])
        assert figures(RUN) == figures(killed["folder"])
        assert summarise(read_ledger(RUN)).resumed == 2


# -- Every strategy ----------------------------------------------------------------------------------------


class Crash(BaseException):
    """The end of the process, as far as one can be had without ending it."""


def crash_in(number):
    def on_train(node, now):
        if now == number:
            raise Crash

    return on_train


def crashed(monkeypatch, strategy, grid, **more):
    """Run until it crashes; nobody closes any recorder then."""
    with monkeypatch.context() as patch:
        patch.setattr("lowcarb_scheduler.flower.strategy.close_ledger", lambda run, status: None)
        patch.setattr(Ledger, "close", lambda self: None)
        with pytest.raises(Crash):
            start(strategy, grid, **more)
    run = vars(strategy).get("_lowcarb_run")
    assert run is None
    strategy._lowcarb_progress._ledger._file.close()  # noqa: SLF001  its process has ended, and its lock with it


class Ending(VirtualClock):
    """A virtual clock whose process ends at some time."""

    def __init__(self, now, ends_at):
        super().__init__(now)
        self._ends_at = ends_at

    def sleep_until(self, when):
        if when >= self._ends_at:
            raise Crash
        super().sleep_until(when)


def test_killed_twice_in_a_hold_it_knows_no_forecast_before_its_time(killed, monkeypatch):
    """A virtual clock is set back to the checkpoint, the ledger is not: it has a forecast of later."""

    def last_line(copy):
        text = (copy / "ledger.jsonl").read_text("utf-8") if (copy / "ledger.jsonl").exists() else ""
        return json.loads(text.splitlines()[-1]) if text else {"event": ""}

    ahead = {}  # of the checkpoint
    for copy in killed["copies"]:
        if (end := last_line(copy))["event"] == "forecast" and end["at"] > Checkpoint(copy).read()["at"]:
            ahead[parse_time(end["at"], "at")] = copy
    opened_at = events_of("round_opened", killed["folder"])[0]["at"]
    at = max(at for at in ahead if at < opened_at)
    fresh(RUN, ahead[at])
    again = make_aware(
        killed["midnight"], FedAdam(), clients_per_round=3, clock=Ending(killed["midnight"], at)
    )
    crashed(monkeypatch, again, make_grid(), evaluate_fn=Losses())
    start(make_adam(killed["midnight"]), make_grid(), evaluate_fn=Losses())
    assert summarise(read_ledger(RUN)).resumed == 2
    assert figures(RUN) == figures(killed["folder"])


STRATEGIES = {
    "FedAvg": lambda: FedAvg(),
    "FedAvgM": lambda: FedAvgM(server_momentum=0.9),
    "FedAdam": lambda: FedAdam(),
    "FedYogi": lambda: flower.FedYogi(),
    "FedAdagrad": lambda: flower.FedAdagrad(),
    "FedProx": lambda: flower.FedProx(),
    "FedMedian": lambda: flower.FedMedian(),
    "QFedAvg": lambda: flower.QFedAvg(client_learning_rate=0.1),
    "DP, server, fixed": lambda: flower.DifferentialPrivacyServerSideFixedClipping(FedAdam(), 0.0, 5.0, 2),
    "DP, server, adaptive": lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(
        FedAvgM(server_momentum=0.5), 0.0, 2, clipped_count_stddev=0.0
    ),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_resumes_with_its_state(midnight, monkeypatch, name):
    make, three = STRATEGIES[name], {"clients_per_round": 3}
    whole = start(make_aware(midnight, make(), run_dir=Path("whole"), **three), make_grid())
    grid = make_grid(on_train=crash_in(3))
    crashed(monkeypatch, make_aware(midnight, make(), **three), grid)
    rest = make_grid(backwards=True)
    result = start(make_aware(midnight, make(), **three), rest)
    assert set(rounds_of(rest)) == {3, 4}
    assert weights(result) == weights(whole)
    assert histories(result) == histories(whole)


@pytest.mark.parametrize(("make", "clients"), [(flower.FedXgbBagging, 2), (flower.FedXgbCyclic, 1)])
def test_trees_grow_on(midnight, monkeypatch, make, clients):
    def trees(run_dir, crashes=False):
        app = make_tree_app(crash_in(3)) if crashes else make_tree_app()
        grid = InMemoryGrid(app, node_configs(NODES, ["DE"]))
        told = {"clients_per_round": clients, "run_dir": run_dir, "participation": "equal"}
        strategy, seed = make_aware(midnight, make(), **told), np.frombuffer(b"", dtype=np.uint8)
        if crashes:
            return crashed(monkeypatch, strategy, grid, initial=[seed])
        result = start(strategy, grid, initial=[seed])
        grown = json.loads(result.arrays["0"].numpy().tobytes())["learner"]["gradient_booster"]["model"][
            "trees"
        ]
        return sorted(tree["grown_by"] for tree in grown)

    expected = trees(Path("whole"))
    trees(RUN, crashes=True)
    assert trees(RUN) == expected


class Learning(FedAvg):
    """A strategy with state of many kinds."""

    def __init__(self):
        super().__init__()
        self.best, self.seen, self.rng = None, [], np.random.default_rng(5)
        self.raw, self.by_round = b"", {}

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        noisy = ArrayRecord([a + self.rng.normal(size=a.shape) for a in arrays.to_numpy_ndarrays()])
        self.seen.append((server_round, float("nan")))
        self.raw += bytes([server_round])
        self.by_round[server_round] = {"weights": noisy, "first": np.float32(noisy.to_numpy_ndarrays()[0][0])}
        return noisy, metrics

    def aggregate_evaluate(self, server_round, replies):
        metrics = super().aggregate_evaluate(server_round, replies)
        self.best = max(self.best or 0.0, metrics["score"])
        return metrics


def test_state_of_any_kind_is_restored(midnight, monkeypatch):
    whole = Learning()
    expected = start(make_aware(midnight, whole, run_dir=Path("whole")), make_grid())
    crashed(monkeypatch, make_aware(midnight, Learning()), make_grid(on_train=crash_in(4)))
    again = Learning()
    result = start(make_aware(midnight, again), make_grid())
    assert weights(result) == weights(expected)
    assert (again.best, again.raw, len(again.seen)) == (whole.best, bytes([1, 2, 3, 4]), 4)
    assert again.by_round == whole.by_round


class Looping(FedAvg):
    """A strategy with a loop of its own, that keeps what it needs in variables."""

    def start(self, grid, initial_arrays, num_rounds):
        from flwr.app import ConfigRecord

        arrays, self.sums = initial_arrays, []
        for number in range(1, num_rounds + 1):
            replies = grid.send_and_receive(self.configure_train(number, arrays, ConfigRecord(), grid))
            trained, _ = self.aggregate_train(number, replies)
            arrays = ArrayRecord([0.5 * array for array in trained.to_numpy_ndarrays()])
            self.sums.append(number)
        return flower.Result(arrays=arrays)


def test_a_start_of_the_user_is_called_again_and_sees_every_round(midnight, monkeypatch):
    expected = start(make_aware(midnight, Looping(), run_dir=Path("whole")), make_grid())
    crashed(monkeypatch, make_aware(midnight, Looping()), make_grid(on_train=crash_in(3)))
    strategy = make_aware(midnight, Looping())
    grid = make_grid()
    result = start(strategy, grid)
    assert weights(result) == weights(expected)
    assert set(rounds_of(grid)) == {3, 4}
    assert strategy.sums == [1, 2, 3, 4]


class Scaling(CarbonAwareMixin, FedAvg):
    """A class of one's own that stands before the mixin, and changes what that returns."""

    def aggregate_train(self, server_round, replies):
        arrays, metrics = super().aggregate_train(server_round, replies)
        return ArrayRecord([0.5 * array for array in arrays.to_numpy_ndarrays()]), metrics


def make_scaling(midnight, run_dir=RUN):
    return Scaling(
        source=Synthetic(), clock=VirtualClock(midnight), finish_by=12 * HOUR, clients_per_round=2,
        round_duration=HOUR, run_dir=run_dir,
    )  # fmt: skip


@pytest.mark.parametrize("copy", [0.3, 0.5, 0.7, 0.9, 0.98])
def test_a_class_of_the_user_changes_each_result_once(midnight, monkeypatch, tmp_path, copy):
    points = KillPoints(RUN, tmp_path / "copies")
    with monkeypatch.context() as patch:
        points.watch(patch)
        expected = start(make_scaling(midnight), make_grid())
    fresh(RUN, points.found[int(copy * len(points.found))])
    assert weights(start(make_scaling(midnight), make_grid())) == weights(expected)


def test_training_that_fails_altogether_changes_nothing_for_the_next_round(midnight, monkeypatch):
    in_the_second = fails(lambda node, number: number == 2)

    def then_crashes(node, number):
        in_the_second(node, number)
        crash_in(3)(node, number)

    expected = start(make_aware(midnight, run_dir=Path("whole")), make_grid(on_train=in_the_second))
    crashed(monkeypatch, make_aware(midnight), make_grid(on_train=then_crashes))
    result = start(make_aware(midnight), make_grid(on_train=in_the_second))
    assert weights(result) == weights(expected)
    assert summarise(read_ledger(RUN)).turns == summarise(read_ledger(Path("whole"))).turns


# -- Time --------------------------------------------------------------------------------------------------


class Hours:
    """A source for which some hours are clean, everywhere; nobody errs."""

    clean = (3, 6, 9, 12)

    def forecast(self, locations, now):
        return Forecast(self.actual(locations, now, now + 48 * HOUR), now)

    def actual(self, locations, start, end):
        first, last = to_us(start) // HOUR_US, to_us(end) // HOUR_US + 2
        values = [100.0 if hour % 24 in self.clean else 500.0 for hour in range(first, last - 1)]
        edges = np.arange(first, last) * HOUR_US
        table = np.repeat(np.array(values)[:, None], len(locations), axis=1)
        return IntensityTable(edges, tuple(locations), table, Provenance("hours", "average"))


def crash():
    raise Crash


def ending(midnight, hours):
    """Return a clock that starts at midnight; its process ends so many hours later."""
    return Machine(midnight, [(midnight + hours * HOUR, crash)])


def run_until(monkeypatch, machine, working=50 * MINUTE, **changes):
    """Run on a clock that passes; a round takes its time to work in."""
    given = {"finish_by": 20 * HOUR, "source": Hours(), **changes}
    strategy = make_aware(machine.now(), clock=machine, **given)
    grid = make_grid(on_train=takes(machine, lambda _: working))
    if machine.at:
        crashed(monkeypatch, strategy, grid)
        return grid
    start(strategy, grid)
    return grid


def test_killed_in_a_hold_it_holds_until_the_same_moment_and_keeps_the_deadline(midnight, monkeypatch):
    """It holds the second round from 3:50 to 6:00, ends at 4:30, and is started again at 5:30."""
    run_until(monkeypatch, ending(midnight, 4.5))
    grid = run_until(monkeypatch, Machine(midnight + 5.5 * HOUR))
    assert set(rounds_of(grid)) == {2, 3, 4}
    opened = [parse_time(event["opened_at"], "opened_at") - midnight for event in events_of("round_opened")]
    assert opened == [3 * HOUR, 6 * HOUR, 9 * HOUR, 12 * HOUR]
    held = [timedelta(seconds=event["held_s"]) for event in events_of("round_opened")]
    assert held == [3 * HOUR, 130 * MINUTE, 130 * MINUTE, 130 * MINUTE]
    assert parse_time(events_of("run_finished")[0]["finish_by"], "finish_by") == midnight + 20 * HOUR


def test_max_hold_counts_across_a_restart(midnight, monkeypatch):
    told = {"max_hold": 2 * HOUR}
    run_until(monkeypatch, ending(midnight, 1.5), **told)
    run_until(monkeypatch, Machine(midnight + 1.6 * HOUR), **told)
    assert parse_time(events_of("round_opened")[0]["opened_at"], "opened_at") <= midnight + 2 * HOUR


class Blind(Hours):
    """A source that does not know what happened, so that a plan stands."""

    def forecast(self, locations, now):
        return Forecast(super().actual(locations, now, now + 48 * HOUR), now)

    def actual(self, locations, start, end):
        raise OSError("not known")


def test_a_hold_of_an_unchanged_plan_ends_at_the_same_moment(midnight, monkeypatch):
    """It holds the second round from 4:00 to 6:00, ends at 4:30, and is started again at 4:40.

    Of clean hours that are equal the first ones win, however much time there is.
    """
    told = {"working": HOUR, "source": Blind(), "finish_by": 48 * HOUR}
    run_until(monkeypatch, ending(midnight, 4.5), **told)
    run_until(monkeypatch, Machine(midnight + 4 * HOUR + 40 * MINUTE), **told)
    assert [event["held_s"] for event in events_of("round_opened")[:2]] == [3 * 3600, 2 * 3600]


def test_killed_in_training_the_round_opens_again_at_once(midnight, monkeypatch):
    """Its second round opens at 6:00; it ends at 6:20, and is started again at 6:25."""
    run_until(monkeypatch, ending(midnight, 6 + 1 / 3))
    grid = run_until(monkeypatch, Machine(midnight + 6 * HOUR + 25 * MINUTE))
    opened = [parse_time(event["opened_at"], "opened_at") - midnight for event in events_of("round_opened")]
    assert opened[:2] == [3 * HOUR, 6 * HOUR + 25 * MINUTE]
    assert opened[2] >= opened[1] + 50 * MINUTE
    assert rounds_of(grid).count(2) == 2
    assert len(summarise(read_ledger(RUN)).rounds) == ROUNDS


def test_long_after_its_window_a_round_is_replanned_in_time(midnight, monkeypatch):
    run_until(monkeypatch, ending(midnight, 6.5))
    run_until(monkeypatch, Machine(midnight + 11 * HOUR))
    summary = summarise(read_ledger(RUN))
    assert len(summary.rounds) == ROUNDS
    assert summary.finish <= midnight + 20 * HOUR
    assert max(r.closes_at - r.opens_at for r in summary.rounds) <= HOUR  # the time it was away is no round's


def test_a_round_whose_window_is_over_waits_for_the_next_clean_hour(midnight, monkeypatch):
    """Its second round opens at 6:00; it ends at 6:30, and is started again at 8:00."""
    run_until(monkeypatch, ending(midnight, 6.5), finish_by=40 * HOUR)
    run_until(monkeypatch, Machine(midnight + 8 * HOUR), finish_by=40 * HOUR)
    opened = [each.opens_at for each in summarise(read_ledger(RUN)).rounds]
    assert opened[1] > midnight + 8 * HOUR
    assert {at.hour for at in opened} <= set(Hours.clean)


def test_a_deadline_that_passed_meanwhile_is_not_refused(midnight, monkeypatch):
    told = {"finish_by": midnight + 6 * HOUR}
    run_until(monkeypatch, ending(midnight, 7 / 6), **told)
    run_until(monkeypatch, Machine(midnight + 9 * HOUR), **told)
    assert len(summarise(read_ledger(RUN)).rounds) == ROUNDS
    assert events_of("run_finished")[0]["late"] is True


def test_a_node_that_came_meanwhile_owes_nothing_and_one_that_went_is_forgiven(midnight, monkeypatch):
    crashed(monkeypatch, make_aware(midnight), make_grid(on_train=crash_in(4)))
    configs = [{"partition-id": k, "location": "DE"} for k in (0, 1, 2, 3, 77)]
    grid = InMemoryGrid(make_app(), configs)
    start(make_aware(midnight), grid)
    turns = summarise(read_ledger(RUN)).turns
    assert sum(turns.values()) == 2 * ROUNDS
    assert turns["77"] <= 1


# -- Refusals ----------------------------------------------------------------------------------------------


@pytest.fixture
def unfinished(midnight, monkeypatch):
    crashed(monkeypatch, make_aware(midnight), make_grid(on_train=crash_in(3)))
    return {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        ({}, {"rounds": 5}, "rounds was 4, is 5"),
        ({"strategy": FedAvgM()}, {}, "strategy was 'FedAvg', is 'FedAvgM'"),
        ({"clients_per_round": 3}, {}, "clients-per-round was 2, is 3"),
        ({"finish_by": 13 * HOUR}, {}, "finish-by was"),
        ({"participation": "any"}, {}, "participation was 'auto', is 'any'"),
        ({}, {"initial": [np.zeros(4), np.ones((2, 2))]}, "arrays has other shapes"),
        ({}, {"initial": [np.zeros(3, np.float32), np.ones((2, 2))]}, "arrays has other shapes"),
    ],
)
def test_another_job_is_refused_with_one_line(midnight, unfinished, changes, more, says):
    with pytest.raises(InputError) as caught:
        start(make_aware(midnight, **changes), make_grid(), **more)
    message = str(caught.value)
    assert f"is of another job: {says}" in message
    assert str(RUN / "checkpoint" / "state.json") in message
    assert "give another run-dir" in message
    assert "\n" not in message
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == unfinished


def test_other_locations_or_sources_are_the_same_job(midnight, unfinished):
    start(make_aware(midnight, default_location="DE", default_power_watts=100.0), make_grid())
    assert events_of("run_finished")[0]["status"] == "completed"


def test_a_finished_run_is_not_touched(midnight):
    start(make_aware(midnight), make_grid())
    before = {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="holds the ledger of a run that has completed; give another"):
        start(make_aware(midnight), make_grid())
    assert {path: path.read_bytes() for path in RUN.rglob("*") if path.is_file()} == before


def test_a_run_that_failed_or_was_stopped_goes_on(midnight):
    def stops(node, number):
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(make_aware(midnight), make_grid(on_train=stops))
    assert summarise(read_ledger(RUN)).status == "stopped"
    grid = make_grid()
    start(make_aware(midnight), grid)
    assert set(rounds_of(grid)) == {3, 4}
    assert (summarise(read_ledger(RUN)).status, summarise(read_ledger(RUN)).resumed) == ("completed", 1)


def disk_full_for(path):
    """Let every further write to an open file fail as on a full disk."""
    opened = (int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink())
    fd = next(fd for fd in opened if os.path.realpath(f"/proc/self/fd/{fd}") == str(path.resolve()))
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, fd)
    os.close(full)


def make_filling(full_in=None):
    """Return FedAvg on a disk that is full from the moment that a round is aggregated."""

    class Filling(FedAvg):
        def aggregate_train(self, server_round, replies):
            if server_round == full_in:
                disk_full_for(RUN / "ledger.jsonl")
            return super().aggregate_train(server_round, replies)

    return Filling()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a full disk is that of Linux")
def test_a_round_whose_line_the_ledger_refuses_trains_again(midnight, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("flwr"), "propagate", True)
    expected = start(make_aware(midnight, make_filling(), run_dir=Path("whole")), make_grid())
    assert weights(start(make_aware(midnight, make_filling(full_in=2)), make_grid())) == weights(expected)
    state = Checkpoint(RUN).read()
    assert (state["round"], state["stage"]) == (1, "OVER")
    assert state["ledger_lines"] <= len((RUN / "ledger.jsonl").read_text("utf-8").splitlines())
    assert [record.message for record in caplog.records if "checkpoint: " in record.message] == [
        "lowcarb: checkpoint: the ledger takes no more lines;"
        " after a crash the run resumes from the last checkpoint on disk"
    ]
    grid = make_grid()
    result = start(make_aware(midnight, make_filling()), grid)
    assert set(rounds_of(grid)) == {2, 3, 4}
    assert (weights(result), histories(result)) == (weights(expected), histories(expected))
    assert figures(RUN) == figures(Path("whole"))


def test_a_ledger_without_a_checkpoint_is_refused(midnight, unfinished):
    Checkpoint(RUN).path.unlink()
    with pytest.raises(InputError, match="holds the ledger of a run"):
        start(make_aware(midnight), make_grid())


def test_a_checkpoint_of_an_earlier_format_is_refused_and_nothing_is_written(midnight, unfinished):
    path = Checkpoint(RUN).path
    state = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(
        json.dumps({"v": 1, "sha256": state["sha256"], "state": state["state"]}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="has format 1, written by an earlier lowcarb-scheduler; "):
        start(make_aware(midnight), make_grid())
    assert (RUN / "ledger.jsonl").read_bytes() == unfinished[RUN / "ledger.jsonl"]


@pytest.mark.parametrize(("keep", "says"), [(None, "ledger: is missing"), (4, "has 4 complete lines, its")])
def test_a_ledger_that_ends_before_its_checkpoint_is_refused(midnight, unfinished, keep, says):
    path = RUN / "ledger.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.unlink()
    if keep:
        path.write_text("".join(lines[:keep]), encoding="utf-8")
    with pytest.raises(InputError, match=says) as caught:
        start(make_aware(midnight), make_grid())
    assert str(path) in str(caught.value)


def test_the_ledger_of_another_run_is_refused(midnight, unfinished):
    start(make_aware(midnight + HOUR, run_dir=Path("other")), make_grid())
    text = Path("other/ledger.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (RUN / "ledger.jsonl").write_text("".join(text[:-1]), encoding="utf-8")
    with pytest.raises(InputError, match="is of another run than its checkpoint"):
        start(make_aware(midnight), make_grid())


def test_two_runs_in_one_folder_are_refused(midnight, unfinished):
    other = Ledger(RUN, VirtualClock(midnight), goes_on=True)
    with pytest.raises(InputError, match="a run is still writing in run; stop it first"):
        start(make_aware(midnight), make_grid())
    other.close()
    start(make_aware(midnight), make_grid())


def test_torn_arrays_are_refused_and_the_ledger_is_not_written_to(midnight, unfinished):
    arrays = next((RUN / "checkpoint").glob("model-*.npz"))
    arrays.write_bytes(arrays.read_bytes()[:-40])
    with pytest.raises(InputError, match="is damaged; restore it from a copy, or start anew"):
        start(make_aware(midnight), make_grid())
    assert (RUN / "ledger.jsonl").read_bytes() == unfinished[RUN / "ledger.jsonl"]


class Model:
    """Something that has state nobody can see."""


class WithModel(FedAvg):
    def __init__(self):
        super().__init__()
        self.model = Model()


def test_state_that_cannot_be_saved_is_reported_at_once_and_refused_later(midnight, monkeypatch):
    crashed(monkeypatch, make_aware(midnight, WithModel()), make_grid(on_train=crash_in(3)))
    assert events_of("degraded")[0]["why"] == "model (Model) of the strategy cannot be saved"
    with pytest.raises(InputError, match=r"model \(Model\) of the strategy could not be saved") as caught:
        start(make_aware(midnight, WithModel()), make_grid())
    assert "load_state_dict" in str(caught.value)


class Twice(FedAvg):
    """A strategy that trains twice as many rounds as it is asked for, numbered from 1 each time."""

    def start(self, grid, initial_arrays, num_rounds):
        first = super().start(grid, initial_arrays, num_rounds)
        return super().start(grid, first.arrays, num_rounds)


def test_a_start_that_counts_its_rounds_anew_is_refused_not_resumed_wrongly(midnight, monkeypatch):
    started = []

    def in_the_second_pass(node, number):
        started.append(number)
        if started.count(2) == 4:  # two clients, twice
            raise Crash

    crashed(monkeypatch, make_aware(midnight, Twice()), make_grid(on_train=in_the_second_pass), rounds=3)
    with pytest.raises(InputError, match="counts its rounds more than once"):
        start(make_aware(midnight, Twice()), make_grid(), rounds=3)


def test_the_second_pass_of_such_a_start_is_not_taken_for_the_first(midnight, monkeypatch):
    class Between(Twice):
        def start(self, grid, initial_arrays, num_rounds):
            first = FedAvg.start(self, grid, initial_arrays, num_rounds)
            if not is_again:
                raise Crash
            return FedAvg.start(self, grid, first.arrays, num_rounds)

    is_again = False
    crashed(monkeypatch, make_aware(midnight, Between()), make_grid(), rounds=2)
    is_again = True
    grid = make_grid()
    start(make_aware(midnight, Between()), grid, rounds=2)
    assert rounds_of(grid) == [1, 1, 2, 2]


class Accountant:
    """An accountant of privacy, as far as Flower's wrapper needs one."""

    def __init__(self):
        from flwr.supercore import privacy_accounting as flwr

        relation, sampling = flwr.NeighboringRelation.ADD_OR_REMOVE_ONE, flwr.SamplingMethod.NO_AMPLIFICATION
        self.config = flwr.PrivacyConfig(1e-5, NODES, relation, sampling)
        self.releases = 0

    def compose(self, event, count=1):
        self.releases += count

    def get_privacy_spent(self, delta=None):
        from flwr.supercore.privacy_accounting import PrivacySpent

        return PrivacySpent(float(self.releases), 1e-5, self.releases, "test", 2.0)


class KeepingAccountant(Accountant):
    def state_dict(self):
        return {"releases": self.releases}

    def load_state_dict(self, state):
        self.releases = state["releases"]


def accounted(accountant):
    return flower.DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1e-9, 5.0, 2, accountant=accountant)


def make_equal_grid(on_train=do_nothing):
    """Return a grid of nodes with as much data each, which accounting asks for."""
    return make_grid(examples=lambda node: 1, on_train=on_train)


def test_privacy_that_was_spent_stays_spent(midnight, monkeypatch):
    crashed(monkeypatch, make_aware(midnight, accounted(KeepingAccountant())), make_equal_grid(crash_in(3)))
    accountant = KeepingAccountant()
    start(make_aware(midnight, accounted(accountant)), make_equal_grid())
    assert accountant.releases == ROUNDS


def test_privacy_whose_account_cannot_be_kept_is_not_spent_twice(midnight, monkeypatch):
    crashed(monkeypatch, make_aware(midnight, accounted(Accountant())), make_equal_grid(crash_in(3)))
    with pytest.raises(InputError, match=r"accountant \(Accountant\) of the strategy could not be saved"):
        start(make_aware(midnight, accounted(Accountant())), make_equal_grid())


# -- In a process of its own -------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["hold", "training", "between", "line"])
def test_killed_by_the_system(midnight, where):
    command = [sys.executable, "-m", "support.killed_run", where]
    path = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    process = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    about = {"balance": 1.2}  # less would leave no hold
    whole = make_aware(midnight, FedAvgM(server_momentum=0.9), run_dir=Path("whole"), **about)
    expected, grid = start(whole, make_grid()), make_grid(backwards=True)
    result = start(make_aware(midnight, FedAvgM(server_momentum=0.9), **about), grid)
    assert weights(result) == weights(expected)
    assert figures(RUN) == figures(Path("whole"))
    assert min(rounds_of(grid)) == (2 if where == "between" else 3)
    resumed = events_of("run_resumed")[0]
    assert (resumed["cut_bytes"] > 0) == (where == "line")
