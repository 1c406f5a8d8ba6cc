"""The settings: which are given, where each is written, and whether they can be."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lowcarb_scheduler.clock import format_duration, format_time
from lowcarb_scheduler.doctor.check import Check
from lowcarb_scheduler.errors import InputError, near_miss, one_line
from lowcarb_scheduler.settings import ENVIRONMENT_PREFIX, SECRETS, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_SETTINGS: Final = frozenset({"SECRETS_DIR", "TRACEBACK", "UTC"})  # variables of ours that are none


class Configuration(NamedTuple):
    """What was found.

    Parameters
    ----------
    settings : Settings or None
        Those that can be, the others at their defaults; None where none can be read.
    checks : list of Check
        One for each that is given.
    """

    settings: Settings | None
    checks: list[Check]


def check_settings(options: Mapping[str, Any]) -> Configuration:
    """Read the settings; one that is impossible leaves the others standing.

    Parameters
    ----------
    options : mapping
        What is given on the command line, by field name; None is not given.

    Raises
    ------
    InputError
        If one of these is impossible.
    """
    checks: list[Check] = []
    impossible: list[str] = []
    while True:
        try:
            settings = Settings.load(options=options, unset=impossible)
            break
        except InputError as error:
            field = error.field.removeprefix(ENVIRONMENT_PREFIX).lower()
            if error.field.startswith("--"):
                raise
            if field not in Settings.model_fields or field in impossible:
                return Configuration(None, [Check("settings", "fault", str(error), error.fix)])
            impossible.append(field)
            checks.append(Check(_name(field), "fault", error.problem, error.fix))
    for field, origin in sorted(Settings.origins(options=options).items()):
        if field not in impossible:
            checks.append(Check(_name(field), "ok", f"{_value(settings, field)} ({origin})"))
    if not checks:
        checks.append(Check("settings", "ok", "none is given: all have their defaults"))
    return Configuration(settings, checks + _misspelt())


def _misspelt() -> list[Check]:
    """Return a warning for each variable that is named like a setting and is none."""
    known = [ENVIRONMENT_PREFIX + field.upper() for field in Settings.model_fields]
    checks = []
    for variable in sorted(os.environ):
        name = variable.upper()
        if not name.startswith(ENVIRONMENT_PREFIX) or name in known:
            continue
        if name.removeprefix(ENVIRONMENT_PREFIX) in _NO_SETTINGS:
            continue
        near = near_miss(name, known)
        fix = f"did you mean {near}?" if near else "remove it"
        checks.append(Check("settings", "warning", f"{one_line(variable)} is no setting", fix))
    return checks


def _value(settings: Settings, field: str) -> str:
    """Return what a setting is, as people read it; of a secret only that there is one."""
    value = getattr(settings, field)
    if field in SECRETS:
        return "set"
    if isinstance(value, timedelta):
        return format_duration(value)
    return format_time(value) if isinstance(value, datetime) else one_line(str(settings.shown()[field]))


def _name(field: str) -> str:
    return f"setting {field.replace('_', '-')}"
