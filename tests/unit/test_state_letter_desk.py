"""The desk of dead letters: counts that the database keeps, filters, edits, history, letters from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest
from state_builders import claim_at, letter, note, version

from penstock.errors import UsageError
from penstock.ledger import JobRecord
from penstock.state.dialect import Connection
from penstock.state.letter_desk import Act
from penstock.state.letter_tally import BUCKET, DAY, HOUR, counted
from penstock.state.records import STATUSES, DeadLetter, Group, Happening, LetterQuery, LetterStats, Status, Timeline
from penstock.state.sqlite_store import SqliteStateStore
from penstock.state.store import StateStore

ANY = LetterQuery(status=())
ANN = Act("ann@here", "it was wrong")
AXES = ["status", "fingerprint", "code", "step", "type"]
NOW = 1_000_000.0
"""What the stores' clock says."""


@pytest.fixture
async def store(store: StateStore) -> StateStore:
    """A run holds it."""
    await store.hold()
    await store.issue_epoch(version())
    return store


def event(name: str, data: bytes) -> bytes:
    return b'{"specversion":"1.0","id":"%s","source":"file:in","type":"order.line","data":%s}' % (name.encode(), data)


def made(name: str, number: int = 1, data: bytes = b'{"total":1}', **changes: Any) -> DeadLetter:
    head = event(name, data).split(b',"data"')[0] + b"}"
    return letter(name, number, **{"record": event(name, data), "event": head, "violations": [], "delivered": [], **changes})


async def put(store: StateStore, *letters: DeadLetter, group: int = 1) -> None:
    await store.put_dead_letters(1, group, letters, [])
    await store.note(1, note(group))


async def ids(store: StateStore, query: LetterQuery) -> list[str]:
    found, cursor = [], None
    while True:
        letters, cursor = await store.letters(query, after=cursor, limit=3, bodies=False)
        found += [each.id for each in letters]
        if cursor is None:
            return found


async def assert_the_tally_is_right(store: SqliteStateStore) -> None:
    """What the triggers have kept equals what the letters themselves give, in each width."""
    letters, _ = await store.letters(ANY, limit=10_000, bodies=False)
    for width in (BUCKET, HOUR, DAY):
        expected: dict[tuple[object, ...], list[int]] = {}
        for each in letters:
            key = (each.status, each.fingerprint, each.code, each.step, each.type, int(each.first_at) // width * width)
            row = expected.setdefault(key, [0, 0, 0])
            row[0], row[1], row[2] = row[0] + 1, row[1] + each.repeats, row[2] + each.original_length
        rows = await store._database.read(partial(_counted, width=width))
        assert {row[:6]: list(row[6]) for row in rows} == expected


def _counted(connection: Connection, width: int) -> list[tuple[Any, ...]]:
    return counted(connection, ANY, AXES, stretch=width)


async def test_counts_follow_whatever_happens_to_letters(store: SqliteStateStore) -> None:
    random = Random(7)
    for group in range(1, 13):
        letters = [
            made(
                f"l{random.randrange(30)}",
                group,
                fingerprint=f"f{random.randrange(3)}",
                type=random.choice(["a", "b"]),
                first_at=random.uniform(0, 3 * DAY),
                original_length=random.randrange(50),
            )
            for _ in range(6)
        ]
        await put(store, *{each.id: each for each in letters}.values(), group=group)
        known = [each.id for each in (await store.letters(ANY, limit=100))[0]]
        await store.set_status(1, random.sample(known, 4), random.choice(STATUSES), among=None)
        await store.desk.discard(random.sample(known, 3), ["open"], ANN)
        await store.expire_letters(random.uniform(0, 100), limit=2)
        await assert_the_tally_is_right(store)
    assert sum((await store.letter_counts()).values()) == len((await store.letters(ANY, limit=100))[0])


async def test_a_tally_made_by_a_migration_equals_one_that_was_kept(store: SqliteStateStore) -> None:
    await put(store, *(made(f"l{n}", n, first_at=n * 4000.0) for n in range(1, 9)))
    await assert_the_tally_is_right(store)


async def test_each_filter_finds_what_it_names(store: StateStore) -> None:
    await put(
        store,
        made("a1", 1, fingerprint="1aa", code="x", step="s1", type="t1", first_at=10.0, last_at=500.0, owed=["lines"]),
        made("a2", 2, fingerprint="1ab", code="y", step="s1", type="t2", first_at=20.0, last_at=30.0, owed=["li", "table"]),
        made("b3", 3, b'{"total":7}', fingerprint="1ab", code="y", step="s2", type="t1", first_at=400.0, last_at=400.0,
             time="2026-11-01T00:00:00+02:00"),
    )  # fmt: skip
    expected: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["a1", "a2", "b3"]),
        ({"ids": ["a1", "b"]}, ["a1", "b3"]),
        ({"fingerprint": "1ab"}, ["a2", "b3"]),
        ({"code": "y"}, ["a2", "b3"]),
        ({"code": "z"}, []),
        ({"step": "s1"}, ["a1", "a2"]),
        ({"type": "t1"}, ["a1", "b3"]),
        ({"type": "t1", "step": "s2"}, ["b3"]),
        ({"after": 20.0}, ["a2", "b3"]),
        ({"before": 20.0}, ["a1"]),
        ({"after": 15.0, "before": 399.0}, ["a2"]),
        ({"seen_after": 400.0}, ["a1", "b3"]),
        ({"seen_before": 400.0}, ["a2"]),
        ({"owed": "lines"}, ["a1"]),
        ({"owed": "li"}, ["a2"]),
        ({"owed": "l"}, []),
        ({"filter": ".data.total > 5"}, ["b3"]),
        ({"filter": '.id | startswith("a")', "after": 15.0}, ["a2"]),
        ({"event_after": 1793484000.0, "event_before": 1793484001.0}, ["b3"]),
        ({"event_before": 1793484000.0}, []),
        ({"status": ["resolved"]}, []),
    ]
    for changes, wanted in expected:
        query = LetterQuery(**changes)
        assert await ids(store, query) == wanted, changes
        groups, stats = await store.letter_groups(query), await store.desk.stats(query)
        assert (sum(group.count for group in groups), stats.letters) == (len(wanted), len(wanted)), changes
        line = await store.desk.timeline(query, 4)
        assert (sum(map(sum, line.cells.values())) if line else 0) == len(wanted), changes
    for changes, candidates in (({"ids": ["a"]}, "a1, a2"), ({"fingerprint": "1"}, "1aa, 1ab")):
        with pytest.raises(UsageError, match="more than one") as caught:
            await ids(store, LetterQuery(**changes))
        assert (caught.value.code, caught.value.why) == ("dlq.ambiguous", candidates)


@pytest.mark.parametrize(
    "query", [ANY, LetterQuery(status=(), after=450.0, before=1300.5), LetterQuery(status=(), filter="true")]
)
async def test_groups_say_the_same_however_they_were_counted(store: StateStore, query: LetterQuery) -> None:
    letters = [
        made(f"l{n}", n, fingerprint=f"f{n % 2}", first_at=n * 100.0, last_at=n * 100.0 + n % 3, repeats=n, type=f"t{n % 3}")
        for n in range(1, 20)
    ]
    await put(store, *letters)
    await store.set_status(1, ["l4", "l5"], "resolved")
    chosen = [each for each in letters if (query.after or 0) <= each.first_at < (query.before or 1e9)]
    expected = [
        Group(
            name, "validate.failed", "validate-1", f"{own[-1].id} has no price", len(own), sum(each.repeats for each in own),
            own[0].first_at, max(each.last_at for each in own), own[-1].id,
        )
        for name in ("f1", "f0")
        if (own := [each for each in chosen if each.fingerprint == name])
    ]  # fmt: skip
    found = await store.letter_groups(query)
    assert found == sorted(expected, key=lambda group: (-group.count, group.fingerprint))


async def test_a_timeline_has_cells_that_fit_its_range(store: StateStore) -> None:
    assert await store.desk.timeline(ANY, 10) is None
    await put(store, made("a", 1, first_at=0.0), made("b", 2, first_at=299.0), made("c", 3, first_at=1500.0, fingerprint="f2"))
    assert await store.desk.timeline(ANY, 3) == Timeline(0, 600, {"f1": [2, 0, 0], "f2": [0, 0, 1]})
    await put(store, made("d", 4, first_at=30.0 * DAY), group=2)
    line = await store.desk.timeline(ANY, 5)
    assert line is not None
    assert (len(line.cells["f1"]), sum(line.cells["f1"]), line.cells["f1"][0], line.cells["f1"][-1]) == (5, 3, 2, 1)


async def test_figures_of_letters(store: StateStore) -> None:
    await put(
        store,
        made("a", 1, first_at=10.0, repeats=2, original_length=5, code="x"),
        made("b", 2, first_at=DAY + 1.0, original_length=7, step="s", type="t"),
        made("c", 3, first_at=5.0),
    )
    await store.set_status(1, ["c"], "resolved")
    assert await store.desk.stats(ANY) == LetterStats(
        letters=3,
        repeats=2,
        bytes=15,
        by_status={"open": 2, "resolved": 1},
        by_code={"validate.failed": 2, "x": 1},
        by_step={"validate-1": 2, "s": 1},
        by_type={"order.line": 2, "t": 1},
        by_day={0: 2, DAY: 1},
        oldest=10.0,
    )
    assert await store.desk.stats(replace(ANY, filter='.id == "c"')) == await store.desk.stats(LetterQuery(status=["resolved"]))
    assert await store.desk.stats(LetterQuery(code="none")) == LetterStats()


async def test_a_filter_looks_at_events_page_by_page_and_says_what_it_cannot_judge(store: StateStore) -> None:
    await put(store, *(made(f"l{n:04}", n, b'{"n":%d}' % n) for n in range(1, 1300)))
    assert await ids(store, LetterQuery(filter=".data.n % 600 == 0")) == ["l0600", "l1200"]
    letters, cursor = await store.letters(LetterQuery(filter=".data.n == 1299"), limit=5)
    assert (letters, cursor is not None) == ([], True)  # a page looks at so many, then others may have the store
    letters, cursor = await store.letters(LetterQuery(filter=".data.n == 1299"), after=cursor, limit=5)
    assert ([each.record for each in letters], cursor) == ([event("l1299", b'{"n":1299}')], None)
    for program, code in ((".data.n.x == 1", "dlq.filter_failed"), (".data[", "dlq.bad_filter")):
        with pytest.raises(UsageError) as caught:
            await store.letters(LetterQuery(filter=program))
        assert caught.value.code == code


async def test_an_edit_is_kept_beside_what_came(store: StateStore) -> None:
    await put(store, made("a"))
    ((before,), _) = await store.letters(ANY)
    new = event("a", b'{"total":2}')
    assert await store.desk.edit(before, new, ["open"], ANN)
    ((edited,), _) = await store.letters(ANY)
    assert (edited, edited.effective) == (replace(before, edited=new), new)
    assert not await store.desk.edit(before, new, ["open"], ANN)  # somebody else was quicker
    assert not await store.desk.edit(edited, None, ["parked"], ANN)
    assert [each.id for each in (await store.letters(LetterQuery(filter=".data.total == 2")))[0]] == ["a"]
    assert await store.desk.edit(edited, None, ["open"], Act("bob@there"))
    assert (await store.letters(ANY))[0] == [before]
    texts = {"before": before.record.decode(), "after": new.decode()}
    assert await store.desk.history("a") == [
        Happening(NOW, "edited", "ann@here", {"reason": "it was wrong", **texts}),
        Happening(NOW, "restored", "bob@there", {"before": texts["after"], "after": texts["before"]}),
    ]


async def test_an_edited_event_that_fails_again_loses_neither_the_edit_nor_what_came(store: StateStore) -> None:
    await put(store, made("a", original=b"raw bytes", source_record=b'{"op":"insert"}'))
    ((before,), _) = await store.letters(ANY)
    await store.desk.edit(before, event("a", b'{"total":2}'), ["open"], ANN)
    await store.set_status(1, ["a"], "replaying", job="j1")
    again = made("a", data=b'{"total":2}', original=b"other", original_digest="e", key=b"2" * 16, message="anew", owed=["a"])
    await store.note(1, note(2, at=5.0, failed_again=[again], ledgers={"a": "i", "b": "i"}))
    ((after,), _) = await store.letters(ANY)
    assert (after.record, after.original, after.source_record) == (before.record, b"raw bytes", b'{"op":"insert"}')
    assert (after.key, after.original_digest, after.edited) == (before.key, "d", event("a", b'{"total":2}'))
    assert (after.message, after.attempts, after.owed, after.status) == ("anew", 2, ["a"], "open")
    assert (await store.desk.history("a"))[1:] == [
        Happening(5.0, "replayed", "", {"job": "j1", "result": "failed again in validate-1: anew", "code": "validate.failed"})
    ]


async def test_history_tells_what_replays_did(store: StateStore) -> None:
    await put(store, made("a"), made("b", 2), made("c", 3))
    await store.set_status(1, ["a", "b"], "replaying", job="j1")
    await store.note(1, note(2, at=5.0, resolved=["a"], ledgers={"a": "i", "b": "i"}, superseded=["c"]))
    await store.note(1, note(3, at=6.0, resolved=["b"], ledgers={"a": "i"}))
    assert {name: await store.desk.history(name) for name in "abc"} == {
        "a": [Happening(5.0, "replayed", "", {"job": "j1", "result": "delivered"})],
        "b": [Happening(6.0, "replayed", "", {"job": "j1", "result": "delivered, still owed to other sinks"})],
        "c": [Happening(5.0, "superseded", "")],
    }


async def test_history_tells_of_a_replay_that_died_once(store: StateStore) -> None:
    await put(store, made("a", owed=["a"]))
    await store.set_status(1, ["a"], "replaying", job="j1")
    claim = claim_at(1, jobs=[JobRecord("j1", "a")])
    for _ in range(2):
        await store.settle(1, {"a": claim})
    assert await store.desk.history("a") == [Happening(NOW, "replayed", "", {"job": "j1", "result": "delivered"})]


async def test_letters_from_elsewhere_are_taken_in_once(store: StateStore) -> None:
    await put(store, made("a"))
    status: Status = "discarded"
    other = made("b", 2, pipeline="elsewhere", status=status, edited=event("b", b"2"), reread=True, repeats=4)
    history = [Happening(3.0, "discarded", "eve@far", {"reason": "r"})]
    outcomes = await store.desk.take_in([(other, history), (made("a", message="other"), []), (other, [])], ANN)
    assert [each and each.id for each in outcomes] == [None, "a", "b"]
    found, _ = await store.letters(ANY)
    assert found == [made("a"), replace(other, pipeline="orders")]
    assert await store.desk.history("b") == [*history, Happening(NOW, "imported", "ann@here", {"reason": "it was wrong"})]
    assert await store.letter_counts() == {"open": 1, "discarded": 1}


async def test_a_job_goes_by_whole_ids_whatever_was_asked(store: StateStore) -> None:
    await put(store, *(made(f"l{n}", n, b'{"n":%d}' % n, fingerprint=f"1{n}") for n in range(1, 5)))
    expected = {
        LetterQuery(ids=("l1",), fingerprint="12"): LetterQuery(ids=["l1"], fingerprint="12"),
        LetterQuery(filter=".data.n > 2"): LetterQuery(ids=["l3", "l4"]),
        LetterQuery(owed="a", seen_before=2.0): LetterQuery(ids=["l1"]),
        LetterQuery(owed="nobody"): LetterQuery(ids=["-"]),
    }
    for query, wanted in expected.items():
        assert (await store.bounded(query))[0] == wanted
