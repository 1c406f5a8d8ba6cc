"""Server side: FedAvg, made carbon-aware in one line."""

import json
import random
from pathlib import Path

from flwr.app import ArrayRecord, Context, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from digits.task import accuracy, load_data, new_weights
from lowcarb_scheduler import carbon_aware

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and write the accuracy of each round to the file that the run-config names."""
    random.seed(0)  # plain FedAvg samples its nodes with it
    fraction = float(context.run_config["fraction-train"])
    strategy = carbon_aware(FedAvg(fraction_train=fraction, fraction_evaluate=0.0), context)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(new_weights()),
        num_rounds=int(context.run_config["num-server-rounds"]),
        evaluate_fn=evaluate,
    )
    if results_file := str(context.run_config["results-file"]):
        found = {number: metrics["accuracy"] for number, metrics in result.evaluate_metrics_serverapp.items()}
        Path(results_file).write_text(json.dumps({"accuracy": found}), encoding="utf-8")


def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
    """Return the accuracy on digits that no site has seen."""
    _, _, test_x, test_y = load_data()
    return MetricRecord({"accuracy": accuracy(arrays.to_numpy_ndarrays(), test_x, test_y)})
