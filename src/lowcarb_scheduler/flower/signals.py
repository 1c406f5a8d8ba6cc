"""What reaches a run from outside: the signal to end, and an operator's wish that a held round may open.

The wish is a file in the folder of the run that names the round, ``open-now.json``. The hold sees it within
seconds and takes it away. A wish for another round is void: its hold was over before it was seen.
"""

from __future__ import annotations

import json
import signal
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler.documents import to_json
from lowcarb_scheduler.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WISH_NAME: Final = "open-now.json"
_TERMINATED: Final = 128 + signal.SIGTERM  # what a shell reports for it


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turn SIGTERM into SystemExit, so that books are closed; then let who handled it before have it.

    Only in the main thread, where Python handles signals, and not where SIGTERM is ignored. A second one
    meets the old handler at once.
    """
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before in (signal.SIG_IGN, None):
        yield
        return
    came = False

    def end(_number: int, _frame: Any) -> None:
        nonlocal came
        came = True
        signal.signal(signal.SIGTERM, before)
        raise SystemExit(_TERMINATED)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        if came and callable(before):
            signal.raise_signal(signal.SIGTERM)


def wish_to_open(run_dir: Path, number: int) -> None:
    """Write down the wish that a round may open now; it is there whole or not at all.

    Raises
    ------
    InputError
        If the folder is not writable.
    """
    path, aside = run_dir / WISH_NAME, run_dir / f"{WISH_NAME}.new"
    try:
        aside.write_text(to_json({"round": number}) + "\n", encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        fix = "run this as the user that runs the ServerApp"
        raise InputError("RUN_DIR", f"{run_dir} is not writable ({error.strerror})", fix) from None


def take_wish(run_dir: Path, number: int) -> bool:
    """Return whether somebody wishes this round to open now, and take the wish away."""
    path = run_dir / WISH_NAME
    try:
        wish = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):
        wish = None  # not one of ours
    with suppress(OSError):
        path.unlink()
    return isinstance(wish, dict) and wish.get("round") == number
