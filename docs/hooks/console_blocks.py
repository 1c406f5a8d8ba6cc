"""Console blocks: their button copies the commands, without prompts and without what they print."""

from __future__ import annotations

import html
import re
from typing import Any

_BLOCK = re.compile(r'(<div class="language-console highlight"><pre)(>.*?<code>(.*?)</code>)', re.DOTALL)
_TAG = re.compile(r"<[^>]+>")
PROMPT = "$ "


def commands_of(text: str) -> str:
    """Return the commands of a session: lines with a prompt, and those that continue them."""
    kept, goes_on = [], False
    for line in text.splitlines():
        is_command = line.startswith(PROMPT)
        if is_command or goes_on:
            kept.append(line.removeprefix(PROMPT) if is_command else line)
            goes_on = line.endswith("\\")
    return "\n".join(kept)


def on_page_content(content: str, **_: Any) -> str:
    """Give the theme what it is to copy from each block."""

    def with_commands(found: re.Match[str]) -> str:
        commands = commands_of(html.unescape(_TAG.sub("", found[3])))
        # A line end in an attribute would be read as a blank.
        copied = html.escape(commands, quote=True).replace("\n", "&#10;")
        return f'{found[1]} data-copy="{copied}"{found[2]}'

    return _BLOCK.sub(with_commands, content)
