"""What a run needs to begin: its settings, and the source, the clock and the folder they name."""

from __future__ import annotations

from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.superlink.grid import HttpGrid

from lowcarb_scheduler.clock import SystemClock, VirtualClock, format_time, parse_time
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.checkpoint import Checkpoint
from lowcarb_scheduler.flower.profiles import read_places
from lowcarb_scheduler.flower.resume import job_of, open_folder
from lowcarb_scheduler.flower.run import CarbonRun
from lowcarb_scheduler.forecasts.chain import name_of
from lowcarb_scheduler.forecasts.opening import arranged, open_sources
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.settings import SECRETS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import ArrayRecord, Context
    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.flower.progress import Progress
    from lowcarb_scheduler.flower.resume import Resumption
    from lowcarb_scheduler.forecasts.source import ForecastSource


class Setup:
    """What a run needs to begin.

    Parameters
    ----------
    settings : Settings
        What it was told.
    source : ForecastSource or None
        Where intensity comes from, if not from what the settings name.
    clock : Clock or None
        Tells the time, if not what the settings name.
    run_id : str
        Flower's name of the run.

    Raises
    ------
    InputError
        If a source or the locations file cannot be opened.
    """

    def __init__(
        self, settings: Settings, source: ForecastSource | None, clock: Clock | None, run_id: str
    ) -> None:
        self.settings, self.run_id = settings, run_id
        self._clock = clock
        # Opened here, so that a bad setting fails before anything trains.
        # A virtual clock runs away from the time that forecasts are dated by: it does not tell their age.
        real = None if isinstance(clock, VirtualClock) else clock
        self.source = _open_source(settings, source, real) if settings.enabled else source
        self._places = read_places(settings.locations) if settings.locations and settings.enabled else {}

    @classmethod
    def read(
        cls,
        context: Context | None,
        source: ForecastSource | str | None,
        clock: Clock | str | None,
        keywords: Mapping[str, Any],
    ) -> Setup:
        """Return the setup of what was given in code, in the run-config and in the environment.

        Raises
        ------
        InputError
            If a setting is unknown or impossible.
        """
        named = {"source": source if isinstance(source, str) else None,
                 "clock": clock if isinstance(clock, str) else None}  # fmt: skip
        run_config = context.run_config if context else None
        return cls(
            settings=Settings.load(keywords={**keywords, **named}, run_config=run_config),
            source=None if isinstance(source, str) else source,
            clock=None if isinstance(clock, str) else clock,
            run_id=str(context.run_id) if context else "local",
        )

    def check_clock(self, grid: Grid | None) -> None:
        """Refuse a clock that jumps where nodes are real.

        Raises
        ------
        InputError
            If that is so.
        """
        virtual = isinstance(self._clock, VirtualClock) if self._clock else self.settings.clock != "system"
        if virtual and isinstance(grid, HttpGrid):
            raise InputError("lowcarb-clock", "virtual is for simulation", "use system with real nodes")

    def begin(
        self, grid: Grid, strategy: str, rounds: int, kept: tuple[object, ArrayRecord | None] | None = None
    ) -> CarbonRun:
        """Return a run that begins now, or goes on.

        Parameters
        ----------
        grid : Grid
            Where its nodes are.
        strategy : str
            The name of its class.
        rounds : int
            How many there are to be.
        kept : (Strategy, ArrayRecord or None), optional
            The strategy and what it is started with, if checkpoints are to be kept.

        Raises
        ------
        InputError
            If it cannot begin with these settings.
        """
        self.check_clock(grid)
        clock = self._clock or _open_clock(self.settings.clock)
        if isinstance(clock, VirtualClock) and self.settings.round_duration is None:
            fix = "a virtual clock must know how long a round is, for example 30m"
            raise InputError("lowcarb-round-duration", "is not given", fix)
        run_dir = self.settings.run_dir or _free_folder(f"{clock.now():%Y%m%dT%H%M%SZ}-{self.run_id}")
        told, is_new = self.settings.finish_by, kept is None or not Checkpoint(run_dir).exists
        if is_new and isinstance(told, datetime) and told <= clock.now():
            raise InputError("lowcarb-finish-by", f"{format_time(told)} is past", "give a later time, or 48h")
        progress: Progress | None = None
        resumption: Resumption | None = None
        if kept is None:
            ledger = Ledger(run_dir, clock)
        else:
            job = job_of(strategy, rounds, self.settings, kept[1])
            ledger, progress, resumption = open_folder(run_dir, clock, kept[0], job)
        about = {
            "run_id": self.run_id,
            "flwr_version": version("flwr"),
            "strategy": strategy,
            "source": None if self.source is None else name_of(self.source),
        }
        try:
            return CarbonRun(
                self.settings, self._places, self.source, clock, ledger, about, rounds, progress, resumption
            )
        except BaseException:
            ledger.close()
            raise


def _free_folder(name: str) -> Path:
    """Return a folder for a run that is not there yet."""
    folder = Path("runs") / name
    number = 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def _open_source(
    settings: Settings, given: ForecastSource | None, clock: Clock | None
) -> ForecastSource | None:
    """Return the source that was given, else those that the settings name, with archive and names."""
    try:
        return open_sources(settings, clock) if given is None else arranged([given], settings, clock)
    except InputError as error:
        if error.file or error.field.replace("-", "_") in SECRETS:
            raise
        fix = error.fix
        if error.problem == "is not set":
            variable = f"LOWCARB_{error.field.upper().replace('-', '_')}"
            fix = f"set lowcarb-{error.field} in the run-config, or {variable}"
        raise InputError(f"lowcarb-{error.field}", error.problem, fix, error.file) from None


def _open_clock(name: str) -> Clock:
    """Return the clock of a setting: ``system``, ``virtual`` or ``virtual:TIME``."""
    if name == "system":
        return SystemClock()
    _, _, start = name.partition(":")
    return VirtualClock(parse_time(start, "clock") if start else SystemClock().now())
