"""Where a run goes on, given what its ledgers hold and what the state store noted (rules 1 to 4)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from state_builders import HandClock

from penstock.engine.ledgers import STATE, Claims, LedgerState, claim_all
from penstock.engine.standing import Standing
from penstock.errors import EnvironmentFault, Fenced
from penstock.ledger import Claim, Claimant, Commit, Counts
from penstock.observe.log import Incident
from penstock.spi import Position
from penstock.state.pipeline_records import Note

TEN, TWENTY = Counts(received=10, delivered=10), Counts(received=20, delivered=20)
THIRTY = Counts(received=30, delivered=30)


def place(**orders: int) -> dict[str, Position]:
    return {partition: Position(order.to_bytes(4, "big")) for partition, order in orders.items()}


def shown(positions: Mapping[str, Position]) -> dict[str, int]:
    return {partition: int.from_bytes(position.order, "big") for partition, position in positions.items()}


@dataclass
class PaperLedger:
    """Answers a claim with what a test wrote down, and checks the epoch as every ledger does."""

    answer: Claim
    claimants: list[Claimant] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)

    async def claim(self, claimant: Claimant) -> Claim:
        self.claimants.append(claimant)
        if claimant.epoch <= self.answer.epoch:
            raise Fenced("ledger.fenced", "a higher epoch stands there")
        return self.answer

    async def seen(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {}

    async def commit(self, commit: Commit) -> None:
        self.commits.append(commit)

    async def committed(self) -> tuple[int, int]:
        return self.answer.epoch, self.answer.group

    async def forget_jobs(self, job: str) -> None:
        raise AssertionError("a claim forgets nothing")


@dataclass
class PaperStore:
    """The note, and what was told to the store, in order."""

    noted: Note
    told: list[Any] = field(default_factory=list)

    async def hand_over(self, epoch: int, heirs: Mapping[str, Sequence[str]]) -> None:
        self.told.append(("hand over", epoch, dict(heirs)))

    async def read_note(self) -> Note:
        return self.noted

    async def issued(self, since: int) -> dict[int, str]:
        return {epoch: f"run {epoch}" for epoch in range(since, 6)}

    async def rewind(self, epoch: int, ledger: str, claim: Claim) -> int:
        self.told.append(("rewind", epoch, ledger, claim.group))
        return 0

    async def settle(self, epoch: int, claims: Mapping[str, Claim]) -> None:
        self.told.append(("settle", epoch, sorted(claims)))

    async def note(self, epoch: int, note: Note) -> None:
        self.told.append(("note", epoch, note))


def ledger(name: str, group: int = 0, counts: Counts = TEN, *, epoch: int = 4, **orders: int) -> LedgerState:
    claim = Claim(f"instance of {name}", epoch, group, place(**orders), counts, {})
    paper = PaperLedger(claim)
    return LedgerState(name, paper, ["tape" if name == STATE else name], sink=None if name == STATE else paper)  # type: ignore[arg-type]  # what a claim needs


def noted(group: int, *ledgers: str, counts: Counts = TEN, drained: bool = False, **orders: int) -> Note:
    names = {name: f"instance of {name}" for name in ledgers}
    return Note(group, place(**orders), counts, names, running=50.0, drained=drained, at=1_000_000.0)


async def stand(
    note: Note,
    *ledgers: LedgerState,
    clock: HandClock | None = None,
    store: PaperStore | None = None,
    said: list[Incident] | None = None,
    **changes: bool,
) -> Standing:
    claims = Claims("orders", 5, "file:in", "", 0.0, **changes)
    incidents: list[Incident] = []
    standing = await claim_all(store or PaperStore(note), ledgers, claims, clock or HandClock(), incidents.append)  # type: ignore[arg-type]  # what a claim needs
    assert incidents == [] or said is not None
    if said is not None:
        said.extend(incidents)
    return standing


def ahead(*ledgers: LedgerState) -> list[dict[str, int]]:
    return [{name: int.from_bytes(order, "big") for name, order in state.ahead.items()} for state in ledgers]


async def test_a_pipeline_that_never_ran_starts_at_the_beginning() -> None:
    a = ledger("a", 0, Counts(), epoch=0)
    standing = await stand(Note(), a)
    assert (shown(standing.positions), standing.note.group, standing.note.counts, ahead(a)) == ({}, 0, Counts(), [{}])


async def test_after_an_orderly_end_all_stand_at_the_note() -> None:
    a, b = ledger("a", 7, p=10), ledger("b", 7, p=10)
    standing = await stand(noted(7, "a", "b", p=10), a, b)
    assert (shown(standing.positions), standing.note.group, standing.note.counts) == ({"p": 10}, 7, TEN)
    assert ahead(a, b) == [{}, {}]


async def test_a_ledger_that_owed_nothing_of_the_last_groups_stands_at_the_note() -> None:
    a, b = ledger("a", 7, p=10), ledger("b", 3, Counts(4, 4), p=4)
    standing = await stand(noted(7, "a", "b", p=10), a, b)
    assert (shown(standing.positions), standing.note.counts, ahead(a, b)) == ({"p": 10}, TEN, [{}, {}])


async def test_one_ledger_beyond_the_note_redoes_the_note() -> None:
    a = ledger("a", 8, TWENTY, p=20)
    standing = await stand(noted(7, "a", p=10), a)
    assert (shown(standing.positions), standing.note.group, standing.note.counts) == ({"p": 20}, 8, TWENTY)
    assert ahead(a) == [{}]


async def test_a_ledger_ahead_of_another_skips_what_it_holds() -> None:
    a, b = ledger("a", 8, TWENTY, p=20), ledger("b", 7, p=10)
    standing = await stand(noted(7, "a", "b", p=10), a, b)
    assert (shown(standing.positions), standing.note.counts, ahead(a, b)) == ({"p": 10}, TEN, [{"p": 20}, {}])


async def test_the_next_group_is_numbered_above_every_ledger() -> None:
    """Else a commit that failed could not be told from one that an earlier run made under the same number (Invariant 7)."""
    a, b = ledger("a", 8, TWENTY, p=20), ledger("b", 7, p=10)
    standing = await stand(noted(7, "a", "b", p=10), a, b)
    assert standing.note.group == 8


async def test_of_ledgers_at_the_same_place_the_last_to_commit_knows_the_counts() -> None:
    """It alone knows of an event that it refused itself."""
    last = Counts(received=20, delivered=19, dead_lettered=1)
    a, b = ledger("a", 8, TWENTY, p=20), ledger("b", 8, last, p=20)
    standing = await stand(noted(7, "a", "b", p=10), a, b)
    assert (shown(standing.positions), standing.note.group, standing.note.counts) == ({"p": 20}, 8, last)


async def test_a_ledger_that_was_ahead_while_others_caught_up_does_not_know_the_counts() -> None:
    """It took part in a group on the way, with the totals of then, and its position stayed where it was."""
    caught_up, was_ahead = ledger("a", 9, TWENTY, p=20), ledger("b", 8, Counts(15, 15), p=20)
    standing = await stand(noted(8, "a", "b", p=15), caught_up, was_ahead)
    assert (shown(standing.positions), standing.note.group, standing.note.counts) == ({"p": 20}, 9, TWENTY)


async def test_ledgers_that_crossed_go_on_from_the_note() -> None:
    a, b = ledger("a", 8, TWENTY, p=20, q=10), ledger("b", 8, THIRTY, p=10, q=20)
    standing = await stand(noted(7, "a", "b", p=10, q=10), a, b)
    assert (shown(standing.positions), standing.note.counts) == ({"p": 10, "q": 10}, TEN)
    assert ahead(a, b) == [{"p": 20}, {"q": 20}]


async def test_a_partition_that_one_ledger_alone_knows_is_read_from_its_beginning() -> None:
    a, b = ledger("a", 8, TWENTY, p=20, q=5), ledger("b", 7, p=20)
    standing = await stand(noted(7, "a", "b", p=20), a, b)
    assert (shown(standing.positions), ahead(a, b)) == ({"p": 20}, [{"q": 5}, {}])


async def test_without_positions_the_counts_are_those_of_the_group_that_every_ledger_holds() -> None:
    everywhere = await stand(noted(7, "a", "b"), ledger("a", 8, TWENTY), ledger("b", 8, TWENTY))
    somewhere = await stand(noted(7, "a", "b"), ledger("a", 8, TWENTY), ledger("b", 7))
    assert (everywhere.note.counts, everywhere.note.group) == (TWENTY, 8)
    assert (somewhere.note.counts, somewhere.note.group) == (TEN, 8)


async def test_a_new_sink_starts_at_the_pipelines_position() -> None:
    a, new = ledger("a", 7, p=10), ledger("new", 0, Counts(), epoch=0)
    standing = await stand(noted(7, "a", p=10), a, new)
    assert (shown(standing.positions), standing.note.counts, ahead(a, new)) == ({"p": 10}, TEN, [{}, {}])
    assert standing.note.ledgers == {"a": "instance of a", "new": "instance of new"}


async def test_a_removed_sink_no_longer_counts() -> None:
    a = ledger("a", 8, TWENTY, p=20)
    standing = await stand(noted(8, "a", "gone", p=20, counts=TWENTY), a)
    assert (shown(standing.positions), standing.note.ledgers) == ({"p": 20}, {"a": "instance of a"})


async def test_a_sink_that_comes_back_stops_and_asks() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        await stand(noted(8, "a", p=20), ledger("a", 8, p=20), ledger("back", 5, p=12))
    assert caught.value.code == "ledger.came_back"
    assert "sink back" in caught.value.message
    assert "pipe checkpoint adopt orders" in str(caught.value.help)


async def test_sinks_without_a_ledger_come_back_one_by_one() -> None:
    claim = Claim("instance", 4, 5, place(p=12), TEN, {"tape": b"300"})
    tape, new = (LedgerState(STATE, PaperLedger(claim), sinks) for sinks in (["tape"], ["new"]))
    with pytest.raises(EnvironmentFault, match="sink tape was part of this pipeline before"):
        await stand(noted(8, "a", p=20), ledger("a", 8, p=20), tape)
    standing = await stand(noted(8, "a", p=20), ledger("a", 8, p=20), new)
    assert (shown(standing.positions), ahead(new)) == ({"p": 20}, [{}])


async def test_a_sink_that_comes_back_is_adopted_at_the_pipelines_position() -> None:
    a, back = ledger("a", 8, p=20), ledger("back", 5, p=12)
    standing = await stand(noted(8, "a", p=20), a, back, adopt=True)
    assert (shown(standing.positions), ahead(a, back)) == ({"p": 20}, [{}, {}])


@pytest.mark.parametrize(
    ("note", "state"),
    [
        (noted(7, "a", p=10), ledger("a", 9, TWENTY, p=20)),
        (noted(7, "a", p=10), ledger("a", 7, p=10, epoch=5)),
        (noted(7, "a", p=10), ledger("a", 7, p=10, epoch=9)),
        (Note(), ledger("a", 1, p=10)),
        (Note(), ledger("a", 9, p=90)),
    ],
    ids=["two groups beyond", "this very epoch", "a later epoch", "a store that knows nothing", "a new store, an old ledger"],
)
async def test_a_ledger_beyond_the_state_store_means_that_the_store_was_restored(note: Note, state: LedgerState) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        await stand(note, state)
    assert caught.value.code == "state.restored"
    assert "pipe checkpoint adopt orders" in str(caught.value.help)


async def test_a_restored_store_is_adopted_at_what_the_ledger_holds() -> None:
    a = ledger("a", 30, THIRTY, p=30)
    standing = await stand(noted(7, "a", p=10), a, adopt=True)
    assert (shown(standing.positions), standing.note.group, standing.note.counts) == ({"p": 30}, 30, THIRTY)


async def test_a_claim_names_scope_source_and_the_instance_that_was_noted() -> None:
    a, new = ledger("a", 7, p=10), ledger("new", 0, Counts(), epoch=0)
    await stand(noted(7, "a", p=10), a, new)
    issued = {epoch: f"run {epoch}" for epoch in range(6)}
    expected = Claimant(5, "orders/a", "file:in", "", 0.0, "instance of a", "run 5", issued, place(p=10), TEN)
    assert a.ledger.claimants == [expected]  # type: ignore[attr-defined]  # a PaperLedger
    assert new.ledger.claimants == [replace(expected, scope="orders/new", instance=None, issued={})]  # type: ignore[attr-defined]


async def test_what_died_is_settled_before_the_claim_is_noted() -> None:
    store = PaperStore(noted(7, "a", STATE, p=10))
    standing = await stand(store.noted, ledger("a", 8, TWENTY, p=20), ledger(STATE, 7, p=10), store=store)
    assert store.told == [("settle", 5, ["a", STATE]), ("note", 5, standing.note)]
    assert standing.note.drained is False


SHARED = {"state": "i", "state/one": "i", "state/two": "i"}


@pytest.mark.parametrize(
    ("noted_names", "shared", "own", "heirs"),
    [
        (SHARED, ["one", "two"], [], None),
        (SHARED, ["one"], ["two"], {"state": ["state", "two"]}),
        (SHARED, ["one"], [], {"state": ["state", "two"]}),
        (SHARED, ["one", "three"], [], {"state": ["state", "two"]}),
        (SHARED, [], ["one", "two"], {"state": ["one", "two"]}),
        (SHARED, ["three"], [], {"state": ["one", "two"]}),
        ({"one": "i"}, ["one"], [], {"one": ["state"]}),
        ({"one": "i"}, ["one", "two"], [], None),
        ({}, ["one"], [], None),
    ],
    ids=[
        "the same", "one gets its own", "one leaves", "one is replaced", "both get their own", "both are replaced",
        "the only one comes to share", "one of two comes to share", "new",
    ],
)  # fmt: skip
async def test_debts_go_by_the_sinks_name_where_it_changes_its_ledger(
    noted_names: dict[str, str], shared: list[str], own: list[str], heirs: dict[str, list[str]] | None
) -> None:
    store = PaperStore(replace(noted(0), ledgers=noted_names))
    ledgers = [ledger(name, 0, Counts(), epoch=0) for name in own]
    if shared:
        ledgers.append(replace(ledger(STATE, 0, Counts(), epoch=0), sinks=shared))
    await stand(store.noted, *ledgers, store=store)
    assert told(store, "hand over") == ([] if heirs is None else [("hand over", 5, heirs)])


@pytest.mark.parametrize(("drained", "running"), [(True, 1050.0), (False, 50.0)], ids=["a pause counts", "an outage does not"])
async def test_the_pipelines_clock_counts_pauses_after_a_drain_alone(drained: bool, running: float) -> None:
    standing = await stand(noted(7, "a", p=10, drained=drained), ledger("a", 7, p=10), clock=HandClock(1_001_000.0))
    assert standing.note.running == running


# ---- a sink that was restored from a backup


def told(store: PaperStore, kind: str) -> list[tuple[object, ...]]:
    return [what for what in store.told if what[0] == kind]


async def test_a_ledger_restored_from_a_backup_is_read_for_again_from_where_it_stands_and_said() -> None:
    note = replace(noted(9, "a", "b", counts=THIRTY, p=30, q=3), groups={"a": 9, "b": 6})
    a, b, store, said = ledger("a", 4, TEN, p=10), ledger("b", 6, TWENTY, p=20, q=3), PaperStore(note), []
    standing = await stand(note, a, b, store=store, said=said)

    assert (shown(standing.positions), standing.note.counts, standing.note.group) == ({"p": 10}, TEN, 9)
    assert (a.restored, b.restored, ahead(a, b)) == (9, None, [{}, {"p": 30, "q": 3}])
    (commit,) = b.ledger.commits  # type: ignore[attr-defined]  # a PaperLedger; the note that vouched for it goes back
    assert (shown(commit.positions), commit.previous, commit.group, commit.counts) == ({"p": 30}, 6, 6, THIRTY)
    assert [what[0] for what in store.told] == ["settle", "rewind", "note"]
    assert told(store, "rewind") == [("rewind", 5, "a", 4)]
    written = store.told[-1][2]
    assert (shown(written.positions), dict(written.groups)) == ({"p": 10, "q": 0}, {"a": 4, "b": 6})  # 0: from the beginning
    assert [(one.level, one.code) for one in said] == [("warning", "ledger.restored")]
    assert "sink a was restored from a backup: it holds group 4, and 9 was noted" in said[0].message


async def test_of_two_restored_ledgers_each_reads_from_where_it_stands() -> None:
    note = replace(noted(9, "a", "b", counts=THIRTY, p=30), groups={"a": 9, "b": 8})
    a, b, said = ledger("a", 6, TWENTY, p=20), ledger("b", 4, TEN, p=10), []
    standing = await stand(note, a, b, said=said)
    assert (shown(standing.positions), standing.note.counts, ahead(a, b)) == ({"p": 10}, TEN, [{"p": 20}, {}])
    assert [one.message.split()[2] for one in said] == ["a", "b"]


async def test_once_noted_a_restored_ledger_is_like_any_other() -> None:
    note = replace(noted(9, "a", "b", counts=TEN, p=10), groups={"a": 4, "b": 9})
    a, b = ledger("a", 4, TEN, p=10), ledger("b", 9, THIRTY, p=30)
    standing = await stand(note, a, b)
    assert (shown(standing.positions), standing.note.counts, ahead(a, b)) == ({"p": 10}, TEN, [{}, {"p": 20 + 10}])


@pytest.mark.parametrize(
    ("how", "help"),
    [({"positions": False}, "pipe checkpoint adopt orders"), ({"reads": False}, "start a run")],
    ids=["a source without positions", "a replay"],
)
async def test_what_a_restored_ledger_lacks_is_never_passed_over(how: dict[str, bool], help: str) -> None:
    note = replace(noted(9, "a", p=30), groups={"a": 9})
    store = PaperStore(note)
    with pytest.raises(EnvironmentFault) as caught:
        await stand(note, ledger("a", 4, p=10), store=store, **how)
    assert (caught.value.code, help in str(caught.value.help), store.told) == ("ledger.restored", True, [])


async def test_a_restored_ledger_that_is_adopted_goes_on_from_now() -> None:
    note = replace(noted(9, "a", p=30), groups={"a": 9})
    a = ledger("a", 4, p=10)
    standing = await stand(note, a, adopt=True)
    assert (shown(standing.positions), shown(a.unwritten), standing.note.groups) == ({"p": 30}, {"p": 30}, {"a": 4})


async def test_a_ledgers_next_commit_says_where_the_pipeline_stood_when_it_had_nothing_to_do() -> None:
    a = ledger("a", 3, p=4)
    await stand(noted(7, "a", p=10, q=5), a)
    assert shown(a.forward(place(p=12))) == {"p": 12, "q": 5}
