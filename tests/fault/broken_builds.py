"""Builds of the command that are broken on purpose, each in one place: what the crash harness must be able to catch.

Each function breaks the program in this process, then runs the command. They run in processes of their own only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from connectors.sinks._appender import Appender
from connectors.sinks._sqlite.changes import OrderedChanges
from connectors.sinks._sqlite.tombstones import Tombstones
from connectors.sinks.sqlite import SqliteSink
from penstock.cli.main import main
from penstock.engine.deliver import Committer
from penstock.engine.group import Group
from penstock.engine.ledgers import LedgerState
from penstock.engine.parking import Parking
from penstock.event import Event
from penstock.ledger import Commit
from penstock.state import key_tables, lane_tables, ledger_tables, pipeline_tables
from penstock.state.answer_book import AnswerBook
from penstock.state.answer_tables import FoundAnswer, KeptAnswer
from penstock.state.lane_book import LaneBook
from penstock.state.ledger_tables import LedgerTables
from penstock.state.records import Lane
from penstock.state.sqlite_store import SqliteStateStore


def checkpoint_before_delivery() -> None:
    """The ledgers commit, which acknowledges the source; the rows are written afterwards."""
    _checkpoint_before_file()
    _checkpoint_before_rows()
    main()


def _checkpoint_before_file() -> None:
    write_plain_sinks, commit_ledgers = Committer._write_plain_sinks, Committer._commit_ledgers

    async def write_nothing(self: Committer, group: Group) -> None:
        """Too early for this build."""

    async def commit_first(self: Committer, group: Group, drained: bool, last: bool) -> None:
        await commit_ledgers(self, group, drained, last)
        await write_plain_sinks(self, group)
        state = next((ledger for ledger in self.ledgers if ledger.sink is None), None)
        if state is not None and group.sink_states:
            number = state.group
            await self.store.commit(Commit(self.epoch, number, number, {}, self.note.counts, sink_states=group.sink_states))

    Committer._write_plain_sinks = write_nothing  # type: ignore[method-assign]
    Committer._commit_ledgers = commit_first  # type: ignore[method-assign]


def _checkpoint_before_rows() -> None:
    async def write_and_commit(self: SqliteSink, events: Sequence[Event], commit: Commit) -> None:
        await self._database.write(lambda db: self._ledger.commit(db, commit))
        await _rows_alone(self, events)

    SqliteSink.write_and_commit = write_and_commit  # type: ignore[method-assign]


async def _rows_alone(sink: SqliteSink, events: Sequence[Event]) -> None:
    asked = sink._reading.read(events) if events else []
    rows = await sink._make_rows(asked) if asked else []
    sink._context.faults.hit("inside_sink_write")
    known, kinds, now = sink._known, [kind for kind, _ in asked], sink._context.clock.now()
    if rows and known:
        await sink._database.write(lambda db: known.changes.put(db, kinds, rows, now))


def delivery_apart_from_checkpoint() -> None:
    """Rows first, in a transaction of their own; files are never cut back."""

    async def write_and_commit(self: SqliteSink, events: Sequence[Event], commit: Commit) -> None:
        await _rows_alone(self, events)
        self._context.faults.hit("inside_commit")
        await self._database.write(lambda db: self._ledger.commit(db, commit))

    def cut(self: Appender, length: int) -> None:
        self._encoder = None
        self._reopen()

    SqliteSink.write_and_commit = write_and_commit  # type: ignore[method-assign]
    Appender.cut = cut  # type: ignore[method-assign]
    main()


def dedup_key_before_delivery() -> None:
    """Dedup keys become durable before the rows that they stand for."""
    _keys_before_file()
    _keys_before_rows()
    main()


def _keys_before_file() -> None:
    write_plain_sinks, commit_group = Committer._write_plain_sinks, SqliteStateStore.commit_group

    async def keys_first(self: Committer, group: Group) -> None:
        state = next((ledger for ledger in self.ledgers if ledger.sink is None), None)
        if state is not None and isinstance(self.store, SqliteStateStore):
            commit = self._commit_for(state, group, self.note.group + 1)
            await self.store._database.write(lambda db: _add_keys(db, self.store._ledger.scope, commit))  # type: ignore[attr-defined]
        await write_plain_sinks(self, group)

    async def without_keys(self: SqliteStateStore, commit: Commit, letters: Any, note: Any) -> None:
        await commit_group(self, replace(commit, keys=()), letters, note)

    Committer._write_plain_sinks = keys_first  # type: ignore[method-assign]
    SqliteStateStore.commit_group = without_keys  # type: ignore[method-assign]


def _keys_before_rows() -> None:
    write_and_commit = SqliteSink.write_and_commit

    async def keys_first(self: SqliteSink, events: Sequence[Event], commit: Commit) -> None:
        await self._database.write(lambda db: _add_keys(db, self._ledger.scope, commit))
        await write_and_commit(self, events, replace(commit, keys=()))

    SqliteSink.write_and_commit = keys_first  # type: ignore[method-assign]


def _add_keys(connection: Any, scope: str, commit: Commit) -> None:
    row = ledger_tables._read(connection, scope)
    if commit.keys and row is not None:
        key_tables.add(connection, row.number, commit.keys, commit.running, row.window)


def no_fencing() -> None:
    """Commits go in whatever epoch and group stand there."""
    commit_as_it_stands = LedgerTables.commit

    def commit(self: LedgerTables, connection: Any, commit: Commit) -> None:
        row = ledger_tables._read(connection, self.scope)
        if row is not None:
            commit = replace(commit, epoch=row.epoch, previous=row.group)
        commit_as_it_stands(self, connection, commit)

    LedgerTables.commit = commit  # type: ignore[method-assign]
    pipeline_tables.check_epoch = lambda connection, epoch: None
    main()


def job_records_forgotten_before_the_note() -> None:
    """What a ledger took of a job is forgotten before the state store knows that it was taken."""
    commit_to_sink = Committer._commit_to_sink

    async def and_forget(self: Committer, ledger: LedgerState, group: Group, number: int) -> None:
        await commit_to_sink(self, ledger, group, number)
        if group.job:
            await ledger.ledger.forget_jobs(group.job)

    Committer._commit_to_sink = and_forget  # type: ignore[method-assign]
    main()


def lanes_held_for_one_group() -> None:
    """What failed holds its lane only until the group is written."""

    async def nothing_held(self: Parking, group: Group) -> dict[Lane, bytes | None]:
        return {}

    Parking._heads = nothing_held  # type: ignore[method-assign]
    main()


def letters_taken_up_past_others() -> None:
    """A job takes up whatever it comes upon."""
    lane_tables.passing = lambda connection, ids: []
    main()


def lanes_forgotten_at_a_claim() -> None:
    """A run knows only the lanes that it has seen fail itself."""

    async def none_held(self: LaneBook) -> list[Lane]:
        return []

    LaneBook.held = none_held  # type: ignore[method-assign]
    main()


def past_events_go_past_held_lanes() -> None:
    """A backfill looks at no lane that others hold, or an earlier portion of its own."""
    heads = Parking._heads

    async def of_live_events(self: Parking, group: Group) -> dict[Lane, bytes | None]:
        return {} if group.job else await heads(self, group)

    Parking._heads = of_live_events  # type: ignore[method-assign]
    main()


def older_rows_over_newer_ones() -> None:
    """The table takes whatever comes, in the order in which it comes."""
    OrderedChanges._passes = lambda self, new, old: True  # type: ignore[method-assign]
    main()


def deletions_forgotten() -> None:
    """A row that comes behind a newer deletion comes back."""
    Tombstones.add = lambda self, connection, key, order, now: None  # type: ignore[method-assign]
    main()


def answers_not_looked_for() -> None:
    """What the world has answered is kept, and asked again all the same."""

    async def find(self: AnswerBook, epoch: int, names: Sequence[str]) -> dict[str, FoundAnswer]:
        return {}

    AnswerBook.find = find  # type: ignore[method-assign]
    main()


def one_answer_kept_of_many() -> None:
    """Of the answers to one attempt at a batch only the first is kept."""
    keep = AnswerBook.keep

    async def keep_one(self: AnswerBook, epoch: int, answers: Sequence[KeptAnswer]) -> None:
        await keep(self, epoch, answers[:1])

    AnswerBook.keep = keep_one  # type: ignore[method-assign]
    main()


def answers_of_parked_events_forgotten() -> None:
    """The note of a parked event removes its answer, as that of any other."""
    answers = Group.answers

    def none_aside(self: Group, *, parked: bool) -> list[str]:
        return [] if parked else [*answers(self, parked=False), *answers(self, parked=True)]

    Group.answers = none_aside  # type: ignore[method-assign]
    main()


def job_noted_before_the_commit() -> None:
    """Cursor and letters of a job are ahead of what its ledgers took."""
    commit_ledgers = Committer._commit_ledgers

    async def noted_first(self: Committer, group: Group, drained: bool, last: bool) -> None:
        if group.job:
            await self.store.note(self.epoch, self._note(group, self.note.group + 1, drained, last))
        await commit_ledgers(self, group, drained, last)

    Committer._commit_ledgers = noted_first  # type: ignore[method-assign]
    main()
