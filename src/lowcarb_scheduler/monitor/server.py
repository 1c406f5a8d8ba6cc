"""Live pages over the runs of a folder: HTML, JSON, server-sent events, metrics, and the release of a round.

It reads ledgers and writes nothing; a round is released by the function that is handed in.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket
from datetime import UTC
from functools import partial
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs
from zoneinfo import ZoneInfo

import anyio
import uvicorn
from anyio.to_thread import run_sync
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from lowcarb_scheduler.documents import SCHEMA_VERSION, to_json
from lowcarb_scheduler.errors import InputError, LowcarbError, MissingExtraError, NothingHeldError, one_line
from lowcarb_scheduler.ledger import as_written
from lowcarb_scheduler.monitor import prometheus
from lowcarb_scheduler.monitor.access import Access, Guard
from lowcarb_scheduler.monitor.documents import document_of, listing_of
from lowcarb_scheduler.monitor.page import list_page, run_page
from lowcarb_scheduler.report.formatting import Times

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from starlette.requests import Request

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.monitor.follow import RunFolder
    from lowcarb_scheduler.monitor.state import RunState

NO_PLOTLY: Final = str(MissingExtraError("plotly", "interactive"))
LOOK_S: Final = 1.0  # seconds between two looks at a ledger that somebody watches
_LIST_EVERY: Final = 3  # of these looks, one at all ledgers
_STILL_HERE: Final = 15  # looks without news, after which a connection shows that it is there
_LONGEST_FORM: Final = 4_096  # bytes
_STATIC: Final = Path(str(resources.files("lowcarb_scheduler.monitor") / "static"))
_PALETTE: Final = Path(str(resources.files("lowcarb_scheduler.report") / "palette.css"))


def plotly_script() -> Path | None:
    """Return the script in plotly's wheel, without importing plotly; None where it is not installed."""
    found = find_spec("plotly")
    folders = found.submodule_search_locations if found else None
    path = Path(next(iter(folders))) / "package_data" / "plotly.min.js" if folders else None
    return path if path is not None and path.is_file() else None


class Pages:
    """Answers to requests.

    Parameters
    ----------
    runs : RunFolder
        The runs.
    clock : Clock
        Present time.
    access : Access
        Rules of access.
    release : callable (run_dir, round)
        Requests that a held round opens.
    is_ending : callable
        Whether the server shuts down, so that lasting answers should end.
    look_s : float
        Seconds between two looks at what somebody watches.
    """

    def __init__(
        self, runs: RunFolder, clock: Clock, access: Access, release: Callable[[Path, int], None],
        is_ending: Callable[[], bool], look_s: float,
    ) -> None:  # fmt: skip
        self._runs, self._clock, self._access, self._release = runs, clock, access, release
        self._is_ending, self._look_s = is_ending, look_s
        self._released: set[tuple[str, str, int, int]] = set()
        self._plotly = plotly_script()

    def app(self) -> Guard:
        """Return the ASGI app."""
        page = partial(Route, methods=["GET"])
        routes = [
            page("/", self.index),
            page("/runs/{name}", self.run),
            page("/static/palette.css", self.palette),
            page("/static/plotly.min.js", self.plotly),
            Mount("/static", StaticFiles(directory=_STATIC)),
            page("/api/runs", self.api_runs),
            page("/api/page", self.api_page),
            page("/api/events", self.events),
            page("/api/runs/{name}", self.api_run),
            page("/api/runs/{name}/page", self.api_run_page),
            page("/api/runs/{name}/events", self.run_events),
            Route("/api/runs/{name}/release", self.release, methods=["POST"]),
            page("/metrics", self.metrics),
        ]
        handlers: Mapping[Any, Any] = {LowcarbError: _failed, HTTPException: _refused}
        return Guard(Starlette(routes=routes, exception_handlers=handlers), self._access)

    # -- Pages: fixed files that a script fills in ---------------------------------------------------------

    def index(self, _: Request) -> Response:
        """Answer with the page of the list."""
        return FileResponse(_STATIC / "index.html")

    def run(self, request: Request) -> Response:
        """Answer with the page of a run."""
        self._find(request)
        return FileResponse(_STATIC / "run.html")

    def palette(self, _: Request) -> Response:
        """Answer with the colours of the report."""
        return FileResponse(_PALETTE)

    def plotly(self, _: Request) -> Response:
        """Answer with plotly's script."""
        if self._plotly is None:
            return Response(f"// {NO_PLOTLY}\n", media_type="text/javascript")
        return FileResponse(self._plotly, headers={"cache-control": "private, max-age=86400"})

    # -- JSON ----------------------------------------------------------------------------------------------

    def api_runs(self, _: Request) -> Response:
        """Answer as ``lowcarb runs --json``."""
        return _json({"schema_version": SCHEMA_VERSION, **listing_of(self._runs.summaries())})

    def api_run(self, request: Request) -> Response:
        """Answer as ``lowcarb status --json``."""
        run_dir = self._find(request)
        document = document_of(run_dir, self._runs.read(run_dir), self._clock.now())
        return _json({"schema_version": SCHEMA_VERSION, **document})

    def api_page(self, request: Request) -> Response:
        """Answer with the content of the list."""
        return _json(list_page(self._runs.path, self._runs.summaries(), self._clock.now(), _times(request)))

    def api_run_page(self, request: Request) -> Response:
        """Answer with the content of the page of a run."""
        run_dir = self._find(request)
        run = self._runs.read(run_dir)
        with as_written(str(run_dir)):
            content = run_page(run_dir.name, run, self._clock.now(), _times(request))
        has_plotly = self._plotly is not None
        if not has_plotly:
            content |= {"charts": None, "no_charts": NO_PLOTLY}
        return _json(content | {"was_released": self._key(run_dir, run, run.round or 0) in self._released})

    def metrics(self, _: Request) -> Response:
        """Answer with metrics for Prometheus, of runs that go on or have written within the hour."""
        now, runs = self._clock.now(), {}
        for run_dir in self._runs.recent(now):
            with contextlib.suppress(InputError):  # a ledger that cannot be read counts as unreadable
                runs[run_dir.name] = self._runs.read(run_dir)
        text = prometheus.metrics_of(runs, [run.state for run in self._runs.summaries()], now)
        return Response(text, media_type=prometheus.CONTENT_TYPE)

    # -- Server-sent events --------------------------------------------------------------------------------

    async def events(self, _: Request) -> Response:
        """Tell whenever the list of runs has changed."""
        return self._stream(self._runs.stamps, _LIST_EVERY)

    async def run_events(self, request: Request) -> Response:
        """Tell whenever the ledger of a run has changed."""
        follower = self._runs.follow(await run_sync(self._find, request))

        def look() -> object:
            """Return the signs of the newest reading: there is no news before the ledger is read."""
            try:
                follower.read()
            except InputError as error:
                return str(error)
            return follower.seen

        return self._stream(look)

    def _stream(self, look: Callable[[], object], every: int = 1) -> Response:
        return StreamingResponse(self._changes(look, every), media_type="text/event-stream")

    async def _changes(self, look: Callable[[], object], every: int) -> AsyncIterator[str]:
        seen: object = None
        number = quiet = 0
        while not self._is_ending():
            found = await run_sync(look)
            if number == 0 or found != seen:
                seen, number, quiet = found, number + 1, 0
                # The state itself is asked for by who wants it, in the time zone that suits.
                yield f"event: changed\nid: {number}\ndata: {to_json({'at': self._clock.now()})}\n\n"
            elif (quiet := quiet + 1) % _STILL_HERE == 0:
                yield ": still here\n\n"
            for _ in range(every):
                if not self._is_ending():
                    await anyio.sleep(self._look_s)

    # -- Release -------------------------------------------------------------------------------------------

    async def release(self, request: Request) -> Response:
        """Let the held round open, once."""
        form = await _form(request)
        if not self._access.may_release(request.headers, form.get("token")):
            raise HTTPException(403, "the release token is missing or wrong; lowcarb serve has printed it")
        return await run_sync(self._release_once, request, form.get("round"))

    def _release_once(self, request: Request, wanted: str | None) -> Response:
        run_dir = self._find(request)
        run = self._runs.read(run_dir)
        number = run.to_release(run_dir)
        if wanted is not None and wanted != str(number):
            raise HTTPException(409, f"round {one_line(wanted, 20)} is not held: round {number} is")
        key = self._key(run_dir, run, number)
        if key in self._released:
            raise HTTPException(409, f"round {number} has been released already; it opens within seconds")
        self._release(run_dir, number)
        self._released.add(key)
        told = f"round {number} opens within seconds; later rounds follow the plan"
        document = {"run": run_dir.name, "round": number, "was_to_open_at": run.opens_at, "message": told}
        return _json({"schema_version": SCHEMA_VERSION, **document})

    @staticmethod
    def _key(run_dir: Path, run: RunState, number: int) -> tuple[str, str, int, int]:
        # A run that was killed and resumed may hold the same round again.
        return run_dir.name, run.run_id, run.record.resumed, number

    def _find(self, request: Request) -> Path:
        name = request.path_params["name"]
        found = self._runs.find(name)
        if found is None:
            raise HTTPException(404, f"there is no run {one_line(name, 80)!r}")
        return found


def _json(document: Mapping[str, object], status: int = 200) -> Response:
    return Response(to_json(document) + "\n", status, media_type="application/json")


def _failed(_: Request, error: Exception) -> Response:
    assert isinstance(error, LowcarbError)  # it is registered for these
    kind, status = ("nothing_held", 409) if isinstance(error, NothingHeldError) else ("input", 500)
    return _json({"error": {"kind": kind, "message": str(error), **error.data()}}, status)


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # it is registered for these
    if request.url.path.startswith("/api/"):
        return _json({"error": {"kind": "refused", "message": error.detail}}, error.status_code)
    return Response(error.detail + "\n", error.status_code, media_type="text/plain")


def _times(request: Request) -> Times:
    """Return the writer of times in the zone of who looks; UTC if it is not known here."""
    try:
        return Times(ZoneInfo(request.query_params.get("zone", "UTC")))
    except (OSError, ValueError, LookupError):
        return Times(UTC)


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a small form."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_FORM:
            raise HTTPException(413, "the form is too long")
    fields = parse_qs(body.decode("utf-8", "replace"))
    return {name: values[0] for name, values in fields.items()}


# -- Server --------------------------------------------------------------------------------------------------


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket.

    Raises
    ------
    InputError
        If the host is not one of this machine, or the port is not free.
    """
    try:
        family, *_, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family)
    except (socket.gaierror, UnicodeError) as error:
        raise _no_host(host, getattr(error, "strerror", None) or "is no name of a host") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                "--port", f"{port} is in use", "give another one, or 0 for any that is free"
            ) from None
        if error.errno == errno.EACCES:
            raise InputError("--port", f"{port} is not permitted", "give one from 1024 on") from None
        raise _no_host(host, error.strerror or "cannot be bound") from None


def _no_host(host: str, why: str) -> InputError:
    return InputError("--host", f"{one_line(host, 80)}: {why}", "give a name or an address of this machine")


def address_of(at: socket.socket, host: str | None, read_token: str | None) -> str:
    """Return the address of the pages that a socket serves; ``host`` is the one it was told to bind."""
    shown, port = at.getsockname()[:2]
    if host is not None:
        # That of all networks is no address to go to.
        shown = socket.gethostname() if ipaddress.ip_address(shown).is_unspecified else host
    shown = f"[{shown}]" if ":" in shown else shown
    return f"http://{shown}:{port}/" + (f"?token={read_token}" if read_token else "")


def _prepare() -> None:
    """Import what charts need, which takes a second, before somebody waits for it."""
    with contextlib.suppress(MissingExtraError):  # said on the page
        import_module("lowcarb_scheduler.monitor.chart")


def serve(
    runs: RunFolder, clock: Clock, access: Access, release: Callable[[Path, int], None], at: socket.socket
) -> None:
    """Answer requests until the process is told to end.

    Parameters
    ----------
    runs : RunFolder
        The runs.
    clock : Clock
        Present time.
    access : Access
        Rules of access.
    release : callable (run_dir, round)
        Requests that a held round opens.
    at : socket
        Listening socket, see :func:`bind`.
    """
    pages = Pages(runs, clock, access, release, lambda: server.should_exit, LOOK_S)
    config = uvicorn.Config(
        pages.app(), log_level="warning", access_log=False, server_header=False, lifespan="off", ws="none",
        timeout_graceful_shutdown=3, proxy_headers=False,
    )  # fmt: skip
    server = uvicorn.Server(config)
    Thread(target=_prepare, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[at])
