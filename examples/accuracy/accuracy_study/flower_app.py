"""One run of the study as a Flower app, for ``flwr run`` on simulated or real nodes; and its start.

The world is small: 20 clients in 4 places, of which 4 train in each of 10 rounds.
"""

from __future__ import annotations

import json
import tempfile
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from flwr.serverapp import ServerApp

from accuracy_study.schedules import ALL, VirtualClock, aware, trained
from accuracy_study.task import TASKS
from accuracy_study.world import Intensities, Setting, World
from lowcarb_scheduler import CarbonClientApp
from lowcarb_scheduler.demo.federation import federation, tail
from lowcarb_scheduler.errors import RunFailedError

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.serverapp import Grid

    from accuracy_study.task import Task

SMALL: Final = Setting(places=4, clients=20, clients_per_round=4, rounds=10)
YEAR: Final = Intensities(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 12, 31, tzinfo=UTC))
_TIMEOUT_S: Final = 600

server_app = ServerApp()
client_app = CarbonClientApp()


@lru_cache(maxsize=4)
def small_world(seed: int) -> World:
    """Return the world of a run through ``flwr run``."""
    return World(SMALL, YEAR, seed, 0, 1)


def _asked(context: Context) -> tuple[World, Task]:
    return small_world(int(context.run_config["seed"])), TASKS[str(context.run_config["task"])]


@client_app.train()
def train_here(message: Message, context: Context) -> Message:
    """Train on the examples of the node's partition."""
    world, task = _asked(context)
    return world.trained(task, message, int(context.node_config["partition-id"]))


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    """Train, and write the scores of all rounds to the file that the run-config names."""
    world, task = _asked(context)
    settings = ALL[str(context.run_config["schedule"])].settings
    assert settings is not None, "only carbon-aware schedules have clients that do not depend on node ids"
    with tempfile.TemporaryDirectory() as folder:
        places = Path(folder) / "locations.toml"
        places.write_text(_locations(world), encoding="utf-8")
        strategy = aware(
            world, Path(folder), locations=places, clock=VirtualClock(world.case.start), **settings
        )
        scores, final = trained(world, task, strategy, grid)
    found = {"scores": scores, "final": final}
    Path(str(context.run_config["results-file"])).write_text(json.dumps(found), encoding="utf-8")


def _locations(world: World) -> str:
    """Return a locations file: simulated nodes know no more of themselves than their partition."""
    return "".join(
        f'{own["partition-id"]} = {{ location = "{own["location"]}", power-watts = {own["power-watts"]} }}\n'
        for own in world.node_configs()
    )


def through_flower(folder: Path, seed: int, task: str, schedule: str) -> dict[str, Any]:
    """Follow a schedule through ``flwr run``, with nodes that Ray simulates.

    Parameters
    ----------
    folder : Path
        For results and logs.
    seed : int
        Seed of the world.
    task, schedule : str
        Names; the schedule is a carbon-aware one.

    Returns
    -------
    dict
        ``scores`` of all rounds and the ``final`` one.

    Raises
    ------
    RunFailedError
        If the run fails.
    """
    found, log = folder.absolute() / f"{schedule}-{task}.json", folder / f"{schedule}-{task}.log"
    config = {"seed": seed, "task": task, "schedule": schedule, "results-file": str(found)}
    with federation(folder / "flower", SMALL.clients) as local:
        if local.run(Path(__file__).parents[1], config, log).wait(_TIMEOUT_S) != 0:
            raise RunFailedError("flwr run failed", tail(log), str(log))
    result: dict[str, Any] = json.loads(found.read_text(encoding="utf-8"))
    return result
