"""Lossless encoding of values, and of the state of a strategy, as JSON and arrays, without pickle.

A value that JSON cannot hold becomes an object with one key that names its type. Arrays go into a dict beside
the JSON, each of them once, however often the value refers to it.
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
from lowcarb_scheduler.flower.compat import PARTS
from lowcarb_scheduler.flower.grid import layers

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

_MAX_DEPTH: Final = 50  # a value that contains itself would be encoded without end
_BIT_GENERATORS: Final = ("MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
_SEQUENCES: Final = {"tuple": tuple, "set": set, "frozenset": frozenset}
_MAPPINGS: Final = {
    "dict": dict, "ordered": OrderedDict,
    "metrics": MetricRecord, "config": ConfigRecord, "arrays": ArrayRecord,
}  # fmt: skip
_TAGS: Final[dict[type, str]] = {kind: tag for tag, kind in [*_SEQUENCES.items(), *_MAPPINGS.items()]}


class CannotEncodeError(TypeError):
    """Error for a value with a part of a type that the encoding does not know.

    Parameters
    ----------
    path : str
        Path of the part.
    kind : str
        Name of its type.
    """

    def __init__(self, path: str, kind: str) -> None:
        self.path, self.kind = path, kind
        super().__init__(f"{path} ({kind})")


class Encoder:
    """Encoder of values that share their arrays.

    Parameters
    ----------
    by_identity : tuple of type, optional
        Types whose objects are encoded by their identity, which is good for comparisons within a process.

    Attributes
    ----------
    arrays : dict of str to ndarray
        Arrays of the values encoded so far, each named by the path where it was first met.
    identified : list of object
        Objects encoded by identity. Whoever compares identities keeps this list: Python gives the id of a
        dead object to a new one.
    """

    def __init__(self, by_identity: tuple[type, ...] = ()) -> None:
        self._by_identity = by_identity
        self.arrays: dict[str, NDArray[Any]] = {}
        self.identified: list[object] = []
        self._names: dict[int, tuple[str, object]] = {}  # by id; the object is kept alive for the same reason

    def encode(self, value: Any, path: str) -> Any:
        """Return the JSON form of a value.

        Parameters
        ----------
        value : object
            None, a bool, a number, text, bytes, a time, an array, a generator of random numbers, one of
            Flower's records, or a list, tuple, set or dict of these.
        path : str
            Name of the value, from which its arrays are named.

        Raises
        ------
        CannotEncodeError
            If a part of the value is of another type.
        """
        return self._encode(value, path, 0)

    def _encode(self, value: Any, path: str, depth: int) -> Any:
        # Exact types, no isinstance(): a subclass may carry state of its own, which would be lost.
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}  # JSON has no NaN
        if type(value) is datetime:
            return {"time": value.isoformat()}
        if type(value) is timedelta:
            return {"microseconds": value // MICROSECOND}
        if depth > _MAX_DEPTH:
            raise CannotEncodeError(path, "a value that holds itself")
        if type(value) is list:
            return [self._encode(item, f"{path}/{k}", depth + 1) for k, item in enumerate(value)]
        tag = _TAGS.get(type(value), "")
        if tag in _MAPPINGS:
            pairs = [(self._encode(key, path, depth + 1), key, item) for key, item in value.items()]
            return {
                tag: [[key, self._encode(item, f"{path}/{name}", depth + 1)] for key, name, item in pairs]
            }
        if tag in _SEQUENCES:
            # The order of a set differs between processes; equal states are to have equal digests.
            items = value if tag == "tuple" else sorted(value, key=repr)
            return {tag: self._encode(list(items), path, depth)}
        if isinstance(value, np.generic):
            return {"scalar": self._name(value, np.asarray(value), path)}
        if type(value) is np.ndarray:
            return {"array": self._name(value, value, path)}
        if type(value) is bytes:
            return {"bytes": self._name(value, np.frombuffer(value, dtype=np.uint8), path)}
        if type(value) is Array and PARTS.is_numpy(value):
            return {"Array": self._name(value, value.numpy(), path)}
        if type(value) is np.random.Generator and type(value.bit_generator).__name__ in _BIT_GENERATORS:
            return {"generator": self._encode(value.bit_generator.state, path, depth + 1)}
        if type(value) is random.Random:
            return {"random": self._encode(value.getstate(), path, depth + 1)}
        if isinstance(value, self._by_identity):
            self.identified.append(value)
            return {"itself": id(value)}
        raise CannotEncodeError(path, type(value).__name__)

    def digest(self, tree: Any) -> str:
        """Return the SHA-256 of an encoded value and of all arrays."""
        whole = hashlib.sha256(json.dumps(tree).encode())
        whole.update(digest(self.arrays).encode())
        return whole.hexdigest()

    def _name(self, owner: object, array: NDArray[Any], path: str) -> str:
        """Add an array, unless the object that owns it was met before, and return its name."""
        if array.dtype.hasobject:
            raise CannotEncodeError(path, "an array of objects")
        if id(owner) in self._names:
            return self._names[id(owner)][0]
        name, number = path, 2
        while name in self.arrays:  # the keys 1 and "1" of a dict have one path
            name, number = f"{path}~{number}", number + 1
        self.arrays[name] = array
        self._names[id(owner)] = name, owner
        return name


def digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the SHA-256 of arrays: of their names, types, shapes and bytes."""
    whole = hashlib.sha256()
    for name, array in arrays.items():
        whole.update(json.dumps([name, array.dtype.str, array.shape]).encode())
        if array.nbytes:
            whole.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return whole.hexdigest()


def decode(tree: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return the value that :class:`Encoder` has encoded as a JSON form and arrays.

    Raises
    ------
    ValueError
        If the JSON form has a tag that this version does not write.
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
        return _MAPPINGS[tag](OrderedDict((decode(key, arrays), decode(item, arrays)) for key, item in inner))
    if tag == "generator":
        return _generator(decode(inner, arrays))
    if tag == "random":
        generator = random.Random()
        generator.setstate(decode(inner, arrays))
        return generator
    # Only known tags are decoded, never a name of a class: a manipulated checkpoint runs no code.
    if tag not in ("array", "scalar", "bytes", "Array") or inner not in arrays:
        raise ValueError(f"holds a value that this version does not write ({tag})")
    array = arrays[inner]
    if tag == "array":
        return array.copy(
            order="K"
        )  # aggregation may change it in place, and its order in memory shows in sums
    if tag == "Array":
        return Array(array)
    return array[()] if tag == "scalar" else array.tobytes()


def _generator(state: Any) -> np.random.Generator:
    name = state["bit_generator"]
    if name not in _BIT_GENERATORS:
        raise ValueError(f"holds a generator that this version does not write ({name})")
    bits = getattr(np.random, name)()
    bits.state = state
    return np.random.Generator(bits)


# -- State of a strategy -------------------------------------------------------------------------------------

_OWN_PREFIX: Final = "_lowcarb_"  # of the mixin, whose attributes share the strategy's __dict__
_WRAPPED: Final = "strategy"  # attribute by which Flower's wrappers, as for privacy, hold the strategy inside
# Objects of these types hold no state that training changes, so the same object is the same configuration.
_STATELESS: Final = (
    types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, type,
    functools.partial, logging.Logger, PurePath, Enum, date, timedelta, re.Pattern,
)  # fmt: skip


class StrategyState:
    """State of a strategy and of those it wraps: the attributes that changed since this object was made.

    Attributes that did not change are configuration. A resumed run takes these from its app as it is written
    now, so that a corrected path or learning rate counts.

    Parameters
    ----------
    strategy : Strategy
        Strategy before its start.
    """

    def __init__(self, strategy: object) -> None:
        self._strategy = strategy
        self._initial: dict[str, tuple[str | None, list[object]]] = {}
        for path, _, _, value in self._attributes():
            self._initial[path] = _fingerprint(value)

    def missing(self) -> list[str]:
        """Return the attributes, each with its type, that may hold state and cannot be encoded."""
        return self._encode(Encoder())[1]

    def encode(self, encoder: Encoder) -> dict[str, Any]:
        """Return the JSON form of each attribute that is state and can be encoded."""
        return self._encode(encoder)[0]

    def _encode(self, encoder: Encoder) -> tuple[dict[str, Any], list[str]]:
        trees, missing = {}, []
        for path, _, _, value in self._attributes():
            try:
                if _has_state_dict(value):
                    trees[path] = {"state": encoder.encode(_state_dict(value, path), f"{_WRAPPED}/{path}")}
                elif self._has_changed(path, value):
                    trees[path] = encoder.encode(value, f"{_WRAPPED}/{path}")
            except CannotEncodeError as error:
                missing.append(str(error).removeprefix(f"{_WRAPPED}/"))
        return trees, missing

    def restore(self, trees: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Set the attributes that :meth:`encode` has returned.

        Raises
        ------
        InputError
            If ``load_state_dict`` of an attribute fails.
        ValueError
            If the strategy has no such attribute.
        """
        by_path = {path: (owner, name, value) for path, owner, name, value in self._attributes()}
        chain = list(layers(self._strategy))
        for path, tree in trees.items():
            # The path has one "strategy." for each layer outside the one with the attribute.
            *outer, name = path.split(".")
            if len(outer) >= len(chain):
                raise ValueError(f"has an attribute {path}, the strategy has not")
            if isinstance(tree, dict) and "state" in tree:
                if path not in by_path or not _has_state_dict(by_path[path][2]):
                    raise ValueError(f"has the state of {path}, the strategy has not")
                _load(by_path[path][2], path, decode(tree["state"], arrays))
            else:
                setattr(chain[len(outer)], name, decode(tree, arrays))

    def _has_changed(self, path: str, value: object) -> bool:
        """Return whether an attribute has changed; once it has, its fingerprint is not computed again."""
        fingerprint, _ = self._initial.get(path, (None, ()))
        if fingerprint is not None and _fingerprint(value)[0] == fingerprint:
            return False
        self._initial.pop(path, None)
        return True

    def _attributes(self) -> Iterator[tuple[str, object, str, Any]]:
        """Yield path, owner, name and value of each attribute."""
        for depth, layer in enumerate(layers(self._strategy)):
            for name, value in list(getattr(layer, "__dict__", {}).items()):
                if not name.startswith(_OWN_PREFIX) and not (name == _WRAPPED and hasattr(value, "__dict__")):
                    yield ".".join([*[_WRAPPED] * depth, name]), layer, name, value


def _has_state_dict(value: object) -> bool:
    """Return whether an object saves and loads its own state, as privacy accountants and optimizers do."""
    # A class has the methods, too, but no state.
    both = hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
    return both and not isinstance(value, type)


def _state_dict(value: Any, path: str) -> Any:
    try:
        return value.state_dict()
    except Exception as error:
        raise CannotEncodeError(path, f"{type(value).__name__}: {one_line(str(error))}") from error


def _load(owner: Any, path: str, state: Any) -> None:
    try:
        owner.load_state_dict(state)
    except Exception as error:
        problem = f"holds a state that {path} cannot load ({one_line(str(error))})"
        fix = "start the run with the same app and settings, or give another run-dir"
        raise InputError("checkpoint", problem, fix) from error


def _fingerprint(value: object) -> tuple[str | None, list[object]]:
    """Return the SHA-256 of a value and the objects that keep it valid; None if its state cannot be seen."""
    encoder = Encoder(by_identity=_STATELESS)
    try:
        return encoder.digest(encoder.encode(value, "")), encoder.identified
    except CannotEncodeError:
        return None, []
