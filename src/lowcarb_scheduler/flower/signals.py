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
_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Turn a signal to end into SystemExit, so that books are closed; then let who handled it before have it.

    After ``flwr stop`` Flower sends its ServerApp SIGINT and handles it itself: it cleans up where the code
    just is, and when that takes long ends the process without unwinding. Where SIGINT is KeyboardInterrupt,
    or one of the signals is ignored, nothing changes. Only the main thread handles signals. A second one
    meets the old handler at once.
    """
    before: dict[int, Any] = {number: signal.getsignal(number) for number in _ENDING}
    left_alone = (signal.SIG_IGN, signal.default_int_handler, None)
    handled = [number for number, handler in before.items() if handler not in left_alone]
    if threading.current_thread() is not threading.main_thread():
        handled = []
    came: list[int] = []

    def restore() -> None:
        for number in handled:
            signal.signal(number, before[number])

    def end(number: int, _frame: Any) -> None:
        came.append(number)
        restore()
        raise SystemExit(128 + number)  # what a shell reports for it

    for number in handled:
        signal.signal(number, end)
    try:
        yield
    finally:
        if came:
            if callable(before[came[0]]):
                signal.raise_signal(came[0])
        else:
            restore()


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
