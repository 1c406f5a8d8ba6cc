"""Opening the forecast source that the settings name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.source import MAX_AGE, unknown_name

if TYPE_CHECKING:
    from lowcarb_scheduler.forecasts.source import ForecastSource
    from lowcarb_scheduler.settings import Settings

SOURCES: Final = (
    "carbon-aware-sdk",
    "electricity-maps",
    "synthetic",
    "traces",
    "uk-carbon-intensity",
    "watttime",
)


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
        from lowcarb_scheduler.forecasts.carbon_aware_sdk import CarbonAwareSdk

        if not settings.sdk_url:
            raise InputError("sdk-url", "is not set", "set LOWCARB_SDK_URL or give --sdk-url")
        return CarbonAwareSdk(
            settings.sdk_url, auth=settings.sdk_auth, signal=settings.sdk_signal, timeout=settings.timeout
        )
    if name == "uk-carbon-intensity":
        from lowcarb_scheduler.forecasts.uk_carbon_intensity import UkCarbonIntensity

        return UkCarbonIntensity(settings.uk_url, timeout=settings.timeout)
    if name == "electricity-maps":
        from lowcarb_scheduler.forecasts.electricity_maps import ElectricityMaps

        token, url = settings.electricity_maps_token, settings.electricity_maps_url
        return ElectricityMaps(token, url, timeout=settings.timeout)
    if name == "watttime":
        from lowcarb_scheduler.forecasts.watttime import WattTime

        user, password = settings.watttime_user, settings.watttime_password
        return WattTime(user, password, settings.watttime_url, timeout=settings.timeout)
    if name == "traces":
        from lowcarb_scheduler.forecasts.traces import Traces

        if settings.traces is None:
            raise InputError("traces", "is not set", "set LOWCARB_TRACES or give --traces, a CSV or Parquet")
        return Traces(settings.traces, max_age=MAX_AGE)
    if name == "synthetic":
        from lowcarb_scheduler.forecasts.synthetic import Synthetic

        return Synthetic()
    raise unknown_name("source", name, SOURCES)
