"""The accounts of a run, held against loops over its turns and what must be so of any run."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from operator import itemgetter

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler.accounting.attribution import account, natural_key
from lowcarb_scheduler.accounting.emissions import waterfall
from lowcarb_scheduler.accounting.hindsight import levels_of
from lowcarb_scheduler.accounting.replay import RoundRecord
from lowcarb_scheduler.clock import to_us
from lowcarb_scheduler.events import Member, Node, NodeDone, RoundClosed, RoundOpened
from lowcarb_scheduler.intensity import IntensityTable
from lowcarb_scheduler.report.tables import tables_of, write_tables
from support.ledgers import read_records, replayed
from support.random_run import hours_of, random_run
from support.report_ledger import START, at, run_events, write_ledger
from support.report_world import large_events
from support.runs import named

SEEDS = range(25)
HOUR = timedelta(hours=1)
TRAINED = "round_opened", "node_done", "round_closed"
CHANGES = "choice of clients", "choice of time", "forecast error", "overruns"


def changes(accounts):
    return {step.name: step.change_g for step in accounts.waterfall if step.kind == "change"}


@pytest.mark.parametrize("seed", SEEDS)
def test_the_waterfall_leads_from_run_now_to_realised_and_nothing_is_left_over(seed):
    events, _ = random_run(np.random.default_rng(seed))
    accounts = account(replayed(events))
    first, *between, last = accounts.waterfall
    assert [step.name for step in between] == list(CHANGES)
    assert (first.change_g, last.change_g) == pytest.approx(
        (accounts.run.run_now_g, accounts.run.realised_g), abs=1e-9
    )
    total = sum(step.change_g for step in between)
    assert first.change_g + total == pytest.approx(last.change_g, abs=1e-9)


def test_the_formula_adds_up_for_any_levels():
    levels = np.random.default_rng(1).uniform(-1e4, 1e6, (5, 1000))
    assert sum(waterfall(*levels)) == pytest.approx((levels[-1] - levels[0]).sum(), rel=1e-9)
    assert waterfall([10, 1], [8, 1], [5, 1], [6, 1], [9, 2]) == (-2.0, -3.0, 1.0, 4.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_realised_is_what_every_turn_emitted_wherever_it_is_summed(seed):
    events, truth = random_run(np.random.default_rng(seed))
    accounts = account(replayed(events))
    done = named(events, "node_done")
    assert accounts.run.realised_g == pytest.approx(sum(map(truth.turn_g, done)), rel=1e-9)
    for shares, key in ((accounts.by_location, "location"), (accounts.by_client, "id")):
        of = {share.name: share for share in shares}
        for name, own in groupby(sorted(done, key=itemgetter(key)), itemgetter(key)):
            turns = list(own)
            assert of[name].turns == len(turns)
            assert of[name].emissions_g == pytest.approx(sum(map(truth.turn_g, turns)), rel=1e-9)
            assert sum(of[name].basis.values()) == pytest.approx(of[name].energy_kwh)
        assert sum(share.emissions_g for share in shares) == pytest.approx(accounts.run.realised_g, rel=1e-12)
        assert sum(share.energy_kwh for share in shares) == pytest.approx(accounts.run.energy_kwh)
    train, evaluate = accounts.by_phase
    assert train.emissions_g == pytest.approx(accounts.run.realised_g, rel=1e-12)
    evaluated = named(events, "node_evaluated")
    assert evaluate.emissions_g == pytest.approx(sum(map(truth.turn_g, evaluated)), rel=1e-9)
    assert evaluate.emissions_g == pytest.approx(accounts.run.evaluation_g)
    assert accounts.sci.energy_kwh * accounts.sci.intensity_g_per_kwh == pytest.approx(
        accounts.run.realised_g
    )
    assert accounts.sci.g_per_round * len(accounts.run.rounds) == pytest.approx(accounts.run.realised_g)


def levels_by_hand(opened, done, nodes, truth, at_run_now, known_until):
    """Return the first four levels of a round, with plain loops over those who were there."""
    if not done:
        return [0.0] * 4
    kilowatts = {key: node["power_watts"] / 1000 for key, node in nodes.items()}
    hours = {key: (node["duration_s"] or 3600) / 3600 for key, node in nodes.items()}
    kwh = sum(one["energy_kwh"] for one in done)
    stretch = sum(one["duration_s"] for one in done) / 3600 / sum(hours[one["id"]] for one in done)
    drawn = kwh / sum(kilowatts[one["id"]] * one["duration_s"] / 3600 for one in done)

    def random_g(start):
        each = [kilowatts[key] * truth.integral(node["location"], start, hours[key] * stretch)
                for key, node in nodes.items()]  # fmt: skip
        return len(done) * np.mean(each) * drawn

    planned_kwh = sum(kilowatts[member["id"]] * hours[member["id"]] for member in opened["nodes"])

    def members_g(start, stretched):
        return sum(
            kwh * kilowatts[m["id"]] * hours[m["id"]] / planned_kwh
            * truth.mean(m["location"], start, hours[m["id"]] * stretched)
            for m in opened["nodes"]
        )  # fmt: skip

    planned_at, run_now = hours_of(opened["opened_at"]), random_g(at_run_now)
    at_once = members_g(at_run_now, stretch) - run_now
    in_time = members_g(planned_at, stretch) - random_g(planned_at)
    # A run that ends early never learns what clients that take longer would have emitted then.
    is_known = planned_at + max(hours.values()) * max(stretch, 1.0) <= known_until
    return [
        run_now, run_now + ((at_once + in_time) / 2 if is_known else at_once),
        opened["planned_g"] * kwh / planned_kwh, members_g(planned_at, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
def test_every_level_of_a_round_is_what_its_definition_says(seed):
    events, truth = random_run(np.random.default_rng(seed))
    levels = iter(account(replayed(events)).levels)
    nodes, at_run_now, done, opened = {}, 0.0, [], {}
    known_until = max(hours_of(event["edges"][-1]) for event in named(events, "actual"))
    for event in events:
        match event["event"]:
            case "nodes":
                nodes |= {node["id"]: node for node in event["joined"]}
            case "round_opened":
                done, opened = [], event
            case "node_done":
                done.append(event)
            case "round_closed":
                by_hand = levels_by_hand(opened, done, nodes, truth, at_run_now, known_until)
                assert list(next(levels))[:4] == pytest.approx(by_hand, rel=1e-6)  # microseconds are whole
                at_run_now += hours_of(event["closes_at"]) - hours_of(event["opens_at"])


def test_a_client_that_is_dirty_at_the_start_and_clean_in_its_hour_is_a_good_choice():
    """Check that the effect of clients and hours, which are chosen together, is divided evenly."""
    intensity = IntensityTable(
        np.array([to_us(START + timedelta(hours=hour)) for hour in range(4)]), ("DE", "FR"),
        np.array([[900.0, 500.0], [400.0, 500.0], [0.0, 500.0]]),
    )  # fmt: skip
    window = {"id": "a", "location": "DE", "starts_at": START + 2 * HOUR, "ends_at": START + 3 * HOUR}
    about = {"round": 1, "planned_g": 0.0}
    worked = RoundRecord(
        RoundOpened(opened_at=START + 2 * HOUR, held=2 * HOUR, planned_opens_at=START + 2 * HOUR,
                    nodes=(Member(**window),), mean_g_per_kwh=0.0, **about),
        run_now_at=START,
        closed=RoundClosed(opens_at=START + 2 * HOUR, closes_at=START + 3 * HOUR, round_duration=HOUR,
                           nodes_done=1, nodes_failed=0, energy_kwh=1.0, realised_g=None, run_now_g=None,
                           **about),
        turns=[NodeDone(round=1, id="a", location="DE", started_at=START + 2 * HOUR, duration=HOUR,
                        power_watts=1000.0, energy_kwh=1.0,
                        energy_basis="assumed")],
        connected={name: Node(id=name, location=place, power_watts=1000.0, duration=None)
                   for name, place in (("a", "DE"), ("b", "FR"))},
        planned_g=0.0, realised_g=0.0, run_now_g=700.0,
    )  # fmt: skip
    levels = levels_of(worked, intensity)
    # 900 g instead of 700 g at the time of run-now, 0 g instead of 250 g in the hour of the plan.
    assert levels.chosen_g == pytest.approx(700 + (200 - 250) / 2)
    assert list(levels)[2:] == pytest.approx([0.0, 0.0, 0.0])


def test_clients_stand_in_natural_order():
    assert sorted(["10", "2", "1", "site-10", "site-9", "11", "0"], key=natural_key) == [
        "0", "1", "2", "10", "11", "site-9", "site-10",
    ]  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS[:12])
def test_what_did_not_differ_has_no_bar(seed):
    def of(**kind):
        return account(replayed(random_run(np.random.default_rng(seed), **kind)[0]))

    as_planned = of(as_planned=True)
    assert changes(as_planned)["overruns"] == pytest.approx(0, abs=1e-9)
    upto = as_planned.run.run_now_g + sum(changes(as_planned)[name] for name in CHANGES[:2])
    assert upto == pytest.approx(as_planned.run.planned_g)  # the plan is a level on the way
    assert changes(of(foreseen=True))["forecast error"] == pytest.approx(0, abs=1e-9)
    same = of(places=1, alike=True)
    assert changes(same)["choice of clients"] == pytest.approx(0, abs=1e-4)  # lengths are whole microseconds


@pytest.mark.parametrize("seed", SEEDS[:8])
def test_a_round_that_nobody_forecast_has_no_forecast_error_and_planned_is_no_part(seed):
    events, _ = random_run(np.random.default_rng(seed), first_unplanned=True)
    accounts = account(replayed(events))
    rounds = len(accounts.run.rounds)
    assert accounts.run.planned_g is None
    assert accounts.planned_of == (f"rounds 2-{rounds}" if rounds > 2 else "round 2")
    assert accounts.planned_of_g == pytest.approx(sum(r.planned_g for r in accounts.run.rounds[1:]))
    assert accounts.waterfall
    assert accounts.levels[0].expected_g == accounts.levels[0].as_planned_g


@pytest.mark.parametrize("known", [0, 1])
def test_where_actuals_are_missing_there_is_no_number_and_no_part_of_one(known):
    for seed in SEEDS[:6]:
        events, _ = random_run(np.random.default_rng(seed), known=known)
        accounts = account(replayed(events))
        unknown = [r for r in accounts.run.rounds if r.realised_g is None]
        assert accounts.without_actuals == len(unknown) > 0
        assert accounts.run.realised_g is accounts.hindsight_g is accounts.run.saving is None
        assert accounts.waterfall == ()
        assert accounts.sci.intensity_g_per_kwh is accounts.sci.g_per_round is None
        assert accounts.by_phase[0].emissions_g is None
        numbers = tables_of(accounts)["numbers"].set_index("number")["emissions_g"]
        assert np.isnan(numbers[["realised", "hindsight"]].to_numpy(dtype=float)).all()


def test_equal_ledgers_have_equal_accounts():
    events, _ = random_run(np.random.default_rng(3))
    one, other = tables_of(account(replayed(events))), tables_of(account(replayed(events)))
    for name, table in one.items():
        pd.testing.assert_frame_equal(table, other[name])


def test_every_row_of_every_table_says_what_it_rests_on():
    events, _ = random_run(np.random.default_rng(3))
    for name, table in tables_of(account(replayed(events))).items():
        assert len(table), name
        assert set(table["signal"]) == {"marginal"}
        assert set(table["source"]) == {"traces"}
        assert not table["synthetic"].any()


def test_the_tables_add_up(tmp_path):
    events, _ = random_run(np.random.default_rng(3))
    accounts = account(replayed(events))
    files = {path.stem: pd.read_csv(path) for path in write_tables(tables_of(accounts), tmp_path)}
    rounds, steps = files["rounds"], files["waterfall"].set_index("step")
    for name in CHANGES:
        column = f"{name.replace(' ', '_')}_g"
        assert rounds[column].sum() == pytest.approx(steps.loc[name, "change_g"], abs=1e-9)
    assert steps.loc["overruns", "level_g"] == pytest.approx(accounts.run.realised_g)
    assert files["clients"]["emissions_g"].sum() == pytest.approx(accounts.run.realised_g)


def test_no_cell_is_a_formula(tmp_path):
    events = run_events()
    for event in events:
        for entry in (event, *event.get("nodes", ()), *event.get("joined", ())):
            if isinstance(entry, dict) and entry.get("id") == "site-a":
                entry["id"] = "=cmd|' /C calc'!A0\n@SUM(1)"
    files = {
        path.stem: path.read_text(encoding="utf-8")
        for path in write_tables(tables_of(account(replayed(events))), tmp_path)
    }
    cells = [cell for line in files["clients"].splitlines() for cell in line.split(",")]
    assert any("cmd" in cell for cell in cells)
    assert not [cell for cell in cells if cell.strip('"').startswith(("=", "+", "-", "@"))]


def test_a_run_that_did_nothing_has_accounts():
    accounts = account(replayed(run_events()[:4]))
    assert accounts.run.realised_g is accounts.hindsight_g is accounts.front is None
    assert (accounts.by_location, accounts.waterfall, accounts.without_actuals) == ((), (), 0)
    assert set(tables_of(accounts)) >= {"rounds", "numbers", "waterfall"}


def test_a_run_that_is_over_before_its_last_window_has_a_waterfall():
    events = run_events()
    last = next(event for event in events if event["event"] == "round_opened" and event["round"] == 3)
    for member in last["nodes"]:
        member["ends_at"] = at(6)  # of hours 4 and 5 nothing is known
    for event in events:
        if event["event"] == "round_closed":
            event["round_duration_s"] = 3 * 3600.0
    accounts = account(replayed(events))
    assert accounts.waterfall
    assert sum(changes(accounts).values()) == pytest.approx(accounts.run.realised_g - accounts.run.run_now_g)


def test_rounds_that_were_run_twice_count_once():
    events = run_events()
    again = [event for event in events if event.get("round") == 1 and event["event"] in TRAINED]
    accounts = account(replayed([*events[:-1], *again, events[-1]]))
    assert accounts.run.realised_g == account(replayed(events)).run.realised_g
    assert [r.number for r in accounts.run.rounds] == [1, 2, 3]


def test_a_turn_that_drew_nothing_emits_nothing_wherever_it_is():
    events = run_events()
    for event in events:
        if event["event"] == "node_done" and event["id"] == "site-d":
            event |= {"energy_kwh": 0.0, "location": None}
    unknown = {share.name: share for share in account(replayed(events)).by_location}["unknown"]
    assert (unknown.turns, unknown.energy_kwh, unknown.emissions_g) == (1, 0.0, 0.0)
    assert replace(unknown, energy_kwh=0.0).mean_g_per_kwh is None


@pytest.mark.parametrize("clients", [100, 10_000])
def test_accounts_of_large_runs(tmp_path, clients):
    accounts = account(replayed(read_records(write_ledger(tmp_path / "run", large_events(clients=clients)))))
    assert len(accounts.waterfall) == 6
    assert accounts.hindsight_g < accounts.run.realised_g < accounts.run.run_now_g
