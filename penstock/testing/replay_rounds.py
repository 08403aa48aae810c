"""Crash rounds of replays beside live work: letters are mended and replayed while the input grows, and runs and commands are
struck.

Collaborators: `stories` (how it is told), `replay_scenario` (the table that is mended), `replay_verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from penstock.testing.oracle import Oracle
from penstock.testing.replay_scenario import TABLE, mend, refusing_table
from penstock.testing.replay_verdict import judge_replays
from penstock.testing.scenario import file_output
from penstock.testing.stories import StoryScenario
from penstock.testing.story import CHUNKS, Story
from penstock.testing.telling import FILE, Telling

REPLAY = ("dlq", "replay", FILE, "--all")
REFUSED = f"SELECT 1 FROM letters WHERE step = '{TABLE}' AND pending IS NULL LIMIT 1"  # noqa: S608 - a constant
"""Finds out whether the table has refused something."""


@dataclass(frozen=True, slots=True)
class ReplayScenario(StoryScenario):
    """The first output is a table that refuses rows until it is mended."""

    def story(self, telling: Telling) -> Story:
        return ReplayStory(telling, scenario=self)


@dataclass(slots=True)
class ReplayStory(Story):
    """Somebody replays, mends, replays."""

    scenario: StoryScenario = field(kw_only=True)
    _mending: int = 0

    def _write(self) -> None:
        self._mending = self.told.rng.randrange(CHUNKS // 2, CHUNKS - 1)
        self._write_for(self.scenario.name, self.scenario.outputs)

    def _turn(self, number: int) -> None:
        """What is mended has been refused before."""
        if number == self._mending:
            self._keep_alive_until(lambda: bool(self.told.asks(REFUSED)), "nothing is refused")
            mend(self.told.project)

    def _ask(self, *, alone: bool) -> None:
        """For a replay of all that is open."""
        rate = ["--rate", "200/s"] if not alone and self.told.rng.random() < 0.3 else []
        self._command("a replay", REPLAY, "--no-wait", *rate, alone=alone)

    def check(self, oracle: Oracle, when: str) -> None:
        judge_replays(self.scenario.outputs, self.told, oracle, when=when)


REPLAY_SCENARIOS: Mapping[str, ReplayScenario] = {
    "replay_beside": ReplayScenario("replay_beside", [refusing_table()]),
    "replay_beside_both": ReplayScenario("replay_beside_both", [refusing_table(), file_output()]),
    "replay_beside_server": ReplayScenario("replay_beside_server", [refusing_table(), file_output()], server=True),
}
"""By the ledgers they have: the sink's own, that of the state store beside it, and the same with the state in PostgreSQL."""
