"""The grid of moments at which rounds may open, and how much of it a round takes.

Rounds open on ``grid_from + k step``. In units of the step, a round that opens at slot s may be followed by
one at slot ``s + width`` or later, ``width = ceil(round / step)``; the last one only has to close by the
end of the grid, which need not lie on it. Time is int64 microseconds since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.clock import MICROSECOND, to_us
from lowcarb_scheduler.errors import InputError

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import IntensityTable, Ints
    from lowcarb_scheduler.planning.job import Job

_FINE_US: Final = (
    60_000_000  # a default step gets no finer than this, or than the forecast where that is finer
)
_DIVISORS_TRIED: Final = 100_000
_MOST_CHOICES: Final = 100_000_000  # rounds x openings that fit into memory


def start_step_us(job: Job, intensity: IntensityTable) -> int:
    """Return the spacing of possible openings [µs]: the job's own, or one that loses little.

    The forecast's step where the round is a multiple of it; every best plan can be moved onto that grid.
    Else the greatest common divisor of both, where the same holds. A round of 37.123 s on an hourly forecast
    would make that a millisecond, for nothing: below a minute it is the longest part of the round, in whole
    microseconds, that is no longer than the forecast's step. Rounds back-to-back stay on either grid.
    """
    if job.start_step is not None:
        return job.start_step // MICROSECOND
    step_us, round_us = intensity.step // MICROSECOND, job.round_us
    common_us = gcd(step_us, round_us)
    if common_us >= min(step_us, _FINE_US):
        return common_us
    first = ceil(round_us / step_us)
    parts = (part for part in range(first, first + _DIVISORS_TRIED) if round_us % part == 0)
    return round_us // next(parts, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Possible openings, from the first to the last that lets a round close in time.

    Parameters
    ----------
    opens_us : ndarray of int64, shape (T,)
        Possible openings, evenly spaced [µs since 1970 UTC].
    first_us : int
        The first moment on the grid at which a round may open, in time or not [µs since 1970 UTC].
    step_us : int
        Their spacing [µs].
    round_us : int
        Length of a round [µs].
    end_us : int
        When the last round is over at the latest [µs since 1970 UTC].
    """

    opens_us: Ints
    first_us: int
    step_us: int
    round_us: int
    end_us: int

    @classmethod
    def of(cls, job: Job, intensity: IntensityTable) -> Grid:
        """Return the grid of a job up to its deadline, or to where the forecast ends; it may have no slot.

        Raises
        ------
        InputError
            If the step is so short that no computer holds the openings.
        """
        step_us, origin_us, end_us = start_step_us(job, intensity), job.grid_from_us, to_us(job.finish_by)
        first = -((origin_us - job.opens_from_us) // step_us)  # ceil division
        last = (min(end_us - job.round_us, int(intensity.edges_us[-1])) - origin_us) // step_us
        if (last - first) * job.rounds > _MOST_CHOICES:
            problem = f"makes {last - first + 1} openings to choose from for {job.rounds} round(s)"
            raise InputError("start_step", problem, "give a longer one")
        slots = np.arange(first, max(first, last + 1), dtype=np.int64)
        return cls(origin_us + slots * step_us, origin_us + first * step_us, step_us, job.round_us, end_us)

    def until(self, end_us: int) -> Grid:
        """Return the part whose rounds close by ``end_us``, no later than this grid's end."""
        slots = np.searchsorted(self.opens_us, end_us - self.round_us, side="right")
        return Grid(self.opens_us[:slots], self.first_us, self.step_us, self.round_us, end_us)

    def __len__(self) -> int:
        return len(self.opens_us)

    @property
    def width(self) -> int:
        """Slots from one opening to the next one possible."""
        return -(-self.round_us // self.step_us)

    @property
    def most_rounds(self) -> int:
        """Rounds that fit one after another."""
        return -(-len(self) // self.width)
