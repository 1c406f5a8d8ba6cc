"""Look into what would be published: the package whole, and nothing by mistake.

python .ci/distributions.py dist/*
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Final

SOURCE: Final = Path(__file__).parents[1] / "src"
BESIDE: Final = {
    "CHANGELOG.md", "LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg",
}  # fmt: skip


def package() -> set[str]:
    """Return every file of the package, as it is named below ``src``."""
    files = (path for path in (SOURCE / "lowcarb_scheduler").rglob("*") if path.is_file())
    return {path.relative_to(SOURCE).as_posix() for path in files if "__pycache__" not in path.parts}


def in_wheel(path: Path) -> set[str]:
    """Return the files of a wheel without its metadata."""
    names = zipfile.ZipFile(path).namelist()
    return {name for name in names if not PurePosixPath(name).parts[0].endswith(".dist-info")}


def in_sdist(path: Path) -> set[str]:
    """Return the files of a source distribution, without its first folder and what setuptools adds."""
    with tarfile.open(path) as archive:
        names = [PurePosixPath(member.name) for member in archive if member.isfile()]
    own = (name for name in names if not any(part.endswith(".egg-info") for part in name.parts))
    return {"/".join(name.parts[1:]) for name in own}


def differences(path: Path) -> list[str]:
    """Return what is missing or too much in a distribution."""
    if path.suffix == ".whl":
        found, wanted = in_wheel(path), package()
    else:
        found, wanted = in_sdist(path), {f"src/{name}" for name in package()} | BESIDE
    return [
        *(f"{path.name} lacks {name}" for name in sorted(wanted - found)),
        *(f"{path.name} should not hold {name}" for name in sorted(found - wanted)),
    ]


if __name__ == "__main__":
    faults = [line for name in sys.argv[1:] for line in differences(Path(name))]
    sys.exit("\n".join(faults) or 0)
