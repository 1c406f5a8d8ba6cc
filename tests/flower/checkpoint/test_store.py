"""Checkpoints: lossless encoding, state of strategies, atomic files."""

from __future__ import annotations

import functools
import json
import logging
import os
import random
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.checkpoint.codec import CannotEncodeError, Encoder, StrategyState, decode
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.scheduling.replanner import plan_from_value, plan_to_value
from support.kill_points import KillPoints

RUN = Path("run")


def there_and_back(value):
    """Return a value after it was written as JSON and arrays."""
    encoder = Encoder()
    tree = json.loads(json.dumps(encoder.encode(value, "value"), allow_nan=False))
    return decode(tree, encoder.arrays)


# -- Values ------------------------------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20)
KEYS = st.text() | st.integers() | st.booleans()
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


def same(one, other):
    """Return whether two values are equal, type by type, and NaN equal to itself."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True) if len(one) == len(other) else [((0,), (1,))]
        return all(same(a, b) for pair in pairs for a, b in zip(*pair, strict=True))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other or (one != one and other != other)


@given(VALUES)
def test_values_come_back_as_they_were(value):
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float16).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(2.5),
        np.zeros((0, 4), dtype=np.int8),
        np.array([np.nan, -np.inf, -0.0]),
        np.array(["a", "long name"]),
        np.array([True, False]),
        np.array([1 + 2j]),
        np.array(["2026-03-02T00"], dtype="datetime64[h]"),
    ],
    ids=lambda array: str(array.dtype),
)
def test_arrays_come_back_to_the_bit_and_in_their_order(array):
    back = there_and_back({"x": [array]})["x"][0]
    assert (back.dtype, back.shape, back.flags.f_contiguous) == (
        array.dtype, array.shape, array.flags.f_contiguous
    )  # fmt: skip
    assert back.tobytes() == array.tobytes()
    assert back.flags.writeable


def test_records_of_flower_and_scalars_of_numpy_come_back():
    weights = ArrayRecord(OrderedDict(b=Array(np.ones(2)), a=Array(np.zeros((2, 2), np.float32))))
    value = {
        "weights": weights, "metrics": MetricRecord({"loss": 0.5, "counts": [1, 2]}),
        "config": ConfigRecord({"name": "x", "raw": b"\x00\xff"}), "scalar": np.float32(0.1),
        "when": datetime(2026, 3, 2, 1, 2, 3, 4, tzinfo=UTC), "naive": datetime(2026, 3, 2),  # noqa: DTZ001
        "long": timedelta(days=4000, microseconds=1), "set": {3, 1}, "ordered": OrderedDict(b=1, a=2),
    }  # fmt: skip
    back = there_and_back(value)
    assert back == value
    assert list(back["weights"]) == ["b", "a"]
    assert isinstance(back["scalar"], np.float32)
    assert isinstance(back["ordered"], OrderedDict)
    assert back["weights"]["b"].data == weights["b"].data


@pytest.mark.parametrize("bits", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_a_random_generator_continues_its_sequence(bits):
    generator = np.random.Generator(getattr(np.random, bits)(7))
    generator.integers(0, 100, 5, dtype=np.int32)  # half of a buffer is used up
    assert np.array_equal(there_and_back(generator).random(9), generator.random(9))
    plain = random.Random(3)
    plain.gauss(0, 1)
    assert there_and_back(plain).gauss(0, 1) == plain.gauss(0, 1)


def test_an_array_that_occurs_twice_is_written_once():
    array, record = np.ones(1000), ArrayRecord([np.ones(1000)])
    encoder = Encoder()
    encoder.encode({"a": array, "b": [array], "r": record, "s": record.copy()}, "x")
    assert len(encoder.arrays) == 2


class Thing:
    """Something that has no form."""


@pytest.mark.parametrize(
    "value", [Thing(), np.array([Thing()]), lambda: 1, {1: {"deep": [Thing()]}}, range(3)]
)
def test_a_value_of_an_unknown_type_is_named_and_never_pickled(value):
    with pytest.raises(CannotEncodeError) as caught:
        Encoder().encode(value, "model")
    assert caught.value.path.startswith("model")


def test_a_value_that_contains_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(CannotEncodeError, match="holds itself"):
        Encoder().encode(value, "x")


@pytest.mark.parametrize("tree", [{"pickle": "x"}, {"a": 1, "b": 2}, {"array": "nowhere"}, {"generator": 5},
                                  {"generator": {"dict": [["bit_generator", "os"]]}}])  # fmt: skip
def test_unknown_tags_are_refused(tree):
    with pytest.raises((ValueError, TypeError, KeyError)):
        decode(tree, {})


def test_a_plan_comes_back_as_it_was(midnight):
    import pandas as pd

    from lowcarb_scheduler import Fleet, Job, Synthetic, plan

    fleet = Fleet.from_frame(pd.DataFrame({"id": ["b", "a", "c"], "location": ["DE", "GB", "DE"]}))
    hour = timedelta(hours=1)
    job = Job(fleet, midnight, midnight + 12 * hour, 3, 2, hour)
    made = plan(job, Synthetic().forecast(["DE", "GB"], midnight).intensity)
    back = plan_from_value(there_and_back(plan_to_value(made)))
    assert back.to_dict() == made.to_dict()
    assert back.fleet.ids.dtype == made.fleet.ids.dtype
    assert np.array_equal(back.fleet.location_index, made.fleet.location_index)


# -- Strategies --------------------------------------------------------------------------------------------


def restored(strategy, other):
    """Bring the state of a strategy into another one."""
    state, target = StrategyState(other), StrategyState(strategy)
    encoder = Encoder()
    trees = target.encode(encoder)
    state.restore(json.loads(json.dumps(trees)), encoder.arrays)
    return trees


def test_state_is_every_changed_attribute_and_configuration_stays_that_of_the_app():
    strategy = FedAdam(eta=0.1)
    state = StrategyState(strategy)
    strategy.m_t, strategy.v_t = {"0": np.ones(3)}, {"0": np.full(3, 2.0)}
    encoder = Encoder()
    trees = state.encode(encoder)
    assert set(trees) == {"m_t", "v_t"}
    again = FedAdam(eta=0.7)
    StrategyState(again).restore(trees, encoder.arrays)
    assert np.array_equal(again.v_t["0"], np.full(3, 2.0))
    assert again.eta == 0.7
    strategy.m_t["0"] += 1  # in place
    state.encode(second := Encoder())
    assert second.arrays["strategy/m_t/0"][0] == 2.0


def test_the_state_of_a_wrapped_strategy_is_saved():
    strategy = DifferentialPrivacyServerSideFixedClipping(FedAdam(), 0.1, 1.0, 4)
    state = StrategyState(strategy)
    strategy.strategy.m_t, strategy.num_sampled_clients = {"0": np.ones(2)}, 3
    encoder = Encoder()
    trees = state.encode(encoder)
    assert set(trees) == {"num_sampled_clients", "strategy.m_t"}
    again = DifferentialPrivacyServerSideFixedClipping(FedAdam(), 0.1, 1.0, 4)
    StrategyState(again).restore(trees, encoder.arrays)
    assert (again.num_sampled_clients, again.strategy.m_t["0"].tolist()) == (3, [1.0, 1.0])


class Custom(FedAvg):
    def __init__(self, **extra):
        super().__init__()
        vars(self).update(extra)


@pytest.mark.parametrize(
    "harmless",
    [len, Thing, functools.partial(max, 1), logging.getLogger("x"), Path("here"), [min, max], {"f": print}],
)
def test_unchanged_attributes_without_state_are_configuration(harmless):
    state = StrategyState(Custom(extra=harmless))
    assert state.missing() == []
    assert state.encode(Encoder()) == {}


def test_attributes_with_hidden_state_are_named():
    strategy = Custom(model=Thing(), seen=[1])
    state = StrategyState(strategy)
    assert state.missing() == ["model (Thing)"]
    strategy.seen.append(Thing())
    strategy.hook = print
    assert state.missing() == ["model (Thing)", "seen/1 (Thing)", "hook (builtin_function_or_method)"]
    assert state.encode(Encoder()) == {}


class Accountant:
    """Keeps its state itself, as those of Flower do."""

    def __init__(self):
        self.spent = []

    def state_dict(self):
        return {"spent": list(self.spent)}

    def load_state_dict(self, state):
        self.spent = state["spent"]


def test_objects_with_state_dict_are_saved_by_it():
    strategy = Custom(accountant=Accountant())
    state = StrategyState(strategy)
    strategy.accountant.spent += [0.5, float("inf")]
    assert state.missing() == []
    again = Custom(accountant=Accountant())
    StrategyState(again).restore(state.encode(Encoder()), {})
    assert again.accountant.spent == [0.5, float("inf")]
    with pytest.raises(ValueError, match="has the state of accountant"):
        StrategyState(Custom()).restore(state.encode(Encoder()), {})


def test_an_object_whose_state_dict_fails_is_named():
    class Broken(Accountant):
        def state_dict(self):
            raise RuntimeError("no backend")

    assert StrategyState(Custom(accountant=Broken())).missing() == ["accountant (Broken: no backend)"]


# -- Files -------------------------------------------------------------------------------------------------


def write(number):
    checkpoint = Checkpoint(RUN)
    kept = {
        "model": checkpoint.write_arrays(
            "model", {"w/0": np.full(5, float(number)), "w/1": np.arange(number)}
        )
    }
    checkpoint.commit({"number": number, "arrays": kept})
    return checkpoint


def read(run_dir=RUN):
    checkpoint = Checkpoint(run_dir)
    state = checkpoint.read()
    return state["number"], checkpoint.read_arrays(state["arrays"]["model"])


def test_killed_at_any_step_of_a_write_the_disk_holds_one_state_and_its_arrays(monkeypatch):
    write(1)
    points = KillPoints(RUN, Path("copies"))
    with monkeypatch.context() as patch:
        points.watch(patch)
        write(2)
    found = []
    for copy in points.found:
        number, arrays = read(copy)
        assert arrays["w/0"].tolist() == [float(number)] * 5
        found.append(number)
    assert found == sorted(found)  # once the new one is there the old one is not
    assert found.count(1) >= 4
    assert found.count(2) >= 2


def test_old_arrays_and_leftovers_are_removed_and_equal_arrays_are_not_written_again():
    write(1)
    first = {path.name: path.stat().st_mtime_ns for path in (RUN / "checkpoint").glob("*.npz")}
    (RUN / "checkpoint" / "model-dead.npz.new").write_bytes(b"torn")
    write(1)
    assert {path.name: path.stat().st_mtime_ns for path in (RUN / "checkpoint").glob("*.npz")} == first
    write(2)
    names = sorted(path.name for path in (RUN / "checkpoint").iterdir())
    assert len(names) == 2
    assert names[1] == "state.json"
    assert names[0] not in first


def arrays_file():
    return next((RUN / "checkpoint").glob("*.npz"))


def _cut(path, to):
    path.write_bytes(path.read_bytes()[:to])


def _flip(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_cut_file_is_refused_with_one_line(part):
    write(3)
    for path in (arrays_file(), RUN / "checkpoint" / "state.json"):
        whole = path.read_bytes()
        _cut(path, min(int(len(whole) * part), len(whole) - 2))  # the last is a newline
        with pytest.raises(InputError) as caught:
            read()
        assert str(path) in str(caught.value)
        assert "another run-dir" in str(caught.value)
        assert "\n" not in str(caught.value)
        path.write_bytes(whole)


def test_any_flipped_bit_is_refused():
    write(3)
    for path in (arrays_file(), RUN / "checkpoint" / "state.json"):
        whole = path.read_bytes()
        content = read()
        for at in range(0, len(whole), 7):
            _flip(path, at)
            try:
                number, arrays = read()
            except InputError:
                pass
            else:  # a bit that says nothing, as of a date in the zip file
                assert number == content[0]
                assert all(np.array_equal(arrays[name], content[1][name]) for name in content[1])
            path.write_bytes(whole)


def test_missing_and_foreign_arrays_are_refused():
    write(3)
    path = arrays_file()
    name = path.name
    other = Checkpoint(Path("other"))
    other.write_arrays("model", {"w/0": np.zeros(5)})
    path.write_bytes(next(Path("other/checkpoint").iterdir()).read_bytes())
    with pytest.raises(InputError, match="does not match its digest"):
        read()
    path.unlink()
    with pytest.raises(InputError, match=f"{name}: checkpoint: is missing"):
        read()


def test_a_pickle_in_the_place_of_arrays_is_not_opened():
    write(3)

    class Evil:
        def __reduce__(self):
            return os.mkdir, ("pwned",)

    with arrays_file().open("wb") as out:
        np.savez(out, x=np.array([Evil()], dtype=object))
    with pytest.raises(InputError, match="is damaged"):
        read()
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "is damaged"), ("[]", "is not a checkpoint"), ('{"v": 1}', "is not a checkpoint"),
     ('{"v": 2, "sha256": "", "state": {}}', "does not match"), ("\xff", "is damaged")],
)  # fmt: skip
def test_files_that_are_no_state_are_refused(text, problem):
    write(1)
    Checkpoint(RUN).path.write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=problem):
        read()


@pytest.mark.parametrize(
    ("header", "writer"),
    [({"v": 1}, "an earlier lowcarb-scheduler"), ({"v": 9, "version": "4.0.0"}, "lowcarb-scheduler 4.0.0")],
)
def test_another_format_ends_in_one_line_with_its_writer_and_the_fix(header, writer):
    write(1)
    path = Checkpoint(RUN).path
    path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), "version": None, **header}), "utf-8")
    with pytest.raises(InputError) as caught:
        read()
    message = str(caught.value)
    assert message.startswith(f"{path}: checkpoint: has format {header['v']}, written by {writer}; ")
    assert "reads format 2; resume with the version that wrote it, or start anew with another" in message
    assert "\n" not in message
