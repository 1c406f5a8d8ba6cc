from __future__ import annotations

import pytest

from cli_files import run
from report_ledger import run_events, write_ledger


@pytest.fixture
def run_dir(tmp_path):
    return write_ledger(tmp_path / "run", run_events())


def test_the_page_is_written_and_named(capsys, run_dir):
    answer = run(capsys, "report", run_dir)
    assert answer.code == 0
    assert (run_dir / "report.html").exists()
    facts = dict(line.split(maxsplit=1) for line in answer.out.splitlines()[2:])
    assert facts["saving"] == "27.7 %"
    assert facts["realised"] == "1.21 kg"
    assert facts["report"] == str(run_dir / "report.html")


def test_the_document(capsys, run_dir):
    document = run(capsys, "report", run_dir, "--json").document
    assert document["schema_version"] == 1
    assert document["report"] == str(run_dir / "report.html")
    assert (document["status"], document["rounds"], document["run_now_g"]) == ("completed", 3, 1680.0)
    assert document["saving"] == pytest.approx(1 - document["realised_g"] / 1680.0)


def test_without_actuals_nothing_is_claimed(capsys, tmp_path):
    run_dir = write_ledger(tmp_path / "run", run_events(actual=False))
    document = run(capsys, "report", run_dir, "--json").document
    assert document["planned_g"] == 1230.0
    assert document["realised_g"] is document["run_now_g"] is document["saving"] is None
    assert "realised   unknown" in run(capsys, "report", run_dir).out


@pytest.mark.parametrize("text", [None, "", "{}\n", '{"v": 9}\n{}\n', "\x00\n\n"])
def test_a_folder_without_a_run_is_exit_2(capsys, tmp_path, text):
    if text is not None:
        (tmp_path / "ledger.jsonl").write_text(text, encoding="utf-8")
    answer = run(capsys, "report", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert "ledger.jsonl" in answer.line
    assert run(capsys, "report", tmp_path, "--json").document["error"]["kind"] == "input"
