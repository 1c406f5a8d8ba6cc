"""Responses of a server, the errors they amount to, and the redaction of secrets in both."""

from __future__ import annotations

import base64
import html
import json
import math
import re
import string
import zlib
from dataclasses import KW_ONLY, dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    import httpx

MAX_BODY_BYTES: Final = 32 * 2**20  # decompressed; a day of five-minute points is 40 kB
_MESSAGE_FIELDS: Final = ("title", "detail", "error", "message")
_MAX_SHOWN: Final = 40  # characters of an unexpected body that an error shows
_MAX_MASKED: Final = 10_000  # characters of an error response; masking a megabyte takes seconds
_MAX_RETRY_AFTER: Final = timedelta(days=1)


@dataclass(eq=False)
class FetchError(Exception):
    """Failed request.

    Parameters
    ----------
    why : str
        Reason in one plain line.
    status : int, optional
        Status of an error response.
    again : bool (default: False)
        Whether a retry may succeed.
    not_before : datetime, optional
        Earliest time of a retry that the server accepts.
    unreachable : bool (default: False)
        Whether no connection came about, so that other requests fail as well.
    """

    why: str
    _: KW_ONLY
    status: int | None = None
    again: bool = False
    not_before: datetime | None = None
    unreachable: bool = False

    def __str__(self) -> str:
        return self.why

    def masked(self, redaction: Redaction) -> FetchError:
        """Return the error with the secrets in its reason masked."""
        return replace(self, why=redaction.mask(self.why))


class LoginError(FetchError):
    """Failed login: the request itself was not sent, so it shows nothing about its place."""


@dataclass(frozen=True, slots=True)
class Response:
    """Response that was read completely.

    Parameters
    ----------
    status : int
        HTTP status.
    content_type : str
        Media type in lower case.
    body : bytes
        Body, decompressed.
    """

    status: int
    content_type: str
    body: bytes

    @property
    def is_html(self) -> bool:
        """True if the body is a web page: that of a proxy or of another server."""
        return "html" in self.content_type or self.body.lstrip()[:1] == b"<"

    def text(self) -> str:
        """Return the body as text.

        Raises
        ------
        FetchError
            If the body is a web page or empty.
        """
        if self.is_html:
            raise FetchError("answered with a web page; is the URL right?")
        if not self.body.strip():
            raise FetchError(f"answered {self.status} with an empty body")
        return self.body.decode("utf-8", "replace")

    def json(self) -> Any:
        """Return the JSON document in the body.

        Raises
        ------
        FetchError
            If the body is not JSON.
        """
        text = self.text()
        try:
            return json.loads(text)
        except (ValueError, RecursionError):  # cut off, a number with too many digits, or nested too deeply
            shown = one_line(text, _MAX_SHOWN)
            raise FetchError(f"answered with something that is not JSON: {shown!r}") from None


def read_response(response: httpx.Response, check: Callable[[], object]) -> Response:
    """Read the body of a response.

    Parameters
    ----------
    response : httpx.Response
        Open response whose body is not read yet.
    check : callable
        Function that raises FetchError if no time is left; called at every chunk.

    Raises
    ------
    FetchError
        If the body is too large, or compressed in a way that was not asked for.
    """
    body = bytearray()
    for chunk in _chunks(response):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise FetchError(f"its response is larger than {MAX_BODY_BYTES // 2**20} MB")
        check()
    return Response(response.status_code, response.headers.get("content-type", "").lower(), bytes(body))


def _chunks(response: httpx.Response) -> Iterator[bytes]:
    """Yield the decompressed body in chunks."""
    encoding = response.headers.get("content-encoding", "identity").strip().lower()
    if response.is_stream_consumed:  # a mock transport hands over the body at once
        yield response.content
    elif encoding in ("gzip", "x-gzip", "deflate"):
        yield from _inflate(response.iter_raw())
    elif encoding in ("", "identity"):
        yield from response.iter_raw()
    else:
        shown = one_line(encoding, _MAX_SHOWN)
        raise FetchError(f"its response is compressed as {shown!r}, which was not asked for")


def _inflate(compressed: Iterable[bytes]) -> Iterator[bytes]:
    decompressor = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: detect gzip or zlib by the header
    for chunk in compressed:
        # The limit keeps a small body that expands to gigabytes from filling the memory.
        yield decompressor.decompress(chunk, MAX_BODY_BYTES + 1)


def error_message(response: Response, redaction: Redaction) -> str:
    """Return the message of an error response in one line without secrets."""
    if not response.body.strip():
        return "with an empty body"
    if response.is_html:
        return "with a web page"
    try:
        text = _message_of(response.json())
    except FetchError:
        text = response.body.decode("utf-8", "replace")
    return one_line(redaction.mask(text[:_MAX_MASKED]))


def _message_of(document: Any) -> str:
    """Return the message in an error document, or all of the document if it has none.

    Read are the problem details of RFC 9457 [1]_, the ``errors`` that ASP.NET adds to them, and a nested
    ``error`` as the UK's Carbon Intensity API sends it.

    References
    ----------
    .. [1] M. Nottingham et al., "Problem Details for HTTP APIs", RFC 9457 (2023).
    """
    fields = document if isinstance(document, dict) else {}
    if isinstance(fields.get("error"), dict):
        fields = fields["error"]
    parts = [fields[key] for key in _MESSAGE_FIELDS if isinstance(fields.get(key), str)]
    errors = fields.get("errors")
    for key, messages in errors.items() if isinstance(errors, dict) else ():
        if key != "stackTrace":
            text = ", ".join(map(str, messages)) if isinstance(messages, list) else str(messages)
            parts.append(f"{key}: {text}")
    return "; ".join(parts) or json.dumps(document)


def retry_after(headers: Mapping[str, str], now: datetime) -> datetime | None:
    """Return the time in a Retry-After header, which holds seconds or a date; None without a valid one."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        if (until := parse_http_date(text)) is None:
            return None
        # Both dates are by the server's clock, which may be wrong; the difference is right.
        seconds = (until - (parse_http_date(headers.get("date", "")) or now)).total_seconds()
    if not math.isfinite(seconds):
        return None
    return now + timedelta(seconds=min(max(seconds, 0.0), _MAX_RETRY_AFTER.total_seconds()))


def parse_http_date(text: str) -> datetime | None:
    """Parse the date of a header, None if it is not one."""
    try:
        when = parsedate_to_datetime(text)
        return when.replace(tzinfo=when.tzinfo or UTC).astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


# -- Redaction: a server may echo the secrets it was sent ----------------------------------------------------

MASK: Final = "***"
_SHORT: Final = 4  # a shorter secret is masked only as a whole word, or it would mask parts of any text
_NEVER_ESCAPED: Final = frozenset(string.ascii_letters + string.digits + "-_.")
_ELLIPSIS: Final = "…"  # end of a text that was cut off


class Redaction:
    """Filter that masks secrets in texts.

    Parameters
    ----------
    headers : iterable of str
        Values of the secret headers, as they are sent. Masked are the whole value, the credentials after its
        scheme, and the user name and the password of ``Basic`` credentials; all of them also in base64, and
        with the escapes of JSON, URLs, HTML and Python.
    """

    def __init__(self, headers: Iterable[str]) -> None:
        plain = {part for value in headers for part in _secrets_in(value) if part}
        coded = {base64.b64encode(part.encode(errors="surrogatepass")).decode().rstrip("=") for part in plain}
        # The longest first: a shorter one may be a part of it.
        self._secrets = sorted(plain | coded, key=len, reverse=True)

    @cached_property  # most batches never mask anything
    def _pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(_pattern_of, self._secrets)), re.IGNORECASE)

    def mask(self, text: str) -> str:
        """Mask the secrets in a text, and the beginning of one where the text was cut off."""
        if not self._secrets:
            return text
        *cut_off, end = self._pattern.sub(MASK, text).split(_ELLIPSIS)
        return _ELLIPSIS.join([*map(self._mask_end, cut_off), end])

    def _mask_end(self, text: str) -> str:
        """Mask the beginning of a secret at the end of a text."""
        for secret in self._secrets:
            for length in range(len(secret) - 1, _SHORT - 1, -1):
                if text.endswith(secret[:length]):
                    return text.removesuffix(secret[:length]) + MASK
        return text


def _secrets_in(header: str) -> Iterator[str]:
    """Yield the secrets in the value of a header."""
    yield header
    scheme, _, credentials = header.partition(" ")
    yield credentials
    if scheme.lower() == "basic":
        try:
            user, _, password = base64.b64decode(credentials).decode().partition(":")
        except ValueError:
            return
        yield from (f"{user}:{password}", user, password)


def _pattern_of(secret: str) -> str:
    """Return a pattern for a secret in any of its escaped forms."""
    pattern = "".join(map(_escaped_forms, secret))
    return rf"(?<!\w){pattern}(?!\w)" if len(secret) < _SHORT else pattern


def _escaped_forms(character: str) -> str:
    """Return a pattern for a character as it is, and as JSON, Python, URLs and HTML escape it."""
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
