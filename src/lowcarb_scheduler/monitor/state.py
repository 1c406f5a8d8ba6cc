"""State of a run at its last event: progress, next opening, plan, emissions so far, forecast, events."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.accounting.emissions import Saved, known_sum
from lowcarb_scheduler.accounting.replay import Record
from lowcarb_scheduler.errors import NothingHeldError
from lowcarb_scheduler.events import (
    Degraded,
    ForecastReceived,
    HoldStarted,
    NodeFailed,
    NodesAwaited,
    NodesChanged,
    Planned,
    Released,
    RoundClosed,
    RoundOpened,
    RunFinished,
    RunResumed,
    RunStarted,
)
from lowcarb_scheduler.ledger import is_in_use, read_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.events import Event, Window

HOLDING: Final = "holding"
AWAITING: Final = "waiting for nodes"
TRAINING: Final = "training"
GONE: Final = "gone"
GOING_ON: Final = ("preparing", AWAITING, HOLDING, TRAINING)
_MOST_EVENTS: Final = 8
# Events of the run as a whole; faults are listed by themselves.
_TELLING: Final = (
    RunStarted, RunResumed, NodesAwaited, NodesChanged, ForecastReceived, Planned, HoldStarted, Released,
    RoundOpened, RoundClosed, RunFinished,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RunState:
    """State of a run, derived from the events of its ledger.

    Parameters
    ----------
    run_id : str
        Flower's id of the run.
    state : str
        ``preparing``, ``waiting for nodes``, ``holding``, ``training``, ``gone`` (its process ended without
        closing the ledger), or the outcome: ``completed``, ``stopped``, ``failed`` or ``out of time``.
    alive : bool or None
        Whether its process locks the ledger; None where the file system has no locks.
    round : int or None
        The round that is held, trains, or opens next.
    rounds, rounds_done : int
        Number of all rounds, and of finished rounds.
    opens_at : datetime or None
        Opening time of that round.
    why : str or None
        Reason of the hold, or the nodes it waits for.
    held_g, at_once_g, saves_g : float or None
        Planned emissions of the held round, its emissions if it had opened at once, and the difference
        [gCO2eq].
    finish : datetime or None
        Planned or actual end of the last round.
    finish_by : datetime or None
        The deadline.
    late : bool or None
        True if the last round ends after the deadline; None where one of the times is unknown.
    saved : Saved or None
        Emissions so far; None where those of no round are known.
    plan : Planned or None
        The newest plan.
    upcoming : tuple of Window
        Rounds of that plan that have not opened.
    round_duration : timedelta or None
        Planned length of a round.
    closes_at : datetime or None
        Planned end of the round that trains.
    forecast : ForecastReceived or None
        The newest forecast.
    incidents : tuple of Degraded or NodeFailed
        Problems so far.
    events : tuple of Event
        The last events, but for faults and those of single nodes.
    started_at, last_event_at : datetime
        Time of the first and of the last event.
    is_virtual : bool
        Whether the run uses a virtual clock.
    record : Record
        Its rounds, nodes, turns and intensity, and the sums over its rounds.
    """

    run_id: str
    state: str
    alive: bool | None
    round: int | None
    rounds: int
    rounds_done: int
    opens_at: datetime | None
    why: str | None
    held_g: float | None
    at_once_g: float | None
    saves_g: float | None
    finish: datetime | None
    finish_by: datetime | None
    late: bool | None
    saved: Saved | None
    plan: Planned | None
    upcoming: tuple[Window, ...]
    round_duration: timedelta | None
    closes_at: datetime | None
    forecast: ForecastReceived | None
    incidents: tuple[Degraded | NodeFailed, ...]
    events: tuple[Event, ...]
    started_at: datetime
    last_event_at: datetime
    is_virtual: bool
    record: Record

    @classmethod
    def read(cls, run_dir: Path) -> RunState:
        """Read the ledger of a run.

        Raises
        ------
        InputError
            If the ledger is missing, or a line of it is not an event.
        """
        return cls.of(read_ledger(run_dir), is_in_use(run_dir))

    @classmethod
    def of(cls, events: Sequence[Event], is_alive: bool | None) -> RunState:
        """Return the state after events.

        Parameters
        ----------
        events : sequence of Event
            The events of a ledger, in order.
        is_alive : bool or None
            Whether a process writes in it; None if that cannot be found out.
        """
        record = Record.of(events)
        ended, plan, waiting = record.finished, record.plan, record.waiting
        # A killed process cannot write run_finished, but the lock on its ledger is gone.
        state = GONE if ended is None and is_alive is False else record.activity
        held = waiting if isinstance(waiting, HoldStarted) else None
        is_open = record.is_open and ended is None  # a run may fail in the middle of a round
        opened = record.current.opened if is_open and record.current else None
        # The number and not the count: a resumed run keeps the numbers of its first part.
        done = record.rounds[-1].number if record.rounds else 0
        # Without an open or held round the next one counts, whose window the last plan has.
        current = opened or held
        number = current.round if current else done + 1 if ended is None else None
        planned = {window.round: window.opens_at for window in record.windows.values()}
        held_g, at_once_g = (held.planned_g, held.at_once_g) if held else (None, None)
        finish = ended.finish if ended else plan.finish if plan else None
        finish_by = ended.finish_by if ended else plan.finish_by if plan else record.started.finish_by
        opens_at = held.until if held else opened.opened_at if opened else planned.get(number or 0)
        last = opened.round if opened else done
        forecasts = [event for event in events if isinstance(event, ForecastReceived)]
        return cls(
            run_id=str(record.started.run_id),
            state=state,
            alive=False if ended else is_alive,
            round=number,
            rounds=record.started.rounds,
            rounds_done=done,
            opens_at=opens_at,
            # A reason of an earlier wait would be misleading once the round has opened.
            why=waiting.reason if waiting and (held or state == AWAITING) else None,
            held_g=held_g,
            at_once_g=at_once_g,
            saves_g=None if held_g is None or at_once_g is None else at_once_g - held_g,
            finish=finish,
            finish_by=finish_by,
            late=None if finish is None or finish_by is None else finish > finish_by,
            saved=Saved.of((each.realised_g, each.run_now_g) for each in record.rounds),
            plan=plan,
            upcoming=() if ended else tuple(record.windows[k] for k in sorted(record.windows) if k > last),
            round_duration=_round_duration(record),
            closes_at=max((node.ends_at for node in opened.nodes), default=None) if opened else None,
            forecast=forecasts[-1] if forecasts else None,
            incidents=tuple(record.incidents),
            events=tuple(deque((event for event in events if isinstance(event, _TELLING)), _MOST_EVENTS)),
            started_at=record.started.began_at,
            last_event_at=record.last_at,
            is_virtual=record.started.clock == "virtual",
            record=record,
        )

    @property
    def app(self) -> str | None:
        """Publisher and name of the app, where Flower tells them."""
        return self.record.started.app

    @property
    def is_over(self) -> bool:
        """Whether no more rounds open, unless it is started again."""
        return self.round is None or self.state == GONE

    @property
    def degraded(self) -> tuple[Degraded, ...]:
        """Faults that the run went on with."""
        return tuple(event for event in self.incidents if isinstance(event, Degraded))

    @property
    def opened(self) -> int:
        """Number of the round that opened last, 0 before the first."""
        return self.round if self.state == TRAINING and self.round else self.rounds_done

    @property
    def to_come_g(self) -> float | None:
        """Emissions that the newest plan expects of the rounds that have not opened [gCO2eq], if known."""
        if self.plan is None or self.plan.emissions_g is None or self.is_over:
            return None
        # A later plan lists its first rounds only, but its sum is of all.
        past, windows = range(self.plan.round, self.opened + 1), self.record.windows
        if any(number not in windows for number in past):
            return None
        done_g = known_sum(windows[number].emissions_g for number in past) if past else 0.0
        return None if done_g is None else self.plan.emissions_g - done_g

    def to_release(self, run_dir: Path) -> int:
        """Return the round that an operator may open now.

        Raises
        ------
        NothingHeldError
            If no round is held; ``run_dir`` names the run in the message.
        """
        if self.round is None or self.state == GONE:
            raise NothingHeldError(str(run_dir), self.state, "and opens no further rounds")
        if self.is_virtual:
            raise NothingHeldError(str(run_dir), "on a virtual clock", "which does not wait")
        if self.state != HOLDING:
            raise NothingHeldError(str(run_dir), self.state)
        return self.round

    def moment(self, now: datetime) -> datetime:
        """Return the present of the run: on a virtual clock, or after its end, the time of its last event."""
        return self.last_event_at if self.is_virtual or self.is_over else now

    def slack(self, now: datetime) -> timedelta | None:
        """Return the time that the remaining rounds could still wait; negative if they are late.

        None without a deadline, or once the run is over.
        """
        if self.round is None or self.finish_by is None or self.round_duration is None:
            return None
        free_at = self.moment(now)
        if self.state == TRAINING:
            free_at = max(free_at, self.closes_at or free_at)
        return self.finish_by - free_at - (self.rounds - self.opened) * self.round_duration


def _round_duration(record: Record) -> timedelta | None:
    """Return the planned length of a round, as the newest plan has it."""
    windows: Iterable[Window] = record.plan.windows if record.plan else ()
    lengths = [(window.closes_at - window.opens_at).total_seconds() for window in windows]
    return timedelta(seconds=median(lengths)) if lengths else record.started.round_duration
