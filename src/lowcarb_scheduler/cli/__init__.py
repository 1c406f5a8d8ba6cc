"""The command line ``lowcarb``: one thin module a command group.

Only :func:`main` stands here; what it needs is imported when it runs, and numpy, pandas, httpx and flwr only
by the commands that use them, so that ``lowcarb --help`` answers at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the program's name; by default those of the process.

    Returns
    -------
    int
        0: done. 1: a well-formed question whose answer is no. 2: bad input. 130: interrupted.
    """
    from lowcarb_scheduler.cli.app import run

    return run(argv)
