"""Which rows of a snapshot are older than changes that were given before them: what makes reading beside the stream exact.

A range of rows is read in one transaction, whose snapshot (`Moment`) tells which transactions it sees. The rows are given once
the stream has passed the end of the WAL as it was at that moment. Take a row, and a change of it by a transaction T:

- T is seen: the row holds the change, and the stream has given it before the row, for its commit lies before that end.
- T is not seen, and its change comes later: it follows the row.
- T is not seen, and its change was given already: the row is older, and is left out. That is what `Touched` remembers.

`Touched` begins to remember before the first range is read. A change that was given earlier still, maybe by an earlier run, and
is not seen yet (its COMMIT waits for a stand-by, say) belongs to a transaction that holds its lock on the table until it is seen.
So whoever reads first waits for the transactions that were writing to the table when remembering began (`_cdc.snapshot_reader`).

Only changes that became events count: one that `where` or `operations` leave out is in no event, so that the row is told as it
was. Nor do those count that became dead letters. Keys are compared as PostgreSQL's text of them, before any conversion or mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

RawKey = tuple[bytes, ...]

MOST_TOUCHED = 100_000
"""Keys that are remembered for a table. Beyond these the transactions alone are, and what does not see them is read again."""
_FEW = 1_000
_HALF, _WHOLE = 1 << 31, 1 << 32


class Moment(msgspec.Struct, frozen=True):
    """A snapshot of the server.

    :ivar running: transactions in progress among those from `oldest` to before `next`.
    :ivar end: the end of the WAL, no earlier than the commits of all transactions that are seen.
    :ivar time: RFC 3339.
    """

    oldest: int
    next: int
    running: frozenset[int]
    end: int
    time: str

    def sees(self, xid: int) -> bool:
        """:param xid: of a top-level transaction, its low 32 bits, as the stream gives it."""
        full = self.next - self.next % _WHOLE + xid
        if full >= self.next + _HALF:
            full -= _WHOLE
        elif full < self.next - _HALF:
            full += _WHOLE
        return full < self.oldest or (full < self.next and full not in self.running)


def moment(snapshot: str, end: int, time: str) -> Moment:
    """:param snapshot: as `txid_current_snapshot()` prints it."""
    oldest, following, running = snapshot.split(":")
    return Moment(int(oldest), int(following), frozenset(map(int, filter(None, running.split(",")))), end, time)


class Touched:
    """The changes of one table that were given, by key, as far as some range may not see them yet.

    :ivar forgotten: transactions of which it is not known what they changed: a range that does not see all of them is to be read
        again.
    """

    def __init__(self) -> None:
        self.forgotten: set[int] = set()
        self._keys: dict[RawKey, set[int]] = {}
        self._emptied: set[int] = set()
        self._xids: set[int] = set()
        self._count = 0
        self._prune_at = _FEW

    def add(self, xid: int, key: RawKey | None) -> None:
        """A change was given. `key` is None where it is not known."""
        if key is None or xid in self.forgotten:
            self.forgotten.add(xid)
            return
        self._xids.add(xid)
        xids = self._keys.setdefault(key, set())
        if xid not in xids:
            xids.add(xid)
            self._count += 1
            if self._count > MOST_TOUCHED:
                self.forget()

    def empty(self, xid: int) -> None:
        """A TRUNCATE was given."""
        self._xids.add(xid)
        self._emptied.add(xid)

    def forget(self) -> None:
        """Keep the transactions alone."""
        self.forgotten.update(*self._keys.values())
        self._keys.clear()
        self._count = 0

    def is_clear(self, seen: Moment) -> bool:
        """Whether `older` can tell."""
        return all(map(seen.sees, self.forgotten))

    def older(self, seen: Moment, keys: Sequence[RawKey]) -> set[int]:
        """The rows, by their place among `keys`, that a change was given of which they do not hold. Asked in the order in which
        ranges were read: what the moment sees is not needed again."""
        hidden = {xid for xid in self._xids if not seen.sees(xid)}
        if hidden & self._emptied:
            found = set(range(len(keys)))
        elif hidden:
            found = {at for at, key in enumerate(keys) if key in self._keys and self._keys[key] & hidden}
        else:
            found = set()
        self._keep(hidden)
        self.forgotten = {xid for xid in self.forgotten if not seen.sees(xid)}
        return found

    def _keep(self, hidden: set[int]) -> None:
        self._xids = hidden
        self._emptied &= hidden
        if not hidden:
            self._keys.clear()
        elif self._count >= self._prune_at:
            self._keys = {key: left for key, xids in self._keys.items() if (left := xids & hidden)}
        else:
            return
        self._count = sum(map(len, self._keys.values()))
        self._prune_at = max(_FEW, 2 * self._count)
