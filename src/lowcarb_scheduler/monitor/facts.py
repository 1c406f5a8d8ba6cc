"""Facts, problems and events of a run in words: the same in a terminal and on the page."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.events import (
    Degraded,
    ForecastReceived,
    HoldStarted,
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
from lowcarb_scheduler.monitor.state import GONE, HOLDING, TRAINING
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lowcarb_scheduler.events import Event, NodeFailed
    from lowcarb_scheduler.monitor.listing import RunSummary
    from lowcarb_scheduler.monitor.state import RunState
    from lowcarb_scheduler.report.formatting import Times

_SECOND: Final = timedelta(seconds=1)  # a shorter hold is none that anybody sees


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem as of its last time, and the number of times it came up."""

    at: datetime
    text: str
    times: int


def doing(run: RunState) -> str:
    """Write what a run does, for example ``holding round 2``."""
    # In other states the number means the next round, which the opening describes.
    return run.state + (f" round {run.round}" if run.state in (HOLDING, TRAINING) else "")


def facts_of(run: RunState, now: datetime, times: Times) -> Iterator[tuple[str, str]]:
    """Yield the facts of a run at a time, as name and text."""
    moment = run.moment(now)
    # A process that is gone opens nothing, whatever its last plan was.
    if run.opens_at is not None and not run.is_over:
        opens = times.opening(run.opens_at, moment, is_virtual=run.is_virtual)
        yield "opened" if run.state == TRAINING else "next opening", opens
    if run.why is not None:
        yield "why", run.why
    if run.saves_g is not None:
        yield "waiting saves", f"{_of(run.saves_g, run.at_once_g)} in this round"
    yield "saved" if run.round is None else "saved so far", _saved(run)
    if (expected := _expected(run)) is not None:
        yield "plan expects", expected
    if run.to_come_g is not None and run.opened < run.rounds:
        yield "still to come", f"{formatting.mass(run.to_come_g)} CO2eq in {_rounds(run.opened + 1, run)}"
    if run.finish is not None:
        yield "finish" if run.round is None else "planned finish", _finish(run, run.finish, times)
    if (slack := run.slack(now)) is not None and not run.is_over:
        late = f"none: {format_duration(-slack)} late, even without waiting"
        yield "slack left", format_duration(slack) if slack >= timedelta(0) else late
    yield "process", _process(run)
    yield "last event", times.instant(run.last_event_at)


def progress(run: RunSummary) -> str:
    """Write the progress of a run in a list."""
    return "" if run.rounds is None else f"{run.rounds_done} of {run.rounds}"


def opening(run: RunSummary, now: datetime, times: Times) -> str:
    """Write the next opening of a run in a list."""
    # Of a round that trains it is the opening that was.
    if run.opens_at is None or run.state == TRAINING:
        return ""
    return times.opening(run.opens_at, now, is_virtual=run.is_virtual)


def saved(run: RunSummary) -> str:
    """Write what a run in a list has saved so far."""
    if run.saved_g is None:
        return formatting.UNKNOWN if run.rounds_done else ""
    return f"{formatting.mass(run.saved_g)} CO2eq ({formatting.percent(run.saving)})"


def problems_of(run: RunState) -> list[Problem]:
    """Return the problems of a run, each once, the newest last."""
    # A source that is down says the same every hour.
    last = {_problem(event): event.at for event in run.incidents}
    often = Counter(map(_problem, run.incidents))
    found = [Problem(at, text, often[text]) for text, at in last.items()]
    return sorted(found, key=lambda problem: problem.at)


def told(event: Event, times: Times) -> str:
    """Return an event as a line."""
    match event:
        case RunStarted():
            return f"the run started: {formatting.counted(event.rounds, 'round')}"
        case RunResumed():
            return f"the run was started again after round {max(event.round, 0)}"
        case NodesAwaited():
            return f"round {event.round} waits for nodes: {event.reason}"
        case NodesChanged():
            return f"nodes: {len(event.joined)} joined or changed, {len(event.left)} left"
        case ForecastReceived():
            return f"forecast of {formatting.counted(len(event.intensity.locations), 'location')} received"
        case Planned():
            return f"planned from round {event.round} on: {event.reason}"
        case HoldStarted():
            until = times.weekday(event.until, event.at)
            return f"round {event.round} held until {until}: {event.reason}"
        case Released():
            return f"round {event.round} released"
        case RoundOpened():
            held = f" after a hold of {format_duration(event.held)}" if event.held >= _SECOND else ""
            return f"round {event.round} opened with {formatting.counted(len(event.nodes), 'node')}{held}"
        case RoundClosed():
            done, failed = formatting.counted(event.nodes_done, "node"), event.nodes_failed
            return f"round {event.round} closed: {done} done" + (f", {failed} failed" if failed else "")
        case RunFinished():
            return f"the run ended: {event.status}"
    return event.name


def _saved(run: RunState) -> str:
    saved, done = run.saved, run.rounds_done
    if saved is None:
        return "not known: no actual intensity for its rounds" if done else "no round is done yet"
    text = f"{_of(saved.avoided_g, saved.run_now_g)} ({formatting.percent(saved.saving)})"
    if saved.rounds < done:
        text += f", in {saved.rounds} of {formatting.counted(done, 'round')}: of others it is not known"
    return text


def _expected(run: RunState) -> str | None:
    """Return the saving that the newest plan expects, from its first round on."""
    plan = run.plan
    if plan is None or run.is_over:
        return None
    if plan.emissions_g is None:
        return "nothing: without a forecast rounds open as soon as they can"
    if plan.run_now_emissions_g is None:
        return None
    avoided = _of(plan.run_now_emissions_g - plan.emissions_g, plan.run_now_emissions_g)
    # A plan has one sum at once for all its rounds, also for those that have closed since.
    return f"to save {avoided} ({formatting.percent(plan.saving)}) in {_rounds(plan.round, run)}"


def _rounds(first: int, run: RunState) -> str:
    return f"round {run.rounds}" if first == run.rounds else f"rounds {first} to {run.rounds}"


def _finish(run: RunState, finish: datetime, times: Times) -> str:
    if run.finish_by is None:
        return times.instant(finish)
    side = "after" if run.late else "before"
    return f"{times.instant(finish)}, {format_duration(abs(run.finish_by - finish))} {side} the deadline"


def _process(run: RunState) -> str:
    if run.state == GONE:
        return "ended without closing its ledger; start it again with this run-dir to resume"
    return {True: "alive", False: "ended", None: "unknown: this file system has no locks"}[run.alive]


def _problem(event: Degraded | NodeFailed) -> str:
    if isinstance(event, Degraded):
        return f"{event.what}: {event.why}; {event.consequence}"
    return f"node {event.id} failed in round {event.round}: {event.reason}"


def _of(part_g: float, whole_g: float | None) -> str:
    return f"{formatting.mass(part_g)} of {formatting.mass(whole_g)} CO2eq"
