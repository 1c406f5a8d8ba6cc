"""The energy of a turn: measured only where counters say it, and only of a turn that was alone."""

from __future__ import annotations

import importlib
import logging
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import pytest

from lowcarb_scheduler.flower.energy import metered


class CPU:
    def __init__(self, mode):
        self._mode = mode


class GPU:
    """Its energy is always read from counters."""


class RAM:
    """Its energy is always computed."""


class AppleSiliconChip:
    """So is its energy read."""


@pytest.fixture
def codecarbon(monkeypatch, tmp_path):
    """Outcome in for codecarbon: what it would see can be set, and what it is told is kept."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stub = types.ModuleType("codecarbon")
    stub.hardware = [RAM(), CPU("intel_rapl")]
    stub.seen = {"energy_consumed": 0.010, "cpu_energy": 0.008, "gpu_energy": 0.0, "ram_energy": 0.002}
    stub.started, stub.running, stub.fails = [], 0, None

    class OfflineEmissionsTracker:
        def __init__(self, **told):
            stub.started.append(told)
            self._hardware = stub.hardware
            if stub.fails == "init":
                raise OSError("no /proc")

        def start(self):
            if stub.fails == "start":
                raise RuntimeError("no permission")
            stub.running += 1

        def stop(self):
            stub.running -= 1
            if stub.fails == "stop":
                raise RuntimeError("gone")
            self.final_emissions_data = types.SimpleNamespace(**stub.seen)

    stub.OfflineEmissionsTracker = OfflineEmissionsTracker
    monkeypatch.setitem(sys.modules, "codecarbon", stub)
    return stub


def turn():
    with metered() as reading:
        pass
    return reading.measured_kwh


def test_energy_from_counters_is_measured(codecarbon):
    assert turn() == 0.010
    assert codecarbon.running == 0


def test_nothing_is_sent_written_or_printed(codecarbon):
    """It could be told so in a file of the user's, which is why each is said."""
    turn()
    told = codecarbon.started[0]
    assert told["output_methods"] == []
    assert told["emissions_endpoint"] is False
    assert told["electricitymaps_api_token"] is False
    assert told["force_carbon_intensity_g_co2e_kwh"] == 0.0
    assert told["log_level"] == "critical"
    assert (told["tracking_mode"], told["pue"], told["allow_multiple_runs"]) == ("machine", 1.0, True)
    assert logging.getLogger("codecarbon").level == logging.CRITICAL


@pytest.mark.parametrize(
    ("hardware", "cpu_kwh", "gpu_kwh", "measured"),
    [
        ([RAM(), CPU("intel_rapl")], 0.008, 0.0, True),
        ([RAM(), CPU("windows_emi")], 0.008, 0.0, True),
        ([RAM(), AppleSiliconChip()], 0.008, 0.0, True),
        ([RAM(), CPU("cpu_load")], 0.008, 0.0, False),  # a model
        ([RAM(), CPU("constant")], 0.008, 0.0, False),
        ([RAM(), CPU("cpu_load"), GPU()], 0.002, 0.006, True),  # mostly read
        ([RAM(), CPU("cpu_load"), GPU()], 0.006, 0.002, False),  # mostly computed
        ([RAM(), CPU("intel_rapl"), GPU()], 0.001, 0.002, False),
        ([RAM()], 0.0, 0.0, False),
        ([], 0.0, 0.0, False),
    ],
)
def test_energy_is_measured_if_most_is_from_counters(codecarbon, hardware, cpu_kwh, gpu_kwh, measured):
    codecarbon.hardware = hardware
    codecarbon.seen |= {"cpu_energy": cpu_kwh, "gpu_energy": gpu_kwh}
    assert (turn() is not None) is measured
    assert codecarbon.running == 0


@pytest.mark.parametrize("kwh", [0.0, -1.0, float("nan"), None, "much"])
def test_an_invalid_reading_is_none(codecarbon, kwh):
    codecarbon.seen["energy_consumed"] = kwh
    assert turn() is None


@pytest.mark.parametrize("fails", ["init", "start", "stop"])
def test_no_fault_of_the_meter_stops_a_turn(codecarbon, fails):
    codecarbon.fails = fails
    assert turn() is None


def test_an_error_in_the_turn_passes_and_the_tracker_ends(codecarbon):
    with pytest.raises(ZeroDivisionError), metered():
        _ = 1 / 0
    assert codecarbon.running == 0
    assert turn() is not None  # and nothing is left behind


def test_without_codecarbon_nothing_is_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert turn() is None


def test_turns_that_share_a_machine_are_not_measured(codecarbon):
    with metered() as one:
        with metered() as other:
            assert codecarbon.running == 1  # one tracker a machine
        assert turn() is None
    assert (one.measured_kwh, other.measured_kwh) == (None, None)
    assert len(codecarbon.started) == 1
    assert turn() is not None  # alone again


def test_an_earlier_turn_that_ends_within_prevents_measurement(codecarbon):
    first = metered()
    first.__enter__()
    second = metered()
    reading = second.__enter__()
    first.__exit__(None, None, None)
    second.__exit__(None, None, None)
    assert reading.measured_kwh is None


OTHER = """
from lowcarb_scheduler.flower.energy import metered
with metered():
    print("in", flush=True)
    input()
"""


def test_turns_of_other_processes_count_while_they_live(codecarbon, tmp_path):
    pipe, around = subprocess.PIPE, {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", OTHER], stdin=pipe, stdout=pipe, env=around) as other:
        assert other.stdout.readline() == b"in\n"
        assert turn() is None
        other.kill()
        other.wait()
    assert turn() is not None


def test_a_link_in_the_place_of_the_lock_is_not_followed(codecarbon, tmp_path):
    turn()
    lock = next(tmp_path.glob("lowcarb-turns-*"))
    lock.unlink()
    victim = tmp_path / "victim"
    victim.write_text("dear", encoding="utf-8")
    lock.symlink_to(victim)
    assert turn() is None
    assert victim.read_text(encoding="utf-8") == "dear"


def test_a_folder_that_cannot_be_written_is_no_error(codecarbon, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert turn() is None


def test_the_real_codecarbon_is_silent_offline_and_leaves_no_file(monkeypatch, tmp_path, capfd):
    """The measured energy depends on the machine: many have no readable counters."""
    monkeypatch.delitem(sys.modules, "codecarbon")
    pytest.importorskip("codecarbon")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "locks"))
    (tmp_path / "locks").mkdir()
    told = "[codecarbon]\nsave_to_api = true\nemissions_endpoint = http://localhost:1/\npue = 9\n"
    Path(".codecarbon.config").write_text(told, encoding="utf-8")
    before = sorted(Path().iterdir())
    importlib.import_module("codecarbon")
    with metered() as reading:
        sum(range(2_000_000))
    assert reading.measured_kwh is None or 0 < reading.measured_kwh < 0.01
    assert sorted(Path().iterdir()) == before
    assert capfd.readouterr() == ("", "")
