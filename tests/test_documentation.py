"""README and docs: every block that can be run or checked is."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from lowcarb_scheduler.cli import main
from lowcarb_scheduler.forecasts.archive import Archive, Feed
from lowcarb_scheduler.forecasts.synthetic import Synthetic
from lowcarb_scheduler.settings import Settings

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")


def blocks(text, language):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


CODE = [(page.name, code) for page in PAGES for code in blocks(page.read_text(encoding="utf-8"), "python")]


@pytest.mark.parametrize(("page", "code"), CODE, ids=lambda text: text.split("\n")[0][:40])
def test_python_on_the_pages_runs_and_its_tests_pass(page, code, midnight):
    Archive().put(
        Feed("s", signal="average", server="http://s"), Synthetic().forecast(["DE"], midnight)
    )  # to be read
    found = {}
    exec(compile(code, page, "exec"), found)
    for name, value in found.items():
        if name.startswith("test_"):
            value()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_toml_is_toml_and_its_settings_are_settings(page):
    for text in blocks(page.read_text(encoding="utf-8"), "toml"):
        document = tomllib.loads(text)
        config = document.get("tool", {}).get("flwr", {}).get("app", {}).get("config", {})
        Settings.load(run_config=config)


COMMANDS = re.findall(r"^    lowcarb (.*)$", README, flags=re.MULTILINE)


@pytest.mark.parametrize("command", [c for c in COMMANDS if "report" not in c])
def test_commands_in_the_readme_work(command, monkeypatch, capsys, tmp_path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    assert main(shlex.split(command, comments=True)) == 0
    assert capsys.readouterr().out


def test_there_are_commands():
    assert len(COMMANDS) >= 4


def test_every_setting_is_documented_as_it_is_described():
    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*?) \|$", page, flags=re.MULTILINE))
    described = {name.replace("_", "-"): field.description for name, field in Settings.model_fields.items()}
    assert rows == described


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150
