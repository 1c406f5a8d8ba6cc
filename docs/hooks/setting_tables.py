"""Tables of settings: type, default and an anchor for each row, from the settings themselves."""

from __future__ import annotations

import re
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from lowcarb_scheduler.clock import format_duration
from lowcarb_scheduler.settings import SECRETS, Settings

PAGE = "reference/settings.md"
_ROW = re.compile(r"^\| `([a-z-]+)` \| (.*) \|$", re.MULTILINE)
_HEAD = "| setting | |\n|---|---|"
_WORDS = {
    bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path",
    timedelta: "duration",
}  # fmt: skip
_NAMED = {
    "participation": "auto, equal, any, or two numbers", "balance": "auto, off, or a number",
    "over_select": "off, auto, or a probability", "output_average": "off, auto, or a number",
    "participation_correction_memory": "size", "clock": "system, virtual, or virtual:TIME",
    "finish_by": "time or duration", "archive_dir": "path or none", "notify_url": "address",
}  # fmt: skip


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Add the columns to the page of settings."""
    if page.file.src_uri != PAGE:
        return markdown
    markdown = markdown.replace(_HEAD, "| setting | type | default | |\n|---|---|---|---|")
    return _ROW.sub(lambda row: _row(row[1], row[2]), markdown)


def _row(name: str, text: str) -> str:
    field = name.replace("-", "_")
    anchor = f'<a id="{name}" href="#{name}"><code>{name}</code></a>'
    return f"| {anchor} | {_type(field)} | {_default(field)} | {text} |"


def _type(field: str) -> str:
    if field in _NAMED:
        return _NAMED[field]
    if field in SECRETS:
        return "secret"
    kinds = [Settings.model_fields[field].annotation]
    while any(get_args(kind) and get_origin(kind) is not Literal for kind in kinds):
        kinds = [inner for kind in kinds for inner in (get_args(kind) or (kind,))]
    words: list[str] = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            words += map(str, get_args(kind))
        elif kind in _WORDS:
            words.append(_WORDS[kind])
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _default(field: str) -> str:
    value = Settings.model_fields[field].default
    if value is None:
        return "–"
    if isinstance(value, bool):
        value = str(value).lower()
    elif isinstance(value, timedelta):
        value = format_duration(value)
    elif field == "participation_correction_memory":
        value = f"{value >> 30}GiB"
    elif isinstance(value, float):
        value = f"{value:g}"
    return f"<code>{escape(str(value))}</code>"
