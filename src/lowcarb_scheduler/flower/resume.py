"""Whether a folder holds a run to go on with: what is checked before, and what is refused with one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import VirtualClock, parse_time
from lowcarb_scheduler.documents import to_plain
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.flower.checkpoint import Checkpoint
from lowcarb_scheduler.flower.encoding import decode
from lowcarb_scheduler.flower.progress import Progress
from lowcarb_scheduler.flower.strategy_state import StrategyState
from lowcarb_scheduler.ledger import FILE_NAME, Ledger, iter_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime
    from pathlib import Path

    from flwr.app import ArrayRecord

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.settings import Settings

_ANOTHER: Final = "give another run-dir, or leave it out"
_OF_THE_JOB: Final = ("clients_per_round", "finish_by", "max_location_share", "mix_rounds", "participation",
                      "patience", "round_duration", "stagger")  # fmt: skip


def job_of(
    strategy: str, rounds: int, settings: Settings, initial_arrays: ArrayRecord | None
) -> dict[str, Any]:
    """Return what tells one job from another, JSON-ready."""
    given = settings.model_dump(mode="json", include=set(_OF_THE_JOB))
    shapes = {name: [each.dtype, list(each.shape)] for name, each in (initial_arrays or {}).items()}
    job = {name.replace("_", "-"): given[name] for name in _OF_THE_JOB}
    plain: dict[str, Any] = to_plain({"strategy": strategy, "rounds": rounds, **job, "arrays": shapes})
    return plain


@dataclass(frozen=True, slots=True)
class Resumption:
    """A run to go on with.

    Parameters
    ----------
    run_dir : Path
        Its folder.
    checkpoint : Checkpoint
        What is kept of it.
    state : mapping
        What that says.
    has_ledger : bool
        Whether its ledger was begun.
    """

    run_dir: Path
    checkpoint: Checkpoint
    state: Mapping[str, Any]
    has_ledger: bool

    @classmethod
    def find(cls, run_dir: Path, checkpoint: Checkpoint, job: Mapping[str, Any]) -> Resumption | None:
        """Return what to go on with, None where a run can begin.

        Raises
        ------
        InputError
            If the run has completed, or is of another job, or cannot go on.
        """
        ledger = run_dir / FILE_NAME
        if not checkpoint.exists:
            return None
        state = checkpoint.read()
        if ledger.exists() and any(
            event["event"] == "run_finished" and event["status"] == "completed"
            for event in iter_ledger(run_dir)
        ):
            raise InputError("run-dir", f"{run_dir} holds the ledger of a run that has completed", _ANOTHER)
        try:
            cls._check(state, job, str(checkpoint.path))
            return cls(run_dir, checkpoint, state, _begun(run_dir, state))
        except (AttributeError, KeyError, TypeError, ValueError):
            raise _unknown(checkpoint) from None

    @staticmethod
    def _check(state: Mapping[str, Any], job: Mapping[str, Any], file: str) -> None:
        """Refuse another job, and one that cannot go on."""
        for name, value in job.items():
            if (was := state["job"][name]) != value:
                told = "has other shapes" if name == "arrays" else f"was {was!r}, is {one_line(repr(value))}"
                fix = f"start it as it was started, or {_ANOTHER}"
                raise InputError("checkpoint", f"is of another job: {name} {told}", fix, file)
        if missing := state["missing"]:
            problem = f"is not whole: {', '.join(missing)} of the strategy could not be kept"
            fix = f"give it state_dict() and load_state_dict(), and {_ANOTHER}"
            raise InputError("checkpoint", one_line(problem), fix, file)

    @property
    def started_at(self) -> datetime:
        """When the run began."""
        return parse_time(self.state["started_at"], "started_at")

    @property
    def at(self) -> datetime:
        """When the checkpoint was written."""
        return parse_time(self.state["at"], "at")

    @property
    def lines(self) -> int:
        """How many lines of the ledger count."""
        return int(self.state["ledger_lines"])

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield what the ledger says up to the checkpoint."""
        return iter_ledger(self.run_dir, until=self.lines) if self.has_ledger else iter(())

    def last_opened(self) -> tuple[int, datetime] | None:
        """Return the round that opened since the checkpoint, and when; None if none did."""
        opened = [event for event in iter_ledger(self.run_dir, since=self.lines)
                  if event["event"] == "round_opened"]  # fmt: skip
        return (opened[-1]["round"], parse_time(opened[-1]["opened_at"], "opened_at")) if opened else None

    def check(self, ledger: Ledger) -> None:
        """Refuse a ledger that ends before the checkpoint.

        Raises
        ------
        InputError
            If it does.
        """
        if ledger.lines < self.lines:
            problem = f"has {ledger.lines} whole lines, its checkpoint knows of {self.lines}"
            fix = f"restore it from a copy, or {_ANOTHER}"
            raise InputError("ledger", problem, fix, str(self.run_dir / FILE_NAME))

    def recall(self, progress: Progress) -> Any:
        """Bring strategy and progress back; return what the run itself has kept.

        Raises
        ------
        InputError
            If the checkpoint is torn.
        """
        try:
            progress.recall(self.state, self.events())
            kept = self.state["arrays"].get("run")
            arrays = self.checkpoint.arrays(kept) if kept else {}
            return decode(self.state["run"], arrays)
        except InputError as error:
            raise error if error.file else error.within(str(self.checkpoint.path)) from None
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            raise _unknown(self.checkpoint) from None


def open_folder(
    run_dir: Path, clock: Clock, strategy: object, job: Mapping[str, Any]
) -> tuple[Ledger, Progress, Resumption | None]:
    """Open the folder of a run, to begin it or to go on with it.

    Parameters
    ----------
    run_dir : Path
        The folder.
    clock : Clock
        Tells the time; a virtual one jumps to where the run was.
    strategy : Strategy
        Of the run, before it is started.
    job : mapping
        What the run is to do; see :func:`job_of`.

    Returns
    -------
    (Ledger, Progress, Resumption or None)
        None where the run begins.

    Raises
    ------
    InputError
        If the folder is not one to begin or go on in.
    """
    checkpoint, path = Checkpoint(run_dir), run_dir / FILE_NAME
    resumption = Resumption.find(run_dir, checkpoint, job)
    if resumption is not None and isinstance(clock, VirtualClock):
        clock.sleep_until(resumption.at)
    started_at = resumption.started_at if resumption else clock.now()
    progress = Progress(checkpoint, clock, job, started_at, StrategyState(strategy))
    if resumption is None and not path.exists():
        progress.prepare()
    ledger = Ledger(run_dir, clock, goes_on=resumption is not None and path.exists())
    return ledger, progress, resumption


def _begun(run_dir: Path, state: Mapping[str, Any]) -> bool:
    """Return whether the run has begun its ledger, and refuse one that is not there or of another run."""
    path = run_dir / FILE_NAME
    first = next(iter_ledger(run_dir), None) if path.exists() else None
    if first is None:
        if state["ledger_lines"]:
            raise InputError("ledger", "is not there", f"restore it from a copy, or {_ANOTHER}", str(path))
        return False
    if first.get("started_at") != state["started_at"]:
        raise InputError("ledger", "is of another run than its checkpoint", _ANOTHER, str(path))
    return True


def _unknown(checkpoint: Checkpoint) -> InputError:
    fix = "go on with the version of lowcarb-scheduler that wrote it"
    return InputError("checkpoint", "is not as this version writes it", fix, str(checkpoint.path))
