"""The list of errors, written from their classes: ``<!-- errors -->`` in a page becomes it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from lowcarb_scheduler import errors
from lowcarb_scheduler.cli.app import _kind

if TYPE_CHECKING:
    from collections.abc import Iterator

MARK = "<!-- errors -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the list where the page asks for it."""
    return markdown.replace(MARK, "\n".join(_lines())) if MARK in markdown else markdown


def _lines() -> Iterator[str]:
    for error in _tree(errors.LowcarbError):
        first = (inspect.getdoc(error) or "").splitlines()[0]
        base = error.__mro__[1].__name__
        yield f"### {error.__name__} {{ #{error.__name__} }}\n"
        yield f"{first}\n"
        yield f"Kind `{_kind(error.__new__(error))}`, exit code {error.exit_code}; a subclass of `{base}`.\n"
        carried = _parameters(error)
        if carried:
            yield "| carries | |\n|---|---|"
            yield from (f"| `{name}` | {meaning} |" for name, meaning in carried)
            yield ""


def _tree(root: type[errors.LowcarbError]) -> Iterator[type[errors.LowcarbError]]:
    for error in root.__subclasses__():
        if error.__module__.startswith("lowcarb_scheduler."):
            yield error
            yield from _tree(error)


def _parameters(error: type[errors.LowcarbError]) -> list[tuple[str, str]]:
    """Return name and meaning of what the class's docstring lists under Parameters."""
    lines = (inspect.getdoc(error) or "").splitlines()
    if "Parameters" not in lines:
        return []
    found: list[tuple[str, str]] = []
    for line in lines[lines.index("Parameters") + 2 :]:
        if line.startswith(" "):
            name, meaning = found[-1]
            found[-1] = (name, f"{meaning} {line.strip()}".strip())
        elif " : " in line:
            found.append((line.split(" : ")[0], ""))
        else:
            break
    return found
