"""Docstrings as the site shows them: the few marks of reStructuredText they hold become Markdown."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

_ROLE = re.compile(r":(func|class|meth|mod|attr|data):`(~?)([\w.]+)`")
_FOOTNOTE = re.compile(r"^\.\. \[(\d+)\] ", flags=re.MULTILINE)
_REFERENCE = re.compile(r"(\w) ?\[(\d+)\]_")
_LITERAL = re.compile(r"::$", flags=re.MULTILINE)


def _link(found: re.Match[str], near: Object) -> str:
    """Return a link where the site has the object, else its name."""
    role, short, path = found.groups()
    name = path.rsplit(".", 1)[-1] if short else path
    if path.split(".")[0] != near.package.name:  # named as seen from the docstring
        owner = near if near.is_class else near.parent
        path = f"{owner.path if role == 'meth' and owner and '.' not in path else near.module.path}.{path}"
    return f'<autoref optional identifier="{path}"><code>{name}</code></autoref>'


class Marks(Extension):
    """Rewrites each docstring that is loaded."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            text = _ROLE.sub(lambda found: _link(found, obj), obj.docstring.value)
            text = _REFERENCE.sub(r"\1 (\2)", text)
            text = _FOOTNOTE.sub(r"(\1) ", text)
            obj.docstring.value = _LITERAL.sub(":", text)
