"""What must be there after lanes were parked and released beside live work, and perhaps a sink was added and backfilled: in each
output every row once and, of each key of a file, in order; every letter settled, and nothing left of a job. Reads tables and
files, nothing of the code under test."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from penstock.testing.backfill_verdict import judge_backfill_jobs, records_left
from penstock.testing.journal_check import journal_lines
from penstock.testing.oracle import Oracle, Row
from penstock.testing.rounds import MINIMUM_ROWS, Problem
from penstock.testing.scenario import JOURNAL, SOURCE, Output, Unreadable
from penstock.testing.telling import Telling

_OUTCOMES = ("delivered", "filtered", "deduplicated", "dead_lettered")
_UNSETTLED = "status IN ('open', 'parked', 'replaying')"


def judge_lanes(outputs: Sequence[Output], told: Telling, oracle: Oracle, when: str, *, late: Output | None = None) -> None:
    """What is found goes to the telling's result.

    :param late: one of the outputs, to which backfills brought what was read before it was there. That comes behind what was read
        since, so that each of the two is in order apart.
    """

    def problem(kind: str, detail: str) -> None:
        told.result.problems.append(Problem(kind, f"{when}{detail}"))

    past = _read_before(told) if late is not None else frozenset()
    for output in outputs:
        _judge_rows(output, told, oracle, past if output is late else frozenset(), problem)
    journal = _judge_journal(told, problem)
    _judge_letters(told, oracle, journal, late is not None or len(outputs) > 1, problem)
    _judge_jobs(told, problem)
    if late is not None:
        judge_backfill_jobs(told, problem)


def _judge_rows(output: Output, told: Telling, oracle: Oracle, past: Collection[tuple[str, int]], problem: Any) -> None:
    try:
        rows = output.rows(told.project)
    except Unreadable as error:
        problem("unreadable", str(error))
        return
    found = replace(oracle.judge(rows, refuses=False), misordered=0)  # what was parked comes behind other lanes
    if not found.clean:
        problem("rows", f"{output.name}: {found}")
    if passed := overtaken(rows, oracle, past):
        problem("order", f"{output.name}: {len(passed)} rows came before one of their lane, such as {passed[:3]}")
    if len(rows) < MINIMUM_ROWS:
        problem("idle", f"{output.name}: only {len(rows)} rows")
    told.result.rows += len(rows)


def count_unsettled(told: Telling) -> int:
    """Dead letters that wait for somebody or something."""
    ((number,),) = told.state.query(f"SELECT count(*) FROM letters WHERE {_UNSETTLED}")  # noqa: S608 - a constant
    return int(number)


def overtaken(rows: Iterable[Row], oracle: Oracle, past: Collection[tuple[str, int]] = frozenset()) -> list[tuple[str, int, int]]:
    """Rows that lie behind a later one of the same key and file; key and sequence of those in `past` are looked at apart."""
    files = {(line.key, line.sequence): line.file for line in reversed(oracle.lines)}
    latest: dict[tuple[str, str, bool], tuple[int, int]] = {}
    found = []
    for row in rows:
        change, place = (row.key, row.sequence), (row.sequence, row.part)
        lane = (files.get(change, ""), row.key, change in past)
        if place < latest.get(lane, place):
            found.append((row.key, *place))
        latest[lane] = max(place, latest.get(lane, place))
    return found


def _read_before(told: Telling) -> frozenset[tuple[str, int]]:
    """Key and sequence of what was read by the pipeline's first version, which had not the late sink."""
    lines = [line for line in journal_lines(told.project / ".penstock" / JOURNAL) if "corrects" not in line]
    data = [line["event"]["data"] for line in lines if line["version"] == lines[0]["version"]]
    return frozenset((each["key"], each["sequence"]) for each in data)


def _judge_letters(told: Telling, oracle: Oracle, journal: Collection[str], others: bool, problem: Any) -> None:
    """What a step refuses is discarded, all else resolved; the first outcome of each is that it was dead-lettered.

    :param journal: letters of those whose first outcome that was.
    :param others: whether there may be more: those that a backfill made; with several ledgers, those that a command replayed
        after a crash between two of them, before a run read their events again (the window of rule 4).
    """
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
    identities = {row[0] for row in letters}
    if astray := set(journal) - identities if others else set(journal) ^ identities:
        problem("dead_letters", f"{sorted(astray)[:3]} are in the journal or the store alone")
    _judge_totals(told, oracle, len(journal), problem)


def _judge_totals(told: Telling, oracle: Oracle, dead: int, problem: Any) -> None:
    totals = _totals(told)
    repeated = sum(line.repeats is not None for line in oracle.lines)
    wanted = {"received": len(oracle.lines), "deduplicated": repeated, "dead_lettered": dead}
    if (counted := {name: totals[name] for name in wanted}) != wanted:
        problem("totals", f"{counted} instead of {wanted}")
    if totals["received"] != sum(totals[name] for name in _OUTCOMES):
        problem("totals", f"{totals} do not add up")


def _judge_jobs(told: Telling, problem: Any) -> None:
    jobs = told.state.query("SELECT id, kind, state FROM jobs")
    if left := [row for row in jobs if row[2] not in ("done", "cancelled")]:
        problem("jobs", f"{left[:3]} have not ended well")
    if not told.state.query("SELECT 1 FROM letters WHERE code = 'lane.parked' AND status = 'resolved' LIMIT 1"):
        problem("idle", "nothing that was parked was delivered")
    if left := records_left(told):
        problem("records", f"{len(left)} records of jobs are left, such as {left[0]}")


def _judge_journal(told: Telling, problem: Any) -> set[str]:
    """One line an event, and with its first outcome what the totals count.

    :return: the letters of those whose first outcome was that they were dead-lettered.
    """
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for line in journal_lines(told.project / ".penstock" / JOURNAL):
        place = (line["partition"], line.get("position", ""))
        if "corrects" not in line and place in first:
            problem("journal", f"{place} has two lines")
        if "corrects" not in line or "job" not in line:
            first[place] = line
    totals, outcomes = _totals(told), Counter(line["outcome"] for line in first.values())
    if differing := {name: (outcomes[name], totals[name]) for name in _OUTCOMES if outcomes[name] != totals[name]}:
        problem("journal", f"outcomes in the journal and in the totals: {differing}")
    return {line["letter"] for line in first.values() if line["outcome"] == "dead_lettered"}


def _totals(told: Telling) -> dict[str, int]:
    ((text,),) = told.state.query("SELECT counts FROM note")
    totals: dict[str, int] = json.loads(text)
    return totals
