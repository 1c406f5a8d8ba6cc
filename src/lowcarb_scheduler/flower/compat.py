"""Parts of Flower that are private or positional, each with a guard against a release that changes it.

Everything else uses Flower's public names. A part that a run can do without is missing in the open: one line
says which, and what the run does instead. Without one that a run rests on it ends before its first round.
"""

from __future__ import annotations

import inspect
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lowcarb_scheduler.errors import UnsupportedFlowerError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from flwr.app import Array, Message
    from flwr.server.client_proxy import ClientProxy
    from flwr.serverapp import Grid

NUMPY: Final = "numpy.ndarray"  # serialisation of arrays that NumPy can read
_DISTRIBUTIONS: Final = ("flwr", "flwr-nightly")
_CLIENT_MODS: Final = ("LocalDpMod", "fixedclipping_mod", "adaptiveclipping_mod")
_METADATA: Final = ("message_id", "reply_to_message_id", "src_node_id", "dst_node_id")
_NEEDED_OF_START: Final = ("initial_arrays", "num_rounds")
_TTL_MARGIN_S: Final = 60.0  # a reply at the timeout has to find its message alive


def flower_version() -> str:
    """Return the version of Flower that is installed, a release or a nightly build."""
    for name in _DISTRIBUTIONS:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "of an unknown version"


class MissingPart(NamedTuple):
    """Part of Flower that a run does without.

    Parameters
    ----------
    part : str
        Name of the part.
    consequence : str
        What is done instead.
    """

    part: str
    consequence: str


@dataclass(frozen=True)
class Parts:
    """Parts of Flower that a run uses, None for one that is missing.

    Parameters
    ----------
    start : Signature
        Signature of ``Strategy.start``, by which the arguments of a call are told.
    broken : tuple of str
        Parts without which there is no run.
    http_grid : type or None
        Grid of real nodes.
    private_mods : tuple of object, or None
        Mods of a ClientApp for differential privacy, classes and functions.
    default_ttl_s : float or None
        Time to live of a message that names none [s].
    metrics_mean : callable or None
        Mean of metrics that strategies use by default.
    reads_stype : bool
        Whether an array says how it is serialised.
    """

    start: inspect.Signature
    broken: tuple[str, ...]
    http_grid: type | None
    private_mods: tuple[Any, ...] | None
    default_ttl_s: float | None
    metrics_mean: Callable[..., Any] | None
    reads_stype: bool

    @classmethod
    def find(cls, load: Callable[[str], Any] = import_module) -> Parts:
        """Find the parts in the modules that ``load`` returns by name."""
        start = inspect.signature(load("flwr.serverapp.strategy").Strategy.start)
        array = inspect.signature(load("flwr.app").Array)
        metadata = _get(load, "flwr.app", "Metadata")
        broken = [f"Strategy.start({name})" for name in _NEEDED_OF_START if name not in start.parameters]
        broken += [f"Metadata.{name}" for name in _METADATA if not hasattr(metadata, name)]
        mods = [_get(load, "flwr.clientapp.mod", name) for name in _CLIENT_MODS]
        has_log_of_replies = hasattr(load("flwr.serverapp.strategy").FedAvg, "_check_and_log_replies")
        mean = _get(load, "flwr.serverapp.strategy.strategy_utils", "aggregate_metricrecords")
        ttl = _get(load, "flwr.app", "DEFAULT_TTL")
        return cls(
            start, tuple(broken), _get(load, "flwr.superlink.grid", "HttpGrid"),
            None if None in mods else tuple(mods), None if ttl is None else float(ttl),
            mean if has_log_of_replies else None, "stype" in array.parameters,
        )  # fmt: skip

    def check(self) -> None:
        """Check that all parts are there without which there is no run.

        Raises
        ------
        UnsupportedFlowerError
            If one is missing.
        """
        if self.broken:
            raise UnsupportedFlowerError(flower_version(), self.broken[0])

    @property
    def missing(self) -> Sequence[MissingPart]:
        """Parts that a run on the server does without."""
        names = self.start.parameters
        is_there = {
            MissingPart("HttpGrid", "a virtual clock is not refused where nodes are real"): self.http_grid,
            MissingPart("DEFAULT_TTL", "a turn must not outlast the time to live of its message"):
                self.default_ttl_s,
            MissingPart("Strategy.start(timeout)", "a turn must not outlast the timeout of start()"):
                "timeout" in names,
            MissingPart("Strategy.start(evaluate_fn)", "an evaluation on the server is not in the ledger"):
                "evaluate_fn" in names,
            MissingPart("aggregate_metricrecords", "corrected replies are copied, which takes longer"):
                self.metrics_mean,
            MissingPart("Array.stype", "models are neither corrected nor saved: a killed run starts anew"):
                self.reads_stype,
        }  # fmt: skip
        return [part for part, found in is_there.items() if not found]

    # -- Grids and messages --------------------------------------------------------------------------------

    def is_real(self, grid: Grid | None) -> bool:
        """Return whether nodes are known to be real, not simulated."""
        return self.http_grid is not None and isinstance(grid, self.http_grid)

    def reply_limit_s(self, messages: Iterable[Message], timeout_s: float, turn_s: float) -> float:
        """Return the reply timeout [s], and extend the time to live of the messages to it.

        Only Flower's defaults are extended for longer turns, not what somebody has chosen.
        """
        default = self.start.parameters.get("timeout")
        is_default = default is not None and timeout_s == default.default
        limit_s = max(timeout_s, 2 * turn_s) if is_default else timeout_s
        for message in messages:
            if message.metadata.ttl == self.default_ttl_s:
                message.metadata.ttl = max(self.default_ttl_s, limit_s + _TTL_MARGIN_S)
        return limit_s

    # -- Arguments of start() ------------------------------------------------------------------------------

    def argument(
        self, name: str, own_start: Callable[..., Any], grid: Grid, args: Any, kwargs: Mapping[str, Any]
    ) -> Any:
        """Return an argument of start(), by its own signature or by Flower's; None if neither has it."""
        own = inspect.signature(own_start)
        for signature, before in ((own, (grid,)), (self.start, (None, grid))):
            if name in signature.parameters:
                known = {key: value for key, value in kwargs.items() if key in signature.parameters}
                call = signature.bind_partial(*before, *args, **known)
                call.apply_defaults()
                return call.arguments.get(name)
        return None

    def reply_timeout(
        self, own_start: Callable[..., Any], grid: Grid, args: Any, kwargs: Mapping[str, Any]
    ) -> timedelta | None:
        """Return how long start() awaits replies: without a timeout as long as messages live, if known."""
        timeout_s = self.argument("timeout", own_start, grid, args, kwargs)
        limit_s = self.default_ttl_s if timeout_s is None else timeout_s
        return timedelta(seconds=limit_s) if isinstance(limit_s, int | float) else None

    def with_evaluation(
        self, wrap: Callable[[Any], Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of start() with the given evaluate_fn wrapped, if one is given."""
        if kwargs.get("evaluate_fn") is not None:
            return args, {**kwargs, "evaluate_fn": wrap(kwargs["evaluate_fn"])}
        names = list(self.start.parameters)
        place = names.index("evaluate_fn") - 2 if "evaluate_fn" in names else len(args)  # after self and grid
        if place < len(args) and callable(args[place]):
            return (*args[:place], wrap(args[place]), *args[place + 1 :]), kwargs
        return args, kwargs

    # -- Privacy and models --------------------------------------------------------------------------------

    @property
    def missing_on_client(self) -> MissingPart | None:
        """Part that a client does without."""
        consequence = "any mod counts as one for privacy: a node reports its turns only with telemetry = true"
        return MissingPart("flwr.clientapp.mod", consequence) if self.private_mods is None else None

    def has_privacy(self, mods: Collection[object]) -> bool:
        """Return whether a mod for differential privacy is among these; any may be one if none is known."""
        if self.private_mods is None:
            return bool(mods)
        classes = tuple(mod for mod in self.private_mods if isinstance(mod, type))
        return any(isinstance(mod, classes) or mod in self.private_mods for mod in mods)

    def is_numpy(self, array: Array) -> bool:
        """Return whether NumPy can read an array: Flower's may hold other serialisations."""
        return self.reads_stype and array.stype == NUMPY


def _get(load: Callable[[str], Any], module: str, name: str) -> Any:
    """Return a name of a module, None where either is missing."""
    try:
        return getattr(load(module), name, None)
    except ImportError:
        return None


def adds_noise(layer: object) -> bool:
    """Return whether a strategy is one of Flower's wrappers for differential privacy.

    They have no base class in common; their names say it also where the attribute has another one.
    """
    named = any(cls.__name__.startswith("DifferentialPrivacy") for cls in type(layer).__mro__)
    return named or hasattr(layer, "noise_multiplier")


# -- Ids of messages, which a grid sets when it sends them ---------------------------------------------------


def id_of(message: Message) -> str:
    """Return the id of a message that was sent."""
    return message.metadata.message_id


def id_answered(reply: Message) -> str:
    """Return the id of the message that is answered: an error reply does not name its node."""
    return reply.metadata.reply_to_message_id


def push(grid: Grid, messages: Sequence[Message]) -> set[str]:
    """Send messages, and return the ids of those that were sent.

    Raises
    ------
    UnsupportedFlowerError
        If none of the messages has got the id under which it was sent.
    """
    sent = set(grid.push_messages(messages))
    if sent and sent.isdisjoint(map(id_of, messages)):
        raise UnsupportedFlowerError(flower_version(), "Grid.push_messages")
    return sent


# -- Legacy API ----------------------------------------------------------------------------------------------


def legacy_part(module: str, name: str, load: Callable[[str], Any] = import_module) -> Any:
    """Return a class of the legacy API, which newer releases may come without.

    Raises
    ------
    UnsupportedFlowerError
        If it is not there.
    """
    if (found := _get(load, module, name)) is None:
        raise UnsupportedFlowerError(flower_version(), f"{module}.{name}")
    return found


def node_id_of(proxy: ClientProxy) -> int:
    """Return the node id of a client; a proxy without one is known by its cid.

    Raises
    ------
    UnsupportedFlowerError
        If neither is a number.
    """
    try:
        return int(getattr(proxy, "node_id", proxy.cid))
    except (AttributeError, TypeError, ValueError):
        raise UnsupportedFlowerError(flower_version(), "ClientProxy.node_id") from None


# -- For the test kit ----------------------------------------------------------------------------------------


class _NodeInfo(NamedTuple):
    """Registration of a node, where Flower's own is missing."""

    node_id: int
    name: str
    location: str


@dataclass(frozen=True)
class KitParts:
    """Parts of Flower that a grid in this process uses.

    Parameters
    ----------
    node_info : callable
        Makes the registration of a node.
    empty_run : callable or None
        Makes the record of a run from its id.
    identity : type or None
        Identity of this process, without which no Message can be made.
    """

    node_info: Callable[..., Any]
    empty_run: Callable[[int], Any] | None
    identity: Any

    @classmethod
    def find(cls, load: Callable[[str], Any] = import_module) -> KitParts:
        """Find the parts in the modules that ``load`` returns by name."""
        run = _get(load, "flwr.supercore.run", "Run")
        return cls(
            _get(load, "flwr.proto.node_pb2", "NodeInfo") or _NodeInfo, getattr(run, "create_empty", None),
            _get(load, "flwr.supercore.task_identity", "TaskIdentity"),
        )  # fmt: skip

    def identify(self, make_message: Callable[[], object]) -> None:
        """Give this process the identity that Flower gives its own; without it no Message can be made.

        Raises
        ------
        UnsupportedFlowerError
            If no message can be made all the same.
        """
        if self.identity is not None:  # releases before 1.41 have none, and need none
            self.identity.run_id = self.identity.node_id = self.identity.task_id = 1
        try:
            make_message()
        except RuntimeError:
            raise UnsupportedFlowerError(flower_version(), "TaskIdentity") from None

    def run(self) -> Any:
        """Return the record of a run with an id and no other content.

        Raises
        ------
        UnsupportedFlowerError
            If Flower makes none.
        """
        if self.empty_run is None:
            raise UnsupportedFlowerError(flower_version(), "Run.create_empty")
        return self.empty_run(1)


def app_of(grid: Any) -> str | None:
    """Return publisher and name of the app that runs, for example ``me/digits``; None where none is told."""
    with suppress(AttributeError, RuntimeError, TypeError):  # a grid that has no run, or does not know it yet
        return str(grid.run.fab_id) or None
    return None


def stamp(message: Message, **values: object) -> None:
    """Set metadata of a message that only Flower's own grids set, and that have no public setter.

    Raises
    ------
    UnsupportedFlowerError
        If they do not take the value.
    """
    for name, value in values.items():
        message.metadata.__dict__[f"_{name}"] = value
        if getattr(message.metadata, name, None) != value:
            raise UnsupportedFlowerError(flower_version(), f"Metadata.{name}")


PARTS: Final = Parts.find()
KIT: Final = KitParts.find()
