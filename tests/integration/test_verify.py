"""`pipe verify`: every event of a range is accounted for, from the source to the sinks, or named."""

from __future__ import annotations

from pathlib import Path

import pytest
from backfill_parts import BEGAN, run_shop, write_events, write_shop
from verify_parts import cut_line, gaps, state_of, verified

import penstock
from penstock.errors import UsageError

MINUTE = 60.0
COUNTS = {"delivered": 896, "filtered": 100, "deduplicated": 0, "dead_lettered": 4}
"""Of the shop's thousand events."""

pytestmark = pytest.mark.usefixtures("here")


async def test_a_range_in_which_nothing_is_missing_is_accounted_for(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path)
    report = await verified(shop)
    assert gaps(report) == []
    assert report["journal"] == {"events": 1000, **COUNTS, "received_again": 0, "began": report["journal"]["began"]}
    assert report["dead_letters"] == {"open": 4, "settled_and_gone": 0, "imported": 0, "older_than_the_journal": 0}
    assert report["source"]["events"] == report["source"]["journalled"] == 1000
    assert [(sink["name"], sink["outputs"], sink["absent"]) for sink in report["sinks"]] == [("even", 498, 0), ("all", 896, 0)]


async def test_a_part_of_the_range_is_looked_at_alone(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path)
    report = await verified(shop, BEGAN + 100 * MINUTE, BEGAN + 200 * MINUTE)
    assert gaps(report) == []
    assert report["journal"]["events"] == report["source"]["events"] == 100
    assert report["sinks"][1]["outputs"] == 90


async def test_a_line_that_was_cut_from_a_sinks_file_is_named(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path)
    cut_line(tmp_path / "out/all.jsonl", '"id":77,')
    report = await verified(shop)
    ((part, event, what),) = gaps(report)
    assert (part, event[:2]) == ("all", "0-")
    assert report["named"][0]["help"] == f"pipe explain {event} shop"
    assert (report["sinks"][1]["absent"], report["sinks"][0]["absent"]) == (1, 0)
    assert what
    assert gaps(await verified(shop, BEGAN, BEGAN + 77 * MINUTE)) == []
    assert len(gaps(await verified(shop, BEGAN + 77 * MINUTE, BEGAN + 78 * MINUTE))) == 1
    assert gaps(await verified(shop, *(BEGAN, BEGAN + 1000 * MINUTE), "even")) == []


async def test_many_absences_are_counted_exactly_and_each_named_by_its_own_event(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path, count=9000, piece=3000)
    path = tmp_path / "out/even.jsonl"
    path.write_text("")
    report = await verified(shop)
    assert report["sinks"][0]["absent"] == report["gaps"] == report["sinks"][0]["outputs"] == 498
    offsets = [int(gap["event"].partition("-")[2]) for gap in report["named"]]
    assert offsets == sorted(set(offsets))


async def test_a_letter_that_was_removed_from_the_store_is_named(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path)
    with state_of(shop) as database:
        ((letter, event),) = database.execute("SELECT id, event_id FROM letters ORDER BY seq LIMIT 1").fetchall()
        database.execute("DELETE FROM letters WHERE id = ?", (letter,))
    report = await verified(shop)
    assert gaps(report) == [("dead letters", event, f"it failed, and its dead letter {letter} is not there")]
    assert report["named"][0]["help"] == f"pipe explain {event} shop"
    assert report["dead_letters"]["open"] == 3


async def test_a_letter_without_a_line_is_named(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path)
    with state_of(shop) as database:
        ((letter, event),) = database.execute("SELECT id, event_id FROM letters ORDER BY seq LIMIT 1").fetchall()
        database.execute("UPDATE letters SET id = 'feedfeedfeedfeed' WHERE id = ?", (letter,))
    report = await verified(shop)
    assert gaps(report) == [
        ("dead letters", event, f"it failed, and its dead letter {letter} is not there"),
        ("dead letters", event, "its dead letter feedfeedfeedfeed (open) has no line in the journal"),
    ]
    assert report["named"][1]["help"] == "pipe dlq show feedfeedfeedfeed"


async def test_letters_that_were_settled_longer_ago_than_they_are_kept_are_counted_apart(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path, more="dead_letter: { retention: 1ms }\n")
    with state_of(shop) as database:
        database.execute("DELETE FROM letters")
    report = await verified(shop)
    assert gaps(report) == []
    assert report["dead_letters"]["settled_and_gone"] == 4


async def test_an_event_of_the_source_that_was_passed_over_is_named(tmp_path: Path) -> None:
    """As a line more behind which the checkpoint is: one line is made two, and the file is as long as it was."""
    shop = await run_shop(tmp_path)
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    long = lines[100]
    first = '{"n":1,"at":"2026-03-01T01:40:00Z"}\n'
    second = '{"at":"2026-03-01T01:40:00Z"'
    spare = len(long) - len(first) - len(second) - 2
    assert spare < 0 or spare >= 0
    lines[100:102] = [first, second + " " * (len(long) + len(lines[101]) - len(first) - len(second) - 2) + "}\n"]
    (tmp_path / "in.jsonl").write_text("".join(lines))
    report = await verified(shop)
    ((part, event, what),) = gaps(report)
    assert (part, what) == ("journal", "the source has it, the journal does not, though the checkpoint is past it")
    assert event == f"0-{sum(map(len, lines[:101]))}"
    assert report["source"]["gone"] == 1
    assert gaps(await verified(shop, source=False)) == []


async def test_what_is_behind_the_checkpoint_is_not_read_yet(tmp_path: Path) -> None:
    write_events(tmp_path)
    shop = write_shop(tmp_path)
    await penstock.run(shop, max_events=400)
    report = await verified(shop)
    assert gaps(report) == []
    assert (report["source"]["events"], report["source"]["not_read_yet"]) == (1000, 1000 - report["journal"]["events"])
    assert report["source"]["journalled"] == report["journal"]["events"] < 1000


async def test_what_the_source_no_longer_has_is_counted(tmp_path: Path) -> None:
    write_events(tmp_path)
    lines = (tmp_path / "in.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "in.jsonl").write_text("".join(lines[:600]))
    (tmp_path / "in-2.jsonl").write_text("".join(lines[600:]))
    text = write_shop(tmp_path).file.read_text()
    (tmp_path / "shop.yaml").write_text(text.replace("in.jsonl", "in*.jsonl"))
    shop = penstock.load(tmp_path / "shop.yaml")
    await penstock.run(shop, once=True)
    (tmp_path / "in-2.jsonl").unlink()
    report = await verified(shop)
    assert gaps(report) == []
    assert (report["source"]["events"], report["source"]["journalled"], report["source"]["gone"]) == (600, 600, 400)


async def test_what_has_no_time_at_the_source_is_found_by_its_line(tmp_path: Path) -> None:
    write_events(tmp_path, 10)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write('no json\n{"n": 10}\n')
    shop = write_shop(tmp_path)
    await penstock.run(shop, once=True)
    report = await verified(shop, BEGAN, 4e9)
    assert gaps(report) == []
    assert report["journal"]["events"] == report["source"]["events"] == report["source"]["journalled"] == 12


async def test_a_segment_that_was_removed_between_others_is_named_with_its_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.engine.claim.roll_for", lambda size: 3000)
    shop = await run_shop(tmp_path, piece=100)
    assert shop.journal is not None
    segments = sorted(shop.journal.directory.glob("*.jsonl.zst"))
    assert len(segments) > 3
    assert gaps(await verified(shop, source=False)) == []
    for file in shop.journal.directory.glob(segments[-2].name.partition(".")[0] + ".*"):
        file.unlink()
    report = await verified(shop)
    missing = 1000 - report["journal"]["events"]
    assert missing > 0
    (first, *others) = gaps(report)
    assert first[:2] == ("journal", "")
    assert first[2].startswith(f"segment {segments[-2].name.partition('.')[0]} of the journal")
    assert len([gap for gap in others if gap[0] == "journal"]) == missing


async def test_a_journal_that_lost_its_end_or_is_another_one_is_named(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path)
    assert shop.journal is not None
    head = shop.journal.directory / "journal.json"
    text = head.read_text()
    head.write_text('{"format": 1, "id": "feed"}')
    report = await verified(shop, source=False)
    assert gaps(report)[0] == ("journal", "", "the journal is another one than the pipeline wrote last")
    head.write_text(text)
    for file in shop.journal.directory.glob("00*"):
        file.unlink()
    report = await verified(shop)
    assert report["named"][0]["what"] == "the journal is shorter than the pipeline wrote it"
    assert report["gaps_by_part"] == {"journal": 1001, "dead letters": 4}


async def test_a_sink_that_was_added_or_redefined_is_not_asked_for_what_it_never_had(tmp_path: Path) -> None:
    await run_shop(tmp_path, count=500)
    shop = write_shop(tmp_path, more="  - { name: fresh, file: { path: out/fresh.jsonl } }\n")
    write_events(tmp_path, 600)
    await penstock.run(shop, once=True)
    report = await verified(shop)
    assert gaps(report) == []
    assert [sink["outputs"] for sink in report["sinks"]] == [300, 540, 90]
    text = (tmp_path / "shop.yaml").read_text()
    (tmp_path / "shop.yaml").write_text(text.replace("out/all.jsonl", "out/other.jsonl"))
    moved = penstock.load(tmp_path / "shop.yaml")
    report = await verified(moved)
    assert gaps(report) == []
    assert report["sinks"][1]["left_out"] == {"the sink was defined otherwise then": 540}


async def test_a_sink_that_cannot_be_looked_into_is_told(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path, more="  - { name: gone, drop: {} }\n", count=100)
    report = await verified(shop)
    assert gaps(report) == []
    assert report["sinks"][2]["why"] == "a sink of the kind drop cannot be looked into"


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"start": 5.0, "end": 5.0}, "verify.empty_range"),
        ({"sinks": ("nobody",)}, "verify.unknown_sink"),
    ],
)
async def test_what_cannot_be_asked_is_refused(tmp_path: Path, asked: dict[str, object], code: str) -> None:
    shop = await run_shop(tmp_path, count=10)
    with pytest.raises(UsageError) as refused:
        await verified(shop, asked.get("start", 0.0), asked.get("end", 9e9), *asked.get("sinks", ()))  # type: ignore[arg-type]
    assert refused.value.code == code


async def test_a_pipeline_without_a_journal_is_refused(tmp_path: Path) -> None:
    shop = await run_shop(tmp_path, more="journal: off\n", count=10)
    with pytest.raises(UsageError) as refused:
        await verified(shop)
    assert refused.value.code == "verify.no_journal"
