"""Runtime of the commands: the clock, the terminal, forecast sources and Flower's simulation, as one value.

:func:`~lowcarb_scheduler.cli.main` puts it into the context of every command. Each part is imported when a
command uses it, so help and completion stay fast.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.clock import Clock, SystemClock

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    from rich.console import Console

    from lowcarb_scheduler.demo.federation import Federation
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.settings import Settings


def _open_source(name: str, settings: Settings) -> ForecastSource:
    from lowcarb_scheduler.forecasts import registry

    return registry.open_source(name, settings)


def _open_page(address: str) -> bool:
    import webbrowser

    return webbrowser.open(address)


def _federation(home: Path, nodes: int) -> AbstractContextManager[Federation]:
    from lowcarb_scheduler.demo.federation import federation

    return federation(home, nodes)


@dataclass(frozen=True, slots=True)
class Runtime:
    """World outside of the commands; by default that of this machine.

    Parameters
    ----------
    clock : Clock
        Present time, and the wait between two refreshes.
    console : callable (stderr=False)
        Opens a console on stdout or stderr, see :func:`~lowcarb_scheduler.cli.output.console`.
    open_source : callable (name, settings)
        Opens a forecast source, see :func:`~lowcarb_scheduler.forecasts.registry.open_source`.
    open_page : callable (address)
        Opens a page in the browser; returns whether there is one.
    federation : callable (home, nodes)
        Runs a SuperLink for the demo, see :func:`~lowcarb_scheduler.demo.federation.federation`.
    """

    clock: Clock = field(default_factory=SystemClock)
    console: Callable[..., Console] = output.console
    open_source: Callable[[str, Settings], ForecastSource] = _open_source
    open_page: Callable[[str], bool] = _open_page
    federation: Callable[[Path, int], AbstractContextManager[Federation]] = _federation
