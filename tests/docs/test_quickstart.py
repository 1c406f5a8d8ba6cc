"""The quickstart: four lines make a plain Flower app carbon-aware, and nothing else of it changes."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
from flwr.app import Context, MessageType, RecordDict

from lowcarb_scheduler.testing import InMemoryGrid
from support.ledgers import read_records

ROOT = Path(__file__).parents[2]
APP = ROOT / "examples" / "quickstart-numpy"
NAME = "quickstart_numpy"
PLACES = ("DE", "FR", "GB", "ES")
CONFIG = {
    "num-server-rounds": 3, "lowcarb-source": "synthetic", "lowcarb-clock": "virtual:2026-06-15T06:00:00Z",
    "lowcarb-round-duration": "30m", "lowcarb-finish-by": "12h", "lowcarb-clients-per-round": 2,
    "lowcarb-run-dir": "run",
}  # fmt: skip


def changes(page):
    """Return by file the lines that a page's diff puts in, each with the one it stands for or None."""
    (diff,) = re.findall(r"```diff\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    found, file, old = {}, "", None
    for line in diff.splitlines():
        if line.startswith("  # "):
            file = line.removeprefix("  # ")
        elif line.startswith("- "):
            old = line[2:]
        elif line.startswith("+ "):
            found.setdefault(file, []).append((old, line[2:]))
            old = None
    return found


def before(text, lines):
    """Return a file as it was before lines were put in."""
    for old, new in lines:
        assert text.count(f"{new}\n") == 1, new
        text = text.replace(f"{new}\n", f"{old}\n" if old else "")
    return text


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Return a function that loads the apps of a copy of the example."""

    def apps(edit):
        for file in (APP / NAME).glob("*.py"):
            target = tmp_path / "app" / NAME / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(edit(file.name, file.read_text(encoding="utf-8")), encoding="utf-8")
        monkeypatch.syspath_prepend(tmp_path / "app")
        for module in [name for name in sys.modules if name.split(".")[0] == NAME]:
            monkeypatch.delitem(sys.modules, module)
        importlib.invalidate_caches()
        return [importlib.import_module(f"{NAME}.{side}_app").app for side in ("server", "client")]

    yield apps
    for module in [name for name in sys.modules if name.split(".")[0] == NAME]:
        del sys.modules[module]


def run(server, client, capsys):
    """Run three rounds with eight nodes; return what it printed, and whom it asked to train."""
    configs = [{"partition-id": k, "location": PLACES[k % 4]} for k in range(8)]
    grid = InMemoryGrid(client, configs)
    server(grid, Context(1, 0, {}, RecordDict(), CONFIG))
    trained = [m.metadata.dst_node_id for m in grid.sent if m.metadata.message_type == MessageType.TRAIN]
    return capsys.readouterr().out, trained


def test_four_lines_are_the_difference():
    for page in (ROOT / "README.md", APP / "README.md"):
        assert sum(len(lines) for lines in changes(page).values()) == 4
        assert set(changes(page)) == {"server_app.py", "client_app.py"}


def test_with_them_it_waits(load, capsys):
    printed, trained = run(*load(lambda name, text: text), capsys)
    assert re.fullmatch(r"the line is y = (2\.[89]\d|3\.[01]\d) x -(0\.[89]\d|1\.[01]\d)\n", printed)
    assert len(trained) == 3 * 2
    events = read_records(Path("run"))
    assert any(event["event"] == "hold_started" for event in events)
    assert events[-1]["saving"] > 0


def test_without_them_it_is_a_plain_app(load, capsys):
    lines = changes(ROOT / "README.md")

    def plain(name, text):
        edited = before(text, lines.get(name, ()))
        assert "lowcarb" not in edited
        assert "carbon" not in edited
        return edited

    printed, trained = run(*load(plain), capsys)
    assert re.fullmatch(r"the line is y = (2\.9\d|3\.0\d) x -(0\.9\d|1\.0\d)\n", printed)
    assert len(trained) == 3 * 8
    assert not Path("run").exists()
