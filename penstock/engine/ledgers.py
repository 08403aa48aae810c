"""The ledgers of one pipeline: which there are, how a run claims them, and where it goes on (rules 1 to 4).

Each sink that holds its own ledger is one; all other sinks share the state store's. A group is committed to each of them, then
noted in the state store, so a ledger stands at the note, or at most one group beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from penstock.clock import Clock
from penstock.errors import EnvironmentFault, Fenced
from penstock.ledger import Claim, Claimant, Ledger, LedgerSink
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
    ahead: dict[str, bytes] = field(default_factory=dict)
    sink_states: dict[str, bytes] = field(default_factory=dict)
    claim: Claim | None = None
    keys_high: bytes = b""
    redoing: bool = False

    def forward(self, positions: Mapping[str, Position]) -> dict[str, Position]:
        """Those of the positions that do not lie behind what it held when it was claimed (Invariant 2)."""
        held = self.positions
        return {name: position for name, position in positions.items() if name not in held or position.order >= held[name].order}

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
    """What is common to the claims of one run."""

    pipeline: str
    epoch: int
    source: str
    key_space: str
    window: float
    adopt: bool = False


async def claim_all(store: StateStore, ledgers: Sequence[LedgerState], claims: Claims, clock: Clock) -> Standing:
    """Write the run's epoch into every ledger, decide what the last run left undone, and say where to go on.

    :raises EnvironmentFault: `ledger.mismatch`, `state.restored`, `ledger.came_back`: nothing is guessed.
    """
    note = await store.read_note()
    for state in ledgers:
        await _claim_one(state, claims, note)
    standing = _stand(ledgers, note)
    standing.drained = note.drained
    await store.settle(claims.epoch, {state.name: state.claim for state in ledgers if state.claim is not None})
    standing.note = Note(
        group=standing.note.group,
        positions=standing.positions,
        counts=standing.note.counts,
        ledgers=names_of(ledgers),
        running=_running(note, clock),
        drained=False,
        at=clock.now(),
    )
    await store.note(claims.epoch, standing.note)
    return standing


def _running(note: Note, clock: Clock) -> float:
    """The pipeline's clock: the time between runs that drained their source counts, an outage does not (rule 8)."""
    return note.running + (max(0.0, clock.now() - note.at) if note.drained else 0.0)


async def _claim_one(state: LedgerState, claims: Claims, note: Note) -> None:
    noted = None if claims.adopt else note.ledgers.get(state.name)
    claimant = Claimant(
        epoch=claims.epoch,
        scope=f"{claims.pipeline}/{state.name}",
        source=claims.source,
        key_space=claims.key_space,
        window=claims.window,
        instance=noted,
        adopt=claims.adopt,
    )
    try:
        claim = await state.ledger.claim(claimant)
    except Fenced as error:  # nothing else can hold a higher epoch while this run holds the pipeline
        if claims.adopt:
            raise
        raise _restored(claims, state, f"its epoch is beyond {claims.epoch}") from error
    if not claims.adopt:
        _check(state, claim, claims, note)
    state.claim = claim
    state.instance = claim.instance
    state.group = claim.group
    state.keys_high = claim.keys_high
    state.sink_states = dict(claim.sink_states)
    state.positions = _later(claim.positions, note.positions)


def _check(state: LedgerState, claim: Claim, claims: Claims, note: Note) -> None:
    if claim.group > note.group + 1:
        raise _restored(claims, state, f"it holds group {claim.group}, the state store noted {note.group}")
    if claim.group > 0 and not note.ledgers:
        raise _restored(claims, state, f"it holds group {claim.group}, the state store knows of no run")
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


def names_of(ledgers: Sequence[LedgerState]) -> dict[str, str]:
    """Every ledger's instance by name, and every sink that shares the state store's: one that comes back is noticed (rule 2)."""
    names = {state.name: state.instance for state in ledgers}
    return names | {_shared(sink): state.instance for state in ledgers if state.name == STATE for sink in state.sinks}


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
    base = Note(group=note.group, positions=dict(note.positions), counts=note.counts)
    moved = not _same(smallest, note.positions)
    for state in reversed(ledgers):  # the last to commit knew what the others had refused
        if state.claim is None or not _same(state.positions, smallest):
            continue
        if moved or all(other.group > note.group for other in ledgers):
            base = Note(group=state.group, positions=smallest, counts=state.claim.counts)
            break
    for state in ledgers:
        state.redoing = state.group > base.group
    # A number is never used again: `committed` must tell a group that is redone from what it was before (Invariant 7).
    base.group = max(base.group, *(state.group for state in ledgers))
    for state in ledgers:
        state.ahead = {
            partition: position.order
            for partition, position in state.positions.items()
            if partition not in base.positions or position.order > base.positions[partition].order
        }
    return Standing(dict(base.positions), base)


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
