"""``lowcarb status``: what a run is waiting for, read from its ledger alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lowcarb_scheduler import clock
from lowcarb_scheduler.cli import output
from lowcarb_scheduler.cli.options import Json
from lowcarb_scheduler.cli.times import Times, Utc
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.documents import SCHEMA_VERSION
from lowcarb_scheduler.report import wording

if TYPE_CHECKING:
    from datetime import datetime

    from lowcarb_scheduler.cli.run_state import RunState

EXAMPLES: Final = ("lowcarb status runs/demo", "lowcarb status runs/demo --utc --json")
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder with the run's ledger.jsonl.")]


def command(run_dir: RunDir, utc: Utc = False, as_json: Json = False) -> None:
    """Say what a run is waiting for, until when and why, and how far it is."""
    from lowcarb_scheduler.cli.run_state import RunState

    run = RunState.read(folder_of(run_dir))
    if as_json:
        output.write_document(_document(run_dir, run))
    else:
        _show(run, clock.SystemClock().now(), Times.of(utc))


def folder_of(run_dir: Path) -> Path:
    """Return the folder of a run, where its ledger is named instead."""
    from lowcarb_scheduler.ledger import FILE_NAME

    return run_dir.parent if run_dir.name == FILE_NAME else run_dir


def _document(run_dir: Path, run: "RunState") -> dict[str, object]:
    return {
        "schema_version": SCHEMA_VERSION,
        "run_dir": str(run_dir),
        "run_id": run.run_id,
        "state": run.state,
        "alive": run.is_alive,
        "round": run.round_number,
        "rounds": run.rounds,
        "rounds_done": run.rounds_done,
        "opens_at": run.opens_at,
        "why": run.why,
        "held_g": run.held_g,
        "at_once_g": run.at_once_g,
        "saves_g": run.saves_g,
        "finish": run.finish,
        "finish_by": run.finish_by,
        "late": run.is_late,
        "degraded": [{name: each[name] for name in ("at", "what", "why")} for each in run.degraded],
        "last_event_at": run.last_event_at,
    }


def _show(run: "RunState", now: "datetime", times: Times) -> None:
    screen = output.console()
    which = f" round {run.round_number}" if run.state in ("holding", "training") else ""
    output.print_title(screen, f"Run {run.run_id}: {run.state}{which}")
    facts = [("rounds done", f"{run.rounds_done} of {run.rounds}")]
    if run.opens_at is not None and run.state != "gone":
        opens = times.instant(run.opens_at)
        if run.opens_at > now and not run.is_virtual:
            opens += f", in {format_duration(run.opens_at - now)}"
        facts.append(("opened" if run.state == "training" else "next opening", opens))
    if run.why is not None:
        facts.append(("why", run.why))
    if run.saves_g is not None:
        of = f"{wording.mass(run.saves_g)} of {wording.mass(run.at_once_g)} CO2eq, in this round"
        facts.append(("waiting saves", of))
    if run.finish is not None:
        facts.append(("finish" if run.round_number is None else "planned finish", _finish(run, times)))
    facts.append(("process", _process(run)))
    facts.append(("last event", times.instant(run.last_event_at)))
    if run.degraded:
        last = run.degraded[-1]
        facts.append(
            (
                "degraded",
                f"{wording.counted(len(run.degraded), 'time')}, the last: {last['what']}: {last['why']}",
            )
        )
    output.print_facts(screen, facts)


def _finish(run: "RunState", times: Times) -> str:
    assert run.finish is not None  # shown only then
    text = times.instant(run.finish)
    if run.finish_by is None:
        return text
    side = "after" if run.is_late else "before"
    return f"{text}, {format_duration(abs(run.finish_by - run.finish))} {side} the deadline"


def _process(run: "RunState") -> str:
    if run.state == "gone":
        return "ended without closing its ledger; start it again with this run-dir to go on"
    return {True: "alive", False: "ended", None: "unknown: this file system has no locks"}[run.is_alive]
