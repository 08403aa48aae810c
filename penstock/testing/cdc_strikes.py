"""What a crash round over a changing database does: to the run, and to servers and connections beside it."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from penstock.faults import POINTS
from penstock.testing.cdc_scenario import SLOT, World
from penstock.testing.servers import Database
from penstock.testing.strikes import Strike

MOST_STRIKES = 5
LONGEST = 1.2
"""Seconds that a run is left alone at most, from its start."""

NEVER_PASSED = {"mid_migration"}


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Something done to the surroundings, `after` seconds of a run."""

    after: float
    name: str


@dataclass(frozen=True, slots=True)
class CdcStrike:
    """What is done to one run: disturbances beside it, then its end."""

    end: Strike
    disturbances: Sequence[Disturbance] = field(default_factory=tuple)

    def __str__(self) -> str:
        beside = ", ".join(f"{each.name} after {each.after * 1000:.0f} ms" for each in self.disturbances)
        return ", ".join(filter(None, [str(self.end), beside]))


def plan_cdc_strikes(rng: random.Random, seed: int) -> list[CdcStrike]:
    """Two to six, each with an end; the first kills at the fault point whose turn it is, if the run gets there in time."""
    points = [point for point in POINTS if point not in NEVER_PASSED]
    strikes = []
    for n in range(rng.randrange(2, MOST_STRIKES + 2)):
        point = points[seed % len(points)] if n == 0 else rng.choice(points)
        fault = f"{point}:{1 + int(rng.random() ** 2 * 12)}:kill" if n == 0 or rng.random() < 0.6 else ""
        delay = rng.uniform(0.3, LONGEST) if n == 0 else rng.uniform(0.05, LONGEST)
        gentle = not fault and rng.random() < 0.2
        end = Strike(fault, delay=delay, signal=signal.SIGTERM if gentle else signal.SIGKILL)
        strikes.append(CdcStrike(end, _disturbances(rng, delay)))
    return strikes


def _disturbances(rng: random.Random, delay: float) -> list[Disturbance]:
    if rng.random() < 0.35:
        return []
    chosen = [Disturbance(rng.uniform(0, delay), rng.choice(list(ACTIONS))) for _ in range(rng.choice([1, 1, 2, 3]))]
    return sorted(chosen, key=lambda each: each.after)


def disturb(world: World, name: str, rng: random.Random) -> None:
    """Do it, and return when the servers are there again."""
    ACTIONS[name](world, rng)


def _kill(database: Database) -> None:
    database.server.kill()
    database.server.start()


def _terminate(database: Database, whose: str) -> None:
    database.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND {whose}")  # noqa: S608


def _terminate_some(database: Database, rng: random.Random) -> None:
    _terminate(database, f"pid <> pg_backend_pid() AND hashint4(pid) % 2 = {rng.randrange(2)}")


def _terminate_sender(world: World, rng: random.Random) -> None:
    world.source.execute(f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{SLOT}'")  # noqa: S608


ACTIONS: Mapping[str, Callable[[World, random.Random], None]] = {
    "the source's server killed": lambda world, rng: _kill(world.source),
    "the source's server restarted": lambda world, rng: world.source.server.restart(rng.choice(["fast", "immediate"])),
    "the target's server killed": lambda world, rng: _kill(world.target),
    "the target's server restarted": lambda world, rng: world.target.server.restart(rng.choice(["fast", "immediate"])),
    "the sender terminated": _terminate_sender,
    "connections to the source terminated": lambda world, rng: _terminate_some(world.source, rng),
    "connections to the target terminated": lambda world, rng: _terminate_some(world.target, rng),
    "writers terminated": lambda world, rng: _terminate(world.source, "application_name = 'writer'"),
    "connections to the source reset": lambda world, rng: world.to_source.cut(),
    "the answer to a COMMIT lost": lambda world, rng: _lose_answer(world),
    "a COMMIT lost": lambda world, rng: _lose_request(world),
}
"""By name. A server is back when the action returns."""


def _lose_answer(world: World) -> None:
    world.to_target.cut_after(b"COMMIT", b"COMMIT")


def _lose_request(world: World) -> None:
    world.to_target.cut_before(b"COMMIT")
