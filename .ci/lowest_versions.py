"""Write the lowest versions that pyproject.toml admits, as constraints for pip.

Run ``python .ci/lowest_versions.py > constraints.txt``. Only what a user installs is constrained, not the
tools of this repository. pip refuses a bound that is below Flower's own.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path
from typing import Final

PYPROJECT: Final = Path(__file__).parents[1] / "pyproject.toml"
TOOLS: Final = {"dev", "docs", "notebooks", "test"}  # extras of this repository
OWN: Final = "lowcarb-scheduler"
REQUIREMENT: Final = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?(?:>=([\w.]+))?")


def lowest() -> dict[str, str]:
    """Return the lowest version by package; a requirement without one admits what nobody tried."""
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    admitted = [line for name, lines in extras.items() if name not in TOOLS for line in lines]
    found: dict[str, str] = {}
    for line in [*project["dependencies"], *admitted]:
        match = REQUIREMENT.fullmatch(line)
        if match is None:
            sys.exit(f"{line!r} is not understood; write name>=version")
        name, version = match.groups()
        if name == OWN or (version is None and name in found):
            continue
        if version is None:
            sys.exit(f"{name} has no lower bound; find the lowest version with which `make lowest` passes")
        found[name] = version
    return found


if __name__ == "__main__":
    for name, version in sorted(lowest().items()):
        print(f"{name}=={version}")
