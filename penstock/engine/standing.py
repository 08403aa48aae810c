"""Where a run goes on, given where its ledgers stand and what was noted: the arithmetic of docs/adr/0006. Nothing is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from penstock.journal.frames import furthest
from penstock.ledger import Counts
from penstock.spi import Position
from penstock.state.pipeline_records import Note

if TYPE_CHECKING:
    from penstock.engine.ledgers import LedgerState


@dataclass(slots=True)
class Standing:
    """Where a run goes on: `positions` for the source, `note` as the base of counts and group numbers; `drained` says that the
    last run had read everything."""

    positions: dict[str, Position]
    note: Note
    drained: bool = False


def stand(ledgers: Sequence[LedgerState], note: Note) -> Standing:
    """Resume from the smallest position. Its ledger's counts become the pipeline's; where no ledger stands exactly there (several
    partitions, crossed), the run goes on from the note, which no ledger is behind, and each ledger skips what it holds."""
    smallest = _earliest([state.positions for state in ledgers])
    base = _base(ledgers, note, smallest)
    # A number is never used again: `committed` must tell a group that is redone from what it was before (Invariant 7).
    base.group = max(base.group, note.group, *(state.group for state in ledgers))
    base.journal = furthest(base.journal, note.journal)  # what was noted stands, whatever a ledger was restored to
    for state in ledgers:
        state.ahead = {
            partition: position.order
            for partition, position in state.positions.items()
            if partition not in base.positions or position.order > base.positions[partition].order
        }
        state.redo = dict(state.ahead)
    return Standing(dict(base.positions), base)


def _base(ledgers: Sequence[LedgerState], note: Note, smallest: dict[str, Position]) -> Note:
    restored = [state for state in ledgers if state.restored is not None]
    if restored:
        oldest = min(restored, key=lambda state: state.group)
        return Note(group=oldest.group, positions=smallest, counts=oldest.claim.counts if oldest.claim else Counts())
    moved = not _same(smallest, note.positions)
    # The last to commit knew what the others had refused; one that was ahead may have stopped committing before.
    for _, state in sorted(enumerate(ledgers), key=lambda placed: (placed[1].group, placed[0]), reverse=True):
        if state.claim is None or not _same(state.positions, smallest):
            continue
        if moved or all(other.group > note.group for other in ledgers):
            return Note(group=state.group, positions=smallest, counts=state.claim.counts, journal=state.claim.journal)
    return Note(group=note.group, positions=dict(note.positions), counts=note.counts)


def later(one: Mapping[str, Position], other: Mapping[str, Position]) -> dict[str, Position]:
    """For each partition, the later of two positions."""
    merged = dict(one)
    for partition, position in other.items():
        if partition not in merged or position.order > merged[partition].order:
            merged[partition] = position
    return merged


def _earliest(all_positions: Sequence[Mapping[str, Position]]) -> dict[str, Position]:
    everywhere = set.intersection(*(set(positions) for positions in all_positions))
    return {name: min((positions[name] for positions in all_positions), key=lambda p: p.order) for name in everywhere}


def _same(one: Mapping[str, Position], other: Mapping[str, Position]) -> bool:
    return one.keys() == other.keys() and all(one[name].order == other[name].order for name in one)
