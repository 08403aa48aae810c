"""What a run says beside its events, and what it lets expire."""

from __future__ import annotations

from pathlib import Path

import pytest
from state_builders import letter, make_store, note, version

from penstock.config.model import DeadLetters
from penstock.engine.upkeep import REPORT_AFTER, Upkeep
from penstock.faults import Faults
from penstock.observe.log import Incident
from penstock.observe.status import RunStatus
from penstock.state.answer_book import KEPT_FOR
from penstock.state.answer_tables import KeptAnswer
from penstock.state.open import open_store
from penstock.state.records import LetterQuery
from penstock.testing.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def said() -> list[Incident]:
    return []


@pytest.fixture
def upkeep(tmp_path: Path, clock: FakeClock, said: list[Incident]) -> Upkeep:
    store = open_store(tmp_path, "shop", clock, Faults())
    return Upkeep(DeadLetters(alert_threshold=3), store, RunStatus("shop", "v1"), clock, said.append)


async def test_a_long_wait_is_reported_once_and_so_is_its_end(upkeep: Upkeep, clock: FakeClock, said: list[Incident]) -> None:
    upkeep.status.wait("sink", "sink.no_space: the disk is full")
    upkeep.watch()
    assert said == []
    await clock.advance(REPORT_AFTER)
    upkeep.watch()
    upkeep.watch()
    upkeep.status.wait("sink", None)
    upkeep.watch()
    upkeep.watch()
    assert [incident.code for incident in said] == ["run.waiting", "run.resumed"]
    assert "the disk is full" in said[0].message


async def test_a_short_wait_is_no_incident(upkeep: Upkeep, clock: FakeClock, said: list[Incident]) -> None:
    upkeep.status.wait("sink", "busy")
    upkeep.watch()
    await clock.advance(REPORT_AFTER / 2)
    upkeep.status.wait("sink", None)
    upkeep.watch()
    assert said == []


def test_crossing_the_threshold_of_dead_letters_warns_each_time_it_is_crossed(upkeep: Upkeep, said: list[Incident]) -> None:
    alarmed = []
    for count in (2, 3, 4, 1, 5):
        upkeep.status.open_letters = count
        upkeep.watch()
        alarmed.append(upkeep.status.alarmed)
    assert alarmed == [False, True, True, False, True]
    assert [incident.message for incident in said] == [
        "shop: 3 dead letters are open",
        "shop: 1 dead letters are open, fewer than 3 again",
        "shop: 5 dead letters are open",
    ]
    assert said[0].help == "pipe dlq groups shop"


async def test_what_people_do_beside_a_run_is_counted(tmp_path: Path, clock: FakeClock, said: list[Incident]) -> None:
    store = make_store(tmp_path)
    await store.open()
    try:
        epoch = await store.issue_epoch(version())
        await store.put_dead_letters(epoch, 1, [letter(f"l{n}", n) for n in range(1, 5)], ())
        await store.note(epoch, note(1))
        upkeep = Upkeep(DeadLetters(), store, RunStatus("orders", "v1", open_letters=4), clock, said.append)
        await store.set_status(None, ["l1", "l2"], "discarded")
        await store.set_status(None, ["l3"], "replaying")
        await upkeep.recount()
        assert upkeep.status.open_letters == 2
    finally:
        await store.close()


async def test_settled_dead_letters_older_than_their_retention_expire(
    tmp_path: Path, clock: FakeClock, said: list[Incident]
) -> None:
    store = make_store(tmp_path)
    await store.open()
    try:
        epoch = await store.issue_epoch(version())
        old, young = letter("old", 1, first_at=0.0, last_at=0.0), letter("young", 2, first_at=clock.now(), last_at=clock.now())
        await store.put_dead_letters(epoch, 1, [old, young, letter("unsettled", 3)], ())
        await store.note(epoch, note(1))
        await store.set_status(epoch, ["old", "young"], "resolved")
        await Upkeep(DeadLetters(retention=60.0), store, RunStatus("orders", "v1"), clock, said.append).expire()
        letters, _ = await store.letters(LetterQuery(status=()))
        assert [found.id for found in letters] == ["unsettled", "young"]
    finally:
        await store.close()


async def test_answers_that_nobody_waits_for_any_more_expire(tmp_path: Path, clock: FakeClock, said: list[Incident]) -> None:
    store = make_store(tmp_path)
    await store.open()
    try:
        epoch, now = await store.issue_epoch(version()), clock.now()
        times = {"old": now - KEPT_FOR - 1, "young": now - KEPT_FOR + 1}
        await store.answers.keep(epoch, [KeptAnswer(name, "charge", "k", "d", b"{}", at) for name, at in times.items()])
        await Upkeep(DeadLetters(), store, RunStatus("orders", "v1"), clock, said.append).expire()
        assert list(await store.answers.find(epoch, ["old", "young"])) == ["young"]
    finally:
        await store.close()
