"""Notebooks as pages: text, code and the outputs they were committed with."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def _notebooks(config: MkDocsConfig) -> list[Path]:
    return sorted((Path(config.docs_dir).parent / "notebooks").glob("*.ipynb"))


def on_config(config: MkDocsConfig, **_: Any) -> MkDocsConfig:
    """Give the notebooks a section of their own, after the tutorial."""
    pages = [f"notebooks/{path.stem}.md" for path in _notebooks(config)]
    if pages and config.nav:
        config.nav.insert(2, {"Notebooks": pages})
    return config


def on_files(files: Files, *, config: MkDocsConfig, **_: Any) -> Files:
    """Add a page for each notebook, and the pictures it shows."""
    for path in _notebooks(config):
        pictures: dict[str, bytes] = {}
        text = "\n\n".join(_cells(path, pictures))
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    return files


def _cells(path: Path, pictures: dict[str, bytes]) -> Iterator[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield _LINK.sub(_link, source)
        elif cell["cell_type"] == "code" and source.strip():
            yield f"```python\n{source}\n```"
            for output in cell["outputs"]:
                yield from _output(output, path.stem, pictures)
    yield f"This is `notebooks/{path.name}`."


def _link(found: re.Match[str]) -> str:
    """Return a link between notebooks, or to a page, as the site has it; else the path in the repository."""
    text, target, anchor = found.group(1), found.group(2), found.group(3) or ""
    if target.endswith(".ipynb"):
        return f"[{text}]({target.removesuffix('.ipynb')}.md{anchor})"
    if target.startswith("../docs/"):
        return f"[{text}](../{target.removeprefix('../docs/')}{anchor})"
    return f"{text} (`{target.removeprefix('../')}`)"


def _output(output: dict[str, Any], stem: str, pictures: dict[str, bytes]) -> Iterator[str]:
    """Return one output as Markdown, its best form first: picture, then text."""
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        name = f"{stem}-{len(pictures) + 1}.png"
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        yield f"![What the code above draws]({name})"
    elif text := _COLOUR.sub("", "".join(data.get("text/plain", ""))).rstrip():
        yield f"````text\n{text}\n````"
