"""``lowcarb doctor``: check settings, sources, folders and packages before a run."""

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from lowcarb_scheduler.cli import options, output
from lowcarb_scheduler.cli.runtime import Runtime
from lowcarb_scheduler.doctor.run import examine
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from rich.console import Console

    from lowcarb_scheduler.doctor.checks import Check

app = typer.Typer()
EXIT_FAULT: Final = 1
_SIGNS: Final = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "fault": ("✗", "red")}
_NAME_WIDTH: Final = 28


@options.command(app, "doctor", "lowcarb doctor", "lowcarb doctor --location DE --source synthetic")
def command(
    context: typer.Context,
    location: Annotated[
        list[str] | None, options.location_option("Further location to check, repeatable.")
    ] = None,
    source: options.Source = None,
    sdk_url: options.SdkUrl = None,
    sdk_signal: options.SdkSignal = None,
    traces: options.Traces = None,
    as_json: options.Json = False,
) -> None:
    """Check the installation, settings and source, and suggest fixes."""
    runtime = context.ensure_object(Runtime)
    given = options.source_options(source, sdk_url, sdk_signal, traces)
    checks: list[Check] = []
    screen = runtime.console(stderr=as_json)
    # Checks are printed as they finish: a slow server must not hide the others.
    with _busy(screen):
        for check in examine(given, location or [], runtime.clock, runtime.open_source):
            checks.append(check)
            if not as_json:
                _print(screen, check)
    states: Counter[str] = Counter(check.state for check in checks)
    if as_json:
        found = [asdict(check) for check in checks]
        output.write_document({"checks": found})
    else:
        output.print_line(screen, _verdict(states))
    if states["fault"]:
        raise typer.Exit(EXIT_FAULT)


def _busy(screen: "Console") -> AbstractContextManager[Any]:
    """Show a spinner on a terminal while a server answers."""
    # In a pipe the frames of a spinner would be text.
    return screen.status("checking") if screen.is_terminal else nullcontext()


def _print(screen: "Console", check: "Check") -> None:
    """Print a check: with a symbol on a terminal, as plain text in a pipe."""
    # One line each, so that a log or grep keeps check and fix together.
    result = check.detail if check.fix is None else f"{check.detail}; {check.fix}"
    if not screen.is_terminal:
        line = f"{check.state:<8}{output.shown(check.check):<{_NAME_WIDTH}} {output.shown(result)}"
        screen.out(line, highlight=False)
        return
    from rich.table import Table
    from rich.text import Text

    # A grid folds long details inside their column; plain printing would break the columns.
    sign, colour = _SIGNS[check.state]
    row = Table.grid(padding=(0, 1))
    row.add_column(width=1)
    row.add_column(width=_NAME_WIDTH, overflow="fold")
    row.add_column(overflow="fold")
    row.add_row(Text(sign, style=colour), output.shown(check.check), output.shown(result))
    screen.print(row)


def _verdict(states: "Counter[str]") -> str:
    faults, warnings = states["fault"], states["warning"]
    if not faults and not warnings:
        return "No problems"
    blocking = formatting.counted(faults, "blocking problem") if faults else "No blocking problems"
    return f"{blocking}, {formatting.counted(warnings, 'warning')}"
