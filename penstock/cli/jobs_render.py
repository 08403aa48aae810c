"""Stored jobs as people and programs see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.cli import numbers
from penstock.cli.job_bar import pace_text
from penstock.cli.table import Column, table
from penstock.cli.terminal import Style
from penstock.clock import rfc3339
from penstock.errors import PenstockError
from penstock.observe.text import printable
from penstock.state.job_records import Job


def state_of(job: Job, alive: bool) -> str:
    """What people are told of it: one that nobody is alive to carry out waits, whatever its last carrier left there.

    :param alive: a run of the pipeline is.
    """
    if not job.open:
        return job.state
    if job.asked == "cancel":
        return "cancelling"
    if job.state == "running" and not (alive or job.alone):
        return "paused" if job.asked == "pause" else "waiting"
    return "pausing" if job.state == "running" and job.asked == "pause" else job.state


def job_document(pipeline: str, job: Job, alive: bool) -> dict[str, Any]:
    """One job of `--json`."""
    progress, error = job.progress, job.error
    return {
        "id": job.id,
        "pipeline": pipeline,
        "kind": job.kind,
        "state": state_of(job, alive),
        "asked": job.asked,
        "done": progress.done,
        "total": progress.total,
        "rate": None if progress.rate is None else round(progress.rate, 1),
        "counts": dict(progress.counts),
        "options": _options(job),
        "created_at": rfc3339(job.created_at),
        "created_by": job.created_by,
        "started_at": None if job.started_at is None else rfc3339(job.started_at),
        "ended_at": None if job.ended_at is None else rfc3339(job.ended_at),
        "error": None if error is None else {"code": error.code, "message": error.message, "why": error.why, "help": error.help},
    }


def _options(job: Job) -> Any:
    try:
        return msgspec.json.decode(job.options)
    except msgspec.DecodeError:  # of an older program, or damaged: the job says so when it is carried out
        return job.options


def done_text(job: Job) -> str:
    """`4,000 of 9,000`."""
    progress = job.progress
    return numbers.count(progress.done) + ("" if progress.total is None else f" of {numbers.count(progress.total)}")


def job_lines(jobs: Sequence[tuple[str, Job, bool]], now: float, style: Style, width: int | None, indent: str = "") -> list[str]:
    """A row a job: (pipeline, job, whether a run is alive)."""
    columns = [
        Column("JOB"),
        Column("PIPELINE", shrinks=True, paint=style.bold),
        Column("KIND"),
        Column("STATE"),
        Column("DONE", "right"),
        Column("PACE", "right", yields=True),
        Column("MADE", "right", yields=True),
        Column("BY", yields=True),
    ]
    rows = [
        (
            job.id,
            pipeline,
            job.kind,
            state_of(job, alive),
            done_text(job),
            pace_text(job) if state_of(job, alive) == "running" else "",
            numbers.age(now - job.created_at),
            job.created_by,
        )
        for pipeline, job, alive in jobs
    ]
    return table(columns, rows, style, width, indent)


def detail_lines(pipeline: str, job: Job, alive: bool, now: float, style: Style) -> list[str]:
    """Everything about one job."""
    by = f" by {job.created_by}" if job.created_by else ""
    lines = [
        f"{style.bold(job.id)}  {job.kind} of {style.bold(printable(pipeline))}  {state_of(job, alive)}",
        "",
        f"  made     {numbers.utc(job.created_at)}, {numbers.age(now - job.created_at)}{printable(by)}",
    ]
    if job.started_at is not None:
        lines.append(f"  began    {numbers.utc(job.started_at)}")
    if job.ended_at is not None:
        lines.append(f"  ended    {numbers.utc(job.ended_at)}")
    pace = pace_text(job) if state_of(job, alive) == "running" else ""
    lines.append(f"  done     {done_text(job)}" + (f"  {pace}" if pace else ""))
    lines += [f"  {number:>7,}  {printable(name.replace('_', ' '))}" for name, number in job.progress.counts.items() if number]
    lines += ["", style.bold("options"), f"  {printable(msgspec.json.encode(_options(job)).decode())}"]
    if job.error is not None:
        error = PenstockError(job.error.code, job.error.message, why=job.error.why, help=job.error.help)
        lines += ["", *printable(error.render(), keep="\n").splitlines()]
    return lines
