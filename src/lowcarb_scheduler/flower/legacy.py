"""Carbon-aware strategies of Flower's legacy API, ``flwr.server.strategy``.

::

    def server_fn(context):
        strategy = carbon_aware_legacy(FedAvg(), context, num_rounds=3)
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=3))

A round is held in ``configure_fit``, and the strategy then sees a client manager of the planned clients only.
Locations come from the server's locations file or from ``CarbonClientApp(client_fn=...)``.
"""

from __future__ import annotations

import random
import weakref
from typing import TYPE_CHECKING, Any, cast

from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.flower.compat import legacy_part, node_id_of
from lowcarb_scheduler.flower.grid import (
    ForwardingGrid,
    Polls,
    Sampling,
    check_addressed,
    evaluation_sampling,
    pinned_sampling,
)
from lowcarb_scheduler.flower.setup import Setup
from lowcarb_scheduler.flower.strategy import close_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from flwr.app import Context
    from flwr.server.client_manager import ClientManager
    from flwr.server.client_proxy import ClientProxy
    from flwr.server.criterion import Criterion
    from flwr.server.strategy import Strategy

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.flower.session import Session
    from lowcarb_scheduler.forecasts.base import ForecastSource
else:
    ClientManager = legacy_part("flwr.server.client_manager", "ClientManager")
    Strategy = legacy_part("flwr.server.strategy", "Strategy")


def carbon_aware_legacy(
    strategy: Strategy,
    context: Context | None = None,
    *,
    num_rounds: int,
    source: ForecastSource | str | None = None,
    clock: Clock | str | None = None,
    **settings: Any,
) -> Strategy:
    """Make a strategy of the legacy API wait for clean electricity.

    Parameters
    ----------
    strategy : Strategy
        Any strategy of ``flwr.server.strategy``.
    context : Context, optional
        Context of ``server_fn``; its run-config may hold settings as ``lowcarb-...``.
    num_rounds : int
        As in ``ServerConfig``, which the legacy API does not show to a strategy.
    source, clock, **settings
        As in :func:`lowcarb_scheduler.carbon_aware`. Staggered starts are not possible.

    Returns
    -------
    Strategy
        For ``ServerAppComponents`` or ``start_simulation``.

    Raises
    ------
    InputError
        If a setting is unknown, impossible, or not possible here.
    """
    setup = Setup(context, source, clock, settings)
    if setup.settings.stagger:
        fix = "leave it out, or use a strategy of flwr.serverapp"
        raise InputError("lowcarb-stagger", "is not possible with the old API", fix)
    return CarbonAwareLegacy(strategy, setup, num_rounds) if setup.settings.enabled else strategy


class CarbonAwareLegacy(Strategy):
    """Carbon-aware strategy of the legacy API around another one; see :func:`carbon_aware_legacy`."""

    def __init__(self, strategy: Strategy, setup: Setup, num_rounds: int) -> None:
        self._inner, self._setup, self._num_rounds = strategy, setup, num_rounds
        self._name = type(strategy).__name__
        self._run: Session | None = None
        self._done: set[int] = set()

    # -- Hooks of Flower, in the order of their calls -------------------------------------------------------

    def initialize_parameters(self, client_manager: ClientManager) -> Any:
        """Begin the run, and let the strategy initialise its parameters."""
        self._begin(_Clients(client_manager))
        return self._inner.initialize_parameters(client_manager=client_manager)

    def configure_fit(self, server_round: int, parameters: Any, client_manager: ClientManager) -> list[Any]:
        """Hold until the round opens, then let the strategy instruct exactly the planned clients."""
        clients, self._done = _Clients(client_manager), set()
        run, sampling = self._begin(clients), Sampling.of(self._inner)
        if sampling.is_off:  # the strategy trains nobody
            return self._inner.configure_fit(
                server_round=server_round, parameters=parameters, client_manager=client_manager
            )
        nodes = run.open_round(server_round, clients, sampling)
        # Only now: before the first round the clients, and with them the grid, may not be connected.
        self._setup.check_clock(clients.grid)
        if not nodes:
            return []  # the deadline has passed
        with pinned_sampling(self._inner, "train", len(nodes)):
            instructions = self._inner.configure_fit(
                server_round=server_round, parameters=parameters,
                client_manager=_ScopedManager(client_manager, clients.proxies(nodes), self._name),
            )  # fmt: skip
        check_addressed(self._name, nodes, [node_id_of(proxy) for proxy, _ in instructions])
        return instructions

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Account for the results, and let the strategy aggregate."""
        self._done = {node_id_of(proxy) for proxy, _ in results}
        if self._run is not None:
            self._run.train_ended(dict.fromkeys(self._done), self._failed(failures))
        return self._inner.aggregate_fit(server_round, results, failures)

    def evaluate(self, server_round: int, parameters: Any) -> Any:
        """Let the strategy evaluate on the server, and record its metrics."""
        evaluation = self._inner.evaluate(server_round, parameters=parameters)
        if self._run is not None and evaluation is not None:
            loss, metrics = evaluation
            self._run.evaluated_here(server_round, {"loss": loss, **metrics})
        return evaluation

    def configure_evaluate(
        self, server_round: int, parameters: Any, client_manager: ClientManager
    ) -> list[Any]:
        """Evaluate as the strategy samples, on clients that have trained, on all or none: see settings."""
        clients, where = _Clients(client_manager), self._setup.settings.evaluate_on
        sampling, alive = Sampling.of(self._inner), list(clients.get_node_ids())
        has_ended = self._run is not None and self._run.has_ended
        nodes = [] if has_ended else sampling.evaluating(where, alive, self._done)
        instructions: list[Any] = []
        if nodes:
            manager = _SamplingManager if where == "strategy" else _ScopedManager
            with evaluation_sampling(self._inner, where, len(nodes)):
                instructions = self._inner.configure_evaluate(
                    server_round=server_round, parameters=parameters,
                    client_manager=manager(client_manager, clients.proxies(nodes), self._name),
                )  # fmt: skip
        elif self._run is not None:
            self._run.not_evaluated(len(alive), sampling.available)
        if self._run is not None and instructions:
            self._run.evaluation_begins(clients)
        elif self._run is not None:  # Flower does not call aggregate_evaluate where nobody evaluates
            self._run.close_round()
            self._end_after(server_round)
        return instructions

    def aggregate_evaluate(self, server_round: int, results: Any, failures: Any) -> Any:
        """Let the strategy aggregate, and close the round."""
        loss, metrics = aggregated = self._inner.aggregate_evaluate(server_round, results, failures)
        if self._run is not None:
            done = {node_id_of(proxy): None for proxy, _ in results}
            numbers = {**({} if loss is None else {"loss": loss}), **metrics}
            self._run.evaluated(server_round, done, dict(enumerate(map(str, failures))), numbers)
            self._end_after(server_round)
        return aggregated

    # -- Beginning and end ----------------------------------------------------------------------------------

    def _begin(self, clients: _Clients) -> Session:
        if self._run is None:
            self._run = self._setup.begin(clients.grid or clients, self._name, self._num_rounds)
            # The legacy API does not tell a strategy that a run was aborted: that is noticed only when the
            # strategy is garbage collected.
            self._broken_off = weakref.finalize(self, close_ledger, self._run, "failed")
        return self._run

    def _end_after(self, server_round: int) -> None:
        if self._run is not None and server_round >= self._num_rounds:
            self._broken_off.detach()
            close_ledger(self._run, "completed")
            self._run = None

    def _failed(self, failures: Iterable[Any]) -> Mapping[int, str]:
        """Return the reasons of failures by node id; a plain exception does not name its client."""
        return {
            node_id_of(failure[0]): one_line(failure[1].status.message or "no reason")
            for failure in failures
            if isinstance(failure, tuple)
        }


class _Clients(ForwardingGrid):
    """Grid of the clients of a client manager.

    Clients of a ServerApp are nodes of a real Grid; those of ``start_simulation`` have none.
    """

    def __init__(self, manager: ClientManager) -> None:
        self._manager = manager
        self._all()

    def proxies(self, node_ids: Iterable[int]) -> dict[str, ClientProxy]:
        """Return the clients on these nodes."""
        wanted = set(node_ids)
        return {proxy.cid: proxy for proxy in self._all() if node_id_of(proxy) in wanted}

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes of all clients."""
        return [node_id_of(proxy) for proxy in self._all()]

    def get_nodes(self) -> Iterable[Any]:
        """Return the registration of each node, where there is a Grid."""
        return self.grid.get_nodes() if self.grid else []

    def known_claims(self, node_ids: Iterable[int]) -> dict[int, Mapping[str, Any]] | None:
        """Return the partition of each client, where nodes cannot be queried; None where they can."""
        if self.grid:
            return None
        # Proxies of start_simulation carry the partition, which is the only lasting name of a client there.
        partitions = {node_id_of(proxy): getattr(proxy, "partition_id", None) for proxy in self._all()}
        return {n: {"partition-id": partitions[n]} for n in node_ids if partitions.get(n) is not None}

    def _all(self) -> Sequence[Any]:
        proxies = list(self._manager.all().values())
        grids = (proxy.grid for proxy in proxies if hasattr(proxy, "grid"))
        self.grid = self._grid = cast("Any", next(grids, None))
        return proxies


class _ScopedManager(ClientManager):
    """Client manager of the planned clients: it samples all of them, and waits for no others."""

    def __init__(self, manager: ClientManager, planned: Mapping[str, ClientProxy], strategy: str) -> None:
        self._manager, self._planned = manager, dict(planned)
        self._polls = Polls(strategy, [node_id_of(proxy) for proxy in planned.values()])

    def num_available(self) -> int:
        """Return the number of clients; too many calls raise an error instead of an endless wait."""
        self._polls.count()
        return len(self._planned)

    def all(self) -> dict[str, ClientProxy]:
        """Return the clients; too many calls raise an error."""
        self._polls.count()
        return dict(self._planned)

    def wait_for(self, num_clients: int, timeout: int = 0) -> bool:
        """Return at once whether there are as many clients; too many calls raise an error."""
        return self.num_available() >= num_clients

    def sample(
        self, num_clients: int, min_num_clients: int | None = None, criterion: Criterion | None = None
    ) -> list[ClientProxy]:
        """Return all clients that meet the criterion, however many are asked for."""
        return [proxy for proxy in self.all().values() if criterion is None or criterion.select(proxy)]

    def register(self, client: ClientProxy) -> bool:
        """Register with the manager behind."""
        return self._manager.register(client)

    def unregister(self, client: ClientProxy) -> None:
        """Unregister with the manager behind."""
        self._manager.unregister(client)


class _SamplingManager(_ScopedManager):
    """Client manager that samples at random, like Flower's own, but waits for nobody."""

    def sample(
        self, num_clients: int, min_num_clients: int | None = None, criterion: Criterion | None = None
    ) -> list[ClientProxy]:
        """Return clients that meet the criterion, at random; none where there are fewer."""
        able = super().sample(num_clients, min_num_clients, criterion)
        return random.sample(able, num_clients) if num_clients <= len(able) else []
