"""Live pages in this process, asked without a network."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import httpx

from lowcarb_scheduler.flower.waiting import request_release
from lowcarb_scheduler.monitor.access import Access
from lowcarb_scheduler.monitor.follow import RunFolder
from lowcarb_scheduler.monitor.server import Pages

if TYPE_CHECKING:
    from pathlib import Path

    from lowcarb_scheduler.clock import Clock

RELEASE, READ = "release-token", "read-token"
HOME = "http://127.0.0.1:8030"


class Live:
    """Pages over a folder.

    Parameters
    ----------
    folder : Path
        Folder that contains the folders of runs.
    clock : Clock
        Present time.
    host : str, optional
        The host it was told to bind.
    further : tuple of str, optional
        Further names of it.
    look_s : float (default: 0)
        Seconds between two looks at what somebody watches.
    """

    def __init__(
        self, folder: Path, clock: Clock, host: str | None = None, further: tuple[str, ...] = (),
        look_s: float = 0.0,
    ) -> None:  # fmt: skip
        self.runs, self.is_ending = RunFolder(folder, clock), False
        access = Access.of(host, further, RELEASE, READ)
        self.app = Pages(self.runs, clock, access, request_release, lambda: self.is_ending, look_s).app()

    def ask(self, path: str, method: str = "GET", home: str = HOME, **about: Any) -> httpx.Response:
        """Return the answer to a request."""

        async def answer() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url=home) as client:
                return await client.request(method, path, **about)

        return asyncio.run(answer())

    def json(self, path: str, **about: Any) -> Any:
        """Return the document of an address."""
        answer = self.ask(path, **about)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        return answer.json()
