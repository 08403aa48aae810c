"""Opening, holding, migrating and sharing the state store: rule 1 and Invariant 11, on real files and real processes."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from state_builders import (
    HandClock,
    assert_nothing_was_lost,
    at,
    claimant,
    commit,
    letter,
    make_store,
    note,
    version,
)

from penstock.errors import EnvironmentFault, Fenced, Transient, Unavailable
from penstock.faults import Faults
from penstock.spi import Position
from penstock.state.lock import PipelineLock
from penstock.state.open import open_store
from penstock.state.records import LetterQuery
from penstock.state.sqlite_store import SqliteStateStore
from penstock.state.store import StateStore

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[SqliteStateStore]:
    store = make_store(tmp_path)
    await store.open()
    yield store
    await store.close()


def raw(path: Path, *statements: str) -> None:
    db = sqlite3.connect(path)
    with db:
        for statement in statements:
            db.execute(statement)
    db.close()


def holder_process(directory: Path) -> subprocess.Popen[str]:
    """Another process that holds the pipeline until it is killed."""
    script = (
        "import sys, pathlib; from penstock.state.lock import PipelineLock\n"
        f"lock = PipelineLock(pathlib.Path({str(directory / 'orders.lock')!r}))\n"
        "assert lock.acquire() is None; print('held', flush=True); sys.stdin.read()"
    )
    root = Path(__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", script], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    return child


async def refusal(store: SqliteStateStore, *, create: bool = True) -> EnvironmentFault:
    with pytest.raises(EnvironmentFault) as caught:
        await store.open(create=create)
    assert caught.value.help
    return caught.value


async def test_a_store_that_never_was_is_missing_and_is_not_made_by_looking(tmp_path: Path) -> None:
    assert (await refusal(make_store(tmp_path / "state"), create=False)).code == "state.missing"
    assert list(tmp_path.iterdir()) == []


async def test_the_store_lies_in_its_directory_under_the_pipelines_name(tmp_path: Path) -> None:
    store = open_store(tmp_path / "new" / "state", "orders", HandClock(), Faults())
    await store.open()
    await store.hold()
    await store.close()
    assert {path.name for path in (tmp_path / "new" / "state").iterdir()} == {"orders.db", "orders.lock"}


@pytest.mark.parametrize("content", [b"no database at all, but quite long " * 200, b"SQLite format 3\0" + b"\xff" * 8000])
async def test_a_damaged_store_is_refused_with_what_to_do_and_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "orders.db").write_bytes(content)
    error = await refusal(make_store(tmp_path))
    assert (error.code, "backup" in str(error.help)) == ("state.damaged", True)
    assert (tmp_path / "orders.db").read_bytes() == content


async def test_a_newer_store_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    await store.open()
    await store.close()
    raw(tmp_path / "orders.db", "UPDATE penstock_meta SET value = '99' WHERE name = 'state store'")
    before = (tmp_path / "orders.db").read_bytes()
    assert (await refusal(store)).code == "state.newer"
    assert (tmp_path / "orders.db").read_bytes() == before


async def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert (await refusal(make_store(tmp_path / "file" / "state"))).code == "state.inaccessible"


async def golden(directory: Path, version: int = 1) -> SqliteStateStore:
    db = sqlite3.connect(directory / "orders.db")
    db.executescript((GOLDEN / f"state_v{version}.sql").read_text())
    db.close()
    return make_store(directory)


@pytest.mark.parametrize(("older", "jobs"), [(1, 0), (2, 1), (3, 1)])
async def test_an_older_version_is_migrated_and_nothing_of_it_is_lost(tmp_path: Path, older: int, jobs: int) -> None:
    store = await golden(tmp_path, older)
    await store.open()
    await assert_nothing_was_lost(store, jobs)
    await store.close()


async def test_a_migration_that_is_cut_short_leaves_the_old_version(tmp_path: Path) -> None:
    def fail(name: str) -> None:
        raise Transient("fault.injected", name)

    (await golden(tmp_path))
    with pytest.raises(Transient):
        await make_store(tmp_path, Faults({"mid_migration": [(1, fail)]})).open()
    db = sqlite3.connect(tmp_path / "orders.db")
    assert db.execute("SELECT value FROM penstock_meta ORDER BY name").fetchall() == [("1",), ("1",)]
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name IN ('jobs', 'letters_cause')").fetchone() == (0,)
    db.close()
    store = make_store(tmp_path)
    await store.open()
    assert await store.jobs.open_ones() == []
    await store.close()


async def test_an_older_store_is_not_migrated_under_a_live_run(tmp_path: Path) -> None:
    store = await golden(tmp_path)
    child = holder_process(tmp_path)
    try:
        error = await refusal(store)
        assert (error.code, str(child.pid) in error.message) == ("state.held", True)
    finally:
        child.communicate()
    await store.open()
    await store.hold()
    await store.close()


async def test_a_second_run_is_refused_by_process_id_until_the_first_dies(local: SqliteStateStore, tmp_path: Path) -> None:
    assert await local.holder() is None
    child = holder_process(tmp_path)
    try:
        assert await local.holder() == child.pid
        with pytest.raises(EnvironmentFault) as caught:
            await local.hold()
        assert (caught.value.code, str(child.pid) in caught.value.message) == ("state.held", True)
    finally:
        child.kill()
        child.communicate()
    assert await local.holder() is None
    await local.hold()
    assert await local.holder() == os.getpid()


async def test_wait_waits_for_the_holder_to_end(tmp_path: Path) -> None:
    class EndingClock(HandClock):
        async def sleep(self, seconds: float) -> None:
            await super().sleep(seconds)
            if len(self.slept) == 2:
                child.communicate()

    clock = EndingClock()
    store = SqliteStateStore(tmp_path / "orders.db", "orders", clock, Faults())
    await store.open()
    child = holder_process(tmp_path)
    await store.hold(wait=True)
    assert len(clock.slept) == 2
    await store.close()


async def test_a_take_over_holds_the_pipeline_and_fences_the_old_run(tmp_path: Path) -> None:
    old, new, third = make_store(tmp_path), make_store(tmp_path), make_store(tmp_path)
    for store in (old, new, third):
        await store.open()
    await old.hold()
    await old.claim(claimant(await old.issue_epoch(version())))
    await new.hold(take_over=True)
    await new.claim(claimant(await new.issue_epoch(version())))
    with pytest.raises(Fenced):
        await old.commit_group(commit(1, 1), [letter("l1")], note(1))
    with pytest.raises(Fenced):
        await old.put_dead_letters(1, 1, [letter("l1")], [])
    with pytest.raises(Fenced, match="pipeline orders was taken over by another run"):
        old.check_hold()
    new.check_hold()
    third.check_hold()  # which holds nothing
    await old.close()  # its lock file is no longer the pipeline's
    with pytest.raises(EnvironmentFault, match=str(os.getpid())):
        await third.hold()
    await new.close()
    await third.hold()
    await third.close()
    assert {path.name for path in tmp_path.iterdir()} == {"orders.db", "orders.lock"}


async def test_asking_for_the_holder_does_not_get_in_a_runs_way(tmp_path: Path) -> None:
    lock = PipelineLock(tmp_path / "orders.lock")
    assert lock.acquire() is None
    store = make_store(tmp_path)
    assert [await store.holder() for _ in range(3)] == [os.getpid()] * 3
    lock.release()
    assert await store.holder() is None
    await store.hold()
    await store.close()


async def test_reading_goes_on_while_a_run_is_in_the_middle_of_a_commit(local: SqliteStateStore, tmp_path: Path) -> None:
    await local.claim(claimant(await local.issue_epoch(version())))
    await local.commit_group(commit(1, 1), [letter("l1")], note(1))
    db = sqlite3.connect(tmp_path / "orders.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    db.execute("DELETE FROM letters")
    assert [one.id for one in (await local.letters(LetterQuery()))[0]] == ["l1"]
    assert (await local.read_note()).group == 1
    db.execute("ROLLBACK")
    db.close()


async def test_a_busy_store_is_unavailable_and_never_fenced(tmp_path: Path) -> None:
    store = make_store(tmp_path, busy_timeout=0.05)
    await store.open()
    await store.claim(claimant(await store.issue_epoch(version())))
    db = sqlite3.connect(tmp_path / "orders.db", isolation_level=None)
    db.execute("BEGIN IMMEDIATE")
    for attempt in (store.commit(commit(1, 1)), store.note(1, note(1)), store.committed()):
        with pytest.raises(Unavailable) as caught:
            await attempt
        assert caught.value.code == "state.busy"
    db.execute("ROLLBACK")
    db.close()
    await store.commit(commit(1, 1))
    assert await store.committed() == (1, 1)
    await store.close()


async def test_a_full_disk_is_unavailable_and_writing_goes_on_when_space_returns(local: SqliteStateStore) -> None:
    await local.claim(claimant(await local.issue_epoch(version())))

    async def pages(count: int) -> None:
        await local._database.run(lambda db: db.execute(f"PRAGMA max_page_count = {count}").fetchall())

    await pages(1)
    big = letter("l1", record=b"x" * 100_000)
    with pytest.raises(Unavailable) as caught:
        await local.commit_group(commit(1, 1), [big], note(1))
    assert (caught.value.code, await local.committed()) == ("state.no_space", (1, 0))
    await pages(1 << 30)
    await local.commit_group(commit(1, 1), [big], note(1))
    assert [one.record for one in (await local.letters(LetterQuery()))[0]] == [big.record]


async def test_epochs_rise_and_name_their_run(store: StateStore) -> None:
    assert [await store.issue_epoch(version(name)) for name in ("v1", "v2", "v1")] == [1, 2, 3]
    assert await store.issue_epoch(version("v1"), above=40) == 41
    assert [(run.epoch, run.version, run.pid) for run in await store.runs(2)] == [(41, "v1", os.getpid()), (3, "v1", os.getpid())]
    assert {one.version for one in await store.versions()} == {"v1", "v2"}


async def test_a_reset_moves_or_forgets_the_checkpoint_of_note_and_ledger(store: StateStore) -> None:
    epoch = await store.issue_epoch(version())
    await store.claim(claimant(epoch))
    positions = {"p": at(5), "q": at(6)}
    await store.commit_group(commit(1, positions=positions), [], note(1, positions=positions))
    await store.reset(epoch, {"p": at(2), "q": Position(b"")})
    assert (await store.read_note()).positions == {"p": at(2)}
    epoch = await store.issue_epoch(version())
    assert (await store.claim(claimant(epoch))).positions == {"p": at(2)}
    await store.reset(epoch, None)
    assert (await store.read_note()).positions == {}


def test_no_statement_numbers_its_placeholders() -> None:
    """Python 3.12 deprecates, and 3.14 refuses, a sequence for `?1`."""
    root = Path(__file__).parents[2]
    files = [file for place in ("penstock/state", "connectors/sinks") for file in sorted((root / place).glob("*.py"))]
    assert len(files) > 10
    assert [file.name for file in files if re.search(r"[ (,=]\?\d", file.read_text())] == []
