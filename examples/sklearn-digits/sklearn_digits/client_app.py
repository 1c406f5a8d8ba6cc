"""ClientApp: trains and evaluates on the digits of its own site."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from lowcarb_scheduler import CarbonClientApp
from sklearn_digits.task import accuracy, site_data, train

app = CarbonClientApp()


def own_data(context: Context):
    """Return the images of this site."""
    return site_data(int(context.node_config["partition-id"]), int(context.node_config["num-partitions"]))


@app.train()
def train_here(message: Message, context: Context) -> Message:
    """Train on this site's images."""
    x, y = own_data(context)
    weights = message.content["arrays"].to_numpy_ndarrays()
    trained = train(weights, x, y, int(context.run_config["local-epochs"]))
    metrics = MetricRecord({"num-examples": len(y)})
    return Message(RecordDict({"arrays": ArrayRecord(trained), "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate_here(message: Message, context: Context) -> Message:
    """Evaluate on this site's images."""
    x, y = own_data(context)
    found = accuracy(message.content["arrays"].to_numpy_ndarrays(), x, y)
    metrics = MetricRecord({"num-examples": len(y), "accuracy": found})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
