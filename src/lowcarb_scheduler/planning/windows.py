"""Windows: what a turn costs in a round that opens at slot s and has to be over by boundary t.

A class (location, training time) that starts at grid point u emits, per kilowatt::

    I[k, u] = integral of intensity over [u, u + duration]                    infinite where it meets a gap

Without stagger a turn starts when its round opens and costs I[k, s]. With stagger it takes the cleanest start
inside the round, min I[k, u] over s <= u <= last[k, t]; a round may stretch until the next one opens.
Boundaries count grid points from the first slot; the last boundary is the end of the grid itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import Floats, IntensityTable, Ints
    from lowcarb_scheduler.planning.grid import Grid
    from lowcarb_scheduler.planning.groups import Classes


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
