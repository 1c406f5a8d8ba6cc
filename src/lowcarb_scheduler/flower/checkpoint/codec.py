"""Values as JSON and arrays, and back, exactly: what a checkpoint is made of. Nothing is ever pickled.

JSON holds what it can hold; anything else is an object with one key that names its kind. Arrays go into a
dict beside it, each once however often it stands in the value.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
import random
import re
import types
from collections import OrderedDict
from datetime import date, datetime, timedelta
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord

from lowcarb_scheduler.clock import MICROSECOND
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.flower.grid import layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

_DEEPEST: Final = 50
_BIT_GENERATORS: Final = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_RECORDS: Final = {"metrics": MetricRecord, "config": ConfigRecord}
_SEQUENCES: Final = {"tuple": tuple, "set": set, "frozenset": frozenset}
_MAPPINGS: Final = {"dict": dict, "ordered": OrderedDict}


class CannotEncodeError(TypeError):
    """A value has a part that is neither JSON nor an array.

    Parameters
    ----------
    path : str
        Where it stands.
    kind : str
        The name of its type.
    """

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind
        super().__init__(f"{path} ({kind})")


class Encoder:
    """Encodes values that share their arrays.

    Parameters
    ----------
    stands_for_itself : callable, optional
        Says of an object that has no form whether its identity will do, as for comparing within a process.

    Attributes
    ----------
    arrays : dict of str to ndarray
        The arrays of what was encoded so far, named by where they first stood.
    identified : list of object
        What stands for itself: its identity is its own only for as long as it lives.
    """

    def __init__(self, stands_for_itself: Callable[[object], bool] = lambda _: False) -> None:
        self._stands_for_itself = stands_for_itself
        self.arrays: dict[str, NDArray[Any]] = {}
        self.identified: list[object] = []
        self._names: dict[int, str] = {}
        self._owners: list[object] = []  # alive, so that no other object gets their id

    def encode(self, value: Any, path: str) -> Any:
        """Return the JSON form of a value.

        Parameters
        ----------
        value : object
            None, a bool, a number, text, bytes, a time, an array, a generator of random numbers, one of
            Flower's records, or a list, tuple, set or dict of such.
        path : str
            Where it stands; names its arrays.

        Raises
        ------
        CannotEncodeError
            If a part of it is something else.
        """
        return self._encode(value, path, 0)

    def _encode(self, value: Any, path: str, depth: int) -> Any:
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) is datetime:
            return {"time": value.isoformat()}
        if type(value) is timedelta:
            return {"microseconds": value // MICROSECOND}
        if depth > _DEEPEST:
            raise CannotEncodeError(path, "a value that holds itself")
        if type(value) is list:
            return [self._encode(item, f"{path}/{k}", depth + 1) for k, item in enumerate(value)]
        for tag, sequence in _SEQUENCES.items():
            if type(value) is sequence:
                items = value if sequence is tuple else sorted(value, key=repr)
                return {tag: [self._encode(item, f"{path}/{k}", depth + 1) for k, item in enumerate(items)]}
        for tag, mapping in _MAPPINGS.items():
            if type(value) is mapping:
                return {tag: self._items(value, path, depth)}
        return self._leaf(value, path, depth)

    def _leaf(self, value: Any, path: str, depth: int) -> Any:
        """Encode what holds arrays."""
        if isinstance(value, np.generic):
            return {"scalar": self._name(value, np.asarray(value), path)}
        if type(value) is np.ndarray:
            return {"array": self._name(value, value, path)}
        if type(value) is bytes:
            return {"bytes": self._name(value, np.frombuffer(value, dtype=np.uint8), path)}
        if type(value) is Array and value.stype == "numpy.ndarray":
            return {"Array": self._name(value, value.numpy(), path)}
        if type(value) is ArrayRecord:
            return {"arrays": self._items(value, path, depth)}
        for tag, record in _RECORDS.items():
            if type(value) is record:
                return {tag: self._items(value, path, depth)}
        if type(value) is np.random.Generator and type(value.bit_generator).__name__ in _BIT_GENERATORS:
            return {"generator": self._encode(value.bit_generator.state, path, depth + 1)}
        if type(value) is random.Random:
            return {"random": self._encode(value.getstate(), path, depth + 1)}
        if self._stands_for_itself(value):
            self.identified.append(value)
            return {"itself": id(value)}
        raise CannotEncodeError(path, type(value).__name__)

    def digest(self, tree: Any) -> str:
        """Return a digest of an encoded value and of all arrays."""
        whole = hashlib.sha256(json.dumps(tree).encode())
        whole.update(digest(self.arrays).encode())
        return whole.hexdigest()

    def _items(self, value: Mapping[Any, Any], path: str, depth: int) -> list[Any]:
        return [
            [self._encode(key, path, depth + 1), self._encode(item, f"{path}/{key}", depth + 1)]
            for key, item in value.items()
        ]

    def _name(self, owner: object, array: NDArray[Any], path: str) -> str:
        """Keep an array, unless its owner was met before; return the name it goes by."""
        if array.dtype.hasobject:
            raise CannotEncodeError(path, "an array of objects")
        if (known := self._names.get(id(owner))) is not None:
            return known
        name, number = path, 2
        while name in self.arrays:
            name, number = f"{path}~{number}", number + 1
        self.arrays[name] = array
        self._names[id(owner)] = name
        self._owners.append(owner)
        return name


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return a digest of arrays: their names, types, shapes and bytes."""
    whole = hashlib.sha256()
    for name, array in arrays.items():
        whole.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        if array.nbytes:
            whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def decode(tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the value of a JSON form and its arrays.

    Raises
    ------
    ValueError
        If it is not what :class:`Encoder` makes.
    """
    if isinstance(tree, list):
        return [decode(item, arrays) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) != 1:
        raise ValueError("holds a value that this version does not write")
    ((tag, inner),) = tree.items()
    if tag == "float":
        return float(inner)
    if tag == "time":
        return datetime.fromisoformat(inner)
    if tag == "microseconds":
        return inner * MICROSECOND
    if tag in _SEQUENCES:
        return _SEQUENCES[tag](decode(item, arrays) for item in inner)
    if tag in _MAPPINGS:
        return _MAPPINGS[tag](_pairs(inner, arrays))
    if tag in _RECORDS:
        return _RECORDS[tag](dict(_pairs(inner, arrays)))
    if tag == "arrays":
        return ArrayRecord(OrderedDict(_pairs(inner, arrays)))
    if tag == "generator":
        return _generator(decode(inner, arrays))
    if tag == "random":
        generator = random.Random()
        generator.setstate(decode(inner, arrays))
        return generator
    if tag not in ("array", "scalar", "bytes", "Array") or inner not in arrays:
        raise ValueError(f"holds a value that this version does not write ({tag})")
    array = arrays[inner]
    if tag == "array":
        return array.copy(order="K")
    if tag == "Array":
        return Array(array)
    return array[()] if tag == "scalar" else array.tobytes()


def _pairs(items: Any, arrays: Mapping[str, NDArray[Any]]) -> list[tuple[Any, Any]]:
    return [(decode(key, arrays), decode(item, arrays)) for key, item in items]


def _generator(state: Any) -> np.random.Generator:
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"holds a generator that this version does not write ({name})")
    bits = getattr(np.random, name)()
    bits.state = state
    return np.random.Generator(bits)


# -- What of a strategy is state: the attributes that have changed since it was started, and nothing else ---
# What has not changed is configuration, and that of a run that goes on is what its app is written with now.

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
