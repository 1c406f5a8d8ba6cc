from __future__ import annotations

import pandas as pd

from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.report.tables import incidents_of, table_of_incidents, write_tables
from support.ledgers import replayed
from support.report_ledger import at, event, run_events

LABELS = Provenance("traces", "average")


def test_incidents_are_listed_in_order_of_time():
    late = event(9, "degraded", what="power", why="none was given", consequence="300 W are assumed")
    found = incidents_of(replayed([late, *run_events()]))
    assert [incident.affected for incident in found] == ["forecast", "node site-c at FR", "power"]
    assert [incident.of_node for incident in found] == [False, True, False]
    assert found[1].consequence == "round 3 continued without this node"


def test_a_node_may_have_no_location():
    events = run_events()
    next(e for e in events if e["event"] == "node_failed")["location"] = None
    assert incidents_of(replayed(events))[1].affected == "node site-c at an unknown location"


def test_the_table_can_be_read_again_and_runs_nothing(tmp_path):
    events = run_events()
    next(e for e in events if e["event"] == "node_failed")["reason"] = "=cmd|' /C calc'!A0\n"
    table = table_of_incidents(incidents_of(replayed(events)), LABELS)
    (path,) = write_tables({"mishaps": table}, tmp_path)
    read = pd.read_csv(path)
    assert list(read["at"]) == [at(0), at(4)]
    assert read["why"][1].startswith("'=cmd")
    assert set(read["source"]) == {"traces"}


def test_a_run_without_any_has_a_table_without_rows():
    assert list(table_of_incidents([], LABELS).columns[:4]) == ["at", "what", "why", "consequence"]
