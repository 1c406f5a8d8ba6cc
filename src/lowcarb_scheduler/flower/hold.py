"""The hold: a loop that waits for a round's opening and looks up at every wake.

It holds before messages are built, so that their time to live and the reply timeout begin with the round.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from lowcarb_scheduler.clock import Clock

WAKE: Final = timedelta(seconds=60)


def hold(clock: Clock, opening: Callable[[], datetime]) -> datetime:
    """Wait until the round may open.

    Parameters
    ----------
    clock : Clock
        Tells the time and sleeps.
    opening : callable
        Returns when the round opens. It is asked at every wake, at least once a minute, and once more right
        before the hold ends, so it may look for changes and move the opening.

    Returns
    -------
    datetime
        When the hold ended.
    """
    while (opens_at := opening()) > (now := clock.now()):
        clock.sleep_until(min(opens_at, now + WAKE))
    return now
