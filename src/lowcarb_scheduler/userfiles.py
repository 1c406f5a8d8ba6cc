"""Files that users write in TOML or JSON: reading, and validation by pydantic models.

An error names the field by its place in the file, for example ``clients[3].power_watts``, and the file.
"""

from __future__ import annotations

import errno
import json
import tomllib
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from lowcarb_scheduler.clock import in_range, parse_deadline, parse_duration, parse_time, to_utc
from lowcarb_scheduler.errors import InputError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LONGEST_MINUTES: Final = 10 * 366 * 24 * 60
MOST_COLUMNS: Final = 1_000
_LONGEST_HEADER: Final = 1 << 20  # bytes
Parsed = TypeVar("Parsed")
Model = TypeVar("Model", bound="FileModel")


class FieldError(ValueError):
    """Problem of a field, raised by a validator; pydantic adds the place of the field.

    Parameters
    ----------
    problem, fix : str
        As in :class:`~lowcarb_scheduler.errors.InputError`.
    key : str, optional
        The key at fault inside the table that is validated.
    """

    def __init__(self, problem: str, fix: str, key: str | None = None) -> None:
        self.problem, self.fix, self.key = problem, fix, key
        super().__init__(f"{problem}; {fix}")


class FileModel(BaseModel):
    """Base of the models of files: unknown keys are refused, and a JSON null counts as not given.

    Attributes
    ----------
    in_minutes : tuple of str
        Durations that older files give as a number, under the name with ``_minutes``.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)
    in_minutes: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value  # pydantic refuses it
        older = {f"{name}_minutes": name for name in cls.in_minutes}
        known = (*cls.model_fields, *older)
        for key in value:
            if key not in known:
                error = unknown_name(key, key, known)
                raise FieldError(error.problem, error.fix, key)
        given = {key: each for key, each in value.items() if each is not None}
        for key, name in older.items():
            if key in given and name in given:
                raise FieldError(f"is given beside {name}", "leave one of them out", key)
            if key in given:
                given[name] = _minutes(given.pop(key), key)
        return given


def validate(model: type[Model], document: dict[str, Any], file: str) -> Model:
    """Build a model from a file's content.

    Raises
    ------
    InputError
        For the first field at fault.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        cause, place = first.get("ctx", {}).get("error"), first["loc"]
        if isinstance(cause, FieldError):
            problem, fix = cause.problem, cause.fix
            place += () if cause.key is None else (cause.key,)
        elif first["type"] == "missing":
            problem, fix = "is missing", f"add {place[-1]}"
        else:
            problem, fix = f"{first['input']!r:.80} is not valid ({first['msg']})", "correct it there"
        raise InputError(_label(place), problem, fix, file) from None


def _label(place: tuple[int | str, ...]) -> str:
    """Return a place in a document as ``clients[3].power_watts``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return "".join(parts).removeprefix(".")


def check_regular(path: Path) -> Path:
    """Return the path of an input file that can be read to its end.

    Raises
    ------
    OSError
        If it is a pipe or a device, from which reading may never end.
    """
    if path.exists() and not path.is_file() and not path.is_dir():  # a folder fails when it is opened
        raise OSError(errno.EINVAL, "it is no regular file")
    return path


def check_width(path: Path) -> Path:
    """Return the path of a CSV file that has no absurd number of columns, each of which costs time.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, or has more columns.
    """
    with check_regular(path).open("rb") as file:
        columns = file.readline(_LONGEST_HEADER).count(b",") + 1
    if columns > MOST_COLUMNS:
        raise ValueError(f"it has more than {MOST_COLUMNS} columns")
    return path


def read_document(path: Path, option: str, content: str) -> dict[str, Any]:
    """Read a file as JSON if its name or its first character is JSON's, else as TOML.

    Parameters
    ----------
    path : Path
        The file.
    option : str
        The option that names the file, for errors.
    content : str
        The kind of document, for errors: ``job``.

    Raises
    ------
    InputError
        If the file is unreadable, or is not a TOML or JSON table.
    """
    try:
        text = check_regular(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        problem = f"{path} cannot be read ({error.strerror})"
        raise InputError(option, problem, f"give a {content} file") from None
    except UnicodeDecodeError:
        raise InputError(option, f"{path} is not UTF-8 text", "give a TOML or JSON file") from None
    is_json = path.suffix.lower() == ".json" or text.lstrip().startswith("{")
    try:
        document = (
            json.loads(text, object_pairs_hook=_without_repeated_keys) if is_json else tomllib.loads(text)
        )
    except (ValueError, RecursionError) as error:  # deep nesting exhausts the stack of both parsers
        kind = "JSON" if is_json else "TOML"
        raise InputError(option, f"{path} is not {kind} ({error})", "correct it there") from None
    if not isinstance(document, dict):
        raise InputError(option, f"{path} is not a {content}", "give a table of keys and values")
    return document


def _without_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object and refuse a repeated key, as TOML does; Python's parser would keep the last."""
    built = dict(pairs)
    if len(built) < len(pairs):
        twice = next(key for k, (key, _) in enumerate(pairs) if key in dict(pairs[:k]))
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return built


# -- Types of fields ---------------------------------------------------------------------------------------


def parsed(parse: Callable[[Any, str], Parsed], value: object) -> Parsed:
    """Parse a value inside a validator, where pydantic knows the name of the field."""
    try:
        return parse(value, "")
    except InputError as error:
        raise FieldError(error.problem, error.fix) from None


def _time(value: object) -> datetime:
    if isinstance(value, datetime):  # TOML has a type for times
        return parsed(in_range, parsed(to_utc, value))
    if isinstance(value, str):
        return parsed(in_range, parsed(parse_time, value))
    fix = "write ISO 8601 with an offset, for example 2026-01-31T18:00Z"
    raise FieldError(f"{value!s} is not a time", fix)


def _deadline(value: object) -> datetime | timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str):
        deadline = parsed(parse_deadline, value)
        return deadline if isinstance(deadline, timedelta) else parsed(in_range, deadline)
    if isinstance(value, datetime):
        return parsed(in_range, parsed(to_utc, value))
    fix = 'give a time with an offset, or a duration such as "48h"'
    raise FieldError(f"{value!s} is neither a time nor a duration", fix)


def _duration(value: object) -> timedelta:
    # A number of minutes is converted already, and settings are given in code, too.
    return value if isinstance(value, timedelta) else parsed(parse_duration, value)


def _minutes(value: object, key: str) -> timedelta:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST_MINUTES:
        raise FieldError(f"{value!r} is not a number of minutes", "give for example 30", key)
    return timedelta(minutes=value)


Time = Annotated[datetime, BeforeValidator(_time)]
Deadline = Annotated[datetime | timedelta, BeforeValidator(_deadline)]
Duration = Annotated[timedelta, BeforeValidator(_duration)]


def as_spelled(field: str, document: dict[str, Any]) -> str:
    """Return the key by which a document gives a field: ``x``, or ``x_minutes`` of older files."""
    older = f"{field}_minutes"
    return older if document.get(older) is not None else field
