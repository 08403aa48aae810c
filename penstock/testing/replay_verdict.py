"""What must be there after replays beside live work: every row once, every letter resolved once or open, the first outcomes, and
no job, record or provisional letter left. Reads tables and files, nothing of the code under test."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from penstock.testing.journal_check import journal_lines
from penstock.testing.oracle import Findings, Line, Oracle, Row
from penstock.testing.replay_scenario import TABLE
from penstock.testing.rounds import MINIMUM_ROWS, Problem
from penstock.testing.scenario import JOURNAL, SOURCE, Output, Unreadable
from penstock.testing.telling import Telling

MENDED = ("refused", "refused_part")
FAILING = ("error", "garbage", "oversized")
RECORDS = "SELECT job, event FROM penstock_job_records"
S = TypeVar("S")


def judge_replays(outputs: Sequence[Output], told: Telling, oracle: Oracle, when: str) -> None:
    """What is found goes to the telling's result."""
    verdict = ReplayVerdict(outputs, told, oracle, when)
    for output in outputs:
        verdict.rows(output)
    letters = verdict.letters()
    totals = verdict.totals(verdict.dead_lettered(letters))
    verdict.no_records(told.state.query(RECORDS))
    with closing(sqlite3.connect(f"{(told.project / 'out' / f'{TABLE}.db').as_uri()}?mode=ro", uri=True)) as database:
        verdict.no_records(database.execute(RECORDS).fetchall())
    verdict.journal(totals, {letter["id"]: letter["status"] for letter in letters})


@dataclass(slots=True)
class ReplayVerdict(Generic[S]):
    """What is wrong goes to the telling's result.

    :ivar sinks: of the pipeline.
    """

    sinks: Sequence[S]
    told: Telling
    oracle: Oracle
    when: str

    def rows(self, output: Output) -> None:
        """Each exactly once; those that nothing ever refused in order."""
        kinds = {(line.key, line.sequence): line.kind for line in self.oracle.lines}
        try:
            rows = output.rows(self.told.project)
        except Unreadable as error:
            self.problem("unreadable", str(error))
            return
        found = replace(self.oracle.judge(rows, refuses=False), misordered=0)
        if not found.clean:
            self.problem("rows", f"{output.name}: {found}")
        calm = [row for row in rows if kinds.get((row.key, row.sequence)) not in MENDED]
        if misordered := self._order(calm):
            self.problem("order", f"{output.name}: {misordered}")
        if len(rows) < MINIMUM_ROWS:
            self.problem("idle", f"{output.name}: only {len(rows)} rows")
        self.told.result.rows += len(rows)

    def _order(self, rows: Sequence[Row]) -> Findings | None:
        found = self.oracle.judge(rows, refuses=False)
        return found if found.misordered else None

    def letters(self) -> list[dict[str, Any]]:
        """Of each line that fails for good, one that is open; of each that was refused once, one that is resolved."""
        columns = "id, source, original_digest, status, job, pending"
        rows = self.told.state.query(f"SELECT {columns} FROM letters")  # noqa: S608 - constants
        letters = [dict(zip(columns.split(", "), row, strict=True)) for row in rows]
        if twice := [identity for identity, count in Counter(letter["id"] for letter in letters).items() if count > 1]:
            self.problem("dead_letters", f"{twice[:3]} are there twice")
        if left := [
            letter["id"]
            for letter in letters
            if letter["pending"] is not None or (letter["job"] is not None and letter["status"] == "replaying")
        ]:
            self.problem("dead_letters", f"{left[:3]} are provisional, or held by a job")
        lines = {(line.file, line.digest): line for line in reversed(self.oracle.lines) if line.repeats is None}
        found = {(str(letter["source"]).removeprefix(SOURCE), str(letter["original_digest"])): letter for letter in letters}
        failing = {place for place, line in lines.items() if line.kind in FAILING}
        for place, letter in found.items():
            self._letter(lines.get(place), letter)
        if missing := failing - found.keys():
            self.problem("dead_letters", f"{len(missing)} missing, such as {sorted(missing)[:2]}")
        if not any(letter["status"] == "resolved" for letter in letters):
            self.problem("idle", "no letter was replayed")
        return letters

    def _letter(self, line: Line | None, letter: dict[str, Any]) -> None:
        expected = None if line is None else "open" if line.kind in FAILING else "resolved" if line.kind in MENDED else None
        if letter["status"] != expected:
            self.problem("dead_letters", f"{letter['id']}, {line.kind if line else 'of no line'}, is {letter['status']}")

    def dead_lettered(self, letters: Sequence[dict[str, Any]]) -> int:
        """Of how many letters that was the first outcome: of all, but, with several sinks, those that a command replayed after a
        crash between two ledgers, before a run read their events again (the window of rule 4)."""
        if len(self.sinks) == 1:
            return len(letters)
        lines = journal_lines(self.told.project / ".penstock" / JOURNAL)
        first = {line.get("letter") for line in lines if "job" not in line and line["outcome"] == "dead_lettered"}
        return sum(letter["status"] != "resolved" or letter["id"] in first for letter in letters)

    def totals(self, letters: int) -> dict[str, int]:
        """The first outcome stays: what became of a letter's event later is counted with its job alone."""
        ((text,),) = self.told.state.query("SELECT counts FROM note")
        totals: dict[str, int] = json.loads(text)
        calm = self.oracle.totals(refuses=False)
        never = calm.delivered + calm.dead_lettered
        expected = {
            "received": calm.received,
            "filtered": calm.filtered,
            "deduplicated": calm.deduplicated,
            "dead_lettered": letters,
            "delivered": never - letters,
        }
        if (found := {name: totals[name] for name in expected}) != expected:
            self.problem("totals", f"{found} instead of {expected}")
        return totals

    def no_records(self, left: Sequence[tuple[Any, ...]]) -> None:
        """Nothing of a job outlives it in a ledger."""
        if left:
            self.problem("records", f"{len(left)} records of jobs are left, such as {left[0]}")

    def journal(self, totals: dict[str, int], letters: dict[str, str]) -> None:
        """One line an event, with its first outcome; what jobs say of it later is the end that its letter has."""
        first: dict[tuple[str, str], str] = {}
        latest: dict[str, str] = {}
        places: dict[tuple[str, str], str] = {}
        for line in journal_lines(self.told.project / ".penstock" / JOURNAL):
            place = (line["partition"], line.get("position", ""))
            if "corrects" not in line:
                if place in first:
                    self.problem("journal", f"{place} has two lines")
                first[place] = line["outcome"]
            elif "job" not in line:
                first[place] = line["outcome"]
            elif place in places:
                latest[places[place]] = line["outcome"]
            if line.get("letter"):
                places[place] = line["letter"]
        outcomes = Counter(first.values())
        if differing := {
            name: (outcomes[name], totals[name])
            for name in ("delivered", "filtered", "deduplicated", "dead_lettered")
            if outcomes[name] != totals[name]
        }:
            self.problem("journal", f"outcomes in the journal and in the totals: {differing}")
        told = {"resolved": "delivered", "open": "dead_lettered"}
        ends = {identity: told.get(status) for identity, status in letters.items()}
        if len(self.sinks) > 1:  # the window of rule 10: what a claim resolved may have no line that says so
            ends = {identity: end for identity, end in ends.items() if end != "delivered" or latest.get(identity) == end}
        wrong = [identity for identity, end in ends.items() if latest.get(identity, "dead_lettered") != end]
        if wrong:
            self.problem("journal", f"{wrong[:3]} ended otherwise than their last line says")

    def problem(self, kind: str, detail: str) -> None:
        self.told.result.problems.append(Problem(kind, f"{self.when}{detail}"))
