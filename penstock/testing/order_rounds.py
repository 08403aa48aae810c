"""Crash rounds of late deliveries into tables with `order_by`: changes of many keys come in, some are refused at first, replays
and live backfills bring older ones again, and runs and commands are struck.

In the end each row is as the newest event of its key says, deleted ones too, and never was an older one put over it.
Collaborators: `stories` (how it is told), `order_tables`, `order_verdict`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.testing.backfill_rounds import BACKFILL
from penstock.testing.oracle import Kind, Oracle
from penstock.testing.order_tables import OrderTable, postgres_mirror, sqlite_mirror
from penstock.testing.order_verdict import judge_order
from penstock.testing.replay_rounds import REPLAY
from penstock.testing.scenario import Settings
from penstock.testing.stories import StoryScenario, draw_settings
from penstock.testing.story import CHUNKS, Story
from penstock.testing.telling import Telling

WEIGHTS: Mapping[Kind, int] = {"plain": 72, "filtered": 5, "error": 4, "garbage": 2, "refused": 17}
"""One row each; those that are refused are the newest of their key often enough."""


@dataclass(frozen=True, slots=True)
class OrderScenario(StoryScenario):
    """Tables that take every event; each refuses some rows until all are mended."""

    tables: Sequence[OrderTable] = ()

    def draw(self, rng: random.Random) -> Settings:
        settings = draw_settings(rng)
        plan = replace(settings.plan, weights=WEIGHTS, lines=rng.randrange(250, 400))
        return replace(settings, plan=plan, workers=rng.choice([0, 0, 0, 2]), count=rng.choice([5, 10, 40]))

    def story(self, telling: Telling) -> Story:
        return OrderStory(telling, name=self.name, tables=self.tables)


@dataclass(slots=True)
class OrderStory(Story):
    """Somebody mends, replays, and delivers all that was delivered once more."""

    name: str = field(kw_only=True)
    tables: Sequence[OrderTable] = field(kw_only=True)
    _mending: int = 0

    def _write(self) -> None:
        told = self.told
        self._mending = told.rng.randrange(CHUNKS // 2, CHUNKS - 1)
        (told.project / "out").mkdir()
        for table in self.tables:
            table.execute(told, table.make)
        self._write_for(self.name, [table.output for table in self.tables])

    def _turn(self, number: int) -> None:
        if number == self._mending:
            refused = "SELECT 1 FROM letters WHERE code LIKE 'sink.%' AND pending IS NULL LIMIT 1"
            self._keep_alive_until(lambda: bool(self.told.asks(refused)), "nothing is refused")
            for table in self.tables:
                table.execute(self.told, table.mend)

    def _ask(self, *, alone: bool) -> None:
        """For a replay of all that is open, or for all that was delivered."""
        rng = self.told.rng
        rate = ["--rate", "400/s"] if not alone and rng.random() < 0.2 else []
        if rng.random() < 0.5:
            self._command("a replay", REPLAY, "--no-wait", *rate, alone=alone)
            return
        to = ["--sink", rng.choice(self.tables).name] if rng.random() < 0.3 else []
        self._command("a backfill", [*BACKFILL, "--redeliver", *to], "--no-wait", *rate, alone=alone)

    def _settle(self) -> None:
        """What the end asked for by chance alone: each letter that can be delivered is, and all that was delivered once more."""
        self._command("a replay", REPLAY, "--no-wait", alone=False)
        self._command("a backfill", [*BACKFILL, "--redeliver"], "--no-wait", alone=False)
        self._once()

    def check(self, oracle: Oracle, when: str) -> None:
        judge_order(self.tables, self.told, oracle, when=when)


ORDER_SCENARIOS: Mapping[str, OrderScenario] = {
    "order_by": OrderScenario("order_by", tables=[sqlite_mirror("sequence")]),
    "order_by_postgres": OrderScenario("order_by_postgres", tables=[postgres_mirror("sequence")], server=True),
    "order_by_both": OrderScenario(
        "order_by_both", tables=[sqlite_mirror(".sequence"), postgres_mirror(".sequence")], server=True
    ),
}
"""By the tables: in SQLite; in PostgreSQL, where the state lies too; and both, with the order in a column of its own."""
