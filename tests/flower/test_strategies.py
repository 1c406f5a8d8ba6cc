"""Every strategy: exactly the planned nodes train, and the result is that of the bare strategy on them."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.mod import adaptiveclipping_mod, fixedclipping_mod
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAdam, FedAvg, Result, Strategy

from lowcarb_scheduler import (
    CarbonAwareFedAvg,
    CarbonAwareMixin,
    Synthetic,
    carbon_aware,
)
from lowcarb_scheduler.errors import InputError, PlanMismatchError
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.apps import make_app, make_tree_app, node_configs
from support.clocks import Machine
from support.ledgers import read_records
from support.runs import RUN, trained

HOUR, SECOND = timedelta(hours=1), timedelta(seconds=1)
NODES = 10
ROUNDS = 3
PER_ROUND = 7  # Bulyan needs n >= 4 f + 3

# What the strategies under test would sample by themselves, and what takes all nodes that a grid shows.
ODD = {"fraction_train": 0.1, "fraction_evaluate": 0.3, "min_train_nodes": 1, "min_evaluate_nodes": 1,
       "min_available_nodes": NODES}  # fmt: skip
ALL = {"fraction_train": 1.0, "fraction_evaluate": 1.0, "min_train_nodes": 1, "min_evaluate_nodes": 1,
       "min_available_nodes": 1}  # fmt: skip
SAMPLING = {*ODD, "strategy", "num_sampled_clients"}


@pytest.fixture(autouse=True)
def _no_sleep(monkeypatch):
    """Let a strategy of Flower that waits for nodes poll without sleeping."""
    monkeypatch.setattr("flwr.serverapp.strategy.strategy_utils.sleep", lambda _: None)


CONFIGS = node_configs(NODES, **{"power-watts": 200.0})


class Subclass(FedAvg):
    """A user's strategy with hooks of its own, and state."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seen = []

    def configure_train(self, server_round, arrays, config, grid):
        config["lr"] = 1.0 / server_round
        yield from super().configure_train(server_round, arrays, config, grid)  # a generator

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.seen.append(sorted(reply.metadata.src_node_id for reply in replies))
        return super().aggregate_train(server_round, replies)


class OwnStart(FedAvg):
    """A strategy that runs its own loop, without evaluation by clients until the end."""

    def start(self, grid, initial_arrays, num_rounds=3, timeout=3600.0):
        arrays, config = initial_arrays, flower_config()
        for number in range(1, num_rounds + 1):
            replies = grid.send_and_receive(self.configure_train(number, arrays, config, grid))
            arrays, _ = self.aggregate_train(number, replies)
            grid.send_and_receive(self.configure_evaluate(number, arrays, config, grid))
        result = Result()
        result.arrays = arrays
        return result


def flower_config():
    from flwr.app import ConfigRecord

    return ConfigRecord()


class FromScratch(Strategy):
    """A strategy that inherits nothing: everybody trains, the median counts."""

    def __init__(self, **_):
        self.rounds = 0

    def configure_train(self, server_round, arrays, config, grid):
        config["server-round"] = server_round
        for node_id in grid.get_node_ids():
            content = RecordDict({"arrays": arrays, "config": config})
            yield Message(content, node_id, MessageType.TRAIN)

    def aggregate_train(self, server_round, replies):
        self.rounds += 1
        models = [reply.content["arrays"].to_numpy_ndarrays() for reply in replies if reply.has_content()]
        return ArrayRecord([np.median(layer, axis=0) for layer in zip(*models, strict=True)]), None

    def configure_evaluate(self, server_round, arrays, config, grid):
        return []

    def aggregate_evaluate(self, server_round, replies):
        return None

    def summary(self):
        pass


class ReadOnly(FromScratch):
    """A strategy whose sampling nobody can change."""

    fraction_train = property(lambda self: 1.0)
    min_available_nodes = property(lambda self: 2)


def fixed_server(**sampling):
    return flower.DifferentialPrivacyServerSideFixedClipping(FedAvg(**sampling), 0.1, 1.0, PER_ROUND)


def fixed_client(**sampling):
    return flower.DifferentialPrivacyClientSideFixedClipping(FedAdam(**sampling), 0.1, 1.0, PER_ROUND)


def adaptive_server(**sampling):
    return flower.DifferentialPrivacyServerSideAdaptiveClipping(FedAvg(**sampling), 0.1, PER_ROUND)


def adaptive_client(**sampling):
    return flower.DifferentialPrivacyClientSideAdaptiveClipping(FedAvg(**sampling), 0.1, PER_ROUND)


def cyclic(**sampling):
    return flower.FedXgbCyclic(min_available_nodes=sampling["min_available_nodes"])


BUILT = {
    "FedAvg": FedAvg,
    "FedProx": lambda **sampling: flower.FedProx(proximal_mu=0.1, **sampling),
    "FedAdam": FedAdam,
    "FedYogi": flower.FedYogi,
    "FedAdagrad": flower.FedAdagrad,
    "FedAvgM": lambda **sampling: flower.FedAvgM(server_momentum=0.5, **sampling),
    "FedMedian": flower.FedMedian,
    "FedTrimmedAvg": flower.FedTrimmedAvg,
    "Krum": lambda **sampling: flower.Krum(num_malicious_nodes=1, **sampling),
    "MultiKrum": lambda **sampling: flower.MultiKrum(num_malicious_nodes=1, **sampling),
    "Bulyan": lambda **sampling: flower.Bulyan(num_malicious_nodes=1, **sampling),
    "QFedAvg": lambda **sampling: flower.QFedAvg(client_learning_rate=0.1, **sampling),
    "FedXgbBagging": flower.FedXgbBagging,
    "FedXgbCyclic": cyclic,
    "DifferentialPrivacyServerSideFixedClipping": fixed_server,
    "DifferentialPrivacyClientSideFixedClipping": fixed_client,
    "DifferentialPrivacyServerSideAdaptiveClipping": adaptive_server,
    "DifferentialPrivacyClientSideAdaptiveClipping": adaptive_client,
    "a subclass": Subclass,
    "its own start()": OwnStart,
    "from scratch": FromScratch,
    "read-only sampling": ReadOnly,
}
APPS = {
    "FedXgbBagging": make_tree_app,
    "FedXgbCyclic": make_tree_app,
    "DifferentialPrivacyClientSideFixedClipping": lambda: make_app(mods=[fixedclipping_mod]),
    "DifferentialPrivacyClientSideAdaptiveClipping": lambda: make_app(mods=[adaptiveclipping_mod]),
}


class ScriptedGrid(InMemoryGrid):
    """A Grid that shows other nodes at each exchange, as a script says; they answer in their order."""

    def __init__(self, app, configs, script):
        super().__init__(app, configs)
        self.script = list(script)

    def get_node_ids(self):
        return list(self.script[0])

    def send_and_receive(self, messages, *, timeout=None):
        replies = super().send_and_receive(messages, timeout=timeout)
        self.script.pop(0)
        return sorted(replies, key=lambda reply: reply.metadata.src_node_id)


@pytest.fixture
def aware(midnight):
    """Return a function that makes a strategy carbon-aware with settings for these tests."""

    def make(strategy, **changes):
        return carbon_aware(strategy, **settings(midnight, **changes))

    return make


def settings(midnight, **changes):
    given = {
        "source": Synthetic(), "clock": VirtualClock(midnight), "finish_by": 5 * HOUR,
        "clients_per_round": PER_ROUND, "round_duration": HOUR, "run_dir": RUN,
    }  # fmt: skip
    return {**given, **changes}


def run(strategy, grid, initial, rounds=ROUNDS):
    random.seed(1)
    np.random.seed(1)  # the noise of Flower's differential privacy is drawn from it
    return strategy.start(grid, initial, num_rounds=rounds)


def initial_arrays(name):
    if "Xgb" in name:
        return ArrayRecord([np.frombuffer(b"", dtype=np.uint8)])
    return ArrayRecord([np.arange(6.0).reshape(2, 3), np.ones(3)])


def planned():
    """Return the nodes of each round as the ledger has them."""
    opened = [event for event in read_records(RUN) if event["event"] == "round_opened"]
    return [[int(node["id"]) + 101 for node in event["nodes"]] for event in opened]


def plain(value):
    """Return a value as something that can be compared."""
    if isinstance(value, ArrayRecord):
        return {key: array.numpy().tolist() for key, array in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict | MetricRecord):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def state(strategy):
    """Return the state of a strategy and those it wraps, without what decides whom it samples."""
    own = {key: plain(value) for key, value in vars(strategy).items()
           if key not in SAMPLING and not key.startswith("_lowcarb")}  # fmt: skip
    inner = getattr(strategy, "strategy", None)
    return [own] if inner is None else [own, *state(inner)]


@pytest.mark.parametrize("name", BUILT)
def test_it_trains_the_planned_nodes_as_the_bare_strategy_would(name, aware):
    app, per_round = APPS.get(name, make_app), 1 if name == "FedXgbCyclic" else PER_ROUND
    grid, inner = InMemoryGrid(app(), CONFIGS), BUILT[name](**ODD)
    before = {key: getattr(inner, key) for key in ODD if hasattr(inner, key)}
    # The correction is there to change results; tests/flower/correction/ shows where it does not.
    given = {"participation_correction": "off", "evaluate_on": "planned"}
    strategy = aware(inner, clients_per_round=per_round, **given)
    result = run(strategy, grid, initial_arrays(name))

    plan = planned()
    assert [sorted(nodes) for nodes in trained(grid).values()] == [sorted(nodes) for nodes in plan]
    assert [len(nodes) for nodes in plan] == [per_round] * ROUNDS
    assert len({node_id for nodes in plan for node_id in nodes}) > per_round or per_round == 1
    assert isinstance(strategy, type(inner))
    assert {key: getattr(inner, key) for key in before} == before  # it is lent, not bent

    bare = BUILT[name](**ALL)
    if name == "FedXgbCyclic":  # alone in a round, by the rules of Flower it needs two
        bare.min_train_nodes = bare.min_available_nodes = 1
    script = [nodes for nodes in plan for _ in ("train", "evaluate")]
    expected = run(bare, ScriptedGrid(app(), CONFIGS, script), initial_arrays(name))
    assert plain(result.arrays) == plain(expected.arrays)
    assert plain(result.arrays) != plain(initial_arrays(name))
    # Our keys come after those of the strategy, which stay as they are, also where it has none.
    own = {number: {key: value for key, value in metrics.items() if not key.startswith("lowcarb-")}
           for number, metrics in result.train_metrics_clientapp.items()}  # fmt: skip
    its = plain(expected.train_metrics_clientapp)
    assert plain(own) == {number: its.get(number, {}) for number in own}
    assert own.keys() >= its.keys()
    assert plain(result.evaluate_metrics_clientapp) == plain(expected.evaluate_metrics_clientapp)
    assert state(strategy) == state(bare)


def test_all_strategies_of_flower_are_in_the_matrix():
    assert set(flower.__all__) - {"Result", "Strategy"} <= set(BUILT)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("make", [fixed_server, fixed_client, adaptive_server, adaptive_client])
def test_noise_is_drawn_for_as_many_as_are_planned(make, count, aware):
    strategy = make(**ODD)
    name = type(strategy).__name__
    grid = InMemoryGrid(APPS.get(name, make_app)(), CONFIGS)
    run(aware(strategy, clients_per_round=count), grid, initial_arrays(name), rounds=1)
    assert strategy.num_sampled_clients == count


class Mine(CarbonAwareMixin, FedAdam):
    """A user's class."""

    def configure_train(self, server_round, arrays, config, grid):
        config["mine"] = True
        return super().configure_train(server_round, arrays, config, grid)


@pytest.mark.parametrize(
    ("cls", "bare", "arguments"),
    [
        (CarbonAwareFedAvg, FedAvg, {"min_available_nodes": 2}),
        (Mine, FedAdam, {"eta": 0.3}),
        (type("Late", (CarbonAwareMixin, Subclass), {}), Subclass, {"min_train_nodes": 1}),
        (type("Scratch", (CarbonAwareMixin, FromScratch), {}), FromScratch, {}),
    ],
)
def test_a_class_is_the_same_as_wrapping_an_instance(cls, bare, arguments, midnight):
    grids = [InMemoryGrid(make_app(), CONFIGS) for _ in range(2)]
    made = cls(**arguments, **settings(midnight))
    one = run(made, grids[0], initial_arrays(""))
    wrapped = carbon_aware(bare(**arguments), **settings(midnight, run_dir=Path("other")))
    other = run(wrapped, grids[1], initial_arrays(""))
    assert trained(grids[0]) == trained(grids[1])
    assert plain(one.arrays) == plain(other.arrays)
    assert state(made) == state(wrapped)
    assert read_records(RUN)[0]["strategy"] == cls.__name__
    assert read_records(Path("other"))[0]["strategy"] == bare.__name__


def test_a_class_reads_the_run_config(midnight):
    from flwr.app import Context

    context = Context(7, 0, {}, RecordDict(), {"lowcarb-clients-per-round": 3, "lowcarb-patience": 0.0})
    given = {key: value for key, value in settings(midnight).items() if key != "clients_per_round"}
    grid = InMemoryGrid(make_app(), CONFIGS)
    run(CarbonAwareFedAvg(0.5, context=context, **given), grid, initial_arrays(""), rounds=2)
    assert [len(nodes) for nodes in trained(grid).values()] == [3, 3]
    assert read_records(RUN)[0]["run_id"] == "7"


def test_a_slip_of_the_pen_is_met_with_the_nearest_setting():
    with pytest.raises(InputError, match="did you mean patience"):
        CarbonAwareFedAvg(patienc=0.5)
    with pytest.raises(InputError, match="did you mean patience"):
        type("Scratch", (CarbonAwareMixin, Minimal), {})(patienc=0.5)


class Minimal(FromScratch):
    """A strategy whose __init__ is that of object."""

    __init__ = object.__init__


def test_a_keyword_that_could_be_eithers_is_refused():
    class Stopping(FedAvg):
        def __init__(self, patience=3):
            super().__init__()

    class Aware(CarbonAwareMixin, Stopping):
        pass

    with pytest.raises(InputError, match=r"patience: is an argument of the strategy and a setting of ours"):
        Aware(patience=2)
    assert Aware(finish_by=HOUR)


def test_a_class_that_forgets_to_call_init_is_told_so():
    class Forgetful(CarbonAwareMixin, FedAvg):
        def __init__(self):
            self.fraction_train = 1.0

    with pytest.raises(InputError, match=r"call super\(\).__init__\(...\) in the __init__ of Forgetful"):
        Forgetful().start(InMemoryGrid(make_app(), CONFIGS), initial_arrays(""))


def test_the_mixin_has_to_come_first():
    with pytest.raises(InputError, match=r"write class Wrong\(CarbonAwareMixin, FedAdam\)"):
        type("Wrong", (FedAdam, CarbonAwareMixin), {})


WRAPPERS = [getattr(flower, name) for name in flower.__all__ if name.startswith("DifferentialPrivacy")]


@pytest.mark.parametrize("wrapper", WRAPPERS, ids=lambda wrapper: wrapper.__name__)
@pytest.mark.parametrize("form", ["carbon_aware", "class"])
def test_inside_differential_privacy_it_is_refused_with_the_right_nesting(wrapper, form, midnight):
    given = settings(midnight)
    inner = carbon_aware(FedAvg(), **given) if form == "carbon_aware" else CarbonAwareFedAvg(**given)
    fixed = (0.1, 1.0, PER_ROUND) if "Fixed" in wrapper.__name__ else (0.1, PER_ROUND)
    outer, grid = wrapper(inner, *fixed), InMemoryGrid(make_app(), CONFIGS)
    with pytest.raises(InputError, match=r"carbon_aware\(DP\(FedAvg\(\)\)\), not DP\(carbon_aware"):
        run(outer, grid, initial_arrays(""))
    assert not grid.sent
    assert not RUN.exists()
    with pytest.raises(InputError, match="wrap it once, the outermost"):
        carbon_aware(outer, **given)


def test_a_hook_that_leaves_the_mixin_out_is_noted(midnight):
    class Bypassing(CarbonAwareMixin, FedAvg):
        def configure_train(self, *args):
            return FedAvg.configure_train(self, *args)

    grid = InMemoryGrid(make_app(), CONFIGS)
    run(Bypassing(**settings(midnight)), grid, initial_arrays(""), rounds=2)
    noted = [event for event in read_records(RUN) if event["event"] == "degraded"]
    assert [event["why"] for event in noted] == [f"{NODES} node(s) train that are not in the plan"]
    assert "must call super().configure_train()" in noted[0]["consequence"]


class Addressing(FedAvg):
    """A strategy that sends its messages to other nodes than the grid shows, or more than one to each."""

    def __init__(self, way):
        super().__init__()
        self.way = way

    def configure_train(self, server_round, arrays, config, grid):
        messages = list(super().configure_train(server_round, arrays, config, grid))
        if self.way == "twice":
            again = [Message(m.content, m.metadata.dst_node_id, MessageType.TRAIN) for m in messages]
            return [*messages, *again]
        if self.way == "others":
            elsewhere = [101 + k for k in range(NODES)]
            return [Message(messages[0].content, node_id, MessageType.TRAIN) for node_id in elsewhere]
        return messages[: {"one": 1, "nobody": 0}[self.way]]


@pytest.mark.parametrize(
    ("way", "fix"),
    [
        ("one", "lowcarb-clients-per-round = 1"),
        ("nobody", "one message to each node of the grid"),
        ("twice", "one message to each node of the grid"),
        ("others", "one message to each node of the grid"),
    ],
)
def test_a_strategy_that_trains_others_than_planned_is_told_what_to_do(way, fix, aware):
    grid = InMemoryGrid(make_app(), CONFIGS)
    with pytest.raises(PlanMismatchError, match=fix):
        run(aware(Addressing(way)), grid, initial_arrays(""))
    assert not trained(grid)


# -- no wait without end --------------------------------------------------------------------------------


class WaitingFor(FedAvg):
    """A strategy that waits for more nodes than are planned, in one of its hooks, by one of two ways."""

    def __init__(self, hook, way):
        super().__init__()
        self.hook, self.way = hook, way

    def wait(self, hook, grid):
        while hook == self.hook and len(list(getattr(grid, self.way)())) < NODES:
            pass

    def configure_train(self, server_round, arrays, config, grid):
        self.wait("train", grid)
        return super().configure_train(server_round, arrays, config, grid)

    def configure_evaluate(self, server_round, arrays, config, grid):
        self.wait("evaluate", grid)
        return super().configure_evaluate(server_round, arrays, config, grid)


@pytest.mark.parametrize("hook", ["train", "evaluate"])
@pytest.mark.parametrize("way", ["get_node_ids", "get_nodes"])
def test_a_strategy_that_waits_for_more_is_an_error_that_says_so(hook, way, aware):
    grid = InMemoryGrid(make_app(), CONFIGS)
    with pytest.raises(PlanMismatchError, match=r"WaitingFor.* it waits for more: raise lowcarb-clients-per"):
        run(aware(WaitingFor(hook, way), evaluate_on="planned"), grid, initial_arrays(""))
    assert read_records(RUN)[-1]["status"] == "failed"


class Registering(Machine):
    """A clock that lets a node join at each sleep."""

    def __init__(self, now, grid):
        super().__init__(now)
        self.grid = grid

    def sleep_until(self, when):
        if when > self.now():
            self.grid.join({"partition-id": len(list(self.grid.get_node_ids()))})
        super().sleep_until(when)


def test_nodes_that_are_to_be_available_are_waited_for_while_they_register(aware, midnight):
    grid = InMemoryGrid(make_app(), [{"partition-id": 0}, {"partition-id": 1}])
    grid.registering = timedelta(seconds=60)
    clock = Registering(midnight, grid)
    inner = FedAvg(fraction_train=0.5, min_available_nodes=8)
    run(aware(inner, clients_per_round=None, clock=clock, source=None), grid, initial_arrays(""), rounds=1)
    assert len(trained(grid)[1]) == 4
    assert (len(list(grid.get_node_ids())), clock.now()) == (8, midnight + 12 * SECOND)


def test_a_strategy_that_only_evaluates_does_so(aware):
    grid = InMemoryGrid(make_app(), CONFIGS)
    run(aware(FedAvg(fraction_train=0.0, fraction_evaluate=0.5)), grid, initial_arrays(""), rounds=2)
    asked = [m for m in grid.sent if m.metadata.message_type == MessageType.EVALUATE]
    assert len(asked) == 2 * NODES // 2
    assert not trained(grid)


def test_a_strategy_that_only_evaluates_waits_for_nobody_without_end(aware):
    inner = flower.FedXgbCyclic(fraction_train=0.0, min_available_nodes=50)
    with pytest.raises(PlanMismatchError, match="it waits for more"):
        run(aware(inner), InMemoryGrid(make_app(), CONFIGS), initial_arrays(""))
