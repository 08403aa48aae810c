"""The file sink on real files: recovery, locks, failing disks, limits."""

from __future__ import annotations

import errno
import gzip
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from connectors.sinks import _appender
from connectors.sinks.file import FileSink, FileSinkConfig
from penstock.errors import BatchError, EnvironmentFault, Transient, Unavailable
from penstock.event import Event
from penstock.faults import Faults
from penstock.testing.contracts import make_context, make_events


def sink(directory: Path, path: str = "out.jsonl", faults: Faults | None = None, **fields: Any) -> FileSink:
    return FileSink(FileSinkConfig(path=path, **fields), make_context(directory, faults=faults))


def text(count: int, first: int = 0) -> bytes:
    return b"".join(b'{"n":%d}\n' % n for n in range(first, first + count))


async def committed(directory: Path, count: int = 3, path: str = "out.jsonl") -> bytes:
    """A file with `count` committed lines; the state of that commit."""
    first = sink(directory, path)
    await first.open(None)
    await first.flush()
    await first.write(make_events(count))
    state = await first.flush()
    await first.close()
    assert state is not None
    return state


async def test_what_a_file_held_before_is_kept_even_when_the_first_group_never_commits(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(b"before\n")
    first = sink(tmp_path)
    await first.open(None)
    initial = await first.flush()
    await first.write(make_events(3))
    await first.close()
    with path.open("ab") as file:  # as a process that died in the middle of a write would leave it
        file.write(b'{"n":0}\n{"n":')
    second = sink(tmp_path)
    await second.open(initial)
    assert path.read_bytes() == b"before\n"
    await second.close()


async def test_a_last_line_without_end_is_not_joined_with_the_first_new_one(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_bytes(b"before")
    await committed(tmp_path, 1)
    assert (tmp_path / "out.jsonl").read_bytes() == b'before\n{"n":0}\n'


@pytest.mark.parametrize("length", range(25))
async def test_a_tail_torn_at_any_byte_is_cut_off(tmp_path: Path, length: int) -> None:
    state = await committed(tmp_path)
    path = tmp_path / "out.jsonl"
    with path.open("ab") as file:
        file.write(text(3, 3)[:length])
    again = sink(tmp_path)
    await again.open(state)
    assert path.read_bytes() == text(3)
    await again.close()


async def test_a_file_that_is_shorter_than_committed_stops_and_is_left_alone(tmp_path: Path) -> None:
    state = await committed(tmp_path)
    path = tmp_path / "out.jsonl"
    for damage in (lambda: os.truncate(path, 5), path.unlink):
        damage()
        with pytest.raises(EnvironmentFault) as caught:
            await sink(tmp_path).open(state)
        assert caught.value.code == "sink.file_shorter"
        assert not path.exists() or path.stat().st_size == 5


async def test_a_tail_larger_than_a_run_can_leave_stops(tmp_path: Path) -> None:
    state = await committed(tmp_path)
    path = tmp_path / "out.jsonl"
    os.truncate(path, 70 << 20)
    with pytest.raises(EnvironmentFault) as caught:
        await sink(tmp_path).open(state)
    assert caught.value.code == "sink.file_tail_too_large"
    assert path.stat().st_size == 70 << 20


async def test_a_second_writer_and_a_symbolic_link_are_refused(tmp_path: Path) -> None:
    first = sink(tmp_path)
    await first.open(None)
    with pytest.raises(EnvironmentFault) as caught:
        await sink(tmp_path).open(None)
    assert caught.value.code == "sink.file_held"
    assert "out.jsonl" in caught.value.message
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "out.jsonl")
    with pytest.raises(EnvironmentFault) as caught:
        await sink(tmp_path, "link.jsonl").open(None)
    assert caught.value.code == "sink.file_symlink"
    await first.close()
    await (again := sink(tmp_path)).open(None)
    await again.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("call", ["write", "fsync"])
async def test_a_failing_disk_pauses_and_the_group_is_written_again(
    tmp_path: Path, number: int, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = sink(tmp_path)
    await target.open(None)
    await target.write(make_events(2))
    await target.flush()
    with monkeypatch.context() as patch:
        patch.setattr(_appender.os, call, _failing_once(getattr(os, call), number, half=call == "write"))
        with pytest.raises(Unavailable):
            await _write_and_flush(target)
    for again in (target.flush, lambda: target.write(make_events(2, 2))):
        with pytest.raises(Unavailable):
            await again()
    await target.rollback()
    assert (tmp_path / "out.jsonl").read_bytes() == text(2)
    await _write_and_flush(target)
    assert (tmp_path / "out.jsonl").read_bytes() == text(4)
    await target.close()


async def _write_and_flush(target: FileSink) -> None:
    await target.write(make_events(2, 2))
    await target.flush()


def _failing_once(call: Callable[..., Any], number: int, *, half: bool) -> Callable[..., Any]:
    """Fails, for a write after half of it went out."""

    def fail(file: int, *data: Any) -> Any:
        if half:
            call(file, data[0][: len(data[0]) // 2])
        raise OSError(number, os.strerror(number))

    return fail


async def test_a_fault_inside_a_write_leaves_half_of_it_for_rollback_to_cut(tmp_path: Path) -> None:
    def stop(name: str) -> None:
        raise Transient("fault.injected", name)

    faults = Faults({"inside_sink_write": [(2, stop)]})
    target = sink(tmp_path, faults=faults)
    await target.open(None)
    await target.write(make_events(2))
    await target.flush()
    with pytest.raises(Transient):
        await target.write(make_events(2, 2))
    assert text(2) < (tmp_path / "out.jsonl").read_bytes() < text(4)
    await target.rollback()
    await target.write(make_events(2, 2))
    await target.flush()
    await target.close()
    assert (tmp_path / "out.jsonl").read_bytes() == text(4)


async def test_rollback_can_go_back_to_an_earlier_commit(tmp_path: Path) -> None:
    target = sink(tmp_path)
    await target.open(None)
    await target.write(make_events(2))
    state = await target.flush()
    await target.write(make_events(2, 2))
    await target.flush()
    await target.rollback(state)
    assert (tmp_path / "out.jsonl").read_bytes() == text(2)
    await target.close()


async def test_past_its_bound_the_sink_takes_no_more_before_the_next_flush(tmp_path: Path) -> None:
    target = sink(tmp_path)
    target.max_unflushed_bytes = 20
    await target.open(None)
    with pytest.raises(BatchError) as caught:
        await target.write(make_events(4))
    assert (caught.value.failed, caught.value.not_attempted) == ({}, [2, 3])
    with pytest.raises(BatchError) as caught:
        await target.write(make_events(2, 2))
    assert (caught.value.failed, caught.value.not_attempted) == ({}, [0, 1])
    await target.flush()
    await target.write(make_events(2, 2))
    await target.flush()
    with pytest.raises(BatchError) as caught:
        await target.write([*make_events(1, 4), Event("x", "s", "t", raw=b'"' + b"x" * 30 + b'"'), *make_events(1, 5)])
    assert {n: error.code for n, error in caught.value.failed.items()} == {1: "sink.output_too_long"}
    assert caught.value.not_attempted == [2]
    await target.flush()
    await target.close()
    assert (tmp_path / "out.jsonl").read_bytes() == text(5)


@pytest.mark.parametrize(("suffix", "decompress"), [("gz", gzip.decompress), ("zst", None)])
async def test_every_committed_length_is_the_end_of_a_frame(tmp_path: Path, suffix: str, decompress: Any) -> None:
    path = tmp_path / f"out.jsonl.{suffix}"
    state = await committed(tmp_path, 3, path.name)
    whole = path.stat().st_size
    again = sink(tmp_path, path.name)
    await again.open(state)
    await again.write(make_events(3, 3))
    await again.flush()
    await again.close()
    data = path.read_bytes()
    for part in (data[:whole], data[whole:]):
        assert (decompress or zstandard.ZstdDecompressor().decompressobj().decompress)(part) in (text(3), text(3, 3))


async def test_csv_goes_on_under_the_columns_that_stand_in_the_file(tmp_path: Path) -> None:
    rows = [Event(str(n), "s", "t", decoded={"b": n, "a": "x"}) for n in range(2)]
    first = sink(tmp_path, "out.csv", format="csv")
    await first.open(None)
    await first.write(rows[:1])
    await first.rollback()
    await first.write(rows[:1])
    state = await first.flush()
    await first.close()
    second = sink(tmp_path, "out.csv", format="csv")
    await second.open(state)
    await second.write([Event("1", "s", "t", decoded={"a": "y", "b": 1})])
    with pytest.raises(BatchError):
        await second.write([Event("2", "s", "t", decoded={"a": "y"})])
    await second.flush()
    await second.close()
    assert (tmp_path / "out.csv").read_bytes() == b"b,a\n0,x\n1,y\n"


async def test_another_path_cuts_the_old_file_back_and_a_moved_file_goes_on(tmp_path: Path) -> None:
    state = await committed(tmp_path)
    old = tmp_path / "out.jsonl"
    with old.open("ab") as file:
        file.write(b"torn")
    other = sink(tmp_path, "other.jsonl")
    await other.open(state)
    await other.close()
    assert old.read_bytes() == text(3)
    with old.open("ab") as file:
        file.write(b"torn")
    old.rename(tmp_path / "moved.jsonl")
    moved = sink(tmp_path, "moved.jsonl")
    await moved.open(state)
    await moved.close()
    assert (tmp_path / "moved.jsonl").read_bytes() == text(3)


async def test_a_state_of_a_newer_program_is_refused_and_the_file_left_alone(tmp_path: Path) -> None:
    state = await committed(tmp_path)
    with pytest.raises(EnvironmentFault) as caught:
        await sink(tmp_path).open(state.replace(b'"v":1', b'"v":2'))
    assert caught.value.code == "sink.unknown_state"
    assert (tmp_path / "out.jsonl").read_bytes() == text(3)
