"""Finds the state store of a pipeline."""

from __future__ import annotations

from pathlib import Path

from penstock.clock import Clock
from penstock.faults import Faults
from penstock.state.sqlite_store import SqliteStateStore
from penstock.state.store import StateStore


def open_store(directory: Path, pipeline: str, clock: Clock, faults: Faults) -> StateStore:
    """The store of `pipeline` in `directory` (`PIPELINE.db`, `PIPELINE.lock`). Nothing is touched before its `open`."""
    return SqliteStateStore(directory / f"{pipeline}.db", pipeline, clock, faults)
