"""What a crash round does to its runs: kills at fault points and at any moment, failures, SIGTERM, torn writes; all of it drawn
from the round's seed."""

from __future__ import annotations

import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from penstock.faults import POINTS

MOST_STRIKES = 6
SOFT = ("transient", "fatal")
"""Actions of a fault point that the process survives, or ends by itself."""


@dataclass(frozen=True, slots=True)
class Strike:
    """What is done to one run.

    :ivar fault: for `PENSTOCK_FAULT`; may be empty.
    :ivar delay: seconds after which `signal` is sent; None where only the fault point strikes.
    :ivar tear: bytes appended afterwards to the files that the sinks append to, as a write torn by a power cut leaves them;
        none where the run had ended its writing already.
    """

    fault: str = ""
    delay: float | None = None
    signal: signal.Signals = signal.SIGKILL
    tear: bytes = b""

    def __str__(self) -> str:
        sent = "" if self.delay is None else f"{self.signal.name} after {self.delay * 1000:.0f} ms"
        torn = f"{len(self.tear)} bytes torn" if self.tear else ""
        return ", ".join(filter(None, [self.fault, sent, torn]))

    @property
    def may_fail(self) -> bool:
        """Whether the run may end with an error of its own."""
        return any(f":{action}" in self.fault for action in SOFT)


def plan_strikes(rng: random.Random, seed: int, passed: Mapping[str, int], took: float) -> list[Strike]:
    """One to six strikes. The first kills at the fault point whose turn it is, so that consecutive seeds reach every one."""
    points = sorted(passed) or ["after_read"]
    turn = POINTS[seed % len(POINTS)]
    turn = turn if turn in passed else rng.choice(points)
    strikes = [Strike(f"{turn}:{_nth(rng, passed.get(turn, 1))}:kill", tear=_torn(rng))]
    for _ in range(rng.randrange(MOST_STRIKES)):
        point = rng.choice(points)
        kill = f"{point}:{_nth(rng, passed.get(point, 1))}:kill"
        soft_point = rng.choice(points)
        soft = f"{soft_point}:{_nth(rng, passed.get(soft_point, 1))}:{rng.choice(['transient'] * 3 + ['fatal'])}"
        strikes.append(
            rng.choices(
                [
                    Strike(kill, tear=_torn(rng)),
                    Strike(f"{soft},{kill}", tear=_torn(rng)),
                    Strike(delay=rng.uniform(0, took), tear=_torn(rng)),
                    Strike(delay=rng.uniform(0, took), signal=signal.SIGTERM),
                ],
                [4, 3, 2, 1],
            )[0]
        )
    return strikes


def _nth(rng: random.Random, passed: int) -> int:
    """Early passes are likelier: they leave more for the runs that follow."""
    return 1 + int(rng.random() ** 2 * max(0, passed - 1))


def _torn(rng: random.Random) -> bytes:
    return rng.randbytes(rng.randrange(1, 5000)) if rng.random() < 0.3 else b""
