"""ClientApp: trains and evaluates on the points of its own site."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from lowcarb_scheduler import CarbonClientApp
from quickstart_numpy.task import loss, site_data, train

app = CarbonClientApp()


@app.train()
def train_here(message: Message, context: Context) -> Message:
    """Train on this site's points."""
    x, y = site_data(seed=int(context.node_config["partition-id"]))
    trained = train(message.content["arrays"].to_numpy_ndarrays(), x, y)
    metrics = MetricRecord({"num-examples": len(x)})
    return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate_here(message: Message, context: Context) -> Message:
    """Evaluate on this site's points."""
    x, y = site_data(seed=int(context.node_config["partition-id"]))
    found = loss(message.content["arrays"].to_numpy_ndarrays(), x, y)
    metrics = MetricRecord({"num-examples": len(x), "loss": found})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
