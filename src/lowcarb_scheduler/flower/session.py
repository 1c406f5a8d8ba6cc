"""One run: for every round, look who is there, plan what remains, hold, and keep the recorder.

The strategy only translates between this and Flower.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flwr.superlink.grid import HttpGrid

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.accounting.turns import TurnReport
from lowcarb_scheduler.clock import SystemClock, VirtualClock, format_time, from_us, parse_time
from lowcarb_scheduler.errors import InputError, PlanInfeasibleError
from lowcarb_scheduler.flower.checkpoint.resume import Stage, job_of, open_folder
from lowcarb_scheduler.flower.checkpoint.store import Checkpoint
from lowcarb_scheduler.flower.grid import DispatchGrid
from lowcarb_scheduler.flower.nodes import LocationResolver, NodeRegistry
from lowcarb_scheduler.flower.telemetry import is_asked, validate_report
from lowcarb_scheduler.flower.waiting import Arrivals, Wait
from lowcarb_scheduler.forecasts.registry import arranged, open_sources
from lowcarb_scheduler.ledger import Ledger
from lowcarb_scheduler.scheduling import messages
from lowcarb_scheduler.scheduling.intensity_feed import IntensityFeed
from lowcarb_scheduler.scheduling.locations import read_places
from lowcarb_scheduler.scheduling.recorder import Round, RunRecorder
from lowcarb_scheduler.scheduling.replanner import Replanner
from lowcarb_scheduler.scheduling.selection import Dropouts, select_clients
from lowcarb_scheduler.settings import SECRETS, Settings

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from flwr.app import ArrayRecord, Context
    from flwr.serverapp import Grid

    from lowcarb_scheduler.accounting.turns import Profile
    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.flower.checkpoint.resume import Progress, Resumption
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.scheduling.locations import Place
    from lowcarb_scheduler.scheduling.recorder import Window

logger = logging.getLogger("flwr")


class Latest(NamedTuple):
    """The round that opened last: when, and how long it was planned to be."""

    opened_at: datetime
    planned: timedelta


class Session:
    """The state of one run.

    Parameters
    ----------
    settings : Settings
        What the run was told.
    places : mapping of str to Place
        What the locations file says of nodes.
    source : ForecastSource or None
        Where intensity comes from; None: rounds open at once.
    clock : Clock
        Tells the time; a VirtualClock jumps through holds, and a round then takes its planned time.
    ledger : Ledger
        Takes what happens.
    about : mapping
        What else ``run_started`` is to say.
    rounds : int
        How many there are to be.
    progress : Progress, optional
        Keeps how far the run is.
    resumption : Resumption, optional
        The run to go on with.
    """

    def __init__(
        self,
        settings: Settings,
        places: Mapping[str, Place],
        source: ForecastSource | None,
        clock: Clock,
        ledger: Ledger,
        about: Mapping[str, Any],
        rounds: int,
        progress: Progress | None = None,
        resumption: Resumption | None = None,
    ) -> None:
        self._settings, self._clock, self._rounds = settings, clock, rounds
        self._virtual = isinstance(clock, VirtualClock)
        self._started = progress.started_at if progress else clock.now()
        self.progress = progress
        self._ledger = ledger
        self._log = messages.RunLog(ledger)
        self._feed = IntensityFeed(source, ledger, self._log)
        self._replanner = Replanner(settings, rounds, self._started, ledger, self._log, self._virtual)
        self._recorder = RunRecorder(ledger, self._log, self._started)
        self._dropouts = Dropouts()
        self._were_there: set[str] = set()  # before a restart
        self._first_round = 1  # since the last start
        self._reopens: int | None = None
        self._asked: tuple[int, datetime] | None = None  # a round, and since when it could have opened
        if resumption is not None and progress is not None:
            self._recall(resumption, progress, about)
        if resumption is None or not resumption.has_ledger:
            self._write_start(about)
        logger.info("lowcarb: the ledger of this run is %s", ledger.run_dir.absolute())
        self._registry = NodeRegistry(
            places, LocationResolver(source), settings.default_location, settings.default_power_watts,
            self._note_claim,
        )  # fmt: skip
        self._alive: dict[int, Profile] = {}
        self._found: dict[int, Profile] = {}  # who evaluates after a restart
        self._evaluation_began = self._started
        self._arrivals = Arrivals(clock, self._virtual, self._replanner, self._log, ledger)
        self._latest: Latest | None = None
        self.has_ended = False
        self._has_source = source is not None
        if progress is not None:
            progress.attach(ledger, self._memory, self._log.warn)
        if source is None:
            unread = "" if about["run_id"] != "local" else "; no context was given, so run-config is not read"
            self._log.warn(
                "forecast", "no source is named", f"no waiting; set lowcarb-source to wait{unread}"
            )

    # -- beginning and going on ----------------------------------------------------------------------------

    def _write_start(self, about: Mapping[str, Any]) -> None:
        """Enter the beginning of the run in the ledger."""
        told, schedule = self._settings, self._replanner.schedule
        self._ledger.append(
            "run_started", **about, version=__version__, settings=told.shown(), started_at=self._started,
            rounds=self._rounds, clients_per_round=told.clients_per_round,
            round_duration_s=told.round_duration,
            finish_by=schedule.finish_by if schedule else None,
            target_finish=schedule.target_finish if schedule else None,
            patience=told.patience, participation=told.participation,
            clock="virtual" if self._virtual else "system",
        )  # fmt: skip

    def _memory(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the run."""
        return {
            "replanner": self._replanner.memory(self._feed.known),
            "turns": self._recorder.memory(), "feed": self._feed.memory(),
            "latest": None if self._latest is None else list(self._latest), "asked": self._asked,
            "dropouts": [self._dropouts.asked, self._dropouts.failed],
        }  # fmt: skip

    def _recall(self, resumption: Resumption, progress: Progress, about: Mapping[str, Any]) -> None:
        """Go on where the checkpoint is; a round whose training is over is closed as of then."""
        resumption.check(self._ledger)
        memory = resumption.recall(progress)
        number, stage = progress.place
        self._first_round = max(number + 1, 1)
        if memory is not None:
            # A virtual clock was set back to the checkpoint: what was learnt later is not known yet.
            known = (event for event in resumption.events() if event["at"] <= resumption.at)
            self._feed.recall(known, memory["feed"])
            self._recorder.recall(resumption.events(), memory["turns"])
            nodes = {key: node.features for key, node in self._recorder.nodes.items()}
            self._replanner.recall(memory["replanner"], nodes, self._feed.known)
            self._were_there = set(nodes)
            self._dropouts, self._asked = Dropouts(*memory["dropouts"]), memory["asked"]
            if stage is Stage.OVER and (self._asked is None or self._asked[0] != number + 1):
                self._asked = number + 1, resumption.at  # the next one was asked for when this was written
            if memory["latest"] is not None:
                opened_at, planned = memory["latest"]
                self._replanner.round_over(resumption.at - opened_at, planned)
        if not resumption.has_ledger:
            return
        self._reopens = self._round_to_reopen(resumption)
        self._ledger.append(
            "run_resumed", **about, version=__version__, after=resumption.lines, cut_bytes=self._ledger.cut,
            round=number, stage=stage.name,
        )  # fmt: skip
        done = f"round {number} is {stage.name.lower()}" if number > 0 else "no round has trained"
        cut = f"; {self._ledger.cut} bytes of a torn line were cut" if self._ledger.cut else ""
        logger.info("lowcarb: going on with the run of %s: %s%s", messages.instant(self._started), done, cut)
        if (current := self._recorder.current) is not None:
            self._close(max(resumption.at, current.opened_at), current.opened_at)

    def _round_to_reopen(self, resumption: Resumption) -> int | None:
        """Return the round that was open when the run was killed, while its window lasts."""
        if (opened := resumption.last_opened()) is None or self._virtual or self._replanner.schedule is None:
            return None
        number, opened_at = opened
        is_on = opened_at <= self._clock.now() < opened_at + self._replanner.schedule.round_duration
        return number if is_on and number == self._first_round else None

    def name_of(self, node_id: int) -> str:
        """Return the name of a node that outlives the run; nothing for one that is not there."""
        known = self._alive.get(node_id) or self._found.get(node_id)
        return known.key if known else ""

    def find(self, keys: Collection[str], grid: Grid) -> list[int]:
        """Return the nodes of these names after a restart, waiting for those that are still registering."""
        found: list[int] = []
        for _ in self._arrivals.looks():
            self._found = self._registry.profiles(grid, sorted(grid.get_node_ids()))
            found = [node_id for node_id, profile in self._found.items() if profile.key in keys]
            if len(found) == len(keys):
                break
        return found

    def asks(self, strategy: object) -> str | None:
        """Return what energy nodes are asked for; None if nothing, as where a virtual clock needs none."""
        asked = not self._virtual and is_asked(self._settings, strategy)
        return self._settings.energy if asked else None

    def dispatching(self, grid: Grid) -> DispatchGrid:
        """Return a Grid that sends each round's messages when the plan says."""
        fix = "they are not in the ledger; a configure_train() of your own has to call that of super()"
        return DispatchGrid(
            grid, self._clock, lambda: self._recorder.current,
            lambda line: self._log.warn("training", line, fix),
        )  # fmt: skip

    # -- a round, in the order it happens ------------------------------------------------------------------

    def open_round(self, number: int, grid: Grid, clients_per_round: int, at_least: int) -> list[int]:
        """Wait until the round may open, and return the nodes that train.

        Parameters
        ----------
        number : int
            The round, from 1.
        grid : Grid
            Who is connected.
        clients_per_round : int
            How many are to train.
        at_least : int
            With how many the inner strategy is content.

        Raises
        ------
        PlanInfeasibleError
            If fewer nodes than that are connected until no slack is left.
        """
        self.close_round()
        now, is_again = self._clock.now(), False
        if self._latest is not None:
            self._replanner.round_over(now - self._latest.opened_at, self._latest.planned)
            self._latest = None
        if self._replanner.is_out_of_time(number, now):
            return self._end(f"round {number} would end after the deadline")
        # Before a restart it may have been asked for, too.
        self._asked = self._asked if self._asked and self._asked[0] == number else (number, now)
        asked_at = self._asked[1]
        holding = self._holding(number, asked_at)
        while True:
            try:
                self._arrivals.enough(
                    number, grid, clients_per_round, at_least, is_first=number == self._first_round
                )
            except PlanInfeasibleError as error:
                if self._settings.on_late != "stop":
                    raise
                return self._end(str(error))
            self._look(number, grid, clients_per_round, is_new=not is_again)
            opened_at = holding.wait(
                lambda is_due: self._is_enough(number, grid, clients_per_round, at_least, is_due)
            )
            # Some may have been lost in the hold: they are waited for like before it, but only once.
            there = len(self._alive)
            if there >= clients_per_round or (there >= at_least and is_again):
                return self._dispatch(number, clients_per_round, asked_at, opened_at)
            is_again = True

    def _holding(self, number: int, asked_at: datetime) -> Wait:
        """Return the hold of a round."""
        return Wait(
            number, self._rounds, self._clock, self._replanner, self._feed, self._ledger,
            None if self._settings.max_hold is None else asked_at + self._settings.max_hold,
            is_open=number == self._reopens,
        )  # fmt: skip

    def _end(self, why: str) -> list[int]:
        """Let no more rounds open, and return nobody."""
        self.has_ended = True
        self._log.warn("deadline", why, "the run stops here with what it has trained, as on-late says")
        return []

    def _is_enough(self, number: int, grid: Grid, clients: int, at_least: int, is_due: bool) -> bool:
        """Look around, in a hold; return whether as many nodes are left as the round needs."""
        if is_due:
            there = set(grid.get_node_ids())
            self._alive = {node_id: p for node_id, p in self._alive.items() if node_id in there}
        else:
            self._look(number, grid, clients)
        return len(self._alive) >= at_least

    def train_ended(self, done: Mapping[int, Mapping[str, Any] | None], failed: Mapping[int, str]) -> None:
        """Take down who has trained.

        Parameters
        ----------
        done : mapping of int to mapping or None
            By node id, what each good reply says of itself.
        failed : mapping of int to str
            By node id, why it has not.
        """
        if (current := self._recorder.current) is None:
            return
        if self._virtual:
            self._clock.sleep_until(current.planned_closes_at)
        now = self._clock.now()
        turns = {node_id: self._turn(current, node_id, said, now)
                 for node_id, said in done.items() if node_id in current.members}  # fmt: skip
        self._recorder.train_ended(turns, failed)
        self._dropouts = self._dropouts.after(len(current.members), current.failed)

    def _turn(
        self, current: Round, node_id: int, said: Mapping[str, Any] | None, now: datetime
    ) -> tuple[Window, TurnReport]:
        """Return when a node trained, as long as it says if that can be, and what it says of its energy."""
        profile, planned = current.members[node_id]
        if self._virtual:
            return planned, TurnReport()
        started_at = current.started.get(node_id, current.opened_at)
        return self._window(profile, started_at, current.ended.get(node_id, now), said)

    def _window(
        self, profile: Profile, started_at: datetime, ended_at: datetime, said: Mapping[str, Any] | None
    ) -> tuple[Window, TurnReport]:
        elapsed = max(ended_at - started_at, timedelta(0))  # a clock may be set back
        believed = validate_report(said, elapsed, profile.key, self._note_claim)
        return (started_at, started_at + (believed.duration or elapsed)), believed

    def close_round(self) -> None:
        """Account for the round that is open, if one is."""
        if (current := self._recorder.current) is None:
            return
        self._close(self._clock.now(), current.opened_at)

    def _close(self, closed_at: datetime, opened_at: datetime) -> None:
        length = self._replanner.length_of(closed_at - opened_at)
        closed_at = max(closed_at, opened_at)
        self._feed.learn_actual(self._started, closed_at, self._spare())
        self._recorder.close(closed_at, length, self._feed.actual)

    def evaluated_here(self, number: int, metrics: Mapping[str, Any] | None) -> None:
        """Take down the metrics of an evaluation on the server."""
        if numbers := _numbers(metrics):
            self._ledger.append("evaluated", round=number, where="server", metrics=numbers)

    def evaluation_begins(self) -> None:
        """Note that nodes are asked to evaluate."""
        self._evaluation_began = self._clock.now()

    def evaluated(
        self,
        number: int,
        done: Mapping[int, Mapping[str, Any] | None],
        failed: Mapping[int, str],
        metrics: Mapping[str, Any] | None,
    ) -> None:
        """Take down who has evaluated, with what metrics, and close the round.

        Parameters
        ----------
        number : int
            The round.
        done : mapping of int to mapping or None
            By node id, what each good reply says of itself.
        failed : mapping of int to str
            By node id, why it has not.
        metrics : mapping or None
            What the strategy made of it.
        """
        began, now = self._evaluation_began, self._clock.now()
        if done or failed:
            there = {**self._found, **self._alive}
            alive = {node_id: there[node_id] for node_id in done if node_id in there}
            turns = [(profile, *self._window(profile, began, now, None if self._virtual else done[node_id]))
                     for node_id, profile in alive.items()]  # fmt: skip
            self._recorder.evaluated(number, turns, len(failed), _numbers(metrics), self._feed.actual)
        self.close_round()

    def finish(self, status: str) -> None:
        """Sum up and close the ledger; a run that did not complete ends at once, without asking a source."""
        if status == "completed" and self.has_ended:
            status = "out of time"
        if status != "completed":
            self._feed.close()
        self.close_round()
        finish_by = self._replanner.schedule.finish_by if self._replanner.schedule else None
        try:
            if not self._recorder.is_settled:
                self._feed.learn_actual(self._started, self._clock.now(), self._spare(), last_chance=True)
            summary = self._recorder.finish(status, finish_by, self._feed.actual)
        finally:
            self._ledger.close()
        for line in messages.summary_lines(summary, self._ledger.run_dir):
            logger.info("lowcarb: %s", line)

    # -- who is there, and what is known -------------------------------------------------------------------

    def await_available(self, number: int, grid: Grid, wanted: int) -> int:
        """Wait a while for nodes that a strategy wants to be there when it samples; return how many are."""
        return self._arrivals.available(number, grid, wanted, number == self._first_round)

    def _look(self, number: int, grid: Grid, clients: int, is_new: bool = False) -> None:
        """See who is there and what is forecast; plan anew if the plan does not stand any more."""
        ids = sorted(grid.get_node_ids())
        before = {profile.key for profile in self._alive.values()} or self._were_there
        changed = ids != sorted(self._alive)
        if changed or is_new:
            self._alive = self._registry.profiles(grid, ids)
            keys = {profile.key for profile in self._alive.values()}
            self._recorder.add_nodes(keys - before, keys)
            self._recorder.update_nodes(self._alive.values())
            if changed and ids:
                self._note_places()
        if not ids:
            return  # nobody to plan for; who waits for nodes will see
        places = {profile.location for profile in self._alive.values() if profile.location}
        is_news = self._feed.refresh(places, self._clock.now(), self._spare())
        if not (changed or is_new or is_news):
            return
        there = (
            self._alive.values(), self._recorder.turns, min(clients, len(ids)), self._clock.now(),
            self._feed.known,
        )  # fmt: skip
        if (reason := self._replanner.why_anew(number, *there)) is not None:
            self._replanner.plan(number, *there, reason)
            if self.progress is not None:
                self.progress.planned()

    def _note_claim(self, line: str) -> None:
        """Note once that a node says something that cannot be."""
        self._log.warn("node", line, "its turns still count")

    def _note_places(self) -> None:
        """Say which nodes are nowhere, and which entries of the locations file are nobody."""
        nowhere = [profile.key for profile in self._alive.values() if profile.location is None]
        if nowhere and self._has_source:
            who = ", ".join(sorted(nowhere)[:5]) + (", ..." if len(nowhere) > 5 else "")
            why = f"nobody says where {len(nowhere)} of {len(self._alive)} node(s) are ({who})"
            fix = "set lowcarb-locations, by partition-id or name, or lowcarb-default-location"
            self._log.warn("locations", why, f"carbon cannot decide when they train; {fix}")
        if unmatched := self._registry.unmatched():
            named = ", ".join(unmatched[:5]) + (", ..." if len(unmatched) > 5 else "")
            use = "entries are matched by partition-id, node name or node id"
            self._log.warn("locations", f"no node answers to {named} of the file", use)

    def _spare(self) -> timedelta | None:
        """Return how long a look-up may take now without a round opening late; None if that is no matter."""
        now, opened = self._clock.now(), self._recorder.opened
        latest = None if opened == self._rounds else self._replanner.latest_opening(opened + 1)
        if self._virtual or latest is None:
            return None  # in a simulation a look-up takes no time; the first round opens at once anyway
        held_until = self._replanner.opens_at(opened + 1) or now
        return (held_until if held_until > now else latest) - now

    # -- writing it down -----------------------------------------------------------------------------------

    def _dispatch(self, number: int, clients: int, asked_at: datetime, opened_at: datetime) -> list[int]:
        """Enter the round that opens, and return the node ids of those who train in it."""
        assert self._replanner.decision is not None  # made before the hold
        plan, index = self._replanner.decision.plan, self._replanner.index(number)
        node_of = {profile.key: node_id for node_id, profile in self._alive.items()}
        needed = min(clients, len(node_of))
        wanted = self._dropouts.wanted(needed, len(node_of), self._settings.over_select)
        known = self._feed.forecast if self._replanner.decision.on_forecast else None
        selection = select_clients(
            plan, index, known, opened_at, node_of, wanted, self._settings.max_location_share
        )
        members = {
            node_of[key]: (self._alive[node_of[key]], (from_us(start), from_us(end)))
            for key, start, end in zip(
                plan.fleet.ids[selection.clients], selection.starts_us, selection.ends_us, strict=True
            )
        }
        planned = plan.rounds[index]
        length = planned.closes_at - planned.opens_at
        opened = Round(number, opened_at, opened_at + length, members, selection.emissions_g)
        self._latest = Latest(opened_at, length)
        self._recorder.open(opened, opened_at - asked_at, planned.opens_at)
        return list(members)


def _numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """Return the metrics that are numbers."""
    return {key: value for key, value in (metrics or {}).items() if isinstance(value, int | float)}


# -- What a run needs to begin: its settings, and the source, the clock and the folder they name ------------


class Setup:
    """What a run needs to begin.

    Parameters
    ----------
    settings : Settings
        What it was told.
    source : ForecastSource or None
        Where intensity comes from, if not from what the settings name.
    clock : Clock or None
        Tells the time, if not what the settings name.
    run_id : str
        Flower's name of the run.

    Raises
    ------
    InputError
        If a source or the locations file cannot be opened.
    """

    def __init__(
        self, settings: Settings, source: ForecastSource | None, clock: Clock | None, run_id: str
    ) -> None:
        self.settings, self.run_id = settings, run_id
        self._clock = clock
        # Opened here, so that a bad setting fails before anything trains.
        # A virtual clock runs away from the time that forecasts are dated by: it does not tell their age.
        real = None if isinstance(clock, VirtualClock) else clock
        self.source = _open_source(settings, source, real) if settings.enabled else None
        self._places = read_places(settings.locations) if settings.locations and settings.enabled else {}

    @classmethod
    def read(
        cls,
        context: Context | None,
        source: ForecastSource | str | None,
        clock: Clock | str | None,
        keywords: Mapping[str, Any],
    ) -> Setup:
        """Return the setup of what was given in code, in the run-config and in the environment.

        Raises
        ------
        InputError
            If a setting is unknown or impossible.
        """
        named = {"source": source if isinstance(source, str) else None,
                 "clock": clock if isinstance(clock, str) else None}  # fmt: skip
        run_config = context.run_config if context else None
        return cls(
            settings=Settings.load(keywords={**keywords, **named}, run_config=run_config),
            source=None if isinstance(source, str) else source,
            clock=None if isinstance(clock, str) else clock,
            run_id=str(context.run_id) if context else "local",
        )

    def check_clock(self, grid: Grid | None) -> None:
        """Refuse a clock that jumps where nodes are real.

        Raises
        ------
        InputError
            If that is so.
        """
        virtual = isinstance(self._clock, VirtualClock) if self._clock else self.settings.clock != "system"
        if virtual and isinstance(grid, HttpGrid):
            raise InputError("lowcarb-clock", "virtual is for simulation", "use system with real nodes")

    def begin(
        self, grid: Grid, strategy: str, rounds: int, kept: tuple[object, ArrayRecord | None] | None = None
    ) -> Session:
        """Return a run that begins now, or goes on.

        Parameters
        ----------
        grid : Grid
            Where its nodes are.
        strategy : str
            The name of its class.
        rounds : int
            How many there are to be.
        kept : (Strategy, ArrayRecord or None), optional
            The strategy and what it is started with, if checkpoints are to be kept.

        Raises
        ------
        InputError
            If it cannot begin with these settings.
        """
        self.check_clock(grid)
        clock = self._clock or _open_clock(self.settings.clock)
        if isinstance(clock, VirtualClock) and self.settings.round_duration is None:
            fix = "a virtual clock must know how long a round is, for example 30m"
            raise InputError("lowcarb-round-duration", "is not given", fix)
        run_dir = self.settings.run_dir or _free_folder(f"{clock.now():%Y%m%dT%H%M%SZ}-{self.run_id}")
        told, is_new = self.settings.finish_by, kept is None or not Checkpoint(run_dir).exists
        if is_new and isinstance(told, datetime) and told <= clock.now():
            raise InputError("lowcarb-finish-by", f"{format_time(told)} is past", "give a later time, or 48h")
        progress: Progress | None = None
        resumption: Resumption | None = None
        if kept is None:
            ledger = Ledger(run_dir, clock)
        else:
            job = job_of(strategy, rounds, self.settings, kept[1])
            ledger, progress, resumption = open_folder(run_dir, clock, kept[0], job)
        about = {
            "run_id": self.run_id,
            "flwr_version": version("flwr"),
            "strategy": strategy,
            "source": None if self.source is None else self.source.name,
        }
        try:
            return Session(
                self.settings, self._places, self.source, clock, ledger, about, rounds, progress, resumption
            )
        except BaseException:
            ledger.close()
            raise


def _free_folder(name: str) -> Path:
    """Return a folder for a run that is not there yet."""
    folder = Path("runs") / name
    number = 2
    while folder.exists():
        folder, number = Path("runs") / f"{name}-{number}", number + 1
    return folder


def _open_source(
    settings: Settings, given: ForecastSource | None, clock: Clock | None
) -> ForecastSource | None:
    """Return the source that was given, else those that the settings name, with archive and names."""
    try:
        return open_sources(settings, clock) if given is None else arranged([given], settings, clock)
    except InputError as error:
        if error.file or error.field.replace("-", "_") in SECRETS:
            raise
        fix = error.fix
        if error.problem == "is not set":
            variable = f"LOWCARB_{error.field.upper().replace('-', '_')}"
            fix = f"set lowcarb-{error.field} in the run-config, or {variable}"
        raise InputError(f"lowcarb-{error.field}", error.problem, fix, error.file) from None


def _open_clock(name: str) -> Clock:
    """Return the clock of a setting: ``system``, ``virtual`` or ``virtual:TIME``."""
    if name == "system":
        return SystemClock()
    _, _, start = name.partition(":")
    return VirtualClock(parse_time(start, "clock") if start else SystemClock().now())
