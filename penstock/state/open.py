"""Finds the state store of a pipeline."""

from __future__ import annotations

from pathlib import Path

from penstock.clock import Clock
from penstock.config.secret import Secret
from penstock.faults import Faults
from penstock.state.store import StateStore


def open_store(directory: Path, pipeline: str, clock: Clock, faults: Faults, server: Secret | None = None) -> StateStore:
    """The store of `pipeline`: in the database of `server` (schema `penstock_PIPELINE`), or, without one, in `directory`
    (`PIPELINE.db`, `PIPELINE.lock`). Nothing is touched before its `open`."""
    if server is not None:
        from penstock.state.postgres_store import PostgresStateStore

        return PostgresStateStore(server, pipeline, clock, faults)
    from penstock.state.sqlite_store import SqliteStateStore

    return SqliteStateStore(directory / f"{pipeline}.db", pipeline, clock, faults)
