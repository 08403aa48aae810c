"""What must be true of a world that a step with effects asked, whatever was killed (rule 14): each sink has the answers that the
world gave last, and what was kept or committed was not asked about again. Reads tables and files, nothing of the code under
test."""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from penstock.testing.effects_world import World, ends_of
from penstock.testing.oracle import Kind, Oracle
from penstock.testing.replay_scenario import TABLE
from penstock.testing.rounds import MINIMUM_ROWS, Problem
from penstock.testing.scenario import Output
from penstock.testing.telling import Telling

CLEAN: tuple[Kind, ...] = ("plain", "split", "none")
"""Lines that are never a dead letter: a replay asks about the others again, under the same key."""
_POSITIONS = 'SELECT "partition", "order" FROM penstock_positions'
_STANDS = struct.Struct(">IQ")
Stand = Mapping[str, int]
"""By partition, the offset up to which everything is committed."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a process left.

    :ivar asked: how many questions the world had been asked.
    :ivar kept: keys to which the state store kept an answer.
    :ivar committed: in all ledgers.
    """

    asked: int
    kept: frozenset[str]
    committed: Stand


def standing_of(told: Telling, outputs: Sequence[Output]) -> Standing:
    """Of the process that has just ended."""
    noted = _stand(told.asks('SELECT "partition", "order" FROM note_positions'))
    stands = [_later(noted, _stand(_of_table(told)))]
    if len(outputs) > 1:
        stands.append(_later(noted, _stand(told.asks(_POSITIONS))))
    committed = {partition: min(stand.get(partition, 0) for stand in stands) for partition in stands[0]}
    kept = frozenset(key for (key,) in told.asks("SELECT key FROM answers"))
    return Standing(len(World(told.project).questions()), kept, committed)


def _of_table(told: Telling) -> list[tuple[str, bytes]]:
    try:
        with closing(sqlite3.connect(f"{(told.project / 'out' / f'{TABLE}.db').as_uri()}?mode=ro", uri=True)) as database:
            return database.execute(_POSITIONS).fetchall()
    except sqlite3.OperationalError:  # the first run has not made its ledger
        return []


def _stand(rows: Sequence[tuple[str, bytes]]) -> Stand:
    return {partition: _STANDS.unpack(order)[1] for partition, order in rows}


def _later(one: Stand, other: Stand) -> Stand:
    return {partition: max(one.get(partition, 0), other.get(partition, 0)) for partition in {**one, **other}}


def judge_world(
    outputs: Sequence[Output], told: Telling, standings: Sequence[Standing], oracle: Oracle, when: str, *, keyed: bool
) -> None:
    """What is found goes to the telling's result."""
    verdict = _Verdict(told, standings, oracle, when, keyed)
    verdict.questions()
    verdict.asked_again()
    verdict.answers("table", World(told.project).answers_in_table(TABLE))
    verdict.answers("journal", World(told.project).answers_in_journal())
    if len(outputs) > 1:
        verdict.answers("file", World(told.project).answers_in_file())


class _Verdict:
    def __init__(self, told: Telling, standings: Sequence[Standing], oracle: Oracle, when: str, keyed: bool) -> None:
        self.told, self.standings, self.when, self.keyed = told, standings, when, keyed
        self.asked = World(told.project).questions()
        lines = [line for line in oracle.lines if line.repeats is None and line.kind in CLEAN]
        places = [(line.file, line.number, f"{line.key}/{line.sequence}") for line in lines]
        self.ends = ends_of(told.directory / "input", places)

    def questions(self) -> None:
        """Each under its own key, or none of them under any; and many."""
        wrong = [each for each in self.asked if each.key != (each.place if self.keyed else None)]
        if wrong:
            self.problem("keys", f"{len(wrong)} questions under another key, such as {wrong[0]}")
        if sum(bool(each.answer) for each in self.asked) < MINIMUM_ROWS:
            self.problem("idle", f"the world was asked only {len(self.asked)} questions")

    def asked_again(self) -> None:
        """Nothing that was committed; with a key, nothing either to which the answer was kept."""
        for standing in self.standings:
            again = {each.place for each in self.asked[standing.asked :]} & self.ends.keys()
            kept = again & standing.kept
            done = [place for place in again if standing.committed.get(self.ends[place][0], 0) >= self.ends[place][1]]
            for what, found in (("whose answer was kept", kept), ("that was committed", done)):
                if found:
                    self.problem("asked_again", f"{len(found)} {what}, such as {sorted(found)[:3]}")
        most = 1 + len(self.standings)
        times = Counter(each.place for each in self.asked if each.answer and each.place in self.ends)
        if often := [place for place, count in times.items() if count > most]:
            self.problem("asked_again", f"{often[:3]} more often than processes ended")

    def answers(self, name: str, rows: Sequence[tuple[str, str]]) -> None:
        """One that the world gave to this line; with a key, the last: after that one it was not asked."""
        given: defaultdict[str, list[str]] = defaultdict(list)
        for each in self.asked:
            if each.answer:
                given[each.place].append(each.answer)
        wrong = [
            place
            for place, answer in rows
            if answer not in (given[place][-1:] if self.keyed and place in self.ends else given[place])
        ]
        if wrong:
            self.problem("answers", f"{name}: {len(wrong)} rows with another answer, such as {wrong[:3]}")

    def problem(self, kind: str, detail: str) -> None:
        self.told.result.problems.append(Problem(kind, f"{self.when}{detail}"))
