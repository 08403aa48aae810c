"""Dead letters by cause, when they failed, and in figures: from the tally, from columns, or from letters that were sifted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from penstock.state.dialect import Connection, dialect_of
from penstock.state.letter_queries import numbered
from penstock.state.letter_tally import BUCKET, DAY, HOUR, Figures, counted, is_tallied, span
from penstock.state.letter_where import condition
from penstock.state.records import UNSETTLED, DeadLetter, Group, LetterQuery, LetterStats, Timeline

_AXES = ("status", "code", "step", "type")


def groups(connection: Connection, query: LetterQuery) -> list[Group]:
    """See `StateStore.letter_groups`, for a query that does not sift. The example is the latest to fail first."""
    return _from_tally(connection, query) if is_tallied(query) else _from_letters(connection, query)


def _from_letters(connection: Connection, query: LetterQuery) -> list[Group]:
    where, values = condition(connection, query)
    rows = connection.execute(
        f"""WITH g AS (SELECT l.fingerprint AS f, count(*) AS n, CAST(sum(l.repeats) AS BIGINT) AS r,
                              min(l.first_at) AS a, max(l.last_at) AS z
                       FROM letters AS l WHERE {where} GROUP BY l.fingerprint)
            SELECT g.f, x.code, x.step, x.message, g.n, g.r, g.a, g.z, x.id FROM g JOIN letters AS x ON x.seq = (
                SELECT l.seq FROM letters AS l WHERE l.fingerprint = g.f AND {where} ORDER BY l.first_at DESC LIMIT 1)
            ORDER BY g.n DESC, g.f""",  # noqa: S608 - constants
        [*values, *values],
    )
    return [Group(*row) for row in rows.fetchall()]


def _from_tally(connection: Connection, query: LetterQuery) -> list[Group]:
    """A few steps in indexes for each kind of letter, whatever their number."""
    merged: dict[str, _Edges] = defaultdict(_Edges)
    for fingerprint, *_, figures in counted(connection, query, ["fingerprint"]):
        merged[fingerprint].letters, merged[fingerprint].repeats = figures.letters, figures.repeats
    for fingerprint, first_at, last_at, example in _edges(connection, query):
        if example is not None:  # a kind of which no letter lies in the range has none
            merged[fingerprint].reach(first_at, last_at, example)
    return _in_order(_with_examples(connection, merged))


def _edges(connection: Connection, query: LetterQuery) -> list[Any]:
    """By kind: the first and the last failure, and the letter that failed first latest."""
    chosen = condition(connection, query.of_counts(), standing=False)
    bounds = [(text, at) for text, at in ((">= ?", query.after), ("< ?", query.before)) if at is not None]
    same = "x.pending IS NULL AND x.fingerprint = k.f AND x.type = k.t AND x.status = k.s AND x.code = k.c AND x.step = k.p"
    dialect = dialect_of(connection)
    plain = dialect.unindexed  # the letters of a kind, latest first, until one lies in the range
    for statement in dialect.unsorted:
        connection.execute(statement)
    ends = (("first_at", "first_at", ""), ("last_at", "last_at DESC", plain), ("seq", "first_at DESC", ""))
    edges = ", ".join(
        f"(SELECT x.{column} FROM letters AS x WHERE {same}"  # noqa: S608 - constants
        f"{''.join(f' AND {sign}x.first_at {text}' for text, _ in bounds)} ORDER BY x.{by} LIMIT 1)"
        for column, by, sign in ends
    )
    rows = connection.execute(
        f"""WITH k AS (SELECT DISTINCT l.fingerprint AS f, l.type AS t, l.status AS s, l.code AS c, l.step AS p
                       FROM letter_tally AS l WHERE l.width = ? AND {chosen.text} AND l.letters > 0)
            SELECT k.f, {edges} FROM k""",  # noqa: S608 - constants
        [DAY, *chosen.values, *(at for _ in ends for _, at in bounds)],
    )
    return rows.fetchall()


@dataclass(slots=True)
class _Edges:
    """What is known of one cause, of all its kinds."""

    letters: int = 0
    repeats: int = 0
    first_at: float = float("inf")
    last_at: float = float("-inf")
    candidates: list[int] = field(default_factory=list)

    def reach(self, first_at: float, last_at: float, example: int) -> None:
        self.first_at, self.last_at = min(self.first_at, first_at), max(self.last_at, last_at)
        self.candidates.append(example)


def _with_examples(connection: Connection, merged: Mapping[str, _Edges]) -> list[Group]:
    where, value = numbered(connection, (seq for edges in merged.values() for seq in edges.candidates))
    rows = connection.execute(
        f"SELECT l.fingerprint, l.code, l.step, l.message, l.id FROM letters AS l WHERE {where} ORDER BY l.first_at, l.id",  # noqa: S608
        [value],
    )
    latest = {fingerprint: rest for fingerprint, *rest in rows.fetchall()}
    found = []
    for fingerprint, e in merged.items():
        code, step, message, example = latest[fingerprint]
        found.append(Group(fingerprint, code, step, message, e.letters, e.repeats, e.first_at, e.last_at, example))
    return found


def _in_order(found: Iterable[Group]) -> list[Group]:
    return sorted(found, key=lambda group: (-group.count, group.fingerprint))


def timeline(connection: Connection, query: LetterQuery, cells: int) -> Timeline | None:
    """See `LetterDesk.timeline`, for a query that does not sift."""
    found = _fitting_span(connection, query, cells)
    if found is None:
        return None
    start, width, number = _grid(query, *found, cells)
    rows = counted(connection, query, ["fingerprint"], stretch=width, origin=start)
    return _drawn(start, width, number, ((fingerprint, at, figures.letters) for fingerprint, at, figures in rows))


def _fitting_span(connection: Connection, query: LetterQuery, cells: int) -> tuple[int, int, int] | None:
    """From when to when letters failed first, in the widest unit that still shows something; and that unit."""
    found, wider = None, 0
    for unit, least in _WORTH_CELLS.items():
        found = span(connection, query, unit, None if found is None else (*found, wider))
        wider = unit
        if found is None or found[1] + unit - found[0] >= least * cells * unit:
            return None if found is None else (*found, unit)
    return None


_WORTH_CELLS = {DAY: 3, HOUR: 1, BUCKET: 0}
"""How many days, hours, … a cell must hold, at least, for these to be counted in the place of something finer."""


def _grid(query: LetterQuery, first: int, last: int, unit: int, cells: int) -> tuple[int, int, int]:
    """Start, width and number of the cells: from where the range that was asked for begins to its last letter."""
    start = (first if query.after is None else max(0, min(first, int(query.after)))) // unit * unit
    end = last + unit
    width = -(-(end - start) // (cells * unit)) * unit
    return start, width, -(-(end - start) // width)


def _drawn(start: int, width: int, number: int, points: Iterable[tuple[str, int, int]]) -> Timeline:
    cells: defaultdict[str, list[int]] = defaultdict(lambda: [0] * number)
    for fingerprint, at, letters in points:
        cells[fingerprint][(at - start) // width] += letters
    return Timeline(start, width, dict(cells))


def stats(connection: Connection, query: LetterQuery) -> LetterStats:
    """See `LetterDesk.stats`, for a query that does not sift."""
    folded = Fold()
    for *axes, at, figures in counted(connection, query, _AXES, stretch=DAY):
        folded.count(dict(zip(_AXES, axes, strict=True)), at, figures)
    return folded.stats(_oldest(connection, query))


def _oldest(connection: Connection, query: LetterQuery) -> float | None:
    where, values = condition(connection, query)
    found = []
    for status in (status for status in UNSETTLED if not query.status or status in query.status):
        row = connection.execute(
            f"SELECT l.first_at FROM letters AS l WHERE l.status = ? AND {where} ORDER BY l.first_at, l.id LIMIT 1",  # noqa: S608
            [status, *values],
        ).fetchone()
        found += [] if row is None else [row[0]]
    return min(found, default=None)


@dataclass(slots=True)
class Fold:
    """Letters counted one after another."""

    total: Figures = Figures(0, 0, 0)
    axes: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in _AXES})
    days: Counter[int] = field(default_factory=Counter)
    causes: dict[str, tuple[_Edges, DeadLetter]] = field(default_factory=dict)
    points: Counter[tuple[str, int]] = field(default_factory=Counter)
    oldest: float | None = None

    def count(self, values: Mapping[str, str], at: int, figures: Figures) -> None:
        """Letters that have these values in common."""
        self.total = Figures(*map(sum, zip(self.total, figures, strict=True)))
        for name, value in values.items():
            self.axes[name][value] += figures.letters
        self.days[at] += figures.letters

    def add(self, letter: DeadLetter) -> None:
        """One letter."""
        axes = {"status": letter.status, "code": letter.code, "step": letter.step, "type": letter.type}
        self.count(axes, int(letter.first_at) // DAY * DAY, Figures(1, letter.repeats, letter.original_length))
        edges, latest = self.causes.get(letter.fingerprint, (_Edges(), letter))
        edges.letters, edges.repeats = edges.letters + 1, edges.repeats + letter.repeats
        edges.first_at, edges.last_at = min(edges.first_at, letter.first_at), max(edges.last_at, letter.last_at)
        self.causes[letter.fingerprint] = edges, letter if letter.first_at >= latest.first_at else latest
        self.points[letter.fingerprint, int(letter.first_at) // BUCKET * BUCKET] += 1
        if letter.status in UNSETTLED and (self.oldest is None or letter.first_at < self.oldest):
            self.oldest = letter.first_at

    def stats(self, oldest: float | None) -> LetterStats:
        """In figures, most frequent first."""
        parts: dict[str, Any] = {f"by_{name}": dict(counter.most_common()) for name, counter in self.axes.items()}
        return LetterStats(*self.total, **parts, by_day=dict(sorted(self.days.items())), oldest=oldest)

    def groups(self) -> list[Group]:
        """By cause, most frequent first."""
        return _in_order(
            Group(f, x.code, x.step, x.message, e.letters, e.repeats, e.first_at, e.last_at, x.id)
            for f, (e, x) in self.causes.items()
        )

    def timeline(self, query: LetterQuery, cells: int) -> Timeline | None:
        """When they failed first."""
        if not self.points:
            return None
        ats = [at for _, at in self.points]
        grid = _grid(query, min(ats), max(ats), BUCKET, cells)
        return _drawn(*grid, ((fingerprint, at, number) for (fingerprint, at), number in self.points.items()))
