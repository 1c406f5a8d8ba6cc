"""What a check finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "fault"]


@dataclass(frozen=True, slots=True)
class Check:
    """One finding.

    Parameters
    ----------
    check : str
        What was looked at.
    state : {"ok", "warning", "fault"}
        A fault would spoil a run; a warning is worth knowing.
    detail : str
        What was found.
    fix : str or None
        What to do about it.
    """

    check: str
    state: State
    detail: str
    fix: str | None = None
