"""Keeping secrets out of what is shown: a server may echo what it was sent."""

from __future__ import annotations

import base64
import html
import json
import re
import string
from functools import cached_property
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

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
