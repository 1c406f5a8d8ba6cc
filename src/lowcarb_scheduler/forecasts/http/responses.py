"""What a server answers, and what is to be said of it where it is no use."""

from __future__ import annotations

import base64
import html
import json
import math
import re
import string
import zlib
from dataclasses import dataclass
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from datetime import datetime

    import httpx

MAX_BODY_BYTES: Final = 32 * 2**20  # decompressed; a day of five-minute points is 40 kB
_TEXTS: Final = ("title", "detail", "error", "message")
_MOST_SHOWN: Final = 40  # characters of a body that is not what it should be
_MOST_READ: Final = 10_000  # characters of a refusal


class FetchError(Exception):
    """A request that came to nothing.

    Parameters
    ----------
    why : str
        The reason, in one plain line.
    status : int, optional
        The status of a refusal.
    again : bool
        Whether it may pass: asking again makes sense.
    not_before : datetime, optional
        Until when the server wants to be left alone.
    unreachable : bool
        Whether no connection came about, so that other requests will fail as well.
    """

    def __init__(
        self,
        why: str,
        *,
        status: int | None = None,
        again: bool = False,
        not_before: datetime | None = None,
        unreachable: bool = False,
    ) -> None:
        self.why, self.status, self.again = why, status, again
        self.not_before, self.unreachable = not_before, unreachable
        super().__init__(why)

    def masked(self, redaction: Redaction) -> FetchError:
        """Return the same error without any secret in its reason."""
        return FetchError(
            redaction.mask(self.why), status=self.status, again=self.again,
            not_before=self.not_before, unreachable=self.unreachable,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: a status of success, and the body."""

    status: int
    content_type: str
    body: bytes

    @property
    def is_page(self) -> bool:
        """Whether it is a web page: a proxy's, or that of another server."""
        return "html" in self.content_type or self.body.lstrip()[:1] == b"<"

    def text(self) -> str:
        """Return the body as text.

        Raises
        ------
        FetchError
            If it is a web page or empty.
        """
        if self.is_page:
            raise FetchError("answered with a web page; is the URL right?")
        if not self.body.strip():
            raise FetchError(f"answered {self.status} with an empty body")
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the document in the body.

        Raises
        ------
        FetchError
            If it is none.
        """
        text = self.text()
        try:
            return json.loads(text)
        except (ValueError, RecursionError):  # a part of it, a number without end, lists in lists without end
            shown = one_line(text, _MOST_SHOWN)
            raise FetchError(f"answered with something that is not JSON: {shown!r}") from None


def read_answer(response: httpx.Response, check: Callable[[], None]) -> Response:
    """Read the body of a response.

    Parameters
    ----------
    response : httpx.Response
        Open, its body not read.
    check : callable
        Raises when there is no time left; called at every piece.

    Raises
    ------
    FetchError
        If it is too large, or compressed in a way that was not asked for.
    """
    body = bytearray()
    for piece in _pieces(response):
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise FetchError(f"its answer is larger than {MAX_BODY_BYTES // 2**20} MB")
        check()
    return Response(response.status_code, response.headers.get("content-type", "").lower(), bytes(body))


def _pieces(response: httpx.Response) -> Iterator[bytes]:
    """Yield the body decompressed, no more than a little over the cap: a small body can hide a huge one."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if response.is_stream_consumed:  # a transport that had the body at once
        yield response.content
    elif encoding in ("gzip", "x-gzip", "deflate"):
        yield from _inflate(response.iter_raw())
    elif encoding in ("", "identity"):
        yield from response.iter_raw()
    else:
        shown = one_line(encoding, _MOST_SHOWN)
        raise FetchError(f"its answer is compressed as {shown!r}, which was not asked for")


def _inflate(compressed: Iterable[bytes]) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, whichever it is
    for piece in compressed:
        yield decompressor.decompress(piece, MAX_BODY_BYTES + 1)


def problem(answer: Response, redaction: Redaction) -> str:
    """Return what a refusal says, in one line without secrets."""
    if not answer.body.strip():
        return "with an empty body"
    if answer.is_page:
        return "with a web page"
    try:
        text = _of_problem(answer.json())
    except FetchError:
        text = answer.body.decode("utf-8", "replace")
    return one_line(redaction.mask(text[:_MOST_READ]))


def _of_problem(document: Any) -> str:
    """Return the texts of a refusal, all of it where there are none."""
    fields = document if isinstance(document, dict) else {}
    if isinstance(fields.get("error"), dict):  # as the UK's: {"error": {"code", "message"}}
        fields = fields["error"]
    parts = [fields[key] for key in _TEXTS if isinstance(fields.get(key), str)]
    errors = fields.get("errors")
    for key, messages in errors.items() if isinstance(errors, dict) else ():
        if key != "stackTrace":
            text = ", ".join(map(str, messages)) if isinstance(messages, list) else str(messages)
            parts.append(f"{key}: {text}")
    return "; ".join(parts) or json.dumps(document)


def retry_after(headers: Mapping[str, str], now: datetime) -> datetime | None:
    """Return until when a server asks to be left alone, in seconds or with a date; None where it does not."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        if (until := http_date(text)) is None:
            return None
        seconds = (until - (http_date(headers.get("date", "")) or now)).total_seconds()  # by its own clock
    if not math.isfinite(seconds):
        return None
    return now + timedelta(seconds=min(max(seconds, 0.0), timedelta(days=1).total_seconds()))


def http_date(text: str) -> datetime | None:
    """Return the time that a header tells, None if it tells none."""
    try:
        when = parsedate_to_datetime(text)
        return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# -- Keeping secrets out of what is shown: a server may echo what it was sent -------------------------------

MASK: Final = "***"
_SHORT: Final = 4  # a secret of fewer characters is masked only where it is a word of its own
_NEVER_ESCAPED: Final = frozenset(string.ascii_letters + string.digits + "-_.")
_CUT: Final = "…"  # ends a text that was too long


class Redaction:
    """Masks secrets wherever they stand in a text.

    Parameters
    ----------
    headers : iterable of str
        The values of the headers that are secret, as they are sent. Masked are the whole value, what follows
        its scheme, and of ``Basic`` credentials the user name and the password; all of them also in base64,
        and as JSON, URLs, HTML and Python write them.
    """

    def __init__(self, headers: Iterable[str]) -> None:
        plain = {part for value in headers for part in _parts(value) if part}
        coded = {base64.b64encode(part.encode(errors="surrogatepass")).decode().rstrip("=") for part in plain}
        self._secrets = sorted(plain | coded, key=len, reverse=True)  # the longest first: others are in it

    @cached_property  # rarely is anything masked
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_pattern, self._secrets)), re.IGNORECASE)

    def mask(self, text: str) -> str:
        """Return a text without the secrets, nor the beginning of one at which it was cut off."""
        if not self._secrets:
            return text
        *cut_off, end = self._pattern.sub(MASK, text).split(_CUT)
        return _CUT.join([*map(self._without_beginning, cut_off), end])

    def _without_beginning(self, text: str) -> str:
        """Return a text without the beginning of a secret at its end."""
        for secret in self._secrets:
            for length in range(len(secret) - 1, _SHORT - 1, -1):
                if text.endswith(secret[:length]):
                    return text.removesuffix(secret[:length]) + MASK
        return text


def _parts(header: str) -> Iterator[str]:
    """Yield what is secret in the value of a header."""
    yield header
    scheme, _, credentials = header.partition(" ")
    yield credentials
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(credentials).decode().partition(":")
        except ValueError:
            return
        yield from (f"{user}:{password}", user, password)


def _pattern(secret: str) -> str:
    """Return what matches a secret, however its characters are written."""
    pattern = "".join(map(_written, secret))
    return rf"(?<!\w){pattern}(?!\w)" if len(secret) < _SHORT else pattern


def _written(character: str) -> str:
    """Return what matches a character as it is, in JSON, in Python, in a URL and in HTML."""
    if character in _NEVER_ESCAPED:
        return re.escape(character)
    if character.isspace():
        return r"(?:\s|\+|%20)+"
    code = ord(character)
    url = "".join(f"%{byte:02x}" for byte in character.encode(errors="surrogatepass"))
    forms = {character, json.dumps(character)[1:-1], ascii(character)[1:-1], url, html.escape(character),
             f"\\u{code:04x}", f"\\x{code:02x}", f"&#{code};", f"&#x{code:x};"}  # fmt: skip
    if character in "/'":
        forms.add(f"\\{character}")
    return f"(?:{'|'.join(map(re.escape, sorted(forms, key=len, reverse=True)))})"
