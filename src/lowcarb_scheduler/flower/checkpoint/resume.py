"""Whether a folder holds a run to go on with: what is checked before, and what is refused with one line."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ArrayRecord, MetricRecord

from lowcarb_scheduler.clock import VirtualClock, parse_time
from lowcarb_scheduler.documents import to_plain
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.flower.checkpoint.codec import Encoder, StrategyState, decode
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.ledger import FILE_NAME, Ledger, iter_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.settings import Settings

# -- How far a run is: kept on disk as it goes, and after a restart what was done is recalled, not done again
# A run that goes on calls the strategy's own ``start()`` as it was called at first. The rounds that are over
# send no messages and give back what they gave; the first round that is not over begins with the arrays it
# began with. So the numbers of rounds, the keys of the result and a ``start()`` of the user's own are right.

_COUNTS_ANEW: Final = "its own start() counts its rounds more than once"


class Stage(IntEnum):
    """What of a round is done."""

    TRAINED = 1
    EVALUATED = 2  # on clients
    OVER = 3


Place = tuple[int, Stage]  # a round, and what of it is done
_NOWHERE: Final[Place] = (-1, Stage.OVER)


class Progress:
    """How far a run is, and its checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where it is kept.
    clock : Clock
        Tells when.
    job : mapping
        What the run is to do: a checkpoint is of this job and no other.
    started_at : datetime
        When the run began.
    state : StrategyState
        What of the strategy is kept.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        clock: Clock,
        job: Mapping[str, Any],
        started_at: datetime,
        state: StrategyState,
    ) -> None:
        self._checkpoint, self._clock, self._job = checkpoint, clock, job
        self._started_at, self._state = started_at, state
        self._ledger: Ledger | None = None
        self._memory: Callable[[], Any] = lambda: None
        self._note: Callable[[str, str, str], None] = lambda *_: None
        self._place = self._recalled = _NOWHERE
        self._looked_at = -1  # the last round that was asked for
        self._is_live = False
        self._counts_anew = False
        self._arrays: ArrayRecord | None = None  # the last: those the strategy goes on with
        self._metrics: dict[tuple[int, Stage], MetricRecord] = {}  # of rounds that are recalled
        self._yielded: list[tuple[int, Stage, MetricRecord]] = []  # what is not on disk yet
        self._model: dict[str, Any] = {}  # arrays and state of the strategy, as they stand on disk
        self.trained: Sequence[str] = ()

    @property
    def place(self) -> Place:
        """The last round of which something is done, and what."""
        return self._place

    @property
    def started_at(self) -> datetime:
        """When the run began."""
        return self._started_at

    def prepare(self) -> None:
        """Keep when a run began before it writes anything else."""
        with suppress(OSError):  # the ledger will say so
            self._commit(lines=0)

    def attach(
        self, ledger: Ledger, memory: Callable[[], Any], note: Callable[[str, str, str], None]
    ) -> None:
        """Let a run be kept from now on.

        Parameters
        ----------
        ledger : Ledger
            Of the run; takes ``checkpoint`` events, with what a round has yielded.
        memory : callable
            Returns what the run itself needs to go on.
        note : callable
            Takes what went wrong, why, and what is done instead.
        """
        self._ledger, self._memory, self._note = ledger, memory, note
        if missing := self._missing():
            self._note(
                "checkpoint", f"{', '.join(missing)} of the strategy cannot be kept",
                "this run cannot go on after a crash; give it state_dict() and load_state_dict()",
            )  # fmt: skip

    # -- what was done before a restart --------------------------------------------------------------------

    def recall(self, state: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> None:
        """Go back to a checkpoint, with the strategy and what the rounds that are over have yielded.

        Raises
        ------
        InputError, KeyError, TypeError, ValueError
            If it is not one of this version, or its arrays are torn.
        """
        arrays = self._checkpoint.arrays(state["arrays"]["model"]) if "model" in state["arrays"] else {}
        self._place = self._recalled = (state["round"], Stage[state["stage"]])
        self.trained = tuple(state["trained"])
        if state["model"]:
            self._arrays = decode(state["model"]["arrays"], arrays)
            self._state.restore(state["model"]["strategy"], arrays)
            self._model = {"file": state["arrays"]["model"], **state["model"]}
        for event in events:
            if event["event"] == "checkpoint":
                for each in event["yielded"]:
                    self._metrics[each["round"], Stage[each["stage"]]] = decode(each["metrics"], {})

    def is_done(self, number: int, stage: Stage) -> bool:
        """Return whether something was done before a restart, and is only recalled."""
        return not self._is_live and (number, stage) <= self._recalled

    def metrics(self, number: int, stage: Stage) -> MetricRecord | None:
        """Return what something that was done has yielded."""
        return self._metrics.pop((number, stage), None)

    @property
    def arrays(self) -> ArrayRecord | None:
        """The arrays of the last round that was done before a restart."""
        return self._arrays

    # -- a round, in the order it happens ------------------------------------------------------------------

    def ask(self, number: int) -> bool:
        """Return whether the training of a round is only recalled; asked once, when it would begin."""
        is_new, self._looked_at = number > self._looked_at, number
        if is_new and self.is_done(number, Stage.TRAINED):
            return True
        if not is_new:
            self._counts_anew = True
        return False

    def begin(self, number: int, arrays: ArrayRecord) -> ArrayRecord:
        """Keep what a round begins with, and return it: after a restart what it began with then."""
        if self._arrays is not None and not self._is_live and self._recalled == (number - 1, Stage.OVER):
            arrays = self._arrays
        self._is_live, self._arrays = True, arrays
        self._reach(number - 1, Stage.OVER)
        return arrays

    def planned(self) -> None:
        """Keep a new plan."""
        self._write(with_model=False, with_event=False)

    def train_ended(
        self, number: int, arrays: ArrayRecord | None, metrics: MetricRecord | None, trained: Sequence[str]
    ) -> None:
        """Keep what a training has yielded, and who took part."""
        self._arrays, self.trained = arrays or self._arrays, trained
        self._yield(number, Stage.TRAINED, metrics)
        self._reach(number, Stage.TRAINED)

    def evaluated(self, number: int, metrics: MetricRecord | None) -> None:
        """Keep what an evaluation on clients has yielded."""
        self._is_live = True
        self._yield(number, Stage.EVALUATED, metrics)
        self._reach(number, Stage.EVALUATED)

    def evaluated_here(self, number: int, metrics: object) -> None:
        """Remember what an evaluation on the server has yielded; it is kept when the next round begins."""
        self._yield(number, Stage.OVER, metrics)

    # -- keeping it ----------------------------------------------------------------------------------------

    def _yield(self, number: int, stage: Stage, metrics: object) -> None:
        if isinstance(metrics, MetricRecord):
            self._yielded.append((number, stage, metrics))

    def _reach(self, number: int, stage: Stage) -> None:
        self._place = (number, stage)
        self._write(with_model=stage is not Stage.EVALUATED, with_event=True)

    def _missing(self) -> list[str]:
        return [*self._state.missing(), *([_COUNTS_ANEW] if self._counts_anew else [])]

    def _write(self, *, with_model: bool, with_event: bool) -> None:
        """Write a checkpoint; a disk that takes it not stops no training."""
        if self._ledger is None or self._ledger.is_broken:
            return
        try:
            if with_model:
                self._keep_model()
            if with_event:
                self._write_event(self._ledger)
            self._commit(self._ledger.lines)
        except Exception as error:  # noqa: BLE001  whatever it is, the training counts more
            why = one_line(f"{type(error).__name__}: {error}")
            self._note("checkpoint", why, "after a crash the run goes on from the last one that was written")

    def _keep_model(self) -> None:
        """Write arrays and state of the strategy, if they are not on disk as they are."""
        encoder = Encoder()
        arrays, state = encoder.encode(self._arrays, "arrays"), self._state.encode(encoder)
        file = self._checkpoint.keep("model", encoder.arrays)
        self._model = {"file": file, "arrays": arrays, "strategy": state}

    def _write_event(self, ledger: Ledger) -> None:
        number, stage = self._place
        encoder = Encoder()
        yielded = [{"round": n, "stage": of.name, "metrics": encoder.encode(metrics, "metrics")}
                   for n, of, metrics in self._yielded]  # fmt: skip
        ledger.append("checkpoint", round=number, stage=stage.name, yielded=yielded)
        self._yielded = []

    def _commit(self, lines: int) -> None:
        encoder = Encoder()
        run = encoder.encode(self._memory(), "run")
        number, stage = self._place
        files = {"run": self._checkpoint.keep("run", encoder.arrays)}
        model = dict(self._model)
        if model:
            files["model"] = model.pop("file")
        self._checkpoint.commit(
            {
                "job": self._job,
                "started_at": self._started_at,
                "at": self._clock.now(),
                "ledger_lines": lines,
                "round": number,
                "stage": stage.name,
                "trained": list(self.trained),
                "missing": self._missing(),
                "model": model,
                "run": run,
                "arrays": files,
            }
        )


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
