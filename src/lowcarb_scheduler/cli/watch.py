"""Showing something again and again: in place on a terminal, one below the other in a pipe."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from lowcarb_scheduler.cli import output
from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import LowcarbError, one_line

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from rich.console import Console

    from lowcarb_scheduler.cli.times import Times
    from lowcarb_scheduler.clock import Clock


def watch(show: Callable[[Console], None], every: timedelta, clock: Clock, times: Times) -> None:
    """Show something until the user stops it.

    When it fails later than the first time, what was shown before stays, with the reason below it.

    Parameters
    ----------
    show : callable
        Prints it on a console; raises LowcarbError where there is nothing to show.
    every : timedelta
        From one time to the next.
    clock : Clock
        Tells the time, and sleeps.
    times : Times
        How times are shown.
    """
    screen = output.console()
    with suppress(KeyboardInterrupt):
        if not screen.is_terminal:
            _repeat(show, lambda text: _write(screen, text), every, clock, times)
            return
        from rich.live import Live
        from rich.text import Text

        with Live(console=screen, auto_refresh=False, vertical_overflow="visible") as live:
            _repeat(show, lambda text: live.update(Text.from_ansi(text), refresh=True), every, clock, times)


def _repeat(
    show: Callable[[Console], None], put: Callable[[str], None], every: timedelta, clock: Clock, times: Times
) -> None:
    shown = ""
    while True:
        asked_at = clock.now()
        said = f"asked at {times.instant(asked_at)}, every {format_duration(every)}; Ctrl-C ends"
        page = output.console()
        try:
            with page.capture() as capture:
                show(page)
            shown = capture.get()
        except LowcarbError as error:
            if not shown:
                raise
            said = f"{said}\nthis time in vain: {one_line(str(error))}"
        put(f"{shown}{said}")
        clock.sleep_until(asked_at + every)


def _write(screen: Console, text: str) -> None:
    """Print one of several pages."""
    screen.file.write(f"{text}\n\n")
    screen.file.flush()
