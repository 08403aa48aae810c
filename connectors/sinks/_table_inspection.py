"""Whether rows that were delivered are in the table: by their key, or, without one, by their values. What each database does
stands behind `Keys` and `Rows`.

By key: its row is there, whatever it holds by now; or something that came later removed it, or is remembered that is newer.
Without a key: of rows with these values there are at least as many as were delivered since the table was last emptied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, Protocol

from connectors.sinks._absences import Unclear, because, first_of
from connectors.sinks._asked import Asked, Reading
from connectors.sinks._digests import Suspects, Wanted
from penstock.errors import ComponentError
from penstock.event import Event
from penstock.inspection import Absence

Digest = int | ComponentError
"""Of a key or of a row: equal where these are, signed, of 64 bits; or why the sink would refuse the event."""


class Keys(Protocol):
    """Looks for rows by their key."""

    async def missing(self, contents: Sequence[Mapping[str, Any]]) -> list[Digest | None]:
        """For each, the digest of its key where no row has it; None where one has, or need not."""
        ...

    async def digests(self, contents: Sequence[Mapping[str, Any]]) -> list[Digest]:
        """Of the key of each. Two that the table takes for one have the same."""
        ...


class Rows(Protocol):
    """Looks at all rows."""

    async def digests(self, names: tuple[str, ...], contents: Sequence[Mapping[str, Any]]) -> list[Digest]:
        """Of each row as the table would hold it, in these columns."""
        ...

    async def see(self, names: tuple[str, ...], wanted: Wanted) -> None:
        """Show the digests of all rows of the table, in these columns, to `wanted`, until none is left."""
        ...


class KeyInspection:
    """See `Inspection`. Each event is looked for at once, so that what removed its row meanwhile comes later.

    :param why: what is said of those that are absent.
    :param removes: events delete rows.
    """

    def __init__(self, keys: Keys, reading: Reading, why: str, *, removes: bool) -> None:
        self.removes = removes
        self._keys = keys
        self._reading = reading
        self._why = why
        self._suspects = Suspects()
        self._unclear = Unclear()

    async def expect(self, tokens: Sequence[int], events: Sequence[Event]) -> None:
        """See `Inspection`."""
        asked = self._reading.read(events)
        places, contents = _of_kind(asked, "put")
        missing = dict(zip(places, await self._keys.missing(contents), strict=True)) if places else {}
        gone = await self._gone(asked) if self._suspects or any(each is not None for each in missing.values()) else {}
        for place, (kind, content) in enumerate(asked):
            found = content if isinstance(content, ComponentError) else missing.get(place)
            if isinstance(found, ComponentError):
                self._unclear.add(found, tokens[place])
            elif kind == "put":
                if found is not None:
                    self._suspects.add(found, tokens[place])
            else:
                self._settle(asked, place, gone)

    async def absent(self) -> int:
        """See `Inspection`."""
        return self._suspects.count() + len(self._unclear)

    async def later(self, events: Sequence[Event]) -> None:
        """See `Inspection`."""
        asked = self._reading.read(events)
        gone = await self._gone(asked) if self._suspects else {}
        for place in range(len(asked)):
            self._settle(asked, place, gone)

    async def absences(self, most: int) -> tuple[int, list[Absence]]:
        """See `Inspection`."""
        count = await self.absent()
        return count, first_of(most, chain(because(self._suspects.tokens(), self._why), self._unclear.found()))

    async def _gone(self, asked: Sequence[Asked]) -> dict[int, Digest]:
        """By place, the digests of the keys whose rows are deleted."""
        places, contents = _of_kind(asked, "delete")
        return dict(zip(places, await self._keys.digests(contents), strict=True)) if places else {}

    def _settle(self, asked: Sequence[Asked], place: int, gone: Mapping[int, Digest]) -> None:
        kind, content = asked[place]
        if kind == "truncate" and not isinstance(content, ComponentError):
            self._suspects.clear()
            self._unclear.clear()
        elif isinstance(digest := gone.get(place), int):
            self._suspects.settle(digest)


class RowInspection:
    """See `Inspection`. The table is read once for each set of columns that events have.

    :param why, removes: as for `KeyInspection`.
    """

    def __init__(self, rows: Rows, reading: Reading, why: str, *, removes: bool) -> None:
        self.removes = removes
        self._rows = rows
        self._reading = reading
        self._why = why
        self._wanted: dict[tuple[str, ...], Wanted] = {}
        self._unclear = Unclear()
        self._looked = False

    async def expect(self, tokens: Sequence[int], events: Sequence[Event]) -> None:
        """See `Inspection`."""
        asked = self._reading.read(events)
        first = self._emptied(asked)
        shapes: dict[tuple[str, ...], list[int]] = {}
        for place in range(first, len(asked)):
            content = asked[place][1]
            if isinstance(content, ComponentError):
                self._unclear.add(content, tokens[place])
            else:
                shapes.setdefault(tuple(content), []).append(place)
        for names, places in shapes.items():
            contents = [content for place in places if not isinstance(content := asked[place][1], ComponentError)]
            await self._want(names, contents, [tokens[place] for place in places])

    async def _want(self, names: tuple[str, ...], contents: Sequence[Mapping[str, Any]], tokens: Sequence[int]) -> None:
        digests, clear = [], []
        for digest, token in zip(await self._rows.digests(names, contents), tokens, strict=True):
            if isinstance(digest, ComponentError):
                self._unclear.add(digest, token)
            else:
                digests.append(digest)
                clear.append(token)
        if clear:
            self._wanted.setdefault(names, Wanted()).add(digests, clear)

    async def absent(self) -> int:
        """See `Inspection`. Reads the table."""
        if not self._looked:
            self._looked = True
            for names, wanted in self._wanted.items():
                wanted.seal()
                await self._rows.see(names, wanted)
        return sum(wanted.left for wanted in self._wanted.values()) + len(self._unclear)

    async def later(self, events: Sequence[Event]) -> None:
        """See `Inspection`."""
        self._emptied(self._reading.read(events))

    async def absences(self, most: int) -> tuple[int, list[Absence]]:
        """See `Inspection`."""
        count = await self.absent()
        missing = chain.from_iterable(wanted.missing() for wanted in self._wanted.values())
        return count, first_of(most, chain(because(missing, self._why), self._unclear.found()))

    def _emptied(self, asked: Sequence[Asked]) -> int:
        """Forget what was expected before the last truncation of these; the place behind it."""
        for place in range(len(asked) - 1, -1, -1):
            kind, content = asked[place]
            if kind == "truncate" and not isinstance(content, ComponentError):
                self._wanted.clear()
                self._unclear.clear()
                return place + 1
        return 0


class NoTable:
    """See `Inspection`. Where there is no table: nothing can have been delivered to it.

    :param error: what is wrong where something was.
    """

    removes = False

    def __init__(self, error: ComponentError) -> None:
        self._error = error

    async def expect(self, tokens: Sequence[int], events: Sequence[Event]) -> None:
        """:raises ComponentError: something was."""
        if events:
            raise self._error

    async def absent(self) -> int:
        return 0

    async def later(self, events: Sequence[Event]) -> None:
        """Nothing was expected."""

    async def absences(self, most: int) -> tuple[int, list[Absence]]:
        return 0, []


def _of_kind(asked: Sequence[Asked], wanted: str) -> tuple[list[int], list[Mapping[str, Any]]]:
    """The places of those that ask for this, and their contents."""
    found = [
        (place, content)
        for place, (kind, content) in enumerate(asked)
        if kind == wanted and not isinstance(content, ComponentError)
    ]
    return [place for place, _ in found], [content for _, content in found]
