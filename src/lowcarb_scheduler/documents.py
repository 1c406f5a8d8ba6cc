"""The one JSON writer: what every ``--json`` answer, ledger line and report datum goes through."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any, Final

from lowcarb_scheduler.clock import format_time

SCHEMA_VERSION: Final = 1


def to_json(document: object, indent: int | None = None) -> str:
    """Write a document as JSON.

    Times become UTC ISO 8601, durations seconds, numpy scalars and arrays plain numbers and lists; floats
    are unrounded, and what is not finite becomes null, never NaN. Equal input gives equal bytes.

    Parameters
    ----------
    document : object
        Nested mappings, sequences and scalars.
    indent : int, optional
        Spaces by level; one line when not given.
    """
    return json.dumps(to_plain(document), indent=indent, ensure_ascii=False, allow_nan=False)


def to_plain(value: Any) -> Any:
    """Return ``value`` with nothing in it but what JSON knows; see :func:`to_json`."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if hasattr(value, "tolist"):  # a numpy scalar or array
        return to_plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")
