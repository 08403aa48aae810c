"""State stores as the verbs that look and settle use them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

from penstock.builtins import room
from penstock.cli.lane_lines import held_document
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.config.secret import Secret
from penstock.engine.retry import gave_up
from penstock.errors import EnvironmentFault, Transient, UsageError
from penstock.faults import Faults
from penstock.state.letter_desk import Act
from penstock.state.open import open_store
from penstock.state.records import UNSETTLED, DeadLetter, Group, Happening, Lane, LetterQuery, LetterStats, ParkedLane, Timeline
from penstock.state.store import StateStore

T = TypeVar("T")


class Letters(Protocol):
    """What the command uses of the dead letter queue (`dlq.queue.DeadLetterQueue`) to look at letters."""

    async def page(
        self, query: LetterQuery, *, after: str | None = None, limit: int = 100
    ) -> tuple[list[DeadLetter], str | None]: ...
    async def groups(self, query: LetterQuery) -> list[Group]: ...
    async def timeline(self, query: LetterQuery, cells: int) -> Timeline | None: ...
    async def stats(self, query: LetterQuery) -> LetterStats: ...
    async def show(self, prefix: str) -> DeadLetter: ...
    async def history(self, letter: DeadLetter) -> list[Happening]: ...
    async def discard(self, query: LetterQuery, act: Act) -> int: ...
    def documents(self, letters: Sequence[DeadLetter]) -> list[dict[str, Any]]: ...
    def document(self, letter: DeadLetter, history: Sequence[Happening]) -> dict[str, Any]: ...
    def group_documents(self, groups: Sequence[Group], line: Timeline | None) -> list[dict[str, Any]]: ...
    def stats_document(self, pipeline: str, stats: LetterStats) -> dict[str, Any]: ...


class Found(NamedTuple):
    """One dead letter, where it is, and the lane that it holds or waits in."""

    ref: StoreRef
    letter: DeadLetter
    history: list[Happening]
    document: dict[str, Any]
    lane: ParkedLane | None = None


@dataclass(frozen=True, slots=True)
class StoreRef:
    """Where the state of a pipeline is kept; and the kind of its source, where its file can be read.

    :ivar server: the database's DSN; None: in `directory`.
    :ivar journal: its directory; None where none is kept.
    """

    pipeline: str
    directory: Path
    source: str | None = None
    server: Secret | None = None
    journal: Path | None = None


@asynccontextmanager
async def reading(ref: StoreRef) -> AsyncIterator[StateStore]:
    """The store, for reading; it must exist.

    :raises EnvironmentFault: `state.missing`, where the pipeline never ran; `state.damaged`, `state.newer`; its server cannot be
        reached.
    """
    async with _opened(ref, create=False) as store:
        yield store


@asynccontextmanager
async def telling(ref: StoreRef) -> AsyncIterator[StateStore]:
    """The store, to leave something in it for a run: made where the pipeline has never run.

    :raises EnvironmentFault: `state.damaged`, `state.newer`.
    """
    async with _opened(ref, create=True) as store:
        yield store


@asynccontextmanager
async def _opened(ref: StoreRef, *, create: bool) -> AsyncIterator[StateStore]:
    store = open_store(ref.directory, ref.pipeline, SystemClock(), Faults(), ref.server)
    try:
        await store.open(create=create)
        yield store
    except Transient as error:  # who looks can look again
        raise gave_up(error, f"pipeline {ref.pipeline}") from error
    finally:
        await store.close()


async def if_it_ran(ref: StoreRef, use: Callable[[StateStore], Awaitable[T]], otherwise: T) -> T:
    """What `use` makes of the store, or `otherwise` where the pipeline has never run."""
    try:
        async with reading(ref) as store:
            return await use(store)
    except EnvironmentFault as error:
        if error.code != "state.missing":
            raise
        return otherwise


def letters_of(store: StateStore) -> Letters:
    """The dead letter queue over a store."""
    queue: Letters = room("dlq")(store)
    return queue


async def open_groups(pipeline: Pipeline) -> list[Group]:
    """Causes of the dead letters that are open now."""
    ref = StoreRef(pipeline.name, pipeline.state, server=pipeline.state_server)
    return await if_it_ran(ref, lambda store: letters_of(store).groups(LetterQuery()), [])


async def each_store(refs: Sequence[StoreRef], use: Callable[[StateStore], Awaitable[T]], otherwise: T) -> list[tuple[str, T]]:
    """What `use` makes of each store, by pipeline; `otherwise` where one never ran.

    Where there are several, one that lacks the id or fingerprint that was asked for gives `otherwise` too, unless all do.
    """
    results: list[tuple[str, T]] = []
    unknown: list[UsageError] = []
    for ref in refs:
        try:
            results.append((ref.pipeline, await if_it_ran(ref, use, otherwise)))
        except UsageError as error:
            if error.code != "dlq.unknown":
                raise
            unknown.append(error)
            results.append((ref.pipeline, otherwise))
    if unknown and len(unknown) == len(refs):
        raise unknown[0]
    return results


async def letter_anywhere(refs: Sequence[StoreRef], prefix: str) -> Found:
    """The one dead letter of all these pipelines whose id begins so.

    :raises UsageError: `dlq.unknown`, `dlq.ambiguous`.
    """

    async def show(store: StateStore) -> tuple[DeadLetter, list[Happening], dict[str, Any], ParkedLane | None] | None:
        queue = letters_of(store)
        letter = await queue.show(prefix)
        history = await queue.history(letter)
        key = letter.lane if letter.status in UNSETTLED else None
        lane = None if key is None else await store.lanes.find(Lane(letter.partition, key))
        return letter, history, {**queue.document(letter, history), "held_lane": held_document(lane)}, lane

    all_of_them = zip(refs, await each_store(refs, show, None), strict=True)
    found = [Found(ref, *shown) for ref, (_, shown) in all_of_them if shown is not None]
    if not found:
        raise UsageError("dlq.unknown", f"no dead letter begins with {prefix!r}", help="pipe dlq ls lists them")
    if len(found) > 1:
        names = ", ".join(f"{one.letter.id} of {one.letter.pipeline}" for one in found)
        raise UsageError(
            "dlq.ambiguous",
            f"more than one dead letter begins with {prefix!r}",
            why=names,
            help="write more of it, or --pipeline",
        )
    return found[0]
