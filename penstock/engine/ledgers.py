"""The ledgers of one pipeline: which there are, how a run claims them, and where it goes on (rules 1 to 4).

Each sink that holds its own ledger is one; all other sinks share the state store's. A group is committed to each of them, then
noted in the state store, so a ledger stands at the note, or at most one group beyond it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from penstock.clock import Clock
from penstock.engine.standing import Standing, later, stand
from penstock.errors import EnvironmentFault, Fenced
from penstock.ledger import Claim, Claimant, Commit, Counts, JobRecord, Ledger, LedgerSink
from penstock.observe.log import Incident, Log
from penstock.spi import Position
from penstock.state.pipeline_records import Note
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
    :ivar redo: as `ahead`, until a commit of its own has caught up with where it stood: a group that does takes it along even
        with nothing to do, so that its counts are those of the others again, who may have refused what it took.
    :ivar fresh_records: of a job, that its last commit brought; `noted_records`: that the state store has noted since, and that
        go with its next commit (rule 10).
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
    redo: dict[str, bytes] = field(default_factory=dict)
    counts: Counts = Counts()
    fresh_records: list[JobRecord] = field(default_factory=list)
    noted_records: list[JobRecord] = field(default_factory=list)

    def forward(self, positions: Mapping[str, Position]) -> dict[str, Position]:
        """What a commit writes: these positions and the unwritten ones, as far as they do not lie behind what it held when it was
        claimed (Invariant 2)."""
        held = self.positions
        due = self.unwritten | dict(positions) if self.unwritten else positions
        return {name: position for name, position in due.items() if name not in held or position.order >= held[name].order}

    def catches_up(self, positions: Mapping[str, Position]) -> bool:
        """Whether a group with these positions gets, in some partition, to where the ledger stood ahead of the pipeline."""
        redo = self.redo
        return any(name in redo and position.order >= redo[name] for name, position in positions.items()) if redo else False

    def counted(self, moved: Mapping[str, Position], counts: Counts) -> Counts:
        """The totals that a commit writes: the pipeline's as of the group; those that it holds, where it stands ahead of the
        group and the commit moves none of its positions, for counts and positions are of one moment."""
        return self.counts if self.redo and not moved else counts

    def took(self, commit: Commit, positions: Mapping[str, Position]) -> None:
        """A commit of a group with these positions stands."""
        self.group, self.counts = commit.group, commit.counts
        self.unwritten = {}
        self.fresh_records, self.noted_records = list(commit.jobs), []
        self.keys_high = max((self.keys_high, *(key.key for keys in (commit.keys, commit.settled) for key in keys)))
        if self.catches_up(positions):
            self.redo = {name: at for name, at in self.redo.items() if name not in positions or positions[name].order < at}

    def noted(self) -> None:
        """The state store has noted the latest group: its records have served."""
        if self.fresh_records:
            self.noted_records += self.fresh_records
            self.fresh_records = []

    def forget(self, job: str) -> None:
        """The job has ended: its records are removed all at once."""
        self.noted_records = [record for record in self.noted_records if record.job != job]

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """Which keys it holds; those above its high-water mark need no look."""
        high = self.keys_high
        wanted = [key for key in keys if key <= high] if high else []
        return await self.ledger.seen(wanted) if wanted else {}


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
    standing = stand(ledgers, note)
    await store.settle(claims.epoch, {state.name: state.claim for state in ledgers if state.claim is not None})
    heirs = _heirs(note, ledgers)
    if heirs:
        await store.hand_over(claims.epoch, heirs)
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


def _heirs(note: Note, ledgers: Sequence[LedgerState]) -> dict[str, list[str]]:
    """Who owes dead letters from now on where sinks have changed between the state store's ledger and one of their own, or have
    left it. A debt goes by the sink's name; where no ledger has that name, a replay leaves it open and says so (rule 10)."""
    if note.ledgers.keys() == names_of(ledgers).keys():
        return {}
    shared_then = [name.removeprefix(_shared("")) for name in note.ledgers if name.startswith(_shared(""))]
    shared_now = [sink for state in ledgers if state.name == STATE for sink in state.sinks]
    heirs: dict[str, list[str]] = {}
    left = [sink for sink in shared_then if sink not in shared_now]
    if left:
        heirs[STATE] = [STATE, *left] if len(left) < len(shared_then) else left
    if len(shared_now) == 1 and shared_now[0] in note.ledgers:
        heirs[shared_now[0]] = [STATE]
    return heirs


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
    state.restored = None
    try:
        claim = await state.ledger.claim(_claimant(state, claims, note, issued))
    except Fenced as error:  # nothing else can hold a higher epoch while this run holds the pipeline
        if claims.adopt:
            raise
        raise _restored(claims, state, error.why or error.message) from error
    state.claim = claim
    state.instance = claim.instance
    state.group, state.counts = claim.group, claim.counts
    if not claims.adopt:
        _check(state, claim, claims, note)
    state.keys_high = claim.keys_high
    state.sink_states = dict(claim.sink_states)
    state.positions = dict(claim.positions) if state.restored is not None else later(claim.positions, note.positions)
    state.unwritten = {name: at for name, at in state.positions.items() if claim.positions.get(name) != at}


def _claimant(state: LedgerState, claims: Claims, note: Note, issued: Mapping[int, str]) -> Claimant:
    noted = None if claims.adopt else note.ledgers.get(state.name)
    return Claimant(
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
