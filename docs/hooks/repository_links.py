"""Links to files of the repository outside ``docs/``: to the page of a notebook, or named by their path."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(((?:\.\./)+[^)#\s]+)\)")
log = logging.getLogger("mkdocs.hooks.repository_links")


def on_page_markdown(markdown: str, *, page: Page, config: Any, **_: Any) -> str:
    """Replace a link out of ``docs/``, which no site has, by one to a page or by its path."""
    if page.file.abs_src_path is None:
        return markdown
    docs = Path(config.docs_dir)
    folder = Path(page.file.abs_src_path).parent

    def named(found: re.Match[str]) -> str:
        text, link = found.groups()
        target = (folder / link).resolve()
        if target.is_relative_to(docs):
            return found.group(0)
        path = target.relative_to(docs.parent).as_posix()
        if not target.exists():
            log.warning("%s links to %s, which does not exist", page.file.src_path, path)
        elif target.suffix == ".ipynb":
            up = "../" * page.file.src_path.count("/")
            return f"[{text}]({up}{path.removesuffix('.ipynb')}.md)"
        return f"`{path}`" if text.strip("`") in (path, link) else f"{text} (`{path}`)"

    return _LINK.sub(named, markdown)
