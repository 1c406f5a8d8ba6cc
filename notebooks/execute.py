"""Run the notebooks, each in a fresh kernel of this interpreter, and keep what they show.

    python notebooks/execute.py              # all of them, in place
    python notebooks/execute.py 1-tour.ipynb

What differs from one run to the next and means nothing is left out: times, ids, and who ran it. Pictures are
kept small. The tests run the notebooks again and compare what is written in them with what was committed.
"""

from __future__ import annotations

import base64
import io
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from PIL import Image

FOLDER: Final = Path(__file__).parent
TIMEOUT_S: Final = 120
_COLOURS: Final = 128  # of a picture
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")


def execute(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Run every cell of a notebook and return it with its outputs, without noise."""
    with tempfile.TemporaryDirectory() as folder:
        specs = KernelSpecManager(kernel_dirs=[], ensure_native_kernel=True)  # nobody else's "python3"
        manager = AsyncKernelManager(
            kernel_name="python3", kernel_spec_manager=specs, transport="ipc", ip=str(Path(folder) / "kernel")
        )
        client = NotebookClient(
            notebook, km=manager, timeout=TIMEOUT_S, resources={"metadata": {"path": folder}}
        )
        try:
            client.execute(env=_environment(folder))
        finally:
            if client.kc is not None:
                client.kc.stop_channels()
            run_sync(manager.shutdown_kernel)(now=True)
            manager.context.destroy()
    return _tidy(notebook)


def texts(notebook: nbformat.NotebookNode) -> list[list[str]]:
    """Return what each cell of code shows as text; a picture is a word."""
    return [[_text(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def read(path: Path) -> nbformat.NotebookNode:
    """Read a notebook."""
    return nbformat.read(path, as_version=4)


def write(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write a notebook; the same content is the same file."""
    path.write_text(nbformat.writes(notebook, version=4) + "\n", encoding="utf-8")


def _environment(folder: str) -> dict[str, str]:
    """Return the environment of a kernel: no settings of this machine, nothing kept on it."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("LOWCARB_")}
    return {**own, "TZ": "UTC", "XDG_DATA_HOME": folder, "IPYTHONDIR": folder, "MPLCONFIGDIR": folder}


def _tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for number, cell in enumerate(notebook.cells, start=1):
        cell.id, cell.metadata = f"cell-{number}", nbformat.from_dict({})
        if cell.cell_type == "code":
            for output in cell.outputs:
                _tidy_output(output)
    return notebook


def _tidy_output(output: nbformat.NotebookNode) -> None:
    data: dict[str, Any] = output.get("data", {})
    output.metadata = nbformat.from_dict({})
    if "image/png" in data:
        data["image/png"] = _small(data["image/png"])
        data["text/plain"] = "a picture"
    elif "text/plain" in data:
        data["text/plain"] = _ADDRESS.sub("", data["text/plain"])
    if output.output_type == "stream":
        del output["metadata"]


def _small(png: str) -> str:
    """Return a picture with few colours."""
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").quantize(_COLOURS)
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return base64.b64encode(file.getvalue()).decode("ascii")


def _text(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return f"{output.name}: {output.text}"
    return str(output.data["text/plain"])


def main(names: list[str]) -> None:
    """Run these notebooks, or all, and write them."""
    for path in [FOLDER / name for name in names] or sorted(FOLDER.glob("*.ipynb")):
        write(execute(read(path)), path)
        print(f"{path.name}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
