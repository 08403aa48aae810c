"""Verifications of a small shop (`backfill_parts`), and what is planted in it."""

from __future__ import annotations

import os
import random
import sqlite3
from pathlib import Path
from typing import Any

from backfill_parts import BEGAN, DAY

from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.config.stored import Around
from penstock.engine.assemble import Surroundings
from penstock.faults import Faults
from penstock.state.open import open_store
from verify.verifier import Verifier

EVER = (BEGAN - DAY, BEGAN + 10 * DAY)


async def verified(pipeline: Pipeline, start: float = EVER[0], end: float = EVER[1], *sinks: str, **asked: Any) -> dict[str, Any]:
    """The report of a verification."""
    store = open_store(pipeline.state, pipeline.name, SystemClock(), Faults(), pipeline.state_server)
    await store.open(create=False)
    try:
        around = Around(pipeline.file, pipeline.project, pipeline.state, os.environ, pipeline)
        verifier = Verifier(pipeline, store, around, Surroundings(SystemClock(), random.Random(), Faults()))
        return await verifier.verify(start, end, sinks, lambda stage, done, total: None, **asked)
    finally:
        await store.close()


def gaps(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Part, event and what is the matter, of each gap that is named."""
    assert report["gaps"] == len(report["named"])
    assert report["accounted"] == (not report["named"])
    return [(gap["part"], gap["event"], gap["what"]) for gap in report["named"]]


def state_of(pipeline: Pipeline) -> sqlite3.Connection:
    """Its state store, for planting gaps by hand."""
    return sqlite3.connect(pipeline.state / f"{pipeline.name}.db", isolation_level=None)


def cut_line(path: Path, holding: str) -> None:
    """Remove the one line that holds a text."""
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if holding not in line]
    assert len(kept) == len(lines) - 1
    path.write_text("".join(kept))
