"""The verdict on a crash round over a changing database: outputs, copy, totals, slot and files against what was committed.

Collaborators: `cdc_oracle` (what had to come out), `cdc_scenario` (how to read what came out).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from penstock.engine.ledgers import STATE
from penstock.testing.cdc_oracle import CLASSES, FAILING, FILTERED, REFUSED, Arrival, Begin, Record, judge
from penstock.testing.cdc_scenario import EVENTS, HISTORY, SLOT, CdcOutput, CdcScenario, CdcSettings, World, table_checksum
from penstock.testing.journal_check import journal_findings
from penstock.testing.rounds import MINIMUM_ROWS, Problem, RoundResult
from penstock.testing.scenario import JOURNAL, PIPELINE, Remains, Unreadable, read_remains

_ID = re.compile(r"([0-9A-F]+)/([0-9A-F]+)-([0-9]+)(-old)?")
_FILES = re.compile(rf"{PIPELINE}\.yaml|{re.escape(EVENTS)}|\.penstock/{PIPELINE}\.(db|lock)|\.penstock/{JOURNAL}/.*")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Judges what a round left; what it finds goes to `result`."""

    scenario: CdcScenario
    settings: CdcSettings
    world: World
    project: Path
    record: Record
    begin: Begin
    result: RoundResult

    def check(self) -> None:
        """Outputs, copy and totals against what was committed."""
        self._check_files()
        if contradictions := self.record.contradictions():
            self._problem("record", f"the writers contradict themselves: {contradictions[:3]}")
        for output in self.scenario.outputs:
            self._check_output(output)
        if self.scenario.mirrored:
            self._check_copy()
        self._check_state()
        self._check_slot()

    def _check_files(self) -> None:
        """Before anything is read: whoever opens the state store adds files of SQLite's."""
        files = {str(path.relative_to(self.project)) for path in self.project.rglob("*") if path.is_file()}
        if odd := sorted(file for file in files if not _FILES.fullmatch(file)):
            self._problem("leftovers", f"files {odd}")

    def _check_output(self, output: CdcOutput) -> None:
        without = [FILTERED, FAILING, *([REFUSED] if output.refuses else [])]
        try:
            arrivals = output.arrivals(self.world, self.project)
        except Unreadable as error:
            self._problem("unreadable", str(error))
            return
        findings = judge(self.record.changes(without), arrivals, self.begin, whole_deletes=self.settings.full)
        if not findings.clean:
            self._problem("rows", f"{output.name}: {findings}")
        if len(arrivals) < MINIMUM_ROWS:
            self._problem("idle", f"{output.name}: only {len(arrivals)} events")
        self._check_ids(output, arrivals)
        self.result.rows += len(arrivals)

    def _check_ids(self, output: CdcOutput, arrivals: Sequence[Arrival]) -> None:
        events = [each.event for each in arrivals if not each.snapshot]
        places = [_place(event) for event in events]
        wrong = [events[n + 1] for n in range(len(places) - 1) if places[n] >= places[n + 1]]
        if wrong:
            self._problem("ids", f"{output.name}: ids do not rise at {wrong[:3]}")

    def _check_copy(self) -> None:
        """The copy lacks what its steps did not let through; another sink's refusals do not concern it."""
        theirs, ours = table_checksum(self.world.source, [FILTERED, FAILING]), table_checksum(self.world.target)
        if theirs != ours:
            self._problem("copy", f"{ours[0]} rows instead of {theirs[0]}, or others")

    def _check_state(self) -> None:
        """Every event that was received has one outcome, and each dead letter is one of them.

        With snapshots, how many there are follows from what arrived; yet not with several ledgers: where one of them has taken a
        chunk and a crash kept it from another, this other one gets the chunk's rows as they are then.
        """
        remains = read_remains(self.project)
        counts = remains.totals
        letters = [letter["event_id"] for letter in remains.letters if (letter["status"], letter["repeats"]) == ("open", 0)]
        if len(letters) != len(remains.letters) or len(set(letters)) != len(letters) or remains.provisional:
            open_ones = f"{len(set(letters))} of them open, {remains.provisional} provisional"
            self._problem("dead_letters", f"{len(remains.letters)}, {open_ones}")
        filtered, dead = counts["filtered"], counts["dead_lettered"]
        if not self.settings.snapshot:
            expected = self._expected_totals()
        elif len(self.scenario.outputs) == 1 and not self.scenario.mirrored:
            arrived = len(self.scenario.outputs[0].arrivals(self.world, self.project))
            expected = _totals(arrived + filtered + len(letters), arrived, filtered, len(letters))
        else:
            expected = _totals(counts["delivered"] + filtered + dead, counts["delivered"], filtered, dead)
        if (found := {name: counts.get(name) for name in expected}) != expected:
            self._problem("totals", f"{found} instead of {expected}")
        self._check_journal(remains)

    def _check_journal(self, remains: Remains) -> None:
        """A line for each event that was counted. A row of a chunk that the last ledger had not taken when a run died, and
        that is not in the chunk any more when this is read again, was not counted; its dead letter stands for those that had."""
        last = "history" if self.scenario.outputs == [HISTORY] else STATE
        gone = {
            each["id"]: each["event_id"]
            for each in remains.letters
            if not _ID.fullmatch(each["event_id"]) and last not in json.loads(each["owed"])
        }
        ids = [each["id"] for each in remains.letters]
        for finding in journal_findings(self.project / ".penstock" / JOURNAL, remains.totals, ids, gone):
            self._problem("journal", finding)

    def _expected_totals(self) -> dict[str, int]:
        changes = Counter(change.id % CLASSES for _, change in self.record.changes())
        filtered, dead = changes[FILTERED], sum(changes[one] for one in self.scenario.dead)
        return _totals(changes.total(), changes.total() - filtered - dead, filtered, dead)

    def _check_slot(self) -> None:
        """One, which nobody holds, and all of whose changes are confirmed."""
        slots = self.world.source.execute(
            "SELECT slot_name, active, confirmed_flush_lsn >= %s::pg_lsn FROM pg_replication_slots WHERE database = %s",
            (self._last_commit(), self.world.source.name),
        )
        if slots != [(SLOT, False, True)]:
            self._problem("slot", f"{slots}")

    def _last_commit(self) -> str:
        """The LSN of the last event's transaction, as its id tells it."""
        arrivals = self.scenario.outputs[0].arrivals(self.world, self.project)
        events = [each.event for each in arrivals if not each.snapshot]
        return events[-1].partition("-")[0] if events else "0/0"

    def _problem(self, kind: str, detail: str) -> None:
        self.result.problems.append(Problem(kind, detail))


def _totals(received: int, delivered: int, filtered: int, dead: int) -> dict[str, int]:
    return {
        "received": received,
        "delivered": delivered,
        "filtered": filtered,
        "deduplicated": 0,
        "dead_lettered": dead,
    }


def _place(event: str) -> tuple[int, ...]:
    """Commit LSN and number in the transaction; of a row that moved, the deletion comes before the insertion."""
    match = _ID.fullmatch(event)
    return (int(match[1], 16), int(match[2], 16), int(match[3]), 0 if match[4] else 1) if match else ()
