"""The site of the documentation: it builds without a warning, shows every public name, and asks nobody."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

import lowcarb_scheduler
from lowcarb_scheduler import backtest, errors, testing
from lowcarb_scheduler.cli.app import load_all
from lowcarb_scheduler.settings import Settings

ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """Links, requests and anchors of a page."""

    def __init__(self, path):
        super().__init__()
        self.asks, self.anchors = set(), set()
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors.add(attrs.get("id"))
        if tag in ("script", "img", "iframe", "source") and "src" in attrs:
            self.asks.add(attrs["src"])
        if tag == "link" and attrs.get("rel") != "canonical":
            self.asks.add(attrs["href"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert not re.search("warning", done.stdout + done.stderr, flags=re.IGNORECASE)
    return folder


@pytest.fixture(scope="module")
def site(folder):
    return {str(path.relative_to(folder)): Page(path) for path in folder.rglob("*.html")}


def test_every_page_of_docs_is_in_it(site):
    for path in (ROOT / "docs").rglob("*.md"):
        assert str(path.relative_to(ROOT / "docs").with_suffix(".html")) in site


def test_every_notebook_is_in_it_with_what_it_drew(site):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        drawn = sum(
            "image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", [])
        )
        page = site[f"notebooks/{path.stem}.html"]
        assert len([asked for asked in page.asks if asked.endswith(".png") and path.stem in asked]) == drawn


def test_it_asks_no_other_server(site):
    for name, page in site.items():
        outside = {asked for asked in page.asks if re.match(r"(https?:)?//", asked)}
        assert not outside, name
    styles = [path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.css")]
    assert not any("//" in re.sub(r"/\*.*?\*/", "", style) for style in styles)


def test_every_public_name_is_in_the_reference(site):
    shown = set().union(*(page.anchors for name, page in site.items() if name.startswith("reference/api")))
    for name in set(lowcarb_scheduler.__all__) - {"__version__"}:
        assert f"lowcarb_scheduler.{name}" in shown
    tools = site["reference/api-tools.html"]
    for module in (backtest, testing):
        for name in module.__all__:
            assert re.search(rf'id="{module.__name__}\.(\w+\.)?{name}"|<code>{name}</code>', tools.text), name


def test_every_command_and_option_is_in_the_reference(site):
    text = site["reference/command-line.html"].text
    group = load_all()
    for command in [*group.commands.values(), *group.commands["archive"].commands.values()]:
        for option in {each for parameter in command.params for each in parameter.opts} - {"--help", "-h"}:
            if option.startswith("--"):
                assert re.search(rf"<code>{option}\b", text), f"{command.name} {option}"


def test_every_error_is_in_the_reference(site):
    page = site["reference/errors.html"]
    named = {each for each in vars(errors).values() if isinstance(each, type)}
    for error in named & {each for each in named if issubclass(each, errors.LowcarbError)}:
        if error is not errors.LowcarbError:
            assert error.__name__ in page.anchors
    kinds = re.findall(r"Kind <code>(\w+)</code>", page.text)
    assert "plan_infeasible" in kinds
    assert len(kinds) == len(set(kinds)) > 3


def test_docstrings_hold_no_marks_of_another_language(site):
    for name, page in site.items():
        assert not re.search(r":(?:func|class|meth|mod|attr):|\]_|\.\. \[\d", page.text), name


def test_a_console_block_copies_its_commands_alone(site):
    copied = [
        html.unescape(text)
        for page in site.values()
        for text in re.findall(r'data-copy="([^"]*)"', page.text)
    ]
    assert len(copied) > 10
    assert all(text and "$" not in text.split()[0] for text in copied)
    tutorial = re.findall(r'data-copy="([^"]*)"', site["tutorial/ten-minutes.html"].text)
    assert "lowcarb plan --job job.toml --source synthetic" in tutorial
    for name, page in site.items():
        assert page.text.count('class="language-console') == len(re.findall(r"data-copy=", page.text)), name


def test_formulas_of_notebooks_are_drawn_in_the_page(site):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        prose = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
        prose = re.sub(r"```.*?```|`[^`\n]+`", "", prose, flags=re.DOTALL)
        formulas = re.findall(r"\$\$.+?\$\$|\$[^$\n]+\$", prose, flags=re.DOTALL)
        page = site[f"notebooks/{path.stem}.html"]
        assert page.text.count('<svg class="formula"') == len(formulas)
        text = re.sub(r"<(pre|code|svg|script)\b.*?</\1>", "", page.text, flags=re.DOTALL)
        assert "$" not in text


WORDS = ("slurm", "cron", "kubernetes", "notification", "mlflow", "price")


@pytest.mark.parametrize("word", WORDS)
def test_the_search_finds_it(folder, word):
    index = json.loads((folder / "search" / "search_index.json").read_text(encoding="utf-8"))
    titles = [each["title"].lower() for each in index["docs"]]
    assert any(word in title for title in titles)


def test_each_page_of_the_api_has_an_example():
    for path in (ROOT / "docs" / "reference").glob("api-*.md"):
        assert "```python" in path.read_text(encoding="utf-8"), path.name


def test_each_setting_has_an_anchor_a_type_and_its_default(site):
    page = site["reference/settings.html"]
    names = {name.replace("_", "-") for name in Settings.model_fields}
    assert names <= page.anchors
    name = r"<td><a[^>]*><code>([a-z-]+)</code></a></td>"
    rows = re.findall(rf"<tr>\s*{name}\s*<td>(.*?)</td>\s*<td>(.*?)</td>", page.text)
    shown = {name: (kind, re.sub("<[^>]*>", "", default)) for name, kind, default in rows}
    assert shown.keys() == names
    assert all(kind for kind, _ in shown.values())
    assert shown["patience"] == ("number", "1")
    assert shown["on-late"] == ("finish or stop", "finish")
    assert shown["timeout"] == ("duration", "30 s")
    assert shown["watttime-password"] == ("secret", "–")
