"""The commands, written from the program itself: ``<!-- commands -->`` in a page becomes them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import click

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # importing typer warns of what will be gone in Click 9

from lowcarb_scheduler.cli.app import load_all

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the commands where the page asks for them."""
    return markdown.replace(MARK, "\n".join(_lines())) if MARK in markdown else markdown


def commands() -> Iterator[tuple[click.Context, click.Command]]:
    """Return every command with its context, groups by their members."""
    yield from _walk(load_all(), None, "lowcarb")


def _walk(
    command: click.Command, above: click.Context | None, name: str
) -> Iterator[tuple[click.Context, click.Command]]:
    context = click.Context(command, info_name=name, parent=above)
    if not hasattr(command, "commands"):
        yield context, command
        return
    for child in command.commands.values():
        if not child.hidden:
            yield from _walk(child, context, child.name or "")


def _lines() -> Iterator[str]:
    for context, command in commands():
        pieces = " ".join(command.collect_usage_pieces(context))
        yield f"## {context.command_path}\n"
        yield f"{_text(command.help)}\n"
        yield f"```text\n{context.command_path} {pieces}\n```\n"
        rows = [row for parameter in command.get_params(context) if (row := _row(parameter, context))]
        if rows:
            yield "| option | | |\n|---|---|---|"
            yield from rows
            yield ""
        if lines := _examples(command.epilog):
            yield "```sh\n" + "\n".join(lines) + "\n```\n"


def _row(parameter: click.Parameter, context: click.Context) -> str | None:
    record = parameter.get_help_record(context)
    if "--help" in parameter.opts:
        return None
    if record is None:  # an argument
        return f"| `{parameter.make_metavar(context)}` | {_text(getattr(parameter, 'help', ''))} | required |"
    names, _ = record
    notes = []
    if parameter.required:
        notes.append("required")
    default = parameter.get_default(context, call=False)
    if default not in (None, False, "", ()) and not callable(default):
        notes.append(f"default `{default}`")
    help_text = _text(getattr(parameter, "help", ""))
    # Each name has code marks of its own, so that a former name can be found on the page too.
    shown = names.replace("|", " or ").replace(", ", "`, `")
    return f"| `{shown}` | {help_text} | {', '.join(notes)} |"


def _text(text: str | None) -> str:
    """Return text of a help page as text of a Markdown cell."""
    return " ".join((text or "").split()).replace("|", "\\|").replace("[", "\\[").replace("<", "&lt;")


def _examples(epilog: str | None) -> list[str]:
    """Return the command lines of an epilog."""
    return [line.strip() for line in (epilog or "").splitlines() if line.strip().startswith("lowcarb")]
