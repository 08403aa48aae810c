"""Stored jobs as they are kept (rule 10 of docs/guarantees.md). Stored formats are versioned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

JobState = Literal["waiting", "running", "paused", "done", "cancelled", "failed"]
JobWish = Literal["run", "pause", "cancel"]
Ending = Literal["done", "cancelled", "failed"]

Carrier = int | str
"""Who carries a job out: the epoch of a run, or, of a job that stands alone, the name of its owner (`JobBook.own`)."""


class JobError(msgspec.Struct, frozen=True):
    """Why a job failed."""

    code: str
    message: str
    why: str | None = None
    help: str | None = None


@dataclass(frozen=True, slots=True)
class JobProgress:
    """How far a job is, as of one commit.

    :ivar cursor: where its carrier goes on: the business of its kind; empty at the beginning.
    :ivar done: what is behind it of `total`, in the unit of its kind; `total` is None where nobody knows.
    :ivar counts: by outcome, or what else its kind counts.
    :ivar rate: what is done a second, lately.
    """

    job: str
    cursor: bytes = b""
    done: int = 0
    total: int | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A stored job.

    :ivar kind: such as `replay`; `options` is JSON, and the business of its kind.
    :ivar alone: it touches no ledger, and is carried out by a process of its own beside the run, not by the run.
    :ivar created_by: `user@host`.
    :ivar asked: what people want of it; its carrier follows.
    :ivar changed_at: of its latest report or change of state.
    :ivar owner: of one that stands alone, who carries it out: process `pid` on `host`; empty where nobody does. `beats` rises as
        long as it lives.
    """

    id: str
    kind: str
    options: str
    created_at: float
    created_by: str = ""
    alone: bool = False
    state: JobState = "waiting"
    asked: JobWish = "run"
    progress: JobProgress = field(default_factory=lambda: JobProgress(""))
    error: JobError | None = None
    started_at: float | None = None
    changed_at: float = 0.0
    ended_at: float | None = None
    owner: str = ""
    host: str = ""
    pid: int = 0
    beats: int = 0

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.ended_at is None
