"""Progress and summary of a run, from its numbers."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from penstock.cli.progress import Pace, ProgressDisplay, describe
from penstock.cli.summary import equation_lines, plain_summary, summary_lines
from penstock.cli.supervise import Outcome, worst
from penstock.cli.terminal import Style
from penstock.errors import EnvironmentFault, ExitStatus, Fatal, PenstockError, UsageError
from penstock.ledger import Counts
from penstock.observe.status import RunStatus, RunSummary
from penstock.state.records import Group

PLAIN = Style()
COUNTS = Counts(40_000, 39_119, 674, 28, 179)


def an_outcome(counts: Counts = COUNTS, totals: Counts = COUNTS, error: PenstockError | None = None, **changes: Any) -> Outcome:
    status = RunStatus("orders", "v1", totals=totals)
    summary = RunSummary("orders", "v1", 3, counts, 5, 1.6, {"table": 39_119, "lines": 7}, 179)
    pipeline = SimpleNamespace(name="orders", file=Path("orders.yaml"))
    run = SimpleNamespace(status=status)
    return Outcome(pipeline, run, summary, error, **changes)  # type: ignore[arg-type]  # all that a summary looks at


def test_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    assert (pace.events_per_second(), pace.seconds_left(10)) == (0.0, None)
    for second in range(21):
        pace.add(float(second), min(second, 10) * 100, second * 10)
    assert pace.events_per_second() == 0.0
    assert pace.seconds_left(100) == 10.0


def test_progress_is_brought_back_to_what_is_committed_and_never_goes_back() -> None:
    pace, status = Pace(), RunStatus("orders", "v1")
    assert pace.committed(status, None) is None
    assert pace.committed(status, (0, 1000)) == (0, 1000)
    status.counts, status.in_flight_events = Counts(received=100), 300
    assert pace.committed(status, (800, 1000)) == (200, 1000)
    status.in_flight_events = 900
    assert pace.committed(status, (900, 1000)) == (200, 1000)
    status.counts, status.in_flight_events = Counts(received=1000), 0
    assert pace.committed(status, (1000, 1000)) == (1000, 1000)


def test_a_resumed_run_begins_where_it_stood() -> None:
    pace, status = Pace(), RunStatus("orders", "v1")
    assert pace.committed(status, (600, 1000)) == (600, 1000)
    status.counts, status.in_flight_events = Counts(received=10), 10
    assert pace.committed(status, (800, 1000)) == (700, 1000)


def test_a_run_says_what_it_is_doing() -> None:
    status, pace = RunStatus("orders", "v1"), Pace()
    assert describe(status, pace, None) == "starting"
    status.phase, status.counts = "running", Counts(received=24_800, dead_lettered=179)
    pace.add(0.0, 0, 0)
    pace.add(2.0, 24_800, 500)
    assert describe(status, pace, (500, 1000)).split() == "24,800 events 12,400/s 0:02 left 179 dead letters".split()
    status.paused = "paused since then by ann@here"
    assert describe(status, pace, None) == "paused since then by ann@here"
    status.in_flight_events = 2
    assert describe(status, pace, None) == "paused since then by ann@here, 2 events on the way"
    status.paused = None
    status.phase = "draining"
    assert "draining" in describe(status, pace, (500, 1000))
    status.wait("sink", "the disk is full\x1b")
    assert describe(status, pace, None) == "waiting: the disk is full\\x1b"


async def test_the_display_shows_bars_prints_above_them_and_leaves_nothing_behind() -> None:
    stream, status = io.StringIO(), RunStatus("orders", "v1", phase="running")
    display = ProgressDisplay(stream, lambda: 0.0)
    display.write("before")
    display.watch([status])
    async with display:
        display.write("warning[x.y]: between")
    display.write("after")
    text = stream.getvalue()
    assert text.startswith("before\n")
    assert "warning[x.y]: between\n" in text
    assert text.endswith("after\n")
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_the_sum_is_aligned_under_its_names() -> None:
    assert equation_lines([("", COUNTS)], PLAIN) == [
        "  received = delivered + filtered + deduplicated + dead-lettered",
        "    40,000      39,119        674             28             179",
    ]
    assert equation_lines([("this run", Counts()), ("since it began", COUNTS)], PLAIN)[1:] == [
        "  this run               0           0          0              0               0",
        "  since it began    40,000      39,119        674             28             179",
    ]


def test_the_summary_has_sum_sinks_causes_and_next_commands() -> None:
    group = Group("1" + "ab" * 8, "validate.failed", "check", "bad\x1b price", 179, 0, 1.0, 2.0, "0123456789abcdef")
    lines = summary_lines(an_outcome(), [group], PLAIN, 100)
    assert lines == [
        "",
        "✓ orders done in 1.60 s, 25,000 events/s",
        "",
        "  received = delivered + filtered + deduplicated + dead-lettered",
        "    40,000      39,119        674             28             179",
        "",
        "  written to  table  39,119",
        "              lines       7",
        "  read again  5 events that had been committed before",
        "",
        "179 dead letters open, of 1 cause",
        "  COUNT  FINGERPRINT  STEP   MESSAGE",
        "    179  1abababab    check  bad\\x1b price",
        "",
        "next",
        "  pipe dlq groups orders    the causes, with when and how often",
        "  pipe dlq show 0123456789  one dead letter in full",
        "  pipe status orders        where the pipeline stands",
        "",
    ]


def test_what_was_older_than_what_a_sink_has_is_said_beside_what_was_written() -> None:
    outcome = an_outcome()
    assert outcome.summary is not None
    outcome.summary = replace(outcome.summary, stale={"table": 3, "lines": 0})
    assert "  stale       3 events older than what table has, where they changed nothing" in summary_lines(
        outcome, [], PLAIN, 100
    )
    assert "written: table 39119 (3 stale), lines 7;" in plain_summary(outcome)
    assert outcome.summary.to_json()["sinks"] == {"table": {"written": 39_119, "stale": 3}, "lines": {"written": 7, "stale": 0}}


def test_how_a_run_ended_is_said_first() -> None:
    assert "stopped and committed" in summary_lines(an_outcome(stopped=True), [], PLAIN, 100)[1]
    assert "✗ orders failed after" in summary_lines(an_outcome(error=Fatal("a.b", "m")), [], PLAIN, 100)[1]


def test_a_pipe_gets_one_line() -> None:
    assert plain_summary(an_outcome()) == (
        "orders: done: received 40000 = delivered 39119 + filtered 674 + deduplicated 28 + dead-lettered 179; "
        "written: table 39119, lines 7; 1.60 s, 25,000 events/s; 179 open dead letters"
    )


def test_the_worst_exit_status_of_several_pipelines_counts() -> None:
    statuses = [
        an_outcome().exit_status(fail_on_dead_letters=False),
        an_outcome().exit_status(fail_on_dead_letters=True),
        an_outcome(error=UsageError("a", "b")).exit_status(fail_on_dead_letters=True),
        an_outcome(error=EnvironmentFault("a", "b")).exit_status(fail_on_dead_letters=True),
        an_outcome(error=Fatal("a", "b")).exit_status(fail_on_dead_letters=True),
    ]
    assert statuses == [ExitStatus.DONE, ExitStatus.FOUND, ExitStatus.USAGE, ExitStatus.ENVIRONMENT, ExitStatus.FAILED]
    assert [worst(statuses[:n]) for n in range(6)] == [ExitStatus.DONE, *statuses]
