"""Times as people read them: in their own zone, or in UTC where they ask for it.

Documents, ledgers, errors and pictures stay in UTC, and say so. A zone is told once: after a time that
stands alone, in the head of a column for all below it. Where the clocks change within a column, each time has
its own.
"""

# No `from __future__ import annotations`: typer reads the annotation of the option as it runs.

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated, Final

import typer

from lowcarb_scheduler.report import wording

VARIABLE: Final = "LOWCARB_UTC"
_NEAR: Final = timedelta(days=6)  # a time this near is told by its weekday

Utc = Annotated[
    bool,
    typer.Option(
        "--utc", envvar=VARIABLE, show_envvar=False, help=f"Show times in UTC, not your zone [{VARIABLE}]."
    ),
]


@dataclass(frozen=True, slots=True)
class Times:
    """How times are shown.

    Parameters
    ----------
    zone : tzinfo, optional
        The zone they are shown in; by default that of this machine or of the variable TZ.
    """

    zone: tzinfo | None = None

    @classmethod
    def of(cls, utc: bool) -> "Times":
        """Return what the option ``--utc`` asks for."""
        return cls(UTC if utc else None)

    def local(self, when: datetime) -> datetime:
        """Return an aware time in the zone."""
        return when.astimezone(self.zone)

    def instant(self, when: datetime | None) -> str:
        """Write a time that stands alone, for example ``2026-01-31 19:00 CET``."""
        if when is None:
            return wording.UNKNOWN
        return f"{wording.to_minute(self.local(when))} {self.name(when)}"

    def name(self, when: datetime) -> str:
        """Return what the zone is called then, for example ``CEST``."""
        name = self.local(when).tzname() or "UTC"
        return f"UTC{name}" if name[0] in "+-" else name  # many zones have but a number

    def names(self, start: datetime, end: datetime) -> str:
        """Return what the zone is called in a period: ``CET``, or ``CET, then CEST``."""
        return ", then ".join(dict.fromkeys((self.name(start), self.name(end))))

    def column(self, title: str, times: Sequence[datetime | None]) -> tuple[str, list[str]]:
        """Write the head of a column with the zone in it, and the times below; None is left empty."""
        names = {self.name(when) for when in times if when is not None}
        if len(names) > 1:
            return title, ["" if when is None else self.instant(when) for when in times]
        head = f"{title} ({names.pop()})" if names else title
        return head, ["" if when is None else wording.to_minute(self.local(when)) for when in times]

    def weekday(self, when: datetime, now: datetime) -> str:
        """Write a time by its weekday where it is near, for example ``Thu 11:00``, else ``9 Mar 11:00``."""
        here = self.local(when)
        return f"{here:%a %H:%M}" if abs(when - now) < _NEAR else f"{here.day} {here:%b %H:%M}"
