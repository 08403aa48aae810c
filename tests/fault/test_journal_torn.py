"""A segment and its sidecars torn at every byte, missing, stale and damaged: everything committed is there, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from journal_parts import found, lines_of, on_disk, seen, write, writer

from penstock.journal.frames import ENTRY_SIZE, ID_SIZE, Place
from penstock.journal.index import read_index

SEGMENT, INDEX, IDS = "0000000001.jsonl.zst", "0000000001.index", "0000000001.ids"


def three_commits(directory: Path) -> list[Place]:
    """Of two, two and one events, and one more that no ledger committed."""
    journal = writer(directory)
    places = [write(journal, 1, 2), write(journal, 3, 4), write(journal, 5)]
    journal.append(lines_of(6, 7))
    journal.close()
    return places


@pytest.fixture
def pristine(tmp_path: Path) -> tuple[Path, list[Place]]:
    return tmp_path / "pristine", three_commits(tmp_path / "pristine")


def copied(pristine: Path, name: str) -> Path:
    directory = pristine.parent / name
    shutil.copytree(pristine, directory)
    return directory


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def test_a_segment_torn_at_any_byte_is_whole_again_up_to_its_last_frame(pristine: tuple[Path, list[Place]]) -> None:
    """A crash may tear what was being written, which lies behind the place; a disk may lose what was there."""
    source, places = pristine
    ends = [0, *(place.end for place in places)]
    size = (source / SEGMENT).stat().st_size
    for torn in range(size):
        directory = copied(source, f"torn-{torn}")
        cut(directory / SEGMENT, torn)
        whole = [end for end in ends if end <= torn]
        journal = writer(directory, places[-1])
        expected = [[], [1, 2], [1, 2, 3, 4], [1, 2, 3, 4, 5]][len(whole) - 1]
        assert (journal.place.end, seen(directory), on_disk(directory)) == (whole[-1], expected, expected), f"torn at {torn}"
        write(journal, 8)
        assert seen(directory) == [*expected, 8]
        journal.close()
        shutil.rmtree(directory)


def test_a_tail_of_anything_is_cut_off(pristine: tuple[Path, list[Place]]) -> None:
    """A power cut leaves blocks of zeros, or of something else."""
    source, places = pristine
    frame = (source / SEGMENT).read_bytes()[: places[0].end]
    for number, tail in enumerate([b"\0" * 5000, b"garbage", frame[:-1], frame[4:], b"\x28\xb5\x2f\xfd", frame + b"\0"]):
        directory = copied(source, f"tail-{number}")
        with (directory / SEGMENT).open("r+b") as file:
            file.seek(places[-1].end)
            file.write(tail)
            file.truncate()
        journal = writer(directory, places[-1])
        assert (journal.place, seen(directory), on_disk(directory)) == (places[-1], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5])
        write(journal, 8)
        assert (seen(directory), found(directory, 8)) == ([1, 2, 3, 4, 5, 8], 1)


@pytest.mark.parametrize("name", [INDEX, IDS])
def test_a_sidecar_torn_at_any_byte_is_made_whole(pristine: tuple[Path, list[Place]], name: str) -> None:
    source, places = pristine
    size = (source / name).stat().st_size
    assert size == {INDEX: 3 * ENTRY_SIZE, IDS: 5 * ID_SIZE}[name]
    wanted = {path: (source / path).read_bytes() for path in (INDEX, IDS)}
    for torn in range(size):
        directory = copied(source, f"torn-{torn}")
        cut(directory / name, torn)
        before = seen(directory)
        assert before == [1, 2, 3, 4, 5][: len(before)]
        writer(directory, places[-1]).close()
        assert seen(directory) == [1, 2, 3, 4, 5]
        assert [found(directory, number) for number in range(1, 8)] == [1] * 5 + [0] * 2
        assert {path: (directory / path).read_bytes() for path in (INDEX, IDS)} == wanted
        shutil.rmtree(directory)


def damage_ids(directory: Path) -> None:
    """Ids of others."""
    (directory / IDS).write_bytes(bytes(5 * ID_SIZE))


def damage_entry(directory: Path) -> None:
    content = bytearray((directory / INDEX).read_bytes())
    content[ENTRY_SIZE + 9] ^= 1
    (directory / INDEX).write_bytes(content)


def damage_index(directory: Path) -> None:
    (directory / INDEX).write_bytes(b"\xff" * 3 * ENTRY_SIZE)


def mix_sidecars(directory: Path) -> None:
    """Those of another segment."""
    journal = writer(directory.parent / "other")
    write(journal, 70, 71, 72)
    write(journal, 73)
    journal.close()
    for name in (INDEX, IDS):
        shutil.copy(directory.parent / "other" / name, directory / name)


def lose_index(directory: Path) -> None:
    (directory / INDEX).unlink()


def lose_ids(directory: Path) -> None:
    (directory / IDS).unlink()


def lose_both(directory: Path) -> None:
    lose_index(directory)
    lose_ids(directory)


def add_entry(directory: Path) -> None:
    """An index of the future: of a segment that was put back from an older copy."""
    last = read_index(directory, 1)[-1]
    with (directory / INDEX).open("ab") as file:
        file.write(last._replace(offset=last.end).entry())


DAMAGES = [damage_ids, damage_entry, damage_index, lose_index, lose_ids, lose_both]


@pytest.mark.parametrize("damage", [*DAMAGES, mix_sidecars, add_entry])
def test_sidecars_are_made_anew_at_the_start(pristine: tuple[Path, list[Place]], damage: Callable[[Path], None]) -> None:
    source, places = pristine
    wanted = {path: (source / path).read_bytes() for path in (INDEX, IDS)}
    directory = copied(source, "damaged")
    damage(directory)
    writer(directory, places[-1]).close()
    assert (seen(directory), [found(directory, number) for number in range(1, 8)]) == ([1, 2, 3, 4, 5], [1] * 5 + [0] * 2)
    assert {path: (directory / path).read_bytes() for path in (INDEX, IDS)} == wanted


@pytest.mark.parametrize("damage", DAMAGES)
def test_readers_find_everything_in_an_older_segment_whose_sidecars_are_damaged(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    journal = writer(tmp_path / "j", roll=1 << 20)
    write(journal, 1, 2)
    write(journal, 3, 4)
    place = write(journal, 5)
    journal.close()
    journal = writer(tmp_path / "j", place, roll=1)
    write(journal, 8)
    damage(tmp_path / "j")
    assert (seen(tmp_path / "j"), [found(tmp_path / "j", number) for number in range(1, 10)]) == (
        [1, 2, 3, 4, 5, 8],
        [1, 1, 1, 1, 1, 0, 0, 1, 0],
    )


@pytest.mark.parametrize("damage", DAMAGES)
def test_readers_beside_a_damaged_sidecar_of_the_newest_segment_see_nothing_uncommitted(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    journal = writer(tmp_path / "j")
    write(journal, 1, 2)
    write(journal, 3, 4)
    write(journal, 5)
    damage(tmp_path / "j")
    before = seen(tmp_path / "j")
    assert before == [1, 2, 3, 4, 5][: len(before)]
    assert [found(tmp_path / "j", number) for number in range(1, 6)] == [int(number in before) for number in range(1, 6)]


def test_an_older_segment_whose_index_is_lost_gets_one_at_the_next_start(tmp_path: Path) -> None:
    journal = writer(tmp_path, roll=1)
    write(journal, 1, 2)
    place = write(journal, 3)
    journal.close()
    wanted = (tmp_path / INDEX).read_bytes()
    for damaged in (None, wanted[:-1], wanted[:-1] + b"\0"):
        (tmp_path / INDEX).unlink()
        if damaged is not None:
            (tmp_path / INDEX).write_bytes(damaged)
        writer(tmp_path, place).close()
        assert ((tmp_path / INDEX).read_bytes(), seen(tmp_path), on_disk(tmp_path)) == (wanted, [1, 2, 3], [1, 2, 3])


def test_a_segment_with_a_thousand_small_frames_is_read_without_its_index(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    for number in range(1000):
        journal.append(lines_of(number))
    journal.commit()
    wanted = (tmp_path / INDEX).read_bytes()
    lose_both(tmp_path)
    assert (len(seen(tmp_path)), found(tmp_path, 700)) == (1000, 1)
    writer(tmp_path, journal.place)
    assert (tmp_path / INDEX).read_bytes() == wanted
