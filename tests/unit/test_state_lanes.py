"""Lanes that dead letters hold, and letters that wait for a retry, on SQLite and on PostgreSQL."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from state_builders import Store, claim_at, letter, note, version

from penstock.errors import Fenced
from penstock.state.lane_tables import PARKED
from penstock.state.records import DeadLetter, Lane, LetterQuery, ParkedLane, Retries

ALL = 1 << 60


def head(name: str, number: int, lane: str = "k", **changes: Any) -> DeadLetter:
    return letter(name, number, **{"lane": lane, "arrival": number, **changes})


def parked(name: str, number: int, lane: str = "k", **changes: Any) -> DeadLetter:
    return head(name, number, lane, **{"status": "parked", "code": PARKED, "step": "lane", "attempts": 0, **changes})


async def stand(store: Store, *letters: DeadLetter) -> int:
    epoch = await store.issue_epoch(version())
    await store.put_dead_letters(epoch, 1, letters, ())
    await store.note(epoch, note(1, ledgers={"a": "i", "b": "i"}))
    return epoch


async def statuses(store: Store) -> dict[str, tuple[str, float | None]]:
    letters, _ = await store.letters(LetterQuery(status=()))
    return {letter.id: (letter.status, letter.next_at) for letter in letters}


async def test_heads_are_the_first_unsettled_of_their_lanes(store: Store) -> None:
    await stand(store, head("e", 2), parked("f", 3), head("x", 5, "other"), letter("free", 4))
    asked = [Lane("p", "k"), Lane("p", "other"), Lane("p", "none"), Lane("q", "k")]
    assert await store.lanes.heads(asked) == {Lane("p", "k"): letter("", 2).position, Lane("p", "other"): letter("", 5).position}
    assert await store.lanes.heads([]) == {}
    assert sorted(await store.lanes.held()) == [Lane("p", "k"), Lane("p", "other")]
    assert await store.lanes.parked(1) == (2, [ParkedLane("p", "k", "e", 1)])
    assert await store.lanes.count() == 2
    assert await store.lanes.find(Lane("p", "k")) == ParkedLane("p", "k", "e", 1)
    assert await store.lanes.find(Lane("p", "none")) is None
    assert await store.lanes.versions_held() == ["v1"]


@pytest.mark.parametrize("how", ["resolved", "superseded", "discarded", "noted"])
async def test_what_settles_the_head_frees_the_next(store: Store, how: Any) -> None:
    epoch = await stand(store, head("e", 1), parked("f", 2), parked("g", 3), head("x", 1, "other"), parked("y", 2, "other"))
    assert await store.lanes.due() == []
    if how == "noted":
        await store.note(epoch, note(2, resolved=["e"], ledgers={"a": "i", "b": "i"}))
    else:
        await store.set_status(epoch, ["e"], how)
    now = await statuses(store)
    assert (now["f"], now["g"], now["y"]) == (("parked", 0.0), ("parked", None), ("parked", None))
    assert await store.lanes.due() == ["parked"]
    places = await store.lanes.due_places("parked", 1.0, ALL, 10)
    assert [letter.id for letter in await store.letters_at(places, LetterQuery())] == ["f", "g"]
    assert len(await store.lanes.due_places("parked", 1.0, ALL, 1)) == 1
    assert await store.lanes.due_places("parked", 1.0, 0, 10) == []


async def test_only_what_passes_no_other_in_its_lane_is_taken_up(store: Store) -> None:
    epoch = await stand(store, head("e", 1), parked("f", 2), parked("g", 3), letter("free", 9), parked("y", 2, "other"))
    job = (await store.jobs.create("replay", "{}", "")).id
    unsettled = ("open", "parked")
    assert await store.lanes.take_up(epoch, ["f", "g"], job, unsettled) == []
    assert sorted(await store.lanes.take_up(epoch, ["e", "g", "y", "free"], job, unsettled)) == ["e", "free", "y"]
    assert {name for name, (status, _) in (await statuses(store)).items() if status == "replaying"} == {"e", "free", "y"}
    assert await store.lanes.take_up(epoch, ["f", "g"], job, unsettled) == []


async def test_a_lane_is_taken_up_from_its_head_on(store: Store) -> None:
    epoch = await stand(store, head("e", 1), parked("f", 2), parked("g", 3), parked("h", 4))
    job = (await store.jobs.create("replay", "{}", "")).id
    assert sorted(await store.lanes.take_up(epoch, ["e", "f", "h"], job, ("open", "parked"))) == ["e", "f"]
    await store.jobs.take(epoch, job)
    assert await statuses(store) == {
        "e": ("open", None), "f": ("parked", None), "g": ("parked", None), "h": ("parked", None),
    }  # fmt: skip


async def test_what_a_job_that_died_had_taken_up_is_parked_again_and_due_where_it_is_first(store: Store) -> None:
    epoch = await stand(store, parked("f", 2), parked("g", 3))
    job = (await store.jobs.create("release", '{"due":1,"upto":9}', "")).id
    await store.jobs.take(epoch, job)
    await store.lanes.free(epoch)
    assert sorted(await store.lanes.take_up(epoch, ["f", "g"], job, ("parked",))) == ["f", "g"]
    assert [one.id for one in await store.jobs.recover(epoch)] == [job]
    assert await statuses(store) == {"f": ("parked", 0.0), "g": ("parked", None)}


async def test_letters_that_are_due_come_in_read_order_and_what_failed_is_given_up(store: Store) -> None:
    epoch = await stand(
        store, letter("c", 3, next_at=5.0), letter("b", 2, next_at=7.0), letter("a", 1, next_at=2e9), letter("d", 4)
    )
    assert await store.lanes.retries() == Retries(3, 5.0)
    assert await store.lanes.due() == ["open"]
    places = await store.lanes.due_places("open", 10.0, ALL, 10)
    assert [letter.id for letter in await store.letters_at(places, LetterQuery())] == ["b", "c"]
    await store.lanes.give_up(epoch, places)
    assert await store.lanes.retries() == Retries(1, 2e9)
    assert await store.lanes.due() == []
    assert await store.lanes.unschedule(epoch) == 1
    assert await store.lanes.retries() == Retries(0, None)


@pytest.mark.parametrize("ending", ["failed", "cancelled", "done"])
async def test_a_retry_that_did_not_get_through_leaves_what_was_due_to_people(store: Store, ending: Any) -> None:
    epoch = await stand(store, letter("a", 1, next_at=5.0), letter("b", 2, next_at=2e9))
    job = (await store.jobs.create("retry", '{"due":10,"upto":9}', "")).id
    await store.jobs.take(epoch, job)
    await store.lanes.take_up(epoch, ["a"], job, ("open",))
    await store.jobs.end(epoch, job, ending)
    assert await statuses(store) == {"a": ("open", 5.0 if ending == "done" else None), "b": ("open", 2e9)}


async def test_an_event_that_fails_again_keeps_its_place_and_its_lane(store: Store) -> None:
    epoch = await stand(store, head("e", 0, position=b"", arrival=7), parked("f", 0, position=b"", arrival=8))
    job = (await store.jobs.create("replay", "{}", "")).id
    await store.lanes.take_up(epoch, ["e"], job, ("open",))
    again = head("e", 0, position=b"", arrival=99, retries=1, next_at=50.0)
    await store.note(epoch, note(2, failed_again=[again], ledgers={"a": "i", "b": "i"}))
    ((_, lanes), found) = await asyncio.gather(store.lanes.parked(5), store.letters(LetterQuery(ids=["e"])))
    assert [lane.head for lane in lanes] == ["e"]
    assert (found[0][0].arrival, found[0][0].retries, found[0][0].next_at, found[0][0].lane) == (7, 1, 50.0, "k")


async def test_what_is_parked_behind_a_head_that_somebody_discards_meanwhile_is_due_when_it_stands(store: Store) -> None:
    epoch = await stand(store, head("e", 1))
    await store.put_dead_letters(epoch, 2, [parked("f", 2)], ())
    await store.set_status(None, ["e"], "discarded")
    assert await store.lanes.due() == []
    await store.note(epoch, note(2, ledgers={"a": "i", "b": "i"}))
    assert await store.lanes.due() == ["parked"]


async def test_what_is_parked_is_open_and_in_no_lane_once_nobody_parks(store: Store) -> None:
    epoch = await stand(store, head("e", 1), parked("f", 2))
    assert await store.lanes.unpark(epoch) == 1
    assert await store.lanes.held() == []
    assert await statuses(store) == {"e": ("open", None), "f": ("open", None)}


async def test_a_fenced_run_takes_nothing_up(store: Store) -> None:
    epoch = await stand(store, head("e", 1))
    await store.issue_epoch(version())
    for action in (
        store.lanes.take_up(epoch, ["e"], "j", ("open",)),
        store.lanes.give_up(epoch, []),
        store.lanes.free(epoch),
        store.lanes.unpark(epoch),
        store.lanes.unschedule(epoch),
    ):
        with pytest.raises(Fenced):
            await action


async def test_what_is_parked_never_expires(store: Store) -> None:
    await stand(store, head("e", 1), parked("f", 2))
    assert await store.expire_letters(2e9) == 0


async def test_a_lane_that_a_restored_ledger_lacks_is_held_again_by_its_head(store: Store) -> None:
    epoch = await stand(store, head("e", 1), parked("f", 2), parked("g", 3))
    await store.note(epoch, note(2, resolved=["e", "f"], ledgers={"a": "i", "b": "i"}))
    assert (await statuses(store))["g"] == ("parked", 0.0)
    assert await store.rewind(epoch, "a", claim_at(9, group=1)) == 2
    assert {name: status for name, (status, _) in (await statuses(store)).items()} == {"e": "open", "f": "parked", "g": "parked"}
    job = (await store.jobs.create("release", "{}", "")).id
    assert await store.lanes.take_up(epoch, ["g"], job, ("parked",)) == []
