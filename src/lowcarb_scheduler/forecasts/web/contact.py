"""What was seen of a server, whatever it answered: its statuses, and its clock."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from lowcarb_scheduler.forecasts.web.answers import http_date

if TYPE_CHECKING:
    import httpx

    from lowcarb_scheduler.clock import Clock


class Contact:
    """Watches what is sent to a server, and its responses.

    Parameters
    ----------
    clock : Clock
        What the server's is compared with.

    Attributes
    ----------
    asked : bool
        Whether anything was sent.
    statuses : set of int
        The statuses it has answered with.
    ahead : timedelta or None
        By how much its clock was ahead of ours when it last told the time, to a second or so; None where it
        has not told it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.asked = False
        self.statuses: set[int] = set()
        self.ahead: timedelta | None = None

    def sent(self, _: httpx.Request) -> None:
        """Take down that something is sent."""
        self.asked = True

    def note(self, response: httpx.Response) -> None:
        """Take down a response whose head has come."""
        self.statuses.add(response.status_code)
        date = http_date(response.headers.get("date", ""))
        if date is None:
            return
        try:  # a cache tells how old the date is
            age = timedelta(seconds=int(response.headers.get("age", "0")))
            self.ahead = date + age - self._clock.now()
        except (ValueError, OverflowError):
            return
