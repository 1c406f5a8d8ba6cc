"""Print the newest pre-release of Flower in the package index, as a requirement, or that there is none.

Flower publishes release candidates as ``flwr`` and builds of each night as ``flwr-nightly``.
"""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Final

from packaging.version import Version

DISTRIBUTIONS: Final = ("flwr", "flwr-nightly")


def versions(text: str) -> list[Version]:
    """Return the versions in the output of ``pip index versions``."""
    listed = re.search(r"^Available versions: (.*)$", text, re.MULTILINE)
    return [Version(each) for each in listed[1].split(", ")] if listed else []


def newest(found: dict[str, list[Version]]) -> str | None:
    """Return the newest pre-release that is after the newest release, None without one."""
    release = max(version for version in found["flwr"] if not version.is_prerelease)
    later = [
        (version, name) for name, each in found.items() for version in each
        if version.is_prerelease and version > release
    ]  # fmt: skip
    return "{1}=={0}".format(*max(later)) if later else None


def _in_index(name: str) -> list[Version]:
    command = [sys.executable, "-m", "pip", "index", "versions", "--pre", name]
    return versions(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


if __name__ == "__main__":
    found = {name: _in_index(name) for name in DISTRIBUTIONS}
    if not found["flwr"]:
        sys.exit("the package index has no flwr")
    print(newest(found) or f"the package index has no pre-release of Flower after {max(found['flwr'])}")
