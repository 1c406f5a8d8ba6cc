"""Small history: three locations with daily curves, and one forecast a day."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from lowcarb_scheduler.backtest import Scenario

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PLACES = ("DE", "FR", "GB")
SCENARIO = Scenario("tiny", PLACES, 6, 2, 9, HOUR)
BEGIN = datetime.fromisoformat("2026-01-01T00:00:00+00:00")
DAYS = 45


def trace_rows(days: int = DAYS) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return actuals and daily issues of three days as rows of trace files."""
    rng = np.random.default_rng(1)
    hours = np.arange(days * 24)
    swing = np.cos((hours[:, None] - 5 * np.arange(3)) * np.pi / 12)
    truth = 300 + 100 * swing + np.cumsum(rng.normal(0, 6, (len(hours), 3)), axis=0) * 0.3
    index = pd.date_range(BEGIN, periods=len(hours), freq="h")
    actual = pd.DataFrame(truth, index=index, columns=PLACES)
    issues = []
    for day in range(days - 4):
        part = slice(day * 24, day * 24 + 72)
        made = pd.DataFrame(truth[part] + rng.normal(0, 25, (72, 3)), index=index[part], columns=PLACES)
        issues.append(_rows(made).assign(issued_at=index[day * 24]))
    return _rows(actual), pd.concat(issues)


def _rows(frame: pd.DataFrame) -> pd.DataFrame:
    return (
        frame.melt(ignore_index=False, var_name="location", value_name="g_per_kwh")
        .rename_axis("time")
        .reset_index()
    )
