"""README and docs: every block that can be run or checked is."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from lowcarb_scheduler.cli import main
from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.forecasts.archive.database import Archive, Feed
from lowcarb_scheduler.forecasts.sources.synthetic import Synthetic
from lowcarb_scheduler.forecasts.sources.traces import read_points
from lowcarb_scheduler.settings import Settings
from support.page_blocks import blocks, commands, parse, play, same

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
README = TEXTS["README.md"]
TUTORIAL = TEXTS["docs/tutorial/ten-minutes.md"]


def every(*languages):
    """Return page and block, for each block of some languages."""
    return [
        pytest.param(page, block, id=f"{page}-{k}")
        for page, text in TEXTS.items()
        for k, block in enumerate(blocks(text, *languages))
    ]


@pytest.mark.parametrize(("page", "block"), every("python"))
def test_python_on_the_pages_runs_and_its_tests_pass(page, block, midnight):
    for package in re.findall(r"^import (mlflow|wandb)$", block.text, flags=re.MULTILINE):
        pytest.importorskip(package, reason=f"{package} is no dependency, and not installed")
    Archive().put(
        Feed("s", signal="average", server="http://s"), Synthetic().forecast(["DE"], midnight)
    )  # to be read
    found = {}
    exec(compile(block.text, page, "exec"), found)
    for name, value in found.items():
        if name.startswith("test_"):
            value()


@pytest.mark.parametrize(("page", "block"), every("toml"))
def test_toml_is_toml_and_its_settings_are_settings(page, block):
    document = tomllib.loads(block.text)
    config = document.get("tool", {}).get("flwr", {}).get("app", {}).get("config", {})
    Settings.load(run_config=config)


@pytest.mark.parametrize(("page", "block"), every("json"))
def test_json_is_json(page, block):
    json.loads(block.text)


@pytest.mark.parametrize(("page", "block"), every("yaml"))
def test_compose_files_name_images_that_exist_and_settings_that_are(page, block):
    for service in yaml.safe_load(block.text).get("services", {}).values():
        image = service["image"].rsplit(":", 1)[0]
        assert image in ("ghcr.io/green-software-foundation/carbon-aware-sdk", "my-flower-app")
        given = dict(service.get("environment", {}))
        for name in [name for name in given if name.startswith("LOWCARB_")]:
            assert name.removeprefix("LOWCARB_").lower() in Settings.model_fields


LINES = [(page, line) for page, text in TEXTS.items() for line in commands(text)]


@pytest.mark.parametrize(("page", "line"), LINES)
def test_commands_on_the_pages_exist_with_their_options(page, line):
    for folder in ("docs", "runs"):  # where pictures are drawn
        Path(folder).mkdir()
    parse(line)


def test_there_are_commands():
    assert len({line.split()[1] for _, line in LINES}) >= 8


def test_unknown_options_would_be_found():
    with pytest.raises(Exception, match=r"(?i)no such option"):
        parse("lowcarb plan --job job.toml --no-such-option")


COMMANDS = re.findall(r"^    lowcarb (.*)$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "report" not in c and "backtest" not in c])
def test_commands_in_the_readme_work(command, monkeypatch, capsys, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert main(shlex.split(command, comments=True)) == 0
    assert capsys.readouterr().out


def test_the_tutorial_prints_what_it_shows(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("LOWCARB_UTC", "1")
    monkeypatch.setenv("PWD", str(tmp_path))
    played = play(TUTORIAL)
    assert len(played) == len(commands(TUTORIAL)) + 1
    for step, printed in played:
        mend = "python tests/support/page_blocks.py docs/tutorial/ten-minutes.md"
        assert same(step.shown, printed), "\n".join([step.command, *printed, f"to mend it: {mend}"])
    capsys.readouterr()
    assert main(["status", "runs/first", "--json"]) == 0
    # The run has ended, and no round is to come.
    assert_documented("status", capsys.readouterr().out, but={"closes_at"})
    assert main(["runs", "--json"]) == 0
    assert_documented("runs", capsys.readouterr().out)
    assert main(["report", "runs/first", "--json"]) == 0
    assert_documented("report", capsys.readouterr().out, but={"lacking", "learned"})  # with --refresh


def test_every_setting_is_documented_as_it_is_described():
    page = TEXTS["docs/reference/settings.md"]
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*?) \|$", page, flags=re.MULTILINE))
    described = {
        name.replace("_", "-"): " ".join((field.description or "").split())
        for name, field in Settings.model_fields.items()
    }
    assert rows == described


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_the_error_that_is_shown_is_what_a_command_prints(capsys):
    (shown,) = (json.loads(block.text) for block in blocks(TEXTS["docs/reference/errors.md"], "json"))
    job = (ROOT / "examples" / "job.toml").read_text(encoding="utf-8")
    Path("examples").mkdir()
    Path("examples/job.toml").write_text(job.replace("patience = 1.0", "patience = 3"), encoding="utf-8")
    assert main(["plan", "--job", "examples/job.toml", "--source", "synthetic", "--json"]) == 2
    assert json.loads(capsys.readouterr().out) == shown


def test_the_four_changed_lines_are_the_same_everywhere():
    shown = [
        block.text
        for text in TEXTS.values()
        for block in blocks(text, "diff")
        if "# server_app.py" in block.text
    ]
    assert len(shown) >= 4
    assert set(shown) == {shown[0]}


LANGUAGES = {"bash", "console", "csv", "diff", "json", "python", "sh", "text", "toml", "yaml"}


def test_no_block_is_of_a_language_that_nothing_checks():
    assert {block.language for text in TEXTS.values() for block in blocks(text)} <= LANGUAGES


@pytest.mark.parametrize(("page", "block"), every("csv"))
def test_csv_is_a_trace(page, block):
    Path("trace.csv").write_text(block.text, encoding="utf-8")
    assert len(read_points(Path("trace.csv"))) == len(block.text.splitlines()) - 1


@pytest.mark.parametrize(("page", "block"), every("diff"))
def test_what_a_diff_puts_in_is_python(page, block):
    new = "\n".join(line[2:] for line in block.text.splitlines() if line.startswith(("+", "  ")))
    compile(new, page, "exec")


FLOWER = re.compile(r"^(?:\$ )?(flower-superlink|flower-supernode|flwr run) (.*)$", flags=re.MULTILINE)


@pytest.mark.parametrize("program", ["flower-superlink", "flower-supernode", "flwr run"])
def test_options_of_flower_on_the_pages_exist(program):
    lines = "\n".join(text.replace("\\\n", "") for text in TEXTS.values())
    calls = " ".join(rest for name, rest in FLOWER.findall(lines) if name == program)
    name, *command = program.split()
    known = subprocess.run(
        [Path(sys.executable).parent / name, *command, "--help"],
        capture_output=True, text=True, check=True, timeout=60, env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    used = set(re.findall(r" (--[a-z-]+)", f" {calls}"))
    assert used
    assert used <= set(re.findall(r"--[a-z-]+", known))


def keys_of(document, plain=("locations", "missing", "energy_by_basis")):
    """Return all keys in a document, those of mappings by location left out."""
    if isinstance(document, list):
        return set().union(*map(keys_of, document))
    if not isinstance(document, dict):
        return set()
    inside = [
        value.values() if key in plain and isinstance(value, dict) else [value]
        for key, value in document.items()
    ]
    return set(document).union(*(keys_of(each) for values in inside for each in values))


DOCUMENTS = [
    "plan --job examples/job.toml --source synthetic",
    "tradeoff --job examples/job.toml --source synthetic --saving 1% --balance",
    "forecast --location DE --source synthetic --corrected",
    "doctor --location DE --source synthetic",
    "archive list",
]


@pytest.mark.parametrize("command", DOCUMENTS)
def test_keys_of_documents_are_documented(command, capsys, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert main([*shlex.split(command), "--json"]) == 0
    assert_documented(command, capsys.readouterr().out)


def test_keys_of_a_backtest_are_documented(capsys, midnight):
    actual = Synthetic().actual(["DE", "GB"], midnight - timedelta(days=40), midnight)
    write_trace(Path("actual.csv"), actual)
    Path("tiny.toml").write_text(
        'locations = ["DE", "GB"]\nclients = 4\nclients_per_round = 2\nrounds = 2\n'
        "round_duration_minutes = 60\n",
        encoding="utf-8",
    )
    options = ["--seeds", "1", "--deadlines", "1", "--methods", "one-shot", "--jobs", "1", "--json"]
    assert main(["backtest", "--actual", "actual.csv", "--scenario", "tiny.toml", *options]) == 0
    assert_documented("backtest", capsys.readouterr().out)


def write_trace(path, table):
    rows = [
        f"{place},{format_time(point['time'])},{point['g_per_kwh']}"
        for place, points in table.to_points().items()
        for point in points
    ]
    path.write_text("\n".join(["location,time,g_per_kwh", *rows, ""]), encoding="utf-8")


def assert_documented(command, printed, but=frozenset()):
    common, *sections = TEXTS["docs/reference/json.md"].split("\n## ")
    (section,) = [each for each in sections if f"lowcarb {command} ".startswith(each.splitlines()[0] + " ")]
    rows = re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
    shared = re.findall(r"^\| (`.*?) \|", common, flags=re.MULTILINE)
    named, given = ({key for row in each for key in re.findall(r"`(\w+)`", row)} for each in (rows, shared))
    found = keys_of(json.loads(printed)) - {"schema_version"}
    assert named <= found | but
    assert found <= named | given
