"""The carrier of replays: dead letters go from the start through the steps, and their delivery resolves them (rules 7, 9, 10).

Each ledger records (job, letter) in the transaction that takes the event, so that a crash between delivery and resolution is
settled at the next claim, never by delivering twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from dlq.debts import Debts, debts_of, deliverable
from dlq.received import Portion as Letters
from dlq.reprocess import Reprocess
from penstock.engine.carrying import Ground, Portion
from penstock.errors import UsageError
from penstock.state.job_records import Job
from penstock.state.lane_queries import LanePlace
from penstock.state.records import LetterQuery, Status

BEHIND = "behind"
"""What a job counts of letters that another one is before in their lane."""
REPLAYABLE: frozenset[Status] = frozenset({"open", "parked"})


class ReplayOptions(msgspec.Struct):
    """What a replay is to do; stored as JSON.

    :ivar upto: bound of the letters that there were when it was made (`StateStore.bounded`).
    :ivar renamed: by the name of a sink that the pipeline no longer has, the sink of today that took its place.
    :ivar version: of the pipeline whose steps to use, or a beginning of it; empty: today's.
    :ivar rate: events a second, at most.
    """

    query: LetterQuery
    upto: int
    renamed: Mapping[str, str] = {}
    version: str = ""
    rate: float | None = None


def encode_options(options: ReplayOptions) -> str:
    """As they are stored."""
    return msgspec.json.encode(options).decode()


def decode_options(job: Job) -> ReplayOptions:
    """:raises UsageError: `job.bad_options`."""
    try:
        return msgspec.json.decode(job.options, type=ReplayOptions)
    except msgspec.MsgspecError as error:
        raise UsageError("job.bad_options", f"the options of job {job.id} cannot be read", why=str(error)) from error


@dataclass(slots=True)
class ReplayCarrier:
    """`JobCarrier` of the kind `replay`."""

    job: Job
    ground: Ground
    options: ReplayOptions
    reprocess: Reprocess
    debts: Debts = field(default_factory=lambda: Debts(frozenset()))

    async def open(self) -> None:
        """See `JobCarrier.open`. Raises as `debts_of` and `Reprocess.open`, too."""
        self.debts = debts_of(self.ground.claimed.ledgers, self.options.renamed)
        await self.reprocess.open()

    async def close(self) -> None:
        """See `JobCarrier.close`."""
        await self.reprocess.close()

    async def portions(self, count: Callable[[], int]) -> AsyncGenerator[Portion, None]:
        """See `JobCarrier.portions`."""
        store, options, size = self.ground.claimed.store, self.options, self.ground.pipeline.batching.bytes
        after = decode_cursor(self.job.progress.cursor)
        while page := await store.lane_places(options.query, options.upto, after, count()):
            for places in bounded(page, size):
                async for portion in self.portions_of(places):
                    yield portion
            after = page[-1]

    async def portions_of(self, places: Sequence[LanePlace]) -> AsyncGenerator[Portion, None]:
        """The letters at these places; several groups, where some share a dedup key."""
        letters = await self.ground.claimed.store.letters_at(places, self.options.query)
        chosen, others = deliverable(letters, self.debts)
        left, undone = chosen, len(places)
        while left:
            groups, left = await self.reprocess.divide(left)
            works = [await self.reprocess.process(group) for group in await self._take_up(groups, others)]
            if left:
                done = sum(len(group.letters) for group in groups)
                undone -= done
                yield Portion(works, None, done, self.reprocess.version)
            else:
                yield Portion(works, encode_cursor(places[-1]), undone, self.reprocess.version, others)
        if not chosen:
            yield Portion([], encode_cursor(places[-1]), undone, self.reprocess.version, others)

    async def _take_up(self, groups: Sequence[Letters], others: Counter[str]) -> list[Letters]:
        """Those that still wait to be delivered, once the live work has let go of their keys: from now on nobody else settles
        them. One may have been discarded since, or superseded by what the live work brought; one that would pass another in its
        lane stays (Invariant 5), which `others` is told."""
        if not self.reprocess.positional:
            await self.ground.in_flight.reserve(set().union(*(group.keys_given for group in groups)))
        ids = [letter.id for group in groups for letter in group.letters]
        store, epoch = self.ground.claimed.store, self.ground.claimed.epoch
        if self.debts.heirs:
            await store.hand_over(epoch, self.debts.heirs, ids)
        taken = await store.lanes.take_up(epoch, ids, self.job.id, REPLAYABLE)
        self.ground.assembly.surroundings.faults.hit("after_take_up")
        gone = set(ids).difference(taken)
        if behind := sum(letter.lane is not None and letter.id in gone for group in groups for letter in group.letters):
            others[BEHIND] += behind
        kept = [self.reprocess.without(group, gone) for group in groups] if gone else groups
        return [group for group in kept if group is not None]


def carry_replay(job: Job, ground: Ground) -> ReplayCarrier:
    """:raises UsageError: `job.bad_options`."""
    return replay_carrier(job, ground, decode_options(job))


def replay_carrier(job: Job, ground: Ground, options: ReplayOptions) -> ReplayCarrier:
    """Of any job that goes through dead letters."""
    claimed = ground.claimed
    reprocess = Reprocess(
        ground.assembly, claimed.store, claimed.ledgers, ground.status, options.version, answering=claimed.performing
    )
    return ReplayCarrier(job, ground, options, reprocess)


def encode_cursor(place: LanePlace) -> bytes:
    """Behind this place."""
    return msgspec.json.encode(place)


def decode_cursor(cursor: bytes) -> LanePlace | None:
    """None: the beginning."""
    return msgspec.json.decode(cursor, type=LanePlace) if cursor else None


def bounded(places: Sequence[LanePlace], size: int) -> Iterator[list[LanePlace]]:
    """Parts whose records have at most so many bytes together, or of one letter (Invariant 8)."""
    part: list[LanePlace] = []
    room = size
    for place in places:
        room -= place.size
        if part and room < 0:
            yield part
            part, room = [], size - place.size
        part.append(place)
    if part:
        yield part
