"""A shop whose steps change a world: a file to which each call appends the key and the data that it was given."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.config.secret import Secret
from penstock.engine.run import Run, RunOptions
from penstock.errors import Fatal
from penstock.faults import Faults
from penstock.journal.lines import Line
from penstock.journal.reader import EVER, JournalReader
from penstock.observe.status import RunSummary
from penstock.state.open import open_store
from penstock.state.store import StateStore

STEPS = """\
import json
from pathlib import Path
from penstock.errors import Permanent, Transient

WORLD = Path(__file__).parent / "world.jsonl"
TROUBLE = Path(__file__).parent / "trouble.json"


def charge(data, *, idempotency_key=None):
    trouble = json.loads(TROUBLE.read_text()) if TROUBLE.exists() else {}
    number = data["n"] if isinstance(data, dict) else data
    with WORLD.open("a") as world:
        world.write(json.dumps([idempotency_key, number]) + "\\n")
    what = trouble.pop(str(number), None)
    if what == "transient":
        TROUBLE.write_text(json.dumps(trouble))
        raise Transient("shop.busy", "busy")
    if what == "declined":
        raise Permanent("shop.declined", "no money", why="the card says so", help="ask for another card")
    if what == "drop":
        return None
    if what == "several":
        return [{"n": number, "part": part} for part in range(3)]
    return {**data, "paid": number * 2}


async def later(data, *, idempotency_key=None):
    return charge(data, idempotency_key=idempotency_key)


def many(batch, *, idempotency_keys):
    return [charge(data, idempotency_key=key) for data, key in zip(batch, idempotency_keys, strict=True)]
"""
CHARGE = '  - { name: charge, python: "world_steps:charge", effects: write, idempotency_key: \'"k\\(.n)"\' }\n'
PIPELINE = """\
pipeline: shop
source: {{ file: {{ paths: [in.jsonl] }}, event: {{ partition_key: '"lane"' }} }}
retry: {{ initial_delay: 1ms, max_delay: 1ms, max_attempts: 4 }}
batching: {{ count: 4 }}
{more}transforms:
{steps}{sink}"""
FILE = "sink: { file: { path: out.jsonl } }\n"


def _stop(name: str) -> None:
    raise Fatal("fault.injected", f"the run ends at {name}")


class Shop:
    """A project with the pipeline `shop`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "world_steps.py").write_text(STEPS)
        (root / "penstock.yaml").touch()

    def write(self, steps: str = CHARGE, more: str = "", sink: str = FILE, name: str = "shop.yaml") -> Path:
        file = self.root / name
        file.write_text(PIPELINE.format(steps=steps, more=more, sink=sink))
        return file

    def add(self, *numbers: int, **more: Any) -> None:
        with (self.root / "in.jsonl").open("a") as file:
            file.writelines(json.dumps({"n": n, **more}) + "\n" for n in numbers)

    def trouble(self, **what: str) -> None:
        """By number (`n3`), what goes wrong."""
        (self.root / "trouble.json").write_text(json.dumps({number[1:]: each for number, each in what.items()}))

    @property
    def asked(self) -> list[tuple[str | None, int]]:
        """What the world was asked, in order."""
        world = self.root / "world.jsonl"
        lines = world.read_text().splitlines() if world.exists() else []
        return [tuple(json.loads(line)) for line in lines]

    @property
    def out(self) -> list[Any]:
        file = self.root / "out.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def load(self, name: str = "shop.yaml") -> Pipeline:
        return penstock.load(self.root / name)

    async def run(self, *, at: str = "", nth: int = 1, **options: Any) -> RunSummary:
        """Until the source is drained.

        :param at: a fault point at which it fails for good.
        """
        faults = Faults({at: [(nth, _stop)]}) if at else Faults()
        run = Run(self.load(), RunOptions(once=True, faults=faults, **options))
        return await asyncio.wait_for(run.execute(), 30)

    def store(self, database: str | None = None) -> StateStore:
        secret = Secret(database) if database is not None else None
        return open_store(self.root / ".penstock", "shop", SystemClock(), Faults(), secret)

    async def kept(self, database: str | None = None) -> int:
        """How many answers the state store keeps."""
        store = self.store(database)
        await store.open(create=False)
        try:
            return await store.answers.count()
        finally:
            await store.close()

    def lines(self) -> Sequence[Line]:
        return [record.line for record in JournalReader(self.root / ".penstock/journal/shop").range(*EVER)]

    def answers(self) -> dict[str, Any]:
        """By event id, what the journal keeps of the answers, but for what was asked."""
        found = {}
        for line in self.lines():
            answers = {step: json.loads(bytes(text)) for step, text in (line.answers or {}).items()}
            for each in (answer for several in answers.values() for answer in several):
                del each["asked"]
            found[line.received().id] = answers
        return found


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """The shop in a directory of its own, whose steps no other test's stand in the way of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "world_steps", raising=False)
    return Shop(tmp_path)
