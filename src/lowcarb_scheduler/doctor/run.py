"""Run of all checks in order: local ones first, those that wait for servers last."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowcarb_scheduler.doctor import sources
from lowcarb_scheduler.doctor.checks import (
    Check,
    check_archive,
    check_extras,
    check_packages,
    check_python,
    check_run_dir,
    check_settings,
)
from lowcarb_scheduler.doctor.sources import SourceProbe, ask
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts import registry
from lowcarb_scheduler.forecasts.base import read_names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.settings import Settings


def examine(
    options: Mapping[str, Any],
    locations: Sequence[str],
    clock: Clock,
    open_source: Callable[[str, Settings], ForecastSource],
) -> Iterator[Check]:
    """Yield each check as soon as it is done; a fault does not end the checks.

    Parameters
    ----------
    options : mapping
        Options of the command line by field name; None is not given.
    locations : sequence of str
        Locations to look up in addition to those of the settings.
    clock : Clock
        Present time.
    open_source : callable (name, settings)
        Opens a source, see :func:`~lowcarb_scheduler.forecasts.registry.open_source`.

    Raises
    ------
    InputError
        If an option is invalid.
    """
    settings, found = check_settings(options)
    yield check_python()
    yield from check_packages()
    yield from check_extras(settings)
    yield from found
    if settings is None:
        yield Check("source", "warning", "not checked: the settings cannot be read")
        return
    yield check_run_dir(settings)
    yield check_archive(settings, clock)
    yield from _check_sources(settings, locations, clock, open_source)


def _check_sources(
    settings: Settings,
    locations: Sequence[str],
    clock: Clock,
    open_source: Callable[[str, Settings], ForecastSource],
) -> Iterator[Check]:
    yield from sources.check_finish_by(settings, clock.now())
    if not settings.source:
        fix = f"set LOWCARB_SOURCE to one of: {', '.join(registry.SOURCES)}"
        yield Check("source", "warning", "not set: rounds start immediately and never wait", fix)
        return
    places, faults = sources.places_of(settings, locations)
    yield from faults
    # Names of locations that a source uses instead of those of the nodes.
    called: Mapping[str, Mapping[str, str]] = {}
    if settings.locations is not None and not faults:
        try:
            called = read_names(settings.locations, registry.SOURCES)
        except InputError as error:
            yield sources.unreadable_locations(error)
    try:
        names = registry.named_sources(settings)
    except InputError as error:
        yield Check("source", "fault", error.problem, error.fix)
        return
    probes = []
    for name in names:
        try:
            source = open_source(name, settings)
        except InputError as error:
            yield Check(f"source {name}", "fault", f"{error.field}: {error.problem}", error.fix)
            continue
        own = called.get(name, {})
        probes.append(SourceProbe(name, source, {place: own.get(place, place) for place in places}))
    # All servers are asked at once: the checks below only read the answers.
    ask(probes, clock)
    for probe in probes:
        yield sources.check_source(probe, settings.timeout)
        yield from sources.check_credentials(probe, settings)
        yield from sources.check_clock(probe)
        yield from sources.check_forecast(probe, settings, clock.now())
    yield from sources.check_signals(probes)
    if probes:
        yield from sources.check_locations(probes, places)
