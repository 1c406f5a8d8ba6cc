"""Sources in an order: who is asked, by which names, in which time, and what is never mixed."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowcarb_scheduler.clock import VirtualClock, to_us
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.forecasts.archive.cached_source import CachedSource
from lowcarb_scheduler.forecasts.archive.database import Archive
from lowcarb_scheduler.forecasts.base import Forecast, ForecastSource, read_names
from lowcarb_scheduler.forecasts.fallback import FallbackSource
from lowcarb_scheduler.forecasts.registry import SOURCES, open_sources
from lowcarb_scheduler.forecasts.sources.synthetic import Synthetic
from lowcarb_scheduler.forecasts.sources.traces import Traces
from lowcarb_scheduler.intensity import IntensityTable, Provenance
from lowcarb_scheduler.settings import Settings
from support.forecast_sources import DAY, HOUR, NOW, Web

SECOND = timedelta(seconds=1)


@pytest.fixture
def clock():
    return VirtualClock(NOW)


@pytest.fixture
def first(clock):
    return Web("electricity-maps", value=100.0, places={"DE", "FR"}, clock=clock)


@pytest.fixture
def second(clock):
    return Web("uk-carbon-intensity", value=200.0, places={"London", "FR"}, clock=clock)


@pytest.fixture
def chain(first, second, clock):
    return FallbackSource([first, second], clock=clock)


def values(table):
    return dict(zip(table.locations, table.values[0].tolist(), strict=True))


# -- who is asked ------------------------------------------------------------------------------------------


def test_the_next_one_fills_only_what_the_first_lacks(chain, first, second):
    known = chain.forecast(["London", "FR", "DE", "Mars"], NOW)
    assert values(known.intensity) == {"London": 200.0, "FR": 100.0, "DE": 100.0}
    assert known.intensity.source == "electricity-maps+uk-carbon-intensity"
    assert known.intensity.signal == "average"
    assert second.asked == [("forecast", ["London", "Mars"])]
    assert known.missing == {"Mars": "electricity-maps: it is unknown; uk-carbon-intensity: it is unknown"}
    actual = chain.actual(["London", "DE"], NOW - DAY, NOW)
    assert values(actual) == {"London": 200.0, "DE": 100.0}
    assert second.asked[1:] == [("actual", ["London"], NOW - DAY, NOW)]


def test_where_nothing_is_missing_the_next_one_is_not_asked(chain, second):
    known = chain.forecast(["DE", "FR"], NOW)
    assert second.asked == []
    assert known.intensity.source == "electricity-maps"
    assert chain.faults == []


def test_when_the_first_fails_the_next_one_stands_in_and_that_is_noted(chain, first):
    first.down = "answered 503"
    for hour in range(3):
        known = chain.forecast(["FR"], NOW + hour * HOUR)
        assert (values(known.intensity), known.intensity.source) == ({"FR": 200.0}, "uk-carbon-intensity")
    assert [fault.what for fault in chain.faults] == ["forecast from electricity-maps"]
    assert "answered 503" in chain.faults[0].why


def test_when_all_fail_each_reason_is_told(chain, first, second):
    first.down, second.down = "answered 401", "cannot connect"
    why = "electricity-maps: answered 401; uk-carbon-intensity: cannot connect"
    for ask in (lambda: chain.forecast(["DE"], NOW), lambda: chain.actual(["DE"], NOW - DAY, NOW)):
        with pytest.raises(ForecastUnavailableError) as error:
            ask()
        assert error.value.missing == {"DE": why}


def test_a_hole_is_filled_but_nothing_before_or_after(first, second, clock):
    first.unknown_hours = {NOW, NOW + HOUR, NOW + 5 * HOUR, NOW + 23 * HOUR}
    second.places, second.issued_at = {"DE", "FR"}, NOW - 6 * HOUR
    plain = second.forecast
    second.forecast = lambda names, now, timeout=None: plain(names, now)
    known = FallbackSource([first, second], clock=clock).forecast(["DE"], NOW)
    assert known.issued_at("DE") == known.generated_at == NOW  # the hole's filling does not make it older
    frame = known.intensity.to_frame()["DE"]
    assert frame[NOW + 5 * HOUR] == 200.0
    assert frame[NOW + 4 * HOUR] == 100.0
    assert frame[: NOW + 1.5 * HOUR].isna().all()
    assert np.isnan(known.intensity.sampled(to_us(NOW) + np.array([23, 24]) * 3_600_000_000)).all()


def test_a_hole_that_is_over_is_none(chain, first, second):
    first.issued_at, first.unknown_hours = NOW - 3 * HOUR, {NOW - 2 * HOUR}
    chain.forecast(["DE"], NOW)
    assert second.asked == []
    first.unknown_hours = {NOW + 2 * HOUR}
    chain.forecast(["DE"], NOW)
    assert second.kinds == ["forecast"]


@given(st.lists(st.sets(st.sampled_from("ABCDE")), min_size=1, max_size=4), st.sets(st.sampled_from("ABCDE")))
def test_each_place_comes_from_the_first_that_knows_it(known_by, asked):
    if not asked:
        return
    sources = [Web(f"s{k}", value=float(k), places=places) for k, places in enumerate(known_by)]
    expected = {}
    for k, places in reversed([*enumerate(known_by)]):
        expected |= dict.fromkeys(places & asked, float(k))
    chain = FallbackSource(sources, clock=VirtualClock(NOW))
    if not expected:
        with pytest.raises(ForecastUnavailableError) as error:
            chain.forecast(sorted(asked), NOW)
        assert set(error.value.missing) == asked
        return
    known = chain.forecast(sorted(asked), NOW)
    assert values(known.intensity) == expected
    assert set(known.missing) == asked - set(expected)
    assert known.intensity.source == "+".join(f"s{int(k)}" for k in sorted(set(expected.values())))


# -- what is never mixed -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other", "mixes"), [
    ("average", "average", True), ("marginal", "marginal", True), ("average", "marginal", False),
    ("unknown", "average", False), ("marginal", "unknown", False), ("unknown", "unknown", False),
])  # fmt: skip
def test_numbers_of_another_signal_are_refused_openly_and_unasked(first, second, clock, one, other, mixes):
    first.signal, second.signal = one, other
    chain = FallbackSource([first, second], clock=clock)
    known = chain.forecast(["DE", "London"], NOW)
    assert set(known.intensity.locations) == ({"DE", "London"} if mixes else {"DE"})
    assert bool(second.asked) == mixes
    if not mixes:
        assert "never mixed" in known.missing["London"]
        assert "set sdk-signal" not in known.missing["London"]  # it is none of theirs
        assert chain.past_forecasts(["London"], NOW - DAY, NOW, HOUR) == []
        first.down = "answered 503"  # not even when it would be all there is
        with pytest.raises(ForecastUnavailableError, match="never mixed"):
            chain.forecast(["DE"], NOW)


@pytest.mark.parametrize(("other", "helps"), [("average", True), ("unknown", False)])
def test_the_setting_that_would_mend_it_is_named(first, second, clock, other, helps):
    first.name, first.signal, second.signal = "carbon-aware-sdk", "unknown", other
    known = FallbackSource([first, second], clock=clock).forecast(["DE", "London"], NOW)
    assert ("set sdk-signal" in known.missing["London"]) == helps


def test_a_source_that_does_not_say_what_it_measures_is_refused_by_its_answer(first, clock):
    class Silent(ForecastSource):
        def forecast(self, locations, now, *, timeout=None):
            return Web("silent", "marginal").forecast(locations, now)

        actual = None

    class Made(ForecastSource):
        signal, actual = "average", None

        def forecast(self, locations, now, *, timeout=None):
            edges = np.array([to_us(now), to_us(now + HOUR)])
            made = IntensityTable(
                edges, tuple(locations), np.ones((1, len(locations))), Provenance("x", "average", True)
            )
            return Forecast(made, now)

    missing = FallbackSource([first, Silent(), Made()], clock=clock).forecast(["DE", "GB"], NOW).missing
    assert "Silent: its signal is marginal" in missing["GB"]
    assert "Made: made-up numbers are never mixed with real ones" in missing["GB"]


def test_a_lone_source_of_unknown_signal_is_no_mixture(first, clock):
    first.signal = "unknown"
    assert FallbackSource([first], clock=clock).forecast(["DE"], NOW).intensity.signal == "unknown"


# -- fresh before last good --------------------------------------------------------------------------------


@pytest.fixture
def kept(first, second, tmp_path, clock):
    archive = Archive(tmp_path / "kept", clock=clock)
    return FallbackSource(
        [CachedSource(first, archive, clock), CachedSource(second, archive, clock)], clock=clock
    )


def test_a_fresh_forecast_of_the_next_goes_before_a_last_good_one(kept, first, second):
    kept.forecast(["DE", "FR"], NOW)
    first.down = "answered 503"
    known = kept.forecast(["DE", "FR"], NOW + 2 * HOUR)
    assert values(known.intensity.slice(NOW + 2 * HOUR, NOW + DAY)) == {"DE": 100.0, "FR": 200.0}
    assert known.last_good == {"DE": "answered 503"}
    assert (known.issued_at("DE"), known.issued_at("FR")) == (NOW, NOW + 2 * HOUR)
    second.down = "answered 500"
    known = kept.forecast(["DE", "FR"], NOW + 4 * HOUR)
    assert values(known.intensity.slice(NOW + 4 * HOUR, NOW + DAY)) == {"DE": 100.0, "FR": 100.0}
    assert set(known.last_good) == {"DE", "FR"}


def test_past_forecasts_of_a_place_are_all_from_one_source(kept, first):
    kept.forecast(["DE", "London"], NOW)
    first.down = "answered 503"
    kept.forecast(["FR", "London"], NOW + 6 * HOUR)
    first.down = None
    kept.forecast(["FR", "London"], NOW + 12 * HOUR)
    past = kept.past_forecasts(["DE", "FR", "London"], NOW - DAY, NOW + DAY, HOUR)
    seen = [(issue.generated_at, place, issue.intensity.source)
            for issue in past for place in issue.intensity.locations]  # fmt: skip
    assert sorted(seen) == [
        (NOW, "DE", "electricity-maps"),
        (NOW, "London", "uk-carbon-intensity"),
        (NOW + 6 * HOUR, "London", "uk-carbon-intensity"),
        (NOW + 12 * HOUR, "FR", "electricity-maps"),
        (NOW + 12 * HOUR, "London", "uk-carbon-intensity"),
    ]


def test_the_archives_faults_are_its_own(kept, tmp_path):
    (tmp_path / "kept").touch()
    kept.forecast(["DE", "London"], NOW)
    assert {fault.what for fault in kept.faults} == {"archive"}


# -- time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit_s", [30, 4])
def test_all_together_stay_within_the_time_and_the_next_has_its_share(first, second, clock, limit_s):
    first.takes = second.takes = HOUR
    chain = FallbackSource([first, second], timeout=30 * SECOND, clock=clock)
    asked = partial(chain.forecast, ["DE", "London"], NOW, timeout=limit_s * SECOND)
    with pytest.raises(ForecastUnavailableError):
        asked()
    assert clock.now() == NOW + limit_s * SECOND
    first.takes, second.takes = HOUR, limit_s / 2 * SECOND
    assert set(asked().intensity.locations) == {"London"}
    first.takes, second.takes = SECOND, (limit_s - 1) * SECOND
    assert set(asked().missing) == set()


def test_without_time_nobody_is_asked(first, second, clock):
    with pytest.raises(ForecastUnavailableError, match="no time left"):
        FallbackSource([first, second], clock=clock).forecast(["DE"], NOW, timeout=timedelta(0))
    assert first.asked == second.asked == []


# -- names -------------------------------------------------------------------------------------------------


def test_each_source_is_asked_by_its_own_names(first, second, clock):
    names = {
        "electricity-maps": {"here": "DE", "there": "DE"},
        "uk-carbon-intensity": {"office": "London", "here": "London"},
    }
    chain = FallbackSource([first, second], names, clock=clock)
    known = chain.forecast(["office", "there", "FR", "here"], NOW)
    assert first.asked == [("forecast", ["office", "DE", "FR"])]
    assert second.asked == [("forecast", ["London"])]
    assert values(known.intensity) == {"office": 200.0, "there": 100.0, "FR": 100.0, "here": 100.0}
    assert known.intensity.locations == ("office", "there", "FR", "here")
    assert values(chain.actual(["here", "office"], NOW - DAY, NOW)) == {"here": 100.0, "office": 200.0}
    first.missing = {"DE": "answered 404"}
    with pytest.raises(ForecastUnavailableError) as error:
        chain.forecast(["there"], NOW)
    assert error.value.missing["there"].startswith("electricity-maps: answered 404")


def test_a_single_source_has_names_too_and_its_reasons_stay_plain(first, clock):
    chain = FallbackSource([first], {"electricity-maps": {"here": "DE"}}, clock=clock)
    assert values(chain.forecast(["here"], NOW).intensity) == {"here": 100.0}
    assert chain.forecast(["here", "Mars"], NOW).missing == {"Mars": "it is unknown"}
    assert chain.faults == []
    assert chain.name == "electricity-maps"


def test_where_places_are_is_known_by_all_their_names(first, second, clock, tmp_path):
    first.known_locations = lambda timeout=None: {"DE": (51.0, 10.0), "FR": None}
    second.known_locations = lambda timeout=None: {"FR": (47.0, 2.0), "London": (51.5, -0.1)}
    kept = CachedSource(second, Archive(tmp_path, clock=clock), clock)
    names = {"uk-carbon-intensity": {"hq": "London", "lost": "Atlantis"}}
    assert FallbackSource([first, kept, Synthetic()], names, clock=clock).known_locations() == {
        "DE": (51.0, 10.0), "FR": None, "London": (51.5, -0.1), "hq": (51.5, -0.1),
    }  # fmt: skip


def test_a_closed_list_of_places_is_known_by_all_their_names(first, tmp_path):
    rows = ["location,time,g_per_kwh", *(f"{name},2026-03-02T00:00Z,1" for name in ("DE", "FR"))]
    (tmp_path / "trace.csv").write_text("\n".join(rows), encoding="utf-8")
    traces = Traces(tmp_path / "trace.csv")
    assert FallbackSource([traces], {"traces": {"here": "DE", "nowhere": "XX"}}).locations == (
        "DE",
        "FR",
        "here",
    )
    assert FallbackSource([traces, first]).locations is None


@pytest.fixture
def locations(tmp_path):
    def write(text):
        path = tmp_path / "locations.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_names_stand_in_the_locations_file(locations):
    path = locations(
        '0 = "DE"\n[names.DE]\ncarbon-aware-sdk = "germanywestcentral"\n[names."Île"]\ntraces = "F"'
    )
    assert read_names(path, SOURCES) == {
        "carbon-aware-sdk": {"DE": "germanywestcentral"},
        "traces": {"Île": "F"},
    }
    assert read_names(locations('0 = "DE"'), SOURCES) == {}


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ('names = "DE"', "names", "is not a table of names"),
        ('[names]\nDE = "germany"', "names.DE", "is not a table of names"),
        ('[names.DE]\nuk = "London"', "names.DE", "'uk' is unknown"),
        ("[names.DE]\ntraces = 7", "names.DE.traces", "7 is no name"),
        ('[names.DE]\ntraces = " "', "names.DE.traces", "' ' is no name"),
        ("[names", "locations", "is not TOML"),
    ],
)
def test_what_is_wrong_with_a_name_is_told(locations, text, field, problem):
    path = locations(text)
    with pytest.raises(InputError) as error:
        read_names(path, SOURCES)
    assert (error.value.file, error.value.field) == (str(path), field)
    assert problem in error.value.problem
    assert error.value.fix


# -- opening -----------------------------------------------------------------------------------------------


def opened(**settings):
    return open_sources(Settings.load(settings))


def test_what_the_settings_name_is_opened(locations):
    assert opened() is None
    sdk = opened(source="carbon-aware-sdk", sdk_url="http://sdk")
    assert isinstance(sdk, CachedSource)
    assert not isinstance(
        opened(source="carbon-aware-sdk", sdk_url="http://sdk", archive_dir="none"), CachedSource
    )
    assert opened(source="synthetic").name == Synthetic.name
    both = opened(source="carbon-aware-sdk, uk-carbon-intensity", sdk_url="http://sdk")
    assert (type(both), both.name) == (FallbackSource, "carbon-aware-sdk,uk-carbon-intensity")
    named = opened(
        source="uk-carbon-intensity", locations=locations('[names.here]\nuk-carbon-intensity = "GB"')
    )
    assert isinstance(named, FallbackSource)


def test_files_and_made_up_numbers_are_not_kept(tmp_path):
    rows = ["location,time,g_per_kwh", "DE,2026-03-02T00:00Z,1", "DE,2026-03-02T01:00Z,2"]
    (tmp_path / "trace.csv").write_text("\n".join(rows), encoding="utf-8")
    for settings in ({"source": "synthetic"}, {"source": "traces", "traces": tmp_path / "trace.csv"}):
        source = opened(**settings, archive_dir=tmp_path / "kept")
        source.forecast(["DE"], NOW)
        source.actual(["DE"], NOW - HOUR, NOW + HOUR)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("uk", "'uk' is unknown"),
        ("", "names no source"),
        ("uk-carbon-intensity,", "has no name beside a comma"),
        ("uk-carbon-intensity,electricity", "'electricity' is unknown; did you mean electricity-maps"),
        ("uk-carbon-intensity,uk-carbon-intensity", "stands twice"),
        ("uk-carbon-intensity,synthetic", "made-up numbers are never mixed"),
    ],
)
def test_a_wrong_order_is_bad_input(source, problem):
    with pytest.raises(InputError, match=r"source: ") as error:
        opened(source=source)
    assert problem in str(error.value)


def test_actuals_of_traces_have_a_setting(tmp_path):
    issues = ["location,issued_at,time,g_per_kwh"] + [
        f"DE,2026-03-0{day}T0{hour}:00Z,2026-03-0{day}T0{hour + step}:00Z,{day}{hour}"
        for day in (1, 2) for hour in (0, 1, 7) for step in (0, 1)
    ]  # fmt: skip
    (tmp_path / "issues.csv").write_text("\n".join(issues), encoding="utf-8")
    happened = ["location,time,g_per_kwh", "DE,2026-03-01T00:00Z,5", "DE,2026-03-01T01:00Z,6"]
    (tmp_path / "actual.csv").write_text("\n".join(happened), encoding="utf-8")
    source = opened(source="traces", traces=tmp_path / "issues.csv", traces_actual=tmp_path / "actual.csv")
    assert source.actual(["DE"], NOW - DAY, NOW).values[:, 0].tolist() == [5, 6]
    past = source.past_forecasts(["DE", "FR"], NOW - DAY, NOW + 7 * HOUR, 6 * HOUR)
    assert [(issue.generated_at, issue.intensity.values[0, 0]) for issue in past] == [
        (NOW - DAY, 10.0), (NOW - 17 * HOUR, 17.0), (NOW, 20.0),
    ]  # fmt: skip
    with pytest.raises(InputError, match="traces-actual: cannot be read"):
        opened(source="traces", traces=tmp_path / "issues.csv", traces_actual=tmp_path / "none.csv")
