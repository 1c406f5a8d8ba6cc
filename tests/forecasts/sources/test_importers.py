"""Files that people have downloaded."""

from __future__ import annotations

import json
from datetime import timedelta
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from lowcarb_scheduler.clock import parse_time
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.sources.importers import read_download
from lowcarb_scheduler.forecasts.sources.uk_carbon_intensity import UkCarbonIntensity
from lowcarb_scheduler.intensity import IntensityTable

ANSWERS = Path(__file__).parents[2] / "conformance" / "responses" / "uk-carbon-intensity"
DIRECT = "Carbon intensity gCO₂eq/kWh (direct)"
LIFECYCLE = "Carbon intensity gCO₂eq/kWh (Life cycle)"
PORTAL = (
    f"Datetime (UTC),Country,Zone name,Zone id,{DIRECT},{LIFECYCLE},Data source",
    "2023-01-01 00:00:00,Germany,Germany,DE,300.5,350,x",
    "2023-01-01 01:00:00,Germany,Germany,DE,,351,x",
    "2023-01-01 02:00:00,Germany,Germany,DE,302,352,x",
)


@pytest.fixture
def read(tmp_path):
    """Return the table that is read from lines."""

    def read_lines(lines, name="file.csv", **options):
        path = tmp_path / name
        path.write_text("\n".join(lines), encoding="utf-8")
        return read_download(path, **options)

    return read_lines


def values(download, column=0):
    return download.table.values[:, column].tolist()


def test_the_portal_of_electricity_maps(read):
    found = read(PORTAL)
    assert (found.table.locations, found.table.source, found.table.signal) == (
        ("DE",),
        "electricity-maps",
        "average",
    )
    assert found.table.start == parse_time("2023-01-01T00:00Z", "t")
    assert found.table.step == timedelta(hours=1)
    assert values(found)[::2] == [300.5, 302.0]
    assert np.isnan(values(found)[1])
    assert values(read(PORTAL, factor="lifecycle")) == [350.0, 351.0, 352.0]
    assert found.server != read(PORTAL, factor="lifecycle").server  # an archive never mixes the two


@pytest.mark.parametrize(
    ("direct", "lifecycle", "zone"),
    [
        ("Carbon Intensity gCO₂eq/kWh (direct)", "Carbon Intensity gCO₂eq/kWh (LCA)", "Zone Id"),
        ("Carbon Intensity gCO2eq/kWh (direct)", "Carbon intensity gCO2eq/kWh (Life cycle)", "Zone id"),
        (
            "Carbon Intensity gCO₂eq/kWh (Direct)",
            "Carbon Intensity gCO₂eq/kWh (life cycle assessment)",
            "zone_id",
        ),
    ],
)
def test_its_columns_were_called_otherwise_in_other_years(read, direct, lifecycle, zone):
    header = PORTAL[0].replace(DIRECT, direct).replace(LIFECYCLE, lifecycle).replace("Zone id", zone)
    assert values(read((header, *PORTAL[1:])))[0] == 300.5
    assert values(read((header, *PORTAL[1:]), factor="lifecycle"))[0] == 350.0


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(tmp_path):
    path = tmp_path / "file.csv"
    path.write_bytes("\r\n".join(PORTAL).encode("utf-8-sig"))
    assert values(read_download(path))[0] == 300.5


def test_the_carbon_intensity_api_as_csv(read):
    found = read(
        (
            "Datetime (UTC),Actual Carbon Intensity (gCO2/kWh),Forecast Carbon Intensity (gCO2/kWh),Index",
            "2024-01-01T00:00Z,60,62,low",
            "2024-01-01T00:30Z,,61,low",
            "2024-01-01T01:00Z,58,60,low",
        )
    )
    assert (found.table.locations, found.table.source) == (("GB",), "uk-carbon-intensity")
    assert found.server == UkCarbonIntensity().server
    assert found.table.step == timedelta(minutes=30)
    assert np.nan_to_num(values(found), nan=-1).tolist() == [60.0, -1.0, 58.0]


def test_the_data_portal_of_neso(read):
    found = read(
        (
            "DATETIME,GAS,CARBON_INTENSITY",
            "2009-01-01 00:00:00+00:00,8000,525",
            "2009-01-01 00:30:00+00:00,8000,526",
        )
    )
    assert values(found) == [525.0, 526.0]
    assert found.server == "NESO data portal"


def test_the_answer_of_the_api_for_the_country_and_a_region():
    national = read_download(ANSWERS / "nationalPast.json").table
    told = json.loads((ANSWERS / "nationalPast.json").read_text(encoding="utf-8"))["data"]
    assert national.locations == ("GB",)
    assert national.start == parse_time(told[0]["from"], "from")
    assert national.values[0, 0] == told[0]["intensity"]["actual"]
    region = read_download(ANSWERS / "regionPast.json").table
    assert region.locations == ("Scotland",)
    assert region.values[0, 0] == 31.0


def test_all_regions_in_each_half_hour(read):
    half_hours = [
        {
            "from": f"2024-01-01T0{k}:00Z",
            "regions": [
                {"shortname": name, "intensity": {"forecast": 10 * k + n}}
                for n, name in enumerate(("London", "Wales"))
            ],
        }
        for k in range(3)
    ]
    table = read([json.dumps({"data": half_hours})], "file.json").table
    assert table.locations == ("London", "Wales")
    assert table.values.tolist() == [[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]]


def test_a_trace_is_taken_as_it_is(read):
    lines = ("region,time,g_per_kwh", "DE,2024-01-01T00:00+01:00,5", "DE,2024-01-01T01:00+01:00,6")
    found = read(lines, signal="marginal")
    assert (found.table.signal, found.table.source, values(found)) == ("marginal", "traces", [5.0, 6.0])
    assert found.table.start == parse_time("2023-12-31T23:00Z", "t")


def test_files_of_several_places_and_years_become_one(read):
    one = read(PORTAL).table
    fr = read([line.replace(",DE,", ",FR,") for line in PORTAL]).table
    later = read([line.replace("2023", "2024") for line in PORTAL]).table
    table = reduce(IntensityTable.fill, [one, fr, later])
    assert table.locations == ("DE", "FR")
    assert table.integrate([int(one.edges_us[0])], [int(one.edges_us[1])])[0].tolist() == [300.5, 300.5]
    assert np.isnan(table.integrate([int(one.edges_us[3])], [int(later.edges_us[0])])).all()
    assert table.end == later.end


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["a,b", "1,2"], r"file: is none that is known \(columns: a, b\)"),
        ([PORTAL[0].replace(DIRECT, "x"), *PORTAL[1:]], "has no column for direct intensity"),
        ([*PORTAL, "yesterday,a,b,DE,1,2,x"], "time: is not a time"),
        ([*PORTAL, "2023-01-01 03:00:00,a,b,DE,much,2,x"], "g_per_kwh: row 4: 'much' is not a number"),
        ([*PORTAL, "2023-01-01 03:00:00,a,b,DE,30000,2,x"], "row 4: '30000' is above 3000 g/kWh"),
        ([*PORTAL, "2023-01-01 03:00:00,a,b,,1,2,x"], "location: row 4: is empty"),
        ([PORTAL[0], "2023-01-01 00:00:00,a,b,DE,,2,x"], "g_per_kwh: has no value at all"),
        ([PORTAL[0], PORTAL[1] + ",1,2,3\n1,2,3,4,5,6,7,8,9,10,11,12,13"], "file: is not a table"),
        (["{"], "file: is not JSON"),
        (['{"data": []}'], "data: holds no half hours"),
        (['{"data": [1, {"regions": 3}, {"data": "x", "shortname": "W"}]}'], "data: holds no half hours"),
        ([""], "file: is not a table"),
        (
            ["location,time,issued_at,g_per_kwh", "DE,2024-01-01T00:00Z,2024-01-01T00:00Z,5"],
            "issued_at: what happened was not issued",
        ),
    ],
)
def test_what_is_none_of_them_is_refused(read, lines, problem):
    with pytest.raises(InputError, match=problem) as caught:
        read(lines)
    assert caught.value.file.endswith("file.csv")


def test_a_missing_value_may_be_written_as_minus_one(read):
    found = read([*PORTAL, "2023-01-01 03:00:00,a,b,DE,-1,2,x"])
    assert np.isnan(values(found)[3])


def test_of_a_time_that_stands_twice_the_last_counts(read):
    assert values(read([*PORTAL, "2023-01-01 02:00:00,a,b,DE,99,2,x"]))[2] == 99.0


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="file: cannot be read"):
        read_download(tmp_path / "gone.csv")
