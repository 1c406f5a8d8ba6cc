"""Session: one carbon-aware training run, and the loop of its rounds.

:meth:`Session.open_round` shows a round from top to bottom: account for the round before, wait for nodes,
observe, replan, hold, open. Training follows in Flower; :meth:`Session.train_ended` and
:meth:`Session.evaluated` account for it. The strategy only translates between a session and Flower.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from lowcarb_scheduler._version import __version__
from lowcarb_scheduler.accounting.turns import TurnReport, node_of
from lowcarb_scheduler.clock import HOUR_US, VirtualClock, format_duration, from_us, real_clock, to_us
from lowcarb_scheduler.errors import PlanInfeasibleError
from lowcarb_scheduler.events import EvaluatedOnServer, RunResumed, RunStarted
from lowcarb_scheduler.flower.checkpoint.resume import Stage
from lowcarb_scheduler.flower.compat import PARTS, flower_version
from lowcarb_scheduler.flower.grid import DispatchGrid, Sampling
from lowcarb_scheduler.flower.nodes import ANSWERING, LocationResolver, NodeRegistry
from lowcarb_scheduler.flower.telemetry import is_asked, numbers_in, validate_report
from lowcarb_scheduler.flower.waiting import ANSWERING_SIMULATED, NodeWait, Wait
from lowcarb_scheduler.planning.job import JobRules
from lowcarb_scheduler.scheduling import messages
from lowcarb_scheduler.scheduling.hold import Hold
from lowcarb_scheduler.scheduling.intensity_feed import IntensityFeed
from lowcarb_scheduler.scheduling.recorder import Round, RunRecorder
from lowcarb_scheduler.scheduling.replanner import Observation, Replanner
from lowcarb_scheduler.scheduling.schedule import RunTiming
from lowcarb_scheduler.scheduling.selection import Dropouts, select_clients

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flwr.app import Message
    from flwr.serverapp import Grid

    from lowcarb_scheduler.accounting.turns import Profile
    from lowcarb_scheduler.clock import Clock
    from lowcarb_scheduler.events import RoundOpened, RunFinished
    from lowcarb_scheduler.flower.checkpoint.resume import Progress, Resumption
    from lowcarb_scheduler.flower.waiting import Size
    from lowcarb_scheduler.forecasts.base import ForecastSource
    from lowcarb_scheduler.ledger import Ledger
    from lowcarb_scheduler.scheduling.durations import Durations
    from lowcarb_scheduler.scheduling.locations import Place
    from lowcarb_scheduler.scheduling.notifier import Notifier
    from lowcarb_scheduler.scheduling.recorder import Window
    from lowcarb_scheduler.settings import Settings

logger = logging.getLogger("flwr")

_EVALUATION: Final = {
    "strategy": "sampled by the strategy from all connected nodes",
    "planned": "nodes that have just trained; their metrics differ from those of random nodes",
    "all": "all connected nodes",
    "none": "none",
}


class Session:
    """One carbon-aware run.

    Its collaborators are wired here and do not know each other: nodes, intensity feed, replanner, recorder
    and ledger. The session passes what one of them returns to the next.

    Parameters
    ----------
    settings : Settings
        Settings of the run.
    places : mapping of str to Place
        The locations file.
    source : ForecastSource or None
        Source of carbon intensity; without one rounds open at once.
    clock : Clock
        Clock of the run; a VirtualClock jumps through holds, and a round then takes its planned time.
    ledger : Ledger
        Ledger of the run.
    rounds : int
        Number of rounds.
    progress : Progress or None
        Checkpoint of the run, where one is kept.
    registering : timedelta
        Time that nodes are given to connect at the start.
    durations : Durations
        Durations of rounds known beforehand.

    Attributes
    ----------
    has_ended : bool
        Whether no more rounds open, because they would be late.
    notifier : Notifier or None
        Follower of the ledger that posts messages; to be closed after the run.
    """

    def __init__(
        self, settings: Settings, places: Mapping[str, Place], source: ForecastSource | None, clock: Clock,
        ledger: Ledger, rounds: int, progress: Progress | None, registering: timedelta, durations: Durations,
    ) -> None:  # fmt: skip
        self._settings, self._clock, self._ledger = settings, clock, ledger
        self._virtual, self._has_source = isinstance(clock, VirtualClock), source is not None
        started = progress.started_at if progress else clock.now()
        self.progress = progress
        self._log = messages.RunLog(ledger)
        self._warn_of_node = partial(self._log.warn, "node", consequence="its turns still count")
        of_nodes = real_clock(clock)
        self._node_wait = NodeWait(of_nodes, self._virtual, registering, self._log)
        self._nodes = NodeRegistry(
            places, LocationResolver(source), settings.default_location, settings.default_power_watts,
            self._warn_of_node, of_nodes, ANSWERING_SIMULATED if self._virtual else ANSWERING,
        )  # fmt: skip
        self._feed = IntensityFeed(source, ledger, self._log)
        self._timing = RunTiming(
            started, rounds, durations, settings.finish_by, settings.patience,
            settings.deadline_confidence, as_planned=self._virtual,
        )  # fmt: skip
        rules = JobRules.from_settings(
            dict(settings), bounds_count_done=True,
            mix_rounds=settings.mix_rounds if settings.participation in ("auto", "equal") else None,
        )  # fmt: skip
        if rules.mix_rounds is not None:
            rules = replace(rules, participation="equal")  # which mixing shares out anew
        stops_late = settings.on_late == "stop"
        self._replanner = Replanner(rules, self._timing, ledger, self._log, stops_late)
        self._recorder = RunRecorder(ledger, self._log, started)
        self._entered: Mapping[int, Profile] = {}  # nodes as the recorder knows them
        self._dropouts = Dropouts()
        self._evaluation_began, self._evaluation_took = started, timedelta(0)
        self._last: tuple[datetime, timedelta] | None = None  # opening and planned length of a round
        self._ready: tuple[int, datetime] | None = None  # a round, and since when it could have opened
        self._turn: timedelta | None = None  # that was told, of nodes that state none
        self._first_round = 1  # since the last start
        self._reopens: int | None = None  # a round that had opened before a restart
        self.has_ended = False
        self.notifier: Notifier | None = None

    # -- Beginning and going on ------------------------------------------------------------------------------

    def begin(self, about: Mapping[str, Any], model_bytes: int | None = None) -> None:
        """Begin the run, or go on with one.

        Parameters
        ----------
        about : mapping
            More fields of ``run_started`` and ``run_resumed``.
        model_bytes : int, optional
            Size of the initial arrays [bytes].
        """
        resumption = self.progress.resumption if self.progress else None
        if resumption is not None and self.progress is not None:
            self._resume(resumption, self.progress, about)
        if resumption is None or not resumption.has_ledger:
            self._write_start(about, model_bytes)
        self._log.info(f"the ledger of this run is {self._ledger.run_dir.absolute()}")
        if self._timing.durations.earlier.runs:
            self._log.info(messages.earlier_rounds(self._timing.durations.earlier))
        self._log.info(f"evaluation on nodes: {_EVALUATION[self._settings.evaluate_on]}")
        if self.progress is not None:
            self.progress.attach(self._ledger, self._log.warn)
        for part, consequence in PARTS.missing:
            self._log.warn("flower", f"flwr {flower_version()} has no {part} that is known", consequence)
        if not self._has_source:
            unread = "" if about["run_id"] != "local" else "; no context was given, so run-config is not read"
            fix = f"no waiting; set lowcarb-source to wait{unread}"
            self._log.warn("forecast", "no source is named", fix)

    def _write_start(self, about: Mapping[str, Any], model_bytes: int | None) -> None:
        settings, schedule = self._settings, self._timing.schedule
        self._ledger.append(
            RunStarted(
                **about, version=__version__, settings=settings.shown(), started_at=self._timing.started,
                rounds=self._timing.rounds, clients_per_round=settings.clients_per_round,
                round_duration=settings.round_duration,
                finish_by=schedule.finish_by if schedule else None,
                target_finish=schedule.target_finish if schedule else None,
                patience=settings.patience, participation=settings.participation,
                clock="virtual" if self._virtual else "system", model_bytes=model_bytes,
            )
        )  # fmt: skip

    def state(self) -> dict[str, Any]:
        """Return the part of a checkpoint that holds the session."""
        return {
            "replanner": self._timing.memory() | self._replanner.memory(self._feed.known),
            "turns": self._recorder.memory(), "feed": self._feed.memory(),
            "latest": None if self._last is None else list(self._last), "asked": self._ready,
            "dropouts": [self._dropouts.asked, self._dropouts.failed],
        }  # fmt: skip

    def _resume(self, resumption: Resumption, progress: Progress, about: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; a round whose training is over is closed as of then."""
        resumption.check(self._ledger)
        state = resumption.recall(progress)
        number, stage = progress.place
        self._first_round = max(number + 1, 1)
        if state is not None:
            # A virtual clock was set back to the checkpoint: intensity learned later is not known yet.
            known = (event for event in resumption.events() if event.at <= resumption.at)
            self._feed.recall(known, state["feed"])
            self._recorder.recall(resumption.events(), state["turns"])
            self._timing.recall(state["replanner"])
            self._replanner.recall(state["replanner"], self._recorder.nodes.values(), self._feed.known)
            self._dropouts, self._ready = Dropouts(*state["dropouts"]), state["asked"]
            if stage is Stage.OVER and (self._ready is None or self._ready[0] != number + 1):
                self._ready = number + 1, resumption.at  # the checkpoint was written when it was asked for
            if state["latest"] is not None:
                opened_at, planned = state["latest"]
                self._timing.round_over(resumption.at - opened_at, planned)
        if not resumption.has_ledger:
            return
        self._reopens = self._round_to_reopen(resumption)
        self._ledger.append(
            RunResumed(
                **about, version=__version__, after=resumption.lines, cut_bytes=self._ledger.cut,
                round=number, stage=stage.name,
            )
        )  # fmt: skip
        done = f"round {number} is {stage.name.lower()}" if number > 0 else "no round has trained"
        cut = f"; {self._ledger.cut} bytes of a torn line were cut" if self._ledger.cut else ""
        self._log.info(f"resuming the run of {messages.instant(self._timing.started)}: {done}{cut}")
        if (current := self._recorder.current) is not None:
            self._close(max(resumption.at, current.opened_at), current.opened_at)

    def _round_to_reopen(self, resumption: Resumption) -> int | None:
        """Return the round that was open when the run was killed, while its window lasts."""
        if (opened := resumption.last_opened()) is None or self._virtual or self._timing.schedule is None:
            return None
        is_on = opened.opened_at <= self._clock.now() < opened.opened_at + self._timing.round_duration
        return opened.round if is_on and opened.round == self._first_round else None

    # -- One round -------------------------------------------------------------------------------------------

    def open_round(self, number: int, grid: Grid, sampling: Sampling) -> list[int]:
        """Hold a round until it may open, and return the nodes that train in it.

        Parameters
        ----------
        number : int
            The round, from 1.
        grid : Grid
            The nodes.
        sampling : Sampling
            Number of nodes that the inner strategy samples, and the least with which it is content.

        Returns
        -------
        list of int
            Node ids; empty where the run ends because it is late.

        Raises
        ------
        PlanInfeasibleError
            If fewer nodes than that are connected when no slack is left.
        """
        # Account: the round before is over, and has shown how long a round takes.
        self.close_round()
        now, stops_late = self._clock.now(), self._settings.on_late == "stop"
        if self._last is not None:
            opened_at, planned = self._last
            self._timing.round_over(now - opened_at, planned)
            self._last = None
        if stops_late and self._timing.is_too_late(number, now):
            return self._stop(f"round {number} would end after the deadline")
        if self._ready is None or self._ready[0] != number:  # else it was asked for before a restart, too
            self._ready = number, now
        size = partial(sampling.size, clients_per_round=self._settings.clients_per_round)
        hold, is_first = self._hold_of(number, self._ready[1]), number == self._first_round
        while True:
            # Nodes: wait for as many as the round needs, and at first for who they are.
            limits = self._timing.node_limits(number, self._clock.now())
            alive = self._node_wait.for_enough(number, grid, size, limits, is_first)
            if alive < (needed := size(alive)[1]):
                deadline = self._timing.provisional_deadline
                error = PlanInfeasibleError("too few nodes are connected", needed, alive, deadline)
                if stops_late:
                    return self._stop(str(error))
                raise error
            if is_first:
                spare = self._timing.spare(number, self._clock.now())
                self._node_wait.for_answers(number, spare, partial(self._look_at_nodes, grid))
                is_first = False
            # Observe nodes and forecasts, and replan if something has changed.
            self._observe_and_replan(number, grid, size, is_new=True)
            # Wait until the planned opening, which moves with nodes and forecasts.
            wait = Wait(self._clock, self._ledger.run_dir, number)
            for is_released in wait.wakes():
                if is_released:
                    hold.release()
                now = self._clock.now()
                if hold.until(self._replanner.upcoming(number), self._feed.forecast, now) > now:
                    self._observe_and_replan(number, grid, size)
                else:
                    # A plan made now would only delay the round.
                    self._nodes.forget_lost(set(grid.get_node_ids()))
                alive = len(self._nodes.alive)
                clients, needed = size(alive)
                self._node_wait.note(alive, clients)
                if alive < needed:
                    break
                upcoming, now = self._replanner.upcoming(number), self._clock.now()
                wait.until = hold.announce(upcoming, self._feed.forecast, now)
            # Open, unless nodes were lost in the hold: those are waited for, and the round is planned anew.
            limits = self._timing.node_limits(number, self._clock.now())
            if not self._node_wait.is_due(alive, size, limits):
                return self._open(number, clients, self._clock.now())
            hold.interrupted()

    def _hold_of(self, number: int, ready_at: datetime) -> Hold:
        max_hold = self._settings.max_hold
        opens_by = None if max_hold is None else ready_at + max_hold
        return Hold(
            number, self._timing.rounds, self._timing.round_duration, opens_by, self._log,
            partial(self._replanner.untold, number), is_over=number == self._reopens, is_quiet=self._virtual,
        )  # fmt: skip

    def _stop(self, why: str) -> list[int]:
        """End the run before its last round, and return no nodes."""
        self.has_ended = True
        self._log.warn("deadline", why, "the run stops here with the result so far (on-late = stop)")
        return []

    def _look_at_nodes(self, grid: Grid) -> tuple[int, int]:
        """Look at the connected nodes; return how many may still answer in time, and how many there are."""
        alive = self._nodes.observe(grid, sorted(grid.get_node_ids()))
        return self._nodes.awaited, len(alive)

    def _observe_nodes(self, grid: Grid) -> bool:
        """Observe the connected nodes; return whether these, or what is known of them, have changed."""
        before, alive = self._entered, self._nodes.observe(grid, sorted(grid.get_node_ids()))
        if alive == before:
            return False
        self._entered = alive
        # A node that answers late is the one that has trained under its id until now.
        better_known = {
            before[node_id].id: profile.id
            for node_id, profile in alive.items()
            if node_id in before and node_of(before[node_id]) != node_of(profile)
        }
        self._recorder.update_nodes(alive.values(), better_known)
        if self.progress is not None and self.progress.correction is not None:
            self.progress.correction.rename(better_known)
        return True

    def _observe_and_replan(self, number: int, grid: Grid, size: Size, is_new: bool = False) -> None:
        """Observe nodes and forecasts; plan anew where the standing plan does not hold any more.

        Parameters
        ----------
        number : int
            The round that opens next.
        grid : Grid
            The nodes.
        size : callable
            Returns how many nodes are wanted, and how many are needed, of the number connected.
        is_new : bool
            Whether the round was waited for, or is looked at for the first time: then the plan is compared in
            any case.
        """
        has_news = self._observe_nodes(grid) or is_new
        if not (nodes := len(self._nodes.alive)):
            return  # nobody to plan for: the wait for nodes follows
        if has_news:
            self._warn_of_locations()
        places = {profile.location for profile in self._nodes.alive.values() if profile.location}
        has_news |= self._feed.refresh(places, self._clock.now(), self._time_left())
        self._learn_late_actuals()
        if not has_news:
            return
        clients = min(size(nodes)[0], nodes)
        alive, turn = self._nodes.alive.values(), self._turn_seen()
        seen = Observation(self._clock.now(), alive, self._recorder.turns, clients, self._feed.known, turn)
        if self._replanner.replan(number, seen) and self.progress is not None:
            self.progress.planned(self.state())

    def _turn_seen(self) -> timedelta | None:
        """Return how long turns take of nodes that do not say, None for a whole round; a change is told."""
        if (schedule := self._timing.schedule) is None:
            return None
        turn, whole = self._recorder.turn_seen(schedule.round_duration), schedule.round_duration
        if turn is not None and turn != self._turn:
            self._log.info(
                f"turns of clients without a stated duration are planned as {format_duration(turn)},"
                f" the longest so far; before, a whole round ({format_duration(whole)}) was assumed"
            )
        self._turn = turn
        return turn

    def _learn_late_actuals(self) -> None:
        """Ask for hours of the last round that the source did not have when it closed.

        Providers are hours behind. Whoever looks at a run that is held sees what it emitted as soon as it is
        known; a plan takes it into account when there is another reason to make one.
        """
        if self._recorder.lacks_actuals:
            now = self._clock.now()
            # Plans use whole hours: in parts, an hour would be written each time that actuals are asked for.
            hour = from_us(to_us(now) // HOUR_US * HOUR_US)
            until = max(hour, self._recorder.closed_at or hour)
            self._feed.learn_actual(self._timing.started, now, self._time_left(), until=until)
            self._recorder.learn(self._feed.actual)

    def _warn_of_locations(self) -> None:
        """Warn of nodes without a location, and of entries of the locations file without a node."""
        alive = self._nodes.alive.values()
        unknown = sorted(profile.id for profile in alive if profile.location is None)
        if unknown and self._has_source:
            why = f"{len(unknown)} of {len(alive)} node(s) have no location ({messages.listed(unknown)})"
            fix = "set lowcarb-locations, by partition-id or name, or lowcarb-default-location"
            self._log.warn("locations", why, f"they are planned without carbon intensity; {fix}")
        if unmatched := self._nodes.unmatched():
            use = "entries are matched by partition-id, node name or node id"
            self._log.warn("locations", f"no node matches {messages.listed(unmatched)} of the file", use)

    def _time_left(self) -> timedelta | None:
        """Return the time that a request may take without a round opening late; None if any."""
        number = self._recorder.opened + 1
        if self._virtual or number > self._timing.rounds:
            return None  # a request takes no virtual time, and after the last round nothing can be late
        return self._replanner.time_left(number, self._clock.now())

    def _open(self, number: int, clients: int, opened_at: datetime) -> list[int]:
        """Select the clients of a round, enter that it opens, and return their node ids."""
        upcoming, decision = self._replanner.upcoming(number), self._replanner.decision
        assert upcoming is not None, "a round is planned before it opens"
        assert decision is not None, "a round is planned before it opens"
        assert self._ready is not None, "a round is asked for before it opens"
        node_of = {profile.id: node_id for node_id, profile in self._nodes.alive.items()}
        needed = min(clients, len(node_of))
        wanted = self._dropouts.wanted(needed, len(node_of), self._settings.over_select)
        # Without a forecast in the plan, one that has just come must not put emissions on the round.
        forecast = self._feed.forecast if decision.on_forecast else None
        selection = select_clients(
            upcoming,
            forecast,
            opened_at,
            node_of,
            wanted,
            self._settings.max_location_share,
            self._replanner.balance_turns(clients),
        )
        keys = upcoming.plan.fleet.ids[selection.clients]
        members = {
            node_of[key]: (self._nodes.alive[node_of[key]], (from_us(start), from_us(end)))
            for key, start, end in zip(keys, selection.starts_us, selection.ends_us, strict=True)
        }
        closes_at = opened_at + upcoming.length
        opened = Round(number, opened_at, closes_at, members, selection.emissions_g)
        self._last = opened_at, upcoming.length
        self._recorder.open(opened, opened_at - self._ready[1], upcoming.opens_at)
        return list(members)

    # -- Accounts of a round ---------------------------------------------------------------------------------

    @property
    def opened(self) -> RoundOpened | None:
        """The round that opened last, as it is in the ledger; None before the first."""
        return self._recorder.opened_round

    def train_ended(self, done: Mapping[int, Mapping[str, Any] | None], failed: Mapping[int, str]) -> None:
        """Enter the training of the open round.

        Parameters
        ----------
        done : mapping of int to mapping or None
            By node id, the report in each good reply.
        failed : mapping of int to str
            By node id, the reason why it has not trained.
        """
        if (current := self._recorder.current) is None:
            return
        if self._virtual:  # nodes work in real time, so the clock is moved to the planned end of the round
            self._clock.sleep_until(current.planned_closes_at)
        now, turns = self._clock.now(), {}
        for node_id, report in done.items():
            if node_id not in current.members:
                continue
            profile, planned = current.members[node_id]
            began, ended = current.started.get(node_id, current.opened_at), current.ended.get(node_id, now)
            # Virtual time does not pass while a node works: its turn takes the planned time.
            turn = (planned, TurnReport()) if self._virtual else self._window(profile, began, ended, report)
            turns[node_id] = turn
        self._recorder.train_ended(turns, failed)
        self._dropouts = self._dropouts.after(len(current.members), len(current.members) - len(turns))

    def _window(
        self, profile: Profile, started_at: datetime, ended_at: datetime, report: Mapping[str, Any] | None
    ) -> tuple[Window, TurnReport]:
        """Return the window of a turn, as long as the node reports where that is possible, and its report."""
        elapsed = max(ended_at - started_at, timedelta(0))  # a clock may be set back
        validated = validate_report(report, elapsed, profile.id, self._warn_of_node)
        return (started_at, started_at + (validated.duration or elapsed)), validated

    def evaluated_here(self, number: int, metrics: Mapping[str, Any] | None) -> None:
        """Enter the metrics of an evaluation on the server."""
        if numbers := numbers_in(metrics):
            self._ledger.append(EvaluatedOnServer(round=number, metrics=numbers))

    def evaluation_begins(self, grid: Grid) -> None:
        """Note that nodes are asked to evaluate, also those that have joined since the round opened."""
        self._observe_nodes(grid)
        self._evaluation_began = self._clock.now()

    def time_to_evaluate(self, messages: Sequence[Message], timeout_s: float | None) -> float | None:
        """Return how long replies to one more evaluation may be awaited [s]; None as long as messages live.

        It is to end by the deadline: 0 where that leaves less time than the last evaluation has taken.
        """
        took, deadline = self._evaluation_took, self._timing.finish_by
        if timeout_s is not None:
            timeout_s = PARTS.reply_limit_s(messages, timeout_s, took.total_seconds())
        left = timedelta.max if deadline is None else deadline - self._clock.now()
        if self._virtual and left >= timedelta(0):
            return timeout_s  # virtual time stands still while nodes evaluate
        left_s = left.total_seconds() if left >= took else 0.0
        return max(0.0, left_s if timeout_s is None else min(left_s, timeout_s))

    def result_not_evaluated(self, why: str) -> None:
        """Warn that the mean of models that the run returns is not evaluated on clients."""
        self._log.warn("evaluation", why, "the mean of models is returned without metrics of clients")

    def not_evaluated(self, connected: int, available: int) -> None:
        """Warn that a round is not evaluated where too few nodes are connected."""
        if self._settings.evaluate_on == "strategy" and connected < available:
            why = f"{connected} of {available} nodes that the strategy requires are connected"
            self._log.warn("evaluation", why, "such a round is not evaluated on nodes")

    def evaluated(
        self, number: int, done: Mapping[int, Mapping[str, Any] | None], failed: Mapping[int, str],
        metrics: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        """Enter an evaluation on clients, and close the round.

        Parameters
        ----------
        number : int
            The round.
        done : mapping of int to mapping or None
            By node id, the report in each good reply.
        failed : mapping of int to str
            By node id, the reason why it has not evaluated.
        metrics : mapping or None
            Metrics aggregated by the strategy.
        """
        began, now = self._evaluation_began, self._clock.now()
        self._evaluation_took = now - began
        if done or failed:
            known = self._nodes.alive
            # Virtual time stands still while nodes evaluate, so their reports of real time are not used.
            turns = [
                (known[node_id], *self._window(known[node_id], began, now, None if self._virtual else report))
                for node_id, report in done.items() if node_id in known
            ]  # fmt: skip
            self._recorder.evaluated(number, turns, len(failed), numbers_in(metrics), self._feed.actual)
        self.close_round()

    def close_round(self) -> None:
        """Account for the round that is open, if one is."""
        if (current := self._recorder.current) is not None:
            self._close(self._clock.now(), current.opened_at)

    def _close(self, closed_at: datetime, opened_at: datetime) -> None:
        length = self._timing.round_closed(closed_at - opened_at)
        closed_at = max(closed_at, opened_at)  # a clock may be set back
        self._feed.learn_actual(self._timing.started, closed_at, self._time_left())
        self._recorder.close(closed_at, length, self._feed.actual)

    def finish(self, status: str) -> RunFinished:
        """Forget what no later run needs, sum up, close the ledger, and return its last event.

        A run that did not complete ends at once, without asking a source, and can be resumed.
        """
        keeps = status != "completed" or self._settings.keep_correction_memory
        try:
            if self.progress is not None and not keeps:
                self.progress.forget_memories(self.state())
            if status == "completed" and self.has_ended:
                status = "out of time"
            if status != "completed":  # a process that was told to stop may have seconds left
                self._feed.close()
            self.close_round()
            if not self._recorder.is_settled:
                self._feed.learn_actual(
                    self._timing.started, self._clock.now(), self._time_left(), last_chance=True
                )
            summary = self._recorder.finish(status, self._timing.finish_by, self._feed.actual)
        finally:  # whatever goes wrong, or the run's folder would stay locked
            self._ledger.close()
        for line in messages.summary_lines(summary, self._ledger.run_dir):
            self._log.info(line)
        return summary

    # -- Nodes, for the strategy -----------------------------------------------------------------------------

    def name_of(self, node_id: int) -> str:
        """Return the name of a node that outlives the run, empty for one that is not connected."""
        profile = self._nodes.alive.get(node_id)
        return profile.id if profile else ""

    @property
    def nodes(self) -> Mapping[int, Profile]:
        """Profiles of the nodes that were connected at the last look, by node id."""
        return self._nodes.alive

    def find(self, keys: Collection[str], grid: Grid) -> list[int]:
        """Return the ids of nodes by name after a restart, waiting for those that are still registering."""
        found: list[int] = []
        for _ in self._node_wait.polls():
            alive = self._nodes.observe(grid, sorted(grid.get_node_ids()))
            found = [node_id for node_id, profile in alive.items() if profile.id in keys]
            if len(found) == len(keys):
                break
        return found

    def requested_energy(self, strategy: object) -> str | None:
        """Return how nodes are asked to tell their energy; None where they are asked nothing."""
        is_requested = not self._virtual and is_asked(self._settings, strategy)
        return self._settings.energy if is_requested else None

    def dispatching(self, grid: Grid) -> DispatchGrid:
        """Return a grid that sends each message of a round when its client is to start."""
        return DispatchGrid(grid, self._clock, self._recorder, self._log)
