"""Actuals that come after the run, the front at its start, and accounts of runs that really happened."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import CarbonClientApp, IntensityTable, Synthetic, carbon_aware
from lowcarb_scheduler.accounting.attribution import account
from lowcarb_scheduler.accounting.refresh import refresh, source_settings
from lowcarb_scheduler.clock import VirtualClock
from lowcarb_scheduler.errors import ForecastUnavailableError, InputError
from lowcarb_scheduler.intensity import Provenance
from lowcarb_scheduler.ledger import FILE_NAME, Ledger
from lowcarb_scheduler.testing import InMemoryGrid
from support.ledgers import read_records, replayed
from support.random_run import Truth, random_run
from support.report_ledger import ACTUAL, START, run_events, write_ledger


class Asked:
    """A source that knows what happened, and notes what it is asked."""

    signal = "marginal"

    def __init__(self, truth, until=None, signal="marginal"):
        self._truth, self._until, self._signal = truth, until, signal
        self.asked = []

    def forecast(self, locations, now):
        raise ForecastUnavailableError(dict.fromkeys(locations, "it is over"))

    def actual(self, locations, start, end):
        self.asked.append((tuple(locations), start, end))
        hours = len(next(iter(self._truth.values.values()))) if self._until is None else self._until
        edges = (START.timestamp() + 3600 * np.arange(hours + 1)) * 1e6
        values = np.array([self._truth.values[name][:hours] for name in locations]).T
        return IntensityTable(edges, tuple(locations), values, Provenance("traces", self._signal))


@pytest.fixture
def unsettled(tmp_path):
    events, truth = random_run(np.random.default_rng(5), known=1)
    return write_ledger(tmp_path / "run", events), truth, random_run(np.random.default_rng(5))[0]


def test_what_was_lacking_is_appended_and_the_accounts_are_those_of_a_run_that_knew(unsettled):
    run_dir, truth, settled = unsettled
    before = (run_dir / FILE_NAME).read_bytes()
    source = Asked(truth)
    found = refresh(run_dir, source, VirtualClock(START + timedelta(days=2)))
    assert found.learned == found.lacking != ()
    assert (run_dir / FILE_NAME).read_bytes().startswith(before)
    events = read_records(run_dir)
    assert [event["event"] for event in events[-2:]] == ["actual", "refreshed"]
    accounts, knew = account(replayed(events)), account(replayed(settled))
    assert accounts.run.realised_g == pytest.approx(knew.run.realised_g)
    assert [step.change_g for step in accounts.waterfall] == pytest.approx(
        [s.change_g for s in knew.waterfall]
    )
    summary = {r.number: r.realised_g for r in replayed(events).rounds}
    assert all(summary[number] is not None for number in found.lacking)  # for those who read no accounts


def test_asking_again_asks_nobody_and_appends_nothing(unsettled):
    run_dir, truth, _ = unsettled
    clock = VirtualClock(START + timedelta(days=2))
    refresh(run_dir, Asked(truth), clock)
    before, source = (run_dir / FILE_NAME).read_bytes(), Asked(truth)
    assert refresh(run_dir, source, clock).lacking == ()
    assert source.asked == []
    assert (run_dir / FILE_NAME).read_bytes() == before


def test_what_is_not_there_yet_appends_nothing_and_a_part_is_kept(unsettled):
    run_dir, truth, _ = unsettled
    clock = VirtualClock(START + timedelta(days=2))
    before = (run_dir / FILE_NAME).read_bytes()
    found = refresh(run_dir, Asked(truth, until=1), clock)
    assert found.learned == ()
    assert (run_dir / FILE_NAME).read_bytes() == before
    lacking, part = found.lacking, refresh(run_dir, Asked(truth, until=8), clock)
    assert 0 < len(part.learned) < len(lacking)
    rest = refresh(run_dir, Asked(truth), clock)
    assert rest.lacking == rest.learned == part.unknown


def test_hindsight_learns_the_hours_it_may_choose(tmp_path):
    run_dir = write_ledger(tmp_path / "run", run_events())
    source, clock = Asked(Truth(ACTUAL), signal="average"), VirtualClock(START + timedelta(hours=5))
    assert refresh(run_dir, source, clock).has_news  # the fifth hour; the sixth is to come
    part = account(replayed(read_records(run_dir))).hindsight
    assert part.known_until == START + timedelta(hours=5)
    assert not refresh(run_dir, source, clock).lacks_hours
    clock.sleep_until(START + timedelta(days=2))
    found = refresh(run_dir, source, clock)
    assert (found.lacking, found.lacks_hours, found.has_news) == ((), True, True)
    assert not refresh(run_dir, source, clock).lacks_hours
    accounts = account(replayed(read_records(run_dir)))
    assert accounts.hindsight.known_until == START + timedelta(hours=6)  # the deadline
    assert accounts.hindsight_g <= part.plan.emissions_g <= account(replayed(run_events())).hindsight_g
    assert accounts.run.realised_g == account(replayed(run_events())).run.realised_g


def test_a_figure_that_was_known_does_not_change(unsettled):
    run_dir, truth, _ = unsettled
    first = account(replayed(read_records(run_dir))).run.rounds[0].realised_g
    truth.values = {name: [2 * g for g in values] for name, values in truth.values.items()}
    refresh(run_dir, Asked(truth), VirtualClock(START + timedelta(days=2)))
    assert account(replayed(read_records(run_dir))).run.rounds[0].realised_g == first is not None


def test_a_run_that_is_being_written_is_refused(unsettled):
    run_dir, truth, _ = unsettled
    ledger = Ledger(run_dir, VirtualClock(START), goes_on=True)
    try:
        with pytest.raises(InputError, match="a run is still writing it"):
            refresh(run_dir, Asked(truth))
    finally:
        ledger.close()


def test_another_signal_is_refused(unsettled):
    run_dir, truth, _ = unsettled
    with pytest.raises(InputError, match="signal is average, the run's marginal"):
        refresh(run_dir, Asked(truth, signal="average"))


def test_a_source_that_has_nothing_says_so(unsettled):
    class Nothing(Asked):
        def actual(self, locations, start, end):
            raise ForecastUnavailableError(dict.fromkeys(locations, "nothing is kept that long"))

    run_dir, truth, _ = unsettled
    with pytest.raises(ForecastUnavailableError, match="nothing is kept that long"):
        refresh(run_dir, Nothing(truth))


# -- whom to ask -------------------------------------------------------------------------------------------


def told(**settings):
    return replace(replayed(run_events()).started, source=None, settings=settings)


def test_the_run_s_own_source_is_asked_with_its_own_address():
    started = told(source="carbon-aware-sdk", sdk_url="http://sdk:1", sdk_signal="average", archive_days=7)
    settings = source_settings(started, {})
    assert (settings.source, settings.carbon_aware_sdk_url, settings.sdk_signal) == (
        "carbon-aware-sdk",
        "http://sdk:1",
        "average",
    )
    assert settings.archive_days == 7


def test_what_is_given_now_goes_first_and_what_was_hidden_is_not_used(monkeypatch):
    started = told(source="carbon-aware-sdk", sdk_url="http://***@sdk:1")
    assert source_settings(started, {}).carbon_aware_sdk_url is None
    monkeypatch.setenv("LOWCARB_SDK_URL", "http://user:secret@sdk:1")
    assert source_settings(started, {}).carbon_aware_sdk_url == "http://user:secret@sdk:1"
    assert source_settings(started, {"source": "uk-carbon-intensity"}).source == "uk-carbon-intensity"


def test_a_source_given_in_code_is_known_by_its_name_or_has_to_be_named():
    assert source_settings(replace(told(), source="uk-carbon-intensity"), {}).source == "uk-carbon-intensity"
    with pytest.raises(InputError, match="was given in code"):
        source_settings(replace(told(), source="MySource"), {})
    with pytest.raises(InputError, match="the run had none"):
        source_settings(told(), {})


# -- runs that really happened -----------------------------------------------------------------------------


def really_run(tmp_path, rounds=5, **settings):
    """Run six nodes on a virtual clock, and return the events of the ledger."""
    app = CarbonClientApp()

    @app.train()
    def train(message, context):
        arrays = ArrayRecord(message.content["arrays"].to_numpy_ndarrays())
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    places = ("DE", "GB", "ES")
    grid = InMemoryGrid(app, [{"partition-id": k, "location": places[k % 3]} for k in range(6)])
    given = {
        "source": Synthetic(), "clock": VirtualClock(START), "run_dir": tmp_path / "run",
        "clients_per_round": 2, "round_duration": timedelta(hours=1), "finish_by": timedelta(hours=24),
    }  # fmt: skip
    strategy = carbon_aware(FedAvg(fraction_evaluate=0.0), **{**given, **settings})
    strategy.start(grid, ArrayRecord([np.zeros(2)]), num_rounds=rounds)
    return read_records(tmp_path / "run")


@pytest.mark.parametrize("settings", [{}, {"stagger": True}, {"patience": 0.0}, {"participation": "any"}])
def test_the_accounts_of_a_run_are_its_own_numbers(tmp_path, settings):
    events = really_run(tmp_path, **settings)
    ended, accounts = events[-1], account(replayed(events))
    assert accounts.run.planned_g == pytest.approx(ended["planned_g"])
    assert accounts.run.realised_g == pytest.approx(ended["realised_g"])
    assert accounts.run.run_now_g == pytest.approx(ended["run_now_g"])
    assert accounts.run.saving == pytest.approx(ended["saving"])
    changes = {step.name: step.change_g for step in accounts.waterfall}
    assert changes["overruns"] == pytest.approx(0, abs=1e-6)
    promised = changes["run-now"] + changes["choice of clients"] + changes["choice of time"]
    assert promised == pytest.approx(accounts.run.planned_g)
    assert accounts.hindsight.plan.lower_bound_g <= accounts.run.realised_g * (1 + 1e-9)


def test_the_front_is_what_the_planner_says_of_the_start(tmp_path):
    events = really_run(tmp_path)
    front, accounts = account(replayed(events)).front, account(replayed(events))
    finishes = [point.finish for point in front.frontier.points]
    assert finishes == sorted(finishes)
    assert front.frontier.points[0].finish == START + timedelta(hours=5)
    stands = {stand.name: stand for stand in front.stands}
    assert list(stands) == ["run-now", "planned", "realised"]
    assert stands["run-now"].finish == START + timedelta(hours=5)
    assert stands["realised"].emissions_g == accounts.run.realised_g
    assert stands["planned"].emissions_g == pytest.approx(accounts.run.planned_g)
    # One run-now everywhere: the saving and the front are measured against the same number.
    assert stands["run-now"].emissions_g == pytest.approx(accounts.run.run_now_g)
    assert not stands["run-now"].is_expected
    first = next(event for event in events if event["event"] == "planned")
    (begun,) = account(replayed(events[:-1])).front.stands
    assert (begun.name, begun.is_expected) == ("run-now", True)
    assert begun.emissions_g == pytest.approx(first["run_now_emissions_g"])


def test_the_front_is_in_the_energy_that_was_drawn(tmp_path):
    events = really_run(tmp_path)
    half = [
        {**event, "energy_kwh": event["energy_kwh"] / 2} if event["event"] == "node_done" else event
        for event in events
    ]
    whole, part = account(replayed(events)).front, account(replayed(half)).front
    for one, other in zip(whole.frontier.points, part.frontier.points, strict=True):
        assert other.emissions_g == pytest.approx(one.emissions_g / 2)
    for one, other in zip(whole.stands, part.stands, strict=True):
        assert other.emissions_g == pytest.approx(one.emissions_g / 2)


def test_a_run_without_a_source_has_no_front_and_no_number(tmp_path):
    events = really_run(tmp_path, source=None)
    accounts = account(replayed(events))
    run = accounts.run
    assert accounts.front is run.planned_g is run.realised_g is run.run_now_g is None
    assert run.provenance.source is None
    assert accounts.run.energy_kwh > 0


def test_a_place_that_nobody_forecasts_stands_in_no_one_s_way(tmp_path):
    events = run_events()
    forecast = next(event for event in events if event["event"] == "forecast")
    forecast["g_per_kwh"] = {"DE": forecast["g_per_kwh"]["DE"]}
    assert account(replayed(events)).front is not None
