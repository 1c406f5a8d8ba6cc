"""Carbon-aware strategies: any Flower strategy trains the planned nodes in the planned windows.

``carbon_aware(strategy)`` keeps the strategy's class, state and own ``start()``. A mixin before its class
holds each round in ``configure_train``, before messages are built, and then lets the strategy build them for
exactly the planned nodes.
"""

from __future__ import annotations

import inspect
import logging
from functools import partial
from inspect import Parameter
from types import MethodWrapperType
from typing import TYPE_CHECKING, Any, Final

from flwr.app import ConfigRecord
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.flower.checkpoint.resume import Stage
from lowcarb_scheduler.flower.compat import PARTS, id_answered, id_of
from lowcarb_scheduler.flower.grid import (
    Sampling,
    ScopedGrid,
    check_addressed,
    evaluation_sampling,
    layers,
    pinned_sampling,
)
from lowcarb_scheduler.flower.metrics import add_mean, add_realised, with_round
from lowcarb_scheduler.flower.setup import Setup
from lowcarb_scheduler.flower.telemetry import ask, take
from lowcarb_scheduler.flower.waiting import ending_in_order
from lowcarb_scheduler.settings import FORMER_NAMES, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from flwr.app import ArrayRecord, Context, Message, MetricRecord
    from flwr.serverapp import Grid

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.events import RunFinished
    from lowcarb_scheduler.flower.checkpoint.resume import Progress
    from lowcarb_scheduler.flower.session import Session
    from lowcarb_scheduler.forecasts.base import ForecastSource

logger = logging.getLogger("flwr")

_SETTINGS: Final = {"context", *Settings.model_fields, *FORMER_NAMES}
_BY_NAME: Final = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


def split_keywords(
    own_init: Callable[..., None], keywords: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split keywords between a strategy's own ``__init__`` and settings.

    A keyword that the strategy does not name is taken for a setting, so that the error for a misspelt one
    suggests the nearest; where the strategy takes any keyword, only the names of settings are.

    Raises
    ------
    InputError
        If a keyword is both.
    """
    # The __init__ of object has the signature (*args, **kwargs), and takes nothing.
    takes_nothing = isinstance(own_init, MethodWrapperType)
    parameters = [] if takes_nothing else [*inspect.signature(own_init).parameters.values()]
    named = {parameter.name for parameter in parameters if parameter.kind in _BY_NAME}
    takes_any = any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters)
    if both := sorted(named & _SETTINGS & set(keywords)):
        fix = "give it to the strategy, and wrap that: carbon_aware(strategy, ...)"
        raise InputError(both[0], "is an argument of the strategy and a setting of ours", fix)
    own = named | (set(keywords) - _SETTINGS if takes_any else set())
    own_keywords = {name: value for name, value in keywords.items() if name in own}
    return own_keywords, {name: value for name, value in keywords.items() if name not in own}


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
        Any strategy of Flower's message API, ready to start. Its class, state and own ``start()`` are kept.
    context : Context, optional
        Context of the ServerApp; its run-config may hold settings as ``lowcarb-...``.
    source : ForecastSource or str, optional
        Source of carbon intensity. Without one, rounds open at once.
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
    if not isinstance(strategy, Strategy):
        fix = "give one of flwr.serverapp.strategy; those of flwr.server.strategy go to carbon_aware_legacy"
        raise InputError("strategy", f"{type(strategy).__name__} is none of the message API", fix)
    if any(isinstance(layer, CarbonAwareMixin) for layer in layers(strategy)):
        raise InputError("strategy", "is carbon-aware already", "wrap it once, the outermost")
    setup = Setup(context, source, clock, settings)
    cls = type(strategy)
    aware = type(f"CarbonAware{cls.__name__}", (CarbonAwareMixin, cls), {"_lowcarb_wraps": cls})
    wrapped: Any = object.__new__(aware)
    wrapped.__dict__ = strategy.__dict__  # shared: __class__ cannot be assigned, the object layouts differ
    vars(wrapped)["_lowcarb_setup"] = setup
    return wrapped


class CarbonAwareMixin:
    """Mixin that adds carbon-aware scheduling to a Strategy.

    :func:`carbon_aware` puts it before the class of an instance. In a class statement it comes first::

        class Mine(CarbonAwareMixin, FedAdam):
            ...

        strategy = Mine(eta=0.1, context=context, patience=0.5)

    Parameters
    ----------
    *args
        Arguments of the strategy's own class.
    **kwargs
        Its keywords, and ``context``, ``source``, ``clock`` and settings as in :func:`carbon_aware`.

    Raises
    ------
    InputError
        If a setting is unknown or impossible, or a keyword belongs to both.
    """

    # Prefixed: the instance shares its __dict__ with the strategy of the user.
    _lowcarb_setup: Setup
    _lowcarb_run: Session | None = None
    _lowcarb_progress: Progress  # checkpoint of that run
    _lowcarb_messages: Sequence[Message] = ()  # of the round: an error reply does not name its node
    _lowcarb_done: Sequence[int] = ()  # nodes that have trained in the round
    _lowcarb_result: ArrayRecord | None = None  # of a run that ends before its last round
    _lowcarb_evaluates = Stage.EVALUATED  # a round's model; AVERAGED: the mean that the run returns

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        before = cls.__mro__[: cls.__mro__.index(CarbonAwareMixin)]
        for each in before:
            if issubclass(each, Strategy) and not issubclass(each, CarbonAwareMixin):
                fix = f"write class {cls.__name__}(CarbonAwareMixin, {each.__name__})"
                raise InputError(cls.__name__, f"{each.__name__} stands before CarbonAwareMixin", fix)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        own_init: Callable[..., None] = super().__init__
        own, settings = split_keywords(own_init, kwargs)
        context, source, clock = (settings.pop(name, None) for name in ("context", "source", "clock"))
        self._lowcarb_setup = Setup(context, source, clock, settings)
        own_init(*args, **own)

    def start(self, grid: Grid, *args: Any, **kwargs: Any) -> Any:
        """Run the strategy's own ``start()``, carbon-aware."""
        own_start: Callable[..., Any] = super().start  # type: ignore[misc]
        setup = _setup_of(self)
        if not setup.settings.enabled:
            return own_start(grid, *args, **kwargs)
        rounds = PARTS.argument("num_rounds", own_start, grid, args, kwargs)
        arrays = PARTS.argument("initial_arrays", own_start, grid, args, kwargs)
        evaluate_fn, evaluate_config, timeout = (
            PARTS.argument(name, own_start, grid, args, kwargs)
            for name in ("evaluate_fn", "evaluate_config", "timeout")
        )
        reply_timeout = PARTS.reply_timeout(own_start, grid, args, kwargs)
        run = setup.begin(grid, _name_of(self), rounds, (self, arrays), reply_timeout)
        assert run.progress is not None, "checkpoints are kept"
        self._lowcarb_run, self._lowcarb_progress = run, run.progress
        self._lowcarb_evaluates, grid = Stage.EVALUATED, run.dispatching(grid)
        args, kwargs = PARTS.with_evaluation(partial(_recording, run), args, kwargs)
        status, finished = "failed", None
        with ending_in_order():
            try:
                result = own_start(grid, *args, **kwargs)
                if isinstance(result, Result):
                    config = evaluate_config or ConfigRecord()
                    on_clients = partial(self._lowcarb_evaluate_mean, run, grid, config, timeout)
                    self._lowcarb_average(run, result, on_clients, evaluate_fn)
                status = "completed"
            except (KeyboardInterrupt, SystemExit):
                status = "stopped"
                raise
            finally:
                self._lowcarb_run = None
                finished = close_ledger(run, status)
        if finished is not None and isinstance(result, Result):
            add_realised(result.train_metrics_clientapp, finished.rounds)
        return result

    def _lowcarb_average(
        self, run: Session, result: Result, on_clients: Callable[[ArrayRecord], MetricRecord | None],
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None,
    ) -> None:  # fmt: skip
        """Put the mean of models in the place of a run's result, where that is asked for."""
        progress = self._lowcarb_progress
        if progress.average is None:
            return
        last, evaluations = progress.place[0], {"clients": on_clients}
        if evaluate_fn is not None:
            evaluations["server"] = partial(evaluate_fn, last)
        result.arrays, metrics = progress.average.finish(result.arrays, evaluations)
        add_mean(result.evaluate_metrics_clientapp, last, metrics.get("clients"))
        add_mean(result.evaluate_metrics_serverapp, last, metrics.get("server"))

    def _lowcarb_evaluate_mean(
        self, run: Session, grid: Grid, config: ConfigRecord, timeout_s: float | None, arrays: ArrayRecord
    ) -> MetricRecord | None:
        """Evaluate the mean of models on clients as the last round's model was, if the deadline allows it."""
        progress, self._lowcarb_evaluates = self._lowcarb_progress, Stage.AVERAGED
        last = progress.place[0]
        if progress.is_done(last, Stage.AVERAGED):  # before a restart
            return progress.metrics(last, Stage.AVERAGED)
        if not (messages := list(self.configure_evaluate(last, arrays, config, grid))):
            return None
        if (timeout_s := run.time_to_evaluate(messages, timeout_s)) == 0:
            run.result_not_evaluated("no time is left before the deadline")
            return None
        metrics = self.aggregate_evaluate(last, grid.send_and_receive(messages, timeout=timeout_s))
        if metrics is None:
            run.result_not_evaluated("no node has answered")
        return metrics

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Hold until the round opens, then build messages for exactly the planned nodes."""
        inner: Any = super()
        if (run := self._lowcarb_run) is None and _setup_of(self).settings.enabled:
            raise InputError(
                "carbon_aware", "stands inside another strategy, which starts without it",
                "wrap the outermost: carbon_aware(DP(FedAvg())), not DP(carbon_aware(FedAvg()))",
            )  # fmt: skip
        if run is None:
            return inner.configure_train(server_round, arrays, config, grid)  # type: ignore[no-any-return]
        name, sampling = type(self).__name__, Sampling.of(self)
        if sampling.is_off:  # the strategy trains nobody; the scope still ends an endless wait for nodes
            scope = ScopedGrid(grid, list(grid.get_node_ids()), name)
            return list(inner.configure_train(server_round, arrays, config, scope))
        if self._lowcarb_progress.ask(server_round):
            return []  # trained before a restart
        if not run.has_ended:
            arrays = self._lowcarb_progress.begin(server_round, arrays, run.state())
            nodes = run.open_round(server_round, grid, sampling)
        if run.has_ended:
            self._lowcarb_result = arrays
            return []
        with pinned_sampling(self, "train", len(nodes)):
            scope = ScopedGrid(grid, nodes, name)
            sent = list(inner.configure_train(server_round, arrays, config, scope))
        check_addressed(name, nodes, [message.metadata.dst_node_id for message in sent])
        if (correction := self._lowcarb_progress.correction) is not None:
            correction.sent(sent)
        return self._lowcarb_sent(run, sent)

    def _lowcarb_sent(self, run: Session, messages: list[Message]) -> list[Message]:
        """Remember messages, which get their ids when they are pushed, and request a report in each."""
        if energy := run.requested_energy(self):
            ask(messages, energy)
        self._lowcarb_messages = messages
        return messages

    def _lowcarb_replies(
        self, run: Session, replies: Iterable[Message]
    ) -> tuple[list[tuple[int, Message]], dict[int, Any], dict[int, str]]:
        """Return node ids with replies in order, the reports of good ones and the errors of the others."""
        # Sums of floats depend on the order of replies. In the order of their nodes' names a resumed run ends
        # with the same weights, to the bit.
        asked = {id_of(message): message.metadata.dst_node_id for message in self._lowcarb_messages}
        self._lowcarb_messages = ()
        of_nodes = [(asked.get(id_answered(r), r.metadata.src_node_id), r) for r in replies]
        of_nodes.sort(key=lambda each: run.name_of(each[0]))
        done: dict[int, Mapping[str, Any] | None] = {}
        failed: dict[int, str] = {}
        for node_id, reply in of_nodes:
            if reply.has_content():
                done[node_id] = take(reply)
            else:
                failed[node_id] = one_line(reply.error.reason or f"error {reply.error.code}")
        return of_nodes, done, failed

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Account for the replies, and let the strategy aggregate them without the reports."""
        inner: Any = super()
        received = list(replies)
        if (run := self._lowcarb_run) is None:
            return inner.aggregate_train(server_round, received)  # type: ignore[no-any-return]
        if run.has_ended:
            return self._lowcarb_result, None  # arrays of the last round that has trained
        progress = self._lowcarb_progress
        if progress.is_done(server_round, Stage.TRAINED):
            return progress.arrays, progress.metrics(server_round, Stage.TRAINED)
        in_order, done, failed = self._lowcarb_replies(run, received)
        self._lowcarb_done = list(done)
        run.train_ended(done, failed)
        if progress.correction is not None:
            progress.correction.correct(server_round, in_order, run.nodes)
        arrays, metrics = inner.aggregate_train(server_round, [reply for _, reply in in_order])
        if progress.average is not None:
            progress.average.add(server_round, arrays)
        # A round that yields no model has no metrics in Flower's result, either.
        if arrays is not None and (opened := run.opened) is not None and opened.round == server_round:
            metrics = with_round(metrics, opened)
        trained = sorted(map(run.name_of, done))
        progress.train_ended(server_round, arrays, metrics, trained, run.state())
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Evaluate as the strategy samples, on the nodes that have trained, on all or none: see settings."""
        inner: Any = super()
        where = self._lowcarb_setup.settings.evaluate_on
        if (run := self._lowcarb_run) is None:
            return inner.configure_evaluate(server_round, arrays, config, grid)  # type: ignore[no-any-return]
        progress, stage = self._lowcarb_progress, self._lowcarb_evaluates
        if (run.has_ended and stage is Stage.EVALUATED) or progress.is_done(server_round, stage):
            return []
        if progress.is_done(server_round, Stage.TRAINED):
            self._lowcarb_done = run.find(progress.trained, grid)
        sampling, alive = Sampling.of(self), list(grid.get_node_ids())
        nodes = sampling.evaluating(where, alive, set(self._lowcarb_done))
        if not nodes:
            run.not_evaluated(len(alive), sampling.available)
            return []
        scope = ScopedGrid(grid, nodes, type(self).__name__)
        with evaluation_sampling(self, where, len(nodes)):
            sent = list(inner.configure_evaluate(server_round, arrays, config, scope))
        if sent:
            run.evaluation_begins(grid)
        return self._lowcarb_sent(run, sent)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Let the strategy aggregate the replies without the reports, and close the round."""
        inner: Any = super()
        received = list(replies)
        if (run := self._lowcarb_run) is None:
            return inner.aggregate_evaluate(server_round, received)  # type: ignore[no-any-return]
        progress, stage = self._lowcarb_progress, self._lowcarb_evaluates
        if run.has_ended and stage is Stage.EVALUATED:
            return None
        if progress.is_done(server_round, stage):
            return progress.metrics(server_round, stage)
        in_order, done, failed = self._lowcarb_replies(run, received)
        content = [reply for _, reply in in_order]
        metrics: MetricRecord | None = inner.aggregate_evaluate(server_round, content)
        # Metrics of the mean are none of the round's: they stand in the event of the result.
        run.evaluated(server_round, done, failed, metrics if stage is Stage.EVALUATED else None)
        progress.evaluated(server_round, stage, metrics, run.state())
        return metrics


class CarbonAwareFedAvg(CarbonAwareMixin, FedAvg):
    """Flower's FedAvg, carbon-aware: ``CarbonAwareFedAvg(...)`` is ``carbon_aware(FedAvg(...), ...)``.

    Parameters
    ----------
    *args, **kwargs
        Arguments of FedAvg, and keywords of :func:`carbon_aware`.

    Examples
    --------
    >>> CarbonAwareFedAvg(fraction_train=0.5, context=context, patience=0.8)  # doctest: +SKIP
    """


def _setup_of(strategy: CarbonAwareMixin) -> Setup:
    """Return the setup of a strategy."""
    try:
        return strategy._lowcarb_setup  # noqa: SLF001  its own
    except AttributeError:
        name = type(strategy).__name__
        fix = f"call super().__init__(...) in the __init__ of {name}"
        raise InputError("CarbonAwareMixin", f"was never set up in {name}", fix) from None


def _name_of(strategy: CarbonAwareMixin) -> str:
    """Return the name of the class that the user wrote, with or without the mixin."""
    cls = type(strategy)
    return str(vars(cls).get("_lowcarb_wraps", cls).__name__)


def close_ledger(run: Session, status: str) -> RunFinished | None:
    """Finish a run and return its last event; a fault in its accounts never costs the training's result."""
    try:
        return run.finish(status)
    except Exception as error:  # noqa: BLE001  whatever it is, the result of the training counts more
        logger.warning("lowcarb: the ledger could not be closed: %s: %s", type(error).__name__, error)
        return None
    finally:
        if run.notifier is not None:
            run.notifier.close()


def _recording(run: Session, evaluate_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return an evaluate_fn that also records its metrics."""

    def evaluate(server_round: int, arrays: ArrayRecord) -> Any:
        progress = run.progress
        assert progress is not None, "checkpoints are kept"
        if run.has_ended:
            return None  # nothing has changed since the last evaluation
        if progress.is_done(server_round, Stage.OVER):
            return progress.metrics(server_round, Stage.OVER)
        metrics = evaluate_fn(server_round, arrays)
        run.evaluated_here(server_round, metrics)
        progress.evaluated_here(server_round, metrics)
        return metrics

    return evaluate
