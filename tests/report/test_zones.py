from __future__ import annotations

from lowcarb_scheduler.forecasts.sources.synthetic import Synthetic
from lowcarb_scheduler.report.zones import with_name, zone_name


def test_every_zone_of_the_synthetic_source_has_a_name():
    zones = [name for name in Synthetic().locations if name.isupper()]  # others are regions of a cloud
    assert len(zones) == 24
    assert [zone for zone in zones if zone_name(zone) is None] == []


def test_other_places_keep_their_names():
    assert with_name("DE") == "DE (Germany)"
    assert with_name("US-CAL-CISO") == "US-CAL-CISO (California)"
    assert with_name("berlin") == "berlin"
    assert zone_name("berlin") is None
