"""Crash rounds of live backfills beside live work: a sink is added while the input grows, somebody asks again and again for what
it did not have, and runs and commands are struck.

In the end both sinks must have every row once. Collaborators: `stories` (how it is told), `backfill_verdict`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from penstock.testing.backfill_verdict import judge_backfills
from penstock.testing.oracle import Oracle
from penstock.testing.scenario import Output, Unreadable, file_output, table_output
from penstock.testing.stories import StoryScenario
from penstock.testing.story import CHUNKS, Story
from penstock.testing.telling import FILE, Telling

BACKFILL = ("backfill", "start", FILE, "--mode", "live", "--from", "2000-01-01", "--to", "2100-01-01")


@dataclass(frozen=True, slots=True)
class BackfillScenario(StoryScenario):
    """A sink that is there from the beginning, and one that comes late; whether one ledger is that of both."""

    one_ledger: bool = False

    def story(self, telling: Telling) -> Story:
        first, late = self.outputs
        exact = self.one_ledger or not telling.settings.plan.repetitions
        return BackfillStory(telling, name=self.name, first=first, late=late, exact=exact)


@dataclass(slots=True)
class BackfillStory(Story):
    """A sink is added, somebody backfills it."""

    name: str = field(kw_only=True)
    first: Output = field(kw_only=True)
    late: Output = field(kw_only=True)
    exact: bool = field(kw_only=True)
    _adding: int = 0
    _added: bool = False

    def _write(self) -> None:
        self._adding = self.told.rng.randrange(CHUNKS // 4, CHUNKS - 3)
        self._write_for(self.name, [self.first])

    def _turn(self, number: int) -> None:
        """Between two runs, once the first sink has something: the next one has the late sink, too."""
        if number != self._adding:
            return
        self._keep_alive_until(self._has_rows, "nothing is delivered")
        self._stop()
        self._added = True
        self._write_for(self.name, [replace(self.first, prepare=lambda project: None), self.late])

    def _has_rows(self) -> bool:
        try:
            return bool(self.first.rows(self.told.project))
        except (OSError, Unreadable):  # not there yet, or torn just now
            return False

    def _ask(self, *, alone: bool) -> None:
        """For all that the late sink did not have."""
        if not self._added:
            return
        more: list[str] = []
        if not alone:
            more += ["--rate", "300/s"] if self.told.rng.random() < 0.3 else []
            more += ["--sink", self.late.name] if self.told.rng.random() < 0.5 else []
        self._command("a backfill", BACKFILL, "--no-wait", *more, alone=alone)

    def check(self, oracle: Oracle, when: str) -> None:
        judge_backfills(self.first, self.late, self.told, oracle, when, exact=self.exact)

    def verify(self) -> None:
        """Not where the ledgers differ in what they know as a repetition: one says of an event that it was delivered, and the
        other has rightly not taken it again."""
        if self.exact:
            Story.verify(self)


BACKFILL_SCENARIOS: Mapping[str, BackfillScenario] = {
    "backfill_beside": BackfillScenario("backfill_beside", [table_output("table", refuses=False), file_output("late")]),
    "backfill_beside_table": BackfillScenario(
        "backfill_beside_table", [file_output("lines"), table_output("late", refuses=False)]
    ),
    "backfill_beside_one": BackfillScenario(
        "backfill_beside_one", [file_output("lines"), file_output("late", suffix=".zst")], one_ledger=True
    ),
    "backfill_beside_server": BackfillScenario(
        "backfill_beside_server", [table_output("table", refuses=False), file_output("late")], server=True
    ),
}
"""By the ledgers they have: a sink's own and then the state store's, the other way round, the state store's for both; and the
first with the state in PostgreSQL."""
