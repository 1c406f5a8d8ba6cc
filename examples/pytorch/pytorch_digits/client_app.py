"""ClientApp: trains and evaluates on the digits of its own site."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict

from lowcarb_scheduler import CarbonClientApp
from pytorch_digits.task import Net, accuracy, site_data, train

app = CarbonClientApp()


def model_and_data(message: Message, context: Context):
    """Return the received model and the images of this site."""
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    sites = int(context.node_config["num-partitions"])
    return model, site_data(int(context.node_config["partition-id"]), sites)


@app.train()
def train_here(message: Message, context: Context) -> Message:
    """Train on this site's images."""
    model, images = model_and_data(message, context)
    train(model, images, int(context.run_config["local-epochs"]))
    metrics = MetricRecord({"num-examples": len(images[1])})
    reply = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(reply, reply_to=message)


@app.evaluate()
def evaluate_here(message: Message, context: Context) -> Message:
    """Evaluate on this site's images."""
    model, images = model_and_data(message, context)
    metrics = MetricRecord({"num-examples": len(images[1]), "accuracy": accuracy(model, images)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
