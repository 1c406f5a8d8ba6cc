"""``lowcarb status``, ``runs``, ``serve``, ``release``: runs as their ledgers show them, and a hold's end."""

from __future__ import annotations

import locale
import sys
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
from lowcarb_scheduler.monitor import facts
from lowcarb_scheduler.monitor.documents import document_of, listing_of
from lowcarb_scheduler.monitor.follow import Follower
from lowcarb_scheduler.monitor.listing import list_runs, newest_run
from lowcarb_scheduler.monitor.state import RunState
from lowcarb_scheduler.report.formatting import Times

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

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

_FOLDER: Final = "Folder that contains the folders of runs."


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
        (run.run_dir.name, run.state, facts.progress(run), facts.opening(run, now, times),
         run.problem or facts.saved(run))
        for run in found
    ]  # fmt: skip
    output.print_table(screen, columns, rows)


# -- lowcarb serve -----------------------------------------------------------------------------------------

_PORT: Final = 8030
_HOST: Final = "Address for access from other machines, which then need a token; 0.0.0.0: all."
_FURTHER: Final = "Further host name of this server, for example behind a proxy."


@options.command(app, "serve", "lowcarb serve --open", "lowcarb serve /var/lib/lowcarb --port 9000")
def serve(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help=_FOLDER)] = RUNS,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0: any free port.")] = _PORT,
    host: Annotated[str | None, typer.Option(metavar="HOST", help=_HOST)] = None,
    allow_host: Annotated[list[str] | None, typer.Option(metavar="NAME", help=_FURTHER)] = None,
    open_page: Annotated[bool, typer.Option("--open", help="Open the pages in a browser.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show the runs of a folder as live pages, with JSON and metrics.

    The pages only read ledgers, and only this machine has access, unless --host is given. The printed token
    lets a held round open. Ctrl-C stops the pages, not the runs.
    """
    import secrets
    import webbrowser

    from lowcarb_scheduler.monitor import server
    from lowcarb_scheduler.monitor.access import LOOPBACK, Access
    from lowcarb_scheduler.monitor.follow import RunFolder

    runtime = context.ensure_object(Runtime)
    if (folder / FILE_NAME).is_file():
        fix = f"give the one that holds it: {folder.absolute().parent}"
        raise InputError("FOLDER", f"{folder} is the folder of a run", fix)
    if host is not None and not host.strip():
        raise InputError("--host", "is empty", "give an address of this machine, or leave it out")
    runs = RunFolder(folder, runtime.clock)
    release_token, read_token = secrets.token_urlsafe(18), secrets.token_urlsafe(18)
    access = Access.of(host, tuple(allow_host or ()), release_token, read_token)
    with server.bind(LOOPBACK if host is None else host, port) as listening:
        address = server.address_of(listening, host, access.read_token)
        document = {"address": address, "release_token": release_token, "read_token": access.read_token}
        if as_json:
            output.write_document(document)
            sys.stdout.flush()
        else:
            screen = runtime.console()
            output.print_line(screen, f"runs of {folder}/ are shown at {address}")
            output.print_line(screen, f"release token: {release_token}")
            if server.plotly_script() is None:
                output.print_line(screen, f"pages have no charts: {server.NO_PLOTLY}")
            output.print_line(screen, "Ctrl-C stops the pages, not the runs")
        if open_page:
            webbrowser.open(address)
        server.serve(runs, runtime.clock, access, request_release, listening)


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
