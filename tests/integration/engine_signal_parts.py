"""Runs that are sent signals, and what became of these."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from engine_parts import finish, open_store
from waiting import until_async

from penstock.config.model import Pipeline
from penstock.engine import signals
from penstock.engine.run import Run, RunOptions
from penstock.state.signal_box import SignalBox
from penstock.state.signal_records import SignalRecord


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run looks for signals often, in every module that imports this."""
    monkeypatch.setattr(signals, "TICK", 0.02)
    monkeypatch.setattr(signals, "SETTLING", 0.01)


@asynccontextmanager
async def running(pipeline: Pipeline, **options: Any) -> AsyncIterator[Run]:
    """A run that has begun, and is stopped in the end."""
    run = Run(pipeline, RunOptions(**options))
    task = asyncio.create_task(run.execute())
    await until_async(lambda: run.status.phase == "running", task)
    try:
        yield run
        run.stop()
        await finish(task)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def signals_of(pipeline: Pipeline, *, create: bool = False) -> AsyncIterator[SignalBox]:
    """
    :param create: of a pipeline that has never run.
    """
    async with open_store(pipeline, create=create) as store:
        yield store.signals


async def outcome(box: SignalBox, identity: int) -> SignalRecord:
    """The signal, once it is decided."""
    async with asyncio.timeout(20):
        while True:
            signal = await box.find(identity)
            assert signal is not None
            if signal.outcome is not None:
                return signal
            await asyncio.sleep(0.01)
