"""Time grid: moments at which rounds may open, and the cost of the windows between them.

Rounds open on ``grid_from + k step``. In units of the step, a round that opens at slot s may be followed by
one at slot ``s + width`` or later, ``width = ceil(round / step)``; the last one only has to close by the
end of the grid, which need not lie on a multiple of the step. Time is int64 microseconds since 1970 UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd
from typing import TYPE_CHECKING, Final

import numpy as np

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.intensity import SHORTEST_STEP_US

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints

_DIVISORS_TRIED: Final = 100_000
_MOST_CHOICES: Final = 100_000_000  # rounds x openings that fit into memory


def default_step_us(forecast_step_us: int, round_us: int) -> int:
    """Return a spacing of openings that loses little [µs].

    Where the round is a multiple of the forecast's step, every best plan can be moved onto a grid of that
    step; otherwise onto a grid of their greatest common divisor. A round of 37.123 s on an hourly forecast
    would make that a millisecond and gain nothing: below a minute, the step is the longest part of the round
    in whole microseconds that is no longer than the forecast's step. Back-to-back rounds stay on any of them.

    Parameters
    ----------
    forecast_step_us, round_us : int
        Step of the forecast, and length of a round [µs].
    """
    forecast_step_us = max(forecast_step_us, SHORTEST_STEP_US)
    common_us = gcd(forecast_step_us, round_us)
    if common_us >= SHORTEST_STEP_US:
        return common_us
    fewest = ceil(round_us / forecast_step_us)
    parts = (part for part in range(fewest, fewest + _DIVISORS_TRIED) if round_us % part == 0)
    return round_us // next(parts, 1)


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Possible openings, from the first to the last that lets a round close in time.

    Parameters
    ----------
    opens_us : ndarray of int64, shape (T,)
        Possible openings, evenly spaced [µs since 1970 UTC].
    first_us : int
        First opening on the grid, even where no round fits after it [µs since 1970 UTC].
    step_us : int
        Spacing of openings [µs].
    round_us : int
        Length of a round [µs].
    end_us : int
        Latest end of the last round [µs since 1970 UTC].
    """

    opens_us: Ints
    first_us: int
    step_us: int
    round_us: int
    end_us: int

    @classmethod
    def between(
        cls, opens_from_us: int, forecast_end_us: int, end_us: int, *,
        origin_us: int, step_us: int, round_us: int, rounds: int,
    ) -> Grid:  # fmt: skip
        """Build the grid between two times; it has no slot where no round fits.

        Parameters
        ----------
        opens_from_us : int
            Earliest opening, on the grid or not [µs since 1970 UTC].
        forecast_end_us, end_us : int
            End of the forecast, and deadline: a round closes by both [µs since 1970 UTC].
        origin_us : int
            A moment on the grid [µs since 1970 UTC].
        step_us, round_us : int
            Spacing of openings, and length of a round [µs].
        rounds : int
            Rounds to be placed.

        Raises
        ------
        InputError
            If the step is so short that the choices do not fit into memory.
        """
        first = -((origin_us - opens_from_us) // step_us)  # ceil division
        last = (min(end_us - round_us, forecast_end_us) - origin_us) // step_us
        if (last - first) * rounds > _MOST_CHOICES:
            problem = f"makes {last - first + 1} openings to choose from for {rounds} round(s)"
            raise InputError("start_step", problem, "give a longer one")
        slots = np.arange(first, max(first, last + 1), dtype=np.int64)
        return cls(origin_us + slots * step_us, origin_us + first * step_us, step_us, round_us, end_us)

    def until(self, end_us: int) -> Grid:
        """Return the part whose rounds close by ``end_us``, which is no later than the end of this grid."""
        slots = np.searchsorted(self.opens_us, end_us - self.round_us, side="right")
        return Grid(self.opens_us[:slots], self.first_us, self.step_us, self.round_us, end_us)

    def __len__(self) -> int:
        return len(self.opens_us)

    @property
    def width(self) -> int:
        """Slots from one opening to the next possible one."""
        return -(-self.round_us // self.step_us)

    @property
    def most_rounds(self) -> int:
        """Number of rounds that fit one after another."""
        return -(-len(self) // self.width)

    def is_tight(self, rounds: int) -> bool:
        """Return whether rounds can open in one way only: one after another, without slack."""
        return len(self) == (rounds - 1) * self.width + 1

    def nearest(self, opens_us: Ints) -> Ints:
        """Return the slots nearest to some openings at which rounds do not overlap, shape (R,).

        Parameters
        ----------
        opens_us : ndarray of int64, shape (R,)
            Openings in order, on this grid or not [µs since 1970 UTC].
        """
        order = np.arange(len(opens_us)) * self.width
        slots = (opens_us - self.opens_us[0]) // self.step_us
        slots = np.maximum.accumulate(np.maximum(slots, 0) - order)
        nearest: Ints = np.minimum(slots, len(self) - 1 - order[-1]) + order
        return nearest


# -- Windows ------------------------------------------------------------------------------------------------
# A class (location, training time) that starts at grid point u emits, per kilowatt::
#
#     I[k, u] = integral of intensity over [u, u + duration]               infinite where it touches a gap
#
# Without stagger a turn starts when its round opens and costs I[k, s]. With stagger it takes the cleanest
# start inside the round, min I[k, u] over s <= u <= last[k, t]; a round may stretch until the next one
# opens. Boundaries count grid points from the first slot; the last boundary is the end of the grid itself.


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Costs of training windows on a grid, by class.

    Parameters
    ----------
    grid : Grid
        T slots.
    duration_us : ndarray of int64, shape (K,)
        Training time of each class [µs].
    integrals : ndarray of float64, shape (M + 1, K)
        I of the formula above [g h / kWh] for each grid point to the last boundary, M = T - 1 + width. A
        short turn may still start at the last one where the end of the grid lies after it.
    stagger : bool
        Whether a turn may start after its round has opened.
    """

    grid: Grid
    duration_us: Ints
    integrals: Floats
    stagger: bool

    @classmethod
    def of(
        cls, grid: Grid, duration_us: Ints, columns: Ints, intensity: IntensityTable, stagger: bool
    ) -> Windows:
        """Integrate intensity over all windows of a grid that has a slot.

        Parameters
        ----------
        grid : Grid
            At least one slot.
        duration_us, columns : ndarray of int64, shape (K,)
            Training time [µs] and column of ``intensity`` of each class.
        intensity : IntensityTable
            Expected intensity [gCO2eq/kWh].
        stagger : bool
            As in the class.
        """
        points = np.arange(len(grid) + grid.width, dtype=np.int64)
        starts_us = (grid.opens_us[0] + points * grid.step_us)[:, None]
        integrals = intensity.integrate(starts_us, starts_us + duration_us, columns)
        return cls(grid, duration_us, np.where(np.isnan(integrals), np.inf, integrals), stagger)

    @property
    def last_boundary(self) -> int:
        """Boundary at the end of the grid, M."""
        return len(self.integrals) - 1

    def until(self, grid: Grid) -> Windows:
        """Return the windows of a shorter grid with the same first slot."""
        points = len(grid) + grid.width
        return Windows(grid, self.duration_us, self.integrals[:points], self.stagger)

    def _last_starts(self, boundaries: Ints) -> Ints:
        """Return the last grid point from which each class is done by a boundary, shape (J, K)."""
        boundaries = boundaries[:, None]
        inside = boundaries - -(-self.duration_us // self.grid.step_us)
        # The end of the grid need not lie on a grid point, so the last boundary is taken at its exact time.
        at_end = (self.grid.end_us - self.duration_us - self.grid.opens_us[0]) // self.grid.step_us
        return np.minimum(np.where(boundaries == self.last_boundary, at_end, inside), self.last_boundary)

    def cheapest(self, slots: Ints, boundaries: Ints) -> tuple[Ints, Floats]:
        """Return the cleanest start of each class in rounds of one span each.

        Parameters
        ----------
        slots, boundaries : ndarray of int64, shape (J,)
            Opening of each round, and the boundary by which it is over.

        Returns
        -------
        points : ndarray of int64, shape (J, K)
            Grid point of the cleanest start, the earliest of equals.
        integrals : ndarray of float64, shape (J, K)
            Its integral [g h / kWh], infinite where a class cannot train.
        """
        start = np.repeat(slots[:, None], len(self.duration_us), axis=1)
        best = self.integrals[slots]
        if not self.stagger:
            return start, best
        last = self._last_starts(boundaries)
        classes = np.arange(len(self.duration_us))
        for later in range(1, int((last - slots[:, None]).max(initial=0)) + 1):
            point = slots[:, None] + later
            value = self.integrals[np.minimum(point, self.last_boundary), classes]
            better = (point <= last) & (value < best)
            best = np.where(better, value, best)
            start = np.where(better, point, start)
        return start, best
