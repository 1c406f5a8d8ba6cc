"""JSON documents of runs: the same from ``--json`` and from the pages' address."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.monitor.listing import RunSummary
    from lowcarb_scheduler.monitor.state import RunState

_FIELDS: Final = (
    "run_id", "app", "state", "alive", "round", "rounds", "rounds_done", "opens_at", "why", "held_g",
    "at_once_g", "saves_g", "finish", "finish_by", "late", "last_event_at",
)  # fmt: skip


def document_of(run_dir: Path, run: RunState, now: datetime) -> dict[str, object]:
    """Return the document of a run at a time."""
    saved, plan = run.saved, run.plan
    forecast = run.forecast and {
        "generated_at": run.forecast.generated_at, **run.forecast.intensity.provenance.to_dict(),
        "locations": run.forecast.intensity.to_points(),
    }  # fmt: skip
    return {
        "run_dir": str(run_dir),
        **{name: getattr(run, name) for name in _FIELDS},
        # Who reads the document needs no more of these events.
        "degraded": [{key: getattr(each, key) for key in ("at", "what", "why")} for each in run.degraded],
        "saved": saved and {"rounds": saved.rounds, "realised_g": saved.realised_g,
                            "run_now_g": saved.run_now_g, "saving": saved.saving},
        "plan": plan and {"round": plan.round, "emissions_g": plan.emissions_g,
                          "run_now_emissions_g": plan.run_now_emissions_g, "saving": plan.saving},
        "to_come_g": run.to_come_g,
        "upcoming": [window.to_record() for window in run.upcoming],
        "slack_s": run.slack(now),
        "forecast": forecast,
        "events": [{"at": each.at, "event": each.name} for each in run.events],
    }  # fmt: skip


def listing_of(runs: Iterable[RunSummary]) -> dict[str, object]:
    """Return the document of the runs of a folder."""
    return {"runs": [{**asdict(run), "run_dir": str(run.run_dir)} for run in runs]}
