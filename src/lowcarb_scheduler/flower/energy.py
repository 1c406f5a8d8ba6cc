"""Energy of a turn, as codecarbon sees it on the machine where it runs.

Only what is mostly read from counters of processor or GPU is called measured; where codecarbon finds none it
has a model of its own, which knows less than a node's configured power. It sees the whole machine, so a turn
that shares it with another one has no energy of its own. codecarbon is the extra ``energy``; without it, or
where it fails, nothing is measured.
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
except ImportError:  # not on POSIX: who else is there is not known, and nothing is measured
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator

_MOSTLY: Final = 0.5  # part of the energy that counters must have seen for all of it to be called measured
_PROCESSOR_COUNTERS: Final = ("intel_rapl", "intel_power_gadget", "windows_emi")  # codecarbon's names
_CHIPS_WITH_COUNTERS: Final = ("AppleSiliconChip", "Raspberry")


@dataclass(slots=True)
class Reading:
    """What was seen of a turn.

    Parameters
    ----------
    measured_kwh : float or None
        Its energy [kWh]; None where it was not measured, or shared the machine.
    """

    measured_kwh: float | None = None


@contextmanager
def metered() -> Iterator[Reading]:
    """Watch the energy of what runs inside; the reading is complete when the context has ended."""
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
    """That a turn is running on this machine: a lock on a file that all turns of a user share.

    Each turn adds a byte when it begins. Who is alone then empties the file before, and has been alone if
    it still holds that one byte in the end. A lock goes with its process, so the dead are not counted.
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
        except OSError:  # no such folder, no locks, or not ours: nothing is measured
            self.is_alone = False

    def _enter(self, file: int) -> None:
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
        """End it; return whether it was alone all the time."""
        if self._file is None:
            return False
        try:
            return self.is_alone and os.fstat(self._file).st_size == 1
        finally:
            os.close(self._file)
            self._file = None


def _start_tracker() -> Any | None:
    """Return a tracker that is running, silent, offline and without files; None if it could not measure."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        return None
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    try:
        # Each of these can also be set in a file of the user's, and some would then use the network.
        tracker = OfflineEmissionsTracker(
            tracking_mode="machine", allow_multiple_runs=True, log_level="critical", output_methods=[],
            emissions_endpoint=False, electricitymaps_api_token=False, pue=1.0,
            force_carbon_intensity_g_co2e_kwh=0.0,
        )  # fmt: skip
        tracker.start()
        if _counts_processor(tracker) or any(type(part).__name__ == "GPU" for part in _hardware(tracker)):
            return tracker
        tracker.stop()
    except Exception:  # noqa: BLE001  whatever it is, the training counts more
        return None
    return None


def _read(tracker: Any, reading: Reading) -> None:
    """Stop a tracker and take down what it has seen."""
    try:
        tracker.stop()
        seen = tracker.final_emissions_data
        energy_kwh = float(seen.energy_consumed)
        counted_kwh = float(seen.gpu_energy) + (float(seen.cpu_energy) if _counts_processor(tracker) else 0.0)
    except Exception:  # noqa: BLE001  see _start_tracker
        return
    if 0 < _MOSTLY * energy_kwh <= counted_kwh:
        reading.measured_kwh = energy_kwh


def _counts_processor(tracker: Any) -> bool:
    """Return whether the processor's energy is read from counters, not computed from its load."""
    return any(
        type(part).__name__ in _CHIPS_WITH_COUNTERS or getattr(part, "_mode", None) in _PROCESSOR_COUNTERS
        for part in _hardware(tracker)
    )


def _hardware(tracker: Any) -> list[Any]:
    return list(tracker._hardware)  # noqa: SLF001  it has no public name for how it measures
