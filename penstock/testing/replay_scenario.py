"""What a crash round of replays runs: a pipeline that follows its files, into outputs that refuse some rows until mended.

A trigger of the table refuses the oracle's kinds `refused` and `refused_part`; `mend` drops it while the run lives. What the
steps refuse (`error`, `garbage`, `oversized`) fails again, however often it is replayed.
"""

from __future__ import annotations

import json
import random
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from penstock.testing.oracle import Plan
from penstock.testing.scenario import Output, Scenario, Settings, file_output, table_output, write_pipeline

TABLE = "table"
_TRIGGER = (
    "CREATE TRIGGER refuses BEFORE INSERT ON events WHEN new.kind = 'refused' OR (new.kind = 'refused_part' AND new.part = 1) "
    "BEGIN SELECT RAISE(ABORT, 'CHECK constraint failed: refused'); END"
)


@dataclass(frozen=True, slots=True)
class ReplayScenario:
    """Outputs under one name; the first is a table that refuses rows until it is mended."""

    name: str
    outputs: Sequence[Output]


def refusing_table() -> Output:
    """A table whose refusals can be mended while somebody writes to it."""
    table = table_output(TABLE, refuses=False)

    def prepare(project: Path) -> None:
        table.prepare(project)
        with closing(sqlite3.connect(project / f"out/{TABLE}.db")) as database:
            database.execute(_TRIGGER)
            database.commit()

    return replace(table, prepare=prepare)


def mend(project: Path) -> None:
    """From now on the table takes every row."""
    with closing(sqlite3.connect(project / f"out/{TABLE}.db", timeout=30)) as database:
        database.execute("DROP TRIGGER IF EXISTS refuses")
        database.commit()


def draw_settings(rng: random.Random) -> Settings:
    """As `Settings.draw`, with portions so small that a replay has many of them. Files grow side by side, so that only of one is
    it known which of two repetitions comes first."""
    settings = Settings.draw(rng)
    repetitions = settings.plan.repetitions
    plan = Plan(lines=rng.randrange(300, 700), files=1 if repetitions else rng.randrange(1, 3), repetitions=repetitions)
    return replace(settings, plan=plan, count=rng.choice([2, 5, 10, 40]), in_flight=rng.choice([20, 200]))


def write_replay_pipeline(project: Path, scenario: ReplayScenario, settings: Settings) -> None:
    """The pipeline file: that of other scenarios, but for a source that follows its files."""
    path = write_pipeline(project, Scenario(scenario.name, scenario.outputs), settings)
    pipeline: dict[str, Any] = json.loads(path.read_text())
    pipeline["source"]["file"]["follow"] = True
    path.write_text(json.dumps(pipeline, indent=2))


REPLAY_SCENARIOS: Mapping[str, ReplayScenario] = {
    "replay_beside": ReplayScenario("replay_beside", [refusing_table()]),
    "replay_beside_both": ReplayScenario("replay_beside_both", [refusing_table(), file_output()]),
}
"""By the ledgers they have: the sink's own, and that of the state store beside it."""
