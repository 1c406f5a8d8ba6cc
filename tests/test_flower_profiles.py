"""Profiles: what nodes say, what the server's file says, and what is believed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from lowcarb_scheduler import CarbonClientApp
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.flower.profiles import Place, Profiles, read_places
from lowcarb_scheduler.testing import InMemoryGrid


@pytest.fixture
def look():
    """Return a function that gives the profiles of nodes with these configurations, and the notes."""

    def profiles(configs, places=None, default_location=None, app=None):
        notes = []
        grid = InMemoryGrid(app or CarbonClientApp(), configs)
        known = Profiles(places or {}, default_location, 300.0, notes.append)
        return list(known.of(grid, list(grid.get_node_ids())).values()), notes

    return profiles


def test_a_node_says_who_and_where_it_is(look):
    said = {"name": "hospital-a", "location": "DE", "power-watts": 250, "duration-minutes": 20.0}
    (profile,), notes = look([said])
    assert (profile.key, profile.location, profile.power_watts) == ("hospital-a", "DE", 250.0)
    assert profile.duration == timedelta(minutes=20)
    assert not profile.power_assumed
    assert notes == []


def test_the_servers_file_overrules_the_node(look):
    places = {"0": Place("FR", 100.0), "b": Place("ES")}
    profiles, _ = look(
        [{"partition-id": 0, "location": "DE", "power-watts": 250}, {"name": "b", "power-watts": 250}], places
    )
    assert [(p.location, p.power_watts) for p in profiles] == [("FR", 100.0), ("ES", 250.0)]


def test_defaults_are_marked(look):
    (profile,), _ = look([{"partition-id": 7}], default_location="DE")
    assert (profile.key, profile.location, profile.power_watts) == ("7", "DE", 300.0)
    assert profile.power_assumed


def test_a_node_without_our_client_gets_what_the_server_knows(look):
    from flwr.clientapp import ClientApp

    (profile,), notes = look([{"location": "DE"}], app=ClientApp())
    assert (profile.key, profile.location) == ("101", None)
    assert "1 node(s) did not answer" in notes[0]


@pytest.mark.parametrize("watts", [float("nan"), float("inf"), -1.0, 1e12, "much", True])
def test_a_power_that_cannot_be_is_replaced_and_noted_once(look, watts):
    (profile,), notes = look([{"partition-id": 0, "location": "DE", "power-watts": watts}])
    assert (profile.power_watts, profile.power_assumed) == (300.0, True)
    assert len(notes) == 1


@pytest.mark.parametrize(
    "location", ["x" * 10_000, "<script>alert(1)</script>", "[red]DE", "=cmd", "D\nE", "", 5]
)
def test_a_location_that_cannot_be_is_replaced_and_noted_once(look, location):
    (profile,), notes = look([{"partition-id": 0, "location": location}], default_location="FR")
    assert profile.location == "FR"
    assert len(notes) == 1


@pytest.mark.parametrize("minutes", [0.0, -5.0, float("nan"), 1e9])
def test_a_duration_that_cannot_be_is_dropped_and_noted_once(look, minutes):
    (profile,), notes = look([{"partition-id": 0, "location": "DE", "duration-minutes": minutes}])
    assert profile.duration is None
    assert len(notes) == 1


def test_two_nodes_of_one_name_are_counted_apart(look):
    profiles, notes = look([{"name": "a", "location": "DE"}, {"name": "a", "location": "DE"}])
    assert len({p.key for p in profiles}) == 2
    assert "two nodes call themselves 'a'" in notes[0]


def test_entries_that_no_node_answers_to_are_known():
    grid = InMemoryGrid(CarbonClientApp(), [{"partition-id": 0}])
    profiles = Profiles({"0": Place("DE"), "supernode-1": Place("FR")}, None, 300.0, lambda _: None)
    profiles.of(grid, list(grid.get_node_ids()))
    assert profiles.unmatched() == ["supernode-1"]


def test_power_may_be_spelt_as_in_a_job():
    Path("l.toml").write_text('0 = { location = "DE", power_watts = 250 }\n', encoding="utf-8")
    assert read_places(Path("l.toml")) == {"0": Place("DE", 250.0)}


def test_each_node_is_asked_once():
    grid = InMemoryGrid(CarbonClientApp(), [{"location": "DE"}])
    profiles = Profiles({}, None, 300.0, lambda _: None)
    for _ in range(3):
        profiles.of(grid, list(grid.get_node_ids()))
    assert len(grid.sent) == 1


def test_reads_both_forms_of_a_locations_file():
    Path("l.toml").write_text(
        '0 = "DE"\n"site-b" = { location = "FR", power-watts = 250 }\n[names.DE]\ntraces = "D"',
        encoding="utf-8",
    )
    assert read_places(Path("l.toml")) == {"0": Place("DE"), "site-b": Place("FR", 250.0)}


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("0 = ", "locations"),
        ("0 = 5", "0"),
        ("0 = { power-watts = 5 }", "0"),
        ('0 = { location = "DE", watts = 5 }', "0.watts"),
        ('0 = { location = "DE", power-watts = -5 }', "0.power-watts"),
        ('0 = { location = "DE", power-watts = nan }', "0.power-watts"),
    ],
)
def test_a_bad_locations_file_names_file_and_entry(text, field):
    Path("l.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_places(Path("l.toml"))
    assert (caught.value.file, caught.value.field) == ("l.toml", field)


def test_a_locations_file_that_is_not_there():
    with pytest.raises(InputError) as caught:
        read_places(Path("nowhere.toml"))
    assert str(Path("nowhere.toml").absolute()) in str(caught.value)
