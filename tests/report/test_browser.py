"""The page as a browser shows it: on a phone, on a desk, in the dark and on paper."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lowcarb_scheduler.report.html import gather, render
from lowcarb_scheduler.report.interactive import write_interactive
from support.ledgers import read_records, replayed
from support.report_ledger import write_ledger
from support.report_world import large_events

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (320, 390, 820, 1280)  # CSS pixels
LEAST_CONTRAST = 4.5  # WCAG 2.2, success criterion 1.4.3
DARK = "--blink-settings=preferredColorScheme=0"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium found; `apt-get install chromium` to run it"),
]

PROBE = Path(__file__).with_name("page_probe.html")
FAULTY = """<!doctype html><body style="color: #999; background: #fff"><p>pale</p>
<div style="width: 2000px">wide</div><img src="elsewhere.png"><script></script>
<i style="background: url(//elsewhere/grid.png)"></i>
<svg viewBox="0 0 100 20" width="200"><text x="5" y="15">one</text><text x="8" y="15">other</text>
<text x="95" y="15" fill="#000">cut off</text></svg>"""


def browse(tmp_path, address, *options) -> str:
    """Return the output of a headless browser."""
    command = [
        BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000", *options, f"file://{address}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    return done.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Write the page of a large run."""
    run_dir = write_ledger(tmp_path_factory.mktemp("browser"), large_events())
    path = run_dir / "report.html"
    path.write_text(render(gather(replayed(read_records(run_dir)))), encoding="utf-8")
    return path


def findings(tmp_path, page, *options):
    probe = PROBE.read_text(encoding="utf-8")
    probe = probe.replace("WIDTHS", json.dumps(WIDTHS)).replace("LEAST", str(LEAST_CONTRAST))
    page.with_name("probe.html").write_text(probe, encoding="utf-8")
    shown = browse(tmp_path, page.with_name("probe.html"), "--dump-dom", *options)
    found = re.search(r"<pre>(.*)</pre>", shown, re.DOTALL)
    assert found, shown[-2000:]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize("options", [(), (DARK,)], ids=["light", "dark"])
def test_at_every_width_nothing_is_clipped_and_all_text_is_legible(tmp_path, page, options):
    for width, seen in zip(WIDTHS, findings(tmp_path, page, *options), strict=True):
        assert seen["found"] == [], f"{width} px"
        assert (seen["links"], seen["scripts"], seen["sorts"]) == ([], 1, True)
        assert seen["pictures"] >= 5
        assert (seen["background"] == "rgb(18, 21, 19)") == (DARK in options)


def test_the_probe_finds_faults(tmp_path):
    (tmp_path / "report.html").write_text(FAULTY, encoding="utf-8")
    for seen in findings(tmp_path, tmp_path / "report.html"):
        found = " ".join(seen["found"])
        for fault in (
            "scrolls sideways", "reaches out: wide", "is clipped: cut off", "lies over one: other",
            "is hard to read: pale",
        ):  # fmt: skip
            assert fault in found
        assert (seen["links"], seen["scripts"]) == (["elsewhere.png", "//elsewhere/grid.png"], 1)
        assert not seen["sorts"]


def test_it_is_printed_on_a_few_pages(tmp_path, page):
    paper = tmp_path / "report.pdf"
    browse(tmp_path, page, "--no-pdf-header-footer", f"--print-to-pdf={paper}")
    pages = len(re.findall(rb"/Type\s*/Page\b", paper.read_bytes()))
    assert 3 <= pages <= 8  # they are full: charts of three to a page


def test_the_interactive_page_draws_its_charts_under_its_own_policy(tmp_path, page):
    pytest.importorskip("plotly", reason="needs the extra interactive")
    path = write_interactive(gather(replayed(read_records(page.parent))), page.parent)
    shown = browse(tmp_path, path, "--dump-dom", "--enable-logging=stderr", "--window-size=1280,900")
    assert shown.count('class="main-svg"') >= 6
    text = path.read_text(encoding="utf-8")
    assert "default-src 'none'; script-src 'sha256-" in text
    assert "unsafe-eval" not in text[:2000]


def test_a_long_run_of_many_clients_is_a_light_page(page):
    assert page.stat().st_size < 1_500_000
