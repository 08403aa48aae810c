"""Fixtures of the tests with a state store that several machines share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from server_parts import MakeDatabase
from standby_parts import MakeWorld, World

from penstock.testing.servers import Database


@pytest.fixture
def make_world(tmp_path: Path, make_database: MakeDatabase) -> Iterator[MakeWorld]:
    """Worlds in which no process is left after the test."""
    made: list[World] = []

    def make(sink: str, database: Database | None = None, **options: Any) -> World:
        made.append(World.make(tmp_path / f"world-{len(made)}", sink, database or make_database(), **options))
        return made[-1]

    yield make
    for world in made:
        world.end()
