"""Local federation for the demo, the tests and ``examples/deployment``: a SuperLink that simulates nodes.

It keeps its state in a folder of its own, listens on a free loopback port, and ends with its context. The
user's Flower configuration is neither read nor changed.
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
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

import httpx

from lowcarb_scheduler.errors import RunFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

LINK: Final = "local"  # name of the SuperLink in the configuration of ``flwr``
_CONNECTION: Final = """\
[superlink]
default = "{name}"

[superlink.{name}]
address = "127.0.0.1:{port}"
insecure = true
"""
_START_TIMEOUT_S: Final = 60.0
_STOP_TIMEOUT_S: Final = 20.0
# No telemetry, no look for updates: a demo sends nothing. The third one silences a warning of Ray on machines
# without a GPU.
_ENVIRONMENT: Final = {
    "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_USAGE_STATS_ENABLED": "0",
}  # fmt: skip


class Federation:
    """Running SuperLink; see :func:`federation`."""

    def __init__(self, home: Path, nodes: int) -> None:
        self._home, self._nodes = home, nodes

    def run(self, app: Path, run_config: Mapping[str, object], log: Path) -> subprocess.Popen[bytes]:
        """Start ``flwr run`` on an app, with its output in a file; the process ends with the run."""
        # TOML takes JSON.
        config = " ".join(f"{key}={json.dumps(value)}" for key, value in run_config.items())
        simulated = (
            f"num-supernodes={self._nodes} client-resources-num-cpus=1 init-args-logging-level='error'"
        )
        command = [script("flwr"), "run", str(app), LINK, "--stream", "--federation-config", simulated]
        return start([*command, *(["--run-config", config] if config else [])], self._home, log)


@contextmanager
def federation(home: Path, nodes: int) -> Iterator[Federation]:
    """Run a SuperLink that simulates nodes, for as long as the context lasts.

    Parameters
    ----------
    home : Path
        Folder for state and log; created if it is missing.
    nodes : int
        Number of simulated SuperNodes.

    Raises
    ------
    RunFailedError
        If the SuperLink does not start.
    """
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    write_connection(home, port)
    log = home / "superlink.log"
    # Flower would install the app's dependencies from the internet; they are here already.
    command = [
        script("flower-superlink"), "--insecure", "--simulation", "--disable-runtime-dependency-installation",
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
    """Turn SIGTERM and a closed terminal into SystemExit within the context, so that no process is left."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)  # the exit code of a shell for a signal

    # Python lets only the main thread handle signals.
    is_main = threading.current_thread() is threading.main_thread()
    numbers = (signal.SIGTERM, signal.SIGHUP) if is_main else ()
    before = [(number, signal.signal(number, end)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def start(command: Sequence[str], home: Path, log: Path) -> subprocess.Popen[bytes]:
    """Start a Flower command in a process group of its own, with its output in a log file."""
    with log.open("wb") as out:
        # A session of its own: stop() then also reaches the processes that Flower and Ray start.
        return subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment(home),
            start_new_session=True,
        )  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all processes that it has started."""
    # SIGKILL follows in any case: children may outlive a parent that ended at once.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, number)
            process.wait(_STOP_TIMEOUT_S)
    process.wait()


def await_health(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait until a SuperLink answers on a port.

    Raises
    ------
    RunFailedError
        If the SuperLink ends before, or takes too long.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            # trust_env=False: a proxy of the user must not get in between.
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=2.0, trust_env=False).is_success:
                return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise RunFailedError("the local SuperLink did not come up", tail(log), str(log))


def tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def write_connection(home: Path, port: int) -> None:
    """Write the configuration by which ``flwr`` commands with this home find the SuperLink, named LINK."""
    (home / "config.toml").write_text(_CONNECTION.format(name=LINK, port=port), encoding="utf-8")


def free_port() -> int:
    """Return a free loopback port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def script(name: str) -> str:
    """Return the path of a command that is installed beside this Python, which may not be on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a Flower command that keeps its state in a folder and sends no telemetry."""
    # Flower starts further commands, such as its app processes, by name.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **_ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}
