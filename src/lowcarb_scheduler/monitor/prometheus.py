"""Metrics of runs as Prometheus reads them: its text format 0.0.4, every sample a gauge."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.accounting.emissions import known_sum
from lowcarb_scheduler.clock import EPOCH
from lowcarb_scheduler.monitor.state import HOLDING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from lowcarb_scheduler.monitor.state import RunState

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_SECOND: Final = timedelta(seconds=1)
# Names end with their unit, as Prometheus has it.
_HELP: Final = {
    "runs": "Number of runs in the folder, by state.",
    "run_state": "1 for the state that the run is in.",
    "rounds": "Number of all rounds.",
    "rounds_done": "Number of finished rounds.",
    "rounds_known": "Number of finished rounds whose actual intensity is known.",
    "held_seconds": "Time that rounds have been held so far, the present hold included.",
    "planned_grams": "CO2eq of the finished rounds as planned when each opened.",
    "realised_grams": "CO2eq of the rounds that are known, on actual intensity.",
    "run_now_grams": "CO2eq of the same rounds by random clients, back-to-back from the start.",
    "to_come_grams": "CO2eq that the newest plan expects of the rounds that have not opened.",
    "saving_ratio": "Part of the run-now emissions that was avoided so far.",
    "planned_saving_ratio": "Part of the run-now emissions that the newest plan expects to avoid.",
    "slack_seconds": "Time that the remaining rounds could still wait; negative if they are late.",
    "source_age_seconds": "Age of the newest forecast.",
    "next_opening_timestamp_seconds": "Time at which the next round opens, in seconds since 1970 UTC.",
    "problems": "Number of faults of sources and nodes so far.",
}


def metrics_of(runs: Mapping[str, RunState], states: Sequence[str], now: datetime) -> str:
    """Return the metrics of runs.

    Parameters
    ----------
    runs : mapping of str to RunState
        Runs by the names of their folders.
    states : sequence of str
        States of all runs of the folder, also of those that are no longer in ``runs``.
    now : datetime
        Present.
    """
    samples: dict[str, list[str]] = {name: [] for name in _HELP}
    for state, count in sorted(Counter(states).items()):
        samples["runs"].append(_line("runs", {"state": state}, count))
    for name, run in runs.items():
        labels = {"run": name, "app": run.app or run.record.started.strategy}
        samples["run_state"].append(_line("run_state", {**labels, "state": run.state}, 1))
        for metric, value in _values(run, now):
            if value is not None:
                samples[metric].append(_line(metric, labels, value))
    parts = []
    for name, lines in samples.items():
        if lines:
            parts += [f"# HELP lowcarb_{name} {_HELP[name]}", f"# TYPE lowcarb_{name} gauge", *lines]
    return "\n".join(parts) + "\n"


def _values(run: RunState, now: datetime) -> Iterator[tuple[str, float | None]]:
    record, saved, slack, moment = run.record, run.saved, run.slack(now), run.moment(now)
    yield "rounds", run.rounds
    yield "rounds_done", run.rounds_done
    yield "rounds_known", saved.rounds if saved else 0
    yield "held_seconds", _held(run, moment) / _SECOND
    yield "planned_grams", known_sum(each.planned_g for each in record.rounds) if record.rounds else None
    yield "realised_grams", saved.realised_g if saved else None
    yield "run_now_grams", saved.run_now_g if saved else None
    yield "to_come_grams", run.to_come_g
    yield "saving_ratio", saved.saving if saved else None
    yield "planned_saving_ratio", run.plan.saving if run.plan and not run.is_over else None
    yield "slack_seconds", None if slack is None or run.is_over else slack / _SECOND
    yield "source_age_seconds", (moment - run.forecast.generated_at) / _SECOND if run.forecast else None
    opens_at = run.opens_at if run.state == HOLDING else None
    yield "next_opening_timestamp_seconds", None if opens_at is None else (opens_at - EPOCH) / _SECOND
    yield "problems", len(run.incidents)


def _held(run: RunState, moment: datetime) -> timedelta:
    """Return how long rounds have been held, with the one that is held now."""
    rounds = run.record.rounds
    held = sum((each.held for each in rounds), timedelta(0))
    current = run.record.current
    if run.record.is_open and current is not None:
        held += current.opened.held
    if run.state == HOLDING:
        since = rounds[-1].closes_at if rounds else run.started_at
        held += max(moment - since, timedelta(0))
    return held


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    shown = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels.items())
    return f"lowcarb_{name}{{{shown}}} {value!r}"


def _escaped(text: str) -> str:
    # Names of folders may hold bytes that no encoding has.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
