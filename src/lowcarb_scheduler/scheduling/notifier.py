"""Notifications of a run: JSON messages that are posted to a webhook while it goes on.

A thread follows the ledger, as somebody would who watches the run, and posts what matters. The run never
waits for it: a message that cannot be delivered is tried again with growing pauses, and a fault is a line of
the log.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import httpx

from lowcarb_scheduler.accounting.emissions import Saved
from lowcarb_scheduler.accounting.replay import Record
from lowcarb_scheduler.clock import SystemClock, format_duration, format_time
from lowcarb_scheduler.errors import InputError, LowcarbError, one_line
from lowcarb_scheduler.events import Degraded, HoldStarted, RunFinished, RunStarted
from lowcarb_scheduler.forecasts.backoff import Backoff
from lowcarb_scheduler.forecasts.http.client import HttpClient, Request
from lowcarb_scheduler.forecasts.http.responses import FetchError, Redaction
from lowcarb_scheduler.ledger import LedgerTail, iter_ledger
from lowcarb_scheduler.scheduling import messages
from lowcarb_scheduler.settings import masked_webhook

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.events import Event

logger = logging.getLogger("flwr")

SCHEMA_VERSION: Final = 1
LONG: Final = timedelta(hours=1)  # a shorter hold is not worth a message
QUIET: Final = timedelta(hours=1)  # between two messages about the same part that does not work
GRACE: Final = timedelta(seconds=5)  # for the last message, after the run has ended
_LOOK_EVERY: Final = timedelta(seconds=2)
_TIMEOUT: Final = timedelta(seconds=15)  # a third of it for an attempt: see HttpClient
_FIRST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=1), timedelta(minutes=10)
_GIVEN_UP_AFTER: Final = timedelta(hours=12)
_MOST_WAITING: Final = 50  # messages
_DEADLINE: Final = "deadline"  # the part that a warning of a late run names
# A name or the answer of a server must not address people or hide a link in somebody's chat.
_CHAT_MARKS: Final = str.maketrans({"<": "‹", ">": "›", "@": "(at)", "[": "(", "]": ")"})


# -- Messages ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Message:
    """Message about a run, without the sums that are looked up when it is sent.

    Parameters
    ----------
    event : {"waiting", "degraded", "late", "ended"}
        What has happened.
    at : datetime
        When.
    round : int or None
        The round that is held, or the number of rounds that are done at the end.
    until : datetime or None
        Opening of that round, or the end of the last one.
    why : str
        The reason, the fault and what the run does instead, or the status in which it has ended.
    text : str
        All of it as a line.
    ended : RunFinished or None
        The end, with its figures.
    """

    event: str
    at: datetime
    round: int | None
    until: datetime | None
    why: str
    text: str
    ended: RunFinished | None = None


class Digest:
    """Choice of events that are worth a message: each kind of news once.

    For a resumed run it reads the earlier events first, whose messages are thrown away: none is repeated.
    """

    KINDS: Final = (RunStarted, HoldStarted, Degraded, RunFinished)

    def __init__(self) -> None:
        self.started: RunStarted | None = None
        self._held: set[int] = set()
        self._causes: set[tuple[str, str]] = set()
        self._told_at: dict[str, datetime] = {}
        self._is_late = False

    def read(self, event: Event) -> Message | None:
        """Take an event into account, and return the message that it is worth."""
        match event:
            case RunStarted():
                self.started = event
            case HoldStarted() if event.seconds > LONG.total_seconds() and event.round not in self._held:
                self._held.add(event.round)
                return self._waiting(event)
            case Degraded(what=what) if what == _DEADLINE and not self._is_late:
                self._is_late = True
                why = f"{event.why}; {event.consequence}"
                return self._message("late", event.at, why, f"is late: {why}")
            case Degraded() if self._is_news(event):
                why = f"{event.what}: {event.why}; {event.consequence}"
                return self._message("degraded", event.at, why, f"goes on with less: {why}")
            case RunFinished():
                return self._ended(event)
        return None

    def _is_news(self, event: Degraded) -> bool:
        """Return whether a fault is a new one, and its part has not been the last hour's news."""
        cause, told_at = (event.what, event.why), self._told_at.get(event.what)
        if event.what == _DEADLINE or cause in self._causes:
            return False
        self._causes.add(cause)
        if told_at is not None and event.at < told_at + QUIET:
            return False
        self._told_at[event.what] = event.at
        return True

    def _waiting(self, event: HoldStarted) -> Message:
        lasts = format_duration(timedelta(seconds=event.seconds))
        until = f"{messages.instant(event.until)} ({lasts})"
        text = f"holds {self._round(event.round)} until {until}: {event.reason}"
        return self._message("waiting", event.at, event.reason, text, event.round, event.until)

    def _ended(self, event: RunFinished) -> Message:
        done, late = len(event.rounds), ""
        if event.finish is not None and event.finish_by is not None:
            side = "after" if event.late else "before"
            late = f", {format_duration(abs(event.finish_by - event.finish))} {side} the deadline"
        of = f" of {self.started.rounds}" if self.started else ""
        text = f"has ended: {event.status}, {done}{of} rounds{late}"
        return self._message("ended", event.at, event.status, text, done, event.finish, event)

    def _round(self, number: int) -> str:
        return f"round {number}" + (f" of {self.started.rounds}" if self.started else "")

    def _message(
        self, event: str, at: datetime, why: str, text: str, number: int | None = None,
        until: datetime | None = None, ended: RunFinished | None = None,
    ) -> Message:  # fmt: skip
        run = self.started.run_id if self.started else "?"
        of = f" of {self.started.app}" if self.started and self.started.app else ""
        return Message(event, at, number, until, one_line(why), f"lowcarb: run {run}{of} {text}", ended)


def _told(saved: Saved | None) -> str:
    """Return a saving as the end of a line; nothing where none is known."""
    if saved is None:
        return ""
    part = "" if saved.saving is None else f" ({saved.saving:.1%})"
    return f"; saved so far: {saved.avoided_g:,.0f} g CO2eq{part}"


def body_of(
    message: Message, run_dir: Path, started: RunStarted | None, saved: Saved | None
) -> dict[str, Any]:
    """Return the JSON document of a message, as docs/how-to/notifications.md lists it."""
    until = None if message.until is None else format_time(message.until)
    tells_deadline = message.ended or started  # a deadline may be settled after the start
    finish_by = tells_deadline.finish_by if tells_deadline else None
    return {
        "schema_version": SCHEMA_VERSION,
        "event": message.event,
        "at": format_time(message.at),
        "run": started.run_id if started else None,
        "run_dir": run_dir.name,
        "app": started.app if started else None,
        "strategy": started.strategy if started else None,
        "round": message.round,
        "rounds": started.rounds if started else None,
        "until": until,
        "finish_by": None if finish_by is None else format_time(finish_by),
        "late": message.ended.late if message.ended else message.event == "late",
        "why": message.why,
        "saved_g": saved.avoided_g if saved else None,
        "saving": saved.saving if saved else None,
        "saved_rounds": saved.rounds if saved else 0,
        "text": one_line(f"{message.text}{_told(saved)}", 1000).translate(_CHAT_MARKS),
    }


# -- Delivery ----------------------------------------------------------------------------------------------


class Webhook:
    """Address that takes messages; all of it but its host is secret.

    Parameters
    ----------
    url : str
        The address, as :class:`~lowcarb_scheduler.settings.Settings` has checked it.
    clock : Clock
        Times the attempts.
    transport : httpx.BaseTransport, optional
        Transport of the requests; by default the network, through the proxies of the environment.
    """

    def __init__(self, url: str, clock: Clock, transport: httpx.BaseTransport | None = None) -> None:
        self._url, self._clock, self._transport = httpx.URL(url), clock, transport
        self.shown = masked_webhook(url)
        path, query = self._url.path, self._url.params
        texts = {url, path, path.strip("/"), self._url.query.decode(), *path.split("/"), *query.values()}
        texts |= {self._url.username, self._url.password}
        self._secrets = [text for text in texts if text.strip("/")]

    def post(self, body: dict[str, Any], timeout: timedelta = _TIMEOUT) -> FetchError | None:
        """Post a message once; return the error, without secrets, if it was not taken."""
        path = self._url.raw_path.partition(b"?")[0].decode()
        # A client for each message: the pause after a failure is ours, and no connection is kept for hours.
        client = HttpClient(
            self._url.copy_with(raw_path=b"/"), timeout, self._clock, self._transport,
            follow_redirects=False, max_attempts=1,
        )  # fmt: skip
        request = Request(path, dict(self._url.params), body=body)
        with _unlogged(self._secrets):
            outcome = client.send_all({"": request}, lambda *_: None)[""]
        return outcome.masked(Redaction(self._secrets)) if isinstance(outcome, FetchError) else None


@contextmanager
def _unlogged(secrets: Iterable[str]) -> Iterator[None]:
    """Keep httpx from logging addresses that hold one of these secrets: it logs each at level INFO."""
    library, redaction = logging.getLogger("httpx"), Redaction(secrets)

    def has_none(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        return redaction.mask(text) == text

    library.addFilter(has_none)
    try:
        yield
    finally:
        library.removeFilter(has_none)


class Notifier:
    """Thread that follows a ledger and posts what matters.

    Parameters
    ----------
    run_dir : Path
        Folder of the run, whose ledger is open; what is in it already is no news.
    webhook : Webhook
        Address of the messages.
    clock : Clock
        Times the attempts, in real time also for a run on a virtual clock.
    """

    def __init__(self, run_dir: Path, webhook: Webhook, clock: Clock) -> None:
        # A ServerApp may change its folder.
        self._run_dir, self._webhook, self._clock = run_dir.absolute(), webhook, clock
        self._tail, self._digest = LedgerTail(self._run_dir, Digest.KINDS), Digest()
        self._waiting: deque[tuple[datetime, dict[str, Any]]] = deque()
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._not_before: datetime | None = None  # as the server asks for
        self._has_warned = False
        self._wake = threading.Event()
        self._ends_by: datetime | None = None  # once the run has ended
        self._thread = threading.Thread(target=self._follow, name="lowcarb-notifier", daemon=True)
        with suppress(InputError):  # what cannot be read now is told when it cannot be read later
            for event in self._tail.read():
                self._digest.read(event)

    @classmethod
    def of(cls, url: str | None, run_dir: Path) -> Notifier | None:
        """Return the notifier of a run, not started yet; None without an address."""
        clock = SystemClock()
        return None if url is None else cls(run_dir, Webhook(url, clock), clock)

    def start(self) -> None:
        """Start to follow."""
        self._thread.start()

    def close(self, grace: timedelta = GRACE) -> None:
        """End with what is in the ledger by now; return when it is delivered, or after that time."""
        self._ends_by = self._clock.now() + grace
        self._wake.set()
        self._thread.join(grace.total_seconds())
        if self._waiting:
            lost = f"{len(self._waiting)} message(s) to {self._webhook.shown} are lost"
            logger.warning("lowcarb: notify-url: %s: not delivered within %s", lost, format_duration(grace))

    def _follow(self) -> None:
        """Look and post until the run has ended."""
        try:
            while self._ends_by is None:
                self.step()
                self._wake.wait(_LOOK_EVERY.total_seconds())
            # What has failed until now is tried once more, whatever the pause.
            self._backoff, self._not_before = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE), None
            self.step()
            while self._waiting and self._left() > timedelta(0):
                self._clock.sleep_until(self._clock.now() + min(self._backoff.pause, self._left()))
                self.step()
        except Exception as error:  # noqa: BLE001  whatever it is, the training goes on
            name = type(error).__name__  # its text may hold the address
            logger.warning("lowcarb: notify-url: no more messages are sent: %s", name)

    def step(self) -> None:
        """Read what is new in the ledger, and post what is due."""
        try:
            found = [message for event in self._tail.read() if (message := self._digest.read(event))]
        except LowcarbError as error:
            self._warn(f"the ledger cannot be read: {error}")
            found = []
        for message in found:
            body = body_of(message, self._run_dir, self._digest.started, self._saved(message))
            self._waiting.append((self._clock.now(), body))
        while len(self._waiting) > _MOST_WAITING:
            self._drop("too many wait to be delivered")
        while self._waiting and self._is_due():
            self._post()

    def _is_due(self) -> bool:
        now = self._clock.now()
        return self._backoff.due(now) and (self._not_before is None or now >= self._not_before)

    def _post(self) -> None:
        """Post the message that has waited longest."""
        since, body = self._waiting[0]
        timeout = _TIMEOUT if self._ends_by is None else max(self._left(), timedelta(seconds=1))
        error, now = self._webhook.post(body, timeout), self._clock.now()
        # A message that is refused makes way for the next one, which may not be.
        self._backoff.record(now, succeeded=error is None or not error.again)
        self._not_before = error.not_before if error else None
        if error is None:
            self._waiting.popleft()
            self._has_warned = False
        elif not error.again:
            self._drop(error.why)
        elif now - since > _GIVEN_UP_AFTER:
            self._drop(f"not delivered within {format_duration(_GIVEN_UP_AFTER)}: {error.why}")
        else:
            self._warn(f"{error.why}; the message is sent again later")

    def _drop(self, why: str) -> None:
        _, body = self._waiting.popleft()
        logger.warning(
            "lowcarb: notify-url: %s: the message %r is lost: %s", self._webhook.shown, body["event"], why
        )

    def _warn(self, why: str) -> None:
        """Log a fault, once until something is delivered again."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning("lowcarb: notify-url: %s: %s", self._webhook.shown, why)

    def _left(self) -> timedelta:
        """Return the time that is left after the end of the run."""
        assert self._ends_by is not None, "the run has ended"
        return self._ends_by - self._clock.now()

    def _saved(self, message: Message) -> Saved | None:
        """Return the saving so far, as ``lowcarb status`` shows it."""
        try:
            # Read whole, but only for a message: rounds are settled by actual intensity that comes later.
            rounds = message.ended.rounds if message.ended else Record.of(iter_ledger(self._run_dir)).rounds
        except LowcarbError:
            return None
        return Saved.of((each.realised_g, each.run_now_g) for each in rounds)
