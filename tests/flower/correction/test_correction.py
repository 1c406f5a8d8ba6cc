"""Corrected runs: what a strategy sees of the correction, and what the model gains by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord
from flwr.serverapp import strategy as flower
from flwr.serverapp.strategy import FedAdam, FedAvg

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.correction.applicability import settle
from lowcarb_scheduler.settings import Settings
from lowcarb_scheduler.testing import InMemoryGrid
from support.apps import make_app, node_configs
from support.correction_runs import PLACES, drift, make_grid, run, weights
from support.runs import RUN, events_of

# -- Accuracy ----------------------------------------------------------------------------------------------


class Blobs:
    """A task in which each place has mostly pictures of its own class."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        centres = random.normal(0.0, 1.0, (len(PLACES), 8))
        self.test = self._draw(random, centres, np.full(len(PLACES), 1 / len(PLACES)), 400)
        mixes = [np.where(np.arange(len(PLACES)) == place, 0.97, 0.01) for place in range(len(PLACES))]
        self.parts = [self._draw(random, centres, mixes[node % len(PLACES)], 60) for node in range(12)]

    def _draw(self, random, centres, mix, count):
        labels = random.choice(len(mix), count, p=mix)
        return centres[labels] + random.normal(0.0, 1.5, (count, 8)), labels

    def train(self, arrays, node, number):
        (weights,), (inputs, labels) = arrays, self.parts[node]
        for _ in range(50):
            scores = np.exp(inputs @ weights)
            scores /= scores.sum(axis=1, keepdims=True)
            scores[np.arange(len(labels)), labels] -= 1
            weights = weights - 0.5 * inputs.T @ scores / len(labels)
        return [weights]

    def accuracy(self, arrays):
        inputs, labels = self.test
        return float(np.mean((inputs @ arrays[0]).argmax(axis=1) == labels))


@pytest.mark.parametrize("seed", [1, 2])
def test_place_after_place_costs_accuracy_without_and_not_with_the_correction(seed, midnight):
    task, rounds, zeros = Blobs(seed), 24, np.zeros((8, 4))
    reached = {}
    for setting in ("off", "auto"):
        grid = InMemoryGrid(make_app(task.train, examples=lambda node: 60), node_configs(12, PLACES))
        folder = Path(setting)
        result = run(FedAvg(fraction_evaluate=0.0), midnight, grid, rounds, [zeros], run_dir=folder,
                     participation_correction=setting)  # fmt: skip
        reached[setting] = task.accuracy(result.arrays.to_numpy_ndarrays())
        opened = events_of("round_opened", folder)
        assert {len({node["location"] for node in event["nodes"]}) for event in opened[:-1]} == {1}
    ideal = zeros
    for _ in range(rounds):
        ideal = np.mean([task.train([ideal], node, 0)[0] for node in range(12)], axis=0)
    assert task.accuracy([ideal]) - reached["off"] > 0.1
    assert task.accuracy([ideal]) - reached["auto"] < 0.03


# -- Seen from the strategy --------------------------------------------------------------------------------


class Watching(FedAvg):
    """A strategy that remembers what it was given, and averages as FedAvg does."""

    def __init__(self):
        super().__init__(fraction_evaluate=0.0)
        self.models, self.weights, self.means = [], [], []

    def aggregate_train(self, server_round, replies):
        replies = list(replies)
        self.models.append([reply.content["arrays"].to_numpy_ndarrays() for reply in replies])
        self.weights.append([reply.content["metrics"]["num-examples"] for reply in replies])
        arrays, metrics = super().aggregate_train(server_round, replies)
        self.means.append(arrays.to_numpy_ndarrays())
        return arrays, metrics


def weighted(models, weights):
    return [
        np.average([model[k] for model in models], axis=0, weights=weights) for k in range(len(models[0]))
    ]


def test_every_reply_is_shifted_alike_and_so_is_the_mean_of_one_shifted_reply(midnight):
    """A subclass sees all replies; for FedAvg itself one reply is shifted, and its mean is the same."""
    watching = Watching()
    one = run(watching, midnight, make_grid(drift), run_dir=Path("one"))
    other = run(FedAvg(), midnight, make_grid(drift), run_dir=Path("other"))
    for got, expected in zip(one.arrays.to_numpy_ndarrays(), other.arrays.to_numpy_ndarrays(), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5)
    # All nodes of a round are of one place and train alike: their replies are the same, shifted or not.
    assert any(event["ratio"] > 0.1 for event in events_of("round_corrected", Path("one")))
    for models, counts, mean in zip(watching.models, watching.weights, watching.means, strict=True):
        for model in models[1:]:
            np.testing.assert_allclose(model[0], models[0][0], rtol=1e-6)
        np.testing.assert_allclose(mean[0], weighted(models, counts)[0], rtol=1e-6)


def of_one_place(count=6):
    return node_configs(count, ["DE"])


@pytest.mark.parametrize(
    "configs",
    [of_one_place(), [{"partition-id": k} for k in range(6)]],
    ids=["one location", "unknown locations"],
)
def test_where_all_are_at_one_location_nothing_is_touched(configs, midnight):
    results = [
        run(
            FedAvg(),
            midnight,
            InMemoryGrid(make_app(), configs),
            run_dir=Path(setting),
            participation_correction=setting,
        )
        for setting in ("off", "auto")
    ]
    assert weights(results[0]) == weights(results[1])
    reasons = {event["reason"] for event in events_of("round_corrected", Path("auto"))}
    assert reasons == {"all nodes are at one location"}


def test_rounds_of_all_nodes_are_balanced_and_stay_as_they_are_to_the_bit(midnight):
    results = [
        run(
            FedAvg(),
            midnight,
            run_dir=Path(setting),
            participation_correction=setting,
            clients_per_round=12,
            rounds=4,
        )
        for setting in ("off", "auto")
    ]
    assert weights(results[0]) == weights(results[1])
    assert [event["ratio"] for event in events_of("round_corrected", Path("auto"))] == [0.0] * 4


CORRECTED = {
    "FedAvg": FedAvg,
    "FedProx": lambda: flower.FedProx(proximal_mu=0.1),
    "FedAvgM": lambda: flower.FedAvgM(server_momentum=0.5),
    "FedAdam": FedAdam,
    "FedYogi": flower.FedYogi,
    "FedAdagrad": flower.FedAdagrad,
    "a subclass": Watching,
}


@pytest.mark.parametrize("name", CORRECTED)
def test_strategies_that_average_are_corrected_unchanged(name, midnight):
    results = [
        run(CORRECTED[name](), midnight, rounds=6, run_dir=Path(setting), participation_correction=setting)
        for setting in ("off", "auto")
    ]
    (settled,) = events_of("correction_settled", Path("auto"))
    assert (settled["mode"], settled["reason"]) == ("location", None)
    events = events_of("round_corrected", Path("auto"))
    assert [event["reason"] for event in events] == [None] * 6
    assert events[0]["ratio"] == 0.0  # nothing is remembered yet
    assert all(event["ratio"] > 0 for event in events[1:])
    assert [event["places"] for event in events] == [1, 3, 4, 4, 4, 4]  # odd turns: a round of two places
    assert [event["oldest"] for event in events][:3] == [0, 1, 2]
    assert weights(results[0]) != weights(results[1])
    assert results[0].train_metrics_clientapp == results[1].train_metrics_clientapp


@pytest.mark.parametrize(
    ("strategy", "balance", "kept"),
    [
        (FedAvg(), "auto", "auto"),
        (FedAdam(), "auto", 0.2),
        (FedAdam(), 0.5, 0.5),
        (FedAdam(), "off", "off"),
        (flower.DifferentialPrivacyServerSideFixedClipping(flower.FedYogi(), 0.1, 1.0, 3), "auto", 0.2),
        (flower.FedAvgM(server_momentum=0.9), "auto", 0.2),
        (flower.FedAvgM(server_momentum=0.9), 1.2, 1.2),
        (flower.FedAvgM(server_momentum=0.5), "auto", "auto"),
        (flower.FedAvgM(), "auto", "auto"),
    ],
)
def test_a_server_that_remembers_its_steps_has_a_tight_rule_of_balance(strategy, balance, kept, midnight):
    run(strategy, midnight, rounds=2, balance=balance)
    assert events_of("run_started")[0]["settings"]["balance"] == kept


def robust(cls, **given):
    return lambda: cls(**given)


def private(name, *given):
    return lambda: getattr(flower, f"DifferentialPrivacy{name}Clipping")(FedAvg(), *given)


LEFT_ALONE = {
    "DP, fixed, server": (private("ServerSideFixed", 0.1, 1.0, 3), "privacy accounting"),
    "DP, fixed, client": (private("ClientSideFixed", 0.1, 1.0, 3), "privacy accounting"),
    "DP, adaptive, server": (private("ServerSideAdaptive", 0.1, 3), "privacy accounting"),
    "Krum": (robust(flower.Krum, num_malicious_nodes=0), "robust"),
    "MultiKrum": (robust(flower.MultiKrum, num_malicious_nodes=0), "robust"),
    "Bulyan": (robust(flower.Bulyan, num_malicious_nodes=0), "robust"),
    "FedMedian": (flower.FedMedian, "robust"),
    "FedTrimmedAvg": (flower.FedTrimmedAvg, "robust"),
    "QFedAvg": (robust(flower.QFedAvg, client_learning_rate=0.1), "by their loss"),
}  # fmt: skip


@pytest.mark.parametrize("name", LEFT_ALONE)
def test_strategies_that_it_would_harm_are_left_alone_with_the_reason(name, midnight, caplog):
    caplog.set_level("INFO", "flwr")
    make, reason = LEFT_ALONE[name]
    run(make(), midnight, rounds=2)
    (settled,) = events_of("correction_settled")
    assert settled["mode"] == "off"
    assert reason in settled["reason"]
    assert events_of("run_started")[0]["settings"]["participation_correction"] == "off"
    assert not events_of("round_corrected")
    said = [line for line in caplog.messages if line.startswith("lowcarb: participation correction is off: ")]
    assert len(said) == 1


@pytest.mark.parametrize("name", [name for name in LEFT_ALONE if name.startswith("DP")])
def test_under_differential_privacy_it_is_refused(name, midnight):
    with pytest.raises(
        InputError, match=r"lowcarb-participation-correction: location does not go .*privacy accounting"
    ):
        run(LEFT_ALONE[name][0](), midnight, participation_correction="location")
    assert not RUN.exists()


def test_asked_for_with_a_robust_strategy_it_warns_and_obeys(midnight, caplog):
    run(flower.FedMedian(), midnight, rounds=3, participation_correction="location")
    assert any("correction is on" in line and "robust" in line for line in caplog.messages)
    assert [event["reason"] for event in events_of("round_corrected")] == [None] * 3


@pytest.mark.parametrize(
    ("strategy", "arrays", "reason"),
    [
        (flower.FedXgbBagging(), [np.zeros(9, np.uint8)], "no arrays of floats"),
        (flower.FedXgbCyclic(), None, "boosted trees"),
        (FedAvg(), [np.zeros(3, np.int64)], "no arrays of floats"),
    ],
)
@pytest.mark.parametrize("asked", ["auto", "location"])
def test_what_is_no_tensor_of_floats_is_left_alone(strategy, arrays, reason, asked):
    record = None if arrays is None else ArrayRecord(arrays)
    settings = Settings.load({"participation_correction": asked})
    settled = settle(settings, (strategy, record), has_source=True)
    assert settled.mode == "off"
    assert reason in settled.reason


def test_without_a_source_the_clients_are_drawn_at_random_and_it_is_off(midnight):
    run(FedAvg(), midnight, rounds=2, source=None)
    (settled,) = events_of("correction_settled")
    assert settled["mode"] == "off"
    assert "drawn at random" in settled["reason"]


def test_a_memory_of_each_node_goes_by_its_name(midnight):
    run(FedAvg(), midnight, participation_correction="node")
    assert events_of("round_corrected")[-1]["places"] == 12
