"""Answers of the world in the state store (rule 14), on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from state_builders import Store, make_store_in, version

from penstock.errors import Fenced
from penstock.state.answer_tables import FoundAnswer, KeptAnswer
from penstock.state.pipeline_records import Note
from penstock.testing.servers import Database


def kept(name: str, answer: bytes = b'{"asked":"1","made":[]}', at: float = 100.0) -> KeptAnswer:
    return KeptAnswer(name, "charge", f"key-{name}", f"data-{name}", answer, at)


def found(*answers: KeptAnswer, aside: bool = False) -> dict[str, FoundAnswer]:
    return {each.name: FoundAnswer(each.data, each.answer, aside) for each in answers}


async def test_an_answer_is_found_until_its_group_is_noted(store: Store) -> None:
    epoch = await store.issue_epoch(version())
    await store.answers.keep(epoch, [kept("a"), kept("b", "ü".encode()), kept("c")])
    assert await store.answers.find(epoch, ["b", "c", "d"]) == found(kept("b", "ü".encode()), kept("c"))
    await store.note(epoch, Note(group=1, answered=["a", "b", "never kept"]))
    assert await store.answers.find(epoch, ["a", "b", "c"]) == found(kept("c"))
    assert await store.answers.count() == 1


async def test_an_answer_that_is_given_again_takes_the_place_of_the_first(store: Store) -> None:
    epoch = await store.issue_epoch(version())
    await store.answers.keep(epoch, [kept("a", b"1")])
    await store.answers.keep(epoch, [kept("a", b"2"), kept("b")])
    assert (await store.answers.find(epoch, ["a"]), await store.answers.count()) == (found(kept("a", b"2")), 2)


async def test_what_a_dead_run_left_is_found_by_the_next(place: Path | Database, store: Store) -> None:
    first = await store.issue_epoch(version())
    await store.answers.keep(first, [kept("a")])
    other = make_store_in(place)
    await other.open()
    try:
        second = await other.issue_epoch(version())
        await other.answers.keep(second, [kept("b")])
        assert list(await other.answers.find(second, ["a", "b"])) in (["a", "b"], ["b", "a"])
        await other.note(second, Note(group=1, answered=["a", "b"]))
        assert await other.answers.find(second, ["a", "b"]) == {}
    finally:
        await other.close()


async def test_an_older_run_keeps_no_answer_any_more(store: Store) -> None:
    first = await store.issue_epoch(version())
    await store.issue_epoch(version())
    with pytest.raises(Fenced):
        await store.answers.keep(first, [kept("a")])
    assert await store.answers.count() == 0


async def test_answers_of_events_that_never_came_again_expire_a_few_at_a_time(store: Store) -> None:
    epoch = await store.issue_epoch(version())
    await store.answers.keep(epoch, [kept(f"old-{n}", at=10.0 + n) for n in range(5)] + [kept("new", at=1000.0)])
    gone = [await store.answers.expire(1000.0, 2) for _ in range(4)]
    assert gone == [2, 2, 1, 0]
    assert await store.answers.find(epoch, ["old-0", "old-4", "new"]) == found(kept("new"))


async def test_without_answers_of_earlier_runs_only_its_own_are_looked_up(place: Path | Database, store: Store) -> None:
    epoch = await store.issue_epoch(version())
    assert await store.answers.find(epoch, ["a"]) == {}
    other = make_store_in(place)
    await other.open()
    try:
        await other.answers.keep(epoch, [kept("a")])
    finally:
        await other.close()
    assert await store.answers.find(epoch, ["a"]) == {}, "nobody else writes under this epoch: it was not asked for"


async def test_the_answer_of_a_parked_event_outlives_its_note_and_is_known_for_one(store: Store) -> None:
    epoch = await store.issue_epoch(version())
    await store.answers.keep(epoch, [kept("a"), kept("b")])
    await store.note(epoch, Note(group=1, answered=["a"], set_aside=["b"]))
    assert await store.answers.find(epoch, ["a", "b"]) == found(kept("b"), aside=True)
    await store.answers.keep(epoch, [kept("b", b"asked again")])
    assert await store.answers.find(epoch, ["b"]) == found(kept("b", b"asked again"))
    await store.note(epoch, Note(group=2, answered=["b"]))
    assert (await store.answers.find(epoch, ["b"]), await store.answers.count()) == ({}, 0)
