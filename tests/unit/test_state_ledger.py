"""The ledger's rules 1 to 3, 6 and 8, on real files and a real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from state_builders import at, claimant, commit, key, keys_left

from penstock.errors import EnvironmentFault, Fatal, Fenced
from penstock.ledger import Counts, JobRecord
from penstock.spi import Position
from penstock.state import key_tables
from penstock.state.store import StateStore
from penstock.testing.servers import Database


async def test_a_new_ledger_is_empty_and_a_claim_reads_back_all_that_was_committed(store: StateStore) -> None:
    first = await store.claim(claimant(1))
    assert (first.epoch, first.group, first.positions, first.counts, first.sink_states, first.jobs, first.keys_high) == (
        0, 0, {}, Counts(), {}, [], b"",
    )  # fmt: skip
    counts = Counts(5, 1, 1, 1, 2, 7)
    await store.commit(commit(1, 3, 9, counts=counts, sink_states={"s": b"state"}, jobs=[JobRecord("j", "e")]))

    second = await store.claim(claimant(2, instance=first.instance))

    assert (second.instance, second.epoch, second.group) == (first.instance, 1, 1)
    assert (second.positions, second.counts, second.sink_states) == ({"p": at(9)}, counts, {"s": b"state"})
    assert (second.jobs, second.keys_high) == ([JobRecord("j", "e")], key(9).key)
    assert await store.seen([key(n).key for n in (3, 4, 9)]) == dict([key(3), key(9)])


async def test_an_older_or_equal_epoch_cannot_claim(store: StateStore) -> None:
    await store.claim(claimant(5))
    for epoch in (5, 4):
        with pytest.raises(Fenced):
            await store.claim(claimant(epoch, adopt=True))
    assert await store.committed() == (5, 0)


async def test_a_run_may_claim_again_and_nobody_else_at_its_epoch(store: StateStore) -> None:
    first = await store.claim(claimant(1, run_id="mine"))
    await store.commit(commit(1, 1))
    again = await store.claim(claimant(1, run_id="mine", instance=first.instance, issued={1: "mine"}))
    assert (again.instance, again.epoch, again.group, again.positions) == (first.instance, 1, 1, {"p": at(1)})
    await store.commit(commit(2, 2))
    for other in ("", "another"):
        with pytest.raises(Fenced):
            await store.claim(claimant(1, run_id=other))


async def test_a_fenced_run_writes_nothing(store: StateStore) -> None:
    await store.claim(claimant(1))
    await store.commit(commit(1, 1))
    await store.claim(claimant(2))
    with pytest.raises(Fenced):
        await store.commit(commit(2, 2))
    assert await store.committed() == (2, 1)
    assert await store.seen([key(2).key]) == {}


async def test_a_commit_on_another_group_than_expected_is_fenced(store: StateStore) -> None:
    await store.claim(claimant(1))
    await store.commit(commit(1, 1))
    for previous in (0, 2):
        with pytest.raises(Fenced):
            await store.commit(commit(7, 5, previous=previous))
    await store.commit(commit(7, 5, previous=1))  # group numbers of a pipeline skip ledgers that had nothing to do
    assert await store.committed() == (1, 7)


async def test_a_commit_without_a_claim_is_fenced(store: StateStore) -> None:
    with pytest.raises(Fenced):
        await store.commit(commit(1, 1))


@pytest.mark.parametrize("difference", [{"source": "file:other"}, {"instance": "another"}])
async def test_another_source_or_instance_stops_and_names_adopt(store: StateStore, difference: dict[str, str]) -> None:
    await store.claim(claimant(1))
    with pytest.raises(EnvironmentFault) as caught:
        await store.claim(claimant(2, **difference))
    assert caught.value.code == "ledger.mismatch"
    assert "pipe checkpoint adopt orders" in str(caught.value.help)
    assert await store.committed() == (1, 0)

    adopted = await store.claim(claimant(2, adopt=True, **difference))
    assert (adopted.epoch, await store.committed()) == (1, (2, 0))


async def test_a_ledger_that_vanished_is_a_mismatch(store: StateStore) -> None:
    with pytest.raises(EnvironmentFault, match="does not belong") as caught:
        await store.claim(claimant(1, instance="noted"))
    assert "removed or replaced" in str(caught.value.why)


async def test_another_key_space_forgets_the_keys_and_keeps_the_checkpoint(store: StateStore) -> None:
    await store.claim(claimant(1))
    await store.commit(commit(1, 1))
    claim = await store.claim(claimant(2, key_space="k2"))
    assert (claim.keys_high, claim.positions) == (b"", {"p": at(1)})
    await store.commit(commit(2, 1, epoch=2))  # the same key is new in this space
    assert await store.seen([key(1).key]) == dict([key(1)])


@pytest.mark.parametrize("generations_between", [0, 1])
async def test_a_key_that_is_held_is_a_conflict_and_nothing_is_written(store: StateStore, generations_between: int) -> None:
    await store.claim(claimant(1, window=10.0))
    await store.commit(commit(1, 1, 2, running=0.0))
    with pytest.raises(Fatal) as caught:
        await store.commit(commit(2, 2, 3, running=generations_between * 6.0))
    assert caught.value.code == "ledger.conflict"
    assert await store.committed() == (1, 1)
    assert await store.seen([key(3).key]) == {}


async def test_keys_expire_by_running_time_in_whole_generations(store: StateStore, place: Path | Database) -> None:
    await store.claim(claimant(1, window=10.0))
    for group, running in enumerate((0.0, 4.0, 6.0, 11.0), start=1):
        await store.commit(commit(group, group, running=running))
    everything = [key(n).key for n in range(1, 8)]
    assert set(await store.seen(everything)) == {key(n).key for n in (1, 2, 3, 4)}  # three generations live
    await store.commit(commit(5, 5, running=16.0))
    assert set(await store.seen(everything)) == {key(n).key for n in (4, 5)}
    await store.commit(commit(6, 6, running=1000.0))  # nothing came for long: all of them are over
    assert set(await store.seen(everything)) == {key(6).key}
    for group in (7, 8):  # a table that is over goes with a commit, one with each
        await store.commit(commit(group, running=1000.0))
    assert keys_left(place) == [1]


async def test_a_key_is_held_for_the_whole_window(store: StateStore) -> None:
    await store.claim(claimant(1, window=10.0))
    await store.commit(commit(1, 1, running=0.0))
    await store.commit(commit(2, 2, running=4.9))  # the youngest key of the first generation
    await store.commit(commit(3, 3, running=14.8))
    assert set(await store.seen([key(1).key, key(2).key])) == {key(1).key, key(2).key}
    await store.commit(commit(4, 4, running=20.0))
    assert await store.seen([key(1).key, key(2).key]) == {}


async def test_keys_of_a_wrong_size_are_refused_whole(store: StateStore) -> None:
    await store.claim(claimant(1))
    with pytest.raises(Fatal) as caught:
        await store.commit(commit(1, keys=[key(1)._replace(brought_by=b"short")]))
    assert caught.value.code == "ledger.key_size"
    assert await store.committed() == (1, 0)


async def test_job_records_stay_until_they_are_forgotten(store: StateStore) -> None:
    await store.claim(claimant(1))
    await store.commit(commit(1, jobs=[JobRecord("j1", "a"), JobRecord("j2", "a")]))
    await store.forget_jobs("j1")
    assert (await store.claim(claimant(2))).jobs == [JobRecord("j2", "a")]


async def test_a_position_with_an_empty_order_is_the_beginning(store: StateStore) -> None:
    await store.claim(claimant(1))
    await store.commit(commit(1, positions={"p": at(1), "q": at(2)}))
    await store.commit(commit(2, positions={"p": Position(b"")}))
    assert (await store.claim(claimant(2))).positions == {"q": at(2)}


async def test_a_generation_that_is_over_goes_in_slices_with_the_commits_that_follow(
    store: StateStore, place: Path | Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_tables, "SHED", 2)
    await store.claim(claimant(1, window=10.0))
    await store.commit(commit(1, 1, 2, 3, 4, 5, running=0.0))
    everything = [key(n).key for n in range(1, 9)]

    found = []
    for group, numbers in ((2, [6]), (3, [7]), (4, [1]), (5, [])):
        await store.commit(commit(group, *numbers, running=30.0))
        found.append(keys_left(place))
    assert found == [[3, 1], [1, 2], [3], [3]]
    assert set(await store.seen(everything)) == {key(n).key for n in (1, 6, 7)}
    claim = await store.claim(claimant(2, key_space="k2"))  # another key space: every generation is over at once
    assert (claim.keys_high, await store.seen(everything), keys_left(place)) == (b"", {}, [3])
    for group in (6, 7):
        await store.commit(commit(group, epoch=2, previous=group - 1))
    assert keys_left(place) == []


async def test_an_epoch_that_another_state_store_issued_is_told_apart_and_nothing_is_stored(store: StateStore) -> None:
    await store.claim(claimant(6, run_id="theirs"))
    for issued in ({5: "a", 7: "c"}, {5: "a", 6: "ours", 7: "c"}):
        with pytest.raises(Fenced, match="taken over") as caught:
            await store.claim(claimant(7, run_id="c", issued=issued))
        assert "epoch 6 stands there, which another state store issued" in str(caught.value.why)
        assert await store.committed() == (6, 0)
    await store.claim(claimant(7, run_id="c", issued={7: "c"}))  # it was claimed before what is compared
    await store.claim(claimant(8, run_id="d", issued={7: "c", 8: "d"}))
    await store.claim(claimant(9, run_id="e", issued={5: "x"}, adopt=True))
    assert await store.committed() == (9, 0)


async def test_a_new_ledger_stands_where_its_claim_says_and_an_older_one_where_it_was(store: StateStore) -> None:
    for epoch, number in ((1, 7), (2, 9)):
        claim = await store.claim(claimant(epoch, start={"p": at(number)}, counts=Counts(number, number)))
        assert (claim.group, claim.positions, claim.counts) == (0, {"p": at(7)}, Counts(7, 7))


async def test_keys_that_settle_an_event_may_be_held_already_and_expire_as_others_do(store: StateStore) -> None:
    await store.claim(claimant(1, window=10.0))
    await store.commit(commit(1, 1, running=0.0, settled=[key(7)]))
    await store.commit(commit(2, running=6.0, settled=[key(7), key(8)]))
    assert await store.seen([key(n).key for n in (1, 7, 8, 9)]) == dict([key(1), key(7), key(8)])
    await store.commit(commit(3, 3, running=20.0))
    assert await store.seen([key(n).key for n in (1, 7, 8)]) == {}
