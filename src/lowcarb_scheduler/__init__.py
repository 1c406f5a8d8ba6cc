"""Makes any Flower app wait for clean electricity.

Names are imported when first used: ``import lowcarb_scheduler`` loads neither scipy, pandas nor flwr.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lowcarb_scheduler._version import __version__

if TYPE_CHECKING:
    from lowcarb_scheduler.intensity import IntensityTable
    from lowcarb_scheduler.planning.job import Fleet, Job, Plan

_HOME = {
    "Fleet": "planning.job",
    "IntensityTable": "intensity",
    "Job": "planning.job",
    "Plan": "planning.job",
}

__all__ = ["Fleet", "IntensityTable", "Job", "Plan", "__version__"]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
