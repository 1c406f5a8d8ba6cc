"""Makes any Flower app wait for clean electricity.

Names are imported when first used: ``import lowcarb_scheduler`` loads neither scipy, pandas nor flwr.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lowcarb_scheduler._version import __version__

if TYPE_CHECKING:
    from lowcarb_scheduler.clock import SystemClock, VirtualClock
    from lowcarb_scheduler.errors import (
        ForecastUnavailableError,
        InputError,
        LowcarbError,
        PlanInfeasibleError,
    )
    from lowcarb_scheduler.flower.client import CarbonClientApp, carbon_mod
    from lowcarb_scheduler.flower.legacy import carbon_aware_legacy
    from lowcarb_scheduler.flower.strategy import CarbonAwareFedAvg, CarbonAwareMixin, carbon_aware
    from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource
    from lowcarb_scheduler.forecasts.bias_correction import correct_forecast
    from lowcarb_scheduler.forecasts.sources.carbon_aware_sdk import CarbonAwareSdk
    from lowcarb_scheduler.forecasts.sources.electricity_maps import ElectricityMaps
    from lowcarb_scheduler.forecasts.sources.synthetic import Synthetic
    from lowcarb_scheduler.forecasts.sources.traces import Traces
    from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import UkCarbonIntensity
    from lowcarb_scheduler.forecasts.sources.watttime import WattTime
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.fleet import Fleet
    from lowcarb_scheduler.planning.job import Job, Plan
    from lowcarb_scheduler.planning.pareto import Frontier, tradeoff
    from lowcarb_scheduler.planning.planner import plan
    from lowcarb_scheduler.scheduling.policy import replan

_HOME = {
    "CarbonAwareFedAvg": "flower.strategy",
    "CarbonAwareMixin": "flower.strategy",
    "CarbonAwareSdk": "forecasts.sources.carbon_aware_sdk",
    "CarbonClientApp": "flower.client",
    "ElectricityMaps": "forecasts.sources.electricity_maps",
    "Fleet": "planning.fleet",
    "Forecast": "forecasts.base",
    "ForecastSource": "forecasts.base",
    "ForecastUnavailableError": "errors",
    "Frontier": "planning.pareto",
    "InputError": "errors",
    "IntensityTable": "intensity",
    "Job": "planning.job",
    "LowcarbError": "errors",
    "Plan": "planning.job",
    "PlanInfeasibleError": "errors",
    "Synthetic": "forecasts.sources.synthetic",
    "SystemClock": "clock",
    "Traces": "forecasts.sources.traces",
    "UkCarbonIntensity": "forecasts.sources.uk_carbon_intensity",
    "VirtualClock": "clock",
    "WattTime": "forecasts.sources.watttime",
    "carbon_aware": "flower.strategy",
    "carbon_aware_legacy": "flower.legacy",
    "carbon_mod": "flower.client",
    "correct_forecast": "forecasts.bias_correction",
    "plan": "planning.planner",
    "replan": "scheduling.policy",
    "tradeoff": "planning.pareto",
}

__all__ = [
    "CarbonAwareFedAvg",
    "CarbonAwareMixin",
    "CarbonAwareSdk",
    "CarbonClientApp",
    "ElectricityMaps",
    "Fleet",
    "Forecast",
    "ForecastSource",
    "ForecastUnavailableError",
    "Frontier",
    "InputError",
    "IntensityTable",
    "Job",
    "LowcarbError",
    "Plan",
    "PlanInfeasibleError",
    "Synthetic",
    "SystemClock",
    "Traces",
    "UkCarbonIntensity",
    "VirtualClock",
    "WattTime",
    "__version__",
    "carbon_aware",
    "carbon_aware_legacy",
    "carbon_mod",
    "correct_forecast",
    "plan",
    "replan",
    "tradeoff",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
