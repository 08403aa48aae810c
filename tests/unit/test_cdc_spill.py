"""The directory in which transactions in progress wait: private, gone with its owner, and sure of what it gives back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from connectors.sources._cdc.blocks import Blocks
from connectors.sources._cdc.spill import SpillDirectory
from connectors.sources._pg_replication import ProtocolError
from connectors.sources._pgoutput_messages import StreamAbort, StreamCommit, StreamStart
from penstock.errors import EnvironmentFault, Transient, Unavailable

OWNER = """
import sys
from pathlib import Path
from connectors.sources._cdc.spill import SpillDirectory
spill = SpillDirectory(Path(sys.argv[1]), "shop")
spill.open()
spill.append(7, b"what nobody reads any more")
print("open", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tmp_path / "state" / "spill"


@pytest.fixture
def spill(base: Path) -> Iterator[SpillDirectory]:
    directory = SpillDirectory(base, "shop")
    directory.open()
    yield directory
    directory.close()


def files(base: Path) -> list[str]:
    return sorted(str(path.relative_to(base)) for path in base.rglob("*"))


def test_chunks_come_back_and_nothing_stays(base: Path) -> None:
    spill = SpillDirectory(base, "shop")
    spill.open()
    chunks = [b"one", b"", bytes(range(256)) * 1000]
    sizes = [spill.append(7, chunk) for chunk in chunks]
    spill.append(8, b"another")
    at, given = 0, []
    while at < sum(sizes):
        chunk, at = spill.read(7, at)
        given.append(chunk)
    assert given == chunks
    own = f"cdc-shop-{os.getpid()}-0"
    assert files(base) == [own, f"{own}/7.changes", f"{own}/8.changes", f"{own}/owner"]
    modes = {path.name: path.stat().st_mode & 0o777 for path in [base, *base.rglob("*")]}
    assert modes == {"spill": 0o700, own: 0o700, "7.changes": 0o600, "8.changes": 0o600, "owner": 0o600}
    spill.remove(7)
    spill.remove(9)
    assert files(base) == [own, f"{own}/8.changes", f"{own}/owner"]
    spill.clear()
    assert files(base) == [own, f"{own}/owner"]
    spill.append(9, b"x")
    spill.close()
    spill.close()
    assert files(base) == []


@pytest.mark.parametrize("size", [3, 12])
def test_a_file_that_ends_too_early_is_noticed(base: Path, spill: SpillDirectory, size: int) -> None:
    spill.append(7, b"eight of")
    (file,) = base.rglob("*.changes")
    os.truncate(file, size)
    with pytest.raises(Transient) as caught:
        spill.read(7, 0)
    assert caught.value.code == "source.spill_damaged"


def test_a_file_that_was_changed_or_removed_is_noticed(base: Path, spill: SpillDirectory) -> None:
    spill.append(7, b"eight of")
    (file,) = base.rglob("*.changes")
    file.write_bytes(file.read_bytes()[:-1] + b"F")
    with pytest.raises(Transient, match="changed by something else"):
        spill.read(7, 0)
    file.unlink()
    with pytest.raises(Transient, match="changed by something else"):
        spill.read(7, 0)


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_has_is_not(base: Path) -> None:
    owners = [
        subprocess.Popen([sys.executable, "-c", OWNER, str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for owner in owners:
            assert owner.stdout is not None
            assert owner.stdout.readline() == b"open\n"
        owners[0].send_signal(signal.SIGKILL)
        owners[0].wait()
        spill = SpillDirectory(base, "other")
        spill.open()
        kept, own = f"cdc-shop-{owners[1].pid}-0", f"cdc-other-{os.getpid()}-0"
        assert files(base) == sorted([own, f"{own}/owner", kept, f"{kept}/7.changes", f"{kept}/owner"])
        spill.close()
    finally:
        for owner in owners:
            owner.kill()
            owner.communicate()


def test_two_of_one_process_stand_side_by_side(base: Path, spill: SpillDirectory) -> None:
    other = SpillDirectory(base, "shop")
    other.open()
    spill.append(7, b"one")
    other.append(7, b"two")
    assert (spill.read(7, 0)[0], other.read(7, 0)[0]) == (b"one", b"two")
    other.close()
    assert spill.read(7, 0)[0] == b"one"


def test_names_of_others_are_left_alone(base: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "owner").touch()
    (elsewhere / "7.changes").touch()
    for name in ("shop", "cdc-shop-1", "cdc-shop-1-0"):
        (base / name).mkdir(parents=True)
    (base / "cdc-shop-1-0" / "owner").touch()
    (base / "cdc-shop-1-0" / "7.changes").touch()
    (base / "cdc-shop-1-0" / "a photo.jpg").touch()
    (base / "cdc-shop-2-0").mkdir()
    (base / "cdc-shop-3-0").symlink_to(elsewhere)
    (base / "cdc-shop-4-0").touch()
    spill = SpillDirectory(base, "shop")
    spill.open()
    spill.close()
    assert files(base) == ["cdc-shop-1", "cdc-shop-1-0", "cdc-shop-1-0/a photo.jpg", "cdc-shop-3-0", "cdc-shop-4-0", "shop"]
    assert files(elsewhere) == ["7.changes", "owner"]


def test_a_directory_that_cannot_be_used_names_the_field(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentFault) as caught:
        SpillDirectory(tmp_path / "file" / "spill", "shop").open()
    assert caught.value.code == "source.spill"
    assert "spill.directory" in (caught.value.help or "")


class Full(SpillDirectory):
    def _file(self, xid: int) -> Path:
        return Path("/dev/full")


def test_a_full_disk_is_unavailable(base: Path) -> None:
    spill = Full(base, "shop")
    spill.open()
    with pytest.raises(Unavailable) as caught:
        spill.append(7, b"x")
    spill.close()
    assert caught.value.code == "source.spill_disk"


async def test_blocks_of_several_transactions_come_back_each_without_what_was_rolled_back(base: Path) -> None:
    def change(kind: bytes, xid: int, text: bytes) -> bytes:
        return kind + xid.to_bytes(4, "big") + text

    blocks = Blocks(SpillDirectory(base, "shop"), 1 << 20)
    await blocks.open()
    for first in (True, False):
        for top, sub in ((10, 11), (20, 21)):
            blocks.start(StreamStart(top, first))
            for message in (change(b"R", sub, b"table"), change(b"I", top, b"one"), change(b"I", sub, b"two"), b"O" + bytes(9)):
                assert not blocks.add(message)
            await blocks.stop()
    await blocks.abort(StreamAbort(20, 21, None, None))
    await blocks.abort(StreamAbort(30, 31, None, None))
    replay = blocks.commit(StreamCommit(20, 1, 2, 3))
    given = []
    while await replay.advance():
        given.extend(replay.messages)
    assert given == [change(b"R", 21, b"table"), change(b"I", 20, b"one"), b"O" + bytes(9)] * 2
    await blocks.discard(20)
    assert len(list(base.rglob("*.changes"))) == 1
    await blocks.abort(StreamAbort(10, 10, None, None))
    assert (blocks.size, list(base.rglob("*.changes"))) == (0, [])
    with pytest.raises(ProtocolError):
        blocks.commit(StreamCommit(10, 1, 2, 3))
    with pytest.raises(ProtocolError):
        blocks.start(StreamStart(10, False))
    await blocks.close()
    await blocks.close()
    assert files(base) == []
