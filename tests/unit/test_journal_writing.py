"""The writer of a journal: appended, committed, rolled back, taken over, expired; and what a reader sees of it meanwhile."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from journal_parts import BEGAN, found, ids, lines_of, on_disk, seen, write, writer

from penstock.errors import EnvironmentFault
from penstock.faults import Faults
from penstock.journal.frames import Place
from penstock.journal.index import segment_numbers
from penstock.journal.reader import EVER, JournalReader
from penstock.journal.segments import Segments


def test_what_is_committed_is_seen_and_nothing_else(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    write(journal, 1, 2)
    journal.append(lines_of(3, 4))
    assert (seen(tmp_path / "j"), on_disk(tmp_path / "j")) == ([1, 2], [1, 2, 3, 4])
    journal.commit()
    assert seen(tmp_path / "j") == [1, 2, 3, 4]


def test_what_is_rolled_back_is_as_if_it_had_not_been_written(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    before = write(journal, 1)
    journal.append(lines_of(2, 3))
    journal.append(lines_of(4))
    journal.rollback()
    assert (journal.place, on_disk(tmp_path / "j")) == (before, [1])
    write(journal, 5)
    assert (seen(tmp_path / "j"), on_disk(tmp_path / "j"), found(tmp_path / "j", 3)) == ([1, 5], [1, 5], 0)


def test_only_its_owner_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        journal = writer(tmp_path / "state" / "journal" / "p", roll=1)
        write(journal, 1)
        write(journal, 2)
        journal.close()
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).name: oct(path.stat().st_mode & 0o777) for path in (tmp_path / "state").rglob("*")}
    assert {name: mode for name, mode in modes.items() if "." not in name} == {"journal": "0o700", "p": "0o700"}
    assert {mode for name, mode in modes.items() if "." in name} == {"0o600"}
    assert len(modes) == 2 + 1 + 2 * 3


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    place = write(journal, 1)
    journal.close()
    again = writer(tmp_path / "j", place)
    assert again.place == place
    assert write(again, 2) > place
    assert seen(tmp_path / "j") == [1, 2]


def test_what_no_ledger_committed_is_cut_off(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    place = write(journal, 1)
    journal.append(lines_of(2))
    journal.close()
    again = writer(tmp_path / "j", place)
    assert (again.place, on_disk(tmp_path / "j")) == (place, [1])


def test_what_a_ledger_committed_is_seen_after_a_crash_before_the_index_had_it(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    write(journal, 1)
    place = journal.append(lines_of(2, 3))
    journal.append(lines_of(4))
    journal.close()
    assert seen(tmp_path / "j") == [1]
    again = writer(tmp_path / "j", place)
    assert (again.place, seen(tmp_path / "j"), on_disk(tmp_path / "j"), found(tmp_path / "j", 3)) == (
        place,
        [1, 2, 3],
        [1, 2, 3],
        1,
    )


def test_what_a_ledger_gave_up_again_is_cut_off_though_the_index_has_it(tmp_path: Path) -> None:
    """A ledger that was restored from a backup stands at an earlier place."""
    journal = writer(tmp_path / "j", roll=1)
    place = write(journal, 1)
    write(journal, 2)
    write(journal, 3)
    journal.close()
    again = writer(tmp_path / "j", place)
    assert (again.place, seen(tmp_path / "j"), on_disk(tmp_path / "j"), segment_numbers(tmp_path / "j")) == (place, [1], [1], [1])
    write(again, 4)
    assert (seen(tmp_path / "j"), found(tmp_path / "j", 2), found(tmp_path / "j", 4)) == ([1, 4], 0, 1)


def test_a_full_segment_is_followed_by_the_next_but_never_inside_a_commit(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j", roll=1)
    write(journal, 1)
    journal.append(lines_of(2))
    journal.append(lines_of(3))
    journal.commit()
    write(journal, 4)
    assert segment_numbers(tmp_path / "j") == [1, 2, 3]
    assert [record.mark.segment for record in JournalReader(tmp_path / "j").range(*EVER)] == [1, 2, 2, 3]


def test_another_journal_is_told_of_and_left_as_it_is(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    write(journal, 1)
    journal.close()
    other = writer(tmp_path / "k")
    said = other.open(Place("0123", 4, 100))
    assert said == f"the journal in {tmp_path / 'k'} is another one than the pipeline wrote last"
    again = writer(tmp_path / "j")
    assert again.open(Place("0123", 1, 0)) is not None
    assert seen(tmp_path / "j") == [1]


def test_a_journal_that_lost_something_says_so(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    write(journal, 1)
    place = write(journal, 2)
    journal.close()
    segment = tmp_path / "j" / "0000000001.jsonl.zst"
    os.truncate(segment, segment.stat().st_size - 1)
    again = writer(tmp_path / "k")
    again = writer(tmp_path / "j")
    said = again.open(place)
    assert (said, seen(tmp_path / "j")) == (f"the journal in {tmp_path / 'j'} is shorter than the pipeline wrote it", [1])
    again.close()
    for path in (tmp_path / "j").glob("0*"):
        path.unlink()
    assert "is shorter" in str(writer(tmp_path / "j").open(place))
    fresh = writer(tmp_path / "j", place)
    assert write(fresh, 3) > place, "a number is never used again"


def test_a_journal_whose_last_segment_is_gone_says_so_also_where_a_later_one_is_left(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j", roll=1)
    write(journal, 1)
    place = write(journal, 2)
    journal.append(lines_of(3))
    journal.close()
    (tmp_path / "j" / "0000000002.jsonl.zst").unlink()
    said = Segments(tmp_path / "j", Faults()).open(place)
    assert (said, seen(tmp_path / "j")) == (f"the journal in {tmp_path / 'j'} is shorter than the pipeline wrote it", [1])


def test_a_head_that_cannot_be_read_or_is_newer_stops_the_run(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    head = tmp_path / "j" / "journal.json"
    assert list(json.loads(head.read_bytes())) == ["format", "id"]
    for text, code in (('{"format":2,"id":"x"}', "journal.newer"), ("{", "journal.damaged"), ("{}", "journal.damaged")):
        head.write_text(text)
        with pytest.raises(EnvironmentFault) as caught:
            journal.open(None)
        assert (caught.value.code, bool(caught.value.help), head.read_text()) == (code, True, text)


def test_sidecars_that_a_crash_left_without_a_segment_stand_in_nobodys_way(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j", roll=1)
    place = write(journal, 1)
    journal.close()
    (tmp_path / "j" / "0000000002.index").touch()
    again = writer(tmp_path / "j", place, roll=1)
    place = write(again, 2)
    again.close()
    assert (seen(tmp_path / "j"), segment_numbers(tmp_path / "j")) == ([1, 2], [1, 3])
    writer(tmp_path / "j", place)
    assert not (tmp_path / "j" / "0000000002.index").exists()


def test_a_number_that_another_run_has_taken_meanwhile_is_passed_over(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j", roll=1)
    write(journal, 1)
    for name in ("index", "ids", "jsonl.zst"):
        (tmp_path / "j" / f"0000000002.{name}").touch()
    write(journal, 2)
    assert (seen(tmp_path / "j"), segment_numbers(tmp_path / "j")) == ([1, 2], [1, 2, 3])


def test_a_run_that_was_taken_over_leaves_nothing_that_counts(tmp_path: Path) -> None:
    """It was stopped inside a commit, and writes on when it wakes up: to its own segment, which the other does not touch."""
    old = writer(tmp_path / "j")
    place = write(old, 1)
    old.append(lines_of(90))
    new = writer(tmp_path / "j", place)
    write(new, 2)
    old.append(lines_of(91))
    assert (seen(tmp_path / "j"), found(tmp_path / "j", 90), found(tmp_path / "j", 91)) == ([1, 2], 0, 0)
    old.close()
    place = write(new, 3)
    new.close()
    writer(tmp_path / "j", place)
    assert (seen(tmp_path / "j"), on_disk(tmp_path / "j")) == ([1, 2, 3], [1, 2, 3])


def test_what_a_run_that_was_taken_over_never_cut_off_the_next_start_does(tmp_path: Path) -> None:
    old = writer(tmp_path / "j")
    place = write(old, 1)
    old.append(lines_of(90))
    new = writer(tmp_path / "j", place)
    place = write(new, 2)
    new.close()
    assert on_disk(tmp_path / "j") == [1, 90, 2]
    writer(tmp_path / "j", place)
    assert (seen(tmp_path / "j"), on_disk(tmp_path / "j")) == ([1, 2], [1, 2])


# ---- retention


def ages(directory: Path, *ages: float) -> Place:
    """A segment for each, whose only event was received so many seconds before `BEGAN`."""
    journal = writer(directory, roll=1)
    for number, age in enumerate(ages):
        place = write(journal, number, at=BEGAN - age)
    journal.close()
    return place


def test_segments_go_when_their_newest_event_is_old_enough(tmp_path: Path) -> None:
    place = ages(tmp_path / "j", 400, 300, 200, 100)
    journal = writer(tmp_path / "j", place, roll=1)
    assert journal.expire(BEGAN - 300, 1 << 30, None) == [1]
    assert journal.expire(BEGAN - 299, 1 << 30, None) == [2]
    assert sorted(path.name.partition(".")[0] for path in (tmp_path / "j").glob("0*")) == ["0000000003"] * 3 + ["0000000004"] * 3
    assert seen(tmp_path / "j") == [2, 3]


def test_the_segment_that_is_written_to_stays_however_old_or_large(tmp_path: Path) -> None:
    place = ages(tmp_path / "j", 400, 300)
    journal = writer(tmp_path / "j", place, roll=1)
    assert (journal.expire(BEGAN, 0, None), seen(tmp_path / "j")) == ([1], [1])
    write(journal, 7)
    assert (journal.expire(BEGAN + 9, 0, None), seen(tmp_path / "j")) == ([2], [7])


def test_an_old_one_behind_a_younger_one_waits_for_it(tmp_path: Path) -> None:
    """The clock went back. What is left has no holes."""
    place = ages(tmp_path / "j", 100, 400, 50)
    journal = writer(tmp_path / "j", place, roll=1)
    assert journal.expire(BEGAN - 200, 1 << 30, None) == []
    assert journal.expire(BEGAN - 60, 1 << 30, None) == [1, 2]


def test_the_oldest_go_until_the_rest_is_small_enough_sidecars_included(tmp_path: Path) -> None:
    place = ages(tmp_path / "j", 40, 30, 20, 10)
    sizes = [sum(path.stat().st_size for path in (tmp_path / "j").glob(f"000000000{n}.*")) for n in range(1, 5)]
    journal = writer(tmp_path / "j", place, roll=1)
    assert journal.expire(0.0, sum(sizes), None) == []
    assert journal.expire(0.0, sum(sizes) - 1, None) == [1]
    assert journal.expire(0.0, sizes[3], None) == [2, 3]


def test_what_a_job_still_reads_is_spared_with_all_behind_it(tmp_path: Path) -> None:
    place = ages(tmp_path / "j", 40, 30, 20, 10)
    journal = writer(tmp_path / "j", place, roll=1)
    assert journal.expire(BEGAN, 0, 2) == [1]
    assert seen(tmp_path / "j") == [1, 2, 3]
    assert journal.expire(BEGAN, 0, None) == [2, 3]


def test_a_reader_reads_on_in_a_segment_that_has_expired(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j")
    write(journal, 1)
    write(journal, 2)
    place = write(journal, 3)
    journal.close()
    journal = writer(tmp_path / "j", place, roll=1)
    write(journal, 4)
    reading = JournalReader(tmp_path / "j").range(*EVER)
    first = next(reading)
    assert journal.expire(BEGAN + 1, 0, None) == [1]
    assert ids([first, *reading]) == ["e1", "e2", "e3", "e4"]
    assert seen(tmp_path / "j") == [4]


def test_a_segment_whose_index_is_torn_is_as_old_as_its_file(tmp_path: Path) -> None:
    place = ages(tmp_path / "j", 400, 300)
    journal = writer(tmp_path / "j", place, roll=1)
    os.truncate(tmp_path / "j" / "0000000001.index", 10)
    os.utime(tmp_path / "j" / "0000000001.jsonl.zst", (BEGAN, BEGAN))
    assert journal.expire(BEGAN - 1, 1 << 30, None) == []
    assert journal.expire(BEGAN + 1, 1 << 30, None) == [1]


def test_the_segment_that_the_ledger_stands_in_stays_while_the_next_is_not_committed(tmp_path: Path) -> None:
    journal = writer(tmp_path / "j", roll=1)
    write(journal, 1)
    place = write(journal, 2)
    journal.append(lines_of(3))
    assert journal.expire(BEGAN + 9, 0, None) == [1]
    journal.close()
    again = writer(tmp_path / "j", place)
    assert (again.place, seen(tmp_path / "j")) == (place, [2])
