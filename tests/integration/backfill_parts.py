"""A small shop whose events lie in a journal, to be sent through changed steps."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import penstock
from backfill.desk import Desk
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.config.stored import Around
from penstock.engine.carry_out import carry_out
from penstock.engine.run import RunOptions
from penstock.faults import Faults
from penstock.state.job_records import Job
from penstock.state.open import open_store

DAY = 86400.0
BEGAN = 1_772_323_200.0
"""2026-03-01T00:00:00Z; event n of the shop happened n minutes later."""
EVENTS = 1000
STEPS = """\
  - { name: sold, filter: .n % 10 != 3 }
  - { name: total, jq: '{id: .n, total: (.n * 2), who: .who}' }
  - { name: check, validate: total@1 }
"""
SHOP = """\
pipeline: shop
source:
  file: {{ paths: [in.jsonl] }}
  event: {{ type: order, time: .at }}
transforms:
{steps}sinks:
  - {{ name: even, when: .id % 2 == 0, file: {{ path: out/even.jsonl }} }}
  - {{ name: all, file: {{ path: out/all.jsonl }} }}
{more}"""
FRESH = "  - { name: fresh, file: { path: out/fresh.jsonl } }\n"
"""A sink that came later."""


def write_shop(project: Path, steps: str = STEPS, more: str = "") -> Pipeline:
    """The pipeline file, with its schema."""
    schemas = project / "schemas" / "total"
    schemas.mkdir(parents=True, exist_ok=True)
    (schemas / "1.json").write_text('{"properties": {"total": {"maximum": 1990}}}')
    (project / "shop.yaml").write_text(SHOP.format(steps=steps, more=more))
    return penstock.load(project / "shop.yaml")


def write_events(project: Path, count: int = EVENTS) -> None:
    lines = []
    for n in range(count):
        minutes, hours = n % 60, n // 60
        at = f"2026-03-{1 + hours // 24:02}T{hours % 24:02}:{minutes:02}:00Z"
        lines.append(f'{{"n": {n}, "who": "w{n % 7}", "at": "{at}"}}\n')
    (project / "in.jsonl").write_text("".join(lines))


async def run_shop(project: Path, steps: str = STEPS, more: str = "", count: int = EVENTS, piece: int = 0) -> Pipeline:
    """The shop has run over all its events.

    :param piece: in several runs, of so many events each, so that the journal has as many frames.
    """
    write_events(project, count)
    pipeline = write_shop(project, steps, more)
    for _ in range(0, count if piece else 0, piece or 1):
        await penstock.run(pipeline, max_events=piece)
    await penstock.run(pipeline, once=True)
    return pipeline


def add_sink(project: Path, sink: str) -> Pipeline:
    """To the end of the shop's file."""
    file = project / "shop.yaml"
    file.write_text(file.read_text() + sink)
    return penstock.load(file)


def delivered(count: int = EVENTS) -> list[int]:
    """What the shop delivers of so many events."""
    return [n for n in range(count) if n % 10 != 3 and n * 2 <= 1990]


def records_in(name: str) -> list[dict[str, Any]]:
    """What a file sink has, in order."""
    path = Path("out") / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ids_in(name: str) -> list[int]:
    return [record["id"] for record in records_in(name)]


@asynccontextmanager
async def desk_of(pipeline: Pipeline) -> AsyncIterator[Desk]:
    """A desk over the pipeline's state."""
    store = open_store(pipeline.state, pipeline.name, SystemClock(), Faults())
    await store.open(create=False)
    try:
        around = Around(pipeline.file, pipeline.project, pipeline.state, os.environ, pipeline)
        yield Desk(store, pipeline, around, SystemClock())
    finally:
        await store.close()


async def report_of(steps: Pipeline, mode: str, *, concurrency: int = 0, **asked: Any) -> dict[str, Any]:
    """The report of a backfill from beginning to end."""
    asked = {"start": BEGAN, "end": BEGAN + 10 * DAY, **asked}
    async with desk_of(steps) as desk:
        job = await desk.create(steps, {"mode": mode, **asked}, "ann@here")
        return desk.report(await desk.carry_out(job, steps, concurrency, lambda job: None), steps.name)


async def native(steps: Pipeline, mode: str = "dry_run", **asked: Any) -> dict[str, Any]:
    """The report of one of what the source holds."""
    return await report_of(steps, mode, source="native", **asked)


def held(report: dict[str, Any]) -> tuple[int, ...]:
    """What the source held, beside what the journal tells of it."""
    return tuple(report["native"][name] for name in ("events", "unknown", "changed", "unplaced"))


async def ask(today: Pipeline, steps: Pipeline | None = None, **asked: Any) -> str:
    """The id of a live backfill over everything.

    :param steps: of another version.
    """
    other = {} if steps is None else {"against": "asked for"}
    async with desk_of(today) as desk:
        return (await desk.create(steps or today, {"mode": "live", "start": 0.0, "end": 1e11, **other, **asked}, "ann@here")).id


async def backfill(today: Pipeline, steps: Pipeline | None = None, **asked: Any) -> dict[str, int]:
    """A live one, carried out where no run is alive; what it counted."""
    return counts_of(await carry_out(today, await ask(today, steps, **asked), RunOptions()))


def counts_of(job: Job) -> dict[str, int]:
    """Of one that is done."""
    assert job.state == "done"
    return {name: count for name, count in job.progress.counts.items() if count}
