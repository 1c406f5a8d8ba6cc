"""The strategy: makes any Flower strategy train the planned nodes in the planned windows.

``carbon_aware(strategy)`` keeps the strategy's class, state and own ``start()``. A mixin in front of its
class holds in ``configure_train``, before messages are built, and then lets the inner strategy build them
for exactly the planned nodes.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flwr.superlink.grid import HttpGrid

from lowcarb_scheduler.clock import SystemClock, VirtualClock, format_time, parse_time
from lowcarb_scheduler.errors import InputError, PlanMismatchError
from lowcarb_scheduler.flower.client import RECORD
from lowcarb_scheduler.flower.grid import ScopedGrid, layers, pinned_sampling
from lowcarb_scheduler.flower.profiles import read_places
from lowcarb_scheduler.flower.run import CarbonRun
from lowcarb_scheduler.forecasts.source import open_source
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord
    from flwr.serverapp import Grid
    from flwr.serverapp.strategy import Strategy

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.forecasts.source import ForecastSource


def carbon_aware(
    strategy: Strategy,
    context: Context | None = None,
    *,
    source: ForecastSource | str | None = None,
    clock: Clock | str | None = None,
    **settings: Any,
) -> Any:
    """Make a strategy wait for clean electricity.

    Parameters
    ----------
    strategy : Strategy
        Any of Flower's message API, ready to start. Its class, state and own ``start()`` are kept.
    context : Context, optional
        The ServerApp's; its run-config may hold settings as ``lowcarb-...``.
    source : ForecastSource or str, optional
        Where intensity comes from. Without one, rounds open at once.
    clock : Clock or str, optional
        ``"system"`` (default) or ``"virtual"``, which jumps through holds and is for simulation only.
    **settings
        Any other setting by name: ``finish_by``, ``clients_per_round``, ``round_duration``, ``patience``...

    Returns
    -------
    Strategy
        An instance of the same class, now carbon-aware.

    Raises
    ------
    InputError
        If a setting is unknown or impossible.

    Examples
    --------
    >>> strategy = carbon_aware(FedAvg(), context)  # doctest: +SKIP
    >>> result = strategy.start(grid=grid, initial_arrays=arrays, num_rounds=50)  # doctest: +SKIP
    """
    named = {"source": source if isinstance(source, str) else None,
             "clock": clock if isinstance(clock, str) else None}  # fmt: skip
    loaded = Settings.load(keywords={**settings, **named}, run_config=context.run_config if context else None)
    cls = type(strategy)
    aware = type(f"CarbonAware{cls.__name__}", (CarbonAwareMixin, cls), {})
    made: Any = object.__new__(aware)
    made.__dict__ = strategy.__dict__  # one state: the strategy that was given is not a second one
    setup = _Setup(
        settings=loaded,
        source=None if isinstance(source, str) else source,
        clock=None if isinstance(clock, str) else clock,
        run_id=str(context.run_id) if context else "local",
    )
    vars(made)["_lowcarb_setup"] = setup
    return made


class _Setup:
    """What a run needs to begin."""

    def __init__(
        self, settings: Settings, source: ForecastSource | None, clock: Clock | None, run_id: str
    ) -> None:
        self.settings, self.run_id = settings, run_id
        # Opened here, so that a bad setting fails before anything trains.
        self.source = source or _open_source(settings)
        self._places = read_places(settings.locations) if settings.locations else {}
        self._clock = clock

    def begin(self, grid: Grid, strategy: str, rounds: int) -> CarbonRun:
        """Return a run that begins now."""
        clock = self._clock or _open_clock(self.settings.clock)
        if isinstance(clock, VirtualClock) and isinstance(grid, HttpGrid):
            raise InputError("lowcarb-clock", "virtual is for simulation", "use system with real nodes")
        if isinstance(clock, VirtualClock) and self.settings.round_duration is None:
            fix = "a virtual clock must know how long a round is, for example 30m"
            raise InputError("lowcarb-round-duration", "is not given", fix)
        told = self.settings.finish_by
        if isinstance(told, datetime) and told <= clock.now():
            raise InputError("lowcarb-finish-by", f"{format_time(told)} is past", "give a later time, or 48h")
        name = f"{clock.now():%Y%m%dT%H%M%SZ}-{self.run_id}"
        ledger = Ledger(self.settings.run_dir or Path("runs") / name, clock)
        about = {
            "run_id": self.run_id,
            "flwr_version": version("flwr"),
            "strategy": strategy,
            "source": _name_of(self.settings, self.source),
        }
        return CarbonRun(self.settings, self._places, self.source, clock, ledger, about, rounds)


class CarbonAwareMixin:
    """What stands in front of a strategy's class; see :func:`carbon_aware`."""

    _lowcarb_setup: _Setup
    _lowcarb_run: CarbonRun | None = None
    _lowcarb_messages: list[Message]  # of the round: an error reply does not say which node it is from
    _lowcarb_done: list[int]

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Any:
        """Run the strategy's own ``start()``, carbon-aware."""
        own_start: Callable[..., Any] = super().start  # type: ignore[misc]
        if not self._lowcarb_setup.settings.enabled:
            return own_start(grid, *args, **kwargs)
        call = inspect.signature(own_start).bind(grid, *args, **kwargs)
        call.apply_defaults()
        arguments = {**call.arguments, **call.arguments.get("kwargs", {})}
        if (rounds := arguments.get("num_rounds")) is None:
            fix = "give start() a num_rounds argument"
            raise InputError("num_rounds", "is not told, so nothing can be planned", fix)
        strategy = type(self).__mro__[2].__name__
        run = self._lowcarb_setup.begin(grid, strategy, int(rounds))
        self._lowcarb_run = run
        if (evaluate_fn := call.arguments.get("evaluate_fn")) is not None:
            call.arguments["evaluate_fn"] = _recording(evaluate_fn, run)
        status = "failed"
        try:
            result = own_start(*call.args, **call.kwargs)
            status = "completed"
        except (KeyboardInterrupt, SystemExit):
            status = "stopped"
            raise
        finally:
            self._lowcarb_run = None
            run.finish(status)
        return result

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hold until the round opens, then build messages for exactly the planned nodes."""
        inner: Any = super()
        if (run := self._lowcarb_run) is None:
            messages: Iterable[Message] = inner.configure_train(server_round, arrays, config, grid)
            return messages
        wanted, at_least = _sample(self, self._lowcarb_setup.settings, grid)
        nodes = run.open_round(server_round, grid, wanted, at_least)
        name = type(self).__name__
        with pinned_sampling(self, "train", len(nodes)):
            scope = ScopedGrid(grid, nodes, name)
            sent = list(inner.configure_train(server_round, arrays, config, scope))
        addressed = sorted(message.metadata.dst_node_id for message in sent)
        if addressed != sorted(nodes):
            fix = "a strategy that trains one node at a time needs lowcarb-clients-per-round = 1"
            raise PlanMismatchError(name, sorted(nodes), addressed, fix)
        self._lowcarb_messages = sent  # they get their ids when they are pushed
        return sent

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Take our record out of the replies, account for them, and let the strategy aggregate."""
        inner: Any = super()
        received = list(replies)
        if (run := self._lowcarb_run) is not None:
            asked = {m.metadata.message_id: m.metadata.dst_node_id for m in self._lowcarb_messages}
            self._lowcarb_messages = []
            done: dict[int, Mapping[str, Any] | None] = {}
            failed: dict[int, str] = {}
            for reply in received:
                node_id = asked.get(reply.metadata.reply_to_message_id, reply.metadata.src_node_id)
                if reply.has_content():
                    said = reply.content.pop(RECORD, None)
                    done[node_id] = said if isinstance(said, Mapping) else None
                else:
                    failed[node_id] = reply.error.reason or f"error {reply.error.code}"
            self._lowcarb_done = list(done)
            run.train_ended(done, failed)
        result: tuple[ArrayRecord | None, MetricRecord | None] = inner.aggregate_train(server_round, received)
        return result

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate where the settings say: on the nodes that have just trained, on all, or on none."""
        inner: Any = super()
        where = self._lowcarb_setup.settings.evaluate_on
        if self._lowcarb_run is None or where == "all":
            messages: Iterable[Message] = inner.configure_evaluate(server_round, arrays, config, grid)
            return messages
        alive = set(grid.get_node_ids())
        nodes = [node_id for node_id in self._lowcarb_done if node_id in alive]
        if where == "none" or not nodes:
            return []
        with pinned_sampling(self, "evaluate", len(nodes)):
            scope = ScopedGrid(grid, nodes, type(self).__name__)
            return list(inner.configure_evaluate(server_round, arrays, config, scope))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Let the strategy aggregate, and close the round."""
        inner: Any = super()
        metrics: MetricRecord | None = inner.aggregate_evaluate(server_round, replies)
        if (run := self._lowcarb_run) is not None:
            run.evaluated(server_round, "clients", metrics)
            run.close_round()
        return metrics


def _recording(evaluate_fn: Callable[..., Any], run: CarbonRun) -> Callable[..., Any]:
    """Return an evaluate_fn whose metrics are also taken down."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> Any:
        metrics = evaluate_fn(server_round, arrays)
        run.evaluated(server_round, "server", metrics)
        return metrics

    return evaluate


def _sample(strategy: Any, settings: Settings, grid: Grid) -> tuple[int, int]:
    """Return how many nodes are to train, and with how many the inner strategy is content."""
    known = [layer for layer in layers(strategy) if hasattr(layer, "fraction_train")]
    there = len(list(grid.get_node_ids()))
    if not known:
        return settings.clients_per_round or max(there, 1), 1
    inner = known[-1]
    at_least = int(getattr(inner, "min_train_nodes", 1))
    own = max(int(there * inner.fraction_train), at_least)
    wanted = settings.clients_per_round or own
    return wanted, min(at_least, wanted)


def _open_source(settings: Settings) -> ForecastSource | None:
    if settings.source is None:
        return None
    try:
        return open_source(
            settings.source, sdk_url=settings.sdk_url, sdk_signal=settings.sdk_signal, traces=settings.traces,
            timeout=settings.timeout,
        )  # fmt: skip
    except InputError as error:
        fix = error.fix
        if error.problem == "is not set":
            variable = f"LOWCARB_{error.field.upper().replace('-', '_')}"
            fix = f"set lowcarb-{error.field} in the run-config, or {variable}"
        raise InputError(f"lowcarb-{error.field}", error.problem, fix, error.file) from None


def _open_clock(name: str) -> Clock:
    """Return the clock of a setting: ``system``, ``virtual`` or ``virtual:TIME``."""
    if name == "system":
        return SystemClock()
    _, _, start = name.partition(":")
    return VirtualClock(parse_time(start, "clock") if start else SystemClock().now())


def _name_of(settings: Settings, source: ForecastSource | None) -> str | None:
    return settings.source or (type(source).__name__ if source is not None else None)
