"""The locations file: one reader of it, and what it says of the names that sources have for a place."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import InputError
from lowcarb_scheduler.forecasts.source import unknown_name

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

NAMES: Final = "names"  # the table of names: no node can be called so
_FIX: Final = 'write [names.DE] and below it lines like carbon-aware-sdk = "germanywestcentral"'


def read_locations(path: Path) -> dict[str, Any]:
    """Return what stands in a locations file.

    Raises
    ------
    InputError
        If it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = f"{path.absolute()} cannot be read ({error.strerror})"
        raise InputError("lowcarb-locations", problem, "give the absolute path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        fix = 'write lines like 0 = "DE"'
        raise InputError("locations", f"is not TOML ({error})", fix, str(path)) from None


def read_names(path: Path, sources: Collection[str]) -> dict[str, dict[str, str]]:
    """Return what each source calls the places of a locations file that it calls otherwise.

    Parameters
    ----------
    path : Path
        The file: under ``[names.PLACE]`` lines of a source and its name for that place.
    sources : collection of str
        The sources there are.

    Returns
    -------
    dict of str to dict
        By source, its name of each place.

    Raises
    ------
    InputError
        If it cannot be read, or names are not written like that.
    """
    file, names = str(path), read_locations(path).get(NAMES, {})
    by_source: dict[str, dict[str, str]] = {}
    for place, entry in _table(NAMES, names, file).items():
        for source, name in _table(f"{NAMES}.{place}", entry, file).items():
            if source not in sources:
                raise unknown_name(f"{NAMES}.{place}", source, sources).within(file)
            if not isinstance(name, str) or not name.strip():
                raise InputError(f"{NAMES}.{place}.{source}", f"{name!r} is no name", _FIX, file)
            by_source.setdefault(source, {})[place] = name
    return by_source


def _table(field: str, entry: object, file: str) -> Mapping[str, Any]:
    if not isinstance(entry, dict):
        raise InputError(field, "is not a table of names", _FIX, file)
    return entry
