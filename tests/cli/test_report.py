from __future__ import annotations

import pandas as pd
import pytest

from lowcarb_scheduler.clock import VirtualClock
from support.cli_files import opener, run
from support.forecast_sources import DAY, Web
from support.ledgers import read_records
from support.report_ledger import ACTUAL, START, run_events, write_ledger

TABLES = {"clients", "front", "locations", "numbers", "phases", "rounds", "sci", "waterfall"}
REFRESH = "--refresh", "--source", "traces", "--traces"


@pytest.fixture
def run_dir(tmp_path):
    return write_ledger(tmp_path / "run", run_events())


@pytest.fixture
def unsettled(tmp_path):
    return write_ledger(tmp_path / "unsettled", run_events(actual=False))


@pytest.fixture
def actual(tmp_path):
    """A file of what really happened."""
    hours = pd.date_range(START, periods=6, freq="h")
    frame = pd.DataFrame(ACTUAL, index=hours).rename_axis("time").melt(ignore_index=False).reset_index()
    path = tmp_path / "actual.csv"
    frame.set_axis(["time", "location", "g_per_kwh"], axis=1).to_csv(path, index=False)
    return path


def facts_of(out):
    return dict(line.split(maxsplit=1) for line in out.splitlines() if len(line.split()) > 1)


def test_the_page_is_written_named_and_opened(capsys, run_dir):
    opened = []
    answer = run(capsys, "report", run_dir, "--open", open_page=opened.append)  # None is no browser
    assert (answer.code, opened) == (0, [(run_dir / "report.html").as_uri()])
    assert "no browser" in answer.err
    assert (run_dir / "report.html").exists()
    facts = facts_of(answer.out)
    assert facts["saving"] == "5.3 %"
    assert facts["realised"].startswith("1.21 kg")
    assert facts["hindsight"].startswith("966 g")
    assert facts["report"] == str(run_dir / "report.html")


def test_every_table_is_a_file_and_says_what_it_rests_on(capsys, run_dir):
    facts = facts_of(run(capsys, "report", run_dir).out)
    assert facts["tables"] == str(run_dir / "report")
    files = {path.stem: pd.read_csv(path) for path in (run_dir / "report").glob("*.csv")}
    assert set(files) >= TABLES
    for table in map(files.get, TABLES):
        assert set(table["signal"]) == {"average"}
        assert set(table["source"]) == {"traces"}
        assert not table["synthetic"].any()


def test_the_document(capsys, run_dir):
    document = run(capsys, "report", run_dir, "--json").document
    assert document["schema_version"] == 1
    assert document["report"] == str(run_dir / "report.html")
    assert (document["status"], document["rounds"], document["run_now_g"]) == ("completed", 3, 1282.0)
    assert document["saving"] == pytest.approx(1 - document["realised_g"] / 1282.0)
    assert [step["g"] for step in document["waterfall"]] == [1282.0, 0.0, -212.0, 29.5, 114.5, 1214.0]
    assert sum(share["emissions_g"] for share in document["by_location"]) == document["realised_g"]
    assert document["sci"]["g_per_round"] == pytest.approx(document["realised_g"] / 3)
    assert document["front"]["realised"]["emissions_g"] == document["realised_g"]


def test_without_actuals_nothing_is_claimed(capsys, unsettled):
    document = run(capsys, "report", unsettled, "--json").document
    assert document["planned_g"] == 1230.0
    assert document["realised_g"] is document["run_now_g"] is document["saving"] is None
    assert document["hindsight_g"] is None
    assert document["waterfall"] == []
    facts = facts_of(run(capsys, "report", unsettled).out)
    assert facts["realised"].startswith("unknown   ")
    assert "no actual intensity for 3 round(s)" in facts["realised"]


def test_what_happened_can_be_asked_for_later(capsys, unsettled, run_dir, actual):
    arguments = "report", unsettled, *REFRESH, actual, "--signal", "average", "--json"
    document = run(capsys, *arguments).document
    assert document["refreshed"] == {"lacking": [1, 2, 3], "learned": [1, 2, 3], "has_news": True}
    settled = run(capsys, "report", run_dir, "--json").document
    for number in ("planned_g", "realised_g", "run_now_g", "waterfall", "by_location"):
        assert document[number] == settled[number]
    assert document["hindsight_g"] < settled["hindsight_g"]  # it may choose hours after the run, too
    assert document["hindsight_until"] > settled["hindsight_until"]
    lines = len(read_records(unsettled))
    nothing = {"lacking": [], "learned": [], "has_news": False}
    assert run(capsys, *arguments).document["refreshed"] == nothing
    assert "Nothing to fetch" in run(capsys, "report", unsettled, "--refresh").out
    assert len(read_records(unsettled)) == lines


def test_a_source_on_the_web_can_be_asked_too(capsys, unsettled):
    web = Web()
    answer = run(capsys, "report", unsettled, "--refresh", "--source", "web", "--json",
                 clock=VirtualClock(START + DAY), open_source=opener({"web": web}))  # fmt: skip
    assert answer.document["refreshed"]["learned"] == [1, 2, 3]
    assert web.kinds == ["actual"]


def test_a_source_is_asked_only_to_refresh(capsys, unsettled, actual):
    answer = run(capsys, "report", unsettled, "--source", "traces", "--traces", actual)
    assert answer.code == 2
    assert "--refresh" in answer.line
    answer = run(capsys, "report", unsettled, "--refresh", "--source", "synthetic", "--signal", "average")
    assert answer.code == 2
    assert "--signal" in answer.line


def test_hours_after_the_run_are_asked_for_and_stop_nobody(capsys, run_dir, actual):
    before = run(capsys, "report", run_dir, "--refresh")  # the run's file is not known
    assert before.code == 0
    assert "no further actual intensity for the hindsight plan: traces:" in before.err
    answer = run(capsys, "report", run_dir, *REFRESH, actual, "--signal", "average")
    assert "the hindsight plan now uses more hours" in answer.out
    assert facts_of(answer.out)["hindsight"].startswith("936 g")
    assert facts_of(answer.out)["realised"].startswith("1.21 kg")


def test_who_is_to_be_asked_must_be_known(capsys, unsettled):
    answer = run(capsys, "report", unsettled, "--refresh")  # the run's file is not known
    assert answer.code == 2
    assert "traces" in answer.line


def test_numbers_of_another_kind_are_refused(capsys, unsettled, actual):
    answer = run(capsys, "report", unsettled, *REFRESH, actual)
    assert answer.code == 2
    assert "its signal is unknown, the run's average: they are never mixed" in answer.line
    answer = run(capsys, "report", unsettled, "--refresh", "--source", "synthetic")
    assert answer.code == 2
    assert "made-up numbers are never mixed with real ones" in answer.line


@pytest.mark.parametrize("text", [None, "", "{}\n", '{"v": 9}\n{}\n', "\x00\n\n"])
@pytest.mark.parametrize("options", [(), ("--refresh",)])
def test_a_folder_without_a_run_is_exit_2(capsys, tmp_path, text, options):
    if text is not None:
        (tmp_path / "ledger.jsonl").write_text(text, encoding="utf-8")
    answer = run(capsys, "report", tmp_path, *options)
    assert (answer.code, answer.out) == (2, "")
    assert "ledger.jsonl" in answer.line
    assert run(capsys, "report", tmp_path, *options, "--json").document["error"]["kind"] == "input"
