"""Output of the commands: one JSON document, one line for an error, or facts and tables for people.

On a terminal, rich draws the tables; in a pipe they are plain aligned text of any width. Foreign text is
never read as markup, and its unprintable characters never reach the terminal.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple

import typer

from lowcarb_scheduler.documents import SCHEMA_VERSION, to_json
from lowcarb_scheduler.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console, JustifyMethod
    from rich.table import Table

_PLAIN_WIDTH: Final = 100_000  # columns of a pipe: never wrap
_GAP: Final = 2  # blanks between two columns
_MANY: Final = 10  # lines of a head where two do not do
_LONGEST_LINE: Final = 1_000  # characters of an error or a cell


class Column(NamedTuple):
    """Column of a table; a ``whole`` one is never folded, so narrow terminals fold the others."""

    title: str
    whole: bool = False
    justify: JustifyMethod = "left"


# Column of numbers, aligned at the right.
right: Final = partial(Column, justify="right")


def write_document(document: Mapping[str, Any]) -> None:
    """Print one JSON document on stdout, with the version of its schema."""
    sys.stdout.write(to_json({"schema_version": SCHEMA_VERSION, **document}) + "\n")


def log(text: str) -> None:
    """Print to stderr."""
    sys.stderr.write(text.rstrip("\n") + "\n")


def fail(kind: str, message: str, data: Mapping[str, Any], code: int, as_json: bool) -> int:
    """Print an error as one line on stderr or one document on stdout, and return the exit code."""
    if as_json:
        write_document({"error": {"kind": kind, "message": message, **data}})
    else:
        log(f"lowcarb: {one_line(message, _LONGEST_LINE)}")
    return code


def console(stderr: bool = False) -> Console:
    """Return a console on stdout or stderr that reads no markup and honours NO_COLOR."""
    from rich.console import Console

    screen = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    # rich would wrap at 80 columns, which breaks lines that other programs read.
    if not screen.is_terminal:
        screen.width = _PLAIN_WIDTH
    return screen


def print_title(screen: Console, title: str) -> None:
    """Print a heading."""
    screen.print(shown(title), style="bold")


def print_line(screen: Console, text: str) -> None:
    """Print a line without breaking it, so that it can be copied."""
    screen.print(shown(text), soft_wrap=True)


def print_facts(screen: Console, facts: Sequence[tuple[str, str]]) -> None:
    """Print names and values, one pair on each line."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in facts:
        table.add_row(shown(name), shown(fact))
    _print(screen, table)


def print_table(screen: Console, columns: Sequence[Column | str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under their columns."""
    from rich import box
    from rich.table import Table

    # A terminal gets a line below the head; in a pipe it would be one more line to skip.
    lines = box.SIMPLE_HEAD if screen.is_terminal else None
    gap = 1 if screen.is_terminal else 2  # the drawn box adds one
    table = Table(box=lines, show_edge=False, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    found = [Column(column) if isinstance(column, str) else column for column in columns]
    cells = [[shown(cell) for cell in row] for row in rows]
    widths = _widths(found, cells, screen.width)
    for k, column in enumerate(found):
        # A column of a given width folds at words only, as it is no narrower than the longest one.
        whole, width = (column.whole, None) if widths is None else (False, widths[k])
        table.add_column(column.title, justify=column.justify, overflow="fold", no_wrap=whole, width=width)
    for row in cells:
        table.add_row(*row)
    _print(screen, table)


def _widths(columns: Sequence[Column], rows: Sequence[Sequence[str]], available: int) -> list[int] | None:
    """Return widths at which no word is broken, and heads take two lines if possible; None if none fit.

    rich would take from all columns alike, and break heads.
    """
    from rich.cells import cell_len

    cells = [[row[k] for row in rows] for k in range(len(columns))]
    widths = [max(map(cell_len, [column.title, *own])) for column, own in zip(columns, cells, strict=True)]
    excess = sum(widths) + _GAP * (len(columns) - 1) - available
    for lines in (2, _MANY):
        least = [
            max(
                [_head_width(column.title, lines)]
                + [cell_len(part) for cell in own for part in ([cell] if column.whole else cell.split())]
            )
            for column, own in zip(columns, cells, strict=True)
        ]
        while excess > 0 and (slack := max(width - least[k] for k, width in enumerate(widths))) > 0:
            widths[[width - least[k] for k, width in enumerate(widths)].index(slack)] -= 1
            excess -= 1
    return widths if excess <= 0 else None


def _head_width(title: str, lines: int) -> int:
    """Return the least width at which a head breaks no word, and takes so many lines at most."""
    words = title.split()
    width = max(map(len, words), default=0)
    while len(textwrap.wrap(title, max(width, 1))) > lines:
        width += 1
    return width


@contextmanager
def progress(screen: Console, activity: str, steps: int) -> Iterator[Callable[[], None]]:
    """Show a progress bar if the console is a terminal; yield a function to call after each step."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not screen.is_terminal:  # rich before 14.3 would leave an empty line
        yield lambda: None
        return
    columns = TextColumn(activity), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=screen, transient=True) as bar:
        task = bar.add_task("", total=steps)
        yield lambda: bar.advance(task)


def shown(value: object) -> str:
    """Return a value as one printable line, short enough for a terminal."""
    return one_line(str(value), _LONGEST_LINE)


def _print(screen: Console, table: Table) -> None:
    """Print a table; in a pipe without the blanks that pad the last column."""
    if screen.is_terminal:
        screen.print(table)
        return
    with screen.capture() as capture:
        screen.print(table)
    lines = (line.rstrip() for line in capture.get().splitlines())
    screen.out("\n".join(lines), highlight=False)


# -- Times in UTC on request -------------------------------------------------------------------------------

VARIABLE: Final = "LOWCARB_UTC"

Utc = Annotated[
    bool,
    typer.Option(
        "--utc", envvar=VARIABLE, show_envvar=False, help=f"Show times in UTC, not your zone [{VARIABLE}]."
    ),
]
