from __future__ import annotations

from datetime import timedelta

import pytest

from lowcarb_scheduler.accounting.attribution import account
from lowcarb_scheduler.report.html import facts_of
from support.ledgers import replayed
from support.report_ledger import START, run_events


def facts(events, finish_by=START + timedelta(hours=6)):
    return dict(facts_of(account(replayed(events)), finish_by))


def test_without_actual_intensity_there_is_no_sci():
    assert facts(run_events(actual=False))["SCI"].startswith("E = 5.00 kWh; I is not known")


def test_the_terms_of_the_sci_give_its_value():
    events = run_events()
    sci = account(replayed(events)).sci
    said = facts(events)["SCI"]
    assert f"= {sci.energy_kwh * sci.intensity_g_per_kwh / 3:.0f} g per round; M" in said
    assert "3 rounds" in said


@pytest.mark.parametrize(
    ("hours", "says"), [(6, "2 h before the deadline"), (4, "0 s before"), (3, "1 h after the deadline")]
)
def test_the_finish_is_compared_with_the_deadline(hours, says):
    assert says in facts(run_events(), START + timedelta(hours=hours))["Finish"]


def test_a_run_that_goes_on_says_so():
    said = facts(run_events(finished=False))
    assert said["Finish"].startswith("unfinished; the last round closed")
    assert facts(run_events()[:3])["Energy"] == "0 kWh of training; basis: none"
