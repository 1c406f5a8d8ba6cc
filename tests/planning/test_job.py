"""Fleet, job and rules: defaults, order, and refused values."""

from __future__ import annotations

from dataclasses import fields
from datetime import datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Job, JobRules

HOUR = timedelta(hours=1)


def frame(**columns):
    return pd.DataFrame({"id": ["b", "a"], "location": ["FR", "DE"], **columns})


@pytest.fixture
def job_of(midnight):
    def make(fleet=None, **changes):
        given = {
            "fleet": fleet or Fleet.from_frame(frame()), "now": midnight, "finish_by": midnight + 24 * HOUR,
            "rounds": 2, "clients_per_round": 1, "round_duration": HOUR,
        }  # fmt: skip
        return Job(**{**given, **changes})

    return make


def test_clients_are_sorted_by_id():
    fleet = Fleet.from_frame(frame(power_watts=[100, 200], turns_done=[3, 4]))
    assert fleet.ids.tolist() == ["a", "b"]
    assert [fleet.locations[k] for k in fleet.location_index] == ["DE", "FR"]
    assert fleet.power_watts.tolist() == [200.0, 100.0]
    assert fleet.turns_done.tolist() == [4, 3]


def test_a_missing_power_is_assumed_and_marked():
    fleet = Fleet.from_frame(frame(power_watts=pd.array([100, None], dtype="Float64")))
    assert fleet.power_watts.tolist() == [300.0, 100.0]
    assert fleet.power_assumed.tolist() == [True, False]
    assert Fleet.from_frame(frame()).power_assumed.all()


def test_durations_default_to_the_round(job_of):
    fleet = Fleet.from_frame(frame(duration=[timedelta(minutes=20), None]))
    assert job_of(fleet).durations_us.tolist() == [3_600_000_000, 1_200_000_000]
    assert job_of(fleet, round_duration=None).round_duration == timedelta(minutes=20)


def test_a_million_clients_need_no_python_loop():
    count = 1_000_000
    many = pd.DataFrame({"id": np.arange(count), "location": np.tile(["DE", "FR"], count // 2)})
    assert len(Fleet.from_frame(many)) == count


@pytest.mark.parametrize(
    ("bad", "field", "words"),
    [
        (frame().drop(columns="location"), "location", "missing"),
        (frame().rename(columns={"location": "zone"}), "zone", "not a column"),
        (frame(power_wats=1), "power_wats", "rename it to power_watts"),
        (frame().iloc[:0], "clients", "empty"),
        (frame(id=["a", "a"]), "id", "'a' stands twice"),
        (frame(id=["a", None]), "id", "row 2"),
        (frame(location=["DE", ""]), "location", "row 2"),
        (frame(power_watts=[1.0, np.nan]), "power_watts", "'a' is not a number"),
        (frame(power_watts=[1.0, np.inf]), "power_watts", "'a' is not a number"),
        (frame(power_watts=[-1.0, 1.0]), "power_watts", "'b' is negative"),
        (frame(power_watts=["x", 1.0]), "power_watts", "'b' is not a number"),
        (frame(turns_done=[0.5, 1]), "turns_done", "'b' is not whole"),
        (frame(turns_done=[-1, 1]), "turns_done", "'b' is negative"),
        (frame(duration=[timedelta(0), HOUR]), "duration", "'b' is not positive"),
        (frame(duration=["1h", HOUR]), "duration", "timedelta"),
    ],
)
def test_an_invalid_fleet_names_field_and_client(bad, field, words):
    with pytest.raises(InputError, match=words) as caught:
        Fleet.from_frame(bad)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"rounds": 0}, "rounds"),
        ({"rounds": 1.5}, "rounds"),
        ({"clients_per_round": True}, "clients_per_round"),
        ({"patience": 1.5}, "patience"),
        ({"patience": float("nan")}, "patience"),
        ({"max_location_share": 0}, "max_location_share"),
        ({"start_step": timedelta(0)}, "start_step"),
        ({"round_duration": -HOUR}, "round_duration"),
        ({"round_duration": None}, "round_duration"),
        ({"participation": "fair"}, "participation"),
        ({"participation": (3, 2)}, "participation"),
        ({"now": datetime(2026, 1, 1)}, "now"),  # noqa: DTZ001
        ({"finish_by": "48h"}, "finish_by"),
        ({"seed": -1}, "seed"),
    ],
)
def test_an_invalid_job_names_the_field(job_of, changes, field):
    with pytest.raises(InputError) as caught:
        job_of(**changes)
    assert caught.value.field == field


def test_a_client_longer_than_the_round_is_named(job_of):
    fleet = Fleet.from_frame(frame(duration=[2 * HOUR, HOUR]))
    with pytest.raises(InputError, match="client 'b' trains 2 h"):
        job_of(fleet)


def test_take_drops_unused_locations():
    part = Fleet.from_frame(frame()).take(np.array([False, True]))
    assert (part.ids.tolist(), part.locations, part.location_index.tolist()) == (["b"], ("FR",), [0])


def test_rules_are_selected_from_settings_with_defaults(midnight):
    settings = {"patience": 0.5, "participation": (1, 3), "stagger": None, "source": "synthetic", "rounds": 7}
    rules = JobRules.from_settings(settings, round_duration=HOUR, participation=None)
    assert rules == JobRules(round_duration=HOUR, patience=0.5)
    fleet = Fleet.from_frame(frame())
    job = rules.job(fleet, midnight, midnight + 24 * HOUR, 2, 1, grid_from=midnight - HOUR)
    assert (job.patience, job.participation, job.stagger) == (0.5, "equal", False)
    assert (job.rounds, job.clients_per_round, job.grid_from) == (2, 1, midnight - HOUR)


def test_rules_and_a_job_agree_on_every_default():
    of_job = {field.name: field.default for field in fields(Job)}
    assert {field.name: field.default for field in fields(JobRules)}.items() <= of_job.items()
