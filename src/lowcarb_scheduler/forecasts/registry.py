"""Opening the forecast sources that the settings name: each with its archive, all in their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.base import MAX_AGE, unknown_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.archive.database import Archive
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.settings import Settings

SOURCES: Final = (
    "carbon-aware-sdk",
    "electricity-maps",
    "synthetic",
    "traces",
    "uk-carbon-intensity",
    "watttime",
)


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
    sources: Sequence[ForecastSource], settings: Settings, clock: Clock | None = None
) -> ForecastSource | None:
    """Return sources as one, in their order: each with its archive, by its own names of places.

    Files are not kept, and made-up numbers neither.

    Raises
    ------
    InputError
        If the locations file cannot be read.
    """
    from lowcarb_scheduler.forecasts.archive.cached_source import CachedSource, WebSource
    from lowcarb_scheduler.forecasts.base import read_names
    from lowcarb_scheduler.forecasts.fallback import FallbackSource, name_of

    archive = open_archive(settings, clock)
    kept = [
        CachedSource(source, archive, clock) if archive and isinstance(source, WebSource) else source
        for source in sources
    ]
    known = {*SOURCES, *map(name_of, sources)}  # one's own may have names of places, too
    names = read_names(settings.locations, known) if settings.locations else {}
    if len(kept) > 1 or (kept and names):
        return FallbackSource(kept, names, settings.timeout, clock)
    return kept[0] if kept else None


def open_archive(settings: Settings, clock: Clock | None = None) -> Archive | None:
    """Return the archive of the settings, None if they want none."""
    from lowcarb_scheduler.forecasts.archive.database import Archive

    if settings.archive_dir == "none":
        return None
    return Archive(settings.archive_dir, settings.archive_days, clock)


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
    if name == "carbon-aware-sdk":
        from lowcarb_scheduler.forecasts.sources.carbon_aware_sdk import CarbonAwareSdk

        if not settings.carbon_aware_sdk_url:
            raise InputError(
                "carbon-aware-sdk-url", "is not set",
                "set LOWCARB_CARBON_AWARE_SDK_URL or give --carbon-aware-sdk-url",
            )  # fmt: skip
        return CarbonAwareSdk(
            settings.carbon_aware_sdk_url,
            auth=settings.sdk_auth,
            signal=settings.sdk_signal,
            timeout=settings.timeout,
        )
    if name == "uk-carbon-intensity":
        from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import UkCarbonIntensity

        return UkCarbonIntensity(settings.uk_carbon_intensity_url, timeout=settings.timeout)
    if name == "electricity-maps":
        from lowcarb_scheduler.forecasts.sources.electricity_maps import ElectricityMaps

        token, url = settings.electricity_maps_token, settings.electricity_maps_url
        return ElectricityMaps(token, url, timeout=settings.timeout)
    if name == "watttime":
        from lowcarb_scheduler.forecasts.sources.watttime import WattTime

        user, password = settings.watttime_user, settings.watttime_password
        return WattTime(user, password, settings.watttime_url, timeout=settings.timeout)
    if name == "traces":
        from lowcarb_scheduler.forecasts.sources.traces import Traces

        if settings.traces is None:
            raise InputError("traces", "is not set", "set LOWCARB_TRACES or give --traces, a CSV or Parquet")
        return Traces(settings.traces, actual=settings.traces_actual, max_age=MAX_AGE)
    if name == "synthetic":
        from lowcarb_scheduler.forecasts.sources.synthetic import Synthetic

        return Synthetic()
    raise unknown_name("source", name, SOURCES)
