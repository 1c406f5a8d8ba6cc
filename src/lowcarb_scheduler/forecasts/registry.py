"""Opening the forecast sources that the settings name: each with its archive, all in their order."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.base import adapt, read_names, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.archive.database import Archive
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.settings import Settings

# Class by name. Its module is named like the source, so that opening one imports no other.
_CLASSES: Final = {
    "carbon-aware-sdk": "CarbonAwareSdk",
    "electricity-maps": "ElectricityMaps",
    "synthetic": "Synthetic",
    "traces": "Traces",
    "uk-carbon-intensity": "UkCarbonIntensity",
    "watttime": "WattTime",
}
SOURCES: Final = tuple(_CLASSES)


def open_sources(settings: Settings, clock: Clock | None = None) -> ForecastSource | None:
    """Open what ``source`` names: one source, or several in order; None if it names none.

    Parameters
    ----------
    settings : Settings
        What the sources need, the archive, and the locations file with their names of places.
    clock : Clock, optional
        Counts timeouts and the age of what is kept; the system's by default, in simulations too.

    Raises
    ------
    InputError
        If there is no such source, one is named twice, or what one needs was not given.
    """
    return arranged([open_source(name, settings) for name in named_sources(settings)], settings, clock)


def named_sources(settings: Settings) -> tuple[str, ...]:
    """Return the names in ``source``, in their order.

    Raises
    ------
    InputError
        If one stands twice, or made-up numbers stand beside real ones.
    """
    if settings.source is None:
        return ()
    names = [name.strip() for name in settings.source.split(",")]
    if not all(names):
        problem = "has no name beside a comma" if "," in settings.source else "names no source"
        fix = f"write for example {SOURCES[0]},{SOURCES[-1]}"
        raise InputError("source", f"{settings.source!r:.80} {problem}", fix)
    for name in names:
        if names.count(name) > 1:
            raise InputError("source", f"{name!r} stands twice", "name each source once")
    if "synthetic" in names and len(names) > 1:
        raise InputError("source", "made-up numbers are never mixed with real ones", "name synthetic alone")
    return tuple(names)


def arranged(
    sources: Sequence[object], settings: Settings, clock: Clock | None = None
) -> ForecastSource | None:
    """Return sources as one, in their order: each with its archive, by its own names of places.

    Files are not kept, and made-up numbers neither.

    Raises
    ------
    InputError
        If the locations file cannot be read.
    """
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.forecasts.archive.cached_source import CachedSource
    from lowcarb_scheduler.forecasts.fallback import FallbackSource

    clock = clock or SystemClock()
    archive, adapted = open_archive(settings, clock), [adapt(source) for source in sources]
    kept = [
        CachedSource(source, archive, clock) if archive and source.issued_every is not None else source
        for source in adapted
    ]
    known = {*SOURCES, *(source.name for source in adapted)}  # one's own may have names of places, too
    names = read_names(settings.locations, known) if settings.locations else {}
    if len(kept) > 1 or (kept and names):
        return FallbackSource(kept, names, settings.timeout, clock)
    return kept[0] if kept else None


def open_archive(settings: Settings, clock: Clock | None = None) -> Archive | None:
    """Return the archive of the settings, None if they want none."""
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.forecasts.archive.database import Archive

    if settings.archive_dir == "none":
        return None
    return Archive(settings.archive_dir, settings.archive_days, clock or SystemClock())


def open_source(name: str, settings: Settings) -> ForecastSource:
    """Open a source by its name.

    Parameters
    ----------
    name : str
        One of ``SOURCES``.
    settings : Settings
        What it needs: addresses, credentials, files.

    Raises
    ------
    InputError
        If there is no such source, or what it needs was not given.
    """
    source: ForecastSource = source_class(name).from_settings(settings)
    return source


def source_class(name: str) -> Any:
    """Return the class of a source, which declares its settings and has ``from_settings``.

    Raises
    ------
    InputError
        If no source has this name.
    """
    if name not in _CLASSES:
        raise unknown_name("source", name, SOURCES)
    module = import_module(f"lowcarb_scheduler.forecasts.sources.{name.replace('-', '_')}")
    return getattr(module, _CLASSES[name])
