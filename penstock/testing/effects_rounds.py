"""Crash rounds of a step with effects: it asks a world that is killed never and forgets nothing, while runs, replays and commands
are struck.

In the end each event's answer is in every sink once, and the world was asked no more often than rule 14 allows. Collaborators:
`replay_rounds` (whose story it is), `effects_world`, `effects_verdict`.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from penstock.testing.effects_verdict import Standing, judge_world, standing_of
from penstock.testing.effects_world import World, step
from penstock.testing.oracle import Oracle
from penstock.testing.replay_rounds import ReplayStory
from penstock.testing.replay_scenario import TABLE, refusing_table
from penstock.testing.replay_verdict import judge_replays
from penstock.testing.scenario import Output, Settings, file_output
from penstock.testing.stories import StoryScenario, draw_settings
from penstock.testing.story import CHUNKS, Story
from penstock.testing.strikes import Strike
from penstock.testing.telling import Telling


@dataclass(frozen=True, slots=True)
class EffectsScenario(StoryScenario):
    """The first output is a table that refuses rows until it is mended.

    :ivar keyed: whether the step has an `idempotency_key`.
    """

    keyed: bool = True

    def draw(self, rng: random.Random) -> Settings:
        return replace(draw_settings(rng), workers=0)  # those that change the world are in none

    def story(self, telling: Telling) -> Story:
        return EffectsStory(telling, scenario=self, keyed=self.keyed)

    def strikes(self, rng: random.Random, seed: int, passed: Mapping[str, int], took: float) -> list[Strike]:
        """Each third one around the moment in which the state store takes the world's answers."""
        others = StoryScenario.strikes(self, rng, seed, passed, took)
        points = ("before_answers", "after_answers")
        own = [Strike(f"{points[(seed + n) % 2]}:{rng.randrange(1, 12)}:kill") for n in range(1 + len(others) // 2)]
        if not self.keyed:
            return others
        return [strike for n, each in enumerate(others) for strike in ([own[n // 2], each] if n % 2 == 0 else [each])]


@dataclass(slots=True)
class EffectsStory(ReplayStory):
    """After each process it is looked at what it left, and so what nobody has to ask again."""

    keyed: bool = field(kw_only=True)
    standings: list[Standing] = field(default_factory=list)

    def _write(self) -> None:
        told = self.told
        self._mending = told.rng.randrange(CHUNKS // 2, CHUNKS - 1)
        World(told.project).make()
        self._write_for(self.scenario.name, self.scenario.outputs, partial(_ask_world, keyed=self.keyed))

    def _judge(self, status: int) -> None:
        """What stood when the process had ended."""
        ReplayStory._judge(self, status)
        self.standings.append(standing_of(self.told, self.scenario.outputs))

    def check(self, oracle: Oracle, when: str) -> None:
        outputs = self.scenario.outputs
        judge_replays(outputs, self.told, oracle, when=when)
        judge_world(outputs, self.told, self.standings, oracle, when, keyed=self.keyed)

    def verify(self) -> None:
        """Not without a key: a run that dies between two ledgers asks again, and the one that was first keeps another answer than
        the journal has."""
        if self.keyed:
            ReplayStory.verify(self)


def _ask_world(pipeline: dict[str, Any], *, keyed: bool) -> None:
    """The step before the one that divides lines; what it brings goes along."""
    division = pipeline["transforms"][1]
    division["jq"] = division["jq"].replace("checksum, kind}", "checksum, kind, answer}")
    pipeline["transforms"].insert(1, step(keyed=keyed))


def answering_table() -> Output:
    """A table that keeps the answers."""
    table = refusing_table()

    def prepare(project: Path) -> None:
        table.prepare(project)
        with closing(sqlite3.connect(project / f"out/{TABLE}.db")) as database:
            database.execute("ALTER TABLE events ADD COLUMN answer TEXT")
            database.commit()

    return replace(table, prepare=prepare)


EFFECTS_SCENARIOS: Mapping[str, EffectsScenario] = {
    "effects": EffectsScenario("effects", [answering_table()]),
    "effects_both": EffectsScenario("effects_both", [answering_table(), file_output()]),
    "effects_server": EffectsScenario("effects_server", [answering_table(), file_output()], server=True),
    "effects_keyless": EffectsScenario("effects_keyless", [answering_table(), file_output()], keyed=False),
}
"""By the ledgers they have, as those of replays; and without an idempotency key."""
