"""Carbon intensity as a step function of time, by location: the one integrator of the project.

Between two edges the intensity of a location is constant. Its integral is therefore piecewise linear, and
one cumulative sum gives the integral over any window of any location in two look-ups::

    F_l(t) = C[k, l] + v[k, l] (t - e[k])       with k the step that holds t
    integral over [s, t] = F_l(t) - F_l(s)      [g h / kWh]

A missing value is a gap. A window that touches a gap, or that reaches outside the table, has no integral.

:class:`Provenance` names the origin of the values, :class:`IntensityTable` holds and integrates them,
:func:`sanitize` removes implausible values before a run waits for them, and :func:`neutral_table` stands in
for locations without data.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

import numpy as np

from lowcarb_scheduler.clock import HOUR_US, from_us, parse_time, to_us
from lowcarb_scheduler.errors import InputError, unknown_name
from lowcarb_scheduler.packing import pack, unpack

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

MAX_G_PER_KWH: Final = 3_000.0  # no grid emits more; such a number has a wrong unit
_MOST_STEPS: Final = 50_000  # a month of minutes
_MOST_LISTED: Final = 240  # values that a ledger lists one by one: what is short may be read by eye
SHORTEST_STEP_US: Final = HOUR_US // 60  # no grid is metered so finely
_SECOND_US: Final = HOUR_US // 3600

Signal = Literal["average", "marginal", "unknown"]
SIGNALS: Final = get_args(Signal)


@dataclass(frozen=True, slots=True)
class Provenance:
    """Origin and meaning of intensity values.

    Parameters
    ----------
    source : str or None
        Name of the data source, several joined by ``+``; None if no intensity is known.
    signal : {"average", "marginal", "unknown"}
        Quantity that the provider measures. Signals are not comparable and never mixed.
    synthetic : bool
        Whether the values are made up.

    Raises
    ------
    InputError
        If there is no such signal.
    """

    source: str | None = ""
    signal: Signal = "unknown"
    synthetic: bool = False

    def __post_init__(self) -> None:
        if self.signal not in SIGNALS:
            raise unknown_name("signal", self.signal, SIGNALS)

    def to_dict(self) -> dict[str, object]:
        """Return the three fields, as JSON documents and ledger records carry them."""
        return {"source": self.source, "signal": self.signal, "synthetic": self.synthetic}


@dataclass(frozen=True, slots=True, eq=False)
class IntensityTable:
    """Carbon intensity by time and location [gCO2eq/kWh].

    Build one with :meth:`from_frame` or :meth:`from_points`.

    Parameters
    ----------
    edges_us : ndarray of int64, shape (T + 1,)
        Begins of the steps, strictly increasing, and the end of the last one [µs since 1970 UTC].
    locations : tuple of str, length L
        Names of the columns, distinct.
    values : ndarray of float64, shape (T, L)
        Intensity in each step [gCO2eq/kWh]; NaN is a gap. Negative values are numbers here.
    provenance : Provenance
        Source and signal of the values, and whether they are synthetic.
    """

    edges_us: Ints
    locations: tuple[str, ...]
    values: Floats
    provenance: Provenance = Provenance()
    _integral: Floats = field(init=False, repr=False)  # (T + 1, L) [g h / kWh], gaps counted as zero
    _gaps: Ints = field(init=False, repr=False)  # (T + 1, L) number of gaps before each edge

    def __post_init__(self) -> None:
        edges = np.ascontiguousarray(self.edges_us, dtype=np.int64)
        values = np.ascontiguousarray(self.values, dtype=np.float64)
        if values.shape != (len(edges) - 1, len(self.locations)):
            problem = f"shape {values.shape} does not fit the edges and locations"
            raise InputError("values", problem, "give (T, L)")
        if len(edges) < 2 or (np.diff(edges) <= 0).any():
            raise InputError("time", "is empty or not increasing", "give each time once, in order")
        if len(set(self.locations)) != len(self.locations):
            raise InputError("location", "has a duplicate name", "give each location one column")
        if np.isinf(values).any():
            raise InputError("g_per_kwh", "holds an infinite value", "give a finite number, or NaN for a gap")
        gaps = np.isnan(values)
        # Both sums begin with zeros: the difference of two rows is the sum between two edges.
        hours = np.diff(edges)[:, None] / HOUR_US
        integral = np.zeros((len(edges), len(self.locations)))
        np.cumsum(np.where(gaps, 0.0, values) * hours, axis=0, out=integral[1:])
        gap_count = np.zeros(integral.shape, dtype=np.int64)
        np.cumsum(gaps, axis=0, out=gap_count[1:])
        for name, array in (("edges_us", edges), ("values", values), ("_integral", integral),
                            ("_gaps", gap_count)):  # fmt: skip
            array.setflags(write=False)  # tables share arrays; a change in one would falsify the integrals
            object.__setattr__(self, name, array)

    # -- Construction

    @classmethod
    def from_frame(
        cls, df: pd.DataFrame, signal: Signal = "unknown", source: str = "", synthetic: bool = False
    ) -> IntensityTable:
        """Build a table from a frame.

        Parameters
        ----------
        df : pandas.DataFrame, shape (T, L)
            Index: aware times, the beginning of each step. One column a location [gCO2eq/kWh], NaN a gap.
            A value holds until the next row, the last one for the median step (an hour if it is alone).
        signal, source, synthetic
            As in :class:`Provenance`.

        Raises
        ------
        InputError
            If the index has naive or duplicate times, or a value is infinite or not a number.
        """
        import pandas as pd

        if not isinstance(df.index, pd.DatetimeIndex) or df.index.tz is None:
            raise InputError("time", "the index has no UTC offset", "use a timezone-aware DatetimeIndex")
        if df.empty:
            raise InputError("time", "the frame is empty", "give at least one row and one location")
        if df.index.has_duplicates or df.index.hasnans:
            raise InputError("time", "a time is missing or appears twice", "give each time one row")
        df = df.sort_index()
        try:
            values = df.to_numpy(dtype=np.float64, na_value=np.nan)
        except (ValueError, TypeError):
            raise InputError("g_per_kwh", "a value is not a number", "give numbers, NaN for a gap") from None
        times = pd.DatetimeIndex(df.index).as_unit("us").asi8  # pandas may count in other units than µs
        locations = tuple(str(name) for name in df.columns)
        return cls(_close(times), locations, values, Provenance(source, signal, synthetic))

    @classmethod
    def from_points(
        cls,
        points: Mapping[str, tuple[ArrayLike, ArrayLike]],
        provenance: Provenance = Provenance(),
        ends: Mapping[str, int] | None = None,
    ) -> IntensityTable:
        """Build a table from points of which each location has its own times.

        Parameters
        ----------
        points : mapping of str to (times_us, values)
            By location: times [µs since 1970 UTC], distinct, in any order, and intensities [gCO2eq/kWh],
            NaN where a gap begins. A value holds until the location's next point.
        provenance : Provenance
            As in the class.
        ends : mapping of str to int, optional
            End of a location's last value [µs since 1970 UTC]; by default after its median step.
        """
        if not points:
            raise InputError("location", "no location has a value", "give at least one")
        series = {}
        for location, (times, values) in points.items():
            times_us, values_g = np.asarray(times, np.int64), np.asarray(values, np.float64)
            order = np.argsort(times_us, kind="stable")
            edges = _close(times_us[order], (ends or {}).get(location))
            series[location] = edges, values_g[order]
        # The common grid has the edges of all locations, so that no value is averaged.
        edges = np.unique(np.concatenate([own for own, _ in series.values()]))
        table = np.full((len(edges) - 1, len(series)), np.nan)
        for column, (own, values_g) in enumerate(series.values()):
            step = np.searchsorted(own, edges[:-1], side="right") - 1
            inside = (step >= 0) & (step < len(values_g))
            table[inside, column] = values_g[step[inside]]
        return cls(edges, tuple(series), table, provenance)

    # -- Attributes

    @property
    def source(self) -> str:
        """Name of the data source."""
        return self.provenance.source or ""

    @property
    def signal(self) -> Signal:
        """Quantity that the provider measures."""
        return self.provenance.signal

    @property
    def synthetic(self) -> bool:
        """True if the values are made up."""
        return self.provenance.synthetic

    @property
    def start(self) -> datetime:
        """Begin of the first step."""
        return from_us(self.edges_us[0])

    @property
    def end(self) -> datetime:
        """End of the last step."""
        return from_us(self.edges_us[-1])

    @property
    def step(self) -> timedelta:
        """Median length of a step."""
        return timedelta(microseconds=int(np.median(np.diff(self.edges_us))))

    # -- Integration

    def columns(self, locations: Sequence[str]) -> Ints:
        """Return the column of each location, -1 where there is none."""
        index = {name: column for column, name in enumerate(self.locations)}
        return np.array([index.get(name, -1) for name in locations], dtype=np.int64)

    def integrate(self, starts_us: ArrayLike, ends_us: ArrayLike, columns: ArrayLike | None = None) -> Floats:
        """Integrate intensity over windows [g h / kWh]; the product with a power [kW] is a mass [g].

        Parameters
        ----------
        starts_us, ends_us : array_like of int, shape S
            Windows [µs since 1970 UTC]; broadcast against each other.
        columns : array_like of int, shape S, optional
            The column of each window; by default every window is integrated in every column.

        Returns
        -------
        ndarray of float64, shape S if ``columns`` is given, else S + (L,)
            NaN where a window touches a gap or reaches outside the table.
        """
        starts, ends = np.broadcast_arrays(np.asarray(starts_us, np.int64), np.asarray(ends_us, np.int64))
        if columns is None:
            starts, ends = starts[..., None], ends[..., None]
            column: Ints = np.arange(len(self.locations), dtype=np.int64)
        else:
            column = np.asarray(columns, np.int64)
        last = len(self.edges_us) - 2
        # A window that begins at an edge is in the step after it, one that ends there in the step before.
        first_step = np.searchsorted(self.edges_us, starts, side="right") - 1
        last_step = np.searchsorted(self.edges_us, ends, side="left") - 1
        inside = (first_step >= 0) & (last_step <= last) & (starts <= ends) & (column >= 0)
        first_step, last_step = np.clip(first_step, 0, last), np.clip(last_step, 0, last)
        at_end = self._antiderivative(ends, last_step, column)
        total = at_end - self._antiderivative(starts, first_step, column)
        # The difference is negative for an empty window at an edge, whose integral is 0.
        touched = self._gaps[last_step + 1, column] - self._gaps[first_step, column]
        return np.where(inside & (touched <= 0), total, np.nan)

    def _antiderivative(self, at_us: Ints, step: Ints, column: Ints) -> Floats:
        """Return F (see the module) at instants that lie in ``step``."""
        slope = np.nan_to_num(self.values[step, column])
        result: Floats = self._integral[step, column] + slope * ((at_us - self.edges_us[step]) / HOUR_US)
        return result

    # -- Derived tables: none of them changes the provenance

    def slice(self, start: datetime, end: datetime) -> IntensityTable | None:
        """Return the part between two times, cutting the steps they fall into; None if nothing is left."""
        low, high = max(to_us(start), int(self.edges_us[0])), min(to_us(end), int(self.edges_us[-1]))
        if low >= high:
            return None
        first = int(np.searchsorted(self.edges_us, low, side="right")) - 1
        last = int(np.searchsorted(self.edges_us, high, side="left"))
        edges = np.concatenate([[low], self.edges_us[first + 1 : last], [high]])
        return self.relaid(edges, self.locations, self.values[first:last])

    def align(self, locations: Sequence[str]) -> IntensityTable:
        """Return the table with exactly these columns, in this order; an unknown location has gaps only."""
        return self.relaid(self.edges_us, tuple(locations), self.sampled(self.edges_us, locations))

    def fill(self, other: IntensityTable, *, holes_only: bool = False) -> IntensityTable:
        """Return the table with its gaps filled from another, over the time and locations of both.

        Parameters
        ----------
        other : IntensityTable
            Table of the same signal.
        holes_only : bool (default: False)
            Whether the values of a location, if it has any, are left as short as they are: what the other
            table has before their begin and after their end is not used.

        Raises
        ------
        InputError
            If the signals differ: average and marginal intensity are never mixed.
        """
        if self.signal != other.signal:
            fix = "use one signal in a run"
            raise InputError("signal", f"{self.signal} does not mix with {other.signal}", fix)
        locations = tuple(dict.fromkeys(self.locations + other.locations))  # in order, each once
        edges = np.union1d(self.edges_us, other.edges_us)
        own, others = self.sampled(edges, locations), other.sampled(edges, locations)
        known = ~np.isnan(own)
        fillable = ~known
        if holes_only:
            fillable &= between_known(known) | ~known.any(axis=0)
        return self.relaid(edges, locations, np.where(fillable, others, own))

    def changes_from(
        self, known: IntensityTable | None, *, holes_only: bool = False
    ) -> IntensityTable | None:
        """Return the part that another table lacks or has other values for; None if there is none.

        Parameters
        ----------
        known : IntensityTable or None
            The other table, of the same signal.
        holes_only : bool (default: False)
            Whether other values of it count as known.
        """
        edges_us, values = self.edges_us, self.values
        if known is not None:
            # On the union of edges a step is either known or not, so none is half replaced.
            inside = (known.edges_us > edges_us[0]) & (known.edges_us < edges_us[-1])
            edges_us = np.union1d(edges_us, known.edges_us[inside])
            values, others = self.sampled(edges_us), known.sampled(edges_us, self.locations)
            is_known = ~np.isnan(others) if holes_only else values == others
            values = np.where(is_known, np.nan, values)
        is_news = np.isfinite(values)
        steps = np.flatnonzero(is_news.any(axis=1))
        if not len(steps):
            return None
        news = self.relaid(edges_us, self.locations, values)
        news = news.align(
            [place for place, column in zip(self.locations, is_news.T, strict=True) if column.any()]
        )
        return news.slice(from_us(edges_us[steps[0]]), from_us(edges_us[steps[-1] + 1]))

    def over(self, older: IntensityTable | None) -> IntensityTable:
        """Return the table with its gaps filled from an older one, unless that has another signal."""
        return self if older is None or older.signal != self.signal else self.fill(older)

    def sampled(self, edges_us: Ints, locations: Sequence[str] | None = None) -> Floats:
        """Return the values at the beginning of other steps [gCO2eq/kWh], NaN outside the table.

        Parameters
        ----------
        edges_us : ndarray of int64, shape (S + 1,)
            Edges of the steps. Steps coarser than the table's lose values, because none is averaged.
        locations : sequence of str, optional
            Columns of the result; by default the table's own.

        Returns
        -------
        ndarray of float64, shape (S, number of locations)
        """
        # Unknown locations have column -1 and steps outside index -1 or T: both are masked at the end.
        columns = self.columns(self.locations if locations is None else locations)
        if not self.locations or not len(columns):
            return np.full((len(edges_us) - 1, len(columns)), np.nan)
        step = np.searchsorted(self.edges_us, edges_us[:-1], side="right") - 1
        known = (step >= 0) & (step < len(self.values))
        values = self.values[np.clip(step, 0, len(self.values) - 1)][:, columns]
        return np.where(known[:, None] & (columns >= 0), values, np.nan)

    # -- Conversion

    def to_frame(self) -> pd.DataFrame:
        """Return a frame in the form that :meth:`from_frame` reads."""
        import pandas as pd

        index = pd.DatetimeIndex(pd.to_datetime(self.edges_us[:-1], unit="us", utc=True), name="time")
        return pd.DataFrame(self.values, index=index, columns=list(self.locations))

    def to_record(self) -> dict[str, object]:
        """Return the table as a ledger stores it: provenance, edges, and one list of values a location.

        Of a large table of even steps the values are stored together, as a text that :mod:`.packing` reads.
        """
        steps_us, labels = np.diff(self.edges_us), self.provenance.to_dict()
        is_large = self.values.size > _MOST_LISTED and (steps_us == steps_us[0]).all()
        if is_large and (text := pack(self.values)) is not None:
            step_s = int(steps_us[0]) / _SECOND_US
            return {**labels, "from": self.start, "step_s": step_s, "steps": len(steps_us),
                    "locations": self.locations, "packed": text}  # fmt: skip
        return {
            **labels,
            "edges": [from_us(edge) for edge in self.edges_us],
            "g_per_kwh": {name: self.values[:, k] for k, name in enumerate(self.locations)},
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> IntensityTable:
        """Build a table from a record of a ledger.

        Raises
        ------
        InputError
            If the record is not that of a table.
        """
        try:
            provenance = Provenance(record["source"], record["signal"], record["synthetic"])
            if "packed" in record:
                steps, locations = int(record["steps"]), tuple(record["locations"])
                values = unpack(record["packed"], steps, len(locations))
                step_us = round(record["step_s"] * _SECOND_US)
                edges = to_us(parse_time(record["from"], "from")) + step_us * np.arange(steps + 1)
                return cls(edges, locations, values, provenance)
            edges = np.array([to_us(parse_time(edge, "edges")) for edge in record["edges"]], dtype=np.int64)
            # null in JSON is None here, which float64 turns into NaN.
            columns = [np.array(column, dtype=np.float64) for column in record["g_per_kwh"].values()]
            values = np.stack(columns, axis=1)
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError("g_per_kwh", "is not an intensity record", "restore the ledger") from None
        return cls(edges, tuple(record["g_per_kwh"]), values, provenance)

    def to_points(self) -> dict[str, list[dict[str, object]]]:
        """Return ``{location: [{"time", "g_per_kwh"}]}``, one point a step; None begins a gap.

        A location that ends before the table does has a gap as its last point.
        """
        points: dict[str, list[dict[str, object]]] = {}
        for column, location in enumerate(self.locations):
            values = self.values[:, column]
            known = ~np.isnan(values)
            keep = known | np.concatenate([[False], known[:-1]])  # of a gap only the first step
            points[location] = [
                {"time": from_us(self.edges_us[k]), "g_per_kwh": float(values[k]) if known[k] else None}
                for k in np.flatnonzero(keep)
            ]
        return points

    def relaid(self, edges_us: Ints, locations: tuple[str, ...], values: Floats) -> IntensityTable:
        """Return a table with other steps, locations and values of the same provenance."""
        return IntensityTable(edges_us, locations, values, self.provenance)


def sanitize(table: IntensityTable) -> IntensityTable:
    """Return a table with gaps in place of implausible values, in its own steps unless there are very many.

    No run waits for a value that no grid can have. Of very many steps that are shorter than a minute the mean
    of each minute stands in: no grid is metered so finely, and a ledger with every second helps nobody.
    """
    values = np.where((table.values >= 0) & (table.values <= MAX_G_PER_KWH), table.values, np.nan)
    plausible = table.relaid(table.edges_us, table.locations, values)
    if len(values) <= _MOST_STEPS or np.median(np.diff(table.edges_us)) >= SHORTEST_STEP_US:
        return plausible
    first_us, last_us = table.edges_us[[0, -1]]
    minutes = np.arange(first_us // SHORTEST_STEP_US + 1, -(-last_us // SHORTEST_STEP_US), dtype=np.int64)
    edges = np.concatenate([[first_us], minutes * SHORTEST_STEP_US, [last_us]])
    hours = np.diff(edges)[:, None] / HOUR_US
    return table.relaid(edges, table.locations, plausible.integrate(edges[:-1], edges[1:]) / hours)


def three_digits(table: IntensityTable) -> IntensityTable:
    """Return a forecast to three digits of each location's mean, at most two decimals [gCO2eq/kWh].

    No forecast is that good, and a run asks for hundreds of them: without its last digits a forecast takes a
    third of the bytes in a ledger.
    """
    known = ~np.isnan(table.values)
    means = np.where(known, np.abs(table.values), 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    scale = 10.0 ** np.select([means >= 100, means >= 10], [0, 1], 2)
    return table.relaid(table.edges_us, table.locations, np.rint(table.values * scale) / scale)


def between_known(known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the steps between the first and the last known one of their column, these included."""
    after_first = np.logical_or.accumulate(known, axis=0)
    before_last = np.logical_or.accumulate(known[::-1], axis=0)[::-1]
    return after_first & before_last


def neutral_table(
    known: IntensityTable | None, locations: Sequence[str], start: datetime, end: datetime
) -> IntensityTable:
    """Return a constant intensity for locations without data, which favours no location and no time.

    It is the mean of the known values, so that such a location is neither preferred nor avoided, and 1 if
    nothing is known at all.
    """
    # Any constant gives the same plan; the mean keeps the planned emissions realistic.
    finite = np.zeros(0) if known is None else known.values[np.isfinite(known.values)]
    values = np.full((1, len(locations)), finite.mean() if finite.size else 1.0)
    provenance = known.provenance if known else Provenance("none")
    edges = np.array([to_us(start), to_us(end)], dtype=np.int64)
    return IntensityTable(edges, tuple(locations), values, provenance)


def _close(times_us: Ints, end_us: int | None = None) -> Ints:
    """Append the end of the last step to sorted times; by default that of a median step."""
    if end_us is None:
        end_us = int(times_us[-1]) + median_step_us(times_us)
    return np.append(times_us, np.int64(end_us))


def median_step_us(times_us: Sequence[int] | Ints) -> int:
    """Return the median distance of sorted times [µs]; an hour if there is one time only."""
    # A lone point has no neighbour that shows its step.
    return int(np.median(np.diff(times_us))) if len(times_us) > 1 else HOUR_US
