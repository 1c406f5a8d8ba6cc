"""A federation on this machine: a SuperLink of its own that simulates nodes, for the demo and for tests.

It keeps its state in a folder of its own, listens on a free loopback port, and is gone afterwards; the
user's Flower configuration is neither read nor changed. ``examples/deployment`` uses its parts, too.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from lowcarb_scheduler.errors import RunFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LINK: Final = "local"
_CONNECTION: Final = """\
[superlink]
default = "{name}"

[superlink.{name}]
address = "127.0.0.1:{port}"
insecure = true
"""
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 20.0
_ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Federation:
    """A running SuperLink; see :func:`federation`."""

    def __init__(self, home: Path, nodes: int) -> None:
        self._home, self._nodes = home, nodes

    def run(self, app: Path, run_config: Mapping[str, object], log: Path) -> subprocess.Popen[bytes]:
        """Start ``flwr run`` on an app, its output going to a file; the process ends with the run."""
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in run_config.items())
        simulated = (
            f"num-supernodes={self._nodes} client-resources-num-cpus=1 init-args-logging-level='error'"
        )
        command = [
            script("flwr"), "run", str(app), LINK, "--stream", "--federation-config", simulated,
            *(["--run-config", config] if config else []),
        ]  # fmt: skip
        return start(command, self._home, log)


@contextmanager
def federation(home: Path, nodes: int) -> Iterator[Federation]:
    """Run a SuperLink that simulates nodes, for as long as the context lasts.

    Parameters
    ----------
    home : Path
        Folder for its state and log; made when it is missing.
    nodes : int
        How many SuperNodes it simulates.

    Raises
    ------
    RunFailedError
        If it does not come up.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    write_connection(home, port)
    log = home / "superlink.log"
    command = [
        script("flower-superlink"), "--insecure", "--simulation",
        "--disable-runtime-dependency-installation",
        "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    process = start(command, home, log)
    with ended_by_signals():
        try:
            await_health(process, port, log)
            yield Federation(home, nodes)
        finally:
            stop(process)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let SIGTERM and a closed terminal end the context in order, so that no process is left behind."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    asked = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, end) for number in asked] if _in_main_thread() else []
    try:
        yield
    finally:
        for number, handler in zip(asked, before, strict=False):
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def start(command: Sequence[str], home: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a Flower command with processes and a log of its own."""
    with log.open("wb") as out:
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment(home),
            start_new_session=True,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all it has started."""
    for asked, patience_s in ((signal.SIGTERM, _STOP_TIMEOUT_S), (signal.SIGKILL, _STOP_TIMEOUT_S)):
        try:
            os.killpg(process.pid, asked)
        except ProcessLookupError:
            break
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def await_health(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a SuperLink answers on a port.

    Raises
    ------
    RunFailedError
        If it ends before, or takes too long.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2.0, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RunFailedError("the local SuperLink did not come up", tail(log), str(log))


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def write_connection(home: Path, port: int) -> None:
    """Let ``flwr`` commands with this folder as their home find the SuperLink on a port, by the name LINK."""
    (home / "config.toml").write_text(_CONNECTION.format(name=LINK, port=port), encoding="utf-8")


def free_port() -> int:
    """Return a loopback port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def script(name: str) -> str:
    """Return a command that was installed beside this Python, wherever the shell looks."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a Flower command that keeps its state in a folder, and asks nobody."""
    scripts = str(Path(sys.executable).parent)
    path = os.pathsep.join([scripts, os.environ.get("PATH", "")])
    return {**os.environ, **_ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}
