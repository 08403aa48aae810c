"""The world of the crash stories of effects: a step asks it for an answer, and it remembers every question for good.

It lies outside of the project, is killed never, and gives a new answer each time, so that an answer tells to which question it
was given.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from penstock.testing.journal_check import journal_lines
from penstock.testing.scenario import JOURNAL

STEP = "ask"
MODULE = "world_steps"
_STEPS = """\
import json
import os
import secrets
from pathlib import Path

from penstock.errors import Transient

HERE = Path(__file__).parent
told = set()


def ask(data, *, idempotency_key=None):
    place = f"{data['key']}/{data['sequence']}"
    busy = data["sequence"] % 13 == 5 and place not in told
    told.add(place)
    answer = "" if busy else secrets.token_hex(8)
    world = os.open(HERE.with_name(HERE.name + ".world"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(world, json.dumps([place, idempotency_key, answer]).encode() + b"\\n")
    os.fsync(world)
    os.close(world)
    if busy:
        raise Transient("world.busy", "come again")
    return {**data, "answer": answer}
"""


class Question(NamedTuple):
    """One that the world was asked.

    :ivar place: key and sequence of the line, as `k7/12`.
    :ivar answer: empty where it was busy.
    """

    place: str
    key: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class World:
    """Of one project."""

    project: Path

    def make(self) -> None:
        """Write the module of the step."""
        (self.project / f"{MODULE}.py").write_text(_STEPS)

    def questions(self) -> list[Question]:
        """All so far, in order."""
        path = self.project.with_name(f"{self.project.name}.world")
        return [Question(*json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []

    def answers_in_table(self, name: str) -> list[tuple[str, str]]:
        """Place and answer of each row that stands in a table."""
        with closing(sqlite3.connect(f"{(self.project / 'out' / f'{name}.db').as_uri()}?mode=ro", uri=True)) as database:
            return database.execute("SELECT key || '/' || sequence, answer FROM events").fetchall()

    def answers_in_file(self) -> list[tuple[str, str]]:
        """Of each line in the file of events."""
        lines = [json.loads(line) for line in (self.project / "out/events.jsonl").read_bytes().splitlines()]
        return [(f"{line['key']}/{line['sequence']}", line["answer"]) for line in lines]

    def answers_in_journal(self) -> list[tuple[str, str]]:
        """Of each event in its lines that has an answer and no failure, from which past events are computed again."""
        return [
            (f"{made['data']['key']}/{made['data']['sequence']}", made["data"]["answer"])
            for line in journal_lines(self.project / ".penstock" / JOURNAL)
            for answer in line.get("answers", {}).get(STEP, ())
            for made in answer.get("made", ())
        ]


def step(*, keyed: bool) -> dict[str, object]:
    """As it stands in a pipeline file."""
    key = {"idempotency_key": '"\\(.key)/\\(.sequence)"'} if keyed else {}
    return {"name": STEP, "python": f"{MODULE}:ask", "effects": "write", **key}


def ends_of(directory: Path, places: Sequence[tuple[str, int, str]]) -> dict[str, tuple[str, int]]:
    """Where each line ends, as (partition, offset).

    :param places: file, number there, and place of each.
    """
    ends: dict[tuple[str, int], int] = {}
    for path in directory.iterdir():
        offset = 0
        for number, line in enumerate(path.read_bytes().splitlines(keepends=True)):
            offset += len(line)
            ends[path.name, number] = offset
    return {place: (f"in/{file}", ends[file, number]) for file, number, place in places}
