"""``lowcarb status``, ``runs`` and ``release``: runs as their ledgers show them, and the end of a hold."""

from __future__ import annotations

import locale
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.output import Column, Utc
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.waiting import request_release
from lowcarb_scheduler.ledger import FILE_NAME
from lowcarb_scheduler.monitor.documents import document_of, listing_of
from lowcarb_scheduler.monitor.follow import Follower
from lowcarb_scheduler.monitor.listing import list_runs, newest_run
from lowcarb_scheduler.monitor.state import TRAINING, RunState
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
        output.write_document(document_of(run_dir, RunState.read(folder), runtime.clock.now()))
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

    follower = Follower(folder, runtime.clock)
    while True:
        run, now = follower.read(), runtime.clock.now()
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
        output.write_document(listing_of(found))
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
    number = run.to_release(run_dir)
    request_release(folder, number)
    if as_json:
        output.write_document({"run_dir": str(run_dir), "round": number, "was_to_open_at": run.opens_at})
    else:
        screen = context.ensure_object(Runtime).console()
        output.print_line(screen, f"round {number} opens within {_SECONDS} seconds")
