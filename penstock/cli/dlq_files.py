"""Files of lines, compressed by suffix: written as a whole or not at all, and read line by line."""

from __future__ import annotations

import errno
import gzip
import os
import secrets
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, cast

from penstock.errors import UsageError
from penstock.files import sync_directory

_LONGEST = 256 << 20
"""Bytes of a line."""


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """A new file for this user alone, which has its name once it is whole and on the disk.

    :raises UsageError: `dlq.cannot_write`: it is there already, or its directory cannot be written.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    if path.exists():
        raise UsageError("dlq.cannot_write", f"cannot write {path}", why="File exists", help="another name, or move it away")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot_write(path, error) from error
    try:
        with ExitStack() as stack:
            raw = stack.enter_context(os.fdopen(descriptor, "wb"))
            with _compressed(path, raw) as out:
                yield out
            raw.flush()
            os.fsync(raw.fileno())
        _name(draft, path)
        sync_directory(path.absolute().parent)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        draft.unlink(missing_ok=True)


def _name(draft: Path, path: Path) -> None:
    """Fails where somebody else was quicker."""
    try:
        os.link(draft, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP):
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        draft.rename(path)  # of file systems that know no links


@contextmanager
def _compressed(path: Path, raw: IO[bytes]) -> Iterator[IO[bytes]]:
    if path.suffix == ".gz":
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as out:
            yield cast(IO[bytes], out)
    elif path.suffix == ".zst":
        import zstandard

        with zstandard.ZstdCompressor().stream_writer(raw, closefd=False) as out:
            yield cast(IO[bytes], out)
    else:
        yield raw


@contextmanager
def read_lines(path: Path) -> Iterator[Iterable[bytes]]:
    """The lines of a file, without their ends; `-` is standard input.

    :raises UsageError: `dlq.cannot_read`; while reading, too: damaged compression, a line that is too long.
    """
    with ExitStack() as stack:
        try:
            raw = sys.stdin.buffer if str(path) == "-" else stack.enter_context(path.open("rb"))
        except OSError as error:
            raise UsageError("dlq.cannot_read", f"cannot read {path}", why=error.strerror) from error
        yield _lines(path, _plain(path, raw, stack))


def _plain(path: Path, raw: IO[bytes], stack: ExitStack) -> IO[bytes]:
    if path.suffix == ".gz":
        return cast(IO[bytes], stack.enter_context(gzip.GzipFile("", "rb", fileobj=raw)))
    if path.suffix == ".zst":
        import io

        import zstandard

        reader = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True, closefd=False)
        return cast(IO[bytes], stack.enter_context(io.BufferedReader(cast(io.RawIOBase, reader))))
    return raw


def _lines(path: Path, stream: IO[bytes]) -> Iterator[bytes]:
    try:
        while line := stream.readline(_LONGEST):
            if len(line) == _LONGEST:
                raise UsageError("dlq.cannot_read", f"{path} has a line of more than {_LONGEST >> 20} MiB")
            yield line.rstrip(b"\r\n")
    except (OSError, EOFError, _zstd_error()) as error:
        raise UsageError("dlq.cannot_read", f"{path} cannot be read to its end", why=str(error)) from error


def _zstd_error() -> type[Exception]:
    import zstandard

    return cast(type[Exception], zstandard.ZstdError)


def _cannot_write(path: Path, error: OSError) -> UsageError:
    return UsageError("dlq.cannot_write", f"cannot write {path}", why=error.strerror)
