"""`dead_letter.lane: park`: an event that fails for good holds its lane; what comes behind it is parked, in order (rule 12).

A lane is held as long as the state store has an unsettled dead letter in it; what is parked are dead letters, too, which go
through the pipeline when they are released. It is decided under the turn of a commit, so that whoever releases the last one of a
lane and what comes in meanwhile never pass each other: a release commits its letters as a group of its own, and the next live
group asks whether the lane is still held.

Collaborators: `deliver`, which asks `settle` before it writes a group and `failed` when a sink refuses something; `sinks`, where
nothing of the lane goes past a failure; `penstock.state.lane_tables`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from penstock.config.model import Pipeline
from penstock.engine.group import Group
from penstock.engine.lanes import LANE, NO_KEY, LaneStops, followers, lane_key, parked_error
from penstock.engine.tally import Failure
from penstock.engine.work import Work
from penstock.errors import Permanent, UsageError
from penstock.event import Event
from penstock.observe.log import Incident
from penstock.state.lane_book import LaneBook
from penstock.state.lane_tables import PARKED
from penstock.state.records import Lane
from penstock.state.store import StateStore

MOST_LANES = 100_000
"""Lanes that may be held at a time (Invariant 8). The failure that would hold one more ends the run, as with `lane: stop`."""


@dataclass(slots=True)
class Parking:
    """The held lanes of one run.

    :ivar known: every lane that is held is among them; one that was freed since stays until it is asked about.
    """

    book: LaneBook
    known: set[Lane] = field(default_factory=set)
    most: int = MOST_LANES

    async def settle(self, group: Group) -> None:
        """Before anything of the group is written: what comes behind a held lane's head, or behind a failure of this group, is
        parked. Doing it again changes nothing.

        :raises LaneStops: an event failed that has no key, or one lane too many would be held.
        :raises Transient: the state store cannot be asked.
        """
        if not group.job:
            for work in group.works:
                work.lanes = {
                    event.origin: lane_key(event.partitionkey) for event in work.events if event.partitionkey is not None
                }
            await self._make_room(group)
        heads: dict[Lane, bytes | None] = {} if _is_replay(group) else await self._heads(group)
        for w, work in enumerate(group.works):
            if heads or work.failures:
                self._settle(group, w, work, heads)

    def lanes(self, group: Group, events: Iterable[tuple[int, Event]]) -> list[Lane | None]:
        """The lanes of outputs, each with the number of its work. None: in no lane, and nothing waits for it."""
        missing = None if group.job else NO_KEY  # what a job replays is a dead letter already
        return [group.lane(w, event.origin) or missing for w, event in events]

    def failed(self, group: Group, w: int, failure: Failure) -> None:
        """A sink refused an event for good, which holds its lane from now on: what failed behind it, in a step, is parked.

        :raises LaneStops: as `settle`.
        """
        lane = group.lane(w, failure.origin)
        if lane is None:
            if not group.job:
                raise LaneStops(w, failure)
            return
        if failure.error.code == PARKED:
            return
        self._hold(group, w, failure, lane)
        for place, work in enumerate(group.works[w:], w):
            behind = [origin for origin in work.failures if group.lane(place, origin) == lane]
            _park(work, [origin for origin in behind if (place, origin) > (w, failure.origin)])

    def behind(self, group: Group, offered: Sequence[tuple[int, Event]], refused: Iterable[int]) -> list[int]:
        """Of outputs that a ledger's sink was offered, those that must wait because of the ones that it refused."""
        lanes = self.lanes(group, offered)
        failed = {(offered[index][0], offered[index][1].origin) for index in refused}
        indexes = {index for index, (w, event) in enumerate(offered) if (w, event.origin) in failed}
        return followers(lanes, indexes)

    async def released(self, group: Group) -> None:
        """A job's group is committed: lanes of which nothing is left are free.

        :raises Transient: the state store cannot be asked.
        """
        lanes = {lane for w, work in enumerate(group.works) for origin in work.lanes if (lane := group.lane(w, origin))}
        await self._ask(lanes & self.known)

    async def has_room(self) -> bool:
        """Whether one more lane may be held: a job asks before each portion, and then holds those of that portion at most.

        :raises Transient: the state store cannot be asked.
        """
        if len(self.known) >= self.most:
            self.known = set(await self.book.held())
        return len(self.known) < self.most

    # ---- inside

    async def _heads(self, group: Group) -> dict[Lane, bytes | None]:
        """Of the group's lanes those that are held, with the position of the head."""
        if not self.known:
            return {}
        hit = {Lane(work.batch.partition, key) for work in group.works for key in set(work.lanes.values())} & self.known
        return await self._ask(hit)

    async def _ask(self, lanes: set[Lane]) -> dict[Lane, bytes | None]:
        if not lanes:
            return {}
        held: dict[Lane, bytes | None] = dict(await self.book.heads(lanes))
        self.known -= lanes - held.keys()
        return held

    async def _make_room(self, group: Group) -> None:
        """Lanes that were freed are forgotten before one too many is held."""
        if len(self.known) + sum(len(work.failures) for work in group.works) > self.most:
            self.known = set(await self.book.held())

    def _settle(self, group: Group, w: int, work: Work, heads: dict[Lane, bytes | None]) -> None:
        """:param heads: position of the head by lane; None: it failed in this group, so that all that follows is behind it."""
        verdicts, parked = work.verdicts, []
        for origin, event in enumerate(work.batch.events):
            if origin in verdicts.dropped or origin in verdicts.reread:
                continue
            failure, lane = work.failures.get(origin), group.lane(w, origin)
            if lane is None:
                if failure is not None and not group.job:  # Invariant 5: without a key nobody knows what may pass it
                    raise LaneStops(w, failure)
            elif lane in heads and _is_behind(event.position, heads[lane]):
                parked.append(origin)
            elif failure is not None:
                self._hold(group, w, failure, lane)
                heads[lane] = None
        _park(work, parked)  # Invariant 5: nothing of the lane goes past its head

    def _hold(self, group: Group, w: int, failure: Failure, lane: Lane) -> None:
        if lane not in self.known and not group.job and len(self.known) >= self.most:
            raise LaneStops(w, _too_many(failure, self.most))
        self.known.add(lane)


def _is_replay(group: Group) -> bool:
    """Whether its events are dead letters, which stand in their lanes already, and were taken up from the head on. Past events
    of a backfill come into their lanes as those of the source do."""
    return any(work.letters for work in group.works)


def _is_behind(position: bytes, head: bytes | None) -> bool:
    """What a ledger reads again may lie before the head, or be the head itself. Without positions what comes now is behind."""
    return head is None or not position or position > head


def _park(work: Work, origins: Sequence[int]) -> None:
    """These have not been processed, whatever was made of them: they are when they are released."""
    if not origins:
        return
    prepared = {event.origin: event for event in work.events}
    parked = set(origins)
    for origin in origins:
        event = prepared.get(origin, work.batch.events[origin])
        work.failures[origin] = Failure(origin, LANE, parked_error(), event, attempts=0)
    kept = [n for n, event in enumerate(work.outputs) if event.origin not in parked]
    if len(kept) < len(work.outputs):
        work.routes = None if work.routes is None else [work.routes[n] for n in kept]
        work.outputs = [work.outputs[n] for n in kept]


def _too_many(failure: Failure, most: int) -> Failure:
    error = Permanent(
        "lane.too_many",
        f"{most} lanes are parked, and an event of another one failed: {failure.error.message}",
        why="what is parked is kept track of in memory, which is bounded",
        help="mend what most of them failed of (pipe dlq groups), then replay",
    )
    return Failure(failure.origin, failure.step, error, failure.event, failure.attempts)


# ---- at a claim


async def claim_lanes(pipeline: Pipeline, store: StateStore, epoch: int, log: Callable[[Incident], None]) -> Parking | None:
    """What was parked and waits for retries, under the policy of today; None where the pipeline does not park.

    :raises UsageError: `lane.key_changed`.
    :raises Fenced: a higher epoch was issued.
    """
    book, letters = store.lanes, pipeline.dead_letter
    if not letters.retry and (await book.retries()).waiting:
        number = await book.unschedule(epoch)
        said = f"{pipeline.name}: `retry: never`: {number} dead letters that waited for a retry wait for people"
        log(Incident("warning", "dlq.unscheduled", said, f"pipe dlq replay {pipeline.name} --all"))
    versions = await book.versions_held()
    if letters.lane != "park":
        number = await book.unpark(epoch) if versions else 0
        if number:
            said = f"{pipeline.name}: `lane: {letters.lane}`: {number} parked dead letters are open, and later events pass them"
            log(Incident("warning", "lane.unparked", said, f"pipe dlq replay {pipeline.name} --all"))
        return None
    await _check_key(pipeline, store, versions)
    await book.free(epoch)
    return Parking(book, set(await book.held()))


async def _check_key(pipeline: Pipeline, store: StateStore, versions: Sequence[str]) -> None:
    configs = {version.version: version.config for version in await store.versions()} if versions else {}
    today = _key_of(pipeline.resolved)
    then = {_key_of(configs[version]) for version in versions if version in configs} - {today}
    if then:
        raise UsageError(
            "lane.key_changed",
            f"{pipeline.name}: lanes are parked, and event.partition_key was changed: {then.pop()!r} before, {today!r} now",
            where=str(pipeline.file),
            why="what comes from now on would be in other lanes than what is parked, and pass it",
            help=f"put it back until no lane is parked: pipe dlq ls {pipeline.name}, then replay or discard",
        )


def _key_of(config: str) -> object:
    source = msgspec.json.decode(config).get("source") or {}
    return (source.get("event") or {}).get("partition_key")
