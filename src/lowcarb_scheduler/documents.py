"""JSON writer of all ``--json`` documents, ledger lines and report data."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any, Final

from lowcarb_scheduler.clock import format_time

SCHEMA_VERSION: Final = 1


def to_json(document: object, indent: int | None = None, *, compact: bool = False) -> str:
    """Write a document as JSON.

    Times become UTC ISO 8601, durations seconds, numpy scalars and arrays plain numbers and lists. Floats are
    unrounded, and infinite or NaN values become null. Equal input gives equal bytes.

    Parameters
    ----------
    document : object
        Nested mappings, sequences and scalars.
    indent : int, optional
        Spaces per level; by default the document is one line.
    compact : bool (default: False)
        Whether to write no space after commas and colons.

    Raises
    ------
    TypeError
        If a value has no JSON form.
    """
    separators = (",", ":") if compact else None
    text = json.dumps(
        to_plain(document), indent=indent, separators=separators, ensure_ascii=False, allow_nan=False
    )
    # Half of a surrogate pair is no character of UTF-8; the escape that Python writes for it is JSON's, too.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def to_plain(value: Any) -> Any:
    """Return ``value`` converted to the types of JSON; see :func:`to_json`."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}  # node ids are integers
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    # numpy is not imported here: documents are written by commands that start fast without it.
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    raise TypeError(f"{type(value).__name__} has no JSON form")
