"""Rounds of earlier runs of the same job, from the ledgers beside that of a run."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import lru_cache
from heapq import nlargest
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.events import RoundClosed, RoundOpened, RunFinished, RunResumed
from lowcarb_scheduler.ledger import FILE_NAME, iter_kinds, read_start

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta
    from pathlib import Path

    from lowcarb_scheduler.events import Event, RunStarted

logger = logging.getLogger("flwr")

MOST_RUNS: Final = 50  # earlier runs that are read, the newest ones
_MOST_LOOKED_AT: Final = 300  # ledgers of which the first line is read
_MOST_ROUNDS: Final = 1000
_WHOLE: Final = ("completed", "out of time")  # ends of a run after its last round was over
_MOST_BYTES: Final = 64 << 20  # size of a ledger that is read: the start of a run waits for it


@dataclass(frozen=True, slots=True)
class EarlierRounds:
    """Rounds of earlier runs of the same job.

    Parameters
    ----------
    seconds : tuple of float
        Durations of their rounds, from an opening to the moment the next round could open [s].
    runs : int
        Number of these runs.
    """

    seconds: tuple[float, ...] = ()
    runs: int = 0

    @property
    def typical_s(self) -> float:
        """Median of the durations [s]; 0 where there are none."""
        return _median(self.seconds) if self.seconds else 0.0


# Asked for before every round, and at each look during a hold.
_median = lru_cache(maxsize=8)(median)


NO_EARLIER_ROUNDS: Final = EarlierRounds()


@dataclass(frozen=True, slots=True)
class JobKind:
    """Properties that the rounds of two runs have in common if they take about the same time.

    Parameters
    ----------
    strategy : str
        Class name of the strategy.
    model_bytes : int
        Size of the model [bytes].
    round_duration : timedelta or None
        The setting.
    """

    strategy: str
    model_bytes: int
    round_duration: timedelta | None

    def is_of(self, start: RunStarted) -> bool:
        """Return whether a run is of this kind; on a virtual clock rounds take no time of their own."""
        own = start.strategy, start.model_bytes, start.round_duration
        return own == (self.strategy, self.model_bytes, self.round_duration) and start.clock != "virtual"


def earlier_rounds(folder: Path, kind: JobKind, before: Path) -> EarlierRounds:
    """Read the rounds of the newest runs of a kind.

    A ledger that cannot be read is left out, with one line in the log.

    Parameters
    ----------
    folder : Path
        Folder of runs.
    kind : JobKind
        Kind of job.
    before : Path
        Folder of the run that begins, which is left out.
    """
    seconds: list[float] = []
    runs = 0
    for run_dir in _newest(folder, before):
        try:
            if not kind.is_of(read_start(run_dir)):
                continue
            took = round_durations(iter_kinds(run_dir, (RoundOpened, RoundClosed, RunResumed, RunFinished)))
        except InputError as error:
            logger.warning("lowcarb: the rounds of an earlier run are ignored: %s", error)
            continue
        if took:
            seconds, runs = [*seconds, *took], runs + 1
        if runs == MOST_RUNS or len(seconds) >= _MOST_ROUNDS:
            break
    return EarlierRounds(tuple(seconds[:_MOST_ROUNDS]), runs)


def round_durations(events: Iterable[Event]) -> list[float]:
    """Return the durations of the rounds of a run [s], from its openings and closings.

    A round lasts until the next one could open: evaluation on the server follows its end. The last one, and
    one after which the run was resumed, last until their end. A round that was stopped does not count.
    """
    took: dict[int, float] = {}  # by number: a round that was lost in a crash has opened twice
    for event, following in pairwise([*events, None]):
        if not isinstance(event, RoundClosed):
            continue
        if isinstance(following, RunFinished) and following.status not in _WHOLE:
            continue
        until = event.closes_at
        if isinstance(following, RoundOpened):
            until = max(until, following.opened_at - following.held)
        took[event.round] = _seconds(event.opens_at, until)
    return list(took.values())


def _seconds(start: datetime, end: datetime) -> float:
    return max((end - start).total_seconds(), 0.0)


def _newest(folder: Path, before: Path) -> list[Path]:
    """Return the folders of the newest runs, the newest first, without ledgers of an unusual size."""
    found: list[tuple[float, str]] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    status = (folder / entry.name / FILE_NAME).stat()
                except OSError:  # no run
                    continue
                if status.st_size <= _MOST_BYTES and entry.name != before.name:
                    found.append((status.st_mtime, entry.name))
    except OSError:  # the first run of all
        return []
    return [folder / name for _, name in nlargest(_MOST_LOOKED_AT, found)]
