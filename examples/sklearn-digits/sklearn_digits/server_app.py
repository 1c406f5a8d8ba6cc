"""ServerApp: FedAvg, and the accuracy on digits that no site trains on."""

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import carbon_aware
from sklearn_digits.task import accuracy, load_data, new_weights

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and print the accuracy."""
    strategy = carbon_aware(FedAvg(), context)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(new_weights()),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    _, _, x, y = load_data()
    print(f"accuracy on unseen digits: {accuracy(result.arrays.to_numpy_ndarrays(), x, y):.1%}")


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the accuracy after a round; the ledger and the report keep it."""
    _, _, x, y = load_data()
    return MetricRecord({"accuracy": accuracy(arrays.to_numpy_ndarrays(), x, y)})
