"""How a command's help looks: drawn on a terminal, plain in a pipe, with examples at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from typer.core import TyperCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    import click

_PARAGRAPH = "\n\n"  # what typer makes a line each of


def examples(lines: Sequence[str]) -> str:
    """Return the end of a command's help."""
    return _PARAGRAPH.join(("Examples:", *lines))


class Command(TyperCommand):
    """A command whose examples stand a line each, in plain text too."""

    def get_help(self, ctx: click.Context) -> str:
        """Return the help; in plain text typer leaves a backslash before each bracket of its own."""
        return super().get_help(ctx).replace("\\[", "[")

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they are, so that they can be copied."""
        if self.epilog:
            title, *lines = self.epilog.split(_PARAGRAPH)
            formatter.write(f"\n{title}\n")
            formatter.write("".join(f"  {line}\n" for line in lines))
