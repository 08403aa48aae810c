"""What must be there after lanes were parked and released beside live work: in each output every row once and, of each key of a
file, in order; every letter settled, and nothing left of a job. Reads tables and files, nothing of the code under test."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from penstock.testing.journal_check import journal_lines
from penstock.testing.oracle import Oracle, Row
from penstock.testing.rounds import MINIMUM_ROWS, Problem
from penstock.testing.scenario import JOURNAL, SOURCE, Output, Unreadable
from penstock.testing.telling import Telling

_UNSETTLED = "status IN ('open', 'parked', 'replaying')"


def judge_lanes(outputs: Sequence[Output], told: Telling, oracle: Oracle, when: str) -> None:
    """What is found goes to the telling's result."""

    def problem(kind: str, detail: str) -> None:
        told.result.problems.append(Problem(kind, f"{when}{detail}"))

    for output in outputs:
        try:
            rows = output.rows(told.project)
        except Unreadable as error:
            problem("unreadable", str(error))
            continue
        found = replace(oracle.judge(rows, refuses=False), misordered=0)  # what was parked comes behind other lanes
        if not found.clean:
            problem("rows", f"{output.name}: {found}")
        if passed := overtaken(rows, oracle):
            problem("order", f"{output.name}: {len(passed)} rows came before one of their lane, such as {passed[:3]}")
        if len(rows) < MINIMUM_ROWS:
            problem("idle", f"{output.name}: only {len(rows)} rows")
        told.result.rows += len(rows)
    _judge_letters(told, oracle, problem)
    _judge_jobs(told, outputs[0].name, problem)
    _judge_journal(told, problem)


def count_unsettled(told: Telling) -> int:
    """Dead letters that wait for somebody or something."""
    ((number,),) = told.state.query(f"SELECT count(*) FROM letters WHERE {_UNSETTLED}")  # noqa: S608 - a constant
    return int(number)


def overtaken(rows: Iterable[Row], oracle: Oracle) -> list[tuple[str, int, int]]:
    """Rows that lie behind a later one of the same key and file."""
    files = {(line.key, line.sequence): line.file for line in reversed(oracle.lines)}
    latest: dict[tuple[str, str], tuple[int, int]] = {}
    found = []
    for row in rows:
        lane, place = (files.get((row.key, row.sequence), ""), row.key), (row.sequence, row.part)
        if place < latest.get(lane, place):
            found.append((row.key, *place))
        latest[lane] = max(place, latest.get(lane, place))
    return found


def _judge_letters(told: Telling, oracle: Oracle, problem: Any) -> None:
    """What a step refuses is discarded, all else resolved; the first outcome of each is that it was dead-lettered."""
    letters = told.state.query("SELECT id, source, original_digest, status, pending FROM letters")
    if twice := [identity for identity, count in Counter(row[0] for row in letters).items() if count > 1]:
        problem("dead_letters", f"{twice[:3]} are there twice")
    if provisional := [row[0] for row in letters if row[4] is not None]:
        problem("dead_letters", f"{provisional[:3]} are provisional")
    kinds = {(line.file, line.digest): line.kind for line in oracle.lines if line.repeats is None}
    for identity, source, digest, status, _ in letters:
        kind = kinds.get((str(source).removeprefix(SOURCE), digest))
        if status != ("discarded" if kind == "error" else "resolved"):
            problem("dead_letters", f"{identity}, {kind or 'of no line'}, is {status}")
    ((text,),) = told.state.query("SELECT counts FROM note")
    totals = json.loads(text)
    repeated = sum(line.repeats is not None for line in oracle.lines)
    wanted = {"received": len(oracle.lines), "deduplicated": repeated, "dead_lettered": len(letters)}
    if (counted := {name: totals[name] for name in wanted}) != wanted:
        problem("totals", f"{counted} instead of {wanted}")
    if totals["received"] != sum(totals[name] for name in ("delivered", "filtered", "deduplicated", "dead_lettered")):
        problem("totals", f"{totals} do not add up")


def _judge_jobs(told: Telling, table: str, problem: Any) -> None:
    jobs = told.state.query("SELECT id, kind, state FROM jobs")
    if left := [row for row in jobs if row[2] not in ("done", "cancelled")]:
        problem("jobs", f"{left[:3]} have not ended well")
    if not told.state.query("SELECT 1 FROM letters WHERE code = 'lane.parked' AND status = 'resolved' LIMIT 1"):
        problem("idle", "nothing that was parked was delivered")
    records = told.state.query("SELECT job, event FROM penstock_job_records")
    with closing(_read_only(told.project / f"out/{table}.db")) as database:
        records += database.execute("SELECT job, event FROM penstock_job_records").fetchall()
    if records:
        problem("records", f"{len(records)} records of jobs are left, such as {records[0]}")


def _judge_journal(told: Telling, problem: Any) -> None:
    """One line an event, and with its first outcome what the totals count."""
    first: dict[tuple[str, str], str] = {}
    for line in journal_lines(told.project / ".penstock" / JOURNAL):
        place = (line["partition"], line.get("position", ""))
        if "corrects" not in line and place in first:
            problem("journal", f"{place} has two lines")
        if "corrects" not in line or "job" not in line:
            first[place] = line["outcome"]
    ((text,),) = told.state.query("SELECT counts FROM note")
    totals, outcomes = json.loads(text), Counter(first.values())
    names = ("delivered", "filtered", "deduplicated", "dead_lettered")
    if differing := {name: (outcomes[name], totals[name]) for name in names if outcomes[name] != totals[name]}:
        problem("journal", f"outcomes in the journal and in the totals: {differing}")


def _read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
