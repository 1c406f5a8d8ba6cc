"""What makes any inner strategy train exactly the planned nodes.

Flower's strategies sample from ``grid.get_node_ids()`` with fractions and minimums of their own, and wait
without end for a minimum that is not there. A scoped grid shows them the planned nodes only, pinned sampling
makes them take all of these, and a count of polls turns the endless wait into an error.
"""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from flwr.serverapp import Grid

from lowcarb_scheduler.errors import PlanMismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MOST_POLLS: Final = 20  # a strategy asks once or twice; one that waits asks each second


class GridBefore(Grid):
    """A Grid that stands before another one and passes everything on.

    Parameters
    ----------
    grid : Grid
        Does the work.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid

    def get_node_ids(self) -> Iterable[int]:
        """Pass on."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[Any]:
        """Pass on."""
        return self._grid.get_nodes()

    def set_run(self, run: Any) -> None:
        """Pass on."""
        self._grid.set_run(run)

    @property
    def run(self) -> Any:
        """The run of the grid behind."""
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Any:
        """Pass on."""
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Any) -> Iterable[str]:
        """Pass on."""
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Any) -> Iterable[Any]:
        """Pass on."""
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Any, *, timeout: float | None = None) -> Iterable[Any]:
        """Pass on."""
        return self._grid.send_and_receive(messages, timeout=timeout)


class Polls:
    """Counts how often a strategy asks who is there, and ends a wait that would have no end.

    Parameters
    ----------
    strategy : str
        Who asks.
    node_ids : sequence of int
        The nodes it is shown.
    """

    def __init__(self, strategy: str, node_ids: Sequence[int]) -> None:
        self._strategy, self._node_ids = strategy, node_ids
        self._polls = 0

    def count(self) -> None:
        """Count one more.

        Raises
        ------
        PlanMismatchError
            If there were too many: the strategy waits for nodes that are not in the plan.
        """
        self._polls += 1
        if self._polls > _MOST_POLLS:
            fix = "it waits for more: raise lowcarb-clients-per-round or lower the strategy's minimum"
            raise PlanMismatchError(self._strategy, self._node_ids, (), fix)


class ScopedGrid(GridBefore):
    """A Grid that shows only some of its nodes.

    Parameters
    ----------
    grid : Grid
        Does the work.
    node_ids : sequence of int
        The nodes to show.
    strategy : str
        Who looks, for the error.
    """

    def __init__(self, grid: Grid, node_ids: Sequence[int], strategy: str) -> None:
        super().__init__(grid)
        self._node_ids, self._polls = list(node_ids), Polls(strategy, node_ids)

    def get_node_ids(self) -> Iterable[int]:
        """Return the nodes in scope.

        Raises
        ------
        PlanMismatchError
            If it is asked again and again: the strategy waits for nodes that are not in the plan.
        """
        self._polls.count()
        return list(self._node_ids)

    def get_nodes(self) -> Iterable[Any]:
        """Return what is known of the nodes in scope; it raises like :meth:`get_node_ids`."""
        self._polls.count()
        scope = set(self._node_ids)
        return [node for node in self._grid.get_nodes() if node.node_id in scope]


@contextmanager
def pinned_sampling(strategy: Any, phase: str, nodes: int) -> Iterator[None]:
    """Make a strategy, and those it wraps, sample all of the nodes it sees.

    Parameters
    ----------
    strategy : Strategy
        Any; only attributes that exist are touched, and restored on exit. ``num_sampled_clients`` of the
        differential-privacy wrappers stays: their noise is computed from it when they aggregate.
    phase : {"train", "evaluate"}
        Which sampling to pin. A fraction of 0 evaluates nowhere, and stays.
    nodes : int
        How many there are.
    """
    # Some strategies sample for evaluation with the numbers of training: all are pinned in both phases.
    pins = {
        "fraction_train": 1.0, "fraction_evaluate": 1.0,
        "min_train_nodes": nodes, "min_evaluate_nodes": nodes, "min_available_nodes": nodes,
        # of the old API
        "fraction_fit": 1.0, "min_fit_clients": nodes, "min_evaluate_clients": nodes,
        "min_available_clients": nodes,
    }  # fmt: skip
    saved: list[tuple[Any, str, Any]] = []
    try:
        for layer in layers(strategy):
            if hasattr(layer, "num_sampled_clients") and phase == "train":
                layer.num_sampled_clients = nodes
            nowhere = getattr(layer, "fraction_evaluate", None) == 0
            for name, value in pins.items():
                if hasattr(layer, name) and not (name == "fraction_evaluate" and nowhere):
                    before = getattr(layer, name)
                    with suppress(AttributeError):  # a property; what it makes of the nodes is checked after
                        setattr(layer, name, value)
                        saved.append((layer, name, before))
        yield
    finally:
        for layer, name, value in saved:
            setattr(layer, name, value)


def check_addressed(strategy: str, planned: Sequence[int], addressed: Sequence[int]) -> None:
    """Check that a strategy sends each planned node one message, and no other node any.

    Raises
    ------
    PlanMismatchError
        If it does not.
    """
    if sorted(addressed) == sorted(planned):
        return
    if 0 < len(addressed) < len(planned):
        fix = f"if it trains no more at a time, lowcarb-clients-per-round = {len(addressed)}"
    else:
        fix = "it has to send one message to each node of the grid that it is given"
    raise PlanMismatchError(strategy, sorted(planned), sorted(addressed), fix)


class Sampling(NamedTuple):
    """How a strategy samples the nodes of a round by itself.

    Parameters
    ----------
    fraction : float or None
        Of the nodes that are there; None for a strategy that does not tell.
    at_least : int
        With fewer it is not content.
    available : int
        So many are to be there when it samples.
    """

    fraction: float | None = None
    at_least: int = 1
    available: int = 0

    @classmethod
    def of(cls, strategy: Any) -> Sampling:
        """Return how the innermost layer samples that does, by the names of the new API or of the old one."""
        for names in (("fraction_train", "min_train_nodes", "min_available_nodes"),
                      ("fraction_fit", "min_fit_clients", "min_available_clients")):  # fmt: skip
            for layer in reversed([*layers(strategy)]):
                if hasattr(layer, names[0]):
                    fraction, at_least, available = (getattr(layer, name, None) for name in names)
                    return cls(fraction, 1 if at_least is None else at_least, available or 0)
        return cls()

    @property
    def is_off(self) -> bool:
        """Whether it trains nobody."""
        return self.fraction == 0 and self.at_least == 0

    def size(self, there: int, told: int | None) -> tuple[int, int]:
        """Return how many are to train, as told or as it would, and with how many it is content."""
        own = there if self.fraction is None else int(there * self.fraction)
        wanted = told or max(own, self.at_least, 1)
        return wanted, max(1, min(self.at_least, wanted))


def layers(strategy: Any) -> Iterator[Any]:
    """Yield a strategy and those it wraps, outermost first, each once."""
    seen: list[Any] = []
    while strategy is not None and not any(strategy is layer for layer in seen):
        seen.append(strategy)
        yield strategy
        strategy = getattr(strategy, "strategy", None)
