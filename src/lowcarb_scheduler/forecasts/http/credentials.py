"""Validation of credentials, which never shows them."""

from __future__ import annotations

from typing import Final

from pydantic import SecretStr

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.settings import secret_fix

_LINE_ENDS: Final = "\r\n"  # a file or a shell leaves them at the end of a secret


def credential(given: str | SecretStr | None, setting: str) -> str:
    """Return a user name or password as text.

    Parameters
    ----------
    given : str or SecretStr or None
        Value of the setting.
    setting : str
        Field of the settings, for example ``watttime_user``.

    Raises
    ------
    InputError
        If the value is missing; the error names the variable to set.
    """
    text = given.get_secret_value() if isinstance(given, SecretStr) else given
    text = text.strip(_LINE_ENDS) if isinstance(text, str) else ""
    if not text.strip():
        raise InputError(setting.replace("_", "-"), "is not set", secret_fix(setting))
    return text


def token(given: str | SecretStr | None, setting: str) -> str:
    """Return a token as text that can be sent in a header.

    Raises
    ------
    InputError
        If the token is missing or has characters of no token; the error names the variable to set.
    """
    text = credential(given, setting)
    if not (text.isascii() and text.isprintable()) or " " in text:
        problem = "has characters that no token has, for example a space"
        raise InputError(setting.replace("_", "-"), problem, secret_fix(setting))
    return text
