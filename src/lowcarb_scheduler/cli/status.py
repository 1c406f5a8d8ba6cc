"""``lowcarb status`` and ``lowcarb release``: state of a run, read from its ledger, and the end of a hold."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lowcarb_scheduler.accounting.replay import Record
from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.output import Times, Utc
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import NothingHeldError
from lowcarb_scheduler.events import Degraded, HoldStarted
from lowcarb_scheduler.flower.waiting import request_release
from lowcarb_scheduler.ledger import FILE_NAME, is_in_use, read_ledger
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from rich.console import Console

app = typer.Typer()
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder with the run's ledger.jsonl.")]


@options.command(app, "status", "lowcarb status runs/demo", "lowcarb status runs/demo --utc --json")
def command(context: typer.Context, run_dir: RunDir, utc: Utc = False, as_json: options.Json = False) -> None:
    """Show a run's progress, its next opening and the reason."""
    run = RunState.read(folder_of(run_dir))
    if as_json:
        output.write_document(_document(run_dir, run))
    else:
        runtime = context.ensure_object(Runtime)
        _show(runtime.console(), run, runtime.clock.now(), Times.of(utc))


def folder_of(run_dir: Path) -> Path:
    """Return the folder of a run, also if the path is that of its ledger."""
    return run_dir.parent if run_dir.name == FILE_NAME else run_dir


def _document(run_dir: Path, run: RunState) -> dict[str, object]:
    state = {each.name: getattr(run, each.name) for each in fields(run) if each.name != "is_virtual"}
    # Who reads the document needs no more of these events.
    state["degraded"] = [{key: getattr(each, key) for key in ("at", "what", "why")} for each in run.degraded]
    return {"run_dir": str(run_dir), **state}


def _show(screen: Console, run: RunState, now: datetime, times: Times) -> None:
    # In other states the number means the next round, which the opening time below describes.
    which = f" round {run.round}" if run.state in ("holding", "training") else ""
    output.print_title(screen, f"Run {run.run_id}: {run.state}{which}")
    facts = [("rounds done", f"{run.rounds_done} of {run.rounds}")]
    # A process that is gone opens nothing, whatever its last plan was.
    if run.opens_at is not None and run.state != "gone":
        opens = times.instant(run.opens_at)
        # A virtual clock jumps to the opening: a countdown would be meaningless.
        if run.opens_at > now and not run.is_virtual:
            opens += f", in {format_duration(run.opens_at - now)}"
        facts.append(("opened" if run.state == "training" else "next opening", opens))
    if run.why is not None:
        facts.append(("why", run.why))
    if run.saves_g is not None:
        saved = f"{formatting.mass(run.saves_g)} of {formatting.mass(run.at_once_g)} CO2eq in this round"
        facts.append(("waiting saves", saved))
    if run.finish is not None:
        facts.append(("finish" if run.round is None else "planned finish", _finish(run, times)))
    facts.append(("process", _process(run)))
    facts.append(("last event", times.instant(run.last_event_at)))
    if run.degraded:
        last = run.degraded[-1]
        times_degraded = formatting.counted(len(run.degraded), "time")
        facts.append(("degraded", f"{times_degraded}, last: {last.what}: {last.why}"))
    output.print_facts(screen, facts)


def _finish(run: RunState, times: Times) -> str:
    assert run.finish is not None  # the caller checks it
    text = times.instant(run.finish)
    if run.finish_by is None:
        return text
    side = "after" if run.late else "before"
    return f"{text}, {format_duration(abs(run.finish_by - run.finish))} {side} the deadline"


def _process(run: RunState) -> str:
    if run.state == "gone":
        return "ended without closing its ledger; start it again with this run-dir to resume"
    return {True: "alive", False: "ended", None: "unknown: this file system has no locks"}[run.alive]


# -- State of a run ----------------------------------------------------------------------------------------

HOLDING = "holding"
AWAITING = "waiting for nodes"
GONE = "gone"


@dataclass(frozen=True, slots=True)
class RunState:
    """State of a run, derived from the events of its ledger: the JSON document, but for ``is_virtual``.

    Parameters
    ----------
    run_id : str
        Flower's id of the run.
    state : str
        ``preparing``, ``waiting for nodes``, ``holding``, ``training``, ``gone`` (its process ended without
        closing the ledger), or the outcome: ``completed``, ``stopped``, ``failed`` or ``out of time``.
    alive : bool or None
        Whether its process locks the ledger; None where the file system has no locks.
    round : int or None
        The round that is held, trains, or opens next.
    rounds, rounds_done : int
        Number of all rounds, and of finished rounds.
    opens_at : datetime or None
        Opening time of that round.
    why : str or None
        Reason of the hold, or the nodes it waits for.
    held_g, at_once_g, saves_g : float or None
        Planned emissions of the held round, its emissions if it had opened at once, and the difference
        [gCO2eq].
    finish : datetime or None
        Planned or actual end of the last round.
    finish_by : datetime or None
        The deadline.
    late : bool or None
        True if the last round ends after the deadline; None where one of the times is unknown.
    degraded : sequence of Degraded
        Problems so far.
    last_event_at : datetime
        Time of the last event.
    is_virtual : bool
        Whether the run uses a virtual clock.
    """

    run_id: str
    state: str
    alive: bool | None
    round: int | None
    rounds: int
    rounds_done: int
    opens_at: datetime | None
    why: str | None
    held_g: float | None
    at_once_g: float | None
    saves_g: float | None
    finish: datetime | None
    finish_by: datetime | None
    late: bool | None
    degraded: Sequence[Degraded]
    last_event_at: datetime
    is_virtual: bool

    @classmethod
    def read(cls, run_dir: Path) -> RunState:
        """Read the ledger of a run.

        Raises
        ------
        InputError
            If the ledger is missing, or a line of it is not an event.
        """
        record, is_alive = Record.of(read_ledger(run_dir)), is_in_use(run_dir)
        ended, plan, waiting = record.finished, record.plan, record.waiting
        # A killed process cannot write run_finished, but the lock on its ledger is gone.
        state = GONE if ended is None and is_alive is False else record.activity
        held = waiting if isinstance(waiting, HoldStarted) else None
        opened = record.current.opened if record.is_open and record.current else None
        # The number and not the count: a resumed run keeps the numbers of its first part.
        done = record.rounds[-1].number if record.rounds else 0
        # Without an open or held round the next one counts, whose window the last plan has.
        current = opened or held
        number = current.round if current else done + 1 if ended is None else None
        planned = {window.round: window.opens_at for window in plan.windows} if plan else {}
        held_g, at_once_g = (held.planned_g, held.at_once_g) if held else (None, None)
        finish = ended.finish if ended else plan.finish if plan else None
        finish_by = ended.finish_by if ended else plan.finish_by if plan else record.started.finish_by
        opens_at = held.until if held else opened.opened_at if opened else planned.get(number or 0)
        return cls(
            run_id=str(record.started.run_id),
            state=state,
            alive=False if ended else is_alive,
            round=number,
            rounds=record.started.rounds,
            rounds_done=done,
            opens_at=opens_at,
            # A reason of an earlier wait would be misleading once the round has opened.
            why=waiting.reason if waiting and (held or state == AWAITING) else None,
            held_g=held_g,
            at_once_g=at_once_g,
            saves_g=None if held_g is None or at_once_g is None else at_once_g - held_g,
            finish=finish,
            finish_by=finish_by,
            late=None if finish is None or finish_by is None else finish > finish_by,
            degraded=[event for event in record.incidents if isinstance(event, Degraded)],
            last_event_at=record.last_at,
            is_virtual=record.started.clock == "virtual",
        )


# -- lowcarb release ---------------------------------------------------------------------------------------

_SECONDS: Final = 5  # a hold looks for requests a little more often than this


@options.command(app, "release", "lowcarb release runs/2026-01-31T18-00-00Z-42")
@options.command(app, "open-now", "lowcarb open-now runs/2026-01-31T18-00-00Z-42", hidden=True)
def release(context: typer.Context, run_dir: RunDir, as_json: options.Json = False) -> None:
    """Open the held round now; later rounds follow the plan."""
    folder = folder_of(run_dir)
    run = RunState.read(folder)
    if run.round is None or run.state == GONE:
        raise NothingHeldError(str(run_dir), run.state, "and opens no more rounds")
    if run.is_virtual:
        raise NothingHeldError(str(run_dir), "on a virtual clock", "which waits for nobody")
    if run.state != HOLDING:
        raise NothingHeldError(str(run_dir), run.state)
    request_release(folder, run.round)
    if as_json:
        output.write_document({"run_dir": str(run_dir), "round": run.round, "was_to_open_at": run.opens_at})
    else:
        screen = context.ensure_object(Runtime).console()
        output.print_line(screen, f"round {run.round} opens within {_SECONDS} seconds")
