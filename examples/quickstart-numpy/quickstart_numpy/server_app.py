"""ServerApp: FedAvg."""

from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from lowcarb_scheduler import carbon_aware
from quickstart_numpy.task import new_weights

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Train a line."""
    strategy = carbon_aware(FedAvg(), context)
    result = strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord(new_weights()),
        num_rounds=int(context.run_config["num-server-rounds"]),
    )
    slope, offset = result.arrays.to_numpy_ndarrays()[0]
    print(f"the line is y = {slope:.2f} x {offset:+.2f}")
