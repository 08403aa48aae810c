"""Whether a file could be written where it is meant to be, and how much room there is. Looks, and writes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from penstock.spi import Finding

LEAST_FREE = 1 << 30
"""Bytes free below which a disk is worth a word."""

_GIB = 1 << 30


def look_at_file(path: Path, code: str, what: str) -> Finding:
    """Whether `path` can be written, or made with the directories above it.

    :param what: such as `the file`.
    """
    if path.exists():
        if path.is_dir():
            return Finding("error", code, f"{what} {path} is a directory", help="name a file in it")
        if not os.access(path, os.R_OK | os.W_OK):
            return Finding("error", code, f"{what} {path} may not be written", help=f"chmod u+rw {path}, or run as its owner")
    return _look_above(path, code, what)


def look_at_room(path: Path, code: str, least: int = LEAST_FREE) -> Finding:
    """How much room there is where `path` is, or will be."""
    place = _there(path)
    free = shutil.disk_usage(place).free
    said = f"{free / _GIB:,.1f} GiB are free where {place} is"
    if free < least:
        return Finding("warning", code, said, "a full disk holds the pipeline until there is room", f"df {place}")
    return Finding("ok", code, said)


def _look_above(path: Path, code: str, what: str) -> Finding:
    place = _there(path.parent)
    if not place.is_dir():
        return Finding("error", code, f"{what} {path} cannot be made: {place} is no directory", help="choose another path")
    if not os.access(place, os.W_OK | os.X_OK):
        help = f"chmod u+wx {place}, or run as its owner"
        return Finding("error", code, f"{what} {path} cannot be made: {place} may not be written", help=help)
    return Finding("ok", code, f"{what} {path} can be {'written' if path.exists() else 'made'}")


def _there(path: Path) -> Path:
    """The path, or the nearest above it that exists."""
    for place in (path, *path.parents):
        if place.exists():
            return place
    return Path("/")
