"""The command line ``lowcarb``: one thin module for each command.

:func:`main` imports the module of the command that is called, so ``lowcarb --help`` loads neither numpy,
pandas, httpx nor flwr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lowcarb_scheduler.cli.runtime import Runtime


def main(argv: Sequence[str] | None = None, runtime: Runtime | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments, without the program's name; by default those of the process.
    runtime : Runtime, optional
        Clock, console and sources of the command; by default those of this machine.

    Returns
    -------
    int
        0: done. 1: no plan or forecast, or a check failed. 2: bad input. 130: interrupted.
    """
    from lowcarb_scheduler.cli.app import run

    return run(argv, runtime)
