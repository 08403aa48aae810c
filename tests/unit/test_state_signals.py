"""Signals and the pause in the state store, on SQLite and on PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest
from state_builders import Store, clock_of, make_store_in, version

from penstock.errors import Fenced
from penstock.state import signal_tables
from penstock.state.signal_records import Inbox, Pause, SignalRecord
from penstock.testing.servers import Database

NOW = 1_000_000.0


async def test_a_signal_waits_is_taken_and_decided_once(store: Store) -> None:
    epoch, clock = await store.issue_epoch(version()), clock_of(store)
    first = await store.signals.send("snapshot", ["public.orders", 'odd "name"'], "ann@here")
    second = await store.signals.send("snapshot", [], "bob@there")
    sent = SignalRecord(first, "snapshot", ("public.orders", 'odd "name"'), NOW, "ann@here")
    other = SignalRecord(second, "snapshot", (), NOW, "bob@there")
    assert (first, second) == (1_000_000, 1_000_001)
    assert await store.signals.inbox() == Inbox(None, [sent, other])

    clock.time += 5
    await store.signals.take(epoch, first)
    clock.time += 1
    await store.signals.decide(epoch, first, "refused", "no such table")
    await store.signals.decide(epoch, first, "accepted")
    await store.signals.take(epoch, first)
    clock.time += 1
    await store.signals.decide(epoch, second, "accepted")

    refused = SignalRecord(first, "snapshot", sent.arguments, NOW, "ann@here", NOW + 5, NOW + 6, "refused", "no such table")
    accepted = SignalRecord(second, "snapshot", (), NOW, "bob@there", NOW + 7, NOW + 7, "accepted", None)
    assert await store.signals.inbox() == Inbox(None, [])
    assert await store.signals.latest() == [accepted, refused]
    assert await store.signals.latest(1) == [accepted]
    assert (await store.signals.find(first), await store.signals.find(7)) == (refused, None)


async def test_a_run_that_was_fenced_takes_and_decides_nothing(store: Store) -> None:
    old = await store.issue_epoch(version())
    new = await store.issue_epoch(version())
    signal = await store.signals.send("snapshot", ["t"], "ann@here")
    with pytest.raises(Fenced):
        await store.signals.take(old, signal)
    with pytest.raises(Fenced):
        await store.signals.decide(old, signal, "accepted")
    assert [(one.taken_at, one.outcome) for one in (await store.signals.inbox()).waiting] == [(None, None)]
    await store.signals.decide(new, signal, "accepted")
    assert (await store.signals.inbox()).waiting == []


async def test_a_pause_stays_as_the_first_who_asked_left_it_until_somebody_resumes(store: Store, place: Path | Database) -> None:
    clock = clock_of(store)
    assert await store.signals.paused() is None
    first = await store.signals.pause("ann@here", "the sink moves")
    clock.time += 5
    again = await store.signals.pause("bob@there")
    paused = Pause(NOW, "ann@here", "the sink moves")
    assert await store.signals.paused() == paused
    await store.close()
    other = make_store_in(place)
    await other.open(create=False)
    inbox = await other.signals.inbox()
    assert inbox.pause == paused
    assert [(one.id, one.kind, one.arguments) for one in inbox.waiting] == [
        (first, "pause", ("the sink moves",)),
        (again, "pause", ()),
    ]
    resumed = await other.signals.resume("ann@here")
    await other.signals.resume("ann@here")
    inbox = await other.signals.inbox()
    assert (inbox.pause, [one.kind for one in inbox.waiting]) == (None, ["pause", "pause", "resume", "resume"])
    assert first < again < resumed
    await other.close()


async def test_ids_rise_through_a_clock_that_goes_back_and_beyond_those_of_a_backup(store: Store) -> None:
    clock = clock_of(store)
    ids = [await store.signals.send("snapshot", [], "ann@here")]
    clock.time -= 3600
    ids.append(await store.signals.send("snapshot", [], "ann@here"))
    clock.time += 7200.5
    ids.append(await store.signals.send("snapshot", [], "ann@here"))
    assert ids == [1_000_000, 1_000_001, 1_003_600]


async def test_of_signals_that_were_decided_the_latest_are_kept_and_all_that_wait(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal_tables, "KEPT", 3)
    epoch = await store.issue_epoch(version())
    ids = []
    for number in range(7):
        ids.append(await store.signals.send("snapshot", [str(number)], "ann@here"))
        if number != 1:
            await store.signals.decide(epoch, ids[-1], "accepted")
    assert [one.id for one in await store.signals.latest()] == [ids[6], ids[5], ids[4], ids[1]]
