"""Content of the live pages: every text and number on them, in the time zone of who looks.

The pages themselves are fixed files; a script fills them in as text, never as markup.
"""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.errors import MissingExtraError, one_line
from lowcarb_scheduler.monitor.facts import (
    doing,
    facts_of,
    opening,
    problems_of,
    progress,
    saved,
    told,
)
from lowcarb_scheduler.monitor.state import AWAITING, GOING_ON, GONE, HOLDING
from lowcarb_scheduler.report import formatting

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.monitor.listing import RunSummary
    from lowcarb_scheduler.monitor.state import RunState
    from lowcarb_scheduler.report.formatting import Times

_MOST_PROBLEMS, _MOST_PLACES = 8, 12
_IN_HEAD: Final = ("next opening", "opened", "why", "waiting saves", "saved", "saved so far", "plan expects")


def list_page(folder: Path, runs: Sequence[RunSummary], now: datetime, times: Times) -> dict[str, Any]:
    """Return the content of the list of runs."""
    return {
        "about": f"{formatting.counted(len(runs), 'run')} in {folder}/",
        "runs": [
            {
                "name": run.run_dir.name, "title": one_line(run.app or run.run_dir.name, 80),
                "about": _about(run, times), "tone": _tone(run.state), "state": run.state,
                "progress": progress(run), "rounds": run.rounds or 0, "rounds_done": run.rounds_done or 0,
                "opening": opening(run, now, times),
                "saved": saved(run), "problem": one_line(run.problem or ""),
            }
            for run in runs
        ],
    }  # fmt: skip


def _about(run: RunSummary, times: Times) -> str:
    """Return the folder of a run whose title is its app, and when it began."""
    parts = [run.run_dir.name] if run.app else []
    if run.started_at is not None:
        parts.append(f"started {times.instant(run.started_at)}")
    return ", ".join(parts)


def run_page(name: str, run: RunState, now: datetime, times: Times) -> dict[str, Any]:
    """Return the content of the page of a run."""
    record, moment, facts = run.record, run.moment(now), dict(facts_of(run, now, times))
    is_counted = run.opens_at is not None and run.state in (HOLDING, "preparing") and not run.is_virtual
    steps = f"{run.rounds_done} of {formatting.counted(run.rounds, 'round')}"
    app = one_line(run.app or "", 80)
    about = f"{record.started.strategy}, started {times.instant(run.started_at)}"
    saved_g, plan, problems = run.saved, run.plan, problems_of(run)
    expected = plan.saving if plan and not run.is_over else None
    saved_part = formatting.percent(saved_g.saving) if saved_g else None
    expected_part = formatting.percent(expected) if expected is not None else None
    return {
        "name": name,
        "title": app or f"Run {run.run_id}",
        "about": f"Run {run.run_id}: {about}" if app else about,
        "state": run.state,
        "tone": _tone(run.state),
        "headline": doing(run),
        "progress": f"Round {run.round} of {run.rounds}" if run.state in GOING_ON else steps,
        "now": now,
        "counts_to": run.opens_at if is_counted else None,
        "opening": times.instant(run.opens_at) if run.opens_at and not run.is_over else None,
        "why": run.why,
        "waiting_saves": facts.get("waiting saves"),
        "rounds": run.rounds,
        "rounds_done": run.rounds_done,
        "round": run.round,
        "can_release": run.state == HOLDING and not run.is_virtual,
        "saved": saved_part,
        "saved_told": _without(facts.get("saved so far", facts.get("saved")), saved_part),
        "expected": expected_part,
        "expected_told": _without(facts.get("plan expects"), expected_part),
        "facts": [
            *((key, text) for key, text in facts.items() if key not in _IN_HEAD),
            *_further_facts(run, moment, times),
        ],
        "notes": list(_notes(run)),
        "labels": formatting.labels(record.provenance),
        **_charts(run, now, times),
        "participation": _participation(run),
        "problems": [
            {"at": times.weekday(each.at, moment), "text": one_line(each.text, 500), "times": each.times}
            for each in problems[: -_MOST_PROBLEMS - 1 : -1]
        ],
        "more_problems": max(len(problems) - _MOST_PROBLEMS, 0),
        "events": [
            {"at": times.weekday(each.at, moment), "text": one_line(told(each, times), 500)}
            for each in reversed(run.events)
        ],
    }  # fmt: skip


def _without(text: str | None, part: str | None) -> str | None:
    """Return a fact without its percentage, which stands above it."""
    return text.replace(f" ({part})", "", 1) if text else text


def _charts(run: RunState, now: datetime, times: Times) -> dict[str, Any]:
    try:
        from lowcarb_scheduler.monitor.chart import charts_of

        return {"charts": charts_of(run, now, times), "no_charts": None}
    except MissingExtraError as error:
        return {"charts": None, "no_charts": str(MissingExtraError(error.package, "interactive"))}


def _tone(state: str) -> str:
    """Return the class of colours of a state."""
    if state in (HOLDING, AWAITING):
        return "waits"
    if state in GOING_ON:
        return "works"
    return "done" if state == "completed" else "ended"


def _further_facts(run: RunState, moment: datetime, times: Times) -> Iterator[tuple[str, str]]:
    record = run.record
    if run.finish_by is not None:
        yield "deadline", times.instant(run.finish_by)
    if run.forecast is not None:
        age = format_duration(max(moment - run.forecast.generated_at, timedelta(0)))
        issued = times.weekday(run.forecast.generated_at, moment)
        yield "newest forecast", f"issued {issued}, {age} ago"
    turns = record.turns.values()
    if record.rounds:
        basis = formatting.basis(record.energy_by_basis)
        yield "energy so far", f"{formatting.energy(record.energy_kwh)} ({basis})"
        yield "turns", f"{min(turns)} to {max(turns)} a client, Jain's index {record.jain:.3f}"
    yield "software", f"lowcarb-scheduler {record.started.version}, flwr {record.started.flwr_version}"


def _notes(run: RunState) -> Iterator[str]:
    """Yield what changes the meaning of the numbers, or asks for an act."""
    provenance = run.record.provenance
    if provenance.synthetic:
        yield "Synthetic: the carbon intensities are made up. The numbers show how the scheduler works."
    elif not provenance.source:
        yield "No forecast source is configured: rounds open at once, and their emissions are not known."
    if run.is_virtual:
        yield "Virtual clock: this run does not really wait, its clock jumps."
    if run.state == GONE:
        yield "The process of this run has ended without closing its ledger. Start it again to resume."
    if run.late:
        yield "Late: the last round ends after the deadline."


def _participation(run: RunState) -> list[dict[str, Any]]:
    """Return completed turns and clients by place, the most turns first."""
    turns: Counter[str] = Counter()
    clients: Counter[str] = Counter()
    for key, node in run.record.all_nodes.items():
        turns[node.place] += run.record.turns.get(key, 0)
        clients[node.place] += 1
    order = sorted(turns, key=lambda place: (-turns[place], place))
    found = [(one_line(place, 40), turns[place], clients[place]) for place in order[:_MOST_PLACES]]
    if rest := order[_MOST_PLACES:]:
        others = sum(turns[place] for place in rest), sum(clients[place] for place in rest)
        found.append((f"{len(rest)} others", *others))
    most = max((count for _, count, _ in found), default=0)
    return [
        {"place": place, "turns": count, "clients": formatting.counted(number, "client"),
         "part": count / most if most else 0.0}
        for place, count, number in found
    ]  # fmt: skip
