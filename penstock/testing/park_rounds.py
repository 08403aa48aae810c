"""Crash rounds of parked lanes: lines fail, the lines of their keys behind them wait, somebody mends, replays and discards while
the input grows, and runs and commands are struck.

In the end each output has every row once, and those of a key in order. `LaneStory` is what stories of parked lanes have in
common. Collaborators: `replay_rounds`, `park_verdict`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from penstock.testing.oracle import Kind, Oracle
from penstock.testing.park_verdict import count_unsettled, judge_lanes
from penstock.testing.replay_rounds import REPLAY, ReplayStory
from penstock.testing.replay_scenario import refusing_table
from penstock.testing.scenario import Output, Settings, file_output
from penstock.testing.stories import StoryScenario, draw_settings
from penstock.testing.story import Story
from penstock.testing.telling import FILE, Telling

WEIGHTS: Mapping[Kind, int] = {
    "plain": 74, "split": 8, "none": 2, "filtered": 8, "error": 2, "refused": 4, "refused_part": 2,
}  # fmt: skip
"""All of them have a key: what has none ends the run when it fails."""
DISCARD = ("dlq", "discard", FILE, "--step", "split", "--status", "open", "--yes")
DISCARDING = 0.4
"""How likely somebody discards instead of replaying."""
MOST_TIMES = 60
"""How often what is left is discarded in the end: each time frees the next lines of every lane."""


@dataclass(frozen=True, slots=True)
class ParkScenario(StoryScenario):
    """The first output is a table that refuses rows until it is mended."""

    def draw(self, rng: random.Random) -> Settings:
        settings = draw_settings(rng)
        return replace(settings, plan=replace(settings.plan, weights=WEIGHTS))

    def story(self, telling: Telling) -> Story:
        return ParkStory(telling, scenario=self)


@dataclass(slots=True)
class LaneStory(Story):
    """Lanes are parked, what failed is retried by itself, and in the end what the steps refuse is given up. Goes before the class
    that says what else is told."""

    def _write_for(self, name: str, outputs: Sequence[Output], change: Callable[[dict[str, Any]], None] = lambda _: None) -> None:
        def park(pipeline: dict[str, Any]) -> None:
            change(pipeline)
            pipeline["source"]["event"] = {"partition_key": ".key"}
            pipeline["dead_letter"] = {"lane": "park", "retry": ["300ms", "1s"]}

        Story._write_for(self, name, outputs, park)

    def _settle(self) -> None:
        """What the steps refuse is given up, which frees lane after lane."""
        self._replay(alone=False)
        self._once()
        for _ in range(MOST_TIMES):
            if self.told.result.problems or not count_unsettled(self.told):
                return
            self._discard()
            self._once()
        if not self.told.result.problems:
            self.told.problem("lanes", f"{count_unsettled(self.told)} dead letters are not settled in the end")

    def _replay_or_discard(self, *, alone: bool) -> None:
        """Sometimes what can never be delivered is given up instead."""
        if not alone and self.told.rng.random() < DISCARDING:
            self._discard()
        else:
            self._replay(alone=alone)

    def _replay(self, *, alone: bool) -> None:
        rate = ["--rate", "200/s"] if not alone and self.told.rng.random() < 0.3 else []
        self._command("a replay", REPLAY, "--no-wait", *rate, alone=alone)

    def _discard(self) -> None:
        self._command("a discard", DISCARD, alone=False)


@dataclass(slots=True)
class ParkStory(LaneStory, ReplayStory):
    """Lines fail and are parked behind others, somebody mends, replays and discards."""

    def _ask(self, *, alone: bool) -> None:
        self._replay_or_discard(alone=alone)

    def check(self, oracle: Oracle, when: str) -> None:
        judge_lanes(self.scenario.outputs, self.told, oracle, when=when)


PARK_SCENARIOS: Mapping[str, ParkScenario] = {
    "park": ParkScenario("park", [refusing_table()]),
    "park_both": ParkScenario("park_both", [refusing_table(), file_output()]),
    "park_server": ParkScenario("park_server", [refusing_table(), file_output()], server=True),
}
"""By the ledgers they have: the sink's own, that of the state store beside it, and the same with the state in PostgreSQL."""
