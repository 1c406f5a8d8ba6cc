"""Settings of the study, and the tasks and schedules that all of them have."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

from accuracy_study.data import Skew
from accuracy_study.world import Setting

SETTINGS: Final = {
    "main": Setting(),
    "region 0.3": Setting(Skew(0.3)),
    "region 1": Setting(Skew(1.0)),
    "alike": Setting(Skew(math.inf)),
    "client 0.1": Setting(Skew(0.1, by="client")),
    "4 places": Setting(places=4),
    "32 places": Setting(places=32),
    "sizes by client": Setting(Skew(sizes=10.0)),
    "sizes by region": Setting(Skew(sizes=10.0, sizes_by="region")),
}
NAMES: Final = {
    "main": "Dirichlet 0.1 by region",
    "region 0.3": "Dirichlet 0.3 by region",
    "region 1": "Dirichlet 1 by region",
    "alike": "everybody's data alike",
    "client 0.1": "Dirichlet 0.1 by client",
    "4 places": "4 places",
    "32 places": "32 places",
    "sizes by client": "10 : 1 in size, by client",
    "sizes by region": "10 : 1 in size, by region",
}


class Few(NamedTuple):
    """Tasks and schedules of a study that is no full one."""

    tasks: tuple[str, ...]
    schedules: tuple[str, ...]


FEW: Final = Few(
    ("softmax", "network"), ("plain", "again", "plain-corrected", "free-off", "balance", "defaults")
)
# Of other settings: plans that know the hours, as those of runs take a hundred times as long to make.
OTHERS: Final = Few(FEW.tasks, ("plain", "again", "foreseen-differ"))
