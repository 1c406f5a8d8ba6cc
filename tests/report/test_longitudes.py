from __future__ import annotations

import pytest

from lowcarb_scheduler.forecasts.sources.synthetic import Synthetic
from lowcarb_scheduler.report.rounds import longitude


def test_all_names_of_the_made_up_world_lie_somewhere():
    assert all(-180 <= longitude(name) <= 180 for name in Synthetic().locations)


@pytest.mark.parametrize(
    ("name", "degrees"),
    [("DE", 10.0), ("de", 10.0), ("US-CAL-CISO", -119.8), ("westeurope", 4.9), ("-33.9, 151.2", 151.2)],
)
def test_names_and_coordinates(name, degrees):
    assert longitude(name) == degrees


def test_a_part_of_a_country_lies_in_it():
    assert longitude("US-SW-SRP") == longitude("US")
    assert longitude("CAISO_NORTH") == longitude("US-CAL-CISO")


@pytest.mark.parametrize("name", ["", "-", "_", "nowhere", "x-DE", "12.0,999.0", "a-b-c-d"])
def test_of_others_nothing_is_known(name):
    assert longitude(name) is None


def test_zones_of_a_country_lie_in_the_order_they_do():
    order = [
        "US-CAL-CISO",
        "US-TEX-ERCO",
        "US-NY-NYIS",
        "CL-SEN",
        "PT",
        "GB",
        "FR",
        "DE",
        "PL",
        "KR",
        "AU-NSW",
    ]
    assert sorted(order, key=longitude) == order
