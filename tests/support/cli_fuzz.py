"""Random inputs of the command line: files and options that are wrong in one to three places."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd

from lowcarb_scheduler.clock import format_time
from lowcarb_scheduler.settings import Settings
from support import report_ledger
from support.cli_files import NOW, forecast_rows, job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

HALF, TURNED, LONG = "\ud800", "DE\u202eED", "a" * 5000

TEXTS = ("", " ", "DE", "XX", HALF, TURNED, LONG, "a\x00b", "a\nb", "\x1b[31mred", "<b>", "[red]", "=1+1",
         "é", "../x", "0", "-1", "1e308", "nan", "inf", "true", "null", "48h", "0s", "99999999d", "1us",
         "2026-03-02", "2026-03-02T00:00", "2026-03-02T06:00Z", "9999-12-31T23:59:59-12:00",
         "0001-01-01T00:00+14:00", "2026-13-40T99:99Z", "1970-01-01T00:00Z", "2199-12-31T23:59Z", "2,5",
         "5,2", "equal", "any", "auto", "off", "[1, 2", "{}", "%s%n", "1_000", "١٢")  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 0.5, 1.0, 1e-320, 1e308, -1e308, 1e9, 2**31, 2**70, 10**400, float("nan"),
           float("inf"), True, False, 0.1 + 0.2)  # fmt: skip
STRUCTURES = (None, [], {}, [[]], [1, 2], [5, 2], ["a"], {"a": {}}, [None], [{}])
PLACES = ("DE", "FR", "GB", "NL", "ES", "PL", "IT", "SE")


@dataclass
class Case:
    """One run of the command line: its arguments, and how they came about."""

    arguments: list[str]
    changes: list[str] = field(default_factory=list)


def make_case(random: Random, folder: Path) -> Case:
    """Write the files of a random case into a folder, and return its arguments.

    Parameters
    ----------
    random : Random
        Source of all choices: an equal seed gives an equal case.
    folder : Path
        An empty folder.
    """
    return _Fuzz(random, folder).case()


class _Fuzz:
    """Builder of one case."""

    def __init__(self, random: Random, folder: Path) -> None:
        self.random, self.folder, self.changes = random, folder, list[str]()
        self.wrong = random.choice((1, 1, 1, 2, 3))  # changes that are still to be made

    def case(self) -> Case:
        commands: dict[str, Callable[[], list[str]]] = {
            "plan": self._plan, "tradeoff": self._tradeoff, "backtest": self._backtest,
            "forecast": self._forecast, "status": self._run_dir, "release": self._run_dir,
            "report": self._report, "doctor": self._doctor, "archive list": self._archive,
            "archive fetch": self._fetch, "archive import": self._import, "archive export": self._export,
            "archive prune": self._prune,
        }  # fmt: skip
        weights = [8, 5, 6, 4, 3, 2, 1, 1, 1, 1, 4, 2, 1]
        name = self.random.choices(list(commands), weights)[0]
        arguments = [*name.split(), *commands[name]()]
        if name == "doctor" or self.random.random() < 0.15:
            self._settings()
        if self.wrong and self.random.random() < 0.3:
            self._change_argument(arguments)
        if self.random.random() < 0.5:
            arguments.append("--json")
        return Case(arguments, self.changes)

    # -- Commands ---

    def _plan(self) -> list[str]:
        given = ["--job", self._job(), *self._intensity()]
        return [*given, *self._maybe("--patience", ("0", "0.5", "1", *TEXTS))]

    def _tradeoff(self) -> list[str]:
        given = ["--job", self._job(), *self._intensity(), "--points", "3"]
        return [*given, *self._maybe("--saving", ("10%", "0.2", *TEXTS))]

    def _intensity(self) -> list[str]:
        given = ["--forecast", self._trace("forecast.csv")]
        if self.random.random() < 0.3:
            given += ["--history", self._trace("history.csv", first=-24 * 7, hours=24 * 7)]
        return given + (["--allow-implausible"] if self.random.random() < 0.3 else [])

    def _backtest(self) -> list[str]:
        scenario = {"locations": ["DE", "FR"], "clients": 4, "clients_per_round": 2, "rounds": 2,
                    "round_duration": "1h"}  # fmt: skip
        given = ["--actual", self._trace("actual.csv", first=-24 * 35, hours=24 * 35),
                 "--scenario", self._document("scenario.toml", scenario), "--seeds", "1", "--jobs", "1",
                 "--deadlines", "2", "--methods", "scheduler"]  # fmt: skip
        if self.random.random() < 0.4:
            given += ["--forecast", self._trace("issues.csv", first=-24 * 4, hours=96, issued=True)]
        options = ("--from", "--to", "--replan-every", "--delay", "--signal")
        return given + self._maybe(self.random.choice(options), TEXTS)

    def _forecast(self) -> list[str]:
        given = ["--location", "DE", "--source", "synthetic"]
        if self.random.random() < 0.3:
            given = ["--location", "DE", "--source", "traces", "--traces", self._trace("forecast.csv")]
        return given + self._maybe(self.random.choice(("--duration", "--until", "--location")), TEXTS)

    def _run_dir(self) -> list[str]:
        return [self._ledger()]

    def _report(self) -> list[str]:
        return [self._ledger(finished=True)]

    def _doctor(self) -> list[str]:
        places = self._text("locations.toml", '0 = "DE"\n1 = { location = "FR", power-watts = 250 }\n')
        self._text(".env", f"LOWCARB_LOCATIONS={places}\nLOWCARB_SOURCE=synthetic\n")
        return ["--location", self._one("DE", "FR", *TEXTS)]

    def _archive(self) -> list[str]:
        return ["--archive-dir", self._database()]

    def _fetch(self) -> list[str]:
        return [*self._archive(), "--days", self._one("1", *TEXTS), "--source", "synthetic"]

    def _import(self) -> list[str]:
        name = self.random.choice(("trace", "maps", "neso"))
        if name == "trace":
            path = self._trace("trace.csv")
        elif name == "maps":
            header = "Datetime (UTC),Country,Zone name,Zone id,Carbon intensity gCO₂eq/kWh (direct)"
            rows = [f"2023-01-01 0{hour}:00:00,Germany,Germany,DE,{300 + hour}" for hour in range(6)]
            path = self._text("maps.csv", "\n".join([header, *rows]))
        else:
            half_hours = [{"from": f"2026-03-02T0{hour}:00Z", "to": f"2026-03-02T0{hour}:30Z",
                           "intensity": {"forecast": 100, "actual": 90}} for hour in range(6)]  # fmt: skip
            path = self._document("neso.json", {"data": half_hours})
        return [path, "--to", str(self.folder / "out.csv"), *self._archive()]

    def _export(self) -> list[str]:
        return [*self._archive(), "--actuals", str(self.folder / "out.csv")]

    def _prune(self) -> list[str]:
        return [*self._archive(), *self._maybe("--days", ("90", "0", *TEXTS))]

    # -- Files ---

    def _settings(self) -> None:
        """Add settings of any value to the file of the environment, but none that asks a server."""
        path = self.folder / ".env"
        if path.exists() and not path.is_file():  # a folder, a pipe or a device, from an earlier change
            return
        fields = [
            name for name in Settings.model_fields if not name.endswith(("_url", "_token", "_auth", "source"))
        ]
        lines = [f"LOWCARB_{self._one(*fields).upper()}={self._one(*TEXTS)!r}" for _ in range(2)]
        self.changes.append(f".env: {lines}"[:200])
        with path.open("a", encoding="utf-8", errors="surrogatepass") as file:
            file.write("\n".join(lines))

    def _job(self) -> str:
        rules = {"patience": 0.5, "participation": "equal", "stagger": True, "mix_rounds": 2,
                 "max_location_share": 0.5, "start_step": "30m", "balance": 1.2}  # fmt: skip
        document = job(**{key: value for key, value in rules.items() if self.random.random() < 0.15})
        if self.random.random() < 0.3:
            rows = [f"{each['id']},{each['location']},1000" for each in document.pop("clients")]
            document["fleet"] = "fleet.csv"
            self._text("fleet.csv", "\n".join(["id,location,power_watts", *rows]))
        return self._document("job.json", document)

    def _trace(self, name: str, first: int = 0, hours: int = 48, issued: bool = False) -> str:
        shift = timedelta(hours=first)
        rows = [row.split(",") for row in forecast_rows(hours)]
        for row in rows:
            row[1] = row[1].replace(format_time(NOW)[:10], "")  # written anew below
        times = [format_time(NOW + shift + timedelta(hours=hour)) for hour in range(hours)] * 2
        rows = [[row[0], time, row[2]] for row, time in zip(rows, times, strict=True)]
        header = ["location", "time", "g_per_kwh"]
        if issued:
            header, rows = [*header, "issued_at"], [[*row, format_time(NOW + shift)] for row in rows]
        if self._hits():
            self._change_rows(header, rows)
        if self.random.random() < 0.15:
            return self._parquet(name, header, rows)
        return self._text(name, "\n".join(",".join(row) for row in [header, *rows]))

    def _parquet(self, name: str, header: list[str], rows: list[list[str]]) -> str:
        """Write a trace as Parquet: its cells as text, or with the types that they should have."""
        frame = pd.DataFrame([row[: len(header)] for row in rows]).fillna("")
        frame.columns = [*header, *(f"c{k}" for k in range(99))][: frame.shape[1]]
        if self.random.random() < 0.5 and frame.columns.is_unique:
            for column, change in (("time", partial(pd.to_datetime, utc=True, errors="coerce")),
                                   ("g_per_kwh", partial(pd.to_numeric, errors="coerce"))):  # fmt: skip
                if column in frame:
                    frame[column] = change(frame[column])
        path = self.folder / name.replace(".csv", ".parquet")
        try:
            frame.to_parquet(path)
        except (ValueError, UnicodeError, OverflowError):  # no Parquet file can hold it
            path.write_bytes(b"PAR1 and no more")
        return self._text(path.name, "", hit=True) if self._hits() else str(path)

    def _change_rows(self, header: list[str], rows: list[list[str]]) -> None:
        """Change a trace: a cell, a column, its order, or its times as a whole."""
        kind = self.random.choice(
            ("cell", "cell", "cell", "header", "shuffle", "fine", "spread", "wide", "far")
        )
        self.changes.append(f"trace: {kind}")
        if kind == "cell":
            row = self.random.choice(rows)
            row[self.random.randrange(len(row))] = self._one(*TEXTS, "1e400", "-5", "10000", "3000.1")
        elif kind == "header":
            header[self.random.randrange(len(header))] = self._one(*TEXTS)
        elif kind == "shuffle":
            self.random.shuffle(rows)
        elif kind == "wide":
            header += [f"c{k}" for k in range(20_000)]
        else:
            step = {"fine": timedelta(microseconds=1), "spread": timedelta(days=365 * 2),
                    "far": timedelta(days=365 * 60)}[kind]  # fmt: skip
            for k, row in enumerate(rows):
                try:
                    row[1] = format_time(NOW + (k % (len(rows) // 2)) * step)
                except OverflowError:
                    row[1] = "9999-12-31T23:59:59Z"

    def _document(self, name: str, document: dict[str, Any]) -> str:
        """Write a document as JSON, which a TOML file may be, too."""
        if self._hits():
            self._change_document(document)
        return self._text(name, json.dumps(document))

    def _change_document(self, document: dict[str, Any]) -> None:
        table: Any = document
        while True:  # go down to a random place
            keys = list(table) if isinstance(table, dict) else range(len(table))
            key = self.random.choice(keys)
            deeper = isinstance(table[key], dict | list) and table[key]
            if not deeper or self.random.random() < 0.3:
                break
            table = table[key]
        kind = self.random.choice(("value", "value", "value", "without", "more"))
        self.changes.append(f"document: {kind} at {key}")
        if kind == "value":
            table[key] = self._one(*TEXTS, *NUMBERS, *STRUCTURES)
        elif kind == "without" and isinstance(table, dict):
            del table[key]
        elif isinstance(table, dict):
            table[self._one(*TEXTS, "patience_minutes")] = self._one(*TEXTS, *NUMBERS)

    def _ledger(self, finished: bool | None = None) -> str:
        finished = self.random.random() < 0.5 if finished is None else finished
        events = report_ledger.run_events(finished=finished, actual=self.random.random() < 0.7)
        path = report_ledger.write_ledger(self.folder / "run", events) / "ledger.jsonl"
        if self._hits():
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            self._change_document(self.random.choice(lines))
            path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        if self._hits():
            self._text("run/ledger.jsonl", path.read_text(encoding="utf-8"), hit=True)
        return str(path.parent)

    def _database(self) -> str:
        folder = self.folder / "archive"
        folder.mkdir()
        if self._hits():
            self.changes.append("archive: no database")
            (folder / self._one("archive.sqlite", "archive.db", "lowcarb.sqlite3")).write_bytes(
                b"\x00rubbish"
            )
        return str(folder)

    def _text(self, name: str, text: str, *, hit: bool = False) -> str:
        """Write a text, at times torn, with rubbish in it, or as no regular file."""
        path = self.folder / name
        content = text.encode("utf-8", "surrogatepass")
        if hit or self._hits():
            kinds = ("cut", "byte", "bytes", "twice", "empty", "bom", "nul", "missing", "pipe", "folder",
                     "device", "nested")  # fmt: skip
            kind = self.random.choice(kinds)
            self.changes.append(f"{name}: {kind}")
            at = self.random.randrange(len(content) + 1)
            path.unlink(missing_ok=True)
            if kind in ("missing", "pipe", "folder", "device"):
                {"missing": lambda: None, "pipe": lambda: os.mkfifo(path), "folder": path.mkdir,
                 "device": lambda: path.symlink_to("/dev/zero")}[kind]()  # fmt: skip
                return str(path)
            byte = bytes([self.random.randrange(256)])
            content = {
                "cut": content[:at], "byte": content[:at] + byte + content[at + 1 :],
                "bytes": content[:at] + self.random.randbytes(50) + content[at:], "twice": content * 2,
                "empty": b"", "bom": b"\xef\xbb\xbf" + content, "nul": content[:at] + b"\x00" + content[at:],
                "nested": b'{"a":' * 50_000,
            }[kind]  # fmt: skip
        path.write_bytes(content)
        return str(path)

    # -- Choices ---

    def _change_argument(self, arguments: list[str]) -> None:
        at = self.random.randrange(1, len(arguments) + 1)
        kind = self.random.choice(("value", "value", "more", "without"))
        self.changes.append(f"argument {at}: {kind}")
        if kind == "value" and at < len(arguments):
            arguments[at] = self._one(*TEXTS)
        elif kind == "without" and at < len(arguments):
            del arguments[at]
        else:
            arguments.insert(at, self._one("--utc", "--plot", "--no-such", "-x", "--", *TEXTS))

    def _hits(self) -> bool:
        """Return whether a change is to be made here."""
        if self.wrong and self.random.random() < 0.5:
            self.wrong -= 1
            return True
        return False

    def _maybe(self, option: str, values: tuple[str, ...]) -> list[str]:
        return [option, self._one(*values)] if self.random.random() < 0.4 else []

    def _one(self, *values: Any) -> Any:
        return self.random.choice(values)
