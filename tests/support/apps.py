"""ClientApps, node configurations and grids for runs in tests."""

from __future__ import annotations

import json
from datetime import timedelta

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

from lowcarb_scheduler import CarbonClientApp
from lowcarb_scheduler.flower.client import QUERY
from lowcarb_scheduler.testing import InMemoryGrid

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
PLACES = ("DE", "FR", "GB", "ES", "US-CAL-CISO")


def node_configs(count, places=PLACES, **more):
    """Return the configurations of nodes that take turns at the places."""
    return [{"partition-id": k, "location": places[k % len(places)], **more} for k in range(count)]


def learn(arrays, node, number):
    """Return a model that differs by node and round, so that the result shows who trained when."""
    return [array + np.sin(1.0 + node + number) / (k + 1) for k, array in enumerate(arrays)]


def add_one(arrays, node, number):
    return [array + 1 for array in arrays]


def do_nothing(node, number):
    """Let a turn take no time."""


def takes(clock, length):
    """Return a hook by which one turn of each round takes ``length(round)``, and the others no time."""
    worked = set()

    def work(node, number):
        if number not in worked:
            worked.add(number)
            clock.work(length(number))

    return work


def fails(when):
    """Return a hook by which a turn fails if ``when(node, round)``."""

    def fail(node, number):
        if when(node, number):
            raise RuntimeError("out of memory")

    return fail


def make_app(
    step=learn,
    *,
    examples=lambda node: 5 + node,
    on_train=do_nothing,
    on_evaluate=do_nothing,
    app=None,
    mods=None,
):
    """Return an app whose nodes train by ``step(arrays, node, round)``; those with ``breaks`` set fail.

    The hooks are called with node and round at the beginning of a turn, and may raise.
    """
    app = CarbonClientApp() if app is None else app

    @app.train(mods=mods)
    def train(message, context):
        node, number = _turn(message, context)
        on_train(node, number)
        if context.node_config.get("breaks"):
            raise RuntimeError("out of memory")
        arrays = step(message.content["arrays"].to_numpy_ndarrays(), node, number)
        metrics = MetricRecord({"num-examples": examples(node), "train_loss": 1.0 / (node + number)})
        return Message(RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        node, number = _turn(message, context)
        on_evaluate(node, number)
        score = float(message.content["arrays"].to_numpy_ndarrays()[0].sum())
        metrics = MetricRecord({"num-examples": examples(node), "score": score})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def make_tree_app(on_train=do_nothing):
    """Return an app whose model is JSON in bytes, as XGBoost's: each node adds a tree with its own name."""
    app = CarbonClientApp()

    @app.train()
    def train(message, context):
        node, number = _turn(message, context)
        on_train(node, number)
        model = {
            "gbtree_model_param": {"num_trees": "1", "num_parallel_tree": "1"},
            "iteration_indptr": [0, 1],
            "trees": [{"id": 0, "grown_by": node}],
            "tree_info": [0],
        }
        grown = json.dumps({"learner": {"gradient_booster": {"model": model}}}).encode()
        arrays = ArrayRecord([np.frombuffer(grown, dtype=np.uint8)])
        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @app.evaluate()
    def evaluate(message, context):
        metrics = MetricRecord({"num-examples": 1, "bytes": len(message.content["arrays"]["0"].numpy())})
        return Message(RecordDict({"metrics": metrics}), reply_to=message)

    return app


def _turn(message, context):
    return context.node_config.get("partition-id", 0), message.content["config"]["server-round"]


class WorkingGrid(InMemoryGrid):
    """Nodes of 1 kW in two places; one turn of each round takes ``length``, and the others no time."""

    def __init__(self, nodes=6):
        self.clock, self.length, self._worked = None, HOUR, set()
        configs = node_configs(nodes, PLACES[:2], **{"power-watts": 1000.0})
        super().__init__(make_app(on_train=self._work), configs)

    def _work(self, node, number):
        if self.clock is not None and number not in self._worked:
            self._worked.add(number)
            self.clock.work(self.length)


def make_grid(machine, minutes, edit=None):
    """Return a grid of six nodes in DE, GB and ES; one turn of each round takes ``minutes(round)``.

    ``edit`` may change replies; it is called with message and reply.
    """
    app = make_app(on_train=takes(machine, lambda number: minutes(number) * MINUTE))
    return EditingGrid(app, node_configs(6, ("DE", "GB", "ES")), edit)


class EditingGrid(InMemoryGrid):
    """A grid whose replies pass through a function of message and reply, which may change them."""

    def __init__(self, app, configs, edit=None):
        super().__init__(app, configs)
        self._edit = edit

    def _reply(self, message):
        reply = super()._reply(message)
        if self._edit is not None and reply.has_content():
            self._edit(message, reply)
        return reply


class SilentGrid(InMemoryGrid):
    """A grid some nodes of which do not answer the profile query, or answer it late.

    Attributes
    ----------
    silent : set of int
        Nodes whose answers are kept back.
    clock : Machine or None
        Clock that passes while somebody waits for replies that do not come.
    """

    def __init__(self, configs, app=None):
        super().__init__(app or make_app(), configs)
        self.silent, self.clock, self._kept = set(), None, {}

    def answer(self, *node_ids):
        """Let the answers through that were kept back of some nodes."""
        for node_id in node_ids:
            self._replies |= self._kept.pop(node_id, {})

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        for message_id, message in zip(ids, self.sent[len(self.sent) - len(ids) :], strict=True):
            node_id = message.metadata.dst_node_id
            if node_id in self.silent and message.metadata.message_type == QUERY:
                self._kept[node_id] = {message_id: self._replies.pop(message_id)}
        return ids

    def send_and_receive(self, messages, *, timeout=None):
        ids = self.push_messages(messages)
        replies = self.pull_messages(ids)
        if len(replies) < len(ids) and self.clock is not None:
            self.clock.work(timedelta(seconds=timeout))
        return replies
