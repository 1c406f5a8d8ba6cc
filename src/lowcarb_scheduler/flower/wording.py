"""What a run says in Flower's log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowcarb_scheduler.clock import format_duration, format_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lowcarb_scheduler.flower.deadline import Schedule
    from lowcarb_scheduler.flower.replanning import Decision


def plan_lines(decision: Decision, schedule: Schedule) -> list[str]:
    """Return the block that stands before the first hold: plan, finish, expected saving, assumptions."""
    plan, fleet = decision.plan, decision.plan.fleet
    lines = [
        f"{len(plan.opens_us)} rounds of {plan.seats.shape[1]} out of {len(fleet)} clients"
        f" in {len(fleet.locations)} location(s), {format_duration(schedule.round_duration)} each",
        f"planned finish {format_time(plan.finish)}, deadline {format_time(schedule.finish_by)}",
    ]
    if not decision.on_forecast:
        return [*lines, "rounds open at once: nothing is known of the intensity to come"]
    if plan.saving is not None:
        lines.append(
            f"expected {plan.emissions_g:,.0f} gCO2eq, {plan.saving:.1%} less than the"
            f" {plan.run_now_emissions_g:,.0f} g of random clients back-to-back"
        )
    numbers = "SYNTHETIC numbers" if plan.synthetic else "real numbers"
    assumed = int(fleet.power_assumed.sum())
    lines.append(
        f"assumes: {plan.source} forecasts ({numbers}, {plan.signal} signal); power assumed for {assumed}"
        f" of {len(fleet)} clients; energy is power times time, not measured"
    )
    return lines


def hold_reason(planned_g: float, at_once_g: float | None) -> str:
    """Return why a round is held, and what that saves [gCO2eq]."""
    reason = "its clients' grids are cleaner then"
    if at_once_g is None:
        return reason
    return f"{reason}, {planned_g:,.0f} g instead of {at_once_g:,.0f} g if it opened now"


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """Return the block a run ends with, from its ``run_finished`` event."""

    def grams(name: str) -> str:
        return "unknown" if summary[name] is None else f"{summary[name]:,.0f} g"

    saving = "unknown" if summary["saving"] is None else f"{summary['saving']:.1%}"
    return [
        f"run {summary['status']}, {len(summary['rounds'])} round(s)",
        f"run-now {grams('run_now_g')}, planned {grams('planned_g')}, realised {grams('realised_g')}",
        f"saving against run-now: {saving}",
        f"{summary['energy_kwh']:.3f} kWh; {summary['min_turns']} to {summary['max_turns']} turns a client,"
        f" Jain's index {summary['jain']:.3f}",
    ]
