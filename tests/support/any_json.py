"""Check of a web source that is answered with any JSON."""

from __future__ import annotations

from lowcarb_scheduler.errors import ForecastUnavailableError


def assert_data_or_reasons(*calls):
    """Make each call: it returns, or explains each place in one plain line."""
    for call in calls:
        reasons = {}
        try:
            call()
        except ForecastUnavailableError as error:
            reasons = error.missing
        assert all(why and why.isprintable() and len(why) < 500 for why in reasons.values())
