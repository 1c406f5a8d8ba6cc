"""What of a strategy is state: the attributes that have changed since it was started, and nothing else.

What has not changed is configuration, and that of a run that goes on is what its app is written with now.
"""

from __future__ import annotations

import functools
import logging
import re
import types
from datetime import date, timedelta
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.flower.encoding import CannotEncodeError, Encoder, decode
from lowcarb_scheduler.flower.grid import layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_OURS: Final = "_lowcarb_"
_BEHIND: Final = "strategy"  # the attribute with which a strategy wraps another one
_STATELESS: Final = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type,
    functools.partial, logging.Logger, PurePath, Enum, date, timedelta, re.Pattern,
)  # fmt: skip


class StrategyState:
    """The state of a strategy and of those it wraps. Made before the strategy is started.

    Parameters
    ----------
    strategy : Strategy
        Any.
    """

    def __init__(self, strategy: object) -> None:
        self._strategy = strategy
        self._at_first: dict[str, tuple[str | None, list[object]]] = {}
        for path, _, _, value in self._attributes():
            self._at_first[path] = _fingerprint(value)

    def missing(self) -> list[str]:
        """Return what cannot be kept: attributes, each with its type, that may hold state of their own."""
        problems = []
        for path, _, _, value in self._attributes():
            try:
                if self._is_state(path, value):
                    _encode(value, path, Encoder())
            except CannotEncodeError as error:
                problems.append(str(error))
        return problems

    def encode(self, encoder: Encoder) -> dict[str, Any]:
        """Return the JSON form of each attribute that is state; what cannot be kept is left out."""
        trees = {}
        for path, _, _, value in self._attributes():
            if self._is_state(path, value):
                try:
                    trees[path] = _encode(value, f"{_BEHIND}/{path}", encoder)
                except CannotEncodeError:
                    continue
        return trees

    def restore(self, trees: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Set the attributes that :meth:`encode` has returned.

        Raises
        ------
        InputError
            If an object does not take its state back.
        ValueError
            If the strategy has no such attribute.
        """
        by_path = {path: (owner, name, value) for path, owner, name, value in self._attributes()}
        chain = list(layers(self._strategy))
        for path, tree in trees.items():
            *outer, name = path.split(".")
            if len(outer) >= len(chain):
                raise ValueError(f"has an attribute {path}, the strategy has not")
            if isinstance(tree, dict) and "state" in tree:
                if path not in by_path or not _has_state_dict(by_path[path][2]):
                    raise ValueError(f"has the state of {path}, the strategy has not")
                _load(by_path[path][2], path, decode(tree["state"], arrays))
            else:
                setattr(chain[len(outer)], name, decode(tree, arrays))

    def _is_state(self, path: str, value: object) -> bool:
        """Return whether an attribute has changed; it is not looked at again once it has."""
        if _has_state_dict(value):
            return True
        fingerprint, _ = self._at_first.get(path, (None, ()))
        if fingerprint is None or _fingerprint(value)[0] != fingerprint:
            self._at_first.pop(path, None)
            return True
        return False

    def _attributes(self) -> Iterator[tuple[str, object, str, Any]]:
        """Yield path, owner, name and value of each attribute."""
        for depth, layer in enumerate(layers(self._strategy)):
            for name, value in list(getattr(layer, "__dict__", {}).items()):
                if not name.startswith(_OURS) and not (name == _BEHIND and hasattr(value, "__dict__")):
                    yield ".".join([*[_BEHIND] * depth, name]), layer, name, value


def _has_state_dict(value: object) -> bool:
    """Return whether an object keeps its state itself, as an accountant of privacy does."""
    both = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    return both and not isinstance(value, type)


def _encode(value: Any, path: str, encoder: Encoder) -> Any:
    if not _has_state_dict(value):
        return encoder.encode(value, path)
    try:
        return {"state": encoder.encode(value.state_dict(), path)}
    except CannotEncodeError:
        raise
    except Exception as error:
        raise CannotEncodeError(path, f"{type(value).__name__}: {one_line(str(error))}") from error


def _load(owner: Any, path: str, state: Any) -> None:
    try:
        owner.load_state_dict(state)
    except Exception as error:
        problem = f"holds a state that {path} does not take ({one_line(str(error))})"
        fix = "start it as it was started, or give another run-dir"
        raise InputError("checkpoint", problem, fix) from error


def _fingerprint(value: object) -> tuple[str | None, list[object]]:
    """Return a digest of a value, None if it may hold state that cannot be seen; and what keeps it valid."""
    encoder = Encoder(stands_for_itself=lambda part: isinstance(part, _STATELESS))
    try:
        return encoder.digest(encoder.encode(value, "")), encoder.identified
    except CannotEncodeError:
        return None, []
