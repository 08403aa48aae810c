"""Who owes a dead letter, seen from the pipeline as it is today.

A letter names the ledgers that owe it as they were when it failed. One that the pipeline no longer has cannot take the event, and
nobody can say whether another took its place: that is left to whoever replays (Invariant 13, rule 10).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.engine.ledgers import STATE, LedgerState
from penstock.errors import UsageError
from penstock.state.records import DeadLetter, inherited

UNKNOWN = "unknown_ledgers."
"""Before the name of a ledger, in the counts of a job."""


@dataclass(frozen=True, slots=True)
class Debts:
    """What letters owe today.

    :ivar ledgers: names of the ledgers that there are.
    :ivar heirs: by the name of one that there is no longer, who took its place.
    """

    ledgers: frozenset[str]
    heirs: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def today(self, letter: DeadLetter) -> DeadLetter:
        """The letter, owed by the heirs of those that have gone."""
        return replace(letter, owed=inherited(letter.owed, self.heirs)) if self.heirs else letter

    def unknown(self, letter: DeadLetter) -> list[str]:
        """Those that owe the letter and that there are no longer."""
        return [name for name in letter.owed if name not in self.ledgers]

    def can_be_delivered(self, letter: DeadLetter) -> bool:
        """Whether somebody who owes it is there, or nobody owes it at all."""
        return not letter.owed or len(self.unknown(letter)) < len(letter.owed)


def deliverable(letters: Sequence[DeadLetter], debts: Debts) -> tuple[list[DeadLetter], Counter[str]]:
    """Those that a ledger of today owes, and what a job counts besides: those that are left as they are (`left`), and debts to
    ledgers that are gone (`UNKNOWN` and their names)."""
    chosen, others = [], Counter[str]()
    for letter in map(debts.today, letters):
        others.update(UNKNOWN + name for name in debts.unknown(letter))
        if debts.can_be_delivered(letter):
            chosen.append(letter)
        else:  # Invariant 13: nothing is resolved because nobody is left to take it
            others["left"] += 1
    return chosen, others


def debts_of(ledgers: Sequence[LedgerState], renamed: Mapping[str, str]) -> Debts:
    """:param renamed: by the name of a sink that the pipeline no longer has, the sink that took its place.

    :raises UsageError: `dlq.unknown_sink`, `dlq.not_renamed`, `dlq.shared_ledger`.
    """
    names = frozenset(ledger.name for ledger in ledgers)
    heirs = {}
    for old, new in renamed.items():
        if old in names:
            raise UsageError(
                "dlq.not_renamed", f"sink {old} is part of the pipeline: what it owes, it gets", help="leave the option out"
            )
        heirs[old] = [_ledger_of(new, ledgers)]
    return Debts(names, heirs)


def _ledger_of(sink: str, ledgers: Sequence[LedgerState]) -> str:
    ledger = next((ledger for ledger in ledgers if sink in ledger.sinks), None)
    if ledger is None:
        known = ", ".join(sorted(name for ledger in ledgers for name in ledger.sinks))
        raise UsageError("dlq.unknown_sink", f"the pipeline has no sink {sink}", help=f"it has {known}")
    if ledger.name == STATE and len(ledger.sinks) > 1:
        others = ", ".join(name for name in ledger.sinks if name != sink)
        raise UsageError(
            "dlq.shared_ledger",
            f"what is delivered to sink {sink} again would be delivered to {others} again as well",
            why="they share the ledger of the state store",
            help="export these dead letters (pipe dlq export), deliver them by other means, and discard them",
        )
    return ledger.name
