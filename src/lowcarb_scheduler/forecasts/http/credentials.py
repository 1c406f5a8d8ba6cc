"""Credentials of sources: checked, and never shown."""

from __future__ import annotations

from typing import Final

from pydantic import SecretStr

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.settings import secret_fix

_SEPARATORS: Final = "\r\n"  # what a file or a shell leaves at the end


def credential(given: str | SecretStr | None, setting: str) -> str:
    """Return a user name or password.

    Parameters
    ----------
    given : str or SecretStr or None
        What was given for it.
    setting : str
        The field of the settings it belongs to, for example ``watttime_user``.

    Raises
    ------
    InputError
        If there is none; it names the variable to set.
    """
    text = given.get_secret_value() if isinstance(given, SecretStr) else given
    text = text.strip(_SEPARATORS) if isinstance(text, str) else ""
    if not text.strip():
        raise InputError(setting.replace("_", "-"), "is not set", secret_fix(setting))
    return text


def token(given: str | SecretStr | None, setting: str) -> str:
    """Return a token, which is sent as a header of its own.

    Raises
    ------
    InputError
        If there is none, or it cannot be one; it names the variable to set and does not show the token.
    """
    text = credential(given, setting)
    if not (text.isascii() and text.isprintable()) or " " in text:
        problem = "has characters that no token has, for example a space"
        raise InputError(setting.replace("_", "-"), problem, secret_fix(setting))
    return text
