"""Simulates people who come to many GPUs behind one address, with the function that places their sessions.

    python -m benchmarks.placement --output benchmarks/results/placement.json

People arrive at random (a Poisson process) and stay for a time that is long for a few (log-normal, with the given mean
and with a median of half of it). Some have been there before, and are sent to the worker of their last session if it
has room. Those who find everything full ask again when `Retry-After` says, and give up after some minutes.

For comparison, the same people without a front: each is given the address of one GPU, at random, and asks there only.
"""

import argparse
import heapq
import itertools
import math
import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.measuring import Results
from personalive.live.front.placement import Load, order
from personalive.live.http.answers import RETRY_AFTER

Choose = Callable[[Sequence[Load], int], list[int]]
"""Workers to ask for a person's place: from the workers' loads, and the worker of that person."""


@dataclass(frozen=True)
class People:
    """Who comes."""

    sessions: int
    mean_minutes: float
    patience_minutes: float
    returning: float
    """Share of those who have been there before."""


@dataclass
class Outcome:
    """What became of them."""

    waits: list[float] = field(default_factory=list)
    """Seconds from coming to a place, of those who got one."""
    refused: int = 0
    """People who found everything full when they came."""
    gave_up: int = 0
    busy_seconds: float = 0.0
    """Of all places together, while people came."""
    seconds: float = 0.0


def with_front(loads: Sequence[Load], home: int) -> list[int]:
    """The front's own order."""
    if home >= 0:
        loads = [*loads]
        loads[home] = replace(loads[home], is_home=True)
    return order(loads)


def alone(loads: Sequence[Load], home: int) -> list[int]:
    """One address for each GPU."""
    return [home] if loads[home].has_room else []


def simulate(people: People, workers: int, limit: int, demand: float, choose: Choose, seed: int = 1) -> Outcome:
    """Let them come.

    Args:
        people: who.
        workers: how many GPUs.
        limit: sessions that each carries.
        demand: sessions that people would have at once if there were room, as a share of all places.
        choose: who is asked.
        seed: of chance.
    """
    chance = random.Random(seed)
    mean = people.mean_minutes * 60
    shape = math.sqrt(2 * math.log(2))  # so that the median is half of the mean
    retry = float(RETRY_AFTER[503])
    outcome, counter = Outcome(), itertools.count()
    loads = [Load(0, limit)] * workers
    homes: list[int] = []
    events: list[tuple[float, int, str, int, float]] = []  # when, number, what, whose worker, since when
    now = 0.0
    for _ in range(people.sessions):
        now += chance.expovariate(demand * workers * limit / mean)
        heapq.heappush(events, (now, next(counter), "come", -1, now))
    outcome.seconds = now
    while events:
        now, _, what, worker, since = heapq.heappop(events)
        if what == "leave":
            loads[worker] = replace(loads[worker], sessions=loads[worker].sessions - 1)
            continue
        if what == "come":
            if choose is alone:
                worker = chance.randrange(workers)
            elif homes and chance.random() < people.returning:
                worker = chance.choice(homes)
        found = choose(loads, worker)
        if found:
            chosen = found[0]
            loads[chosen] = replace(loads[chosen], sessions=loads[chosen].sessions + 1)
            stay = mean / 2 * math.exp(shape * chance.gauss(0.0, 1.0))
            heapq.heappush(events, (now + stay, next(counter), "leave", chosen, since))
            outcome.waits.append(now - since)
            outcome.busy_seconds += max(0.0, min(stay, outcome.seconds - now))
            homes.append(chosen)
            continue
        outcome.refused += what == "come"
        if now - since + retry > people.patience_minutes * 60:
            outcome.gave_up += 1
        else:
            heapq.heappush(events, (now + retry, next(counter), "again", worker, since))
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--limit", type=int, nargs="+", default=[1, 2], help="sessions that each GPU carries")
    parser.add_argument("--demand", type=float, nargs="+", default=[0.7, 0.8, 0.9, 1.0])
    parser.add_argument("--mean_minutes", type=float, default=15.0)
    parser.add_argument("--patience_minutes", type=float, default=5.0)
    parser.add_argument("--returning", type=float, default=0.3)
    parser.add_argument("--output", "-o", type=Path, default=Path("placement.json"))
    options = parser.parse_args()
    people = People(options.sessions, options.mean_minutes, options.patience_minutes, options.returning)
    results = Results(options.output)
    for name, value in vars(people).items():
        results.add(name, value)
    for limit, demand in itertools.product(options.limit, options.demand):
        for label, choose in (("front", with_front), ("alone", alone)):
            outcome = simulate(people, options.workers, limit, demand, choose)
            waits = sorted(outcome.waits)
            title = f"{limit} each, demand {demand:.0%}, {label}"
            results.add(f"{title}: refused at first %", 100 * outcome.refused / people.sessions)
            results.add(f"{title}: gave up %", 100 * outcome.gave_up / people.sessions)
            results.add(f"{title}: wait, mean s", statistics.mean(waits))
            results.add(f"{title}: wait, 95th percentile s", waits[int(len(waits) * 0.95)])
            places = options.workers * limit
            results.add(f"{title}: in use %", 100 * outcome.busy_seconds / (outcome.seconds * places))


if __name__ == "__main__":
    main()
