"""The ledgers of one pipeline: which there are, how a run claims them, and where it goes on (rules 1 to 4).

Each sink that holds its own ledger is one; all other sinks share the state store's. A group is committed to each of them, then
noted in the state store, so a ledger stands at the note, or at most one group beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.clock import Clock
from penstock.errors import EnvironmentFault, Fenced
from penstock.ledger import Claim, Claimant, Commit, Counts, Ledger, LedgerSink
from penstock.observe.log import Incident, Log
from penstock.spi import Position
from penstock.state.records import Note
from penstock.state.store import StateStore

STATE = "state"
"""Name of the state store's ledger."""


@dataclass(slots=True)
class LedgerState:
    """One ledger as the run knows it.

    :ivar sinks: names of the sinks whose deliveries it covers.
    :ivar sink: the sink that holds it; None for the state store's.
    :ivar group: the last group committed to it.
    :ivar positions: where it stood when it was claimed.
    :ivar unwritten: where the groups that gave it nothing to do have left the pipeline; goes with its next commit, so that what a
        backup of it holds is of one moment.
    :ivar restored: the group that was noted, where it was found at an earlier one: it was restored from a backup.
    :ivar ahead: partitions in which it stands beyond the position that the source resumes from, by their order bytes.
    :ivar keys_high: the greatest key that may be in it.
    :ivar redoing: it took a group that the state store never noted, so it takes part in the next one even with nothing to do:
        the ledgers then agree again on how far they are.
    """

    name: str
    ledger: Ledger
    sinks: list[str]
    sink: LedgerSink | None = None
    instance: str = ""
    group: int = 0
    positions: dict[str, Position] = field(default_factory=dict)
    unwritten: dict[str, Position] = field(default_factory=dict)
    restored: int | None = None
    ahead: dict[str, bytes] = field(default_factory=dict)
    sink_states: dict[str, bytes] = field(default_factory=dict)
    claim: Claim | None = None
    keys_high: bytes = b""
    redoing: bool = False

    def forward(self, positions: Mapping[str, Position]) -> dict[str, Position]:
        """What a commit writes: these positions and the unwritten ones, as far as they do not lie behind what it held when it was
        claimed (Invariant 2)."""
        held = self.positions
        due = self.unwritten | dict(positions) if self.unwritten else positions
        return {name: position for name, position in due.items() if name not in held or position.order >= held[name].order}

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Which keys it holds; those above its high-water mark need no look."""
        high = self.keys_high
        wanted = [key for key in keys if key <= high] if high else []
        return await self.ledger.seen(wanted) if wanted else {}


@dataclass(slots=True)
class Standing:
    """Where a run goes on: `positions` for the source, `note` as the base of counts and group numbers; `drained` says that the
    last run had read everything."""

    positions: dict[str, Position]
    note: Note
    drained: bool = False


@dataclass(frozen=True, slots=True)
class Claims:
    """What is common to the claims of one run.

    :ivar adopt: take every ledger as it is, and go on from where the pipeline stands.
    :ivar positions: whether the source has them; `reads`: whether whoever claims goes on to read it. Without either, what a
        restored ledger lacks is not read again.
    """

    pipeline: str
    epoch: int
    source: str
    key_space: str
    window: float
    adopt: bool = False
    positions: bool = True
    reads: bool = True


async def claim_all(store: StateStore, ledgers: Sequence[LedgerState], claims: Claims, clock: Clock, log: Log) -> Standing:
    """Write the run's epoch into every ledger, decide what the last run left undone, and say where to go on.

    :raises EnvironmentFault: `ledger.mismatch`, `state.restored`, `ledger.came_back`, `ledger.restored`: nothing is guessed.
    """
    note = await store.read_note()
    issued = await store.issued(note.epoch)
    for state in ledgers:
        await _claim_one(state, claims, note, issued)
    standing = _stand(ledgers, note)
    await store.settle(claims.epoch, {state.name: state.claim for state in ledgers if state.claim is not None})
    await _rewind(store, ledgers, claims, note, log)
    standing.drained = note.drained
    standing.note = replace(
        standing.note,
        positions={**dict.fromkeys(note.positions, Position(b"")), **standing.positions},
        ledgers=names_of(ledgers),
        groups=groups_of(ledgers),
        running=_running(note, clock),
        at=clock.now(),
    )
    await store.note(claims.epoch, standing.note)
    return standing


def _running(note: Note, clock: Clock) -> float:
    """The pipeline's clock: the time between runs that drained their source counts, an outage does not (rule 8)."""
    return note.running + (max(0.0, clock.now() - note.at) if note.drained else 0.0)


async def _rewind(store: StateStore, ledgers: Sequence[LedgerState], claims: Claims, note: Note, log: Log) -> None:
    """Ledgers restored from a backup take the note back to where they stand, so that what they lack is read again; the others
    hold where they stand in themselves from now on. A crash before the claim is noted repeats all of it."""
    restored = [state for state in ledgers if state.restored is not None]
    for state in ledgers if restored else ():
        if state.unwritten and state.claim is not None:
            counts = state.claim.counts if state.group > note.group else note.counts
            await state.ledger.commit(
                Commit(claims.epoch, state.group, state.group, state.unwritten, counts, running=note.running)
            )
            state.unwritten = {}
    for state in restored:
        assert state.claim is not None
        again = await store.rewind(claims.epoch, state.name, state.claim)
        letters = f"; {again} dead letters that were replayed since are open again" if again else ""
        what = f"sink {state.name} was restored from a backup: it holds group {state.group}, and {state.restored} was noted"
        log(Incident("warning", "ledger.restored", f"{claims.pipeline}: {what}; what it lacks is read again{letters}"))


async def _claim_one(state: LedgerState, claims: Claims, note: Note, issued: Mapping[int, str]) -> None:
    noted = None if claims.adopt else note.ledgers.get(state.name)
    state.restored = None
    claimant = Claimant(
        epoch=claims.epoch,
        scope=f"{claims.pipeline}/{state.name}",
        source=claims.source,
        key_space=claims.key_space,
        window=claims.window,
        instance=noted,
        run_id=issued.get(claims.epoch, ""),
        issued=issued if noted is not None else {},
        start=note.positions,
        counts=note.counts,
        adopt=claims.adopt,
    )
    try:
        claim = await state.ledger.claim(claimant)
    except Fenced as error:  # nothing else can hold a higher epoch while this run holds the pipeline
        if claims.adopt:
            raise
        raise _restored(claims, state, error.why or error.message) from error
    state.claim = claim
    state.instance = claim.instance
    state.group = claim.group
    if not claims.adopt:
        _check(state, claim, claims, note)
    state.keys_high = claim.keys_high
    state.sink_states = dict(claim.sink_states)
    state.positions = dict(claim.positions) if state.restored is not None else _later(claim.positions, note.positions)
    state.unwritten = {name: at for name, at in state.positions.items() if claim.positions.get(name) != at}


def _check(state: LedgerState, claim: Claim, claims: Claims, note: Note) -> None:
    if claim.group > note.group + 1:
        raise _restored(claims, state, f"it holds group {claim.group}, the state store noted {note.group}")
    if claim.group > 0 and not note.ledgers:
        raise _restored(claims, state, f"it holds group {claim.group}, the state store knows of no run")
    if claim.group < note.groups.get(state.name, 0):
        _note_restored(state, claims, note.groups[state.name])
    known = note.ledgers.keys()
    if state.sink is None:  # shared: each sink is known by the state that its last flush left
        returned = [sink for sink in claim.sink_states if sink in state.sinks and _shared(sink) not in known]
    else:
        returned = state.sinks if claim.group > 0 and state.name not in known else []
    if returned:
        raise EnvironmentFault(
            "ledger.came_back",
            f"sink {' and '.join(returned)} was part of this pipeline before, and missed what was delivered meanwhile",
            help=f"`pipe checkpoint adopt {claims.pipeline}` goes on from now; or give the sink another name or place",
        )


def _note_restored(state: LedgerState, claims: Claims, noted: int) -> None:
    """Its rows, keys, positions and counts went back together, so reading on from there is right for it."""
    state.restored = noted  # Invariant 13: said once, and never passed over
    if claims.positions and claims.reads:
        return
    adopt = f"`pipe checkpoint adopt {claims.pipeline}` goes on from now without it"
    raise EnvironmentFault(
        "ledger.restored",
        f"sink {state.name} was restored from a backup: it holds group {state.group}, and {noted} was noted",
        why="what it took since is missing there, and "
        + ("a replay reads nothing of the source" if claims.positions else "the source has no positions to read it again from"),
        help="start a run, which reads again what is missing there, then replay" if claims.positions else adopt,
    )


def names_of(ledgers: Sequence[LedgerState]) -> dict[str, str]:
    """Every ledger's instance by name, and every sink that shares the state store's: one that comes back is noticed (rule 2)."""
    names = {state.name: state.instance for state in ledgers}
    return names | {_shared(sink): state.instance for state in ledgers if state.name == STATE for sink in state.sinks}


def groups_of(ledgers: Sequence[LedgerState]) -> dict[str, int]:
    """The last group of every ledger that lies beside its rows, by name: one found before it was restored from a backup."""
    return {state.name: state.group for state in ledgers if state.sink is not None}


def _shared(sink: str) -> str:
    return f"{STATE}/{sink}"


def _restored(claims: Claims, state: LedgerState, what: str) -> EnvironmentFault:
    return EnvironmentFault(
        "state.restored",
        f"the state store of {claims.pipeline} is older than the ledger of sink {state.name}",
        why=f"{what}: the state store was restored from a backup, or deleted",
        help=f"restore the newer state store, or `pipe checkpoint adopt {claims.pipeline}` to go on from what the sinks hold",
    )


def _stand(ledgers: Sequence[LedgerState], note: Note) -> Standing:
    """Resume from the smallest position. Its ledger's counts become the pipeline's; where no ledger stands exactly there (several
    partitions, crossed), the run goes on from the note, which no ledger is behind, and each ledger skips what it holds."""
    smallest = _earliest([state.positions for state in ledgers])
    base = _base(ledgers, note, smallest)
    for state in ledgers:
        state.redoing = state.group > base.group
    # A number is never used again: `committed` must tell a group that is redone from what it was before (Invariant 7).
    base.group = max(base.group, note.group, *(state.group for state in ledgers))
    for state in ledgers:
        state.ahead = {
            partition: position.order
            for partition, position in state.positions.items()
            if partition not in base.positions or position.order > base.positions[partition].order
        }
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
            return Note(group=state.group, positions=smallest, counts=state.claim.counts)
    return Note(group=note.group, positions=dict(note.positions), counts=note.counts)


def _later(one: Mapping[str, Position], other: Mapping[str, Position]) -> dict[str, Position]:
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
