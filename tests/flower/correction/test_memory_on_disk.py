"""Memory of the correction in checkpoints: a killed run ends as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAdam, FedAvg

from support.correction_runs import PLACES, make_grid, run, weights
from support.runs import RUN, events_of


class Killed(BaseException):
    """The end of a process."""


def killed_in(number):
    """Return a grid on which the process of a run ends while a round trains."""

    def work(node, current):
        if current == number:
            raise Killed

    return make_grid(on_train=work)


@pytest.mark.parametrize("number", [2, 5])
def test_a_killed_run_ends_with_the_same_weights(number, midnight):
    expected = run(FedAdam(), midnight, run_dir=Path("whole"))
    with pytest.raises(Killed):
        run(FedAdam(), midnight, killed_in(number))
    memories = list((RUN / "checkpoint").glob("memory-*.npz"))
    assert len(memories) == min(number - 1, len(PLACES))
    result = run(FedAdam(), midnight)
    assert weights(result) == weights(expected)
    ratios = [
        [event["ratio"] for event in events_of("round_corrected", folder)] for folder in (RUN, Path("whole"))
    ]
    assert ratios[0] == ratios[1]


def test_a_round_writes_the_memories_of_places_that_trained_and_no_others(midnight, monkeypatch):
    written = []
    replace = Path.replace

    def noting(self, target):
        written.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noting)
    run(FedAvg(), midnight, rounds=8)
    assert len([name for name in written if name.startswith("memory-")]) == 8  # one place a round


@pytest.mark.parametrize("keep", [False, True])
def test_the_memory_is_deleted_when_a_run_ends_unless_it_is_to_be_kept(keep, midnight):
    run(FedAvg(), midnight, keep_correction_memory=keep)
    assert len(list((RUN / "checkpoint").glob("memory-*.npz"))) == (len(PLACES) if keep else 0)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("auto", "off", "participation-correction was location before the restart, is off"),
        ("off", "location", "participation-correction was off before the restart, is location"),
        ("location", "node", "participation-correction was location before the restart, is node"),
    ],
)
def test_resumed_with_another_setting_it_says_so_and_goes_on(before, after, says, midnight):
    with pytest.raises(Killed):
        run(FedAvg(), midnight, killed_in(5), participation_correction=before)
    result = run(FedAvg(), midnight, participation_correction=after)
    assert np.isfinite(result.arrays.to_numpy_ndarrays()[0]).all()
    told = [event["why"] for event in events_of("degraded") if event["what"] == "correction"]
    assert told == [says]
    assert len(events_of("round_closed")) == 8


@pytest.mark.parametrize("damage", ["torn", "of another model", "gone"])
def test_a_damaged_memory_begins_anew(damage, midnight):
    with pytest.raises(Killed):
        run(FedAvg(), midnight, killed_in(6))
    file = sorted((RUN / "checkpoint").glob("memory-*.npz"))[0]
    if damage == "torn":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "gone":
        file.unlink()
    else:
        np.savez(file, levels=np.zeros(3, np.int8), scales=np.zeros(1, np.float32), number=np.array(1))
    run(FedAvg(), midnight)
    told = [event for event in events_of("degraded") if event["what"] == "correction"]
    assert len(told) == 1
    assert "memory of" in told[0]["why"]
    assert told[0]["consequence"] == "this memory starts empty"
    assert len(events_of("round_closed")) == 8
    assert [event["reason"] for event in events_of("round_corrected")] == [None] * 8


def test_memory_beyond_its_bound_is_mapped_and_changes_nothing(midnight):
    inside = run(FedAvg(), midnight, run_dir=Path("inside"))
    mapped = run(FedAvg(), midnight, run_dir=Path("mapped"), participation_correction_memory="10B")
    assert weights(inside) == weights(mapped)
