"""Title, owner, purpose and comparison of a run, which people give and no event of its ledger tells.

They lie in ``about.json`` beside the ledger, so that a report that is written again has them, too.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError, one_line
from lowcarb_scheduler.validation import finite_number

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE_NAME: Final = "about.json"
_LARGEST_BYTES: Final = 100_000
_TEXTS: Final = ("title", "owner", "purpose", "compared_with")
_FIX: Final = "correct it, or delete it"


@dataclass(frozen=True, slots=True)
class About:
    """Facts of a run that people give, beside those of its ledger.

    Parameters
    ----------
    title, owner, purpose : str or None
        Heading of the report, who answers for the run, and what it is for.
    embodied_g : float or None
        The run's part of the emissions of making its hardware, M of the SCI [gCO2eq].
    compared_with : str or None
        Name of another training of the same app, for example ``plain FedAvg``.
    compared_metrics : mapping of str to float
        Its metrics, by the names that the run reports, too.
    """

    title: str | None = None
    owner: str | None = None
    purpose: str | None = None
    embodied_g: float | None = None
    compared_with: str | None = None
    compared_metrics: Mapping[str, float] = field(default_factory=dict)

    def amended(self, **given: Any) -> About:
        """Return these with other values; None leaves a value as it is, an empty text removes it."""
        kept: dict[str, Any] = {
            name: None if value == "" else value for name, value in given.items() if value is not None
        }
        return replace(self, **kept)


NOTHING: Final = About()


def read_about(run_dir: Path) -> About:
    """Return the facts that people gave of a run.

    Raises
    ------
    InputError
        If ``about.json`` is there, and cannot be read.
    """
    path = run_dir / FILE_NAME
    try:
        if not path.is_file():
            return NOTHING
        if path.stat().st_size > _LARGEST_BYTES:
            raise InputError(FILE_NAME, f"is larger than {_LARGEST_BYTES:,} bytes", _FIX)
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(FILE_NAME, f"cannot be read ({error.strerror})", "make it readable") from None
    except (ValueError, RecursionError):
        raise InputError(FILE_NAME, "is not JSON", _FIX) from None
    if not isinstance(document, dict):
        raise InputError(FILE_NAME, "is not a JSON object", _FIX)
    return _checked(document)


def _checked(document: Mapping[str, Any]) -> About:
    """Return the values of a document; keys of later versions are left out."""
    texts = {}
    for name in _TEXTS:
        text = document.get(name)
        if text is not None and not isinstance(text, str):
            raise InputError(f"{FILE_NAME}: {name}", f"{text!r:.80} is no text", _FIX)
        texts[name] = text
    embodied_g = document.get("embodied_g")
    grams = finite_number(embodied_g)
    if embodied_g is not None and (grams is None or grams < 0):
        raise InputError(f"{FILE_NAME}: embodied_g", f"{embodied_g!r:.80} is no mass [g]", _FIX)
    metrics = document.get("compared_metrics") or {}
    if not isinstance(metrics, dict) or any(finite_number(value) is None for value in metrics.values()):
        raise InputError(f"{FILE_NAME}: compared_metrics", "is not a number for each name", _FIX)
    return About(**texts, embodied_g=grams, compared_metrics=metrics)


def write_about(about: About, run_dir: Path) -> None:
    """Write ``about.json`` into the folder of a run.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    document = {name: value for name, value in asdict(about).items() if value not in (None, {})}
    path = run_dir / FILE_NAME
    unfinished = path.with_name(f"{FILE_NAME}.new")
    try:
        unfinished.write_text(to_json(document, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError as error:
        problem = f"{one_line(str(path))} cannot be written ({error.strerror})"
        raise InputError("run-dir", problem, "make the folder writable") from None
