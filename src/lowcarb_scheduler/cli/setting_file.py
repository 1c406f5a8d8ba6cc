"""SETTING: what kind of job a backtest replays, by name or from a TOML file."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.backtest import SETTINGS, Setting
from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.source import unknown_name

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYS: Final = ("locations", "clients", "clients_per_round", "rounds", "round_duration_minutes")
_MOST: Final = {"clients": 1_000_000, "clients_per_round": 1_000_000, "rounds": 100_000,
                "round_duration_minutes": 10_080}  # fmt: skip
_FIELD: Final = {"round_duration": "round_duration_minutes"}


def read_setting(given: str) -> Setting:
    """Return a setting by its name, or from a file.

    Parameters
    ----------
    given : str
        ``main``, ``small``, ``large``, or the path of a TOML file with the keys ``locations``, ``clients``,
        ``clients_per_round``, ``rounds`` and ``round_duration_minutes``.

    Raises
    ------
    InputError
        If there is none of that name, or the file is wrong; names file, field and fix.
    """
    if given in SETTINGS:
        return SETTINGS[given]
    path = Path(given)
    if path.suffix.lower() != ".toml":
        error = unknown_name("--setting", given, SETTINGS)
        raise InputError(error.field, error.problem, f"{error.fix}, or give a .toml file")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError("--setting", f"{path} cannot be read ({error.strerror})", "give a file") from None
    except ValueError as error:
        raise InputError("--setting", f"{path} is not TOML ({error})", "correct it there") from None
    try:
        return _setting(document, path.stem)
    except InputError as error:
        raise InputError(_FIELD.get(error.field, error.field), error.problem, error.fix, str(path)) from None


def _setting(document: Mapping[str, Any], name: str) -> Setting:
    for key in document:
        if key not in KEYS:
            raise unknown_name(key, key, KEYS)
    for key in KEYS:
        if key not in document:
            raise InputError(key, "is missing", f"add {key} to the setting")
    locations = document["locations"]
    if not isinstance(locations, list) or not all(isinstance(each, str) and each for each in locations):
        raise InputError("locations", "is not a list of names", 'give for example ["DE", "FR"]')
    numbers = {key: _number(document[key], key) for key in KEYS[1:]}
    minutes = numbers.pop("round_duration_minutes")
    return Setting(name, tuple(locations), **numbers, round_duration=timedelta(minutes=minutes))


def _number(value: object, key: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MOST[key]:
        problem = f"{value!r} is not a whole number from 1 to {_MOST[key]}"
        raise InputError(key, problem, "give for example 60" if "minutes" in key else "give for example 10")
    return value
