"""A release of Flower that has changed a private part: the run goes on without it, or ends with one line."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, Message, RecordDict
from flwr.clientapp.mod import LocalDpMod
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, Strategy
from flwr.superlink.grid import HttpGrid

from lowcarb_scheduler.errors import UnsupportedFlowerError
from lowcarb_scheduler.flower.compat import (
    KIT,
    PARTS,
    KitParts,
    Parts,
    adds_noise,
    app_of,
    flower_version,
    legacy_part,
    node_id_of,
    push,
    stamp,
)
from lowcarb_scheduler.testing import InMemoryGrid

STRATEGY, APP = "flwr.serverapp.strategy", "flwr.app"


def without(module, *names, **changed):
    """Return a loader of modules by which one lacks names, or all of it, and has others changed."""

    def load(asked):
        if asked == module and not names and not changed:
            raise ModuleNotFoundError(asked)
        real = import_module(asked)
        if asked != module:
            return real
        kept = {name: value for name, value in vars(real).items() if name not in names}
        return SimpleNamespace(**(kept | changed))

    return load


def start_without(*names):
    """Return a loader of a Strategy whose start() lacks arguments."""
    whole = inspect.signature(Strategy.start)

    def start(*args, **kwargs):
        raise NotImplementedError

    start.__signature__ = whole.replace(
        parameters=[p for p in whole.parameters.values() if p.name not in names]
    )
    return without(STRATEGY, Strategy=type("Strategy", (), {"start": start}))


class Renamed:
    """An Array whose serialisation has another name."""

    def __init__(self, *, dtype=None, shape=None, serialisation=None, data=None):
        self.serialisation = serialisation


MISSING = {
    "HttpGrid": without("flwr.superlink.grid", "HttpGrid"),
    "DEFAULT_TTL": without(APP, "DEFAULT_TTL"),
    "Strategy.start(timeout)": start_without("timeout"),
    "Strategy.start(evaluate_fn)": start_without("evaluate_fn"),
    "aggregate_metricrecords": without(f"{STRATEGY}.strategy_utils"),
    "Array.stype": without(APP, Array=Renamed),
}


def my_mod(message, context, call_next):
    return call_next(message, context)


def test_this_release_has_all_parts():
    assert (PARTS.missing, PARTS.missing_on_client, PARTS.broken) == ([], None, ())
    PARTS.check()


@pytest.mark.parametrize("part", MISSING)
def test_a_part_that_is_missing_is_named_alone(part):
    assert [found.part for found in Parts.find(MISSING[part]).missing] == [part]


@pytest.mark.parametrize(
    ("part", "load"),
    [
        ("Strategy.start(num_rounds)", start_without("num_rounds")),
        ("Strategy.start(initial_arrays)", start_without("initial_arrays")),
        ("Metadata.message_id", without(APP, Metadata=SimpleNamespace(
            reply_to_message_id="", src_node_id=0, dst_node_id=0
        ))),
    ],
)  # fmt: skip
def test_a_part_that_a_run_rests_on_ends_it_with_one_line(part, load):
    with pytest.raises(UnsupportedFlowerError) as caught:
        Parts.find(load).check()
    assert str(caught.value) == f"flwr {flower_version()} is not supported yet: {part} has changed"


# -- What is done without a part -----------------------------------------------------------------------------


def test_without_its_class_no_grid_is_known_to_be_real():
    grid = object.__new__(HttpGrid)
    assert PARTS.is_real(grid)
    assert not Parts.find(MISSING["HttpGrid"]).is_real(grid)


@pytest.mark.parametrize("gone", [("LocalDpMod",), ("fixedclipping_mod",), ()])
def test_where_mods_for_privacy_are_not_known_any_mod_is_one(gone):
    blind = Parts.find(without("flwr.clientapp.mod", *gone))
    assert blind.missing_on_client.part == "flwr.clientapp.mod"
    assert (blind.has_privacy([my_mod]), blind.has_privacy([])) == (True, False)
    assert (PARTS.has_privacy([my_mod]), PARTS.has_privacy([my_mod, object.__new__(LocalDpMod)])) == (
        False,
        True,
    )


@pytest.mark.parametrize(
    ("parts", "limit_s", "ttl_s"),
    [
        (PARTS, 100_000.0, 100_060.0),
        (Parts.find(MISSING["DEFAULT_TTL"]), 100_000.0, 43_200.0),
        (Parts.find(MISSING["Strategy.start(timeout)"]), 3600.0, 43_200.0),
    ],
)
def test_what_is_not_known_to_be_a_default_is_not_extended(parts, limit_s, ttl_s):
    KIT.identify(lambda: None)
    message = Message(RecordDict(), 101, "train")
    assert parts.reply_limit_s([message], 3600.0, turn_s=50_000.0) == limit_s
    assert message.metadata.ttl == ttl_s


def test_without_its_place_an_evaluation_is_left_as_it_is():
    given = ("arrays", 3, 3600.0, None, None, len)
    assert PARTS.with_evaluation(lambda own: [own], given, {})[0][5] == [len]
    assert Parts.find(MISSING["Strategy.start(evaluate_fn)"]).with_evaluation(list, given, {}) == (given, {})


def test_without_its_serialisation_no_array_is_read():
    array = Array(np.zeros(1))
    assert PARTS.is_numpy(array)
    assert not Parts.find(MISSING["Array.stype"]).is_numpy(array)


def test_privacy_on_the_server_shows_in_a_name_or_in_an_attribute():
    wrapped = DifferentialPrivacyServerSideFixedClipping(FedAvg(), 1.0, 1.0, 2)
    vars(wrapped).pop("noise_multiplier")
    assert adds_noise(wrapped)
    assert adds_noise(SimpleNamespace(noise_multiplier=1.0))
    assert not adds_noise(FedAvg())


def test_a_grid_that_gives_messages_no_ids_ends_the_run():
    class Nameless(InMemoryGrid):
        def push_messages(self, messages):
            return [f"id-{k}" for k, _ in enumerate(messages)]

    grid = Nameless(None, [{}])
    with pytest.raises(UnsupportedFlowerError, match=r"Grid\.push_messages has changed"):
        push(grid, [Message(RecordDict(), 101, "train")])


# -- Legacy API ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gone", [("ClientManager",), ()])
def test_a_release_without_the_legacy_api_ends_in_one_line(gone):
    home = "flwr.server.client_manager"
    assert legacy_part(home, "ClientManager").__name__ == "ClientManager"
    with pytest.raises(UnsupportedFlowerError, match=rf"{home}\.ClientManager has changed"):
        legacy_part(home, "ClientManager", without(home, *gone))


def test_a_client_is_known_by_its_node_or_its_number():
    assert node_id_of(SimpleNamespace(node_id=5, cid="x")) == 5
    assert node_id_of(SimpleNamespace(cid="17")) == 17
    for proxy in (SimpleNamespace(cid="hospital-a"), SimpleNamespace()):
        with pytest.raises(UnsupportedFlowerError, match=r"ClientProxy\.node_id has changed"):
            node_id_of(proxy)


# -- The test kit --------------------------------------------------------------------------------------------


def test_a_registration_is_made_without_the_class_of_flower():
    made = KitParts.find(without("flwr.proto.node_pb2")).node_info(node_id=1, name="a", location="52,13")
    assert (made.node_id, made.name, made.location) == (1, "a", "52,13")


def test_a_record_of_a_run_that_cannot_be_made_ends_in_one_line():
    with pytest.raises(UnsupportedFlowerError, match=r"Run\.create_empty has changed"):
        KitParts.find(without("flwr.supercore.run", "Run")).run()


def test_an_identity_that_is_kept_elsewhere_ends_in_one_line():
    def make_message():
        raise RuntimeError("TaskIdentity.run_id is not set.")

    kit = KitParts.find(without("flwr.supercore.task_identity"))
    kit.identify(lambda: None)  # a release without identities
    with pytest.raises(UnsupportedFlowerError, match="TaskIdentity has changed"):
        kit.identify(make_message)


def test_metadata_that_takes_no_value_ends_in_one_line():
    class Frozen:
        message_id = ""

    with pytest.raises(UnsupportedFlowerError, match=r"Metadata\.message_id has changed"):
        stamp(SimpleNamespace(metadata=Frozen()), message_id="1")


# -- A run on a Flower that really lacks them ----------------------------------------------------------------

CRIPPLED_RUN = """
import inspect, sys
from datetime import UTC, datetime, timedelta
import flwr.app, flwr.clientapp.mod, flwr.server.client_manager, flwr.superlink.grid
from flwr.serverapp.strategy import FedAvg, Strategy, strategy_utils

def hide(*names):
    Strategy.start.__signature__ = WHOLE.replace(
        parameters=[each for each in WHOLE.parameters.values() if each.name not in names])

WHOLE = inspect.signature(Strategy.start)
hide("num_rounds")
from lowcarb_scheduler import carbon_aware
try:
    carbon_aware(FedAvg(), source="synthetic")
except Exception as error:
    print(type(error).__name__, error)
del flwr.server.client_manager.ClientManager
try:
    from lowcarb_scheduler import carbon_aware_legacy
except Exception as error:
    print(type(error).__name__, error)
for name in [name for name in sys.modules if name.startswith("lowcarb_scheduler")]:
    del sys.modules[name]
hide("timeout", "evaluate_fn")
del flwr.superlink.grid.HttpGrid, flwr.app.DEFAULT_TTL, flwr.clientapp.mod.LocalDpMod
del strategy_utils.aggregate_metricrecords

from lowcarb_scheduler import Synthetic, carbon_aware
from support.apps import make_app, node_configs
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
strategy = carbon_aware(
    FedAvg(), source=Synthetic(), clock=VirtualClock(datetime(2026, 3, 2, tzinfo=UTC)), clients_per_round=2,
    round_duration=timedelta(hours=1), finish_by=timedelta(hours=6), run_dir="run")
arrays = flwr.app.ArrayRecord([__import__("numpy").zeros(2)])
mods = [lambda message, context, call_next: call_next(message, context)]
grid = InMemoryGrid(make_app(mods=mods), node_configs(3))
result = strategy.start(grid, arrays, num_rounds=2, evaluate_fn=lambda number, arrays: None)
print(sorted(result.train_metrics_clientapp))
"""


@pytest.mark.flower
def test_a_run_goes_on_without_parts_and_ends_where_one_is_needed(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(inspect.getfile(Parts)).parents[2]}:{Path(__file__).parents[1]}")
    done = subprocess.run([sys.executable, "-c", CRIPPLED_RUN], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *_, ended, refused, trained = done.stdout.splitlines()
    is_unsupported = f"UnsupportedFlowerError flwr {flower_version()} is not supported yet"
    assert ended == f"{is_unsupported}: Strategy.start(num_rounds) has changed"
    assert refused == f"{is_unsupported}: flwr.server.client_manager.ClientManager has changed"
    assert trained == "[1, 2]"
    lines = [
        line.partition("lowcarb: flower: ")[2] for line in done.stderr.splitlines() if "flower: " in line
    ]
    named = [line.split(" has no ")[1].split(" that is known; ")[0] for line in lines]
    assert "has no flwr.clientapp.mod that is known; any mod counts as one for privacy" in done.stderr
    assert sorted(named) == [
        "DEFAULT_TTL", "HttpGrid", "Strategy.start(evaluate_fn)", "Strategy.start(timeout)",
        "aggregate_metricrecords",
    ]  # fmt: skip


def test_the_app_is_named_where_a_grid_tells_it():
    class Told:
        run = KIT.run()

    assert app_of(Told()) is None  # Flower's record of nothing
    Told.run.fab_id = "me/digits"
    assert app_of(Told()) == "me/digits"
    assert app_of(object()) is None

    class Unset:
        @property
        def run(self):
            return vars(None)  # as Flower's own grids before they know their run

    assert app_of(Unset()) is None
