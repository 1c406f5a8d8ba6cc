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
    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints
    from lowcarb_scheduler.planning.aggregation import Classes
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


# -- Windows: what a turn costs in a round that opens at slot s and has to be over by boundary t ------------
# A class (location, training time) that starts at grid point u emits, per kilowatt::
#
#     I[k, u] = integral of intensity over [u, u + duration]                    infinite where it meets a gap
#
# Without stagger a turn starts when its round opens and costs I[k, s]. With stagger it takes the cleanest
# start inside the round, min I[k, u] over s <= u <= last[k, t]; a round may stretch until the next one
# opens. Boundaries count grid points from the first slot; the last boundary is the end of the grid itself.


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Costs of windows on a grid, by class.

    Parameters
    ----------
    grid : Grid
        T slots.
    duration_us : ndarray of int64, shape (K,)
        Training time of each class [µs].
    integrals : ndarray of float64, shape (M + 1, K)
        I of the maths above [g h / kWh] for each grid point to the last boundary, M = T - 1 + width. A
        short turn may still start at the last one, where the end of the grid lies behind it.
    stagger : bool
        Whether a turn may start inside its round.
    """

    grid: Grid
    duration_us: Ints
    integrals: Floats
    stagger: bool

    @classmethod
    def of(
        cls, grid: Grid, classes: Classes, columns: Ints, intensity: IntensityTable, stagger: bool
    ) -> Windows:
        """Return the windows of a grid with at least one slot; ``columns`` are those of the classes."""
        points = np.arange(len(grid) + grid.width, dtype=np.int64)
        starts = (grid.opens_us[0] + points * grid.step_us)[:, None]
        integrals = intensity.integrate(starts, starts + classes.duration_us, columns)
        return cls(grid, classes.duration_us, np.where(np.isnan(integrals), np.inf, integrals), stagger)

    @property
    def last_boundary(self) -> int:
        """The boundary at the end of the grid, M."""
        return len(self.integrals) - 1

    def until(self, grid: Grid) -> Windows:
        """Return the windows of a shorter grid with the same first slot."""
        points = len(grid) + grid.width
        return Windows(grid, self.duration_us, self.integrals[:points], self.stagger)

    def last_starts(self, boundaries: Ints) -> Ints:
        """Return the last grid point from which each class is done by a boundary, shape of it + (K,)."""
        inside = np.asarray(boundaries)[..., None] - -(-self.duration_us // self.grid.step_us)
        at_end = (self.grid.end_us - self.duration_us - self.grid.opens_us[0]) // self.grid.step_us
        return np.where(np.asarray(boundaries)[..., None] == self.last_boundary, at_end, inside)

    def cheapest(self, slots: Ints, boundaries: Ints) -> Floats:
        """Return the cleanest integral of each class in rounds of one span each.

        Parameters
        ----------
        slots, boundaries : ndarray of int64, shape (J,)
            Where each round opens, and by when it is over.

        Returns
        -------
        ndarray of float64, shape (J, K)
            [g h / kWh], infinite where a class cannot train.
        """
        return self.cheapest_starts(slots, boundaries)[1]

    def cheapest_starts(self, slots: Ints, boundaries: Ints) -> tuple[Ints, Floats]:
        """Return the grid point of each class's cleanest start, the earliest of equals, and its integral."""
        start = np.repeat(slots[:, None], len(self.duration_us), axis=1)
        best = self.integrals[slots]
        if not self.stagger:
            return start, best
        last = np.minimum(self.last_starts(boundaries), self.last_boundary)
        best = best.copy()
        klass = np.arange(len(self.duration_us))
        for later in range(1, int((last - slots[:, None]).max(initial=0)) + 1):
            point = slots[:, None] + later
            inside = point <= last
            value = np.where(inside, self.integrals[np.minimum(point, self.last_boundary), klass], np.inf)
            better = value < best
            best = np.where(better, value, best)
            start = np.where(better, point, start)
        return start, best
