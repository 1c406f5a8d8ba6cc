"""The command line ``lowcarb``: the table of commands, and the translation of errors into exit codes."""

from __future__ import annotations

import os
import re
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import click
import typer
from typer.core import TyperCommand, TyperGroup

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.cli.output import fail, log
from lowcarb_scheduler.errors import LowcarbError, near_miss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowcarb_scheduler.cli.runtime import Runtime

EXIT_INPUT: Final = 2
EXIT_INTERRUPTED: Final = 130  # what a shell reports for SIGINT
EXIT_PIPE: Final = 141  # and for SIGPIPE
TRACEBACK_VARIABLE: Final = "LOWCARB_TRACEBACK"


class Entry(NamedTuple):
    """Table row of a command: its module in ``cli/``, and its help for the list of commands."""

    module: str
    help: str
    hidden: bool = False


# The list of commands is printed from this table, because importing all modules takes seconds.
COMMANDS: Final = {
    "demo": Entry("demo", "Run a Flower simulation that waits for clean hours."),
    "forecast": Entry("forecast", "Show the current carbon intensity forecast for locations."),
    "plan": Entry("plan", "Plan when each round opens and which clients train in it."),
    "tradeoff": Entry("tradeoff", "Show how emissions fall when a job may finish later."),
    "backtest": Entry("backtest", "Compare planning methods on historical carbon intensity."),
    "runs": Entry("status", "List runs: state, progress, next opening, saved so far."),
    "status": Entry("status", "Show a run's progress, next opening, plan, forecast, saving."),
    "serve": Entry("status", "Show the runs of a folder as live pages, with JSON and metrics."),
    "release": Entry("status", "Open the held round now; later rounds follow the plan."),
    # The former name of release.
    "open-now": Entry("status", "Open the held round now; later rounds follow the plan.", hidden=True),
    "report": Entry("report", "Write a run's report.html, charts and tables."),
    "doctor": Entry("doctor", "Check the installation, settings and source, and suggest fixes."),
    "archive": Entry("archive", "List, fetch, import, export or prune stored intensity data."),
}


class LazyGroup(TyperGroup):
    """Group whose commands are stubs from :data:`COMMANDS` until one of them is called or completed."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = {
            name: TyperCommand(name, help=entry.help, hidden=entry.hidden) for name, entry in COMMANDS.items()
        }

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command that the arguments name; shell completion resolves commands here too."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command if name is None else self.load(name), rest

    def load(self, name: str) -> click.Command:
        """Import a command's module and replace the stub by the command."""
        module = import_module(f"lowcarb_scheduler.cli.{COMMANDS[name].module}")
        # The app of a module does not inherit the mode, which _invoke chooses at run time.
        module.app.rich_markup_mode = self.rich_markup_mode
        group = typer.main.get_group(module.app)
        group.name = name
        self.commands[name] = group.commands.get(name, group)  # archive is a group itself
        return self.commands[name]


app = typer.Typer(
    name="lowcarb",
    cls=LazyGroup,
    help="Make any Flower app wait for clean electricity.",
    epilog="Exit codes: 0: done; 1: no plan or forecast, or a check failed; 2: bad input. "
    "Every command has --json.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def load_all() -> LazyGroup:
    """Return the command line with every command imported, to walk through their options."""
    root = typer.main.get_command(app)
    assert isinstance(root, LazyGroup)
    for name in COMMANDS:
        root.load(name)
    return root


@app.callback(invoke_without_command=True)
def _lowcarb(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"lowcarb {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())


def run(argv: Sequence[str] | None, runtime: Runtime | None) -> int:
    """Run one command and return its exit code; every exception becomes one."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Looked up before parsing: an error in the arguments must become a document too.
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name may hold bytes that no encoding has
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        code = _invoke(arguments, as_json, runtime)
        sys.stdout.flush()
    except (BrokenPipeError, SystemExit) as stop:  # rich and click turn a closed pipe into SystemExit(1)
        if isinstance(stop, SystemExit) and not stop.code:
            return 0  # shell completion ends with SystemExit(0)
        # Python flushes stdout again at exit; into the closed pipe that would print a second error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    return code


def _invoke(arguments: list[str], as_json: bool, runtime: Runtime | None) -> int:
    """Run one command, and print an error as one line or one JSON document."""
    if not sys.stdout.isatty():
        app.rich_markup_mode = None  # help in a pipe is plain text
    if problem := next(filter(None, map(_impossible, arguments)), None):
        return fail("usage", problem, {}, EXIT_INPUT, as_json)
    try:
        # standalone_mode would print errors itself, over several lines, and exit. The contexts of commands
        # inherit obj; without one each makes the runtime of this machine.
        code = typer.main.get_command(app).main(
            arguments, prog_name="lowcarb", standalone_mode=False, obj=runtime
        )
    except LowcarbError as error:
        return fail(_kind(error), str(error), error.data(), error.exit_code, as_json)
    except click.UsageError as error:
        return fail("usage", _usage(error), {}, EXIT_INPUT, as_json)
    except (KeyboardInterrupt, click.Abort):
        return fail("interrupted", "stopped by the user", {}, EXIT_INTERRUPTED, as_json)
    except Exception as error:  # noqa: BLE001 - a traceback is shown on request only
        if os.environ.get(TRACEBACK_VARIABLE):
            log(traceback.format_exc())
        message = (
            f"Internal error: {type(error).__name__}: {error}; "
            f"please report it with the traceback that {TRACEBACK_VARIABLE}=1 prints"
        )
        return fail("internal", message, {}, EXIT_INPUT, as_json)
    # typer turns Ctrl-C inside a command into this exit code.
    if code == EXIT_INTERRUPTED:
        return fail("interrupted", "stopped by the user", {}, EXIT_INTERRUPTED, as_json)
    return code if isinstance(code, int) else 0


def _impossible(argument: str) -> str | None:
    """Return why no shell passes an argument; click would look for a file of that name."""
    try:
        return "An argument contains a NUL character" if b"\0" in os.fsencode(argument) else None
    except UnicodeEncodeError:
        return "An argument contains half of a surrogate pair"


def _usage(error: click.UsageError) -> str:
    """Return the message of a usage error as one line with a hint."""
    if isinstance(error, click.NoSuchOption):
        near = near_miss(error.option_name, error.possibilities or ())
        hint = f"Did you mean {near}? " if near else ""
        return f"No such option {error.option_name}. {hint}See {_path(error)} --help"
    sentences = re.split(r"(?<=[.?])\s+", error.format_message().strip())
    # click and typer both add the same suggestion.
    once = " ".join(" ".join(dict.fromkeys(sentences)).split())
    return f"{once.rstrip('.')}; see {_path(error)} --help"


def _path(error: click.UsageError) -> str:
    return error.ctx.command_path if error.ctx else "lowcarb"


def _kind(error: LowcarbError) -> str:
    """Return the kind of an error for JSON, its class name in snake case: ``plan_infeasible``."""
    name = type(error).__name__.removesuffix("Error")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
