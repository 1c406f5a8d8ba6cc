"""``lowcarb serve``: the address and the token that it prints, and what it refuses before it begins."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest

from support import cli_files
from support.report_ledger import run_events, write_ledger

run = cli_files.run


@pytest.mark.parametrize(
    ("arguments", "field", "why"),
    [
        (["missing"], "FOLDER", "there is no folder missing"),
        (["runs/one"], "FOLDER", "runs/one is the folder of a run"),
        (["runs/one/ledger.jsonl"], "FOLDER", "there is no folder"),
        (["runs", "--host", "no.such.host.invalid"], "--host", "no.such.host.invalid"),
        (["runs", "--host", "a" * 300], "--host", "is no name"),
        (["runs", "--host", "192.0.2.1"], "--host", "192.0.2.1"),  # an address of no machine
        (["runs", "--host", ""], "--host", "is empty"),
    ],
)
@pytest.mark.enable_socket
def test_bad_input_is_one_line_and_exit_2(capsys, tmp_path, arguments, field, why):
    write_ledger(tmp_path / "runs" / "one", run_events())
    answer = run(capsys, "serve", *arguments, "--port", "0")
    assert (answer.code, answer.out) == (2, "")
    assert answer.line.startswith(f"lowcarb: {field}: ")
    assert why in answer.line


def test_without_a_folder_of_runs_it_says_so(capsys):
    answer = run(capsys, "serve")
    assert (answer.code, "there is no folder runs" in answer.line) == (2, True)


@pytest.mark.parametrize("port", ["-1", "65536", "http"])
def test_a_port_that_is_none_is_refused(capsys, tmp_path, port):
    answer = run(capsys, "serve", tmp_path, f"--port={port}")
    assert (answer.code, "port" in answer.line) == (2, True)


@pytest.mark.enable_socket
def test_a_port_that_is_taken_is_named(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answer = run(capsys, "serve", tmp_path, "--port", port)
        assert (answer.code, answer.out) == (2, "")
        assert (
            answer.line == f"lowcarb: --port: {port} is in use; give another one, or 0 for any that is free"
        )
        error = run(capsys, "serve", tmp_path, "--port", port, "--json").document["error"]
        assert (error["kind"], error["field"]) == ("input", "--port")


@pytest.mark.enable_socket
def test_it_says_where_it_is_answers_there_and_ends_on_ctrl_c(tmp_path):
    write_ledger(tmp_path / "runs" / "one", run_events())
    command = [sys.executable, "-c", "from lowcarb_scheduler.cli import main\nmain()", "serve", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    lines = [process.stdout.readline() for _ in range(3)]
    address = re.fullmatch(r"runs of runs/ are shown at (http://127\.0\.0\.1:\d+/)\n", lines[0])[1]
    assert re.fullmatch(r"release token: [\w-]{24}\n", lines[1])
    assert lines[2] == "Ctrl-C stops the pages, not the runs\n"
    assert httpx.get(f"{address}api/runs", trust_env=False).json()["runs"][0]["state"] == "completed"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20) == ("", "")
