"""Exceptions of the package.

::

    LowcarbError
    ├── InputError (exit code 2)        input is unreadable, or a value is impossible in itself
    │   └── MissingExtraError           an optional dependency is not installed (also an ImportError)
    ├── PlanInfeasibleError             no plan satisfies a well-formed job
    ├── SavingUnreachableError          no plan reaches the requested saving
    ├── ForecastUnavailableError        no usable forecast exists for some locations
    ├── PlanMismatchError               an inner strategy addresses other nodes than the planned ones
    ├── UnsupportedFlowerError          a part of Flower that a run rests on has changed
    ├── RunFailedError                  a Flower run started by the package does not complete
    └── NothingHeldError                a run that holds no round is told to open one

The command line exits with code 1 unless the tree says otherwise. Every error carries its data as attributes,
and its message names the fix.
"""

from __future__ import annotations

import copyreg
import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

_MOST_LISTED: Final = 12  # known names in an error that also suggests one
_ERROR: Final = re.compile(r"[\w.]*(Error|Exception): ")  # begin of the last line of a traceback


def one_line(text: str, most: int = 300) -> str:
    """Return text from outside as one line of at most ``most`` printable characters."""
    # Cut before splitting: a server may send megabytes, of which one line is shown.
    text = " ".join(text[: 4 * most].split())
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is closest to a mistyped one, None if none is close."""
    # Case is ignored: DE and de are the most frequent mistake.
    by_lower = {each.lower(): each for each in sorted(known)}
    near = get_close_matches(name.lower(), by_lower, 1)
    return by_lower[near[0]] if near else None


def reason_of(error: BaseException) -> str:
    """Return an error as one line, with its type if it is none of ours."""
    if isinstance(error, ForecastUnavailableError) and error.fault:
        return error.fault
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  an error of a user's own class may have any __str__
        text = ""
    return one_line(text if isinstance(error, LowcarbError) else f"{type(error).__name__}: {text}")


class LowcarbError(Exception):
    """Base class of all exceptions of the package.

    Attributes
    ----------
    exit_code : int
        Exit code of the command line: 1 if a valid request cannot be met, 2 for bad input.
    """

    exit_code: ClassVar[int] = 1
    _documented: ClassVar[tuple[str, ...]] = ()  # attributes in :meth:`data`, in this order

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own __reduce__ calls the class with the message alone, but these take their data.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def data(self) -> dict[str, Any]:
        """Return the data of the error as JSON values; documents add ``kind`` and ``message``."""
        return {name: getattr(self, name) for name in self._documented}


class InputError(LowcarbError):
    """Raised if input is unreadable, or a value is impossible in itself.

    Parameters
    ----------
    field : str
        Argument, key, column or option at fault.
    problem : str
        Description of the problem.
    fix : str
        Description of a valid value.
    file : str, optional
        File with the field.
    """

    exit_code = 2
    _documented = ("file", "field", "problem", "fix")

    def __init__(self, field: str, problem: str, fix: str, file: str | None = None) -> None:
        self.field, self.problem, self.fix, self.file = field, problem, fix, file
        where = f"{file}: {field}" if file else field
        super().__init__(f"{where}: {problem}; {fix}")

    def within(self, file: str) -> InputError:
        """Return the same error with the file of its field."""
        return InputError(self.field, self.problem, self.fix, file)


def unknown_name(field: str, name: object, known: Iterable[str]) -> InputError:
    """Return the error for an unknown name; it suggests the nearest known one, or lists them."""
    given, names = str(name)[:80], sorted(known)
    near = near_miss(given, names)
    hint = f"did you mean {near}?" if near else ""
    fix = hint if near and len(names) > _MOST_LISTED else f"{hint} there are {', '.join(names)}".lstrip()
    return InputError(field, f"{given!r} is unknown", fix)


class MissingExtraError(InputError, ImportError):
    """Raised if a feature needs an optional dependency that is not installed.

    Parameters
    ----------
    package : str
        Package that could not be imported.
    extra : str
        Extra of this distribution that installs the package.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(package, "is not installed", f"run: pip install 'lowcarb-scheduler[{extra}]'")


class PlanInfeasibleError(LowcarbError):
    """Raised if no plan exists for a well-formed job.

    Parameters
    ----------
    reason : str
        Reason in one line.
    needed, available : object
        Required and available amount, in the same unit.
    finish_by : datetime
        Deadline of the job.
    """

    _documented = ("reason", "needed", "available", "finish_by")

    def __init__(self, reason: str, needed: object, available: object, finish_by: datetime) -> None:
        self.reason, self.needed, self.available, self.finish_by = reason, needed, available, finish_by
        super().__init__(f"no plan: {reason} (needed {needed}, available {available})")

    def data(self) -> dict[str, Any]:
        """Return reason, needed, available and finish_by; an amount such as a duration as text."""
        data, plain = super().data(), (int, float, str, type(None))
        return data | {k: str(data[k]) for k in ("needed", "available") if not isinstance(data[k], plain)}


class SavingUnreachableError(LowcarbError):
    """Raised if no plan between the earliest finish and the deadline reaches the requested saving.

    Parameters
    ----------
    needed : float
        Requested saving as a fraction of run-now emissions, 0.2 for 20 %.
    available : float or None
        Largest saving of a plan; None if run-now emissions are undefined or not positive.
    finish_by : datetime
        Deadline of the job.
    """

    _documented = ("needed", "available", "finish_by")

    def __init__(self, needed: float, available: float | None, finish_by: datetime) -> None:
        self.needed, self.available, self.finish_by = needed, available, finish_by
        problem = f"no plan found saves {100 * needed:.6g} % by {finish_by:%Y-%m-%d %H:%M} UTC"
        if available is None:
            most, fix = "unknown", "a saving needs run-now emissions that are known and positive"
        else:
            most, fix = f"{100 * available:.6g} %", "ask for less, or give a later finish_by"
        super().__init__(f"{problem} (needed {100 * needed:.6g} %, available {most}); {fix}")


class ForecastUnavailableError(LowcarbError):
    """Raised if locations have no usable forecast.

    Parameters
    ----------
    missing : mapping of str to str
        Reason by location.
    available : sequence of str
        Locations that have a forecast.
    fault : str
        Fault of the source as a whole, where that is the reason of all.
    """

    def __init__(self, missing: Mapping[str, str], available: Sequence[str] = (), fault: str = "") -> None:
        self.missing, self.available, self.fault = dict(missing), tuple(available), fault
        # A server that is down gives the same reason for all locations: it is shown once.
        names: dict[str, list[str]] = {}
        for name, why in self.missing.items():
            names.setdefault(one_line(why), []).append(one_line(name, 40))
        self.reasons = "; ".join(f"{', '.join(same)}: {why}" for why, same in names.items())
        super().__init__(f"no forecast for {len(self.missing)} location(s): {self.reasons}")

    def data(self) -> dict[str, Any]:
        """Return the reasons, and the needed and available locations."""
        return {"missing": self.missing, "needed": list(self.missing), "available": list(self.available)}


class PlanMismatchError(LowcarbError):
    """Raised if an inner strategy addresses its messages to other nodes than the planned ones.

    Parameters
    ----------
    strategy : str
        Class of the inner strategy.
    planned, addressed : sequence of int
        Node ids of the plan and of the messages.
    fix : str
        Change that makes the strategy address the planned nodes.
    """

    def __init__(self, strategy: str, planned: Sequence[int], addressed: Sequence[int], fix: str) -> None:
        self.strategy, self.planned, self.addressed = strategy, tuple(planned), tuple(addressed)
        problem = f"addressed {len(addressed)} node(s) where {len(planned)} were planned"
        super().__init__(f"{strategy} {problem}; {fix}")

    def data(self) -> dict[str, Any]:
        """Return the strategy and the number of planned and addressed nodes."""
        return {"strategy": self.strategy, "needed": len(self.planned), "available": len(self.addressed)}


class UnsupportedFlowerError(LowcarbError):
    """Raised if the installed release of Flower has changed a part that a run rests on.

    Parameters
    ----------
    version : str
        Version of Flower.
    part : str
        The part.
    """

    _documented = ("version", "part")

    def __init__(self, version: str, part: str) -> None:
        self.version, self.part = version, part
        super().__init__(f"flwr {version} is not supported yet: {part} has changed")


class RunFailedError(LowcarbError):
    """Raised if a Flower run that the package started does not complete.

    Parameters
    ----------
    reason : str
        Reason in one line.
    output : str
        Last lines of the log of the run.
    log : str
        Path of the log.
    """

    _documented = ("reason", "log", "output")

    def __init__(self, reason: str, output: str, log: str) -> None:
        self.reason, self.output, self.log = reason, output, log
        lines = [line.strip() for line in reversed(output.splitlines()) if line.strip()]
        # Flower writes a few lines of its own after the error that ended a run.
        cause = next((line for line in lines if _ERROR.match(line)), None)
        last = cause or next(iter(lines), "it is empty")
        super().__init__(f"{reason}; the end of {log}: {last}")


class NothingHeldError(LowcarbError):
    """Raised if a run is told to open a round and holds none.

    Parameters
    ----------
    run_dir : str
        Folder of the run.
    state : str
        Present state of the run, for example ``training``.
    why : str
        Reason why it holds none, where the state alone does not tell.
    """

    _documented = ("run_dir", "state")

    def __init__(self, run_dir: str, state: str, why: str = "") -> None:
        self.run_dir, self.state = run_dir, state
        is_so = f"the run is {state}{', ' * bool(why)}{why}"
        super().__init__(f"no round of {run_dir} is held: {is_so}; see lowcarb status {run_dir}")
