"""What a run writes into its journal: a line for each event that came in, whatever became of it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import engine_records
import pytest
from engine_parts import (
    Feed,
    Shelf,
    Table,
    bad,
    crash,
    dedup,
    kept,
    make_pipeline,
    numbers,
    run_once,
    sink,
    step,
)
from engine_parts import parts as parts
from engine_replay_parts import again, said

from penstock.clock import rfc3339
from penstock.config.model import DeadLetters, EventFields, Journal, Pipeline
from penstock.errors import BatchError, Fatal, Permanent
from penstock.event import Event
from penstock.journal.lines import VERSION_DIGITS, answers_text, decode_line, head_text, outcome_text
from penstock.journal.reader import EVER, JournalReader, Record
from penstock.testing.clock import FakeClock
from penstock.testing.journal_check import journal_findings, journal_lines


def journalled(directory: Path, feed: Feed, *arguments: Any, outputs: Any = "digest", **changes: Any) -> Pipeline:
    """A pipeline with a journal."""
    journal = Journal(directory / "journal", outputs=outputs)
    return make_pipeline(directory, feed, *arguments, journal=journal, version="f" * 64, **changes)


def lines(pipeline: Pipeline) -> list[dict[str, Any]]:
    assert pipeline.journal is not None
    return list(journal_lines(pipeline.journal.directory))


def records(pipeline: Pipeline) -> list[Record]:
    assert pipeline.journal is not None
    return list(JournalReader(pipeline.journal.directory).range(*EVER))


async def sound(pipeline: Pipeline) -> None:
    """It agrees with the state store about counts and dead letters."""
    remains = await kept(pipeline)
    totals = {name: getattr(remains.totals, name) for name in ("delivered", "filtered", "deduplicated", "dead_lettered")}
    assert pipeline.journal is not None
    assert journal_findings(pipeline.journal.directory, totals, [letter.id for letter in remains.letters]) == []


def outcomes(found: Sequence[Record]) -> list[tuple[str, str]]:
    return [(record.line.received().id, record.line.outcome) for record in found]


def test_the_oracle_finds_what_is_wrong(tmp_path: Path) -> None:
    assert journal_findings(tmp_path, {"delivered": 1, "filtered": 0, "deduplicated": 0, "dead_lettered": 0}, ["x"]) == [
        "outcomes {'delivered': 0, 'filtered': 0, 'deduplicated': 0, 'dead_lettered': 0} instead of "
        "{'delivered': 1, 'filtered': 0, 'deduplicated': 0, 'dead_lettered': 0}",
        "dead letters ['x'] are in the journal or the store alone",
    ]


async def test_a_line_says_when_where_and_what_came_in_and_what_became_of_it(tmp_path: Path) -> None:
    clock = FakeClock()
    pipeline = journalled(tmp_path, Feed.of({"n": 0}, {"n": 1}), sink("shelf", Shelf()))
    await run_once(pipeline, clock=clock)
    [first, second] = lines(pipeline)
    assert list(first) == ["at", "partition", "version", "position", "outcome", "outputs", "event"]
    assert first == {
        "at": rfc3339(clock.now()),
        "partition": "p",
        "version": "f" * VERSION_DIGITS,
        "position": "0000000000000001",
        "outcome": "delivered",
        "outputs": [first["outputs"][0]],
        "event": {"specversion": "1.0", "id": "p0", "source": "list:orders", "type": "order", "data": {"n": 0}},
    }
    assert first["outputs"] != second["outputs"]
    [record, _] = records(pipeline)
    event = record.line.received()
    assert (event.id, event.position, event.raw, event.data) == ("p0", (1).to_bytes(8, "big"), b'{"n":0}', {"n": 0})
    await sound(pipeline)


async def test_every_outcome_has_its_line(tmp_path: Path) -> None:
    """Delivered, filtered, deduplicated; dead-lettered by the source, the decoding, `event:`, a step and a sink."""

    def check(event: Event) -> Any:
        if event.data["n"] == 3:
            return Permanent("check.odd", "odd")
        return [] if event.data["n"] == 2 else event

    def plan(events: Sequence[Event]) -> None:
        failed = {place: bad("shelf.odd") for place, event in enumerate(events) if event.data["n"] == 4}
        if failed:
            raise BatchError(failed)

    feed = Feed.of({"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}, {"n": 1}, b'{"n":', Permanent("source.odd", "odd"), batch=3)
    shelf = Shelf(plan=plan)
    pipeline = journalled(tmp_path, feed, sink("shelf", shelf), steps=[step("check", check)], dedup=dedup(".data.n"))
    await run_once(pipeline)
    said = {line["event"]["id"]: (line["outcome"], line.get("step")) for line in lines(pipeline)}
    assert said == {
        "p0": ("delivered", None),
        "p1": ("filtered", None),
        "p2": ("dead_lettered", "check"),
        "p3": ("dead_lettered", "shelf"),
        "p4": ("deduplicated", None),
        "p5": ("dead_lettered", "decode"),
        "p6": ("dead_lettered", "source"),
    }
    originals = {line["event"]["id"]: line.get("original") for line in lines(pipeline)}
    assert {key: base64.b64decode(text) for key, text in originals.items() if text} == {"p5": b'{"n":', "p6": b"what came"}
    letters = {letter.event_id: letter.id for letter in (await kept(pipeline)).letters}
    assert {line["event"]["id"]: line["letter"] for line in lines(pipeline) if "letter" in line} == letters
    assert [record.line.received().original for record in records(pipeline)][5:] == [b'{"n":', b"what came"]
    await sound(pipeline)


@pytest.mark.parametrize("refused", [("p1",), ("p0", "p2", "p5")])
async def test_what_a_ledger_refuses_is_corrected_in_the_same_commit(tmp_path: Path, refused: tuple[str, ...]) -> None:
    table = Table(tmp_path / "t.db", refused=set(refused))
    pipeline = journalled(tmp_path, Feed.of(*numbers(6), batch=6), sink("table", table))
    await run_once(pipeline)
    written = lines(pipeline)
    assert [line["event"]["id"] for line in written if "event" in line] == [f"p{n}" for n in range(6)]
    assert [(line["corrects"], line["outcome"], line["step"]) for line in written if "corrects" in line] == [
        (name, "dead_lettered", "table") for name in refused
    ]
    assert outcomes(records(pipeline)) == [(f"p{n}", "dead_lettered" if f"p{n}" in refused else "delivered") for n in range(6)]
    await sound(pipeline)


async def test_attributes_that_the_pipeline_changed_are_kept_as_they_were(tmp_path: Path) -> None:
    feed = Feed.of({"n": 7, "at": "2026-01-02T03:04:05Z"})
    fields = EventFields(id=".n | tostring", type="made", time=".at", subject=".n | tostring")
    pipeline = journalled(tmp_path, feed, sink("shelf", Shelf()), event=fields)
    await run_once(pipeline)
    [line] = lines(pipeline)
    assert line["event"] | {"data": None} == {
        "specversion": "1.0", "id": "7", "source": "list:orders", "type": "made", "time": "2026-01-02T03:04:05Z",
        "subject": "7", "data": None,
    }  # fmt: skip
    assert line["given"] == {"id": "p0", "type": "order", "time": None, "subject": None}
    [record] = records(pipeline)
    assert (record.line.filled().id, record.line.received().id, record.line.received().time) == ("7", "p0", None)
    reader = JournalReader(tmp_path / "journal")
    assert [len(list(reader.find(name))) for name in ("7", "p0", "p1")] == [1, 1, 0]
    start = 1767323045.0
    assert (len(list(reader.range(start, start + 1))), len(list(reader.range(start + 1, start + 9)))) == (1, 0)


async def test_an_event_that_event_cannot_fill_is_kept_as_it_came(tmp_path: Path) -> None:
    pipeline = journalled(tmp_path, Feed.of({"n": 1}), sink("shelf", Shelf()), event=EventFields(time=".n"))
    await run_once(pipeline)
    [line] = lines(pipeline)
    assert (line["outcome"], line["step"], "given" in line, line["event"]["data"]) == ("dead_lettered", "event", False, {"n": 1})


async def test_the_record_is_kept_where_it_is_more_than_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = engine_records.ListSource._event

    def with_record(self: Any, partition: str, number: int, record: Any) -> Event:
        event = plain(self, partition, number, record)
        event.record = {"op": "insert", "after": event.data, "big": 10**30}
        event.original = b"\x00change"
        return event

    monkeypatch.setattr(engine_records.ListSource, "_event", with_record)
    pipeline = journalled(tmp_path, Feed.of({"n": 1}), sink("shelf", Shelf()))
    await run_once(pipeline)
    [line] = lines(pipeline)
    assert (line["record"], line["original"]) == (
        {"op": "insert", "after": {"n": 1}, "big": 10**30},
        base64.b64encode(b"\x00change").decode(),
    )
    event = records(pipeline)[0].line.received()
    assert (event.record, event.original) == ({"op": "insert", "after": {"n": 1}, "big": 10**30}, b"\x00change")


@pytest.mark.parametrize("outputs", ["off", "digest", "full"])
async def test_outputs_are_kept_as_declared(tmp_path: Path, outputs: str) -> None:
    def split(event: Event) -> list[Event]:
        return [event.replace(decoded={"part": part}) for part in range(event.data["n"])]

    feed = Feed.of({"n": 2}, {"n": 0}, {"n": 1}, {"n": 1})
    pipeline = journalled(tmp_path, feed, sink("shelf", Shelf()), steps=[step("split", split)], outputs=outputs)
    await run_once(pipeline)
    kept_outputs = [line.get("outputs") for line in lines(pipeline)]
    if outputs == "off":
        assert kept_outputs == [None] * 4
    elif outputs == "digest":
        assert [len(each) for each in kept_outputs] == [2, 0, 1, 1]
        assert kept_outputs[0][0] != kept_outputs[0][1]
        assert kept_outputs[2] == kept_outputs[3], "one program, one output"
        assert all(len(text) == 8 for each in kept_outputs for text in each)
    else:
        parts = [[event["data"]["part"] for event in each] for each in kept_outputs]
        assert parts == [[0, 1], [], [0], [0]]
        assert kept_outputs[2][0]["id"] == "p2"


async def test_numbers_and_text_are_kept_exactly(tmp_path: Path) -> None:
    data = b'{"a": 123456789012345678901234567890, "b": 1.10, "c": "\\u00e9\\n\\u2028", "d": [1e5, -0.0]}'
    pipeline = journalled(tmp_path, Feed.of(data, b'{\n  "n": 1\n}'), sink("shelf", Shelf()))
    await run_once(pipeline)
    first, second = (record.line.received() for record in records(pipeline))
    assert (first.raw, second.data) == (data, {"n": 1})


async def test_what_every_ledger_holds_already_is_not_written_again(tmp_path: Path) -> None:
    """Killed between the ledger's commit and its note: the group is read again, and is journalled already."""
    feed, table = Feed.of(*numbers(6), batch=2), Table(tmp_path / "t.db")
    pipeline = journalled(tmp_path, feed, sink("table", table))
    await crash(pipeline, "before_note", 2)
    await run_once(pipeline)
    assert Counter(line["event"]["id"] for line in lines(pipeline)) == Counter(f"p{n}" for n in range(6))
    await sound(pipeline)


@pytest.mark.parametrize(
    "point", ["inside_journal", "after_journal", "before_commit", "between_ledgers", "before_note", "after_note"]
)
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("positions", [True, False])
async def test_a_crash_anywhere_in_a_commit_leaves_each_event_once(tmp_path: Path, point: str, nth: int, positions: bool) -> None:
    feed, table, shelf = Feed.of(*numbers(6), batch=2, positions=positions), Table(tmp_path / "t.db"), Shelf()
    table.refused = {"p1", "p4"}
    pipeline = journalled(tmp_path, feed, sink("table", table), sink("shelf", shelf))
    await crash(pipeline, point, nth)
    await run_once(pipeline)
    assert sorted(outcomes(records(pipeline))) == [
        (f"p{n}", "dead_lettered" if f"p{n}" in table.refused else "delivered") for n in range(6)
    ]
    if positions:
        await sound(pipeline)


async def test_a_group_that_is_redone_in_halves_is_written_once(tmp_path: Path) -> None:
    """`lane: stop`: what comes before the event that failed is committed, in a smaller group."""
    table = Table(tmp_path / "t.db", refused={"p3"})
    pipeline = journalled(tmp_path, Feed.of(*numbers(6), batch=6), sink("table", table), dead_letter=DeadLetters(lane="stop"))
    with pytest.raises(Fatal, match="p3"):
        await run_once(pipeline)
    assert outcomes(records(pipeline)) == [("p0", "delivered"), ("p1", "delivered"), ("p2", "delivered")]
    table.refused.clear()
    await run_once(pipeline)
    assert outcomes(records(pipeline)) == [(f"p{n}", "delivered") for n in range(6)]
    await sound(pipeline)


async def test_a_replay_tells_what_became_of_the_event_and_repeats_nothing_of_it(tmp_path: Path) -> None:
    refused = {"p1", "p2"}

    def check(event: Event) -> Any:
        return Permanent("check.odd", "odd") if event.id in refused else event

    pipeline = journalled(tmp_path, Feed.of(*numbers(4)), sink("shelf", Shelf()), steps=[step("check", check)])
    await run_once(pipeline)
    refused.discard("p1")
    assert said(await again(pipeline)) == (2, 1, 0, 0, 1)
    told = [(line["corrects"], line["outcome"], bool(line["job"])) for line in lines(pipeline) if "corrects" in line]
    assert told == [("p1", "delivered", True), ("p2", "dead_lettered", True)]
    assert outcomes(records(pipeline)) == [
        ("p0", "delivered"), ("p1", "dead_lettered"), ("p2", "dead_lettered"), ("p3", "delivered"),
    ]  # fmt: skip
    assert JournalReader(tmp_path / "journal").extent().lines == 4


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, b"bytes", "\ud800"])
async def test_data_that_has_no_json_form_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    """A plugin's source gave values that JSON cannot say, and the pipeline drops them."""
    plain = engine_records.ListSource._event

    def odd(self: Any, partition: str, number: int, record: Any) -> Event:
        event = plain(self, partition, number, record)
        return event.replace(decoded=value, raw=None) if number == 1 else event

    monkeypatch.setattr(engine_records.ListSource, "_event", odd)
    shelf = Shelf()
    pipeline = journalled(
        tmp_path,
        Feed.of(*numbers(3)),
        sink("shelf", shelf),
        steps=[step("drop", lambda event: [] if event.id == "p1" else event)],
    )
    await run_once(pipeline)
    assert shelf.ids == ["p0", "p2"]
    assert [line["outcome"] for line in lines(pipeline)] == ["delivered", "filtered", "delivered"]
    whole = isinstance(value, (set, bytes))
    assert [(line.get("no_json") is None, len(line["event"])) for line in lines(pipeline)] == [
        (True, 5),
        (whole, 5 if whole else 4),
        (True, 5),
    ]


def test_the_format_has_room_for_answers() -> None:
    head = head_text("2026-01-01T00:00:00.000Z", "p", "v") + outcome_text("delivered", None, None)
    answers = {"ask": b'{"status":200,"body":[1]}', 'odd "name"': b"null"}
    line = decode_line(head + answers_text(answers) + b"}")
    assert {name: bytes(answer) for name, answer in (line.answers or {}).items()} == answers
    assert answers_text({}) == b""
    assert json.loads(head + b"}")["outcome"] == "delivered"
