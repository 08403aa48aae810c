"""Crash rounds of parked lanes behind a step with effects: lines wait with the answers that the world gave to them, and are
released with these, while runs, replays, discards and commands are struck.

In the end each output has every row once, those of a key in order, and the world was asked no more often than rule 14 allows.
Collaborators: `park_rounds` and `effects_rounds` (whose stories these are), `park_verdict`, `effects_verdict`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from penstock.testing.effects_rounds import EffectsScenario, EffectsStory, answering_table
from penstock.testing.effects_verdict import judge_world
from penstock.testing.oracle import Oracle
from penstock.testing.park_rounds import WEIGHTS, LaneStory
from penstock.testing.park_verdict import judge_lanes
from penstock.testing.scenario import Settings, file_output
from penstock.testing.story import Story
from penstock.testing.telling import Telling


@dataclass(frozen=True, slots=True)
class ParkEffectsScenario(EffectsScenario):
    """The first output is a table that refuses rows until it is mended."""

    def draw(self, rng: random.Random) -> Settings:
        settings = EffectsScenario.draw(self, rng)
        return replace(settings, plan=replace(settings.plan, weights=WEIGHTS))

    def story(self, telling: Telling) -> Story:
        return ParkEffectsStory(telling, scenario=self, keyed=self.keyed)


@dataclass(slots=True)
class ParkEffectsStory(LaneStory, EffectsStory):
    """Lines that the world has answered are parked behind others."""

    def _ask(self, *, alone: bool) -> None:
        self._replay_or_discard(alone=alone)

    def check(self, oracle: Oracle, when: str) -> None:
        outputs = self.scenario.outputs
        judge_lanes(outputs, self.told, oracle, when)
        judge_world(outputs, self.told, self.standings, oracle, when, keyed=self.keyed)


PARK_EFFECTS_SCENARIOS: Mapping[str, ParkEffectsScenario] = {
    "park_effects": ParkEffectsScenario("park_effects", [answering_table()]),
    "park_effects_both": ParkEffectsScenario("park_effects_both", [answering_table(), file_output()]),
}
"""By the ledgers they have: the sink's own, and that of the state store beside it, which may have had a line that waits."""
