"""Measurement of the energy of a turn with codecarbon, the extra ``energy``.

An energy is called measured if most of it was read from counters of processor or GPU; where codecarbon finds
no counters, its model knows less than the configured power of the node. codecarbon sees the whole machine, so
that turns which share a machine have no measured energy. Where it is missing or fails, nothing is measured.
"""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

try:
    import fcntl
except ImportError:  # not on POSIX: other turns on the machine cannot be seen, and nothing is measured
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

_MIN_COUNTED: Final = 0.5  # fraction of the energy that has to come from counters
_PROCESSOR_COUNTERS: Final = ("intel_rapl", "intel_power_gadget", "windows_emi")  # codecarbon's names
_CHIPS_WITH_COUNTERS: Final = ("AppleSiliconChip", "Raspberry")


@dataclass(slots=True)
class Reading:
    """Reading of one turn.

    Parameters
    ----------
    measured_kwh : float or None
        Energy [kWh]; None where it was not measured, or the turn shared the machine.
    """

    measured_kwh: float | None = None


@contextmanager
def metered() -> Iterator[Reading]:
    """Measure the energy of the code inside; the reading is complete when the context has ended."""
    reading = Reading()
    presence = _Presence()
    tracker = _start_tracker() if presence.is_alone else None
    try:
        yield reading
    finally:
        if tracker is not None:
            _read(tracker, reading)
        if not presence.leave():
            reading.measured_kwh = None


class _Presence:
    """Presence of a turn on this machine: a shared lock on a file that all turns of a user open.

    Each turn adds a byte when it begins. A turn that is alone then empties the file before, and was alone all
    the time if the file still holds one byte in the end. The system releases the lock of a process that dies.
    """

    def __init__(self) -> None:
        self.is_alone = False
        self._file: int | None = None
        if fcntl is None:
            return
        path = Path(tempfile.gettempdir()) / f"lowcarb-turns-{os.getuid()}"
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
            self._enter(self._file)
        except OSError:  # no such folder, no locks, or a file of another user: nothing is measured
            self.is_alone = False

    def _enter(self, file: int) -> None:
        # The folder is open to all users: anybody may have put something else under this name.
        about = os.fstat(file)
        if about.st_uid != os.getuid() or not stat.S_ISREG(about.st_mode):
            return
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            self.is_alone = True
        fcntl.flock(file, fcntl.LOCK_SH)
        os.write(file, b".")

    def leave(self) -> bool:
        """End the presence, and return whether the turn was alone all the time."""
        if self._file is None:
            return False
        try:
            return self.is_alone and os.fstat(self._file).st_size == 1
        finally:
            os.close(self._file)
            self._file = None


def _start_tracker() -> Any | None:
    """Return a running tracker, silent, offline and without files; None if it could not measure."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        return None
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    try:
        # A codecarbon file of the user could set any of these that is left out, and some use the network.
        tracker = OfflineEmissionsTracker(
            tracking_mode="machine", allow_multiple_runs=True, log_level="critical", output_methods=[],
            emissions_endpoint=False, electricitymaps_api_token=False, pue=1.0,
            force_carbon_intensity_g_co2e_kwh=0.0,
        )  # fmt: skip
        tracker.start()
        if _counts_processor(tracker) or any(type(part).__name__ == "GPU" for part in _hardware(tracker)):
            return tracker
        tracker.stop()
    except Exception:  # noqa: BLE001  no fault of codecarbon stops training
        return None
    return None


def _read(tracker: Any, reading: Reading) -> None:
    """Stop a tracker and store its energy in the reading."""
    try:
        tracker.stop()
        seen = tracker.final_emissions_data
        energy_kwh = float(seen.energy_consumed)
        counted_kwh = float(seen.gpu_energy) + (float(seen.cpu_energy) if _counts_processor(tracker) else 0.0)
    except Exception:  # noqa: BLE001  see _start_tracker
        return
    if 0 < _MIN_COUNTED * energy_kwh <= counted_kwh:
        reading.measured_kwh = energy_kwh


def _counts_processor(tracker: Any) -> bool:
    """Return whether the energy of the processor is read from counters, not computed from its load."""
    return any(
        type(part).__name__ in _CHIPS_WITH_COUNTERS or getattr(part, "_mode", None) in _PROCESSOR_COUNTERS
        for part in _hardware(tracker)
    )


def _hardware(tracker: Any) -> list[Any]:
    return list(tracker._hardware)  # noqa: SLF001  it has no public name for how it measures
