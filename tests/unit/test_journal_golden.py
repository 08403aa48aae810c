"""A journal that an older program wrote is read, and its sidecars made anew are those that it had."""

from __future__ import annotations

import shutil
from pathlib import Path

from journal_parts import ids, on_disk, seen, write, writer

from penstock.journal.frames import Place
from penstock.journal.reader import EVER, JournalReader

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "journal_v1"


def test_a_journal_of_format_1_is_read() -> None:
    reader = JournalReader(GOLDEN)
    records = list(reader.range(*EVER))
    assert [(name, record.line.outcome) for name, record in zip(ids(records), records, strict=True)] == [
        ("e1", "delivered"),
        ("e2", "delivered"),
        ("e3", "dead_lettered"),
        ("e4", "delivered"),
        ("e5", "delivered"),
    ]
    assert [len(list(reader.find(name))) for name in ("e1", "e2", "source-2", "e3", "e5", "e6")] == [1, 1, 1, 2, 1, 0]
    assert (reader.extent().segments, reader.extent().lines) == (2, 5)


def test_a_journal_of_format_1_is_gone_on_with(tmp_path: Path) -> None:
    directory = tmp_path / "j"
    shutil.copytree(GOLDEN, directory)
    for path in (*directory.glob("*.index"), *directory.glob("*.ids")):
        path.unlink()
    last = (directory / "0000000002.jsonl.zst").stat().st_size
    journal = writer(directory, Place("0123456789abcdef", 2, last))
    sidecars = [*GOLDEN.glob("*.index"), *GOLDEN.glob("*.ids")]
    assert len(sidecars) == 4
    assert [path.name for path in sidecars if (directory / path.name).read_bytes() != path.read_bytes()] == []
    write(journal, 6)
    assert (seen(directory), on_disk(directory / ".")[-1]) == ([1, 2, 3, 4, 5, 6], 6)
