"""Spelling of numbers and times for people: the same in the terminal, in charts and in the page.

An unknown number is written as ``unknown``, never as zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Final

from lowcarb_scheduler.clock import format_duration, to_utc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, tzinfo

    from lowcarb_scheduler.intensity import Provenance
    from lowcarb_scheduler.planning.job import Job

UNKNOWN: Final = "unknown"
# A unit applies from 0.9995 of it on: 999.6 g rounds to 1.00 kg, not to 1,000 g. Milligrams begin late: most
# small numbers stand beside others in grams.
_MASSES: Final = ((1e6, "t"), (1e3, "kg"), (1.0, "g"))
_SMALL_G: Final = 0.01
_NO_MASS_G: Final = 5e-7  # less is what is left of a difference that is none, even of tonnes
_LONG_H: Final = 3.0  # from here on nobody asks for minutes [h]
_NEAR: Final = timedelta(days=6)  # within a week a weekday is unique
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SIGNALS: Final = {
    "average": "average grid intensity",
    "marginal": "marginal grid intensity",
    "unknown": "average or marginal: not stated by the source",
}


def significant(value: float | None, digits: int = 3) -> str:
    """Write a number with ``digits`` significant digits, never with an exponent."""
    if value is None:
        return UNKNOWN
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    rounded = round(value, digits - 1 - math.floor(math.log10(abs(value))))
    # Rounding may add a digit: 9.996 is 10.0, which has one decimal less.
    return f"{rounded:,.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"


def mass_unit(grams: float) -> tuple[float, str]:
    """Return the unit that suits emissions: its mass [g] and its name."""
    if _NO_MASS_G <= abs(grams) < _SMALL_G:
        return 1e-3, "mg"
    return next((m for m in _MASSES if abs(grams) >= 0.9995 * m[0]), _MASSES[-1])


def mass(grams: float | None, digits: int = 3) -> str:
    """Write emissions, for example ``512 g``, ``1.24 kg``, ``3.10 t`` or ``2.50 mg``."""
    if grams is None or not math.isfinite(grams):
        return UNKNOWN
    if abs(grams) < _NO_MASS_G:
        return "0 g"
    unit_g, unit = mass_unit(grams)
    return f"{significant(grams / unit_g, digits)} {unit}"


def percent(part: float | None, decimals: int = 1) -> str:
    """Write a fraction as a percentage, for example ``41.3 %``."""
    if part is None:
        return UNKNOWN
    return f"{round(100 * part, decimals) + 0.0:.{decimals}f} %"  # -0.0 + 0.0 is 0.0


def percent_short(part: float) -> str:
    """Write a fraction as people say it: ``18 %``, but ``2.4 %``."""
    return percent(part, 0 if abs(part) >= 0.0995 else 1)


def patience(value: float) -> str:
    """Write a patience with four decimals at most, rounded up: less could not reach the plan."""
    return f"{math.ceil(1e4 * value - 1e-6) / 1e4:.4f}".rstrip("0").ljust(3, "0")


def is_accuracy(metric: str) -> bool:
    """Return whether a metric of an app is an accuracy, by its name."""
    return "acc" in metric.lower()


def metric(name: str, value: float) -> str:
    """Write a metric of an app: an accuracy as a percentage."""
    return percent(value) if is_accuracy(name) and 0 <= value <= 1 else significant(value)


def duration_short(duration: timedelta) -> str:
    """Write a duration as people say it: ``5 h``, ``1 d 3 h``, but ``1 h 30 min``."""
    hours = duration / timedelta(hours=1)
    step = timedelta(hours=1) if hours >= _LONG_H else timedelta(minutes=1)
    return format_duration(round(duration / step) * step)


def energy(kwh: float | None) -> str:
    """Write energy, for example ``12.4 kWh`` or ``85.0 Wh``."""
    if kwh is None:
        return UNKNOWN
    return f"{significant(kwh)} kWh" if abs(kwh) >= 0.9995 or kwh == 0 else f"{significant(1000 * kwh)} Wh"


def basis(kwh: Mapping[str, float]) -> str:
    """Write the basis of energy, for example ``measured`` or ``60 % measured, 40 % assumed``."""
    whole = sum(kwh.values())
    if len(kwh) <= 1 or whole <= 0:
        return ", ".join(sorted(kwh)) or "none"
    return ", ".join(f"{percent(part / whole, 0)} {name}" for name, part in sorted(kwh.items()))


def instant(when: datetime | None) -> str:
    """Write a time in UTC, for example ``2026-01-31 18:00``."""
    if when is None:
        return UNKNOWN
    return to_minute(to_utc(when, "when"))


def to_minute(when: datetime) -> str:
    """Write a time in its own zone to the minute, with seconds unless they are zero."""
    return when.strftime("%Y-%m-%d %H:%M:%S" if when.second else "%Y-%m-%d %H:%M")


def span(start: datetime, end: datetime) -> str:
    """Write a period with weekdays, for example ``Mon 22:30 to Tue 00:00`` or ``Mon 22:30 to 23:00``."""
    start, end = to_utc(start, "start"), to_utc(end, "end")
    last = f"{end:%H:%M}" if start.date() == end.date() else f"{end:%a %H:%M}"
    return f"{start:%a %H:%M} to {last}"


def labels(provenance: Provenance) -> str:
    """Write the provenance of intensity values."""
    if not provenance.source:
        return "no intensity is known"
    kind = "synthetic (made-up) data" if provenance.synthetic else f"data from {provenance.source}"
    return f"{kind}; {_SIGNALS[provenance.signal]}"


def sentence_case(text: str) -> str:
    """Write a heading with a capital."""
    return f"{text[:1].upper()}{text[1:]}"


def work(job: Job) -> str:
    """Write the size of a job."""
    clients, places = len(job.fleet), len(job.fleet.locations)
    size = f"{counted(job.rounds, 'round')} of {counted(job.clients_per_round, 'client')}"
    return f"{size}, from {counted(clients, 'client')} at {counted(places, 'location')}"


def counted(number: int, noun: str) -> str:
    """Write a number with its noun, for example ``1 day`` or ``28 days``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def mass_short(grams: float) -> str:
    """Write emissions as people say them: ``1.9 kg``, but ``45 kg`` and ``118 g``."""
    if abs(grams) < _NO_MASS_G:
        return "0 g"
    unit_g, unit = mass_unit(grams)
    return f"{grams / unit_g:,.{0 if abs(grams) >= 9.95 * unit_g else 1}f} {unit}"


def seats(by_name: Mapping[str, int], fleet: Mapping[str, int], most: int = 5) -> str:
    """Write the clients of a round by location, so short that a terminal shows them in a line.

    Parameters
    ----------
    by_name : mapping of str to int
        Number of clients by location.
    fleet : mapping of str to int
        The same for all clients.
    most : int
        Number of locations that are named.
    """
    if by_name == fleet:
        return f"all {sum(fleet.values()):,}"
    order = sorted(by_name.items(), key=lambda item: (-item[1], item[0]))
    hidden = sum(number for _, number in order[most:])
    return counts(dict(order[:most])) + (f", and {hidden:,} more" if hidden else "")


def counts(by_name: Mapping[str, int]) -> str:
    """Write numbers by name, the largest first, for example ``FR 3, DE 2``."""
    order = sorted(by_name.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in order)


def sparkline(values: Sequence[float], scale: tuple[float, float] | None = None) -> str:
    """Draw values as a line of small bars, NaN as a dot.

    Parameters
    ----------
    values : sequence of float
        The values.
    scale : (float, float), optional
        Values of the lowest and the highest bar, for lines to compare; default: those of the line.
    """
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return ""
    low, high = scale or (min(known), max(known))
    span = high - low
    top = len(_SPARKS) - 1
    return "".join(
        _SPARKS[round(top * (value - low) / span) if span else 0] if math.isfinite(value) else "·"
        for value in values
    )


# -- Times in the user's zone, or in UTC on request ---------------------------------------------------------
# JSON documents, ledgers, errors and charts always use UTC and label it. Here the zone is shown once: after a
# single time, or in the head of a column. If the clocks change within a column, each time has its own zone.


@dataclass(frozen=True, slots=True)
class Times:
    """Writer of times in one zone.

    Parameters
    ----------
    zone : tzinfo, optional
        The zone; by default that of this machine or of the variable TZ.
    """

    zone: tzinfo | None = None

    @classmethod
    def of(cls, utc: bool) -> Times:
        """Build the writer from the option ``--utc``."""
        return cls(UTC if utc else None)

    def local(self, when: datetime) -> datetime:
        """Return an aware time in the zone."""
        return when.astimezone(self.zone)

    def instant(self, when: datetime | None) -> str:
        """Write a single time with its zone, for example ``2026-01-31 19:00 CET``."""
        if when is None:
            return UNKNOWN
        return f"{to_minute(self.local(when))} {self.name(when)}"

    def opening(self, when: datetime, now: datetime, *, is_virtual: bool) -> str:
        """Write an opening, and how long it is until then if it is still to come."""
        # A virtual clock jumps to the opening: a countdown would be meaningless.
        is_counted = when > now and not is_virtual
        return self.instant(when) + (f", in {format_duration(when - now)}" if is_counted else "")

    def name(self, when: datetime) -> str:
        """Return the name of the zone at a time, for example ``CEST``."""
        name = self.local(when).tzname() or "UTC"
        return f"UTC{name}" if name[0] in "+-" else name  # many zones have only a number, such as +03

    def names(self, start: datetime, end: datetime) -> str:
        """Return the names of the zone in a period: ``CET``, or ``CET, then CEST``."""
        return ", then ".join(dict.fromkeys((self.name(start), self.name(end))))

    def column(self, title: str, times: Sequence[datetime | None]) -> tuple[str, list[str]]:
        """Return the head of a column with its zone, and the times below; None becomes empty."""
        names = {self.name(when) for when in times if when is not None}
        if len(names) > 1:
            return title, ["" if when is None else self.instant(when) for when in times]
        head = f"{title} ({names.pop()})" if names else title
        return head, ["" if when is None else to_minute(self.local(when)) for when in times]

    def weekday(self, when: datetime, now: datetime) -> str:
        """Write a near time with its weekday, for example ``Thu 11:00``, else as ``9 Mar 11:00``."""
        here = self.local(when)
        return f"{here:%a %H:%M}" if abs(when - now) < _NEAR else f"{here.day} {here:%b %H:%M}"
