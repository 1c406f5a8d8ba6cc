"""Client side: trains on the digits of its site."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from digits.task import site_data, train
from lowcarb_scheduler import CarbonClientApp

app = CarbonClientApp()


@app.train()
def train_site(message: Message, context: Context) -> Message:
    """Train on this site's data."""
    site, sites = int(context.node_config["partition-id"]), int(context.node_config["num-partitions"])
    x, y = site_data(site, sites)
    weights = message.content["arrays"].to_numpy_ndarrays()
    trained = train(
        weights, x, y, int(context.run_config["local-epochs"]), float(context.run_config["learning-rate"]),
        seed=1000 * int(message.content["config"]["server-round"]) + site,
    )  # fmt: skip
    reply = RecordDict(
        {"arrays": ArrayRecord(trained), "metrics": MetricRecord({"num-examples": len(y)})}
    )  # fmt: skip
    return Message(reply, reply_to=message)
