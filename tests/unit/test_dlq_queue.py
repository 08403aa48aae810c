"""The dead letter queue over a real state store, and its documents."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from state_builders import letter, make_store, version

from dlq.documents import full_document, group_document, letter_document
from dlq.queue import DeadLetterQueue
from dlq.shipping import Shipping
from penstock.errors import UsageError, Violation
from penstock.state.letter_desk import Act
from penstock.state.pipeline_records import Note
from penstock.state.records import Delivered, LetterQuery
from penstock.state.sqlite_store import SqliteStateStore

ACT = Act("ann@here")
RECORD = b'{"specversion":"1.0","id":"a1","source":"s","type":"t","data":{"n":1180591620717411303424}}'


def decoded(document: dict[str, Any]) -> Any:
    return msgspec.json.decode(msgspec.json.encode(document))


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStateStore]:
    made = make_store(tmp_path)
    await made.open()
    await made.hold()
    epoch = await made.issue_epoch(version())
    letters = [letter(f"{n:02x}" * 8, n, fingerprint=f"1{n % 2}", record=RECORD, event=b'{"id":"a1"}') for n in range(1, 8)]
    await made.put_dead_letters(epoch, 1, letters, [])
    await made.note(epoch, Note(group=1))
    yield made
    await made.close()


async def statuses(store: SqliteStateStore) -> dict[str, int]:
    return {status: count for status, count in (await store.letter_counts()).items() if count}


async def test_pages_follow_each_other_without_bodies(store: SqliteStateStore) -> None:
    queue = DeadLetterQueue(store)
    found, cursor, ids = [], None, []
    while True:
        found, cursor = await queue.page(LetterQuery(), after=cursor, limit=3)
        ids += [each.id for each in found]
        assert all(each.original is None for each in found)
        if cursor is None:
            break
    assert ids == [f"{n:02x}" * 8 for n in range(1, 8)]


async def test_groups_count_causes_most_frequent_first(store: SqliteStateStore) -> None:
    groups = await DeadLetterQueue(store).groups(LetterQuery())
    assert [(group.fingerprint, group.count) for group in groups] == [("11", 4), ("10", 3)]
    assert group_document(groups[0]) == {
        "fingerprint": "11",
        "code": "validate.failed",
        "step": "validate-1",
        "message": "0707070707070707 has no price",
        "count": 4,
        "repeats": 0,
        "first_at": "1970-01-01T00:00:01.000Z",
        "last_at": "1970-01-01T00:00:07.000Z",
        "example": "0707070707070707",
        "timeline": None,
    }


async def test_one_is_shown_by_a_unique_prefix_whatever_its_status(store: SqliteStateStore) -> None:
    queue = DeadLetterQueue(store)
    await store.set_status(None, ["03" * 8], "resolved")
    assert (await queue.show("03")).original == b"raw"
    for prefix, code in (("0", "dlq.ambiguous"), ("ff", "dlq.unknown")):
        with pytest.raises(UsageError) as caught:
            await queue.show(prefix)
        assert caught.value.code == code


async def test_discarding_closes_what_is_open_and_nothing_else(store: SqliteStateStore) -> None:
    queue = DeadLetterQueue(store)
    await store.set_status(None, ["01" * 8], "resolved")
    await store.set_status(None, ["03" * 8], "replaying", job="j")
    assert await queue.discard(LetterQuery(fingerprint="11", status=("open", "replaying", "resolved")), ACT) == 2
    assert await statuses(store) == {"open": 3, "resolved": 1, "replaying": 1, "discarded": 2}
    assert await queue.discard(LetterQuery(ids=["02"]), ACT) == 1
    assert await queue.discard(LetterQuery(status=("resolved",)), ACT) == 0


async def test_discarding_one_that_is_settled_is_refused(store: SqliteStateStore) -> None:
    queue = DeadLetterQueue(store)
    await store.set_status(None, ["02" * 8], "resolved")
    with pytest.raises(UsageError) as caught:
        await queue.discard(LetterQuery(ids=["01", "02"]), ACT)
    assert (caught.value.code, "resolved" in caught.value.message) == ("dlq.not_open", True)
    assert await statuses(store) == {"open": 6, "resolved": 1}


async def test_what_a_replay_takes_up_while_it_is_looked_at_is_not_discarded(
    store: SqliteStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    letters = store.letters

    async def look(*query: Any, **how: Any) -> Any:
        found = await letters(*query, **how)
        await store.set_status(None, ["03" * 8], "replaying", job="j")
        return found

    monkeypatch.setattr(store, "letters", look)
    assert await DeadLetterQueue(store).discard(LetterQuery(), ACT) == 6
    assert await statuses(store) == {"replaying": 1, "discarded": 6}
    await store.note(1, Note(group=2, resolved=["03" * 8], ledgers={"a": "i", "b": "i"}))
    assert await statuses(store) == {"resolved": 1, "discarded": 6}


async def test_an_export_holds_every_record_with_its_bytes_and_exact_numbers(store: SqliteStateStore) -> None:
    lines = [text async for text in Shipping(store).export(LetterQuery())]
    documents = [msgspec.json.decode(line) for line in lines]
    assert [document["id"] for document in documents] == [f"{n:02x}" * 8 for n in range(1, 8)]
    assert base64.b64decode(documents[0]["original"]) == b"raw"
    assert documents[0]["received"]["data"] == {"n": 2**70}


def test_a_listed_letter_has_the_documented_keys_in_their_order() -> None:
    assert list(letter_document(letter("a1"))) == (
        "id pipeline fingerprint code step message event attempts repeats first_at last_at status version".split()
        + "lane retries next_retry_at".split()
    )


def test_the_full_document_adds_everything_that_is_kept() -> None:
    given = letter(
        "a1",
        why="w",
        help="h",
        violations=[Violation(".a", "type", "m")],
        owed=["db"],
        delivered=[Delivered("file", 1)],
        original=None,
        record=b"",
        source_record=b'{"op":"insert","total":12345678901234567890}',
    )
    document = decoded(full_document(given))
    assert document.items() >= decoded(letter_document(given)).items()
    assert {name: document[name] for name in document.keys() - letter_document(given).keys()} == {
        "why": "w",
        "help": "h",
        "violations": [{"path": ".a", "rule": "type", "message": "m"}],
        "partition": "p",
        "position": "00000001",
        "received": None,
        "edited": None,
        "source_record": {"op": "insert", "total": 12345678901234567890},
        "original": None,
        "original_length": 3,
        "original_digest": "d",
        "owed": ["db"],
        "delivered": [{"sink": "file", "output": 1}],
        "job": None,
        "history": [],
    }
