"""``lowcarb status``, ``runs`` and ``release``: runs as their ledgers show them, and the end of a hold."""

from __future__ import annotations

import locale
from contextlib import suppress
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.output import Column, Utc
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.errors import InputError, NothingHeldError
from lowcarb_scheduler.flower.waiting import request_release
from lowcarb_scheduler.ledger import FILE_NAME, is_in_use
from lowcarb_scheduler.monitor.listing import list_runs, newest_run
from lowcarb_scheduler.monitor.state import GONE, HOLDING, TRAINING, RunState
from lowcarb_scheduler.report import formatting
from lowcarb_scheduler.report.formatting import Times

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from rich.console import Console

    from lowcarb_scheduler.monitor.listing import RunSummary
    from lowcarb_scheduler.monitor.view import Look, RunView

app = typer.Typer()
RUNS: Final = Path("runs")  # where run-dir is by default
RunDir = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Folder with the run's ledger.jsonl.")]
_NEWEST: Final = "Folder with the run's ledger.jsonl. Default: the newest run in runs/."
Newest = Annotated[Path | None, typer.Argument(metavar="[RUN_DIR]", help=_NEWEST, show_default=False)]
_EVERY: Final = timedelta(seconds=1)  # the countdown shows seconds in its last minute
_REST: Final = 10  # of the time, in times a reading takes: a ledger of millions of lines takes seconds


@options.command(
    app, "status", "lowcarb status", "lowcarb status --watch", "lowcarb status runs/demo --utc --json"
)
def command(
    context: typer.Context,
    run_dir: Newest = None,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh until the run ends, or Ctrl-C.")] = False,
    utc: Utc = False,
    as_json: options.Json = False,
) -> None:
    """Show a run's progress, next opening, plan, forecast, saving."""
    if watch and as_json:
        raise InputError("--watch", "prints more than once, and --json one document", "leave one of them out")
    runtime = context.ensure_object(Runtime)
    run_dir = newest_run(RUNS) if run_dir is None else run_dir
    folder, times = folder_of(run_dir), Times.of(utc)
    if as_json:
        output.write_document(_document(run_dir, RunState.read(folder), runtime.clock.now()))
        return
    screen = runtime.console()
    views = _views(folder, runtime, times, _look(screen))
    if not watch or not screen.is_terminal:
        screen.print(next(views))
        return
    from rich.live import Live

    page = Live(console=screen, auto_refresh=False, vertical_overflow="crop")
    with suppress(KeyboardInterrupt), page:
        for view in views:
            page.update(view, refresh=True)


def folder_of(run_dir: Path) -> Path:
    """Return the folder of a run, also if the path is that of its ledger."""
    return run_dir.parent if run_dir.name == FILE_NAME else run_dir


def _views(folder: Path, runtime: Runtime, times: Times, look: Look) -> Iterator[RunView]:
    """Yield a view at once and after each pause, until the run is over."""
    from lowcarb_scheduler.monitor.view import RunView

    ledger, run, seen, due = folder / FILE_NAME, None, None, runtime.clock.now()
    while True:
        # Before the reading: lines that come meanwhile are read the next time. A process that is killed
        # leaves no line, so its lock is looked at, too.
        found = ledger.stat().st_size if ledger.is_file() else None, is_in_use(folder)
        began = runtime.clock.now()
        if run is None or (found != seen and began >= due):
            run, seen = RunState.read(folder), found
            due = began + _REST * (runtime.clock.now() - began)
        now = runtime.clock.now()
        yield RunView(run, now, times, look)
        if run.is_over:
            return
        runtime.clock.sleep_until(now + _EVERY)


def _look(screen: Console) -> Look:
    """Return the signs that a terminal can show; in a pipe, those of a terminal without colours."""
    from lowcarb_scheduler.monitor.view import ASCII, COLOUR, PLAIN

    # The stream itself always writes UTF-8; the locale says what the terminal reads.
    if screen.is_dumb_terminal or "utf" not in locale.getencoding().lower():
        return ASCII
    return COLOUR if screen.color_system and not screen.no_color else PLAIN


_FIELDS: Final = ("run_id", "state", "alive", "round", "rounds", "rounds_done", "opens_at", "why", "held_g",
                  "at_once_g", "saves_g", "finish", "finish_by", "late", "last_event_at")  # fmt: skip


def _document(run_dir: Path, run: RunState, now: datetime) -> dict[str, object]:
    saved, plan = run.saved, run.plan
    forecast = run.forecast and {
        "generated_at": run.forecast.generated_at, **run.forecast.intensity.provenance.to_dict(),
        "locations": run.forecast.intensity.to_points(),
    }  # fmt: skip
    return {
        "run_dir": str(run_dir),
        **{name: getattr(run, name) for name in _FIELDS},
        # Who reads the document needs no more of these events.
        "degraded": [{key: getattr(each, key) for key in ("at", "what", "why")} for each in run.degraded],
        "saved": saved and {"rounds": saved.rounds, "realised_g": saved.realised_g,
                            "run_now_g": saved.run_now_g, "saving": saved.saving},
        "plan": plan and {"round": plan.round, "emissions_g": plan.emissions_g,
                          "run_now_emissions_g": plan.run_now_emissions_g, "saving": plan.saving},
        "to_come_g": run.to_come_g,
        "upcoming": [window.to_record() for window in run.upcoming],
        "slack_s": run.slack(now),
        "forecast": forecast,
        "events": [{"at": each.at, "event": each.name} for each in run.events],
    }  # fmt: skip


# -- lowcarb runs ------------------------------------------------------------------------------------------

_FOLDER: Final = "Folder with a folder for each run."


@options.command(app, "runs", "lowcarb runs", "lowcarb runs /var/lib/lowcarb --json")
def runs(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help=_FOLDER)] = RUNS,
    utc: Utc = False,
    as_json: options.Json = False,
) -> None:
    """List runs: state, progress, next opening, saved so far."""
    found = list_runs(folder)
    if as_json:
        output.write_document({"runs": [{**asdict(run), "run_dir": str(run.run_dir)} for run in found]})
        return
    runtime = context.ensure_object(Runtime)
    screen, now, times = runtime.console(), runtime.clock.now(), Times.of(utc)
    if not found:
        output.print_line(screen, f"there is no run in {folder}/")
        return
    columns = ("run", Column("state"), Column("rounds", whole=True), "next opening", "saved so far")
    rows = [
        (run.run_dir.name, run.state, _progress(run), _opening(run, now, times), run.problem or _saved(run))
        for run in found
    ]
    output.print_table(screen, columns, rows)


def _progress(run: RunSummary) -> str:
    return "" if run.rounds is None else f"{run.rounds_done} of {run.rounds}"


def _opening(run: RunSummary, now: datetime, times: Times) -> str:
    # Of a round that trains it is the opening that was.
    if run.opens_at is None or run.state == TRAINING:
        return ""
    return times.opening(run.opens_at, now, is_virtual=run.is_virtual)


def _saved(run: RunSummary) -> str:
    if run.saved_g is None:
        return formatting.UNKNOWN if run.rounds_done else ""
    return f"{formatting.mass(run.saved_g)} CO2eq ({formatting.percent(run.saving)})"


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
