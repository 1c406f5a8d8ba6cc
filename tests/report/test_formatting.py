from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.planning.fleet import Fleet
from lowcarb_scheduler.planning.job import Job
from lowcarb_scheduler.report import formatting


@pytest.mark.parametrize(
    ("grams", "text"),
    [
        (None, "unknown"),
        (float("nan"), "unknown"),
        (0.0, "0 g"),
        (4.26e-14, "0 g"),  # the difference of two sums that are equal
        (-4.26e-14, "0 g"),
        (0.01234, "0.0123 g"),
        (0.001234, "1.23 mg"),
        (-8.53e-13, "0 g"),
        (2e-7, "0 g"),
        (65.84, "65.8 g"),
        (999.4, "999 g"),
        (999.6, "1.00 kg"),
        (1234.0, "1.23 kg"),
        (-1234.0, "-1.23 kg"),
        (2.5e6, "2.50 t"),
        (1.5e9, "1,500 t"),
    ],
)
def test_mass_has_three_digits_and_a_unit(grams, text):
    assert formatting.mass(grams) == text


def test_numbers_have_more_digits_where_they_are_compared():
    assert formatting.mass(30_803.3, 4) == "30.80 kg"
    assert formatting.percent(0.00041, 2) == "0.04 %"


def test_what_is_not_known_is_never_zero():
    assert formatting.percent(None) == formatting.energy(None) == formatting.instant(None) == "unknown"


@pytest.mark.parametrize(("kwh", "text"), [(0.0, "0 kWh"), (0.085, "85.0 Wh"), (12.4, "12.4 kWh")])
def test_energy(kwh, text):
    assert formatting.energy(kwh) == text


def test_percent():
    assert [formatting.percent(part) for part in (0.4126, 0.0, -0.00001, -0.05)] == [
        "41.3 %",
        "0.0 %",
        "0.0 %",
        "-5.0 %",
    ]


def test_seconds_are_shown_only_where_there_are():
    assert formatting.instant(datetime(2026, 1, 31, 18, tzinfo=UTC)) == "2026-01-31 18:00"
    assert formatting.instant(datetime(2026, 1, 31, 18, 0, 5, tzinfo=UTC)) == "2026-01-31 18:00:05"


def test_labels_say_synthetic_real_and_signal():
    assert formatting.labels(Provenance("synthetic", "average", True)).startswith("synthetic (made-up)")
    assert formatting.labels(Provenance("uk")) == (
        "data from uk; average or marginal: not stated by the source"
    )
    assert formatting.labels(Provenance(None)) == "no intensity is known"


def test_counts_put_the_most_first():
    assert formatting.counts({"DE": 2, "FR": 3, "AT": 2}) == "FR 3, AT 2, DE 2"


def test_a_sparkline_spans_its_own_range_and_dots_gaps():
    assert formatting.sparkline([1.0, 2.0, float("nan"), 8.0]) == "▁▂·█"
    assert formatting.sparkline([5.0, 5.0]) == "▁▁"
    assert formatting.sparkline([float("nan")]) == ""


@pytest.mark.parametrize(
    ("kwh", "says"),
    [
        ({}, "none"), ({"measured": 0.0}, "measured"), ({"measured": 3.0}, "measured"),
        ({"measured": 3.0, "assumed": 1.0}, "25 % assumed, 75 % measured"),
    ],
)  # fmt: skip
def test_energy_says_what_it_rests_on(kwh, says):
    assert formatting.basis(kwh) == says


def test_one_round_is_no_rounds():
    fleet = Fleet.from_frame(pd.DataFrame({"id": ["a"], "location": ["DE"]}))
    start = datetime(2026, 3, 2, tzinfo=UTC)
    job = Job(fleet, start, start + timedelta(days=1), 1, 1, timedelta(hours=1))
    assert formatting.work(job) == "1 round of 1 client, from 1 client at 1 location"
