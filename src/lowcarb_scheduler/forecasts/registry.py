"""Registry of forecast sources: opens those that the settings name, with their archive, as one."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import InputError, unknown_name
from lowcarb_scheduler.forecasts.base import ForecastSource, read_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.archive.database import Archive
    from lowcarb_scheduler.settings import Settings

# Class by name. Its module has the name of the source: opening one imports no other, and no httpx for files.
_CLASSES: Final = {
    "carbon-aware-sdk": "CarbonAwareSdk",
    "electricity-maps": "ElectricityMaps",
    "synthetic": "Synthetic",
    "traces": "Traces",
    "uk-carbon-intensity": "UkCarbonIntensity",
    "watttime": "WattTime",
}
SOURCES: Final = tuple(_CLASSES)
_ATTRIBUTIONS: Final = {
    "carbon-aware-sdk": "Carbon Aware SDK server; the terms are those of the data provider behind it",
    "electricity-maps": "Electricity Maps (electricitymaps.com), under the terms of your contract",
    "synthetic": "made up by lowcarb-scheduler; no provider has a right in it",
    "traces": "trace files of the user; the terms are those of their provider",
    "uk-carbon-intensity": "NESO Carbon Intensity API (carbonintensity.org.uk), CC BY 4.0 "
    "(creativecommons.org/licenses/by/4.0)",
    "watttime": "WattTime (watttime.org), under the terms of your subscription",
}


def open_sources(
    settings: Settings, clock: Clock | None = None, opener: Callable[[str, Settings], object] | None = None
) -> ForecastSource | None:
    """Open the sources that the setting ``source`` names, as one; None if it names none.

    Parameters
    ----------
    settings : Settings
        Settings of the sources and the archive, and the locations file with the sources' own names.
    clock : Clock, optional
        Clock of timeouts and of the age of archived data; the system's by default, in simulations too.
    opener : callable, optional
        Opens a source by its name, by default :func:`open_source`.

    Raises
    ------
    InputError
        If a name is unknown or given twice, or a setting that a source needs is missing.
    """
    opened = [(opener or open_source)(name, settings) for name in named_sources(settings)]
    return arranged(opened, settings, clock)


def named_sources(settings: Settings) -> tuple[str, ...]:
    """Return the names in the setting ``source``, in their order.

    Raises
    ------
    InputError
        If a name is given twice, or ``synthetic`` together with another source.
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
    """Return sources as one, in fallback order, each with its archive and its own names of locations.

    Only a source that declares ``issued_every`` is archived: files and made-up numbers are not.

    Raises
    ------
    InputError
        If an object is not a source, or the locations file cannot be read.
    """
    from lowcarb_scheduler.clock import SystemClock
    from lowcarb_scheduler.forecasts.archive.cached_source import CachedSource
    from lowcarb_scheduler.forecasts.fallback import FallbackSource
    from lowcarb_scheduler.forecasts.guard import GuardedSource

    clock = clock or SystemClock()
    archive = open_archive(settings, clock)
    opened = [
        CachedSource(source, archive, clock) if archive and source.issued_every is not None else source
        for source in map(GuardedSource, sources)
    ]
    known = {*SOURCES, *(source.name for source in opened)}  # a source given in code may have own names, too
    names = read_names(settings.locations, known) if settings.locations else {}
    if len(opened) > 1 or (opened and names):
        return FallbackSource(opened, names, settings.timeout, clock)
    return opened[0] if opened else None


def open_archive(settings: Settings, clock: Clock | None = None) -> Archive | None:
    """Open the archive of the settings; None if they switch it off."""
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
        Settings with its address, credentials or files.

    Raises
    ------
    InputError
        If the name is unknown, or a setting that the source needs is missing.
    """
    source: ForecastSource = source_class(name).from_settings(settings)
    return source


def attributions(provenance: str | None) -> list[str]:
    """Return provider and licence of intensity data, one for each source that is known.

    Parameters
    ----------
    provenance : str or None
        Name of the source as a table has it, several joined by ``+``.
    """
    names = (provenance or "").split("+")
    return [_ATTRIBUTIONS[name.strip()] for name in names if name.strip() in _ATTRIBUTIONS]


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
