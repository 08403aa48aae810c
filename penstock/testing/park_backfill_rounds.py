"""Crash rounds of parked lanes beside live backfills: lines fail and are parked behind others, a sink is added while the input
grows, somebody mends, replays, discards and backfills, and runs and commands are struck.

In the end both sinks have every row once, and those of a key in order. Collaborators: `park_rounds` and `backfill_rounds` (whose
stories these are), `park_verdict`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock.testing.backfill_rounds import BACKFILL, BackfillStory
from penstock.testing.oracle import Oracle
from penstock.testing.park_rounds import WEIGHTS, LaneStory
from penstock.testing.park_verdict import judge_lanes
from penstock.testing.replay_rounds import REFUSED
from penstock.testing.replay_scenario import TABLE, mend, refusing_table
from penstock.testing.scenario import Settings, file_output
from penstock.testing.stories import StoryScenario, draw_settings
from penstock.testing.story import CHUNKS, Story
from penstock.testing.telling import Telling

BACKFILLING = 0.5
"""How likely somebody asks for a backfill, and not for what becomes of letters."""


@dataclass(frozen=True, slots=True)
class ParkBackfillScenario(StoryScenario):
    """A sink that is there from the beginning, and one that comes late; one of them is a table that refuses rows until it is
    mended."""

    def draw(self, rng: random.Random) -> Settings:
        """No repetitions: which of two lines a sink has would depend on when it came, and so would the place of its row."""
        settings = draw_settings(rng)
        plan = replace(settings.plan, weights=WEIGHTS, repetitions=0.0)
        return replace(settings, plan=plan, dedup=settings.dedup and "")

    def story(self, telling: Telling) -> Story:
        first, late = self.outputs
        return ParkBackfillStory(telling, name=self.name, first=first, late=late, exact=True)


@dataclass(slots=True)
class ParkBackfillStory(LaneStory, BackfillStory):
    """A sink is added while lanes are parked; the table is mended afterwards."""

    _mending: int = 0

    def _write(self) -> None:
        BackfillStory._write(self)
        self._mending = self.told.rng.randrange(self._adding + 1, CHUNKS - 1)

    def _turn(self, number: int) -> None:
        BackfillStory._turn(self, number)
        if number != self._mending:
            return
        if self.late.name == TABLE:  # whatever is live, there are past lines for it to refuse
            self._backfill()
        self._keep_alive_until(lambda: bool(self.told.asks(REFUSED)), "nothing is refused")
        mend(self.told.project)

    def _ask(self, *, alone: bool) -> None:
        if self.told.rng.random() < BACKFILLING:
            BackfillStory._ask(self, alone=alone)
        else:
            self._replay_or_discard(alone=alone)

    def _settle(self) -> None:
        """What is left to its letter goes to the late sink once that is settled."""
        LaneStory._settle(self)
        self._backfill()
        self._once()

    def _backfill(self) -> None:
        self._command("a backfill", BACKFILL, "--no-wait", alone=False)

    def check(self, oracle: Oracle, when: str) -> None:
        judge_lanes([self.first, self.late], self.told, oracle, when, late=self.late)


PARK_BACKFILL_SCENARIOS: Mapping[str, ParkBackfillScenario] = {
    "park_backfill": ParkBackfillScenario("park_backfill", [refusing_table(), file_output("late")]),
    "park_backfill_table": ParkBackfillScenario("park_backfill_table", [file_output("lines"), refusing_table()]),
    "park_backfill_server": ParkBackfillScenario("park_backfill_server", [refusing_table(), file_output("late")], server=True),
}
"""By who refuses, and the ledgers they have: the first sink, which has its own; the late one, so that past lines hold lanes, too;
and the first with the state in PostgreSQL."""
