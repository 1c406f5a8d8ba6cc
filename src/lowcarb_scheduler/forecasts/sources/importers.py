"""Readers of downloaded files with recorded intensity, as Electricity Maps and NESO publish them.

- *Electricity Maps Data Portal*, CSV: ``Datetime (UTC)``, ``Zone id``,
  ``Carbon intensity gCO₂eq/kWh (direct)`` and ``(Life cycle)``, spelt differently from year to year.
- *Carbon Intensity API* of Great Britain (NESO), CSV of its website: ``Datetime (UTC)``,
  ``Actual Carbon Intensity (gCO2/kWh)``; JSON responses of ``/intensity/{from}/{to}`` and ``/regional/...``.
- *NESO data portal*, historic generation mix, CSV: ``DATETIME``, ``CARBON_INTENSITY``.
- A trace file of recorded intensity.

Times without an offset are UTC here: each of these publishers says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd

from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.forecasts.sources.electricity_maps import ElectricityMaps
from lowcarb_scheduler.forecasts.sources.traces import ISSUE, read_points, refuse_rows, table_of_points
from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import UkCarbonIntensity
from lowcarb_scheduler.intensity import MAX_G_PER_KWH, IntensityTable, Signal
from lowcarb_scheduler.userfiles import check_regular, check_width

if TYPE_CHECKING:
    from pathlib import Path

Factor = Literal["direct", "lifecycle"]
NATIONAL: Final = "GB"
_FORMATS: Final = "a CSV of Electricity Maps' Data Portal, a CSV or JSON of NESO's, or a trace file"
_HEADER_BYTES: Final = 4096


class Download(NamedTuple):
    """Content of a file.

    Parameters
    ----------
    table : IntensityTable
        Recorded intensity [gCO2eq/kWh].
    server : str
        Publisher, by which an archive keeps data apart. Only data that a source gives, too, has its address.
    """

    table: IntensityTable
    server: str


@dataclass(frozen=True, slots=True)
class _Rows:
    """Cells of a file as text: locations, times and values."""

    location: pd.Series
    time: pd.Series
    value: pd.Series
    source: str
    server: str


def read_download(path: Path, factor: Factor = "direct", signal: Signal = "unknown") -> Download:
    """Read the recorded intensity in a downloaded file.

    Parameters
    ----------
    path : Path
        The file.
    factor : {"direct", "lifecycle"}
        Emission factors of an Electricity Maps file: of operation only, or including construction and fuel.
    signal : {"average", "marginal", "unknown"}
        Signal of a trace file; all other files are average.

    Raises
    ------
    InputError
        If the format is unknown, or a cell is invalid.
    """
    try:
        with check_regular(path).open("rb") as stream:
            # The content decides on the format: downloads have all sorts of names.
            beginning = stream.read(_HEADER_BYTES).decode("utf-8-sig", "replace").lstrip()
    except OSError as error:
        raise InputError("file", f"cannot be read: {error.strerror}", "give the path of a file",
                         str(path)) from None  # fmt: skip
    try:
        if path.suffix.lower() == ".parquet" or _is_trace(beginning):
            return _from_trace(path, signal)
        rows = _from_json(path) if beginning[:1] in ("{", "[") else _from_csv(path, factor)
        return Download(_table(rows), rows.server)
    except InputError as error:
        raise (error if error.file else error.within(str(path))) from None


def _is_trace(beginning: str) -> bool:
    columns = {_plain(name) for name in beginning.partition("\n")[0].split(",")}
    return {"time", "gperkwh"} <= columns


def _plain(name: str) -> str:
    """Return the letters and digits of a column's name: the rest of the spelling changes over the years."""
    return re.sub(r"[^a-z0-9]", "", name.lower().replace("₂", "2"))


def _from_trace(path: Path, signal: Signal) -> Download:
    rows = read_points(path, "file")
    if ISSUE in rows:  # a forecast must never be taken for recorded intensity
        raise InputError(ISSUE, "what happened was not issued", "give a trace of what happened")
    return Download(table_of_points(rows, signal), path.name)


def _from_csv(path: Path, factor: Factor) -> _Rows:
    try:
        frame = pd.read_csv(check_width(path), dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (ValueError, pd.errors.ParserError) as error:
        why = one_line(str(error), 120)
        raise InputError("file", f"is not a table: {why}", f"give {_FORMATS}") from None
    columns = {_plain(str(name)): name for name in frame.columns}

    def column(*names: str) -> Any:
        return next((columns[name] for name in names if name in columns), None)

    time = column("datetimeutc", "datetime")
    # The spelling of both columns differs between years, and between the portal's old and new exports.
    wanted = {"direct": ("direct",), "lifecycle": ("lifecycle", "lifecycleassessment", "lca")}
    own = [f"carbonintensityg{gas}kwh{ending}" for ending in wanted[factor] for gas in ("co2eq", "co2")]
    both = any(name.startswith("carbonintensityg") for name in columns)
    if time is not None and both and (zone := column("zoneid", "zone", "zonename")) is not None:
        value = column(*own)
        if value is None:
            raise InputError(
                "file", f"has no column for {factor} intensity", "choose the other with --factor"
            )
        return _Rows(frame[zone], frame[time], frame[value], ElectricityMaps.name, f"Data Portal, {factor}")
    value = column("actualcarbonintensitygco2kwh", "carbonintensity")
    if time is None or value is None:
        found = one_line(", ".join(map(str, frame.columns[:8])), 120)
        raise InputError("file", f"is none that is known (columns: {found})", f"give {_FORMATS}")
    # NESO's two files are of the whole country and have no column of locations.
    here = pd.Series(NATIONAL, index=frame.index)
    # The website's file holds the values that the API gives: in an archive they are of one series with them.
    published = UkCarbonIntensity().server if value.lower().startswith("actual") else "NESO data portal"
    return _Rows(here, frame[time], frame[value], UkCarbonIntensity.name, published)


def _from_json(path: Path) -> _Rows:
    """Return the half hours of a response of the Carbon Intensity API; for a region its estimate."""
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InputError("file", f"is not JSON ({one_line(str(error), 80)})", f"give {_FORMATS}") from None
    data = document.get("data") if isinstance(document, Mapping) else document
    cells: list[tuple[str, object, object]] = []
    for part in [data] if isinstance(data, Mapping) else data if isinstance(data, list) else []:
        if not isinstance(part, Mapping):
            continue
        if "data" in part or "shortname" in part:  # a region, and its half hours
            place = str(part.get("shortname") or part.get("regionid") or part.get("postcode") or "")
            cells += _half_hours(place, part.get("data"), "forecast")
        elif "regions" in part:  # a half hour, and all regions in it
            for region in part["regions"] if isinstance(part["regions"], list) else []:
                if isinstance(region, Mapping):
                    half_hour = {**region, "from": part.get("from")}
                    cells += _half_hours(str(region.get("shortname", "")), [half_hour], "forecast")
        else:
            cells += _half_hours(NATIONAL, [part], "actual")
    if not cells:
        raise InputError("data", "holds no half hours", "give an answer of the Carbon Intensity API")
    location, time, value = (pd.Series(list(each), dtype=object) for each in zip(*cells, strict=True))
    return _Rows(location, time, value, UkCarbonIntensity.name, UkCarbonIntensity().server)


def _half_hours(place: str, data: object, kind: str) -> list[tuple[str, object, object]]:
    found = []
    for half_hour in data if isinstance(data, list) else []:
        intensity = half_hour.get("intensity") if isinstance(half_hour, Mapping) else None
        if isinstance(intensity, Mapping):
            found.append((place, half_hour.get("from"), intensity.get(kind)))
    return found


def _table(rows: _Rows) -> IntensityTable:
    """Return cells as a table; of a repeated time the last cell counts."""
    try:
        times = pd.to_datetime(rows.time.astype(str).str.strip(), utc=True, format="ISO8601")
    except (ValueError, TypeError) as error:
        why = one_line(str(error).partition(". ")[0], 120)
        raise InputError("time", f"is not a time ({why})", "write ISO 8601 in UTC") from None
    texts = rows.value.where(rows.value.notna(), "").astype(str).str.strip()
    values = pd.to_numeric(texts, errors="coerce")
    is_gap = texts.str.lower().isin(("", "nan", "null", "na", "n/a"))
    fix = "correct it, or leave the cell empty for a gap"
    refuse_rows(values.isna() & ~is_gap, "g_per_kwh", "is not a number", fix, texts)
    too_high = f"is above {MAX_G_PER_KWH:g} g/kWh: another unit?"
    refuse_rows(values > MAX_G_PER_KWH, "g_per_kwh", too_high, fix, texts)
    values = values.where(values >= 0)  # providers write a missing intensity as a negative one
    places = rows.location.astype(str).str.strip()
    refuse_rows(places == "", "location", "is empty", "name the location")
    frame = pd.DataFrame(
        {"location": places, "time": times.dt.as_unit("us"), "g_per_kwh": values.astype(float)}
    )
    frame = frame.drop_duplicates(["location", "time"], keep="last")
    if not np.isfinite(frame["g_per_kwh"]).any():
        raise InputError("g_per_kwh", "has no value at all", "give a file with values")
    return table_of_points(frame, "average", rows.source)
