"""Fixtures of the tests of the command, and of the state store."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cli_parts import PIPELINE, SCHEMA, Pipe
from state_builders import Store, make_store_in

from penstock.cli.lazy import Settings
from penstock.cli.main import execute
from penstock.cli.terminal import Terminal
from penstock.testing.servers import Database


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one pipeline, its schema and six records; it is the working directory."""
    (tmp_path / "pipelines/schemas/shop.line").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "pipelines/shop.yaml").write_text(PIPELINE)
    (tmp_path / "pipelines/schemas/shop.line/1.json").write_text(json.dumps(SCHEMA))
    lines = [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 0}, {"n": -1}, {"m": 1}]
    (tmp_path / "in/a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def pipe(capsys: pytest.CaptureFixture[str]) -> Pipe:
    """The command, called in this process."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = execute(list(arguments), Settings(), Terminal.of_process())
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


@pytest.fixture
def ran(shop: Path, pipe: Pipe) -> Path:
    """The shop, after its pipeline has run once: two delivered, one filtered, three dead letters."""
    assert pipe("run", "--once", "pipelines/shop.yaml")[0] == 0
    return shop


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path | Database:
    """Where a state store can be: a directory, and a database of a server."""
    if request.param == "sqlite":
        return tmp_path
    database: Database = request.getfixturevalue("database")
    return database


@pytest.fixture
async def store(place: Path | Database) -> AsyncIterator[Store]:
    """An open state store in each of these places."""
    store = make_store_in(place)
    await store.open()
    yield store
    await store.close()
