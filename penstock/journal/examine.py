"""What `pipe doctor` and `pipe status` find out about a journal. Looks, and writes nothing. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from penstock.config.model import Journal
from penstock.errors import EnvironmentFault
from penstock.journal.frames import Place
from penstock.journal.head import HEAD, read_head
from penstock.journal.index import segment_size
from penstock.journal.reader import Extent, JournalReader
from penstock.places import LEAST_FREE, look_at_file, look_at_room
from penstock.spi import Finding

FULL = 1 << 20
"""Bytes free below which a disk is as good as full."""
_GIB = 1 << 30
_DAY = 86400.0


@dataclass(frozen=True, slots=True)
class Outline:
    """How large a journal is, and how much room its disk has.

    :ivar first, last: when its oldest and its newest event were received, in seconds since 1970; None where it is empty.
    :ivar free: bytes that a process without privileges may still write there; none, where no more files can be made.
    """

    directory: Path
    segments: int
    size: int
    first: float | None
    last: float | None
    free: int


def outline(directory: Path) -> Outline | None:
    """None where there is no journal."""
    if not (directory / HEAD).exists():
        return None
    extent = JournalReader(directory).extent(count=False)
    return Outline(directory, extent.segments, extent.size, extent.first, extent.last, free_bytes(directory))


def free_bytes(directory: Path) -> int:
    """On the disk that the directory is on.

    Source: statvfs(3); a file system that counts no inodes says that it has none.
    """
    found = os.statvfs(directory)
    return 0 if found.f_files and not found.f_favail else found.f_bavail * found.f_frsize


def examine_journal(declared: Journal, noted: str, now: float) -> list[Finding]:
    """Whether it can be written, belongs to its pipeline, and has the room that it may need.

    :param noted: how far it reaches, as the pipeline's ledgers keep it; empty where they keep nothing.
    :param now: seconds since 1970.
    """
    directory = declared.directory
    found = [look_at_file(directory / HEAD, "journal.place", "the journal")]
    try:
        found += _belongs(directory, Place.parse(noted))
        extent = JournalReader(directory).extent(count=False)
        found += [*_kept(declared, extent, now), _room(declared, extent)]
    except EnvironmentFault as fault:
        found.append(Finding.of(fault))
    except OSError as error:
        help = f"it must belong to the user who runs the pipeline: ls -l {directory}"
        found.append(Finding("error", "journal.unusable", f"the journal cannot be read: {error.strerror}", help=help))
    return found


def _belongs(directory: Path, place: Place | None) -> Iterator[Finding]:
    head = read_head(directory)
    if place is None:
        return
    why = "what came in before is not in it: `pipe explain` and backfills do not know it"
    if head is None or head.id != place.journal:
        said = f"the journal in {directory} is {'not there' if head is None else 'another one than the pipeline wrote last'}"
        yield Finding("warning", "journal.other", said, why, "put it back where it was; the next run begins a new one otherwise")
    elif place.end and segment_size(directory, place.segment) < place.end:
        said = f"the journal in {directory} is shorter than the pipeline wrote it"
        yield Finding("warning", "journal.shorter", said, why, "put it back from a backup; the next run goes on otherwise")


def _kept(declared: Journal, extent: Extent, now: float) -> Iterator[Finding]:
    if extent.first is None:
        yield Finding("ok", "journal.size", f"it is empty, and may grow to {_gib(declared.max_size)}")
        return
    age = max(0.0, now - extent.first)
    said = f"{_gib(extent.size)} of at most {_gib(declared.max_size)}, back to {age / _DAY:,.1f} days ago"
    if extent.size > 0.9 * declared.max_size and age < 0.9 * declared.retention:
        yield Finding(
            "warning",
            "journal.size",
            said,
            f"`journal.retention` asks for {declared.retention / _DAY:,.1f} days, and `journal.max_size` cuts them short",
            "raise `journal.max_size`, or lower `journal.retention`",
        )
        return
    yield Finding("ok", "journal.size", said)


def _room(declared: Journal, extent: Extent) -> Finding:
    place = next(path for path in (declared.directory, *declared.directory.parents) if path.exists())
    free, growth = free_bytes(place), max(0, declared.max_size - extent.size)
    if LEAST_FREE <= free < growth:
        said = f"{_gib(free)} are free where {place} is, and the journal may grow by {_gib(growth)}"
        why, help = (
            "a full disk holds the pipeline until there is room",
            "lower `journal.max_size`, or move it with `journal.path`",
        )
        return Finding("warning", "journal.room", said, why, help)
    return look_at_room(declared.directory, "journal.room")


def _gib(size: int) -> str:
    return f"{size / _GIB:,.1f} GiB"
