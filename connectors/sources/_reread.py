"""Reads one record of a file again, for dead letters that keep only its head."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from connectors.sources._file_faults import located, settled
from connectors.sources._file_open import Opener
from connectors.sources._file_reader import BLOCK, make_format, suffix_of
from connectors.sources._marks import Known
from connectors.sources._records import Cut
from connectors.sources._streams import open_stream
from penstock.errors import Permanent
from penstock.event import Event


def reread(opener: Opener, partition: str, position: bytes, known: Known | None) -> Event:
    """The record that ends at `position`. Blocking; reads from the start of the file, because only there the records are certain.

    :raises Permanent: `source.gone`, or why the record cannot become an event even now.
    :raises EnvironmentFault: the file cannot be read, or is damaged before the record.
    """
    generation, offset = struct.unpack(">IQ", position)
    with located(partition):
        return settled(lambda: _find(opener, partition, generation, offset, position, known))


def _find(opener: Opener, partition: str, generation: int, offset: int, position: bytes, known: Known | None) -> Event:
    for cut in _cuts(opener, partition, generation, known):
        if cut.end < offset:
            continue
        for index, event in enumerate(cut.events):
            if event.position >= position:
                if index in cut.rejects:
                    raise cut.rejects[index]
                return event
    raise _gone(partition, generation, offset)


def _cuts(opener: Opener, partition: str, generation: int, known: Known | None) -> Iterator[Cut]:
    path = opener.locate(partition, generation, known)
    if path is None:
        return
    format = make_format(opener.kind, opener.naming(partition, generation), opener.limits)
    stream = open_stream(path, suffix_of(partition))
    try:
        while block := stream.read(BLOCK):
            yield from format.feed(block)
        yield from format.finish()
    finally:
        stream.close()


def _gone(partition: str, generation: int, offset: int) -> Permanent:
    return Permanent(
        "source.gone",
        f"the record is no longer in {partition}",
        where=f"partition {partition}, position {generation}-{offset}",
        help="put the file back, or discard the dead letter",
    )
