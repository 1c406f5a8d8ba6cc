"""Progress of a run on disk, and the checks before a killed run is resumed.

A resumed run calls the strategy's own ``start()`` again with the same arguments. Rounds that are over send no
messages and return the results they had; the first round that is not over begins with the arrays that it
began with. So round numbers, the keys of the result and a ``start()`` of the user's own stay right.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ArrayRecord, MetricRecord

from lowcarb_scheduler.clock import VirtualClock, parse_time
from lowcarb_scheduler.documents import to_plain
from lowcarb_scheduler.errors import InputError, one_line, reason_of
from lowcarb_scheduler.events import CheckpointWritten, RoundOpened, RunFinished, RunStarted
from lowcarb_scheduler.flower.checkpoint.codec import Encoder, StrategyState, decode
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint, name_in_file
from lowcarb_scheduler.ledger import FILE_NAME, Ledger, iter_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.events import Event
    from lowcarb_scheduler.flower.correction.average import OutputAverage
    from lowcarb_scheduler.flower.correction.correction import ParticipationCorrection
    from lowcarb_scheduler.settings import Settings

_MEMORY: Final = "memory:"  # before the name of a location, among the arrays of a checkpoint
_COUNTS_TWICE: Final = "its own start() counts its rounds more than once"
_OTHER_FOLDER: Final = "give another run-dir, or leave it out"
_SAME_START: Final = f"start the run with the same app and settings, or {_OTHER_FOLDER}"
_FROM_THE_LAST: Final = "after a crash the run resumes from the last checkpoint on disk"
_SAME_VERSION: Final = "resume with the version of lowcarb-scheduler that wrote it"
# A resumed run may change its sources, locations and powers, but not what its plan and its turns rest on.
_OF_THE_JOB: Final = ("balance", "clients_per_round", "finish_by", "max_location_share", "mix_rounds",
                      "participation", "patience", "round_duration", "stagger")  # fmt: skip

# -- Progress ------------------------------------------------------------------------------------------------


class Stage(IntEnum):
    """Last step of a round that is complete."""

    TRAINED = 1
    EVALUATED = 2  # on clients
    OVER = 3
    AVERAGED = 4  # after the last round: the mean that the run returns is evaluated on clients


Place = tuple[int, Stage]  # number of a round, and its last complete step
_NOWHERE: Final[Place] = (-1, Stage.OVER)


@dataclass(eq=False)
class Progress:
    """Progress of a run: its checkpoint, and the results of rounds that were over before a restart.

    Methods that write a checkpoint take ``session``, the state of the session at that moment.

    Parameters
    ----------
    checkpoint : Checkpoint
        Checkpoint on disk.
    clock : Clock
        Source of the time of a checkpoint.
    job : mapping
        Description of the job; see :func:`job_of`.
    state : StrategyState
        State of the strategy.
    started_at : datetime
        Start of the run.
    resumption : Resumption or None
        The run to go on with; None where one begins.

    Attributes
    ----------
    place : (int, Stage)
        Last round with a complete step, and that step.
    arrays : ArrayRecord or None
        Newest global arrays: those of the last completed training, or those that the open round began with.
    trained : sequence of str
        Names of the nodes in the last training.
    correction : ParticipationCorrection or None
        Correction of the run, whose memories are saved with the model.
    average : OutputAverage or None
        Mean of models that the run returns, saved with the model.
    """

    _checkpoint: Checkpoint
    _clock: Clock
    _job: Mapping[str, Any]
    _state: StrategyState
    started_at: datetime
    resumption: Resumption | None = None
    place: Place = _NOWHERE
    arrays: ArrayRecord | None = None
    trained: Sequence[str] = ()
    correction: ParticipationCorrection | None = None
    average: OutputAverage | None = None
    _ledger: Ledger | None = None
    _warn: Callable[[str, str, str], None] = lambda *_: None
    _recalled: Place = _NOWHERE
    _last_asked: int = -1
    _is_live: bool = False  # since the first step that is not recalled
    _counts_twice: bool = False
    _metrics: dict[Place, MetricRecord] = field(default_factory=dict)  # of steps before the restart
    _unwritten: list[dict[str, Any]] = field(default_factory=list)  # metrics that are not in the ledger yet
    _model: Mapping[str, Any] = field(default_factory=dict)  # arrays and strategy as they are on disk
    _files: Mapping[str, dict[str, str]] = field(default_factory=dict)  # where these are
    _corrected: Mapping[str, Any] | None = None  # state of the correction as it is on disk
    _memories: dict[str, tuple[object, dict[str, str]]] = field(default_factory=dict)  # and where it is

    def attach(self, ledger: Ledger, warn: Callable[[str, str, str], None]) -> None:
        """Write checkpoints from now on.

        Parameters
        ----------
        ledger : Ledger
            Ledger of the run; gets a ``checkpoint`` event with the metrics of each step.
        warn : callable
            Reports a fault, its reason and its consequence.
        """
        self._ledger, self._warn = ledger, warn
        if missing := self._missing():
            self._warn(
                "checkpoint", f"{', '.join(missing)} of the strategy cannot be saved",
                "this run cannot be resumed after a crash; give it state_dict() and load_state_dict()",
            )  # fmt: skip

    # -- Steps before a restart --------------------------------------------------------------------------

    def recall(self, state: Mapping[str, Any], events: Iterable[Event]) -> None:
        """Restore the strategy, and the results of the rounds that are over, from a checkpoint.

        Raises
        ------
        InputError, KeyError, TypeError, ValueError
            If the state is not one of this version, or its arrays are damaged.
        """
        entry = state["arrays"].get("model")
        arrays = self._checkpoint.read_arrays(entry) if entry else {}
        self.place = self._recalled = (state["round"], Stage[state["stage"]])
        self.trained = tuple(state["trained"])
        if entry:  # a run that has not begun its first round has no arrays
            self._model, self._files = state["model"], {"model": entry}
            self.arrays = decode(self._model["arrays"], arrays)
            self._state.restore(self._model["strategy"], arrays)
            if self.average is not None and (averaged := self._model.get("average")) is not None:
                self.average.recall(decode(averaged, arrays))
        if self.correction is not None and (corrected := state.get("correction")) is not None:
            self.correction.recall(
                corrected, {
                    name.removeprefix(_MEMORY): partial(self._checkpoint.read_arrays, entry)
                    for name, entry in state["arrays"].items() if name.startswith(_MEMORY)
                }
            )  # fmt: skip
            self._memories, self._corrected = self._write_memories()
        for event in events:
            if isinstance(event, CheckpointWritten):
                for each in event.yielded:
                    self._metrics[each["round"], Stage[each["stage"]]] = decode(each["metrics"], {})

    def is_done(self, number: int, stage: Stage) -> bool:
        """Return whether a step was complete before a restart, so that its result is only recalled."""
        return not self._is_live and (number, stage) <= self._recalled

    def metrics(self, number: int, stage: Stage) -> MetricRecord | None:
        """Return the metrics of a step before a restart, once."""
        return self._metrics.pop((number, stage), None)

    # -- Steps of a round, in their order ----------------------------------------------------------------

    def ask(self, number: int) -> bool:
        """Return whether the training of a round is only recalled; called once, when it would begin."""
        is_new, self._last_asked = number > self._last_asked, number
        if is_new and self.is_done(number, Stage.TRAINED):
            return True
        if not is_new:
            # Round numbers identify steps after a restart; a start() that repeats them cannot be resumed.
            self._counts_twice = True
        return False

    def begin(self, number: int, arrays: ArrayRecord, session: Any) -> ArrayRecord:
        """Save and return the arrays that a round begins with; after a restart, the earlier ones."""
        # A class of the user may change a recalled result again; the saved arrays were changed once.
        before, stage = self._recalled
        if self.arrays is not None and not self._is_live and before == number - 1 and stage >= Stage.OVER:
            arrays = self.arrays
        self._is_live, self.arrays = True, arrays
        self._reach(number - 1, Stage.OVER, session)
        return arrays

    def planned(self, session: Any) -> None:
        """Save a new plan."""
        self._write(session, with_model=False, with_event=False)

    def train_ended(
        self, number: int, arrays: ArrayRecord | None, metrics: MetricRecord | None, trained: Sequence[str],
        session: Any,
    ) -> None:  # fmt: skip
        """Save the results of a training and the names of the nodes that took part."""
        self.arrays, self.trained = arrays or self.arrays, trained
        self._yield(number, Stage.TRAINED, metrics)
        self._reach(number, Stage.TRAINED, session)

    def evaluated(self, number: int, stage: Stage, metrics: MetricRecord | None, session: Any) -> None:
        """Save the metrics of an evaluation on clients, of a round's model or of the mean of models."""
        self._is_live = True
        self._yield(number, stage, metrics)
        self._reach(number, stage, session)

    def evaluated_here(self, number: int, metrics: object) -> None:
        """Add the metrics of an evaluation on the server; they are saved when the next round begins."""
        self._yield(number, Stage.OVER, metrics)

    # -- Writing -----------------------------------------------------------------------------------------

    def _yield(self, number: int, stage: Stage, metrics: object) -> None:
        if isinstance(metrics, MetricRecord):  # an evaluate_fn may return None
            tree = Encoder().encode(metrics, "metrics")
            self._unwritten.append({"round": number, "stage": stage.name, "metrics": tree})

    def _reach(self, number: int, stage: Stage, session: Any) -> None:
        self.place = (number, stage)
        # An evaluation on clients changes no arrays, which are large.
        self._write(session, with_model=stage in (Stage.TRAINED, Stage.OVER), with_event=True)

    def _missing(self) -> list[str]:
        return [*self._state.missing(), *([_COUNTS_TWICE] if self._counts_twice else [])]

    def _write(self, session: Any, *, with_model: bool, with_event: bool) -> None:
        """Write a checkpoint; a failure is reported and stops no training."""
        if self._ledger is None:
            return
        try:
            if with_model and not self._ledger.is_broken:
                self._write_model()
            if with_event and not self._ledger.is_broken:
                # Before the state, which names this line: a crash between the two only repeats the step.
                number, stage = self.place
                event = CheckpointWritten(round=number, stage=stage.name, yielded=self._unwritten)
                self._ledger.append(event)
                self._unwritten = []
            # A step whose line was refused, on a full disk, has not happened for a resumed run.
            if self._ledger.is_broken:
                self._warn("checkpoint", "the ledger takes no more lines", _FROM_THE_LAST)
                return
            self.commit(self._ledger.lines, session)
        except Exception as error:  # noqa: BLE001  whatever fails here, training goes on
            self._warn("checkpoint", reason_of(error), _FROM_THE_LAST)

    def _write_model(self) -> None:
        """Write the model, and what is remembered with it; a fault leaves what was on disk."""
        encoder = Encoder()
        model = {"arrays": encoder.encode(self.arrays, "arrays"), "strategy": self._state.encode(encoder)}
        if self.average is not None:
            model["average"] = encoder.encode(self.average.state(), "average")
        files = {"model": self._checkpoint.write_arrays("model", encoder.arrays)}
        memories, corrected = self._write_memories()
        self._files, self._model, self._memories, self._corrected = files, model, memories, corrected

    def _write_memories(self) -> tuple[dict[str, tuple[object, dict[str, str]]], dict[str, Any] | None]:
        """Write the memories that have changed; return each with its file, and the correction's state."""
        if self.correction is None:
            return {}, None
        kept: dict[str, tuple[object, dict[str, str]]] = {}
        for place, memory in self.correction.memories.items():
            before, entry = self._memories.get(place, (None, None))
            if entry is None or before is not memory:
                entry = self._checkpoint.write_arrays(name_in_file("memory", place), memory.to_arrays())
            kept[place] = memory, entry
        return kept, self.correction.state()

    def forget_memories(self, session: Any) -> None:
        """Delete the memories of the correction at the end of a run, which does not need them any more."""
        if self._memories:
            self._memories, self._corrected, self.correction = {}, None, None
            self._write(session, with_model=False, with_event=False)

    def commit(self, lines: int, session: Any) -> None:
        """Write the checkpoint of a ledger with so many lines."""
        encoder = Encoder()
        run = encoder.encode(session, "run")
        number, stage = self.place
        memories = {f"{_MEMORY}{place}": entry for place, (_, entry) in self._memories.items()}
        files = {**self._files, **memories, "run": self._checkpoint.write_arrays("run", encoder.arrays)}
        self._checkpoint.commit(
            {
                "job": self._job,
                "started_at": self.started_at,
                "at": self._clock.now(),
                "ledger_lines": lines,
                "round": number,
                "stage": stage.name,
                "trained": list(self.trained),
                "missing": self._missing(),
                "model": self._model,
                "correction": self._corrected,
                "run": run,
                "arrays": files,
            }
        )


# -- Resuming ------------------------------------------------------------------------------------------------


def job_of(
    strategy: str, rounds: int, settings: Settings, initial_arrays: ArrayRecord | None
) -> dict[str, Any]:
    """Return the description of a job, JSON-ready; a checkpoint resumes a job of an equal one only."""
    given = settings.model_dump(mode="json", include=set(_OF_THE_JOB))
    # Shapes, not values: initial weights are often random.
    shapes = {name: [each.dtype, list(each.shape)] for name, each in (initial_arrays or {}).items()}
    job = {name.replace("_", "-"): given[name] for name in _OF_THE_JOB}
    plain: dict[str, Any] = to_plain({"strategy": strategy, "rounds": rounds, **job, "arrays": shapes})
    return plain


@dataclass(frozen=True, slots=True)
class Resumption:
    """Run to resume.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    checkpoint : Checkpoint
        Its checkpoint.
    state : mapping
        Content of the checkpoint.
    has_ledger : bool
        Whether the run has begun its ledger.
    """

    run_dir: Path
    checkpoint: Checkpoint
    state: Mapping[str, Any]
    has_ledger: bool

    @classmethod
    def find(cls, run_dir: Path, checkpoint: Checkpoint, job: Mapping[str, Any]) -> Resumption | None:
        """Return the run to resume, None where a new run can begin.

        Raises
        ------
        InputError
            If the run has completed, is of another job, or cannot be resumed.
        """
        ledger = run_dir / FILE_NAME
        if not checkpoint.exists:
            return None
        state = checkpoint.read()
        # Completed, not ended: a run that failed or was stopped is resumed.
        if ledger.exists() and any(
            isinstance(event, RunFinished) and event.status == "completed" for event in iter_ledger(run_dir)
        ):
            raise InputError(
                "run-dir", f"{run_dir} holds the ledger of a run that has completed", _OTHER_FOLDER
            )
        try:
            cls._check(state, job, str(checkpoint.path))
            return cls(run_dir, checkpoint, state, _begun(run_dir, state))
        except (AttributeError, KeyError, TypeError, ValueError):  # the digest is right, the content is not
            raise _unreadable(checkpoint) from None

    @staticmethod
    def _check(state: Mapping[str, Any], job: Mapping[str, Any], file: str) -> None:
        """Raise an InputError for another job, and for a strategy whose state is incomplete."""
        for name, value in job.items():
            if (was := state["job"][name]) != value:
                change = f"was {was!r}, is {one_line(repr(value))}"
                change = "has other shapes" if name == "arrays" else change
                raise InputError("checkpoint", f"is of another job: {name} {change}", _SAME_START, file)
        if missing := state["missing"]:
            problem = f"is incomplete: {', '.join(missing)} of the strategy could not be saved"
            fix = f"give it state_dict() and load_state_dict(), and {_OTHER_FOLDER}"
            raise InputError("checkpoint", one_line(problem), fix, file)

    @property
    def started_at(self) -> datetime:
        """Start of the run."""
        return parse_time(self.state["started_at"], "started_at")

    @property
    def at(self) -> datetime:
        """Time of the checkpoint."""
        return parse_time(self.state["at"], "at")

    @property
    def lines(self) -> int:
        """Number of lines of the ledger at the checkpoint; later ones are of work that was lost."""
        return int(self.state["ledger_lines"])

    def events(self) -> Iterator[Event]:
        """Yield the events of the ledger up to the checkpoint."""
        return iter_ledger(self.run_dir, until=self.lines) if self.has_ledger else iter(())

    def last_opened(self) -> RoundOpened | None:
        """Return the round that opened since the checkpoint, None without one."""
        events = iter_ledger(self.run_dir, since=self.lines)
        opened = [event for event in events if isinstance(event, RoundOpened)]
        return opened[-1] if opened else None

    def check(self, ledger: Ledger) -> None:
        """Check that the ledger reaches the checkpoint.

        Raises
        ------
        InputError
            If the ledger has fewer lines.
        """
        if ledger.lines < self.lines:
            problem = f"has {ledger.lines} complete lines, its checkpoint needs {self.lines}"
            fix = f"restore it from a copy, or {_OTHER_FOLDER}"
            raise InputError("ledger", problem, fix, str(self.run_dir / FILE_NAME))

    def recall(self, progress: Progress) -> Any:
        """Restore strategy and progress, and return the state of the run itself.

        Raises
        ------
        InputError
            If the checkpoint is damaged.
        """
        try:
            progress.recall(self.state, self.events())
            return decode(self.state["run"], self.checkpoint.read_arrays(self.state["arrays"]["run"]))
        except InputError as error:
            raise error if error.file else error.within(str(self.checkpoint.path)) from None
        except (AttributeError, KeyError, TypeError, ValueError, IndexError):
            raise _unreadable(self.checkpoint) from None


def open_folder(
    run_dir: Path, clock: Clock, strategy: object, job: Mapping[str, Any]
) -> tuple[Ledger, Progress]:
    """Open the folder of a run, to begin or to resume the run.

    Parameters
    ----------
    run_dir : Path
        Folder of the run.
    clock : Clock
        Clock of the run; a virtual one jumps to the time of the checkpoint.
    strategy : Strategy
        Strategy before its start.
    job : mapping
        Description of the job; see :func:`job_of`.

    Raises
    ------
    InputError
        If no run can begin or be resumed in the folder.
    """
    checkpoint, path = Checkpoint(run_dir), run_dir / FILE_NAME
    resumption = Resumption.find(run_dir, checkpoint, job)
    # A virtual clock begins at its start again; without this the past would be planned.
    if resumption is not None and isinstance(clock, VirtualClock):
        clock.sleep_until(resumption.at)
    started_at = resumption.started_at if resumption else clock.now()
    progress = Progress(checkpoint, clock, job, StrategyState(strategy), started_at, resumption)
    if resumption is None and not path.exists():
        # Before the ledger: a run killed between the two keeps its start, on which its deadline may depend.
        with suppress(OSError):  # the ledger in the same folder reports it
            progress.commit(lines=0, session=None)
    ledger = Ledger(run_dir, clock, goes_on=resumption is not None and path.exists())
    return ledger, progress


def _begun(run_dir: Path, state: Mapping[str, Any]) -> bool:
    """Return whether the run has begun its ledger; raise an InputError if the ledger does not fit."""
    path = run_dir / FILE_NAME
    first = next(iter_ledger(run_dir), None) if path.exists() else None
    if first is None:
        if state["ledger_lines"]:
            raise InputError("ledger", "is missing", f"restore it from a copy, or {_OTHER_FOLDER}", str(path))
        return False
    # Flower gives a resumed run another run id, so it is the start that identifies a run.
    if not isinstance(first, RunStarted) or first.started_at != parse_time(state["started_at"], "started_at"):
        raise InputError("ledger", "is of another run than its checkpoint", _OTHER_FOLDER, str(path))
    return True


def _unreadable(checkpoint: Checkpoint) -> InputError:
    return InputError("checkpoint", "is not as this version writes it", _SAME_VERSION, str(checkpoint.path))
