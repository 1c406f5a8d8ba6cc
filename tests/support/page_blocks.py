"""Code blocks of README and docs, and the sessions in them, run as a reader would.

    python tests/support/page_blocks.py docs/tutorial/ten-minutes.md

writes what the commands of a page print now where it shows what they printed.
"""

from __future__ import annotations

import importlib
import io
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import tomllib
from contextlib import redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import click
import typer
from flwr.app import Context, RecordDict

from lowcarb_scheduler.cli import main
from lowcarb_scheduler.cli.app import app
from lowcarb_scheduler.testing import InMemoryGrid

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r'^( *)```(\w+)(?: title="([^"]+)")?[^\n]*\n(.*?)^\1```$', flags=re.MULTILINE | re.DOTALL)
ELLIPSIS = "..."  # a line that stands for any lines


class Block(NamedTuple):
    """One code block: its language, the file it is to be saved as, and its text."""

    language: str
    title: str
    text: str


class Step(NamedTuple):
    """A command of a session, as it is written and as one line, and what the page says it prints."""

    written: list[str]
    shown: list[str]

    @property
    def command(self) -> str:
        return " ".join(line.removesuffix("\\").strip() for line in self.written)[2:]


def blocks(page: str, *languages: str) -> list[Block]:
    """Return the code blocks of a page, without the indentation they stand in."""
    found = [
        Block(language, title, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE))
        for indent, language, title, text in FENCE.findall(page)
    ]
    return [each for each in found if not languages or each.language in languages]


def steps(page: str) -> list[Step]:
    """Return the commands of a page's sessions, those behind ``$``, each with what it prints."""
    found: list[Step] = []
    for block in blocks(page, "console"):
        lines = iter(block.text.splitlines())
        for line in lines:
            if line.startswith("$ "):
                found.append(Step([line], []))
                while found[-1].written[-1].endswith("\\"):
                    found[-1].written.append(next(lines))
            else:
                found[-1].shown.append(line)
    return found


def commands(page: str) -> list[str]:
    """Return every line of a page that calls ``lowcarb``, in a block of shell, a session or indented."""
    prose = FENCE.sub("", page)
    lines = [step.command for step in steps(page)]
    lines += [
        line for block in blocks(page, "bash", "sh") for line in block.text.replace("\\\n", "").splitlines()
    ]
    lines += re.findall(r"^    (.*)$", prose, flags=re.MULTILINE)
    return [line.strip() for line in lines if line.strip().startswith("lowcarb ")]


def parse(line: str) -> None:
    """Read a command line as the program does, without running it.

    Raises
    ------
    click.UsageError, LowcarbError
        If a command, an option or a value of it does not exist.
    """
    words = shlex.split(re.split(r" [|>]|&&", line)[0], comments=True)[1:]
    command: click.Command = typer.main.get_command(app)
    context = click.Context(command, info_name="lowcarb")
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        context = click.Context(command, info_name=name, parent=context)
        assert command is not None
    command.make_context(context.info_name, words, parent=context.parent)


def same(shown: list[str], printed: list[str]) -> bool:
    """Return whether lines are those that were printed, where ``...`` stands for any."""
    if not shown:
        return not printed
    if shown[0] == ELLIPSIS:
        return any(same(shown[1:], printed[k:]) for k in range(len(printed) + 1))
    return bool(printed) and shown[0] == printed[0] and same(shown[1:], printed[1:])


def play(page: str) -> list[tuple[Step, list[str]]]:
    """Run the sessions of a page in this folder, after saving its files; return what each command printed.

    ``flwr run`` runs the quickstart with its nodes in this process. What sets up the shell is left out.
    """
    for block in blocks(page):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
    programs = {"lowcarb": _lowcarb, "flwr": _flwr}
    return [
        (step, programs[words[0]](words[1:]))
        for step in steps(page)
        if (words := shlex.split(os.path.expandvars(step.command), comments=True))[0] in programs
    ]


def _lowcarb(words: list[str]) -> list[str]:
    with redirect_stdout(io.StringIO()) as out:
        main(words)
    return out.getvalue().splitlines()


def _flwr(words: list[str]) -> list[str]:
    """Run the quickstart with the settings and the number of nodes of a ``flwr run``.

    Returns its log; ``...`` stands for lines of Flower's own, and those that name this folder.
    """
    path = ROOT / "examples" / "quickstart-numpy"
    project = tomllib.loads((path / "pyproject.toml").read_text(encoding="utf-8"))
    declared = project["tool"]["flwr"]["app"]["config"]
    changed = tomllib.loads(re.sub(r"\s+(?=[a-z-]+=)", "\n", words[words.index("--run-config") + 1]))
    assert changed.keys() <= declared.keys()  # Flower refuses others
    nodes = int(words[words.index("--federation-config") + 1].removeprefix("num-supernodes="))
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(f"INFO :      {record.getMessage()}")
    logging.getLogger("flwr").addHandler(handler)
    sys.path.insert(0, str(path))
    try:
        server, client = (
            importlib.import_module(f"quickstart_numpy.{side}_app").app for side in ("server", "client")
        )
        grid = InMemoryGrid(client, [{"partition-id": k, "num-partitions": nodes} for k in range(nodes)])
        server(grid, Context(1, 0, {}, RecordDict(), {**declared, **changed}))
    finally:
        sys.path.remove(str(path))
        logging.getLogger("flwr").removeHandler(handler)
        for module in [name for name in sys.modules if name.split(".")[0] == "quickstart_numpy"]:
            del sys.modules[module]
    ours = [line if "lowcarb: " in line and str(Path.cwd()) not in line else ELLIPSIS for line in lines]
    return [line for before, line in pairwise([None, *ours]) if (line, before) != (ELLIPSIS, ELLIPSIS)]


def rewritten(page: str, played: list[tuple[Step, list[str]]]) -> str:
    """Return a page with what its commands print now, where that differs from what it shows."""
    for step, printed in played:
        if not same(step.shown, printed):
            before = "\n".join([*step.written, *step.shown])
            page = page.replace(before, "\n".join([*step.written, *printed]), 1)
    return page


if __name__ == "__main__":
    path = Path(sys.argv[1]).absolute()
    folder = Path(tempfile.mkdtemp())
    os.chdir(folder)
    os.environ |= {"LOWCARB_UTC": "1", "XDG_DATA_HOME": str(folder / "data"), "PWD": str(folder)}
    text = path.read_text(encoding="utf-8")
    path.write_text(rewritten(text, play(text)), encoding="utf-8")
    shutil.rmtree(folder)
