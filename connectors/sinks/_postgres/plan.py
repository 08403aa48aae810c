"""Operations in the order of their events to steps that the server carries out at once, with the same rows in the end. No I/O.

Within a layer no two operations concern one row: of several that do, the last stands for all where it says everything that they
said. Rows of different keys do not depend on each other, so a layer's deletions come first, then its rows, those of the same
columns together. Where rows may depend on each other (`Rules.strict`), a deletion behind a row begins a new layer, and so does a
row of other columns. Where rows have an order, what is older than another operation on its key in the layer is left out, and
counted: it would lose against that one, or against what that one loses to. Rows that are not put together keep their order
whatever their columns: an identity column counts them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter

from connectors.sinks._asked import OnConflict
from connectors.sinks._postgres.rows import Op


@dataclass(frozen=True, slots=True)
class Rules:
    """What decides how operations may be put together.

    :ivar keyed: rows are identified by a key.
    :ivar strict: two rows may have the same key though its texts differ (numerics, case-insensitive text), or a row's deletion
        reaches others (a foreign key of the table to itself).
    :ivar ordered: of two operations on one row the older loses, whenever it comes; of two with the same order the former.
    """

    keyed: bool
    on_conflict: OnConflict
    strict: bool = False
    ordered: bool = False


@dataclass(slots=True)
class Layer:
    """Deletions, then rows in groups of the same columns.

    :ivar stale: operations that were left out, being older than others.
    """

    deletes: Sequence[Op] = ()
    puts: Sequence[Sequence[Op]] = ()
    stale: int = 0


@dataclass(frozen=True, slots=True)
class Truncation:
    """All rows go."""

    op: Op


Step = Layer | Truncation


def plan(ops: Iterable[Op], rules: Rules) -> list[Step]:
    """The steps, in order."""
    steps: list[Step] = []
    collecting = _CollectingNewest if rules.ordered else _Collecting
    layer = collecting(rules)
    for op in ops:
        if op.kind != "truncate" and layer.take(op):
            continue
        steps.extend(layer.closed())
        layer = collecting(rules)
        if op.kind == "truncate":
            steps.append(Truncation(op))
        else:
            layer.take(op)
    steps.extend(layer.closed())
    return steps


class _Collecting:
    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._folds = rules.keyed and rules.on_conflict != "error"
        self._deletes: dict[tuple[str | None, ...], Op] = {}
        self._puts: dict[tuple[str | None, ...], Op] = {}
        self._all: list[Op] = []
        self._stale = 0
        self._names: tuple[str, ...] | None = None

    def take(self, op: Op) -> bool:
        """False where the operation has to wait for the next layer."""
        if op.kind == "delete":
            return self._delete(op)
        if not self._rules.keyed:
            self._all.append(op)
            return True
        return self._put(op)

    def _delete(self, op: Op) -> bool:
        if self._puts and (self._rules.strict or (op.key in self._puts and not self._folds)):
            return False
        self._puts.pop(op.key, None)
        self._deletes[op.key] = op
        return True

    def _put(self, op: Op) -> bool:
        if self._rules.strict and self._folds and self._names not in (None, op.names):
            return False  # the older row may be the same one under another text of its key
        self._names = op.names
        before = self._puts.get(op.key)
        if before is not None and self._folds:
            if self._rules.on_conflict == "ignore":
                return True
            if before.names != op.names and not set(op.names).issuperset(before.names):
                return False
            del self._puts[op.key]  # the last one takes its place in the order, too
        self._puts[op.key] = op
        if not self._folds:
            self._all.append(op)
        return True

    def closed(self) -> list[Layer]:
        puts = self._gathered() if self._folds else [list(run) for _, run in groupby(self._all, attrgetter("names"))]
        return [Layer(list(self._deletes.values()), puts, self._stale)] if puts or self._deletes else []

    def _gathered(self) -> list[list[Op]]:
        puts: dict[tuple[str, ...], list[Op]] = {}
        for op in self._puts.values():
            puts.setdefault(op.names, []).append(op)
        return list(puts.values())


class _CollectingNewest(_Collecting):
    def take(self, op: Op) -> bool:
        latest = self._puts.get(op.key) or self._deletes.get(op.key)
        if latest is not None and op.order < latest.order:
            self._stale += 1
            return True
        return super().take(op)
