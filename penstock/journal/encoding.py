"""From lines to frames: compressed, with what the index says of them. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock.cloudevents import is_time, timestamp
from penstock.journal.frames import About, Span, digests

if TYPE_CHECKING:
    import zstandard

LEVEL = 1
FRAME = 1 << 20
"""Bytes of lines after which a frame ends."""
_DAY = r"(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])|(?:0[13-9]|1[0-2])-(?:29|30)|(?:0[13578]|1[02])-31"
_TIMES_IN_UTC = re.compile(rf"(?:\d{{4}}-(?:{_DAY})T(?:[01]\d|2[0-3]):[0-5]\d:(?:[0-5]\d|60)(?:\.\d+)?Z\n)*", re.ASCII)
"""Times, a line each, that sort as their texts do, fractions aside. (A 29th of February has to be looked at.)"""


@dataclass(slots=True)
class Lines:
    """The lines of one commit, before they are written; the lists go together, an element a line.

    :ivar texts: without line ends; `ids`: of the events; `times`: theirs, or else when they were received, RFC 3339.
    :ivar others: by line, a second id of its event (what the source gave it, where `event:` made another).
    :ivar at: when the first and the last were received, in seconds since 1970.
    :ivar corrections: all of them correct an earlier one.
    """

    at: tuple[float, float]
    texts: list[bytes] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    times: list[str] = field(default_factory=list)
    others: dict[int, str] = field(default_factory=dict)
    corrections: bool = False

    def __bool__(self) -> bool:
        return bool(self.texts)


def frames_of(lines: Lines, compressor: zstandard.ZstdCompressor) -> Iterator[tuple[bytes, About]]:
    """Compressed frames of about `FRAME` bytes of lines."""
    at = Span.of(*lines.at)
    others = lines.others
    for part in _parts(lines.texts):
        texts, ids = lines.texts[part], lines.ids[part]
        if others:
            ids += [others[line] for line in range(part.start, part.stop) if line in others]
        data = compressor.compress(b"\n".join((*texts, b"")))
        corrections = len(texts) if lines.corrections else 0
        yield data, About(digests(ids), len(texts), corrections, span_of(lines.times[part], at), at)


def span_of(times: Sequence[str], at: Span) -> Span:
    """From the first to the last of RFC 3339 texts, a second wider on both sides.

    :param at: when their events were received, which counts where a text is no time.
    """
    texts = set(times)  # without times of their own, all events of a batch have one
    if _TIMES_IN_UTC.fullmatch("\n".join((*texts, ""))):
        first, last = min(texts), max(texts)
        if is_time(first):  # the year 0 comes first
            return Span.of(timestamp(first), timestamp(last)).wider()
    return _span_of_any(texts, at)


def _span_of_any(times: Set[str], at: Span) -> Span:
    moments = [timestamp(time) for time in times if is_time(time)]
    if len(moments) < len(times):
        moments += at.seconds
    return Span.of(min(moments), max(moments)).wider()


def _parts(texts: Sequence[bytes]) -> Iterator[slice]:
    if sum(map(len, texts)) + len(texts) < FRAME:
        yield slice(0, len(texts))
        return
    size = start = 0
    for index, text in enumerate(texts):
        size += len(text) + 1
        if size >= FRAME:
            yield slice(start, index + 1)
            size, start = 0, index + 1
    if start < len(texts):
        yield slice(start, len(texts))
