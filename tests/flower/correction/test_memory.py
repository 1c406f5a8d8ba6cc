"""Location memory: the shift is that of its formula, bounded, and nothing where nothing is missing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowcarb_scheduler.flower.correction.memory import LocationMemory, learn_from_mean

few = settings(max_examples=25)
SIZES = (5, 3)
PLACES = ("DE", "FR", "GB")


def vector(values):
    return [np.asarray(values[:5], dtype=np.float32), np.asarray(values[5:], dtype=np.float32)]


def flat(arrays):
    return np.concatenate([np.asarray(array, dtype=np.float64) for array in arrays])


number = st.floats(1, 8, width=32) | st.floats(-8, -1, width=32)
numbers = st.lists(number, min_size=8, max_size=8).map(vector)
ZERO = vector([0.0] * 8)


def remembered(memory, place):
    known = memory.places[place]
    return flat([known.levels[:5] * known.scales[0], known.levels[5:] * known.scales[1]])


def learn(memory, number, updates, weights=None, data=None):
    """Advance a memory by a round with one reply of each place."""
    weights = weights or dict.fromkeys(updates, 1.0)
    replies = {place: [(weights[place], update)] for place, update in updates.items()}
    return memory.advance(number, ZERO, replies, data or {})


def taught(updates, **settings):
    """Return a memory after one round with an update of each place."""
    memory = LocationMemory(SIZES, **settings)
    learn(memory, 1, updates)
    return memory


def shift_of(memory, shares, data):
    """Return the shift of a round whose replies have these weights."""
    weights = {place: share for place, share in shares.items() if share}
    return learn(memory, 2, dict.fromkeys(weights, vector([1.0] * 8)), weights, data).shift


@few
@given(updates=st.lists(numbers, min_size=3, max_size=3), data=st.tuples(*[st.integers(1, 1000)] * 3))
def test_a_balanced_round_is_not_shifted(updates, data):
    memory = taught(dict(zip(PLACES, updates, strict=True)))
    amounts = dict(zip(PLACES, map(float, data), strict=True))
    # The round has twice the data of the fleet's proportions: other numbers, the same shares.
    weights = {place: 2 * amount for place, amount in amounts.items()}
    assert shift_of(memory, weights, amounts) is None


@few
@given(update=numbers, shares=st.lists(st.integers(0, 9), min_size=3, max_size=3).filter(any))
def test_identical_places_need_no_shift(update, shares):
    memory = taught(dict.fromkeys(PLACES, update))
    weights = dict(zip(PLACES, shares, strict=True))
    assert shift_of(memory, weights, dict.fromkeys(PLACES, 7.0)) is None


@few
@given(updates=st.lists(numbers, min_size=3, max_size=3), data=st.tuples(*[st.integers(1, 1000)] * 3))
def test_the_shift_is_the_missing_share_of_what_is_remembered(updates, data):
    memory = taught(dict(zip(PLACES, updates, strict=True)), trust=np.inf)
    amounts = dict(zip(PLACES, map(float, data), strict=True))
    shares = {"DE": 0.75, "FR": 0.25}
    expected = sum(
        (amounts[place] / sum(data) - shares.get(place, 0.0)) * remembered(memory, place) for place in PLACES
    )
    shift = shift_of(memory, shares, amounts)
    got = np.zeros(8) if shift is None else flat(shift.arrays)
    largest = max(float(np.abs(flat(update)).max()) for update in updates)
    np.testing.assert_allclose(got, expected, atol=1e-5 * largest + 1e-12)


@few
@given(updates=st.lists(numbers, min_size=3, max_size=3))
def test_a_shift_is_no_longer_than_a_usual_step(updates):
    memory = taught(dict(zip(PLACES, updates, strict=True)))
    usual = memory.usual_step
    shift = shift_of(memory, {"DE": 1.0}, {"DE": 1.0, "FR": 1000.0, "GB": 1.0})
    if shift is not None:
        assert np.linalg.norm(flat(shift.arrays)) <= usual * (1 + 1e-5)
        assert shift.norm == pytest.approx(np.linalg.norm(flat(shift.arrays)), rel=1e-4)


@few
@given(update=numbers)
def test_int8_is_within_half_a_level(update):
    memory = taught({"DE": update}, first=1.0)
    for got, array in zip((slice(0, 5), slice(5, 8)), update, strict=True):
        level = np.abs(array).max() / 127
        assert np.abs(remembered(memory, "DE")[got] - array).max() <= level * 0.5001 + 1e-30


@few
@given(updates=st.lists(numbers, min_size=3, max_size=3), order=st.permutations(PLACES))
def test_places_may_come_in_any_order(updates, order):
    by_place = dict(zip(PLACES, updates, strict=True))
    one, other = taught(by_place), taught({place: by_place[place] for place in order})
    assert one.usual_step == other.usual_step
    for place in PLACES:
        assert one.places[place].levels.tobytes() == other.places[place].levels.tobytes()


def test_a_memory_learns_slowly():
    memory = LocationMemory(SIZES)
    ones = vector([1.0] * 8)
    for number, expected in ((1, 0.5), (2, 0.75), (3, 0.875)):
        learn(memory, number, {"DE": ones}, {"DE": 3.0})
        np.testing.assert_allclose(remembered(memory, "DE"), expected, atol=0.01)
        assert memory.places["DE"].number == number


def test_replies_of_a_place_count_by_their_weight():
    memory = LocationMemory(SIZES, first=1.0)
    sent = vector([1.0] * 8)
    memory.advance(1, sent, {"DE": [(1.0, vector([2.0] * 8)), (3.0, vector([6.0] * 8))]}, {})
    np.testing.assert_allclose(remembered(memory, "DE"), 4.0, rtol=0.01)


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30, 1e4])
def test_a_poisoned_update_is_not_remembered(poison):
    memory = taught({place: vector([1.0] * 8) for place in PLACES})
    before = {place: memory.places[place] for place in PLACES}
    usual = memory.usual_step
    advance = learn(memory, 2, {"DE": vector([poison] * 8), "FR": vector([1.0] * 8)})
    assert advance.refused == ("DE",)
    assert memory.places["DE"] is before["DE"]
    assert memory.places["FR"] is not before["FR"]
    assert memory.usual_step <= 1.2 * usual


@pytest.mark.parametrize("poison", [np.nan, np.inf, 1e30])
def test_poison_in_a_block_without_a_sampled_norm_is_not_remembered(poison):
    memory = taught({place: vector([1.0] * 8) for place in PLACES})
    memory.sampled = 2  # as in a model of many blocks: the norm of the second array is not measured
    before = memory.places["DE"]
    advance = learn(memory, 2, {"DE": vector([1.0] * 7 + [poison]), "FR": vector([1.0] * 8)})
    assert advance.refused == ("DE",)
    assert memory.places["DE"] is before


def test_what_exceeds_the_bound_is_mapped_from_files_without_a_name(tmp_path):
    updates = {place: vector([1.0] * 8) for place in PLACES}
    memory = taught(updates, most_bytes=16, folder=tmp_path)
    for number in (2, 3, 4):
        learn(memory, number, updates)
        held = [known.levels for known in memory.places.values()]
        assert sum(levels.nbytes for levels in held if not isinstance(levels, np.memmap)) <= 16
    assert any(isinstance(levels, np.memmap) for levels in held)
    np.testing.assert_allclose(remembered(memory, "DE"), 0.9375, atol=0.01)
    assert not list(tmp_path.iterdir())


def test_a_model_of_several_blocks_and_arrays_is_shifted_as_the_formula_says():
    sizes, random, share = (150_000, 70_000, 3), np.random.default_rng(3), 1 / len(PLACES)
    memory, sent = LocationMemory(sizes), [np.zeros(size, np.float32) for size in sizes]
    expected = dict.fromkeys(PLACES, np.zeros(sum(sizes)))
    for number in range(3):
        models = {place: [random.normal(size=size).astype(np.float32) for size in sizes] for place in PLACES}
        replies = {place: [(2.0, model)] for place, model in models.items() if place != "DE" or number != 2}
        advance = memory.advance(number, sent, replies, dict.fromkeys(PLACES, 1.0))
        if number < 2:
            expected = {place: (each + np.concatenate(models[place])) / 2 for place, each in expected.items()}
    missing = {place: share - (0 if place == "DE" else 1 / (len(PLACES) - 1)) for place in PLACES}
    shift = sum(part * expected[place] for place, part in missing.items())
    assert not advance.shift.was_cut
    np.testing.assert_allclose(np.concatenate(advance.shift.arrays), shift, atol=0.02)


def test_a_poisoned_first_round_does_not_set_the_measure():
    updates = {"DE": vector([1e30] * 8), "FR": vector([1.0] * 8), "GB": vector([1.0] * 8)}
    memory = LocationMemory(SIZES)
    assert learn(memory, 1, updates).refused == ("DE",)
    learn(memory, 2, {"FR": vector([1.0] * 8)})
    assert memory.usual_step < 10


def test_a_lasting_change_of_scale_is_learned_in_the_end():
    memory = taught({place: vector([1.0] * 8) for place in PLACES})
    large = vector([100.0] * 8)
    refused = [learn(memory, number, {"DE": large}).refused for number in range(2, 40)]
    assert refused[0] == ("DE",)
    assert refused[-1] == ()


def test_a_new_place_counts_once_it_is_seen():
    memory = taught({"DE": vector([1.0] * 8)})
    # FR has never trained: the shares of those seen add up to 1 without it.
    assert shift_of(memory, {"DE": 1.0}, {"DE": 1.0, "FR": 9.0}) is None
    memory = taught({"DE": vector([1.0] * 8)})
    shift = shift_of(memory, {"FR": 1.0}, {"DE": 1.0, "FR": 9.0})
    np.testing.assert_allclose(flat(shift.arrays), 0.5, rtol=0.01)


def test_a_memory_returns_from_its_arrays():
    memory = taught({"DE": vector(range(8))})
    other = LocationMemory(SIZES)
    other.restore("DE", memory.places["DE"].to_arrays())
    np.testing.assert_array_equal(remembered(other, "DE"), remembered(memory, "DE"))
    with pytest.raises(ValueError, match="another model"):
        LocationMemory((4, 4, 4)).restore("DE", memory.places["DE"].to_arrays())


@few
@given(updates=st.lists(numbers, min_size=3, max_size=3))
def test_memories_learned_from_means_alone_find_the_updates(updates):
    """Rounds of two places out of three, from which no single update is known."""
    by_place, memories = dict(zip(PLACES, updates, strict=True)), {}
    rounds = ({"DE": 0.5, "FR": 0.5}, {"FR": 0.7, "GB": 0.3}, {"DE": 0.2, "GB": 0.8})
    for _ in range(200):
        for shares in rounds:
            mean = [sum(share * by_place[place][k] for place, share in shares.items()) for k in (0, 1)]
            memories = learn_from_mean(memories, shares, mean)
    for place in PLACES:
        np.testing.assert_allclose(flat(memories[place]), flat(by_place[place]), atol=0.05)


def test_memories_of_long_steps_move_a_model_that_has_converged_no_further_than_its_own_step():
    memory, data = LocationMemory([2]), {"A": 1.0, "B": 1.0}
    memory.advance(1, [np.zeros(2)], {"A": [(1.0, [np.array([3.0, 0.0])])]}, data)
    later = memory.advance(2, [np.array([3.0, 0.0])], {"B": [(1.0, [np.array([3.0, 0.1])])]}, data)
    assert later.step == pytest.approx(0.1)
    assert later.shift.norm == pytest.approx(0.1)
    assert later.shift.was_cut
