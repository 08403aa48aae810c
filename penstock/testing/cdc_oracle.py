"""The oracle of crash rounds over a changing database: what was committed, in the order of the commits, and what is wrong with
what came out.

It is independent of the code under test: nothing of Penstock is imported, and every checksum is computed again from the data that
arrived. Collaborator: `cdc_writer`, which makes the changes and keeps the record.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from penstock.testing.oracle import Findings

Op = Literal["insert", "update", "delete", "snapshot"]

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

    def changes(self, without: Sequence[int] = ()) -> list[tuple[int, Change]]:
        """Every committed change in order, with the ticket of its transaction; without those of some classes."""
        left_out = frozenset(without)
        return [
            (transaction.ticket, change)
            for transaction in self.in_order()
            for change in transaction.changes
            if change.id % CLASSES not in left_out
        ]

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


@dataclass(frozen=True, slots=True)
class Arrival:
    """One event as an output has it.

    :ivar event: its id. Of a row of a snapshot it begins with the snapshot's id, which ends with the last but one hyphen.
    """

    event: str
    change: Change
    body: str | None

    @property
    def snapshot(self) -> str:
        """Which snapshot it is of; empty for a change."""
        return self.event.rpartition("-")[0] if self.change.op == "snapshot" else ""


@dataclass(frozen=True, slots=True)
class Begin:
    """Where the stream begins, as far as it is known from outside: behind ticket `least`, and not behind one after `most`."""

    least: int = 0
    most: int = 0


def judge(changes: Sequence[tuple[int, Change]], arrivals: Sequence[Arrival], begin: Begin, *, whole_deletes: bool) -> Findings:
    """Count what is wrong with what came out.

    What was changed from where the stream began must have arrived once, in order. A row of a snapshot must be as it stood after
    the last of its changes that had arrived before it; each snapshot has a row once; and each row that was there when the stream
    began has arrived with the first snapshot, or by a change.

    :param changes: see `Record.changes`.
    :param whole_deletes: whether deletions carry the old row.
    """
    streamed = [arrival for arrival in arrivals if arrival.change.op != "snapshot"]
    start = _start(changes, len(streamed), begin)
    told = [change if whole_deletes or change.op != "delete" else change.key_alone for _, change in changes[start:]]
    of_stream = _judge_stream(told, streamed)
    examples = [*_corrupt(arrivals)]
    corrupt = len(examples)
    wrong: list[str] = []
    if of_stream.clean:
        wrong = _judge_snapshots([change for _, change in changes], start, arrivals)
    return Findings(
        of_stream.missing, of_stream.duplicate, of_stream.misordered + len(wrong), corrupt, of_stream.phantom,
        (*of_stream.examples, *examples, *wrong),
    )  # fmt: skip


def _start(changes: Sequence[tuple[int, Change]], streamed: int, begin: Begin) -> int:
    """Which change is the first of the stream: so many arrived, if that begins a transaction and may be so, else the first that
    may be."""
    first = next((place for place, (ticket, _) in enumerate(changes) if ticket > begin.least), len(changes))
    start = len(changes) - streamed
    within = 0 < start < len(changes) and changes[start - 1][0] == changes[start][0]
    if start < first or within or (start > 0 and changes[start - 1][0] > max(begin.most, begin.least)):
        return first
    return start


def _corrupt(arrivals: Sequence[Arrival]) -> Iterator[str]:
    for arrival in arrivals:
        change = arrival.change
        if change.entity is not None and change.checksum != checksum(change.entity, change.sequence or 0, arrival.body or ""):
            yield f"corrupt {change}"


def _judge_stream(expected: Sequence[Change], streamed: Sequence[Arrival]) -> Findings:
    arrived = [arrival.change for arrival in streamed]
    wanted, had = Counter(expected), Counter(arrived)
    missing, extra = wanted - had, had - wanted
    duplicate = sum(count for change, count in extra.items() if change in wanted)
    examples = [f"missing {change}" for change in list(missing)[:EXAMPLES]]
    examples += [f"{'duplicate' if change in wanted else 'phantom'} {change}" for change in list(extra)[:EXAMPLES]]
    misordered = 0
    if not missing and not extra:
        wrong = [place for place, pair in enumerate(zip(expected, arrived, strict=True)) if pair[0] != pair[1]]
        misordered = len(wrong)
        examples += [f"misordered {arrived[place]} in the place of {expected[place]}" for place in wrong[:EXAMPLES]]
    return Findings(missing.total(), duplicate, misordered, 0, extra.total() - duplicate, tuple(examples))


def _judge_snapshots(changes: Sequence[Change], start: int, arrivals: Sequence[Arrival]) -> list[str]:
    """What is wrong with rows of snapshots, where the stream is right."""
    rows: dict[int, Change] = {}
    for change in changes[:start]:
        _apply(rows, change)
    owed, place = set(rows), start
    given: set[tuple[str, int]] = set()
    wrong = []
    for arrival in arrivals:
        found = arrival.change
        owed.discard(found.id)
        if found.op != "snapshot":
            _apply(rows, changes[place])
            place += 1
            continue
        row = rows.get(found.id)
        if (arrival.snapshot, found.id) in given:
            wrong.append(f"twice in one snapshot: {arrival.event} {found}")
        elif row is None or (row.entity, row.sequence, row.checksum) != (found.entity, found.sequence, found.checksum):
            wrong.append(f"not as it stood: {arrival.event} {found}, where it was {row}")
        given.add((arrival.snapshot, found.id))
    return wrong + [f"never given, though it was there when the stream began: id {id}" for id in sorted(owed)]


def _apply(rows: dict[int, Change], change: Change) -> None:
    if change.op == "delete":
        rows.pop(change.id, None)
    else:
        rows[change.id] = change
