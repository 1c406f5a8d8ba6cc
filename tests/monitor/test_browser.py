"""Live pages in a real browser, of a server of its own, over a run that is held, released and goes on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import timedelta

import pytest

from lowcarb_scheduler.clock import SystemClock, format_time
from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.flower.waiting import pop_release_request
from lowcarb_scheduler.ledger import Ledger
from support.browser import CHROMIUM, browsing
from support.report_ledger import event, run_events, write_ledger

SERVE = "import sys\nfrom lowcarb_scheduler.cli import main\nsys.exit(main())"
MARKUP = "<img src=x onerror=alert(1)>"

pytestmark = [
    pytest.mark.browser,
    pytest.mark.enable_socket,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found; `apt-get install chromium` to run it"),
]


@pytest.fixture
def held(tmp_path):
    """Write the ledger of a run whose second round is held for some more hours."""
    run_dir, until = tmp_path / "runs" / "held", SystemClock().now() + timedelta(hours=5)
    events = run_events()
    events[0] |= {"clock": "system", "app": MARKUP}
    (last,) = [k for k, each in enumerate(events)
               if each["event"] == "hold_started" and each["round"] == 2]  # fmt: skip
    about = {"reason": MARKUP, "seconds": 3600.0, "planned_g": 300.0, "at_once_g": 500.0}
    events[last] |= {"until": format_time(until), **about}
    write_ledger(run_dir, events[: last + 1])
    ledger = Ledger(run_dir, SystemClock(), goes_on=True)
    yield run_dir
    ledger.close()


@pytest.fixture
def server(held):
    """Start ``lowcarb serve`` and return what it says of itself; at the end it stops on Ctrl-C."""
    command = [sys.executable, "-c", SERVE, "serve", str(held.parent), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    yield json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=20)
    assert (process.returncode, complaints) == (0, "")


@pytest.fixture
def browser(tmp_path):
    with browsing(tmp_path / "profile") as browser:
        yield browser


def text(browser, name):
    return browser.run(f"document.getElementById('{name}').innerText")


def shows(browser, name, part):
    browser.wait_for(f"document.getElementById('{name}').innerText.includes({json.dumps(part)})")


def test_a_held_run_is_seen_released_and_followed(browser, server, held):
    browser.look(1280)
    browser.open(server["address"])
    browser.wait_for("document.querySelector('.run')")
    browser.run("document.querySelector('.run').click()")
    browser.wait_for("document.querySelector('#rounds .main-svg')")

    # What it waits for.
    assert text(browser, "state") == "holding round 2"
    assert text(browser, "countdown").startswith("4 h 5")
    assert text(browser, "title") == text(browser, "why") == MARKUP
    assert text(browser, "steps") == "1 of 3 rounds done"
    bars = "document.querySelectorAll('#rounds .trace.bars .point').length"
    assert browser.run(bars) == 2 + 4  # of the round that is done, and of two to come

    # On a phone, and in the dark.
    for width, dark, background in ((390, True, "rgb(18, 21, 19)"), (1280, False, "rgb(245, 246, 244)")):
        browser.look(width, dark=dark)
        fits = f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}"
        browser.wait_for(f"{fits} && getComputedStyle(document.body).backgroundColor === '{background}'")
        chart = "document.querySelector('#rounds .main-svg').getBoundingClientRect()"
        browser.wait_for(f"{chart}.right <= {width}")

    # A wrong token, and the right one, once.
    browser.run("document.querySelector('#release').open = true")
    release(browser, "wrong")
    shows(browser, "released", "token is missing or wrong")
    assert not pop_release_request(held, 2)
    release(browser, server["release_token"])
    shows(browser, "released", "round 2 opens within seconds")
    assert pop_release_request(held, 2)
    browser.open(browser.run("location.href"))
    shows(browser, "released", "Round 2 has been released")
    assert browser.run("document.getElementById('release').hidden")

    # It is told as soon as the ledger has grown.
    events = run_events()
    (opened,) = [each for each in events if each["event"] == "round_opened" and each["round"] == 2]
    with (held / "ledger.jsonl").open("a", encoding="utf-8") as file:
        file.write(to_json(event(1.7, "open_now", round=2, until=None)) + "\n" + to_json(opened) + "\n")
    shows(browser, "state", "training")
    shows(browser, "events", "round 2 released")

    # One refusal was meant to be.
    refused = [line for line in browser.complaints if "403" in line]
    assert browser.complaints == refused
    assert len(refused) == 1
    outside = [url for url in browser.requests if not url.startswith((server["address"], "data:image/png"))]
    assert outside == []


def release(browser, token):
    browser.run(f"document.getElementById('token').value = {json.dumps(token)}")
    browser.run("document.getElementById('release-form').requestSubmit()")
