"""A whole run with every secret set, against servers that echo them while they fail: none is shown."""

from __future__ import annotations

import base64
import json
import logging
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import CarbonClientApp, carbon_aware
from lowcarb_scheduler.settings import Settings
from lowcarb_scheduler.testing import InMemoryGrid, VirtualClock
from support.cli_files import run

HOUR = timedelta(hours=1)
RUN = Path("run")
SECRETS = {
    "SDK_AUTH": "sdk-user:s3cret/of+the sdk",
    "ELECTRICITY_MAPS_TOKEN": "tok-3lectr1city-maps",
    "WATTTIME_USER": "somebody@watttime.example",
    "WATTTIME_PASSWORD": "p4ssw0rd,of watttime",
}
SESSION = "s3ss10n-token-of-watttime"  # what its login gives
IN_URL = "url-user", "url-p4ssword"


def coded(user, password):
    return base64.b64encode(f"{user}:{password}".encode()).decode()


def never_shown():
    user, _, password = SECRETS["SDK_AUTH"].partition(":")
    watttime = SECRETS["WATTTIME_USER"], SECRETS["WATTTIME_PASSWORD"]
    plain = [*SECRETS.values(), user, password, SESSION, *IN_URL]
    basic = [coded(user, password), coded(*watttime), coded(*IN_URL)]
    return [form for secret in [*plain, *basic] for form in (secret, quote(secret, safe=""))]


def basic_parts(header):
    """Return user and password of an Authorization header."""
    scheme, _, credentials = header.partition(" ")
    return base64.b64decode(credentials).decode().split(":", 1) if scheme == "Basic" else []


class Echo(BaseHTTPRequestHandler):
    """Fails in another way at each request, and repeats what it was sent."""

    def do_GET(self):
        known = [*self.headers.values(), *basic_parts(self.headers.get("authorization", ""))]
        if self.path.startswith("/watttime"):
            known += [SECRETS["WATTTIME_USER"], SECRETS["WATTTIME_PASSWORD"]]  # it knows its users
        text = " ".join(known)
        problem = json.dumps({"title": "no", "detail": text, "errors": {text: known}})
        answers = [
            (401, "application/json", json.dumps({"error": text})),
            (403, "text/html", f"<p>{text}"),
            (400, "application/problem+json", problem),
            (200, "application/json", json.dumps([{"location": text, "forecastData": text}])),
            (200, "application/json", json.dumps({"zone": text, "meta": {"units": text}, "data": []})),
            (200, "text/plain", text),
            (429, "text/plain", text),
            (307, "text/plain", text),
        ]
        number = next(self.server.asked)
        status, media, body = answers[number % len(answers)]
        if self.path == "/watttime/login" and number % 3:
            status, media, body = 200, "application/json", json.dumps({"token": SESSION})
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body.encode())))
        if status == 307:
            self.send_header("Location", f"http://{quote(text)}@127.0.0.1/{quote(text)}?{quote(text)}")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        """Print nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Print no traceback, which would be taken for ours: who asked may have given up by now."""


@pytest.fixture
def address():
    server = Server(("127.0.0.1", 0), Echo)
    server.asked = count()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    assert next(server.asked) > 1


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    "source",
    ["carbon-aware-sdk", "electricity-maps", "watttime", "electricity-maps,carbon-aware-sdk", "in the URL"],
)
def test_no_secret_stands_in_ledger_report_log_or_error(
    address, source, monkeypatch, midnight, caplog, capsys
):
    for name, secret in SECRETS.items():
        monkeypatch.setenv(f"LOWCARB_{name}", secret)
    for name in ("SDK_URL", "ELECTRICITY_MAPS_URL", "WATTTIME_URL"):
        prefix = name.removesuffix("_URL").lower()
        monkeypatch.setenv(f"LOWCARB_{name}", f"http://{address}/{prefix}")
    if source == "in the URL":
        monkeypatch.delenv("LOWCARB_SDK_AUTH")
        monkeypatch.setenv("LOWCARB_SDK_URL", f"http://{':'.join(IN_URL)}@{address}")
        source = "carbon-aware-sdk"
    monkeypatch.setenv("LOWCARB_SOURCE", source)
    monkeypatch.setenv("LOWCARB_SDK_SIGNAL", "average")
    monkeypatch.setenv("LOWCARB_TIMEOUT", "1s")
    monkeypatch.setenv("LOWCARB_ARCHIVE_DIR", "archive")
    app = CarbonClientApp()

    @app.train()
    def train(message, context):
        metrics = MetricRecord({"num-examples": 5})
        return Message(
            RecordDict({"arrays": message.content["arrays"], "metrics": metrics}), reply_to=message
        )

    grid = InMemoryGrid(app, [{"partition-id": k, "location": "DE"} for k in range(4)])
    with caplog.at_level(logging.INFO):
        strategy = carbon_aware(
            FedAvg(fraction_evaluate=0.0), clock=VirtualClock(midnight), finish_by=6 * HOUR,
            round_duration=HOUR, clients_per_round=2, run_dir=RUN,
        )  # fmt: skip
        strategy.start(grid, ArrayRecord([np.zeros(3)]), num_rounds=2, timeout=5)
    commands = ["report run", "forecast --location DE", "forecast --location DE --json", "doctor",
                "doctor --json --location DE"]  # fmt: skip
    answers = [run(capsys, *command.split()) for command in commands]
    shown = {
        str(file): file.read_bytes().decode("utf-8", "replace")
        for file in Path().rglob("*")
        if file.is_file()
    }
    assert "run/ledger.jsonl" in shown
    assert "run/report.html" in shown
    assert "degraded" in shown["run/ledger.jsonl"]
    shown |= {"log": caplog.text, "settings": repr(Settings.load()), "strategy": repr(vars(strategy))}
    shown |= {command: answer.out + answer.err for command, answer in zip(commands, answers, strict=True)}
    for place, text in shown.items():
        for secret in never_shown():
            assert secret not in text, place
