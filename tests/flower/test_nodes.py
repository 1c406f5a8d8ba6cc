"""Profiles of nodes: sources of each value, validation of claims, resolution of locations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest

from lowcarb_scheduler import CarbonClientApp, Synthetic
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.flower.nodes import LocationResolver, NodeRegistry
from lowcarb_scheduler.forecasts.base import ForecastSource
from lowcarb_scheduler.scheduling.locations import Place, read_places
from lowcarb_scheduler.testing import InMemoryGrid
from support.apps import SilentGrid, node_configs
from support.clocks import Machine

MINUTE = timedelta(minutes=1)


def registry_of(places=None, source=None, default_location=None, note=lambda _: None, clock=None):
    """Return a registry on a clock that stands still, or on the one given."""
    clock = Machine(datetime(2026, 3, 2, tzinfo=UTC)) if clock is None else clock
    return NodeRegistry(places or {}, LocationResolver(source), default_location, 300.0, note, clock)


@pytest.fixture
def look():
    """Return a function that gives the profiles of nodes with these configurations, and the notes."""

    def profiles(configs, places=None, default_location=None, app=None, source=None, registered=()):
        notes = []
        grid = InMemoryGrid(app or CarbonClientApp(), configs)
        for config, name, location in registered:
            grid.join(config, name, location)
        known = registry_of(places or {}, source, default_location, notes.append)
        return list(known.observe(grid, list(grid.get_node_ids())).values()), notes

    return profiles


def test_a_node_reports_name_location_power_and_duration(look):
    said = {"name": "hospital-a", "location": "DE", "power-watts": 250, "duration-minutes": 20.0}
    (profile,), notes = look([said])
    assert (profile.id, profile.location, profile.power_watts) == ("hospital-a", "DE", 250.0)
    assert profile.duration == 20 * MINUTE
    assert not profile.power_assumed
    assert notes == []


def test_the_locations_file_takes_precedence_over_the_node(look):
    places = {"0": Place("FR", 100.0), "b": Place("ES")}
    profiles, _ = look(
        [{"partition-id": 0, "location": "DE", "power-watts": 250}, {"name": "b", "power-watts": 250}], places
    )
    assert [(p.location, p.power_watts) for p in profiles] == [("FR", 100.0), ("ES", 250.0)]


def test_defaults_are_marked(look):
    (profile,), _ = look([{"partition-id": 7}], default_location="DE")
    assert (profile.id, profile.location, profile.power_watts) == ("7", "DE", 300.0)
    assert profile.power_assumed


def test_a_node_without_the_client_app_gets_the_defaults(look):
    from flwr.clientapp import ClientApp

    (profile,), notes = look([{"location": "DE"}], app=ClientApp())
    assert (profile.id, profile.location) == ("101", None)
    assert "1 node(s) did not answer" in notes[0]


def test_without_the_client_app_the_registered_name_finds_its_entry_and_the_partition_does_not(look):
    from flwr.clientapp import ClientApp

    places, registered = {"berlin": Place("DE"), "1": Place("FR")}, [({"partition-id": 1}, "berlin", "")]
    profiles, _ = look([{"partition-id": 1}], places, app=ClientApp(), registered=registered)
    assert [profile.location for profile in profiles] == [None, "DE"]


@pytest.mark.parametrize("watts", [float("nan"), float("inf"), -1.0, 1e12, "much", True])
def test_an_invalid_power_is_replaced_and_logged_once(look, watts):
    (profile,), notes = look([{"partition-id": 0, "location": "DE", "power-watts": watts}])
    assert (profile.power_watts, profile.power_assumed) == (300.0, True)
    assert len(notes) == 1


@pytest.mark.parametrize(
    "location", ["x" * 10_000, "<script>alert(1)</script>", "[red]DE", "=cmd", "D\nE", "", 5]
)
def test_an_invalid_location_is_replaced_and_logged_once(look, location):
    (profile,), notes = look([{"partition-id": 0, "location": location}], default_location="FR")
    assert profile.location == "FR"
    assert len(notes) == 1


@pytest.mark.parametrize("minutes", [0.0, -5.0, 1e-9, float("nan"), 1e9, 1e300])
def test_an_invalid_duration_is_dropped_and_logged_once(look, minutes):
    (profile,), notes = look([{"partition-id": 0, "location": "DE", "duration-minutes": minutes}])
    assert profile.duration is None
    assert len(notes) == 1


def test_two_nodes_with_one_name_get_different_keys(look):
    profiles, notes = look([{"name": "a", "location": "DE"}, {"name": "a", "location": "DE"}])
    assert len({p.id for p in profiles}) == 2
    assert notes == ["'a' is the name of another node, this one is counted separately (node 'a@102')"]


def test_entries_of_the_file_without_a_node_are_listed():
    grid = InMemoryGrid(CarbonClientApp(), [{"partition-id": 0}])
    places = {"0": Place("DE"), "supernode-1": Place("FR")}
    registry = registry_of(places)
    registry.observe(grid, list(grid.get_node_ids()))
    assert registry.unmatched() == ["supernode-1"]


def test_power_may_be_spelt_with_underscore_as_in_a_job_file():
    Path("l.toml").write_text('0 = { location = "DE", power_watts = 250 }\n', encoding="utf-8")
    assert read_places(Path("l.toml")) == {"0": Place("DE", 250.0)}


def test_each_node_is_queried_once():
    grid = InMemoryGrid(CarbonClientApp(), [{"location": "DE"}])
    registry = registry_of()
    for _ in range(3):
        registry.observe(grid, list(grid.get_node_ids()))
    assert len(grid.sent) == 1


def test_a_silent_node_is_planned_with_defaults_and_queried_again_after_growing_pauses(midnight):
    grid, machine, asked = SilentGrid(node_configs(1)), Machine(midnight), []
    grid.silent = {101}
    registry = registry_of(default_location="DE", clock=machine)
    for minute in range(6 * 60):
        (profile,) = registry.observe(grid, [101]).values()
        assert (profile.location, profile.power_watts, profile.power_assumed) == ("DE", 300.0, True)
        assert profile.duration is None
        if len(grid.sent) > len(asked):
            asked.append(minute)
        machine.work(MINUTE)
    # For as long as the node runs, at last every hour: whoever recovers is known within it.
    assert asked == [0, 1, 3, 7, 15, 31, 63, 123, 183, 243, 303]
    # A node that returns finds no more than one query.
    assert [message.metadata.ttl for message in grid.sent[:4]] == [60.0, 120.0, 240.0, 480.0]
    assert machine.now() == midnight + 6 * 60 * MINUTE  # nobody waited for it


def test_an_answer_counts_whenever_it_comes(midnight):
    grid, machine = SilentGrid(node_configs(2)), Machine(midnight)
    grid.silent = {101, 102}
    registry = registry_of(clock=machine)
    assert [p.id for p in registry.observe(grid, [101, 102]).values()] == ["101", "102"]
    assert registry.awaited == 2
    grid.answer(102)
    assert [(p.id, p.location) for p in registry.observe(grid, [101, 102]).values()] == [
        ("101", None), ("1", "FR"),
    ]  # fmt: skip
    machine.work(timedelta(hours=5))
    grid.answer(101)
    grid.silent = {}
    assert [p.id for p in registry.observe(grid, [101, 102]).values()] == ["0", "1"]
    assert registry.awaited == 0
    assert registry.observe(grid, [101, 102]) == registry.alive


def test_a_node_that_returns_is_queried_again():
    grid = InMemoryGrid(CarbonClientApp(), [{"name": "a"}, {"name": "b"}])
    registry = registry_of()
    assert len(registry.observe(grid, [101, 102])) == 2
    assert [p.id for p in registry.observe(grid, [102]).values()] == ["b"]
    assert [p.id for p in registry.observe(grid, [101, 102]).values()] == ["a", "b"]
    assert [message.metadata.dst_node_id for message in grid.sent] == [101, 102, 101]


# -- Precedence --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "registered", "said", "default", "where"),
    [
        ("FR", "GB", "ES", "PL", "FR"),
        (None, "GB", "ES", "PL", "GB"),
        (None, "", "ES", "PL", "ES"),
        (None, "", None, "PL", "PL"),
        (None, "", None, None, None),
        (None, "<b>GB</b>", "ES", "PL", "ES"),
        (None, "Atlantis", "ES", "PL", "ES"),  # a place the source does not know is none
        (None, "Atlantis", "Lemuria", "PL", "PL"),
        (None, "", "Lemuria", None, None),
        ("Mu", "GB", "ES", "PL", "Mu"),  # who runs the server is not corrected
        (None, "", "es", None, "ES"),
    ],
)
def test_the_first_valid_location_counts(look, file, registered, said, default, where):
    """In this order: locations file, registration, claim, default."""
    config = {"partition-id": 0} | ({"location": said} if said else {})
    places = {"0": Place(file)} if file else {}
    (profile,), _ = look([], places, default, source=Synthetic(), registered=[(config, "", registered)])
    assert profile.location == where


def test_a_name_belongs_to_the_node_registered_with_it(look):
    """Check that a claimed name gives no node the name, location or turns of the registered node."""
    configs = [{"name": "hospital-a", "location": "DE"}]
    registered = [({"name": "x", "location": "ES"}, "hospital-a", "")]
    profiles, notes = look(configs, registered=registered)
    assert [(p.node_id, p.id) for p in profiles] == [(101, "hospital-a@101"), (102, "hospital-a")]
    named = "'hospital-a' is the name of another node, this one is counted separately"
    assert notes == [f"{named} (node 'hospital-a@101')"]


def test_unknown_locations_are_logged_with_a_suggestion(look):
    configs = [
        {"partition-id": k, "location": name} for k, name in enumerate(("DE", "westurope", "Mu", "Mu"))
    ]
    _, notes = look(configs, source=Synthetic())
    assert notes == [
        "location 'westurope' is not known to the source (did you mean westeurope?), it is ignored"
        " (node '1')",
        "location 'Mu' is not known to the source, it is ignored (2 nodes: '2', '3')",
    ]


def test_many_equal_claims_are_few_lines(look):
    configs = [{"partition-id": k, "power-watts": -1.0, "location": "=cmd"} for k in range(2000)]
    profiles, notes = look(configs, default_location="DE")
    assert {(p.location, p.power_watts) for p in profiles} == {("DE", 300.0)}
    assert len(notes) == 2
    assert all("2000 nodes: '0', '1', '2', ..." in note and len(note) < 120 for note in notes)


def test_many_different_claims_are_few_lines(look):
    configs = [{"partition-id": k, "location": f"{k / 100:.2f},0.00"} for k in range(500)]
    _, notes = look(configs, default_location="germanynorth", source=Atlas({"fiji": (-17.7, 178.0)}))
    assert len(notes) == 11
    assert notes[-1] == "490 more node(s) make invalid claims, the defaults are used"


# -- Coordinates -------------------------------------------------------------------------------------------


class Atlas(ForecastSource):
    """A source that tells where its locations are, after some calls that fail."""

    PLACES: ClassVar = {
        "germanywestcentral": (50.11, 8.68),  # Frankfurt
        "germanynorth": (53.55, 10.0),  # Hamburg
        "westeurope": (52.37, 4.9),  # Amsterdam
        "fiji": (-17.7, 178.0),
    }

    def __init__(self, places=None, failures=0):
        self.places, self.failures, self.calls = self.PLACES if places is None else places, failures, 0

    forecast = actual = None

    def known_locations(self, *, timeout=None):
        self.calls += 1
        if self.calls <= self.failures:
            raise ForecastUnavailableError({"https://sdk.example": "does not answer"})
        return self.places


@pytest.mark.parametrize(
    ("coordinates", "place"),
    [
        ("52.52,13.40", "germanynorth"),  # Berlin: 255 km
        (" 50.1 , 8.7 ", "germanywestcentral"),
        ("52,5", "westeurope"),
        ("-18.0,-179.5", "fiji"),  # across the date line
        ("40.4,-3.7", None),  # Madrid: more than 500 km
        ("90,0", None),
        ("91,0", None),
        ("0,181", None),
        ("999,999", None),
    ],
)
@pytest.mark.parametrize("told_by", ["node", "operator", "file", "default"])
def test_coordinates_lead_to_the_nearest_location(look, coordinates, place, told_by):
    config = {"partition-id": 0} | ({"location": coordinates} if told_by == "node" else {})
    registered = [(config, "", coordinates if told_by == "operator" else "")]
    places = {"0": Place(coordinates)} if told_by == "file" else {}
    default = coordinates if told_by == "default" else None
    (profile,), notes = look([], places, default, source=Atlas(), registered=registered)
    assert profile.location == place
    assert len(notes) == (place is None)


def test_a_location_too_far_away_is_logged_with_its_distance(look):
    _, notes = look([{"partition-id": 0, "location": "40.4,-3.7"}], source=Atlas(), default_location="GB")
    assert notes == [
        "location '40.4,-3.7' is 1,447 km from germanywestcentral, the nearest location of the source, it is"
        " ignored (node '0')"
    ]


@pytest.mark.parametrize(
    "source",
    [None, Synthetic(), Atlas({}), Atlas({"a": None}), Atlas({"a": (None, None), "b": ("x", 1), "c": 5})],
)
def test_without_coordinates_of_the_source_the_default_is_used(look, source):
    (profile,), notes = look([{"location": "52.5,13.4"}], default_location="DE", source=source)
    assert profile.location == "DE"
    assert "the source has no coordinates of its locations" in notes[0]


def test_a_source_without_answer_is_requested_again_at_the_next_update():
    source, notes = Atlas(failures=2), []
    grid = InMemoryGrid(CarbonClientApp(), [{"location": "52.5,13.4"}, {"location": "50,9"}])
    registry = registry_of(None, source, "FR", notes.append)
    seen = [[p.location for p in registry.observe(grid, [101, 102]).values()] for _ in range(4)]
    assert seen == [["FR", "FR"], ["FR", "FR"], *[["germanynorth", "germanywestcentral"]] * 2]
    assert source.calls == 3
    assert len(grid.sent) == 2  # the nodes themselves are not
    assert "does not answer" in notes[0]


def test_a_source_that_never_answers_is_requested_three_times():
    source = Atlas(failures=99)
    grid = InMemoryGrid(CarbonClientApp(), [{"location": "52.5,13.4"}])
    registry = registry_of(None, source, "FR")
    for _ in range(9):
        registry.observe(grid, [101])
    assert source.calls == 3


@pytest.mark.parametrize(("default", "calls"), [("FR", 1), (None, 0)])
def test_the_list_of_a_source_is_requested_only_where_a_default_could_replace_a_name(look, default, calls):
    source = Atlas()
    look([{"name": "a", "location": "westeurope"}, {"name": "b"}], default_location=default, source=source)
    assert source.calls == calls


def test_a_list_with_all_coordinates_decides_which_names_are_known(look):
    configs = [{"name": "a", "location": "WestEurope"}, {"name": "b", "location": "atlantis"}]
    profiles, _ = look(configs, default_location="germanynorth", source=Atlas())
    assert [p.location for p in profiles] == ["westeurope", "germanynorth"]
    partial = Atlas({**Atlas.PLACES, "London": None})  # of a source that knows postcodes, too
    profiles, _ = look(configs, default_location="germanynorth", source=partial)
    assert [p.location for p in profiles] == ["WestEurope", "atlantis"]


def test_reads_both_forms_of_a_locations_file():
    Path("l.toml").write_text(
        '0 = "DE"\n"site-b" = { location = "FR", power-watts = 250 }\n[names.DE]\ntraces = "D"',
        encoding="utf-8",
    )
    assert read_places(Path("l.toml")) == {"0": Place("DE"), "site-b": Place("FR", 250.0)}


@pytest.mark.parametrize(("file", "minutes"), [(Place("FR", None, 45 * MINUTE), 45), (Place("FR"), 20)])
def test_duration_comes_from_the_file_else_from_the_node(look, file, minutes):
    said = {"partition-id": 0, "location": "DE", "duration-minutes": 20.0}
    (profile,), _ = look([said], places={"0": file})
    assert profile.duration == minutes * MINUTE


def test_a_locations_file_may_hold_durations():
    lines = 'a = { location = "DE", duration-minutes = 20 }\nb = { location = "DE", duration = "20m" }\n'
    Path("l.toml").write_text(lines, encoding="utf-8")
    assert read_places(Path("l.toml")) == dict.fromkeys("ab", Place("DE", None, 20 * MINUTE))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("0 = ", "locations"),
        ("0 = 5", "0"),
        ("0 = { power-watts = 5 }", "0"),
        ('0 = { location = "DE", watts = 5 }', "0.watts"),
        ('0 = { location = "DE", power-watts = -5 }', "0.power-watts"),
        ('0 = { location = "DE", power-watts = nan }', "0.power-watts"),
        ('0 = { location = "DE", duration-minutes = 0 }', "0.duration-minutes"),
        ('0 = { location = "DE", duration-minutes = "20" }', "0.duration-minutes"),
        ('0 = { location = "DE", duration = 20 }', "0.duration"),
        ('0 = { location = "DE", duration = "20m", duration-minutes = 20 }', "0.duration-minutes"),
    ],
)
def test_a_bad_locations_file_names_file_and_entry(text, field):
    Path("l.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_places(Path("l.toml"))
    assert (caught.value.file, caught.value.field) == ("l.toml", field)


def test_a_missing_locations_file_is_named_with_its_full_path():
    with pytest.raises(InputError) as caught:
        read_places(Path("nowhere.toml"))
    assert str(Path("nowhere.toml").absolute()) in str(caught.value)
