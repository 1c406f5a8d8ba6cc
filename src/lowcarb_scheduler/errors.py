"""Every error this package raises on purpose.

::

    LowcarbError
    ├── InputError                  unreadable input, or a value impossible in itself        exit 2
    │   └── MissingExtraError       an optional dependency is not installed (an ImportError) exit 2
    ├── PlanInfeasibleError         a well-formed job that no plan can satisfy               exit 1
    ├── SavingUnreachableError      no plan of the front saves what was asked for            exit 1
    ├── ForecastUnavailableError    locations without a usable forecast                      exit 1
    ├── PlanMismatchError           an inner strategy did not train the planned nodes        exit 1
    ├── RunFailedError              a Flower run that was started here did not complete      exit 1
    └── NothingHeldError            a round is to open at once and none is waiting           exit 1

Each carries its data as attributes, and its message names the fix.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime


_MOST_CHARACTERS: Final = 300


def one_line(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Return foreign text as one line of printable characters, at most so many of them."""
    text = " ".join(text[: 4 * most].split())
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return plain if len(plain) <= most else plain[: most - 1] + "…"


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that was probably meant, None if none is near."""
    by_lower = {each.lower(): each for each in sorted(known)}
    near = get_close_matches(name.lower(), by_lower, 1)
    return by_lower[near[0]] if near else None


class LowcarbError(Exception):
    """Root of all errors raised on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line exits with: 1 for a question whose answer is no, 2 for bad input.
    """

    exit_code: ClassVar[int] = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # Errors are built of what they carry, not of their message; one process hands them to another whole.
        return _restored, (type(self), self.args, self.__dict__)

    def data(self) -> dict[str, Any]:
        """Return what the error carries, as JSON-ready values beside ``kind`` and ``message``."""
        return {}


def _restored(kind: type[LowcarbError], args: tuple[Any, ...], carried: dict[str, Any]) -> LowcarbError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(carried)
    return error


class InputError(LowcarbError):
    """Unreadable input or a value that is impossible in itself.

    Parameters
    ----------
    field : str
        The argument, key, column or option at fault.
    problem : str
        What is wrong with it.
    fix : str
        What to write instead.
    file : str, optional
        The file it came from.
    """

    exit_code = 2

    def __init__(self, field: str, problem: str, fix: str, file: str | None = None) -> None:
        self.field, self.problem, self.fix, self.file = field, problem, fix, file
        where = f"{file}: {field}" if file else field
        super().__init__(f"{where}: {problem}; {fix}")

    def within(self, file: str) -> InputError:
        """Return the same error with the file it came from."""
        return InputError(self.field, self.problem, self.fix, file)

    def data(self) -> dict[str, Any]:
        """Return file, field, problem and fix."""
        return {"file": self.file, "field": self.field, "problem": self.problem, "fix": self.fix}


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    package : str
        What could not be imported.
    extra : str
        The extra of this distribution that brings it.
    """

    def __init__(self, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(package, "is not installed", f"run: pip install 'lowcarb-scheduler[{extra}]'")


class PlanInfeasibleError(LowcarbError):
    """A well-formed job for which no plan exists.

    Parameters
    ----------
    reason : str
        Why, in one line.
    needed, available : object
        What the job needs and what there is of it, in the same unit.
    finish_by : datetime
        The deadline that was asked for.
    """

    def __init__(self, reason: str, needed: object, available: object, finish_by: datetime) -> None:
        self.reason, self.needed, self.available, self.finish_by = reason, needed, available, finish_by
        super().__init__(f"no plan: {reason} (needed {needed}, available {available})")

    def data(self) -> dict[str, Any]:
        """Return reason, needed, available and finish_by."""
        plain = (int, float, str, type(None))
        return {
            "reason": self.reason,
            "needed": self.needed if isinstance(self.needed, plain) else str(self.needed),
            "available": self.available if isinstance(self.available, plain) else str(self.available),
            "finish_by": self.finish_by,
        }


class SavingUnreachableError(LowcarbError):
    """No plan between the earliest finish and the deadline saves what was asked for.

    Parameters
    ----------
    needed : float
        The part of the run-now emissions that was to be avoided, 0.2 for 20 %.
    available : float or None
        The largest part that is; None where run-now emissions are undefined or not positive.
    finish_by : datetime
        The deadline.
    """

    def __init__(self, needed: float, available: float | None, finish_by: datetime) -> None:
        self.needed, self.available, self.finish_by = needed, available, finish_by
        wish = f"no plan found saves {100 * needed:.6g} % by {finish_by:%Y-%m-%d %H:%M} UTC"
        if available is None:
            most, fix = "unknown", "a saving needs run-now emissions that are known and positive"
        else:
            most, fix = f"{100 * available:.6g} %", "ask for less, or give a later finish_by"
        super().__init__(f"{wish} (needed {100 * needed:.6g} %, available {most}); {fix}")

    def data(self) -> dict[str, Any]:
        """Return needed, available and finish_by."""
        return {"needed": self.needed, "available": self.available, "finish_by": self.finish_by}


class ForecastUnavailableError(LowcarbError):
    """Locations for which there is no usable forecast.

    Parameters
    ----------
    missing : mapping of str to str
        Why, by location.
    available : sequence of str
        The locations that have one.
    """

    def __init__(self, missing: Mapping[str, str], available: Sequence[str] = ()) -> None:
        self.missing, self.available = dict(missing), tuple(available)
        names: dict[str, list[str]] = {}
        for name, why in self.missing.items():
            names.setdefault(one_line(why), []).append(one_line(name, 40))
        self.reasons = "; ".join(f"{', '.join(same)}: {why}" for why, same in names.items())
        super().__init__(f"no forecast for {len(self.missing)} location(s): {self.reasons}")

    def data(self) -> dict[str, Any]:
        """Return missing and the locations needed and available."""
        return {"missing": self.missing, "needed": list(self.missing), "available": list(self.available)}


class PlanMismatchError(LowcarbError):
    """An inner strategy built messages for other nodes than the planned ones.

    Parameters
    ----------
    planned, addressed : sequence of int
        Node ids of the plan and of the messages.
    """

    def __init__(self, strategy: str, planned: Sequence[int], addressed: Sequence[int], fix: str) -> None:
        self.strategy, self.planned, self.addressed = strategy, tuple(planned), tuple(addressed)
        super().__init__(
            f"{strategy} addressed {len(addressed)} node(s) where {len(planned)} were planned; {fix}"
        )

    def data(self) -> dict[str, Any]:
        """Return the strategy's name and how many nodes were planned and addressed."""
        return {"strategy": self.strategy, "needed": len(self.planned), "available": len(self.addressed)}


class RunFailedError(LowcarbError):
    """A Flower run that was started here did not complete.

    Parameters
    ----------
    reason : str
        What happened.
    output : str
        The last lines of its log.
    log : str
        Where all of it stands.
    """

    def __init__(self, reason: str, output: str, log: str) -> None:
        self.reason, self.output, self.log = reason, output, log
        last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "it is empty")
        super().__init__(f"{reason}; the end of {log}: {last}")

    def data(self) -> dict[str, Any]:
        """Return reason, log and its last lines."""
        return {"reason": self.reason, "log": self.log, "output": self.output}


class NothingHeldError(LowcarbError):
    """A run of which no round is held was asked to open one.

    Parameters
    ----------
    run_dir : str
        Its folder.
    state : str
        What it is doing instead, for example ``training``.
    """

    def __init__(self, run_dir: str, state: str) -> None:
        self.run_dir, self.state = run_dir, state
        super().__init__(f"no round of {run_dir} is held: the run is {state}; see lowcarb status {run_dir}")

    def data(self) -> dict[str, Any]:
        """Return the folder and what the run is doing."""
        return {"run_dir": self.run_dir, "state": self.state}
