"""The oracle of crash rounds over a changing database: what was committed, in the order of the commits, and what is wrong with
what came out.

It is independent of the code under test: nothing of Penstock is imported, and every checksum is computed again from the data that
arrived. Collaborator: `cdc_writer`, which makes the changes and keeps the record.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from penstock.testing.oracle import Findings

Op = Literal["insert", "update", "delete"]

FILTERED, FAILING, REFUSED = 0, 1, 2
"""What becomes of rows by `id % CLASSES`: a step filters them; a step fails; the table of all changes refuses them."""

CLASSES = 20

EXAMPLES = 4


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change of one row, or one event as it was read back.

    :ivar id: the row's key; of a deleted row the old one.
    :ivar entity: who the row is, whatever its key: None where the event does not say, as of a deleted row without its old values.
    :ivar sequence: number of the change among those of the entity.
    :ivar checksum: of (entity, sequence, body).
    """

    op: Op
    id: int
    entity: str | None = None
    sequence: int | None = None
    checksum: str | None = None

    @property
    def key_alone(self) -> Change:
        """As a table without the old rows in its WAL tells it."""
        return Change(self.op, self.id)


@dataclass(frozen=True, slots=True)
class Transaction:
    """One committed transaction.

    :ivar ticket: drawn behind a row lock that is held until the commit, so that tickets rise in the order of the commits.
    :ivar began: monotonic seconds before BEGIN was sent; `ended` after the answer to COMMIT, or after it was found committed.
    """

    name: str
    ticket: int
    began: float
    ended: float
    changes: Sequence[Change]


def checksum(entity: str, sequence: int, body: str) -> str:
    """Of a row's content; computed when it is written, and again of what arrived."""
    return blake2b(json.dumps([entity, sequence, body]).encode(), digest_size=8).hexdigest()


@dataclass(slots=True)
class Record:
    """What was committed. `add` may be called from any thread."""

    transactions: list[Transaction] = field(default_factory=list)
    resolved: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, transaction: Transaction, *, resolved: bool = False) -> None:
        """:param resolved: the answer to its COMMIT was lost, and it was found committed."""
        with self._lock:
            self.transactions.append(transaction)
            self.resolved += resolved

    def write(self, path: Path) -> None:
        """As JSON lines, for a person."""
        path.write_text("".join(json.dumps(asdict(each)) + "\n" for each in self.in_order()))

    def in_order(self) -> list[Transaction]:
        """By commit."""
        return sorted(self.transactions, key=lambda transaction: transaction.ticket)

    def changes(self, *, whole_deletes: bool, without: Sequence[int] = ()) -> list[Change]:
        """Every committed change in order.

        :param whole_deletes: whether deletions carry the old row.
        :param without: classes (`id % CLASSES`) that do not come out.
        """
        return list(self._changes(whole_deletes, frozenset(without)))

    def _changes(self, whole_deletes: bool, without: frozenset[int]) -> Iterator[Change]:
        for transaction in self.in_order():
            for change in transaction.changes:
                if change.id % CLASSES not in without:
                    yield change if whole_deletes or change.op != "delete" else change.key_alone

    def count(self, *classes: int) -> int:
        """Changes of these classes."""
        wanted = frozenset(classes)
        return sum(change.id % CLASSES in wanted for each in self.transactions for change in each.changes)

    def contradictions(self) -> list[str]:
        """Where the record itself cannot be: a transaction that had ended before another began has the larger ticket, or a
        ticket was drawn twice."""
        found = []
        latest_begin, name = 0.0, ""
        tickets = Counter(each.ticket for each in self.transactions)
        found += [f"ticket {ticket} was drawn {count} times" for ticket, count in tickets.items() if count > 1]
        for each in self.in_order():
            if each.ended < latest_begin:
                found.append(f"{each.name} ended before {name} began, and comes after it")
            if each.began > latest_begin:
                latest_begin, name = each.began, each.name
        return found


def judge(expected: Sequence[Change], found: Iterable[tuple[Change, str | None]]) -> Findings:
    """Count what is wrong with what came out.

    :param found: each change in the order of its arrival, with the body that arrived, from which the checksum is computed again.
    """
    arrived: list[Change] = []
    examples: list[str] = []
    corrupt = 0
    for change, body in found:
        arrived.append(change)
        if change.entity is not None and change.checksum != checksum(change.entity, change.sequence or 0, body or ""):
            corrupt += 1
            examples.append(f"corrupt {change}")
    wanted, had = Counter(expected), Counter(arrived)
    missing, extra = wanted - had, had - wanted
    duplicate = sum(count for change, count in extra.items() if change in wanted)
    examples += [f"missing {change}" for change in list(missing)[:EXAMPLES]]
    examples += [f"{'duplicate' if change in wanted else 'phantom'} {change}" for change in list(extra)[:EXAMPLES]]
    misordered = 0
    if not missing and not extra:
        wrong = [place for place, pair in enumerate(zip(expected, arrived, strict=True)) if pair[0] != pair[1]]
        misordered = len(wrong)
        examples += [f"misordered {arrived[place]} in the place of {expected[place]}" for place in wrong[:EXAMPLES]]
    return Findings(missing.total(), duplicate, misordered, corrupt, extra.total() - duplicate, tuple(examples))
