"""Checks what a client sends, and what we let a server answer, against an OpenAPI document.

The documents are ``tests/conformance/<source>.yaml``. Beside them, in ``responses/<source>``, is what servers
answer as JSON, text or a web page: ``<operationId>[-<what is special>][-<status>]``. A file put there is
tested by itself.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import httpx
import yaml
from openapi_core import OpenAPI
from openapi_core.testing import MockRequest, MockResponse

FOLDER = Path(__file__).parents[1] / "conformance"


class Document:
    """One OpenAPI document.

    Parameters
    ----------
    source : str
        The name of the source, which is that of the file.
    """

    def __init__(self, source):
        self.text = yaml.safe_load((FOLDER / f"{source}.yaml").read_text(encoding="utf-8"))
        self.openapi = OpenAPI.from_dict(self.text)
        self.url = self.text["servers"][0]["url"]
        self.requests = []  # all that were checked

    @property
    def operations(self):
        """Return the names of all operations."""
        entries = [entry for path in self.text["paths"].values() for entry in path.values()]
        return {entry["operationId"] for entry in entries if "operationId" in entry}

    def transport(self, answer):
        """Return a transport that checks each request, and the response that ``answer`` makes of it."""

        def checked(request):
            self.check_request(request)
            response = answer(request)
            self.check_response(request, response)
            return response

        return httpx.MockTransport(checked)

    def check_request(self, request):
        """Raise if a request is not as the document has it, or says more than is declared."""
        self.requests.append(request)
        result = self.openapi.unmarshal_request(self._wrapped(request))
        result.raise_for_errors()
        given = [name for name, _ in request.url.params.multi_items()]
        assert sorted(given) == sorted(result.parameters.query), f"twice, or not declared: {request.url}"

    def check_response(self, request, response):
        """Raise if a response is none that the document has for a request; any body may be missing."""
        if not response.content:
            return
        media = response.headers.get("content-type", "").split(";")[0]
        headers = dict(response.headers)
        wrapped = MockResponse(response.content, response.status_code, headers, media)
        self.openapi.validate_response(self._wrapped(request), wrapped)

    def _wrapped(self, request):
        url = str(request.url.copy_with(raw_path=b"/")).rstrip("/")
        return MockRequest(
            url, request.method, request.url.path, args=dict(request.url.params),
            headers=dict(request.headers), data=request.content,
        )  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A response of the folder: what it answers, with which status."""

    path: Path
    operation: str
    status: int

    def __str__(self):
        return self.path.name

    @property
    def body(self):
        """Return the document in it."""
        return json.loads(self.path.read_text(encoding="utf-8"))

    def response(self, *_):
        """Return it as a server gives it."""
        media = {".json": "application/json", ".html": "text/html", ".txt": "text/plain"}[self.path.suffix]
        return httpx.Response(self.status, content=self.path.read_bytes(), headers={"content-type": media})


def examples(source):
    """Return all responses that stand in the folder of a source."""
    found = []
    for path in sorted((FOLDER / "responses" / source).iterdir()):
        operation, *_ = path.stem.split("-")
        status = re.search(r"-(\d{3})$", path.stem)
        found.append(Example(path, operation, int(status[1]) if status else 200))
    return found
