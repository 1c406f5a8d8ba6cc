"""What a run is doing, as its ledger has it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lowcarb_scheduler.clock import parse_time

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime
    from pathlib import Path

HOLDING = "holding"
AWAITING = "waiting for nodes"
GONE = "gone"


@dataclass(frozen=True, slots=True)
class RunState:
    """What a run is doing.

    Parameters
    ----------
    run_id : str
        Flower's name of it.
    state : str
        ``preparing``, ``waiting for nodes``, ``holding``, ``training``, ``gone`` (its process ended without
        closing the ledger), or how it has ended: ``completed``, ``stopped``, ``failed`` or ``out of time``.
    is_alive : bool or None
        Whether its process holds the ledger; None where that cannot be told.
    round_number : int or None
        The round that is held or trains, or opens next.
    rounds, rounds_done : int
        How many there are to be, and are over.
    opens_at : datetime or None
        When that round opens or has opened.
    why : str or None
        Why it is held, or which nodes it waits for.
    held_g, at_once_g : float or None
        What its training would emit then, and would if it opened when the hold began [gCO2eq].
    finish : datetime or None
        When the last round is planned to be over, or was.
    finish_by : datetime or None
        The deadline.
    degraded : sequence of mapping
        What went wrong so far.
    last_event_at : datetime
        The last sign of life in the ledger.
    is_virtual : bool
        Whether its clock jumps.
    """

    run_id: str
    state: str
    is_alive: bool | None
    round_number: int | None
    rounds: int
    rounds_done: int
    opens_at: datetime | None
    why: str | None
    held_g: float | None
    at_once_g: float | None
    finish: datetime | None
    finish_by: datetime | None
    degraded: Sequence[Mapping[str, Any]]
    last_event_at: datetime
    is_virtual: bool

    @classmethod
    def read(cls, run_dir: Path) -> RunState:
        """Read the ledger of a run.

        Raises
        ------
        InputError
            If there is none, or a line in it is not one of ours.
        """
        from lowcarb_scheduler.ledger import is_in_use, read_ledger

        events = read_ledger(run_dir)
        return cls.of(events, is_in_use(run_dir))

    @classmethod
    def of(cls, events: Sequence[Mapping[str, Any]], is_alive: bool | None) -> RunState:
        """Return what the events of a run say of it."""
        started, state = events[0], "preparing"
        planned = held = opened = ended = None
        finish_by, done, why = started["finish_by"], 0, None
        for event in events:
            match event["event"]:
                case "planned":
                    planned, finish_by = event, event.get("finish_by", finish_by)
                case "nodes_awaited":
                    held, state, why = None, AWAITING, event["reason"]
                case "hold_started":
                    held, state, why = event, HOLDING, event["reason"]
                case "open_now":
                    state = "preparing"
                case "round_opened":
                    opened, held, state = event, None, "training"
                case "round_closed":
                    done, opened, state = event["round"], None, "preparing"
                case "run_resumed":
                    held = opened = ended = None
                    state = "preparing"
                case "run_finished":
                    ended, held, state = event, None, event["status"]
                    finish_by = event["finish_by"]
        if ended is None and is_alive is False:
            state = GONE
        current = opened or held
        number = current["round"] if current else done + 1 if ended is None else None
        windows = {w["round"]: w["opens_at"] for w in planned["windows"]} if planned else {}
        opens_at = held["until"] if held else opened["opened_at"] if opened else windows.get(number)
        finish = ended["finish"] if ended else planned["finish"] if planned else None
        return cls(
            run_id=str(started["run_id"]),
            state=state,
            is_alive=False if ended else is_alive,
            round_number=number,
            rounds=started["rounds"],
            rounds_done=done,
            opens_at=_time(opens_at),
            why=why if held or state == AWAITING else None,
            held_g=held.get("planned_g") if held else None,
            at_once_g=held.get("at_once_g") if held else None,
            finish=_time(finish),
            finish_by=_time(finish_by),
            degraded=[event for event in events if event["event"] == "degraded"],
            last_event_at=events[-1]["at"],
            is_virtual=started["clock"] == "virtual",
        )

    @property
    def saves_g(self) -> float | None:
        """What waiting saves of this round's emissions [gCO2eq]."""
        if self.held_g is None or self.at_once_g is None:
            return None
        return self.at_once_g - self.held_g

    @property
    def is_late(self) -> bool | None:
        """Whether the last round is or was over after the deadline; None where either is not known."""
        if self.finish is None or self.finish_by is None:
            return None
        return self.finish > self.finish_by


def _time(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text, "time")
