"""Parts for tests of the journal: lines of made-up events, writers and readers, the lines as they lie on the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from penstock.clock import rfc3339
from penstock.event import Event
from penstock.faults import Faults
from penstock.journal.encoding import Lines
from penstock.journal.frames import Place
from penstock.journal.lines import Envelopes, corrects_text, head_text, outcome_text
from penstock.journal.reader import EVER, JournalReader, Record
from penstock.journal.segments import Segments

BEGAN = 1_760_000_000.0


def an_event(number: int, **changes: Any) -> Event:
    """Number n, which happened n seconds after `BEGAN`."""
    values = {"time": rfc3339(BEGAN + number), "raw": b'{"n":%d}' % number, "position": number.to_bytes(8, "big")}
    return Event(f"e{number}", "list:orders", "orders.record", **(values | changes))


def lines_of(*numbers: int, at: float = BEGAN, events: Sequence[Event] = (), partition: str = "p") -> Lines:
    """Delivered, and received at `at`."""
    lines, envelope = Lines((at, at)), Envelopes().of
    for event in (*map(an_event, numbers), *events):
        head = head_text(rfc3339(at), partition, "0123456789abcdef")
        said = outcome_text("delivered", None, None)
        position = event.position.hex().encode()
        lines.texts.append(b'%b,"position":"%b"%b,"event":%b}' % (head, position, said, envelope(event)))
        lines.ids.append(event.id)
        lines.times.append(event.time or rfc3339(at))
    return lines


def corrections_of(*numbers: int, at: float = BEGAN, job: str = "", partition: str = "p", position: bytes | None = None) -> Lines:
    """These are dead letters after all."""
    lines = Lines((at, at), corrections=True)
    for event in map(an_event, numbers):
        head = head_text(rfc3339(at), partition, "0123456789abcdef")
        said = outcome_text("dead_lettered", "table", f"letter-{event.id}") + corrects_text(event.id, job)
        place = (event.position if position is None else position).hex().encode()
        lines.texts.append(b'%b,"position":"%b"%b}' % (head, place, said))
        lines.ids.append(event.id)
        lines.times.append(rfc3339(at))
    return lines


def writer(directory: Path, place: Place | None = None, *, roll: int = 1 << 20, faults: Faults | None = None) -> Segments:
    """Opened at a place."""
    segments = Segments(directory, faults or Faults(), roll)
    segments.open(place)
    return segments


def write(segments: Segments, *numbers: int, at: float = BEGAN) -> Place:
    """One commit."""
    place = segments.append(lines_of(*numbers, at=at))
    segments.commit()
    return place


def ids(records: Sequence[Record]) -> list[str]:
    return [json.loads(bytes(record.line.event))["id"] for record in records]


def seen(directory: Path) -> list[int]:
    """The numbers of the events that a reader sees, in order."""
    return [int(each[1:]) for each in ids(list(JournalReader(directory).range(*EVER)))]


def found(directory: Path, number: int) -> int:
    """How many lines tell of an event."""
    return len(list(JournalReader(directory).find(f"e{number}")))


def on_disk(directory: Path) -> list[int]:
    """The same as other tools see it: every segment from its beginning to its end, with nothing but zstd and JSON."""
    numbers = []
    for path in sorted(directory.glob("*.jsonl.zst")):
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
            text = stream.read()
        lines = [json.loads(line) for line in text.splitlines()]
        numbers += [line["event"]["id"] for line in lines if "event" in line]
    return [int(each[1:]) for each in numbers]
