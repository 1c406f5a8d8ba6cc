from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import lowcarb_scheduler
from lowcarb_scheduler.cli import main
from lowcarb_scheduler.cli.app import app
from support.cli_files import run

HEAVY = {"numpy", "pandas", "scipy", "httpx", "flwr", "matplotlib", "pydantic", "jinja2"}
UNUSED_BY_PLAN = HEAVY - {"numpy", "pandas", "pydantic"}


def test_version(capsys):
    answer = run(capsys, "--version")
    assert (answer.code, answer.out) == (0, f"lowcarb {lowcarb_scheduler.__version__}\n")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_names_every_command(capsys, arguments):
    answer = run(capsys, *arguments)
    assert answer.code == 0
    for name in ("demo", "doctor", "forecast", "release", "plan", "report", "runs", "status", "tradeoff"):
        assert name in answer.out


@pytest.mark.parametrize(
    "name", ["demo", "doctor", "forecast", "release", "plan", "report", "runs", "status", "tradeoff"]
)
def test_every_command_has_help_and_json(name):
    shown = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "120", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    assert "--json" in shown.output


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (["--help"], HEAVY),
        (["--version"], HEAVY),
        (["plann"], HEAVY),
        (["plan", "--help"], UNUSED_BY_PLAN),
        (["plan", "--bad"], UNUSED_BY_PLAN),
        (["forecast", "--help"], UNUSED_BY_PLAN),
    ],
)
def test_nothing_heavy_is_imported_to_answer_at_once(arguments, heavy):
    code = (
        "import sys\nfrom lowcarb_scheduler.cli import main\n"
        f"main({arguments})\nprint(sorted({heavy} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["plann"], "No such command 'plann'. Did you mean 'plan'?; see lowcarb --help"),
        (["plan"], "Missing option '--job'; see lowcarb plan --help"),
        (["plan", "--job", "j", "--patience", "much"], "'much' is not a valid float"),
        (["forecast", "--location"], "requires an argument"),
        (["report"], "Missing argument 'RUN_DIR'"),
    ],
)
def test_a_usage_error_is_one_line(capsys, arguments, part):
    answer = run(capsys, *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert part in answer.line


def test_a_usage_error_is_a_document_with_json(capsys):
    answer = run(capsys, "plan", "--json")
    assert (answer.code, answer.err) == (2, "")
    assert answer.document["schema_version"] == 1
    assert answer.document["error"]["kind"] == "usage"


def raising(error):
    def open_source(_name, _settings):
        raise error

    return open_source


ASK = "forecast", "--location", "DE", "--source", "synthetic"


def test_ctrl_c_is_one_line_and_130(capsys):
    answer = run(capsys, *ASK, open_source=raising(KeyboardInterrupt()))
    assert (answer.code, answer.line) == (130, "lowcarb: stopped by the user")


def test_a_fault_of_ours_is_one_line(capsys):
    fault = raising(RuntimeError("two\nlines"))
    answer = run(capsys, *ASK, open_source=fault)
    assert answer.code == 2
    assert "RuntimeError: two lines" in answer.line
    answer = run(capsys, *ASK, "--json", open_source=fault)
    assert answer.document["error"]["kind"] == "internal"


def test_a_reader_that_leaves_is_no_error():
    code = "import sys\nfrom lowcarb_scheduler.cli import main\nsys.exit(main(sys.argv[1:]))"
    arguments = ["forecast", "--source", "synthetic", "--json", "--location", "DE"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()  # before a byte is written
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.parametrize("value", ["<script>", "[red]x[/red]", "=cmd|'calc'!A0", "two\nlines", "\x1b[31m"])
def test_what_comes_from_outside_is_shown_as_it_is_on_one_line(capsys, value):
    answer = run(capsys, "forecast", "--location", value, "--source", "synthetic")
    assert answer.code == 2
    assert repr(value)[1:-1] in answer.line
    assert value in run(capsys, "plan", "--job", value, "--json").document["error"]["message"]


def test_a_name_no_encoding_has_is_still_a_document(capsys):
    assert main(["plan", "--job", "\udcff", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["kind"] == "input"
