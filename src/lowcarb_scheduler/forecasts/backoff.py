"""How often something is asked that may fail."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

EVERY: Final = timedelta(minutes=15)
MOST_RARELY: Final = timedelta(hours=2)


class Backoff:
    """When something may be asked again: every quarter of an hour, and ever more rarely while it fails.

    A source that hangs costs its time limit at each call. Asked at this pace it costs a run next to nothing.
    """

    def __init__(self) -> None:
        self.asked_at: datetime | None = None
        self.failures = 0

    def due(self, now: datetime) -> bool:
        """Return whether it may be asked."""
        wait = min(EVERY * 2**self.failures, MOST_RARELY)
        return self.asked_at is None or now - self.asked_at >= wait

    def asked(self, now: datetime, answered: bool) -> None:
        """Note that it was asked, and whether it answered."""
        self.asked_at = now
        self.failures = 0 if answered else min(self.failures + 1, 10)
