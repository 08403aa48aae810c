"""What must be there after late deliveries into tables with `order_by`: each row as the newest event of its key says, a tombstone
where that deletes it, and nothing older put over anything newer at any time. Reads tables, nothing of the code under test."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from penstock.testing.oracle import Line, Oracle, checksum
from penstock.testing.order_tables import OrderTable, Rows, deletes
from penstock.testing.replay_verdict import ReplayVerdict
from penstock.testing.telling import Telling

DELIVERED = ("plain", "refused")
MINIMUM_CHANGES = 50
"""A table to which less was done proves nothing; of several events of a key in a batch one may do."""


def judge_order(tables: Sequence[OrderTable], told: Telling, oracle: Oracle, when: str) -> None:
    """What is found goes to the telling's result."""
    verdict = OrderVerdict(tables, told, oracle, when)
    for table in tables:
        verdict.table(table)
    letters = verdict.letters()
    totals = verdict.late_totals(len(letters))
    for table in tables:
        verdict.no_records(table.execute(told, table.records))
    verdict.no_records(told.state.query("SELECT job, event FROM penstock_job_records"))
    verdict.journal(totals, {letter["id"]: letter["status"] for letter in letters})
    verdict.jobs()


@dataclass(slots=True)
class OrderVerdict(ReplayVerdict[OrderTable]):
    """Of letters, totals and journal what replays are judged by; of tables, this."""

    def table(self, table: OrderTable) -> None:
        """Rows, tombstones, and how they came to be."""
        newest = newest_of(self.oracle)
        history = table.history(self.told)
        self._rows(table, newest)
        kept = {(key, int(order)) for key, order in table.execute(self.told, table.tombstones)}
        due = {(key, line.sequence) for key, line in newest.items() if deletes(line.sequence)}
        if kept != due:
            self.problem("tombstones", f"{table.name}: {sorted(due - kept)[:3]} missing, {sorted(kept - due)[:3]} too many")
        if passed := overwritten(history, self.oracle):
            self.problem("order", f"{table.name}: {len(passed)} older rows came over newer ones, such as {passed[:3]}")
        if len(history) < MINIMUM_CHANGES:
            self.problem("idle", f"{table.name}: only {len(history)} changes")
        self.told.result.rows += len(history)

    def _rows(self, table: OrderTable, newest: Mapping[str, Line]) -> None:
        wanted = {key: line for key, line in newest.items() if not deletes(line.sequence)}
        rows = table.rows(self.told)
        wrong = [
            f"{key} is {sequence} instead of {wanted[key].sequence if key in wanted else 'deleted'}"
            for key, sequence, text, total in rows
            if key not in wanted
            or sequence != wanted[key].sequence
            or not total == wanted[key].checksum == checksum(key, sequence, text)
        ]
        if wrong or len(rows) != len(wanted):
            missing = sorted(wanted.keys() - {row[0] for row in rows})
            self.problem("rows", f"{table.name}: {len(wrong)} wrong: {wrong[:4]}, {len(missing)} missing: {missing[:4]}")

    def late_totals(self, letters: int) -> dict[str, int]:
        """The first outcome stays. A row that gives way to a newer one in its batch is delivered, and not looked at by the table
        of PostgreSQL, which may refuse it when it is delivered once more: its letter is none of the first outcomes."""
        totals: dict[str, int] = json.loads(self.told.state.query("SELECT counts FROM note")[0][0])
        calm = self.oracle.totals(refuses=False)
        expected = {name: getattr(calm, name) for name in ("received", "filtered", "deduplicated")}
        if (found := {name: totals[name] for name in expected}) != expected:
            self.problem("totals", f"{found} instead of {expected}")
        failing = len(self.oracle.dead_letters(refuses=False))
        if not failing <= totals["dead_lettered"] <= letters:
            self.problem("totals", f"{totals['dead_lettered']} dead-lettered, of which {failing} for good, and {letters} letters")
        if (both := totals["delivered"] + totals["dead_lettered"]) != calm.delivered + calm.dead_lettered:
            self.problem("totals", f"{both} delivered or dead-lettered instead of {calm.delivered + calm.dead_lettered}")
        return totals

    def jobs(self) -> None:
        """None failed, and older events were delivered again."""
        jobs = self.told.state.query("SELECT id, kind, state, counts FROM jobs")
        if failed := [row[:3] for row in jobs if row[2] != "done"]:
            self.problem("jobs", f"{failed[:3]} have not ended well")
        if not any(json.loads(counts).get("delivered") for _, kind, _, counts in jobs if kind == "backfill"):
            self.problem("idle", "no backfill delivered anything")


def newest_of(oracle: Oracle) -> dict[str, Line]:
    """By key: the newest line that can be delivered."""
    newest: dict[str, Line] = {}
    for line in oracle.lines:
        if line.kind in DELIVERED and (line.key not in newest or line.sequence > newest[line.key].sequence):
            newest[line.key] = line
    return newest


def overwritten(history: Rows, oracle: Oracle) -> list[tuple[str, int]]:
    """Rows that came over a newer one of their key, or behind its deletion. Which line deleted a row is not remembered, but none
    that is older than the row."""
    deletions: defaultdict[str, set[int]] = defaultdict(set)
    for line in oracle.lines:
        if line.kind in DELIVERED and deletes(line.sequence):
            deletions[line.key].add(line.sequence)
    floor: dict[str, int] = {}
    found = []
    for done, key, sequence in history:
        if sequence < floor.get(key, 0):
            found.append((key, sequence))
        later = [each for each in deletions[key] if each > sequence] if done == "delete" else []
        floor[key] = max(floor.get(key, 0), min(later) if later else sequence)
    return found
