"""Links to files of the repository that are no pages: named by their path, and checked."""

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
    """Replace a link that leads out of ``docs/`` by its text and the path, as a site has no such file."""
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
        return f"`{path}`" if text.strip("`") in (path, link) else f"{text} (`{path}`)"

    return _LINK.sub(named, markdown)
