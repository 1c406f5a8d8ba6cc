"""An independent judge of plans: checks every rule, and solves small jobs to proven optimality.

Nothing here is shared with the package but its value types. Time is Fractions of hours, intensity is summed
step by step, clients are never grouped: a binary for each client and start. Only for small jobs.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from fractions import Fraction
from math import floor, gcd

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from lowcarb_scheduler.planning.fairness import TurnRange

MICROSECOND = timedelta(microseconds=1)


def hours(when, origin):
    return Fraction((when - origin) // MICROSECOND, 3_600_000_000)


class Exact:
    """A job and a table, spelled out: grid points, and grams of each client from each grid point."""

    def __init__(self, job, table):
        self.job, self.table = job, table
        now = job.now
        self.deadline = hours(job.finish_by, now)
        self.round_hours = Fraction(job.round_duration // MICROSECOND, 3_600_000_000)
        self.step = self._step()
        origin = hours(job.grid_from or now, now)
        first = max(Fraction(0), hours(job.not_before or now, now))
        k = floor((first - origin) / self.step)
        while origin + k * self.step < first:
            k += 1
        self.points = []
        while (start := origin + k * self.step) < self.deadline:
            self.points.append(start)
            k += 1
        fleet = job.fleet
        self.watts = [Fraction(float(watts)) for watts in fleet.power_watts]
        self.places = [fleet.locations[k] for k in fleet.location_index]
        own = [Fraction(int(us), 3_600_000_000) for us in fleet.durations_us]
        self.durations = [duration or self.round_hours for duration in own]
        edges = [Fraction(int(edge), 3_600_000_000) for edge in table.edges_us]
        zero = Fraction((now - now.replace(year=1970, month=1, day=1, hour=0, minute=0, second=0,
                                           microsecond=0)) // MICROSECOND, 3_600_000_000)  # fmt: skip
        self.edges = [edge - zero for edge in edges]
        known: dict = {}
        self.grams = []
        for place, duration, watts in zip(self.places, self.durations, self.watts, strict=True):
            key = place, duration
            if key not in known:
                known[key] = [self.integral(place, point, point + duration) for point in self.points]
            self.grams.append(
                [None if value is None else float(watts * value / 1000) for value in known[key]]
            )

    def _step(self):
        if self.job.start_step is not None:
            return Fraction(self.job.start_step // MICROSECOND, 3_600_000_000)
        lengths = sorted(b - a for a, b in zip(self.table.edges_us, self.table.edges_us[1:], strict=False))
        middle = len(lengths) // 2
        step = int(lengths[middle] if len(lengths) % 2 else (lengths[middle - 1] + lengths[middle]) // 2)
        return Fraction(gcd(step, self.job.round_duration // MICROSECOND), 3_600_000_000)

    def integral(self, place, start, end):
        """Intensity x hours, or None where a gap or the table's end is touched."""
        if place not in self.table.locations or start < self.edges[0] or end > self.edges[-1]:
            return None
        column, total = self.table.locations.index(place), Fraction(0)
        for k, value in enumerate(self.table.values[:, column]):
            overlap = min(end, self.edges[k + 1]) - max(start, self.edges[k])
            if overlap > 0:
                if np.isnan(value):
                    return None
                total += overlap * Fraction(float(value))
        return total

    # -- rules ---------------------------------------------------------------------------------------------

    @property
    def cap(self):
        return max(1, floor(self.job.max_location_share * self.job.clients_per_round + 1e-9))

    def turns(self):
        """Bounds on turns where they do not depend on a seed."""
        job, count = self.job, len(self.job.fleet)
        if job.participation == "any":
            return [0] * count, [job.rounds] * count
        low, high = job.participation
        return [low] * count, [min(high, job.rounds)] * count

    def bounds(self, plan):
        """Return the bounds on the turns of each client; which of equals takes one more is the planner's."""
        if self.job.participation != "equal":
            return self.turns()
        turns = np.bincount(plan.seats.ravel(), minlength=len(self.job.fleet)).tolist()
        return turns, turns  # that they are as even as they can be is a rule of its own

    def best_g(self, plan, earliest, bounds):
        """Return the emissions of the best plan, after checking that a plan and its bound lie around them."""
        target = self.target(earliest, bounds)
        assert self.broken_rules(plan, target) == []
        best_g = self.optimum(bounds, target)
        tolerance = 1e-7 * max(abs(best_g), 1.0)
        assert plan.lower_bound_g <= best_g + tolerance
        assert plan.emissions_g >= best_g - tolerance
        return best_g

    def broken_rules(self, plan, target=None):
        """Every rule that a plan breaks, in words."""
        job, now, broken = self.job, self.job.now, []
        target = self.deadline if target is None else target
        n, before = job.clients_per_round, None
        position = {name: k for k, name in enumerate(job.fleet.ids)}
        turns = [0] * len(position)
        if len(plan.rounds) != job.rounds:
            broken.append("number of rounds")
        for r, planned in enumerate(plan.rounds):
            opens, closes = hours(planned.opens_at, now), hours(planned.closes_at, now)
            if opens not in self.points:
                broken.append(f"round {r} opens off the grid or too early")
            if closes < opens + self.round_hours:
                broken.append(f"round {r} is too short")
            if not job.stagger and closes != opens + self.round_hours:
                broken.append(f"round {r} is stretched without stagger")
            if before is not None and opens < before:
                broken.append(f"round {r} overlaps the one before")
            before = closes
            if closes > min(target, self.deadline):
                broken.append(f"round {r} is late")
            names = [client.id for client in planned.clients]
            if len(set(names)) != n or len(names) != n:
                broken.append(f"round {r} has {len(set(names))} distinct clients")
            places: dict = {}
            for client in planned.clients:
                k = position[client.id]
                turns[k] += 1
                places[client.location] = places.get(client.location, 0) + 1
                starts, ends = hours(client.starts_at, now), hours(client.ends_at, now)
                if client.location != self.places[k] or ends - starts != self.durations[k]:
                    broken.append(f"{client.id} has another place or duration")
                if starts not in self.points or starts < opens or ends > closes:
                    broken.append(f"{client.id} trains outside its round or off the grid")
                if not job.stagger and starts != opens:
                    broken.append(f"{client.id} starts late without stagger")
                value = self.integral(client.location, starts, ends)
                if value is None:
                    broken.append(f"{client.id} trains in a gap")
                elif abs(float(self.watts[k] * value / 1000) - client.emissions_g) > 1e-9 * max(
                    1, abs(client.emissions_g)
                ):
                    broken.append(f"{client.id} is charged wrongly")
            if places and max(places.values()) > self.cap:
                broken.append(f"round {r} sees too much of one place")
        if "balance" not in plan.relaxed:
            broken += self._unbalanced([[client.location for client in each.clients] for each in plan.rounds])
        return broken + self._broken_turns(turns)

    # -- balance -------------------------------------------------------------------------------------------

    @property
    def reach(self):
        """Most turns between those of a location and its share of the seats so far; None without the rule."""
        balance = self.job.balance
        if balance == "auto":
            balance = 1.2 if self.job.corrected else 0.8
        return None if balance is None else Fraction(balance) * self.job.clients_per_round

    def _done(self):
        done: dict = dict.fromkeys(self.places, 0)
        for place, count in zip(self.places, self.job.fleet.turns_done, strict=True):
            done[place] += int(count)
        return done

    def _unbalanced(self, rounds):
        """Rounds after which a location is too far from its share, from the locations of their clients."""
        if self.reach is None:
            return []
        so_far, broken = self._done(), []
        total = self._done()
        for places in rounds:
            for place in places:
                total[place] += 1
        for r, places in enumerate(rounds):
            for place in places:
                so_far[place] += 1
            for place, turns in so_far.items():
                share = Fraction(total[place], sum(total.values()))
                if abs(turns - share * sum(so_far.values())) > self.reach + Fraction(1, 10**6):
                    broken.append(f"{place} is out of balance after round {r}")
        return broken

    def _balance(self, rows, trains):
        """Add the rule of balance, from the columns of turns by (client, round, opening)."""
        if self.reach is None:
            return
        job, done = self.job, self._done()
        before, whole = sum(done.values()), sum(done.values()) + job.rounds * job.clients_per_round
        for place, turns in done.items():
            mine = [(r, column) for (c, r, _), column in trains.items() if self.places[c] == place]
            for after in range(1, job.rounds):
                part = Fraction(before + after * job.clients_per_round, whole)
                away = turns - part * turns
                terms = [(column, float((r < after) - part)) for r, column in mine]
                rows.add(terms, float(-self.reach - away) - 1e-7, float(self.reach - away) + 1e-7)

    @staticmethod
    def check_large(plan, job, table):
        """The same rules over a plan's arrays, for jobs too large to spell out; step-wise integration."""
        broken, n = [], job.clients_per_round
        opens, closes, seats, fleet = plan.opens_us, plan.closes_us, plan.seats, job.fleet
        origin = (job.now - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND
        end = (job.finish_by - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND
        length = job.round_duration // MICROSECOND
        broken += ["time"] * bool(opens[0] < origin or closes[-1] > end or (opens[1:] < closes[:-1]).any())
        broken += ["short"] * bool((closes - opens < length).any())
        broken += ["distinct"] * bool(seats.shape != (job.rounds, n) or (np.diff(seats, axis=1) <= 0).any())
        inside = (plan.starts_us >= opens[:, None]) & (plan.ends_us <= closes[:, None])
        broken += ["outside"] * bool(not inside.all())
        turns = np.bincount(seats.ravel(), minlength=len(fleet))
        if job.participation == "equal":
            broken += ["uneven"] * bool(np.ptp(turns) > 1)
        elif job.participation != "any":
            low, high = job.participation
            broken += ["bounds"] * bool(turns.min() < low or turns.max() > high)
        places = fleet.location_index[seats]
        cap = max(1, floor(job.max_location_share * n + 1e-9))
        broken += ["share"] * any(np.bincount(row).max() > cap for row in places)
        if isinstance(job.balance, float):
            inside = np.array([np.bincount(row, minlength=len(fleet.locations)) for row in places])
            done = np.bincount(fleet.location_index, weights=fleet.turns_done)
            so_far = done + np.cumsum(inside, axis=0)
            seats_so_far = so_far.sum(axis=1, keepdims=True)
            away = so_far - so_far[-1] * seats_so_far / seats_so_far[-1]
            broken += ["balance"] * bool(np.abs(away).max() > job.balance * n + 1e-6)
        column = np.array([table.locations.index(name) for name in fleet.locations])[places]
        total = np.zeros(seats.shape)
        for k, (start, stop) in enumerate(zip(table.edges_us, table.edges_us[1:], strict=False)):
            overlap = np.minimum(plan.ends_us, stop) - np.maximum(plan.starts_us, start)
            total += np.where(overlap > 0, overlap / 3.6e9 * table.values[k, column], 0.0)
        grams = total * fleet.power_watts[seats] / 1000
        broken += ["charge"] * (not np.allclose(grams, plan.client_emissions_g, rtol=1e-9))
        return broken

    def _broken_turns(self, turns):
        job, done = self.job, [int(count) for count in self.job.fleet.turns_done]
        if sum(turns) != job.rounds * job.clients_per_round:
            return ["turns do not add up"]
        if isinstance(job.participation, TurnRange):
            bounds, broken = job.participation, []
            if not all(bounds.least <= b + a <= bounds.most for a, b in zip(turns, done, strict=True)):
                broken.append("turns out of their range")
            for place in set(self.places):
                after = [
                    a + b for a, b, where in zip(turns, done, self.places, strict=True) if where == place
                ]
                if max(after) - min(after) > max(1, max(done) - min(done)):
                    broken.append(f"turns differ inside {place}")
            return broken
        if job.participation != "equal":
            low, high = self.turns()
            inside = all(a <= b <= c for a, b, c in zip(low, turns, high, strict=True))
            return [] if inside else ["participation out of bounds"]
        after = [a + b for a, b in zip(done, turns, strict=True)]
        # No turn could have gone to somebody who would still have fewer than its taker had before it.
        for k, turn in enumerate(turns):
            if turn > job.rounds:
                return ["two turns in one round"]
            for other, count in enumerate(after):
                if turn and turns[other] < job.rounds and count < after[k] - 1:
                    return [f"client {other} was passed over for {k}"]
        return []

    # -- optimum -------------------------------------------------------------------------------------------

    def earliest_finish(self, turns, stagger=None):
        """The earliest moment at which all rounds can be over, None if that is past the deadline."""
        stagger = self.job.stagger if stagger is None else stagger
        solve = self._staggered if stagger else self._in_order if self.reach is not None else self._together
        ends = {point + self.round_hours for point in self.points}
        if stagger:
            ends |= {point + duration for point in self.points for duration in set(self.durations)}
        ends = sorted(end for end in ends if end <= self.deadline)
        while ends and ends[0] < self.points[0] + self.job.rounds * self.round_hours:
            ends.pop(0)
        low, high = 0, len(ends)
        while low < high:
            middle = (low + high) // 2
            if solve(turns, ends[middle], True) is None:
                low = middle + 1
            else:
                high = middle
        return ends[low] if low < len(ends) else None

    def target(self, earliest, turns):
        job = self.job
        if job.target_finish is not None:
            return min(max(hours(job.target_finish, job.now), earliest), self.deadline)
        if job.stagger and 0 <= job.patience < 1:  # patience counts from the earliest finish without stagger
            without = self.earliest_finish(turns, stagger=False)
            earliest = earliest if without is None else without
        exact = earliest + Fraction(job.patience) * (self.deadline - earliest)
        return Fraction(floor(exact * 3_600_000_000), 3_600_000_000)

    def optimum(self, turns, target, feasibility=False):
        """Least grams of any plan that is over by ``target`` [h after now], None if there is none."""
        solve = (
            self._staggered
            if self.job.stagger
            else self._in_order
            if self.reach is not None
            else self._together
        )
        return solve(turns, target, feasibility)

    def _together(self, turns, target, feasibility):
        """A binary for each opening, and one for each client and opening."""
        job, (low, high) = self.job, turns
        slots = [s for s, point in enumerate(self.points) if point + self.round_hours <= target]
        if not slots:
            return None
        rows = _Rows()
        opened = {s: rows.column(0.0) for s in slots}
        trains = {
            (c, s): rows.column(0.0 if feasibility else self.grams[c][s])
            for c in range(len(low)) for s in slots if self.grams[c][s] is not None
        }  # fmt: skip
        rows.add([(opened[s], 1) for s in slots], job.rounds, job.rounds)
        for s in slots:
            close = self.points[s] + self.round_hours
            meet = [(opened[t], 1) for t in slots if t >= s and self.points[t] < close]
            for other in meet[1:]:
                rows.add([meet[0], other], 0, 1)
            rows.add([(trains[c, s], 1) for c in range(len(low)) if (c, s) in trains]
                     + [(opened[s], -job.clients_per_round)], 0, 0)  # fmt: skip
            for place in set(self.places):
                rows.add([(trains[c, s], 1) for c in range(len(low))
                          if (c, s) in trains and self.places[c] == place], 0, self.cap)  # fmt: skip
        for (_, s), column in trains.items():
            rows.add([(column, 1), (opened[s], -1)], -1, 0)
        for c in range(len(low)):
            rows.add([(trains[c, s], 1) for s in slots if (c, s) in trains], low[c], high[c])
        return rows.solve()

    def _in_order(self, turns, target, feasibility):
        """As together, with a binary for each round and opening: balance depends on the order of rounds."""
        job, (low, high) = self.job, turns
        slots = [s for s, point in enumerate(self.points) if point + self.round_hours <= target]
        if not slots:
            return None
        rows, rounds = _Rows(), range(job.rounds)
        opened = {(r, s): rows.column(0.0) for r in rounds for s in slots}
        trains = {
            (c, r, s): rows.column(0.0 if feasibility else self.grams[c][s])
            for c in range(len(low)) for r in rounds for s in slots if self.grams[c][s] is not None
        }  # fmt: skip
        self._openings(rows, opened, slots)
        for r in rounds:
            for s in slots:
                mine = [(column, 1) for (c, q, t), column in trains.items() if (q, t) == (r, s)]
                rows.add([*mine, (opened[r, s], -job.clients_per_round)], 0, 0)
            for place in set(self.places):
                mine = [(column, 1) for (c, q, _), column in trains.items()
                        if q == r and self.places[c] == place]  # fmt: skip
                rows.add(mine, 0, self.cap)
        for (_, r, s), column in trains.items():
            rows.add([(column, 1), (opened[r, s], -1)], -1, 0)
        for c in range(len(low)):
            rows.add([(column, 1) for key, column in trains.items() if key[0] == c], low[c], high[c])
        self._balance(rows, trains)
        return rows.solve()

    def _openings(self, rows, opened, slots):
        """Add that each round opens once, a whole round after the one before."""
        for r in range(self.job.rounds):
            rows.add([(opened[r, s], 1) for s in slots], 1, 1)
            if r:
                for s in slots:  # round r by s needs round r - 1 a whole round before it
                    rows.add([(opened[r, t], 1) for t in slots if t <= s]
                             + [(opened[r - 1, t], -1) for t in slots
                                if self.points[t] + self.round_hours <= self.points[s]], -1, 0)  # fmt: skip

    def _staggered(self, turns, target, feasibility):
        """A binary for each round and opening, and one for each client, round and start."""
        job, (low, high) = self.job, turns
        slots = [s for s, point in enumerate(self.points) if point + self.round_hours <= target]
        if not slots:
            return None
        rows, rounds, clients = _Rows(), range(job.rounds), range(len(low))
        opened = {(r, s): rows.column(0.0) for r in rounds for s in slots}
        trains = {
            (c, r, u): rows.column(0.0 if feasibility else self.grams[c][u])
            for c in clients for r in rounds for u, point in enumerate(self.points)
            if self.grams[c][u] is not None and point + self.durations[c] <= target
        }  # fmt: skip
        self._openings(rows, opened, slots)
        for r in rounds:
            mine = [(key, column) for key, column in trains.items() if key[1] == r]
            rows.add([(column, 1) for _, column in mine], job.clients_per_round, job.clients_per_round)
            for c in clients:
                rows.add([(column, 1) for key, column in mine if key[0] == c], 0, 1)
            for place in set(self.places):
                rows.add([(column, 1) for key, column in mine if self.places[key[0]] == place], 0, self.cap)
            for (c, _, u), column in mine:
                rows.add([(column, 1)] + [(opened[r, s], -1) for s in slots if s <= u], -1, 0)
                if r + 1 < job.rounds:
                    end = self.points[u] + self.durations[c]
                    over = [(opened[r + 1, s], -1) for s in slots if self.points[s] >= end]
                    rows.add([(column, 1), *over], -1, 0)
        for c in clients:
            rows.add([(column, 1) for key, column in trains.items() if key[0] == c], low[c], high[c])
        self._balance(rows, trains)
        return rows.solve()


class _Rows:
    """A binary programme written row by row."""

    def __init__(self):
        self.costs, self.entries, self.low, self.high = [], [], [], []

    def column(self, cost):
        self.costs.append(cost)
        return len(self.costs) - 1

    def add(self, terms, low, high):
        self.entries += [(len(self.low), column, factor) for column, factor in terms]
        self.low.append(low)
        self.high.append(high)

    def solve(self):
        row, column, factor = (np.array(part) for part in zip(*self.entries, strict=True))
        matrix = csr_array((factor.astype(float), (row, column)), shape=(len(self.low), len(self.costs)))
        costs = np.array(self.costs)
        scale = float(np.abs(costs).max()) / 1e4 or 1.0
        limits = LinearConstraint(matrix, np.array(self.low, float), np.array(self.high, float))
        answer = milp(costs / scale, constraints=limits, integrality=np.ones(len(costs)),
                      bounds=Bounds(0, 1), options={"mip_rel_gap": 0.0})  # fmt: skip
        if answer.status == 2:
            return None
        assert answer.status == 0, answer.message
        return float(costs @ np.rint(answer.x))
