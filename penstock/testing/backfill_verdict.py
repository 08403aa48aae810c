"""What must be there after live backfills beside live work: in both sinks every row once, in the first in order; the totals of an
undisturbed run; one letter for each line that fails; no job, and no record of one. Reads tables and files, nothing of the code
under test."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import replace
from typing import Any

from penstock.testing.journal_check import journal_lines
from penstock.testing.oracle import Oracle
from penstock.testing.rounds import MINIMUM_ROWS, Problem
from penstock.testing.scenario import JOURNAL, SOURCE, Output, Unreadable
from penstock.testing.telling import Telling

OUTCOMES = ("received", "delivered", "filtered", "deduplicated", "dead_lettered")


def judge_backfills(first: Output, late: Output, told: Telling, oracle: Oracle, when: str, *, exact: bool) -> None:
    """What is found goes to the telling's result.

    :param exact: False where a ledger that came late may know a repetition for the first of its kind: how many were delivered and
        how many deduplicated depends on when it came.
    """

    def problem(kind: str, detail: str) -> None:
        told.result.problems.append(Problem(kind, f"{when}{detail}"))

    for output in (first, late):
        try:
            rows = output.rows(told.project)
        except Unreadable as error:
            problem("unreadable", str(error))
            continue
        found = oracle.judge(rows, refuses=False)
        if output is late:  # what a backfill delivers comes behind what is live
            found = replace(found, misordered=0)
        if not found.clean:
            problem("rows", f"{output.name}: {found}")
        if len(rows) < MINIMUM_ROWS:
            problem("idle", f"{output.name}: only {len(rows)} rows")
        told.result.rows += len(rows)
    _judge_state(told, oracle, exact, problem)
    _judge_jobs(told, problem)


def _judge_state(told: Telling, oracle: Oracle, exact: bool, problem: Any) -> None:
    """What the state store and the journal say."""
    ((text,),) = told.state.query("SELECT counts FROM note")
    totals, expected = json.loads(text), oracle.totals(refuses=False)
    wanted = {name: getattr(expected, name) for name in (OUTCOMES if exact else ("received", "filtered"))}
    if (counted := {name: totals[name] for name in wanted}) != wanted:
        problem("totals", f"{counted} instead of {wanted}")
    letters = told.state.query("SELECT source, original_digest, status FROM letters WHERE pending IS NULL")
    found = Counter((str(source).removeprefix(SOURCE), digest) for source, digest, _ in letters)
    due = Counter(oracle.dead_letters(refuses=False).keys())
    if (found != due if exact else set(found) != set(due)) or any(status != "open" for *_, status in letters):
        problem("dead_letters", f"{len(letters)} instead of {len(oracle.dead_letters(refuses=False))}, or not open")
    first: dict[tuple[str, str], str] = {}
    for line in journal_lines(told.project / ".penstock" / JOURNAL):
        if "job" not in line:
            first[line["partition"], line.get("position", "")] = line["outcome"]
    outcomes = Counter(first.values())
    if differing := {name: (outcomes[name], totals[name]) for name in OUTCOMES[1:] if outcomes[name] != totals[name]}:
        problem("journal", f"outcomes in the journal and in the totals: {differing}")


def _judge_jobs(told: Telling, problem: Any) -> None:
    judge_backfill_jobs(told, problem)
    if left := records_left(told):
        problem("records", f"{len(left)} records of jobs are left, such as {left[0]}")


def judge_backfill_jobs(told: Telling, problem: Any) -> None:
    """None failed, and some delivered something."""
    jobs = told.state.query("SELECT id, state, done, counts FROM jobs WHERE kind = 'backfill'")
    if failed := [row for row in jobs if row[1] != "done"]:
        problem("jobs", f"{failed[:3]}")
    if not any(json.loads(counts).get("delivered") for *_, counts in jobs):
        problem("idle", "no backfill delivered anything")


def records_left(told: Telling) -> list[tuple[Any, ...]]:
    """What the ledgers in the state store and in tables of SQLite recorded for jobs, and did not forget."""
    left = told.state.query("SELECT job, event FROM penstock_job_records")
    for path in (told.project / "out").glob("*.db"):
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            left += database.execute("SELECT job, event FROM penstock_job_records").fetchall()
    return left
