"""Setup of a run: everything that its settings name, opened and checked before anything trains."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcarb_scheduler.accounting.earlier import NO_EARLIER_ROUNDS, JobKind, earlier_rounds
from lowcarb_scheduler.clock import SystemClock, VirtualClock, format_time, parse_time
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.checkpoint.resume import job_of, open_folder
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.flower.compat import PARTS, app_of, flower_version
from lowcarb_scheduler.flower.correction.applicability import announce, settle, settle_balance
from lowcarb_scheduler.flower.correction.average import OutputAverage
from lowcarb_scheduler.flower.correction.correction import ParticipationCorrection
from lowcarb_scheduler.flower.session import Session
from lowcarb_scheduler.flower.waiting import REGISTERING
from lowcarb_scheduler.forecasts.registry import arranged, open_sources
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.scheduling.durations import Durations
from lowcarb_scheduler.scheduling.locations import check_known, read_places
from lowcarb_scheduler.scheduling.notifier import Notifier
from lowcarb_scheduler.settings import SECRETS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flwr.app import ArrayRecord, Context
    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.flower.checkpoint.resume import Progress
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.scheduling.locations import Place


class Setup:
    """Setup of a run: its settings, and the source, the clock and the folder that they name.

    Parameters
    ----------
    context : Context or None
        Context of the ServerApp, with its run-config.
    source : ForecastSource, str or None
        Source of carbon intensity, or its name in the settings.
    clock : Clock, str or None
        Clock, or its name in the settings.
    keywords : mapping
        Other settings given in code.

    Raises
    ------
    InputError
        If a setting is unknown or impossible, or a source or the locations file cannot be opened.
    UnsupportedFlowerError
        If this release of Flower has changed a part that a run rests on.
    """

    def __init__(
        self, context: Context | None, source: ForecastSource | str | None, clock: Clock | str | None,
        keywords: Mapping[str, Any],
    ) -> None:  # fmt: skip
        named = {"source": source if isinstance(source, str) else None,
                 "clock": clock if isinstance(clock, str) else None}  # fmt: skip
        run_config = context.run_config if context else None
        settings = Settings.load(keywords={**keywords, **named}, run_config=run_config)
        if settings.enabled:
            PARTS.check()
        self.settings, self.run_id = settings, str(context.run_id) if context else "local"
        self._clock = None if isinstance(clock, str) else clock
        # Opened here, so that a bad setting fails before anything trains. A virtual clock is not handed on:
        # it runs away from the time that forecasts are dated by, and does not tell their age.
        real = None if isinstance(clock, VirtualClock) else self._clock
        given = None if isinstance(source, str) else source
        self.source = _open_source(settings, given, real) if settings.enabled else None
        self._places = _read_places(settings.locations) if settings.locations and settings.enabled else {}

    def check_clock(self, grid: Grid | None) -> None:
        """Refuse a virtual clock with real nodes.

        Raises
        ------
        InputError
            If the clock is virtual and the grid is not simulated.
        """
        virtual = isinstance(self._clock, VirtualClock) if self._clock else self.settings.clock != "system"
        if virtual and PARTS.is_real(grid):
            raise InputError("lowcarb-clock", "virtual is for simulation", "use system with real nodes")

    def begin(
        self, grid: Grid, strategy: str, rounds: int,
        kept: tuple[object, ArrayRecord | None] | None = None, reply_timeout: timedelta | None = None,
    ) -> Session:  # fmt: skip
        """Begin a run, or go on with one, and return its session.

        Parameters
        ----------
        grid : Grid
            The nodes.
        strategy : str
            Class name of the strategy.
        rounds : int
            Number of rounds.
        kept : (Strategy, ArrayRecord or None), optional
            The strategy and its initial arrays, where checkpoints are to be kept.
        reply_timeout : timedelta, optional
            Time for which a round waits for a reply that does not come.

        Raises
        ------
        InputError
            If a run cannot begin with these settings.
        """
        self.check_clock(grid)
        clock = self._clock or _open_clock(self.settings.clock)
        if isinstance(clock, VirtualClock) and self.settings.round_duration is None:
            fix = "a virtual clock must know how long a round is, for example 30m"
            raise InputError("lowcarb-round-duration", "is not given", fix)
        run_dir = self.settings.run_dir or _free_folder(f"{clock.now():%Y%m%dT%H%M%SZ}-{self.run_id}")
        finish_by, is_new = self.settings.finish_by, kept is None or not Checkpoint(run_dir).exists
        if is_new and isinstance(finish_by, datetime) and finish_by <= clock.now():
            problem = f"{format_time(finish_by)} is past"
            raise InputError("lowcarb-finish-by", problem, "give a later time, or 48h")
        if is_new and self.source is not None:
            file = str(self.settings.locations)
            check_known(self._places, self.source, file)
        progress: Progress | None = None
        # Before the first plan, whose rules depend on it; from here on the setting is never auto.
        correction = settle(self.settings, kept, has_source=self.source is not None)
        rules: dict[str, Any] = {"participation_correction": correction.mode}
        if kept is not None:
            rules["balance"] = settle_balance(self.settings, kept[0])
        settings = self.settings.model_copy(update=rules)
        if kept is None:
            ledger = Ledger(run_dir, clock)
        else:
            job = job_of(strategy, rounds, self.settings, kept[1])
            ledger, progress = open_folder(run_dir, clock, kept[0], job)
            most_bytes = settings.participation_correction_memory
            progress.correction = ParticipationCorrection(correction, kept[0], ledger, most_bytes)
            progress.average = OutputAverage.of(settings, rounds, ledger, has_source=self.source is not None)
        model_bytes = _model_bytes(kept[1]) if kept is not None else None
        earlier = NO_EARLIER_ROUNDS
        # On a virtual clock rounds take their planned time; a resumed run keeps what it has learned.
        learns = settings.learn_durations and is_new and not isinstance(clock, VirtualClock)
        if learns and model_bytes is not None:
            kind = JobKind(strategy, model_bytes, settings.round_duration)
            earlier = earlier_rounds(run_dir.absolute().parent, kind, before=run_dir)
        durations = Durations(settings.round_duration, earlier=earlier, reply_timeout=reply_timeout)
        about = {
            "run_id": self.run_id,
            "flwr_version": flower_version(),
            "strategy": strategy,
            "source": None if self.source is None else self.source.name,
            "app": app_of(grid),
        }
        # Nodes of a simulated grid may be connected from the start; real ones take a while.
        registering: timedelta = getattr(grid, "registering", REGISTERING)
        try:
            # Before anything is written: what a resumed run has told already is no news.
            notifier = Notifier.of(settings.notify_url, run_dir)
            session = Session(
                settings, self._places, self.source, clock, ledger, rounds, progress, registering, durations
            )
            session.begin(about, model_bytes)
            announce(correction, ledger)
            if notifier is not None:
                notifier.start()
                session.notifier = notifier
        except BaseException:
            ledger.close()  # or its folder would stay locked
            raise
        return session


def _model_bytes(arrays: ArrayRecord | None) -> int | None:
    """Return the size of a model [bytes]; None without initial arrays."""
    return None if arrays is None else sum(len(array.data) for array in arrays.values())


def _free_folder(name: str) -> Path:
    """Return a folder for a run that does not exist yet."""
    folder = Path("runs") / name
    number = 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def _read_places(path: Path) -> dict[str, Place]:
    """Return the locations file; an error names its setting where the file itself cannot be read."""
    try:
        return read_places(path)
    except InputError as error:
        raise _as_setting(error) from None


def _as_setting(error: InputError) -> InputError:
    """Return an error of a field of the settings by the name that the field has in the run-config."""
    if error.file or error.field.replace("-", "_") in SECRETS:
        return error
    fix = error.fix
    if error.problem == "is not set":
        variable = f"LOWCARB_{error.field.upper().replace('-', '_')}"
        fix = f"set lowcarb-{error.field} in the run-config, or {variable}"
    return InputError(f"lowcarb-{error.field}", error.problem, fix, error.file)


def _open_source(
    settings: Settings, given: ForecastSource | None, clock: Clock | None
) -> ForecastSource | None:
    """Return the given source, else those in the settings, with archive and location names."""
    try:
        return open_sources(settings, clock) if given is None else arranged([given], settings, clock)
    except InputError as error:
        raise _as_setting(error) from None


def _open_clock(name: str) -> Clock:
    """Return the clock of a setting: ``system``, ``virtual`` or ``virtual:TIME``."""
    if name == "system":
        return SystemClock()
    _, _, start = name.partition(":")
    return VirtualClock(parse_time(start, "clock") if start else SystemClock().now())
