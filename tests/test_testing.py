"""The test kit: its nodes behave as those behind a SuperLink do."""

from __future__ import annotations

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedMedian

from lowcarb_scheduler import CarbonClientApp
from lowcarb_scheduler.testing import InMemoryGrid


def make_grid(count=3):
    app = CarbonClientApp()

    @app.train()
    def train(message, context):
        if context.node_config["partition-id"] == 2:
            raise RuntimeError("out of memory")
        metrics = MetricRecord({"num-examples": 1})
        reply = {"arrays": message.content["arrays"], "metrics": metrics}  # as it came
        return Message(RecordDict(reply), reply_to=message)

    return InMemoryGrid(app, [{"partition-id": k} for k in range(count)])


def test_what_a_strategy_does_to_one_reply_it_does_to_no_other():
    strategy = FedMedian(fraction_evaluate=0.0)  # takes arrays out of the replies it gets
    result = strategy.start(make_grid(2), ArrayRecord([np.arange(3.0)]), num_rounds=2)
    assert result.arrays.to_numpy_ndarrays()[0].tolist() == [0.0, 1.0, 2.0]


def test_a_message_stays_as_it_was_sent():
    grid, config = make_grid(), ConfigRecord({"server-round": 1})
    content = RecordDict({"arrays": ArrayRecord([np.zeros(1)]), "config": config})
    grid.push_messages([Message(content, 101, MessageType.TRAIN)])
    config["server-round"] = 2
    assert grid.sent[0].content["config"]["server-round"] == 1


def test_replies_of_nodes_that_fail_are_gone_or_come_back():
    grid = make_grid()
    grid.kill(102)
    assert list(grid.get_node_ids()) == [101, 103]
    content = RecordDict({"arrays": ArrayRecord([np.zeros(1)])})
    sent = [Message(content, node_id, MessageType.TRAIN) for node_id in (101, 102, 103)]
    replies = list(grid.send_and_receive(sent))
    assert [reply.has_content() for reply in replies] == [True, False, False]
    assert [reply.metadata.src_node_id for reply in replies] == [101, 1, 103]  # a SuperLink names nobody
    assert "out of memory" in replies[2].error.reason
    assert [r.metadata.reply_to_message_id for r in replies] == [m.metadata.message_id for m in sent]
    grid.revive(102)
    assert list(grid.get_node_ids()) == [101, 102, 103]
    assert next(iter(grid.send_and_receive(sent[1:2]))).has_content()
