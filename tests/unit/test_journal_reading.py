"""Readers of a journal: ranges by event time, events by id, outcomes that a commit changed, marks to go on from."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from journal_parts import BEGAN, an_event, corrections_of, found, ids, lines_of, seen, write, writer

from penstock.clock import rfc3339
from penstock.errors import EnvironmentFault, Unavailable
from penstock.event import Event
from penstock.journal import encoding
from penstock.journal.reader import EVER, JournalReader, Mark
from penstock.journal.segments import Segments


def outcomes(directory: Path) -> list[tuple[str, str]]:
    return [(ids([record])[0], record.line.outcome) for record in JournalReader(directory).range(*EVER)]


@pytest.fixture
def journal(tmp_path: Path) -> Segments:
    return writer(tmp_path)


def test_a_range_is_by_the_events_own_time_and_open_at_its_end(tmp_path: Path, journal: Segments) -> None:
    write(journal, 5, 1, 9, at=BEGAN + 100)
    write(journal, 2, 7, at=BEGAN + 200)
    reader = JournalReader(tmp_path)
    assert ids(list(reader.range(BEGAN + 2, BEGAN + 7))) == ["e5", "e2"]
    assert ids(list(reader.range(BEGAN + 7, BEGAN + 7.001))) == ["e7"]
    assert ids(list(reader.range(BEGAN + 10, BEGAN + 300))) == []


def test_an_event_without_a_time_or_with_one_that_is_none_counts_when_it_was_received(tmp_path: Path, journal: Segments) -> None:
    times = [None, "yesterday", "2026-02-30T00:00:00Z", rfc3339(BEGAN - 500)]
    journal.append(lines_of(events=[an_event(n, time=time) for n, time in enumerate(times)], at=BEGAN))
    journal.commit()
    reader = JournalReader(tmp_path)
    assert ids(list(reader.range(BEGAN, BEGAN + 1))) == ["e0", "e1", "e2"]
    assert ids(list(reader.range(BEGAN - 501, BEGAN))) == ["e3"]


def test_all_of_time_holds_every_time_that_an_event_may_have(tmp_path: Path, journal: Segments) -> None:
    times = ["0001-01-01T00:00:00+23:59", "1970-01-01T00:00:00Z", "5555-05-05T00:00:00Z", "9999-12-31T23:59:59.999999-23:59"]
    journal.append(lines_of(events=[an_event(n, time=time) for n, time in enumerate(times)]))
    journal.commit()
    assert ids(list(JournalReader(tmp_path).range(*EVER))) == ["e0", "e1", "e2", "e3"]


@pytest.mark.parametrize("seed", range(5))
def test_ranges_are_those_of_a_plain_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(encoding, "FRAME", 500)
    rng, written = random.Random(seed), []
    journal = writer(tmp_path, roll=1500)
    for _ in range(30):
        moments = [round(rng.uniform(-100, 100), rng.choice([0, 3])) for _ in range(rng.randrange(1, 9))]
        events = [Event(f"e{len(written) + n}", "s", "t", time=rfc3339(BEGAN + m), raw=b"1") for n, m in enumerate(moments)]
        written += [(event.id, BEGAN + moment) for event, moment in zip(events, moments, strict=True)]
        journal.append(lines_of(events=events, at=BEGAN + rng.random()))
        journal.commit()
    reader = JournalReader(tmp_path)
    for _ in range(40):
        start = BEGAN + rng.randrange(-110, 110)
        end = start + rng.choice([0, 0.5, 1, 30, 300])
        expected = [identity for identity, moment in written if start <= moment < end]
        assert ids(list(reader.range(start, end))) == expected
        assert reader.count(start, end) >= len(expected)
    assert reader.count(*EVER) == len(written)


def test_a_reader_goes_on_behind_a_mark_and_stops_at_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FRAME", 400)
    journal = writer(tmp_path, roll=1)
    for first in range(0, 20, 5):
        write(journal, *range(first, first + 5))
    reader = JournalReader(tmp_path)
    records = list(reader.range(*EVER))
    assert [record.mark for record in records] == sorted({record.mark for record in records})
    assert len({record.mark.offset for record in records}) > 1
    for place, record in enumerate(records):
        assert list(reader.range(*EVER, after=record.mark)) == records[place + 1 :]
        assert list(reader.range(*EVER, until=record.mark)) == records[: place + 1]
    assert list(reader.range(*EVER, after=records[3].mark, until=records[11].mark)) == records[4:12]


def test_events_are_found_by_either_of_their_ids_and_with_all_that_is_said_of_them(tmp_path: Path, journal: Segments) -> None:
    lines = lines_of(1, 2, 3)
    lines.texts[1] = lines.texts[1].replace(b',"event"', b',"given":{"id":"given"},"event"')
    lines.others[1] = "given"
    journal.append(lines)
    journal.append(corrections_of(3))
    journal.append(corrections_of(3, job="replay-1"))
    journal.commit()
    reader = JournalReader(tmp_path)
    assert [len(list(reader.find(identity))) for identity in ("e1", "e2", "given", "e3", "e4", "")] == [1, 1, 1, 3, 0, 0]
    assert [(record.line.outcome, record.line.corrects, record.line.job) for record in reader.find("e3")] == [
        ("delivered", None, None),
        ("dead_lettered", "e3", None),
        ("dead_lettered", "e3", "replay-1"),
    ]


def test_ids_with_one_digest_are_told_apart(tmp_path: Path, journal: Segments) -> None:
    journal.append(lines_of(events=[Event("plumless", "s", "t", raw=b"1"), Event("buckeroo", "s", "t", raw=b"2")]))
    journal.commit()
    assert [bytes(record.line.event)[-2:] for record in JournalReader(tmp_path).find("buckeroo")] == [b"2}"]


def test_an_id_is_found_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FRAME", 700)
    journal = writer(tmp_path, roll=2000)
    for first in range(0, 300, 13):
        write(journal, *range(first, first + 13))
    assert {number: found(tmp_path, number) for number in range(320)} == {number: int(number < 312) for number in range(320)}


def test_a_range_tells_the_outcome_that_the_commit_gave(tmp_path: Path, journal: Segments) -> None:
    journal.append(lines_of(1, 2, 3))
    journal.append(corrections_of(2))
    journal.commit()
    write(journal, 2, at=BEGAN + 50)  # read again later
    assert outcomes(tmp_path) == [("e1", "delivered"), ("e2", "dead_lettered"), ("e3", "delivered"), ("e2", "delivered")]
    [record] = [record for record in JournalReader(tmp_path).range(BEGAN + 2, BEGAN + 3) if record.line.outcome != "delivered"]
    assert (record.line.step, record.line.letter) == ("table", "letter-e2")


def test_what_a_replay_made_of_an_event_is_no_correction_of_its_commit(tmp_path: Path, journal: Segments) -> None:
    journal.append(lines_of(1))
    journal.append(corrections_of(1, job="replay-1"))
    journal.commit()
    assert outcomes(tmp_path) == [("e1", "delivered")]
    assert JournalReader(tmp_path).extent().lines == 1


def test_a_correction_of_a_commit_that_is_several_frames_long_finds_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FRAME", 1)
    journal = writer(tmp_path)
    journal.append(lines_of(1, 2, 3))
    journal.append(corrections_of(1, 3))
    journal.commit()
    expected = [("e1", "dead_lettered"), ("e2", "delivered"), ("e3", "dead_lettered")]
    assert outcomes(tmp_path) == expected
    for sidecar in (*tmp_path.glob("*.index"), *tmp_path.glob("*.ids")):
        sidecar.unlink()
    assert outcomes(tmp_path) == expected


def test_a_correction_behind_a_disk_that_failed_lies_in_the_next_segment(
    tmp_path: Path, journal: Segments, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.append(lines_of(1, 2))
    with monkeypatch.context() as patch:
        patch.setattr("os.fdatasync", fails)
        with pytest.raises(Unavailable):
            journal.append(corrections_of(2))
    journal.append(corrections_of(2))
    journal.commit()
    assert outcomes(tmp_path) == [("e1", "delivered"), ("e2", "dead_lettered")]
    assert [record.mark.segment for record in JournalReader(tmp_path).find("e2")] == [1, 2]


def fails(file: int) -> None:
    raise OSError(5, "Input/output error")


def test_a_repetition_without_a_position_keeps_its_outcome(tmp_path: Path, journal: Segments) -> None:
    """Of a source without positions both have the same place: the id alone. Only the first was offered to the sink."""
    twin = an_event(1, position=b"")
    lines = lines_of(events=[twin, twin])
    lines.texts[1] = lines.texts[1].replace(b'"outcome":"delivered"', b'"outcome":"deduplicated"')
    journal.append(lines)
    journal.append(corrections_of(1, position=b""))
    journal.commit()
    assert [outcome for _, outcome in outcomes(tmp_path)] == ["dead_lettered", "deduplicated"]


def test_the_extent_is_what_lies_on_the_disk(tmp_path: Path) -> None:
    reader = JournalReader(tmp_path / "j")
    assert (reader.extent().segments, reader.extent().first) == (0, None)
    assert ([*reader.range(*EVER)], [*reader.find("e1")]) == ([], [])
    journal = writer(tmp_path / "j", roll=1)
    write(journal, 1, 2, at=BEGAN)
    write(journal, 3, at=BEGAN + 60)
    extent = reader.extent()
    size = sum(path.stat().st_size for path in (tmp_path / "j").glob("0*"))
    assert (extent.segments, extent.lines, extent.size, extent.first, extent.last) == (2, 3, size, BEGAN, BEGAN + 60)
    assert reader.extent(count=False).lines == 0


def test_a_share_of_a_range_is_always_the_same_about_so_large_and_never_nothing(tmp_path: Path, journal: Segments) -> None:
    for first in range(0, 400, 4):
        write(journal, *range(first, first + 4))
    reader = JournalReader(tmp_path)
    part = list(reader.frames(*EVER, share=0.25))
    middle = Mark(part[12].segment, part[12].offset, 3)
    assert list(reader.frames(*EVER, share=0.25, after=middle)) == part[12:]
    assert (sum(frame.lines for frame in part), part[-1].offset > part[12].offset * 1.8) == (100, True)
    assert len(list(reader.frames(BEGAN + 200, BEGAN + 210, share=0.001))) == 1


def damage(path: Path, content: bytes, place: int, frame: int) -> bool:
    """Change one byte. Whether a reader still gets what was written; else it must say what is wrong."""
    path.write_bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
    try:
        return seen(path.parent) == [1, 2]
    except EnvironmentFault as fault:
        said = fault
    assert (said.code, f"byte {frame} of {path.name}" in said.message, bool(said.help)) == ("journal.damaged", True, True)
    return False


def test_a_frame_that_was_changed_is_an_error_that_names_it(tmp_path: Path, journal: Segments) -> None:
    write(journal, 1)
    second = journal.place.end
    write(journal, 2)
    path = tmp_path / "0000000001.jsonl.zst"
    content = path.read_bytes()
    harmless = [place for place in range(second, len(content)) if damage(path, content, place, second)]
    assert len(harmless) <= 1, "one bit of a frame's header has no meaning"
    path.write_bytes(content)
    assert [json.loads(bytes(record.line.event))["data"] for record in JournalReader(tmp_path).find("e1")] == [{"n": 1}]
    assert next(JournalReader(tmp_path).find("e1")).mark == Mark(1, 0, 0)
