"""Telemetry: requests and reports of turns, their validation, and the accounts made of them."""

from __future__ import annotations

import sys
import types
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MessageType
from flwr.clientapp import ClientApp
from flwr.clientapp.mod import LocalDpMod, fixedclipping_mod
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import CarbonClientApp, Forecast, carbon_aware, carbon_mod
from lowcarb_scheduler.accounting.replay import summarise
from lowcarb_scheduler.accounting.turns import TurnReport
from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.flower.client import QUESTION, RECORD
from lowcarb_scheduler.flower.telemetry import validate_report
from lowcarb_scheduler.ledger import read_ledger
from lowcarb_scheduler.report.html import gather, render
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import make_app, node_configs, takes
from support.clocks import Machine
from support.forecast_sources import Flat
from support.ledgers import read_records, replayed
from support.runs import RUN, events_of

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
TRAIN, EVALUATE = MessageType.TRAIN, MessageType.EVALUATE


def fill(app, machine=None, mods=None):
    """Give an app functions; a round takes half an hour to train and six minutes to evaluate."""
    if machine is None:
        return make_app(app=app, mods=mods)
    train, evaluate = takes(machine, lambda _: 30 * MINUTE), takes(machine, lambda _: 6 * MINUTE)
    return make_app(app=app, mods=mods, on_train=train, on_evaluate=evaluate)


class Watched(InMemoryGrid):
    """A grid that keeps what nodes answer, and can make them say something else."""

    def __init__(self, app, configs, says=None):
        super().__init__(app, configs)
        self.answers, self._says = [], says

    def _reply(self, message):
        reply = super()._reply(message)
        kind = message.metadata.message_type
        if kind in (TRAIN, EVALUATE) and reply.has_content():
            if self._says is not None:
                reply.content[RECORD] = ConfigRecord(self._says(kind, message.metadata.dst_node_id))
            self.answers.append((kind, dict(reply.content.config_records.get(RECORD, {})) or None))
        return reply


CONFIGS = [{**config, "power-watts": 100.0 * (k + 1)} for k, config in enumerate(node_configs(4, ["DE"]))]


@pytest.fixture
def machine(midnight):
    return Machine(midnight)


def run(machine, strategy=None, app=None, configs=CONFIGS, says=None, rounds=2, **settings):
    given = {
        "source": Flat(), "clock": machine, "run_dir": RUN, "clients_per_round": 2, "round_duration": HOUR,
        "patience": 0.0, "evaluate_on": "planned",
    }  # fmt: skip
    grid = Watched(app or fill(CarbonClientApp(), machine), configs, says)
    aware = carbon_aware(strategy or FedAvg(), **{**given, **settings})
    aware.start(grid, ArrayRecord([np.zeros(2)]), num_rounds=rounds)
    return grid


def asked(grid):
    sent = [m for m in grid.sent if m.metadata.message_type in (TRAIN, EVALUATE)]
    return [message.content["config"].get(QUESTION) for message in sent]


# -- Requests and reports ----------------------------------------------------------------------------------


def test_nodes_report_duration_and_energy_of_a_turn(machine):
    grid = run(machine)
    assert set(asked(grid)) == {"measured"}
    assert {kind for kind, _ in grid.answers} == {TRAIN, EVALUATE}
    for _, said in grid.answers:
        assert set(said) == {"duration-s", "energy-kwh", "energy"}
        assert said["energy"] == "estimated"
        assert 0 < said["duration-s"] < 10
        watts = said["energy-kwh"] * 1000 * 3600 / said["duration-s"]
        assert watts in [pytest.approx(config["power-watts"]) for config in CONFIGS]


def test_a_node_without_a_power_reports_no_energy(machine):
    grid = run(machine, configs=node_configs(4, ["DE"]))
    assert all(set(said) == {"duration-s"} for _, said in grid.answers)


def test_reports_reach_neither_the_strategy_nor_the_metrics(machine):
    seen = []

    class Looking(FedAvg):
        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            seen.extend(key for reply in replies for key in reply.content)
            return super().aggregate_train(server_round, replies)

        def aggregate_evaluate(self, server_round, replies):
            replies = list(replies)
            seen.extend(key for reply in replies for key in reply.content)
            return super().aggregate_evaluate(server_round, replies)

    grid = run(machine, Looking())
    assert len(grid.answers) == 8
    assert all(said for _, said in grid.answers)
    assert set(seen) == {"arrays", "metrics"}


def test_a_request_adds_no_record_to_a_message(machine):
    """Flower's mods for differential privacy, and some apps, take there to be one of each kind."""
    grid = run(machine)
    trained = [m for m in grid.sent if m.metadata.message_type == TRAIN]
    assert all(list(m.content) == ["arrays", "config"] for m in trained)


@pytest.mark.parametrize("answer", [False, "no"])
def test_switched_off_nothing_is_requested_or_reported(machine, answer):
    grid = run(machine, telemetry=answer)
    assert set(asked(grid)) == {None}
    assert all(said is None for _, said in grid.answers)
    assert {event["duration_s"] for event in events_of("node_done")} == {1800.0}  # until the reply came


def test_a_virtual_clock_needs_no_telemetry(midnight):
    grid = run(VirtualClock(midnight), app=fill(CarbonClientApp()))
    assert set(asked(grid)) == {None}
    assert all(said is None for _, said in grid.answers)


def test_energy_alone_can_be_switched_off(machine, meter):
    assert set(asked(run(machine, energy="estimated"))) == {"estimated"}
    assert meter.turns == 0
    assert {event["energy_basis"] for event in events_of("node_done")} == {"estimated"}


@pytest.mark.parametrize("told", [False, "false", "off"])
def test_a_node_may_switch_its_reports_off(machine, told):
    configs = [{**config, "telemetry": told} if k == 1 else config for k, config in enumerate(CONFIGS)]
    grid = run(machine, configs=configs, rounds=4)
    assert sum(said is None for _, said in grid.answers) == 2 * 2
    assert sum(said is not None for _, said in grid.answers) == 2 * 6


def test_an_app_without_reports_counts_with_the_time_until_its_reply(machine):
    grid = run(machine, app=fill(ClientApp(), machine), configs=[{}, {}, {}, {}])
    assert all(said is None for _, said in grid.answers)
    assert {event["duration_s"] for event in events_of("node_done")} == {1800.0}


def test_the_mod_alone_reports_too(machine):
    grid = run(machine, app=fill(ClientApp(mods=[carbon_mod]), machine))
    assert all(said for _, said in grid.answers)


# -- Differential privacy ----------------------------------------------------------------------------------

PRIVATE = {
    "server, fixed": lambda: flower.DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.1, 1.0, 2),
    "server, adaptive": lambda: flower.DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(), 0.1, 2),
    "client, fixed": lambda: flower.DifferentialPrivacyClientSideFixedClipping(FedAvg(), 0.1, 1.0, 2),
}


@pytest.mark.parametrize("name", PRIVATE)
def test_with_differential_privacy_nothing_is_reported_by_default(machine, name):
    mods = [fixedclipping_mod] if name.startswith("client") else None
    app = fill(CarbonClientApp(), machine, mods)
    grid = run(machine, PRIVATE[name](), app)
    assert set(asked(grid)) == {None}
    assert all(said is None for _, said in grid.answers)
    assert len(events_of("node_done")) == 4


def test_with_differential_privacy_reports_can_be_switched_on(machine):
    app = fill(CarbonClientApp(), machine, [fixedclipping_mod])
    configs = [{**config, "telemetry": True} for config in CONFIGS]
    grid = run(machine, PRIVATE["client, fixed"](), app, configs, telemetry=True)
    assert all(said for _, said in grid.answers)
    assert len(events_of("node_done")) == 4  # the mod still finds the one config it looks for


@pytest.mark.parametrize("where", ["app", "train"])
def test_an_app_with_local_differential_privacy_ignores_requests(machine, where):
    mod = LocalDpMod(1.0, 1.0, 1.0, 1e-5)
    app = CarbonClientApp(mods=[mod]) if where == "app" else CarbonClientApp()
    grid = run(machine, app=fill(app, machine, [mod] if where == "train" else None))
    assert "measured" in asked(grid)
    assert all(said is None for _, said in grid.answers)


# -- Validation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("says", "believed"),
    [
        (None, TurnReport()),
        ({"duration-s": 600.0}, TurnReport(10 * MINUTE)),
        ({"duration-s": 600}, TurnReport(10 * MINUTE)),
        ({"duration-s": 3600.4}, TurnReport(HOUR)),  # two clocks
        ({"duration-s": 600.0, "energy-kwh": 0.5, "energy": "measured"}, TurnReport(10 * MINUTE, 0.5)),
        ({"duration-s": 600.0, "energy-kwh": 0.5, "energy": "estimated"}, TurnReport(10 * MINUTE)),
        ({"duration-s": 600.0, "energy-kwh": 0.5}, TurnReport(10 * MINUTE)),
    ],
)
def test_valid_reports_are_used(says, believed):
    noted = []
    assert validate_report(says, HOUR, "a", noted.append) == believed
    assert not noted


IMPOSSIBLE = [float("nan"), float("inf"), -float("inf"), -1.0, 0.0, "long", True, [1.0], b"1", 1e300]


@pytest.mark.parametrize("value", IMPOSSIBLE, ids=repr)
def test_invalid_reports_are_logged_and_not_used(value):
    noted = []
    assert validate_report({"duration-s": value}, HOUR, "a", noted.append) == TurnReport()
    assert validate_report({}, HOUR, "a", noted.append) == TurnReport()
    says = {"duration-s": 600.0, "energy-kwh": value, "energy": "measured"}
    assert validate_report(says, HOUR, "a", noted.append) == TurnReport(10 * MINUTE)
    assert len(noted) == 3
    assert all(line.startswith("node 'a' reports an invalid ") for line in noted)


def test_no_node_draws_more_than_a_megawatt():
    says = {"duration-s": 3600.0, "energy": "measured"}
    most = validate_report({**says, "energy-kwh": 1000.0}, HOUR, "a", pytest.fail)
    assert most.measured_kwh == 1000.0
    assert validate_report({**says, "energy-kwh": 1000.1}, HOUR, "a", lambda _: None).measured_kwh is None


def test_a_node_with_invalid_reports_is_logged_once(machine):
    def says(kind, node_id):
        return {"duration-s": 1e12} if node_id == 101 else {"duration-s": 60.0}

    run(machine, says=says, rounds=6)
    claims = [event for event in events_of("degraded") if "reports an invalid duration" in event["why"]]
    assert len(claims) == 1
    assert claims[0]["why"].startswith("node '0'")
    durations = {event["duration_s"] for event in events_of("node_done") if event["id"] == "0"}
    assert durations == {1800.0}


# -- Measured energy in the accounts -----------------------------------------------------------------------


@pytest.fixture
def meter(monkeypatch, tmp_path):
    """Let each node measure half a kilowatt hour a turn."""
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stub = types.ModuleType("codecarbon")
    stub.turns = 0

    class GPU:
        pass

    class OfflineEmissionsTracker:
        def __init__(self, **told):
            self._hardware = [GPU()]

        def start(self):
            stub.turns += 1

        def stop(self):
            seen = {"energy_consumed": 1e-6, "gpu_energy": 1e-6, "cpu_energy": 0.0}
            self.final_emissions_data = types.SimpleNamespace(**seen)

    stub.OfflineEmissionsTracker = OfflineEmissionsTracker
    monkeypatch.setitem(sys.modules, "codecarbon", stub)
    return stub


def test_nodes_measure_where_they_can(machine, meter):
    grid = run(machine)
    assert {said["energy"] for _, said in grid.answers} == {"measured"}
    assert meter.turns == 8
    done = events_of("node_done")
    assert {event["energy_basis"] for event in done} == {"measured"}
    assert {event["energy_kwh"] for event in done} == {1e-6}


def test_a_node_may_estimate_where_others_measure(machine, meter):
    configs = [{**config, "energy": "estimated"} if k == 0 else config for k, config in enumerate(CONFIGS)]
    run(machine, configs=configs)
    assert {e["id"]: e["energy_basis"] for e in events_of("node_done")} == {
        "0": "estimated", "1": "measured", "2": "measured", "3": "measured"
    }  # fmt: skip


def says_measured(kwh):
    return lambda kind, node_id: {"duration-s": 1200.0 if kind == TRAIN else 60.0,
                                  "energy-kwh": kwh(node_id), "energy": "measured"}  # fmt: skip


def test_accounts_use_measured_energy_and_name_its_basis(machine):
    def says(kind, node_id):
        if node_id in (101, 102):
            return says_measured(lambda _: 0.5)(kind, node_id)
        return {"duration-s": 1200.0}

    configs = node_configs(4, ["DE"])
    configs[2]["power-watts"] = 300.0
    run(machine, says=says, configs=configs, rounds=2)
    basis = {event["id"]: (event["energy_basis"], event["energy_kwh"]) for event in events_of("node_done")}
    assert basis == {
        "0": ("measured", 0.5), "1": ("measured", 0.5), "2": ("estimated", pytest.approx(0.1)),
        "3": ("assumed", pytest.approx(0.1)),
    }  # fmt: skip
    summary = summarise(read_ledger(RUN))
    assert summary.energy_by_basis == pytest.approx({"measured": 1.0, "estimated": 0.1, "assumed": 0.1})
    assert summary.energy_kwh == pytest.approx(1.2)
    assert summary.realised_g == pytest.approx(120.0)  # at 100 g/kWh
    end = events_of("run_finished")[0]
    assert end["energy_by_basis"] == pytest.approx(dict(summary.energy_by_basis))
    page = " ".join(render(gather(replayed(read_records(RUN)))).split())
    assert "1.20 kWh of training; basis: 8 % assumed, 8 % estimated, 83 % measured" in page


@pytest.mark.parametrize("kwh", [0.001, 0.1, 5.0])
def test_a_saving_does_not_depend_on_how_much_was_measured(machine, kwh):
    """Run-now does the same work: if a turn draws more than power times time, it would have, too."""
    run(machine, says=says_measured(lambda node_id: kwh * (node_id - 100)), rounds=4)
    end = events_of("run_finished")[0]
    assert end["realised_g"] == pytest.approx(100 * kwh * 2 * (1 + 2 + 3 + 4))
    assert end["saving"] == pytest.approx(0.0, abs=1e-9)


# -- Evaluation --------------------------------------------------------------------------------------------


def says_times(kind, node_id):
    return {"duration-s": 1200.0 if kind == TRAIN else 180.0}


def test_evaluation_is_accounted_separately(machine):
    run(machine, says=says_times, rounds=4)
    evaluated = [event for event in events_of("evaluated") if event["where"] == "clients"]
    assert [event["round"] for event in evaluated] == [1, 2, 3, 4]
    assert all((event["nodes_done"], event["nodes_failed"]) == (2, 0) for event in evaluated)
    lines = events_of("node_evaluated")
    assert {event["duration_s"] for event in lines} == {180.0}
    done = {(event["round"], event["id"]) for event in events_of("node_done")}
    assert {(event["round"], event["id"]) for event in lines} == done  # those that have just trained
    kilowatts = sum(config["power-watts"] for config in CONFIGS) / 1000
    summary = summarise(read_ledger(RUN))
    assert summary.energy_kwh == pytest.approx(2 * kilowatts / 3)
    assert summary.evaluation_energy_kwh == pytest.approx(2 * kilowatts / 20)
    assert summary.evaluation_g == pytest.approx(100 * 2 * kilowatts / 20)
    assert summary.realised_g == pytest.approx(100 * 2 * kilowatts / 3)
    assert set(summary.turns.values()) == {2}  # it is no turn
    end = events_of("run_finished")[0]
    assert (end["evaluation_energy_kwh"], end["evaluation_g"]) == pytest.approx((0.1, 10.0))
    assert end["saving"] == pytest.approx(0.0, abs=1e-9)
    page = " ".join(render(gather(replayed(read_records(RUN)))).split())
    assert "Evaluation</th>" in page
    assert "100 Wh, 10.0 g" in page


def test_evaluation_is_in_the_window_of_its_round(machine):
    run(machine, says=says_times)
    for closed in events_of("round_closed"):
        lines = [event for event in events_of("node_evaluated") if event["round"] == closed["round"]]
        trained = [event for event in events_of("node_done") if event["round"] == closed["round"]]
        assert all(closed["opens_at"] < line["started_at"] <= closed["closes_at"] for line in lines)
        ended = [
            parse_time(each["started_at"], "") + timedelta(seconds=each["duration_s"]) for each in trained
        ]
        assert min(parse_time(line["started_at"], "") for line in lines) >= max(ended)


@pytest.mark.parametrize(("where", "lines"), [("strategy", 4), ("all", 4), ("planned", 2), ("none", 0)])
def test_accounts_hold_exactly_the_nodes_that_evaluate(machine, where, lines):
    run(machine, says=says_times, rounds=1, evaluate_on=where)
    assert len(events_of("node_evaluated")) == lines
    assert bool(summarise(read_ledger(RUN)).evaluation_energy_kwh) is bool(lines)
    page = " ".join(render(gather(replayed(read_records(RUN)))).split())
    assert ("Evaluation</th>" in page) is bool(lines)


def test_an_evaluation_that_fails_is_counted(machine):
    app = CarbonClientApp()
    fill(app, machine)

    def fails(message, context):
        raise RuntimeError("no data")

    app._registered_funcs["evaluate.default"] = fails  # noqa: SLF001
    run(machine, app=app, rounds=1)
    evaluated = [event for event in events_of("evaluated") if event["where"] == "clients"]
    assert [(event["nodes_done"], event["nodes_failed"]) for event in evaluated] == [(0, 2)]
    assert evaluated[0]["realised_g"] == 0.0


class Late(Flat):
    """A source that knows what happened only when the run is over."""

    def __init__(self, machine, from_):
        self._machine, self._from = machine, from_

    def actual(self, locations, start, end):
        if self._machine.now() < self._from:
            raise OSError("not yet")
        return super().actual(locations, start, end)

    def forecast(self, locations, now):
        return Forecast(super().actual(locations, now, now + 96 * HOUR), now)


def test_emissions_known_late_are_computed_when_the_run_ends(machine, midnight):
    source = Late(machine, midnight + 100 * MINUTE)
    run(machine, says=says_measured(lambda node_id: 0.5), rounds=3, source=source)
    known = [event["realised_g"] for event in events_of("round_closed")]
    assert known[0] is None
    end = events_of("run_finished")[0]
    assert [r["realised_g"] for r in end["rounds"]] == pytest.approx([100.0] * 3)
    assert [r["evaluation_g"] for r in end["rounds"]] == pytest.approx([100.0] * 3)
    summary = summarise(read_ledger(RUN))
    assert (summary.realised_g, summary.evaluation_g) == pytest.approx((300.0, 300.0))
    run(machine, says=says_measured(lambda node_id: 0.5), rounds=3, run_dir=Path("known"))
    at_once = summarise(read_ledger(Path("known")))
    assert summary.run_now_g == pytest.approx(at_once.run_now_g)
