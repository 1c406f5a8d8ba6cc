"""ServerApp: FedAvg, and the accuracy on digits that no site trains on."""

import torch
from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import carbon_aware
from pytorch_digits.task import Net, accuracy, load_data

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and print the accuracy."""
    torch.manual_seed(0)
    strategy = carbon_aware(FedAvg(), context)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(Net().state_dict()),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    print(f"accuracy on unseen digits: {evaluate(0, result.arrays)['accuracy']:.1%}")


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the accuracy after a round; the ledger and the report keep it."""
    model = Net()
    model.load_state_dict(arrays.to_torch_state_dict())
    return MetricRecord({"accuracy": accuracy(model, load_data()[1])})
