"""The journal against a plain list: whatever is appended, committed, rolled back, crashed, damaged and expired, in any order."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from journal_parts import BEGAN, found, lines_of, on_disk, seen, writer

from penstock.journal.frames import Place
from penstock.journal.index import ids_path, index_path, segment_numbers
from penstock.journal.reader import JournalReader
from penstock.journal.segments import Segments


@dataclass
class Written:
    """One append: its events, and the place behind it."""

    numbers: list[int]
    place: Place
    at: float


class JournalMachine(RuleBasedStateMachine):
    """`committed` and `pending` are what the journal should hold, in order; `place` is what its ledger does."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="penstock-journal-"))
        self.journal: Segments
        self.committed: list[Written] = []
        self.pending: list[Written] = []
        self.place: Place | None = None
        self.next = 0
        self.gone = 0

    @initialize(roll=st.sampled_from([1, 300, 1000]))
    def begin(self, roll: int) -> None:
        self.roll = roll
        self.journal = writer(self.directory, roll=roll)
        self.place = self.journal.place

    @rule(count=st.integers(1, 4))
    def append(self, count: int) -> None:
        numbers, at = list(range(self.next, self.next + count)), BEGAN + self.next
        self.next += count
        place = self.journal.append(lines_of(*numbers, at=at))
        assert self.place is not None
        assert place > (self.pending[-1].place if self.pending else self.place)
        self.pending.append(Written(numbers, place, at))

    @rule()
    def commit(self) -> None:
        self._ledger_commits()
        self.journal.commit()

    def _ledger_commits(self) -> None:
        if self.pending:
            self.place = self.pending[-1].place
        self.committed += self.pending
        self.pending = []

    @rule()
    def roll_back(self) -> None:
        self.journal.rollback()
        self.pending = []
        assert self.place is not None
        assert self.journal.place in (self.place, Place(self.place.journal, self.place.segment + 1, 0))

    @rule(stands=st.booleans(), torn=st.integers(0, 30))
    def crash(self, stands: bool, torn: int) -> None:
        """Before or after the ledger's commit; the index does not have it. What lies behind the ledger's place may be torn."""
        if stands:
            self._ledger_commits()
        self.journal.close()
        assert self.place is not None
        for number in segment_numbers(self.directory)[-1:]:
            path = self.directory / f"{number:010}.jsonl.zst"
            end = self.place.end if self.place.segment == number else 0
            with path.open("r+b") as file:
                file.truncate(max(end, path.stat().st_size - torn))
        self.pending = []
        self._start()

    @rule()
    def leave_and_come_back(self) -> None:
        self.journal.rollback()
        self.pending = []
        self.journal.close()
        self._start()

    @precondition(lambda self: segment_numbers(self.directory))
    @rule(data=st.data())
    def lose_sidecars(self, data: st.DataObject) -> None:
        self.journal.rollback()
        self.pending = []
        self.journal.close()
        for path_of in data.draw(st.sets(st.sampled_from([index_path, ids_path]), min_size=1)):
            path_of(self.directory, data.draw(st.sampled_from(segment_numbers(self.directory)))).unlink(missing_ok=True)
        self._start()

    def _start(self) -> None:
        self.journal = writer(self.directory, self.place, roll=self.roll)
        assert self.journal.place == self.place

    @rule(age=st.integers(0, 60), spare=st.booleans())
    def expire(self, age: int, spare: bool) -> None:
        numbers = segment_numbers(self.directory)
        spared = numbers[len(numbers) // 2] if spare and numbers else None
        gone = self.journal.expire(BEGAN + self.next - age, 1 << 30, spared)
        assert gone == numbers[: len(gone)]
        assert spared is None or spared not in gone
        expired = [each for each in self.committed if each.place.segment in gone]
        assert all(each.at < BEGAN + self.next - age for each in expired)
        self.committed = self.committed[len(expired) :]

    @invariant()
    def readers_see_what_is_committed(self) -> None:
        if self.place is None:
            return
        expected = [number for each in self.committed for number in each.numbers]
        assert seen(self.directory) == expected
        if expected:
            assert [found(self.directory, number) for number in (expected[0], expected[-1], self.next)] == [1, 1, 0]
        assert JournalReader(self.directory).extent().lines == len(expected)

    @invariant()
    def other_tools_see_what_is_pending_too(self) -> None:
        if self.place is not None:
            expected = [number for each in [*self.committed, *self.pending] for number in each.numbers]
            assert on_disk(self.directory) == expected

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.directory)


JournalMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestJournalModel = JournalMachine.TestCase
