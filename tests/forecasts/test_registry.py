"""Sources by name: each declares its settings, and the documentation shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowcarb_scheduler.clock import parse_duration
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.base import ForecastSource
from lowcarb_scheduler.forecasts.registry import SOURCES, source_class
from lowcarb_scheduler.settings import SECRETS, Settings

PAGE = (Path(__file__).parents[2] / "docs/reference/sources.md").read_text(encoding="utf-8")


def rows(heading):
    """Return the cells of a table of the page by its first column, without markup."""
    lines = PAGE[PAGE.index(heading) :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("| ").replace("`", "").split("|")] for line in lines]
    return {name: values for name, *values in cells}


@pytest.mark.parametrize("name", SOURCES)
def test_a_source_declares_settings_that_exist(name):
    source = source_class(name)
    assert issubclass(source, ForecastSource)
    assert source.name == name
    assert not source.url_setting or source.url_setting in Settings.model_fields
    assert set(source.secret_settings) <= set(SECRETS)


def test_every_secret_belongs_to_a_source():
    assert {secret for name in SOURCES for secret in source_class(name).secret_settings} == set(SECRETS)


def test_the_page_shows_the_address_and_the_credentials_of_each_web_source():
    declared = {}
    for name in SOURCES:
        source = source_class(name)
        if source.url_setting:
            cells = [source.url_setting, ", ".join(source.secret_settings)]
            declared[name] = [cell.replace("_", "-") for cell in cells]
    shown = rows("| source | address | credentials |")
    assert {name: [*cells, ""][:2] for name, cells in shown.items()} == declared


def test_the_page_shows_the_signal_and_the_interval_of_each_source():
    for name, (signal, _, interval, _) in rows("| source | signal |").items():
        source = source_class(name)
        if source.signal is not None:
            assert signal.startswith(source.signal)
        if source.issued_every is not None:
            assert parse_duration(interval.replace(" min", "m").replace(" h", "h"), "") == source.issued_every
    assert set(rows("| source | signal |")) == set(SOURCES)


def test_an_unknown_name_is_an_error_with_the_nearest_one():
    with pytest.raises(InputError, match="did you mean watttime"):
        source_class("watt-time")
