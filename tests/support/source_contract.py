"""Contract tests of forecast sources: copy this file to run them on a source of your own with pytest.

Subclass :class:`ForecastSourceContract`, name the class ``Test...``, and implement ``make_source``. The file
needs nothing but the installed package.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.errors import ForecastUnavailableError, LowcarbError
from lowcarb_scheduler.forecasts.base import MAX_AHEAD, ForecastSource, adapt
from lowcarb_scheduler.intensity import SIGNALS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import Forecast
    from lowcarb_scheduler.intensity import IntensityTable

_HOUR = timedelta(hours=1)
_THREADS = 8


class ForecastSourceContract:
    """Invariants that a run relies on, one test each.

    Attributes
    ----------
    now : datetime
        Time at which the source has a forecast.
    locations : tuple of str
        Names with a forecast and a recorded past; two or more show most.
    unknown_location : str or None
        Name that the source does not know; None if it knows any name.
    past : timedelta (default: 4 h)
        Length of the period before ``now`` with recorded intensity.
    """

    now: ClassVar[datetime] = datetime(2026, 3, 2, 12, 30, tzinfo=UTC)
    locations: ClassVar[tuple[str, ...]] = ("DE", "FR")
    unknown_location: ClassVar[str | None] = "no-such-place"
    past: ClassVar[timedelta] = 4 * _HOUR

    def make_source(self) -> object:
        """Return a new source; it need not derive from :class:`ForecastSource`."""
        raise NotImplementedError

    def make_hanging_source(self) -> tuple[object, Clock] | None:
        """Return a source whose server does not answer, and its clock; None where there is no server."""
        return None

    # -- Forecasts ---

    def test_a_forecast_covers_the_locations_asked_for_and_reaches_past_now(self) -> None:
        forecast = self._forecast(*self.locations)
        assert forecast.intensity.locations == self.locations, "one column a location, in the order asked for"
        assert not forecast.missing
        assert forecast.intensity.end > self.now
        assert np.isfinite(forecast.intensity.values).any(axis=0).all()

    def test_times_are_aware_and_in_utc(self) -> None:
        forecast = self._forecast(*self.locations)
        times = [forecast.generated_at, *forecast.issued.values()]
        assert all(time.utcoffset() == timedelta(0) for time in times)

    def test_a_forecast_is_not_issued_after_now(self) -> None:
        forecast = self._forecast(*self.locations)
        latest = max(forecast.issued_at(location) for location in self.locations)
        assert latest <= self.now + MAX_AHEAD, f"issued at {format_time(latest)}"

    def test_only_the_locations_asked_for_are_returned(self) -> None:
        location = self.locations[-1]
        assert self._forecast(location).intensity.locations == (location,)
        assert self._actual(location).locations == (location,)

    def test_a_repeated_location_is_one_column(self) -> None:
        location = self.locations[0]
        assert self._forecast(location, location).intensity.locations == (location,)

    def test_an_equal_question_has_an_equal_answer(self) -> None:
        source = self._source()
        first, second = (source.forecast(self.locations, self.now) for _ in range(2))
        _assert_equal([first.intensity, second.intensity])
        assert first.generated_at == second.generated_at
        begin = self.now - self.past
        _assert_equal([source.actual(self.locations, begin, self.now) for _ in range(2)])

    def test_threads_may_share_a_source(self) -> None:
        source = self._source()
        with ThreadPoolExecutor(_THREADS) as threads:
            calls = [threads.submit(source.forecast, self.locations, self.now) for _ in range(_THREADS)]
        _assert_equal([call.result().intensity for call in calls])

    # -- Recorded intensity ---

    def test_recorded_intensity_lies_inside_the_period(self) -> None:
        begin = self.now - self.past
        table = self._actual(*self.locations)
        assert set(table.locations) <= set(self.locations)
        assert begin <= table.start < table.end <= self.now, "no look into the future, nor before the period"

    # -- Labels ---

    def test_the_provenance_is_constant(self) -> None:
        source = self._source()
        forecast = source.forecast(self.locations, self.now).intensity
        actual = source.actual(self.locations, self.now - self.past, self.now)
        assert forecast.provenance == actual.provenance
        assert forecast.signal in SIGNALS
        assert source.signal in (None, forecast.signal), "the signal that the source declares"
        assert forecast.source

    def test_declarations_have_their_types(self) -> None:
        source = self._source()
        assert source.name
        assert source.issued_every is None or source.issued_every > timedelta(0)
        assert source.locations is None or set(self.locations) <= set(source.locations)
        listed = source.known_locations(timeout=_HOUR)
        assert listed is None or all(isinstance(name, str) for name in listed)

    def test_past_forecasts_are_in_the_period_oldest_first(self) -> None:
        begin = self.now - self.past
        try:
            issues = self._source().past_forecasts(self.locations, begin, self.now, _HOUR, timeout=_HOUR)
        except ForecastUnavailableError:
            return  # none could be read, and an error says so
        made = [issue.generated_at for issue in issues]
        assert made == sorted(made)
        assert all(begin <= time < self.now for time in made)

    # -- Errors and time limits ---

    def test_an_unknown_location_is_named_with_a_reason(self) -> None:
        if self.unknown_location is None:
            return
        reasons: Mapping[str, str]
        try:
            reasons = self._forecast(*self.locations, self.unknown_location).missing
        except LowcarbError as error:  # a source may refuse the whole call
            reasons = {self.unknown_location: str(error)}
        assert set(reasons) == {self.unknown_location}
        _assert_lines(reasons.values())
        assert self.unknown_location in str(_error_of(lambda: self._forecast(self.unknown_location or "")))

    def test_no_location_is_an_error(self) -> None:
        _error_of(self._forecast)

    def test_a_time_without_offset_is_an_error(self) -> None:
        naive = self.now.replace(tzinfo=None)
        _error_of(lambda: self._source().forecast(self.locations, naive))
        _error_of(lambda: self._source().actual(self.locations, naive - self.past, naive))

    def test_a_time_limit_is_kept(self) -> None:
        hanging = self.make_hanging_source()
        if hanging is None:
            return
        source, clock = adapt(hanging[0]), hanging[1]
        limit, begin = timedelta(seconds=3), self.now - self.past
        for call in (
            lambda: source.forecast(self.locations, self.now, timeout=limit),
            lambda: source.actual(self.locations, begin, self.now, timeout=limit),
        ):
            called_at = clock.now()
            _assert_lines(str(_error_of(call)).splitlines())
            assert clock.now() - called_at <= limit

    def _source(self) -> ForecastSource:
        return adapt(self.make_source())

    def _forecast(self, *locations: str) -> Forecast:
        return self._source().forecast(locations, self.now)

    def _actual(self, *locations: str) -> IntensityTable:
        return self._source().actual(locations, self.now - self.past, self.now)


def _error_of(call: Callable[[], object]) -> LowcarbError:
    """Return the error of a call, which has to be one of this package."""
    try:
        call()
    except LowcarbError as error:
        return error
    raise AssertionError("no LowcarbError was raised")


def _assert_equal(tables: Iterable[IntensityTable]) -> None:
    first, *others = tables
    for other in others:
        assert other.locations == first.locations
        np.testing.assert_array_equal(other.edges_us, first.edges_us)
        np.testing.assert_array_equal(other.values, first.values)


def _assert_lines(reasons: Iterable[str]) -> None:
    assert all(reason and reason.isprintable() for reason in reasons)
