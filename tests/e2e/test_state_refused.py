"""A state store that is damaged, newer or something else is refused with what to do, and nothing is delivered on its word."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_input_parts import Project

from penstock.errors import EnvironmentFault, ExitStatus


@pytest.fixture
async def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """One that has run before, with one more record to read."""
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    project.pipeline("source: {file: in.jsonl}\nsink: {file: out.jsonl}\n")
    project.write("in.jsonl", b'{"n":1}', b"{")
    await project.run()
    project.write("in.jsonl", b'{"n":1}', b"{", b'{"n":2}')
    return project


def cut(share: float) -> Callable[[Path], None]:
    return lambda file: file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])


def flip(file: Path) -> None:
    content, rng = bytearray(file.read_bytes()), random.Random(0)
    for _ in range(len(content) // 100):
        content[rng.randrange(16, len(content))] = rng.randrange(256)
    file.write_bytes(content)


def unreadable_names(file: Path) -> None:
    content = file.read_bytes()
    assert content.count(b"penstock_meta")
    file.write_bytes(content.replace(b"CREATE TABLE", b"CREATE\xff\xfe\xfdTAB"))


def other_database(file: Path) -> None:
    file.unlink()
    sql(file, "CREATE TABLE customers (id)", "CREATE TABLE invoices (id)")


def newer(file: Path) -> None:
    sql(file, "UPDATE penstock_meta SET value = 999")


def sql(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


DAMAGES = {
    "cut to half": (cut(0.5), "state.damaged", "restore the file from a backup, or move it away"),
    "cut to a few bytes": (cut(0.001), "state.damaged", "restore the file from a backup, or move it away"),
    "emptied": (cut(0), "state.damaged", "restore the file from a backup, or move it away"),
    "garbage": (lambda file: file.write_bytes(b"not a database\n" * 500), "state.damaged", "restore the file"),
    "flipped bytes": (flip, "state.damaged", "restore the file from a backup, or move it away"),
    "unreadable names": (unreadable_names, "state.damaged", "restore the file from a backup, or move it away"),
    "another database": (other_database, "state.foreign", "give `state:` a directory of its own, or move the file away"),
    "newer": (newer, "state.newer", "run it with the newer version of penstock that wrote them"),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_a_state_store_that_cannot_be_trusted_is_refused_and_left_as_it_is(project: Project, name: str) -> None:
    damage, code, help = DAMAGES[name]
    damage(project.state)
    before = project.state.read_bytes()

    with pytest.raises(EnvironmentFault) as fault:
        await project.run()

    assert (fault.value.code, fault.value.exit_status) == (code, ExitStatus.ENVIRONMENT)
    assert help in (fault.value.help or "")
    assert project.lines() == [b'{"n":1}']
    assert project.state.read_bytes() == before


def test_the_command_says_so_and_ends_with_3(project: Project) -> None:
    newer(project.state)

    for arguments in (("run", "--once", "orders.yaml"), ("dlq", "ls", "orders"), ("status", "orders")):
        status, _, said = project.call(*arguments)
        assert (arguments, status) == (arguments, 3)
        assert "state.newer" in said
        assert "Traceback" not in said


async def test_a_store_moved_away_starts_the_pipeline_anew(project: Project) -> None:
    project.state.rename(project.root / "kept.db")
    (project.root / "out.jsonl").unlink()

    summary = await project.run()

    assert (summary.counts.received, summary.counts.delivered, summary.counts.dead_lettered) == (3, 2, 1)


async def test_the_store_of_another_pipeline_is_refused(project: Project) -> None:
    other = project.root / ".penstock" / "others.db"
    project.state.rename(other)
    (project.root / "orders.yaml").write_text("pipeline: others\nsource: {file: in.jsonl}\nsink: {file: out.jsonl}\n")

    with pytest.raises(EnvironmentFault) as fault:
        await project.run()

    assert fault.value.code == "ledger.mismatch"
    assert "pipe checkpoint adopt others" in (fault.value.help or "")
    assert project.lines() == [b'{"n":1}']
