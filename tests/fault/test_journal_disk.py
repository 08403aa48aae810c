"""A journal's disk that is full, or fails at any system call: nothing is lost, doubled or taken for written that is not."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from disk_parts import make_larger, small_disk
from journal_parts import BEGAN, found, lines_of, on_disk, seen, write, writer

from penstock.errors import EnvironmentFault, Unavailable
from penstock.event import Event
from penstock.faults import Faults
from penstock.journal.encoding import Lines
from penstock.journal.frames import Place
from penstock.journal.index import segment_numbers
from penstock.journal.segments import Segments

CALLS = ("open", "pwrite", "fdatasync", "fsync", "ftruncate")


class Disk:
    """Counts the system calls that write; one of them fails, after it did half of its work.

    :ivar fail_at: the number of the call that fails, from 1; `number` its error.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self.fail_at, self.number = 0, errno.ENOSPC
        for name in CALLS:
            monkeypatch.setattr(os, name, self._counted(name, getattr(os, name)))

    def _counted(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **named)
            self.calls.append(name)
            if len(self.calls) == self.fail_at:
                if name == "pwrite":
                    file, data, offset = arguments
                    real(file, data[: len(data) // 2], offset)
                raise OSError(self.number, os.strerror(self.number))
            return real(*arguments, **named)

        return call


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def patiently(action: Callable[[], Any]) -> Any:
    """As a run does it: once more, when the disk has said that it is full."""
    try:
        return action()
    except Unavailable as error:
        said = error
    assert (said.code, bool(said.help)) == ("journal.disk", True)
    return action()


def started(directory: Path, place: Place | None) -> Segments:
    """A writer that begins there."""
    journal = Segments(directory, Faults(), roll=150)
    patiently(lambda: journal.open(place))
    return journal


def a_life(directory: Path) -> Segments:
    """Commits, one of them of two appends, a rollback, a new segment, a crash and a new start."""
    journal, places = started(directory, None), []
    for number in (1, 2, 3):
        places.append(patiently(lambda n=number: journal.append(lines_of(n))))
        patiently(journal.commit)
    patiently(lambda: journal.append(lines_of(4)))
    patiently(lambda: journal.append(lines_of(5)))
    patiently(journal.commit)
    patiently(lambda: journal.append(lines_of(90)))
    patiently(journal.rollback)
    place = patiently(lambda: journal.append(lines_of(6)))
    assert sorted(places) == places < [place]
    journal.close()
    journal = started(directory, place)
    patiently(lambda: journal.append(lines_of(7)))
    patiently(journal.commit)
    return journal


def test_a_life_passes_every_call_often_enough_to_prove_something(tmp_path: Path, disk: Disk) -> None:
    a_life(tmp_path)
    assert {name: disk.calls.count(name) > 1 for name in CALLS} == dict.fromkeys(CALLS, True)
    assert len(segment_numbers(tmp_path)) > 2


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_any_call_may_fail_once(tmp_path: Path, disk: Disk, number: int) -> None:
    a_life(tmp_path / "0")
    count = len(disk.calls)
    disk.number = number
    for fail_at in range(1, count + 1):
        directory = tmp_path / str(fail_at)
        disk.calls.clear()
        disk.fail_at = fail_at
        journal = a_life(directory)
        disk.fail_at = 0
        said = f"{disk.calls[fail_at - 1]}, call {fail_at} of {count}"
        assert (seen(directory), [found(directory, n) for n in (1, 5, 7, 90)]) == ([1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 0]), said
        place = journal.place
        journal.close()
        writer(directory, place).close()
        assert (seen(directory), on_disk(directory)) == ([1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, 5, 6, 7]), said


def test_pages_that_a_failed_fsync_lost_are_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel forgets them and reports it once; the next fsync of the same file succeeds and means nothing."""
    journal = writer(tmp_path)
    write(journal, 1)
    synced = journal.place
    fdatasync, failed = os.fdatasync, []

    def loses(file: int) -> None:
        if failed:
            return fdatasync(file)
        failed.append(Path(f"/proc/self/fd/{file}").readlink())
        lost = os.fstat(file).st_size - synced.end
        assert lost > 0
        os.pwrite(file, bytes(lost), synced.end)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", loses)
    with pytest.raises(Unavailable):
        journal.append(lines_of(2))
    assert (journal.place, on_disk(tmp_path)) == (synced, [1])
    place = journal.append(lines_of(2))
    journal.commit()
    assert (place.segment, seen(tmp_path), on_disk(tmp_path)) == (2, [1, 2], [1, 2])
    assert failed == [tmp_path / "0000000001.jsonl.zst"]
    write(journal, 3)
    assert segment_numbers(tmp_path) == [1, 2], "the segment that failed is never written again"


def test_the_place_stays_where_it_was_while_the_disk_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that brings nothing new keeps the place in its commit, which must not go back."""
    journal = writer(tmp_path, roll=1)
    write(journal, 1)
    place = write(journal, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for _ in range(3):
            with pytest.raises(Unavailable):
                journal.append(lines_of(3))
            assert journal.place == place
    assert [path.name for path in sorted(tmp_path.glob("*.jsonl.zst"))] == ["0000000001.jsonl.zst", "0000000002.jsonl.zst"]
    assert journal.expire(BEGAN + 9, 0, None) == [1], "what the place names is kept"
    assert write(journal, 3) > place


def full(*arguments: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EMFILE])
def test_what_does_not_pass_by_itself_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    journal = writer(tmp_path)
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(EnvironmentFault) as caught:
        journal.append(lines_of(1))
    assert (caught.value.code, bool(caught.value.help)) == ("journal.unusable", True)


# ---- a real disk that is full


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "64k", "every failing call is tried above") as path:
        yield path


def heavy(*numbers: int) -> Lines:
    """Events that no compression makes small."""
    events = [Event(f"e{n}", "s", "t", raw=b'"%b"' % os.urandom(1500).hex().encode()) for n in numbers]
    return lines_of(events=events)


def test_a_full_disk_takes_nothing_and_loses_nothing(small: Path) -> None:
    journal = writer(small / "j")
    taken = []
    with suppress(Unavailable):
        for number in range(100):
            journal.append(heavy(number))
            journal.commit()
            taken.append(number)
    assert 5 < len(taken) < 100
    for _ in range(3):
        with pytest.raises(Unavailable, match="No space left on device"):
            journal.append(heavy(len(taken)))
    assert (seen(small / "j"), on_disk(small / "j")) == (taken, taken)
    make_larger(small, "8m")
    journal.append(heavy(len(taken), len(taken) + 1))
    journal.commit()
    expected = [*taken, len(taken), len(taken) + 1]
    assert (seen(small / "j"), on_disk(small / "j")) == (expected, expected)


def test_a_disk_that_is_full_when_the_index_is_due_has_it_later(small: Path) -> None:
    """The commit stands, so the journal waits for its index alone; a crash meanwhile costs nothing."""
    journal = writer(small / "j")
    place = journal.append(heavy(1))
    with (small / "ballast").open("wb", buffering=0) as ballast, suppress(OSError):
        while True:
            ballast.write(bytes(512))
    with pytest.raises(Unavailable):
        journal.commit()
    assert seen(small / "j") == []
    (small / "ballast").unlink()
    journal.commit()
    assert (seen(small / "j"), found(small / "j", 1)) == ([1], 1)
    journal.close()
    assert writer(small / "j", place).place == place
