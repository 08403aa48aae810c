"""Which sinks had a past event: of the run, of jobs, of versions that nobody knows any more."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from penstock.engine.owed import Had, event_name
from penstock.errors import UsageError
from penstock.journal.lines import Line, Outcome
from penstock.state.pipeline_records import Version

A, B, C = 1, 2, 4


def line(outcome: Outcome = "delivered", version: str = "v1") -> Line:
    event = b'{"specversion":"1.0","id":"e","source":"s","type":"t"}'
    return Line(at="2026-01-01T00:00:00Z", partition="p", version=version, position="01", outcome=outcome, event=event)  # type: ignore[arg-type]


def deed(outcome: Outcome, *, version: str = "v1", sinks: Sequence[str] | None = None, of: str = "e") -> Line:
    """What a job made of the event later."""
    given = None if sinks is None else list(sinks)
    return Line(
        at="2026-01-01T00:00:00Z",
        partition="p",
        version=version,
        position="01",
        outcome=outcome,
        sinks=given,
        corrects=of,
        job="j",
    )


def had(*deeds: Line, since: Sequence[Line] = ()) -> Had:
    versions = [
        Version(name, json.dumps({"sinks": [{"name": sink} for sink in sinks]}), {}, {}, 0.0)
        for name, sinks in {"v1": ["a", "b"], "v2": ["a", "gone", "c"]}.items()
    ]
    return Had.of(["a", "b", "c"], versions, deeds, since)


@pytest.mark.parametrize(
    ("past", "deeds", "before", "failed"),
    [
        (line(), [], A | B, False),
        (line(version="v2"), [], A | C, False),
        (line("filtered"), [], 0, False),
        (line("dead_lettered"), [], A | B, True),
        (line(), [deed("delivered", version="v2", sinks=["c", "gone"])], A | B | C, False),
        (line(), [deed("delivered", version="v2", of="another")], A | B, False),
        (line("filtered"), [deed("delivered", version="v2")], A | C, False),
        (line("filtered"), [deed("filtered")], 0, False),
        (line("dead_lettered"), [deed("delivered", sinks=["a"])], A | B, False),
        (line("dead_lettered"), [deed("dead_lettered")], A | B, True),
        (line("filtered"), [deed("dead_lettered", sinks=["b"])], 0, True),
        (line("filtered"), [deed("dead_lettered", sinks=["b"]), deed("delivered", sinks=["c"])], B | C, False),
        (
            line("filtered"),
            [deed("dead_lettered", sinks=["a"]), deed("dead_lettered", sinks=["b"]), deed("filtered")],
            A | B,
            False,
        ),
        (line("dead_lettered"), [deed("delivered"), deed("dead_lettered")], A | B, True),
        (line("filtered"), [deed("delivered", version="lost", sinks=["b"])], B, False),
    ],
)
def test_which_sinks_had_an_event_is_what_run_and_jobs_offered(past: Line, deeds: list[Line], before: int, failed: bool) -> None:
    assert (had(*deeds).before(past), had(*deeds).failed(past)) == (before, failed)


@pytest.mark.parametrize(
    ("past", "deeds"),
    [
        (line(version="lost"), []),
        (line("dead_lettered", version="lost"), []),
        (line(), [deed("delivered", version="lost")]),
        (line(), [deed("dead_lettered", version="lost"), deed("filtered")]),
    ],
)
def test_nobody_knows_what_a_version_delivered_that_is_not_stored(past: Line, deeds: list[Line]) -> None:
    with pytest.raises(UsageError, match="the event e is not known, for a version") as caught:
        had(*deeds).before(past)
    assert caught.value.code == "backfill.unknown_version"


def test_a_version_that_is_not_stored_hinders_nobody_else() -> None:
    """Not even where all is delivered once more, whoever had it."""
    assert had(deed("delivered", version="lost", of="another")).before(line()) == A | B


@pytest.mark.parametrize(
    ("past", "deeds", "since", "before", "failed"),
    [
        (line("dead_lettered"), [], [deed("delivered", sinks=["a"])], A | B, True),
        (line(), [deed("dead_lettered", sinks=["c"])], [deed("delivered", sinks=["c"])], A | B | C, True),
        (line("dead_lettered"), [deed("delivered")], [deed("delivered", sinks=["c"])], A | B | C, False),
        (line(), [], [deed("dead_lettered", sinks=["c"]), deed("delivered", sinks=["c"])], A | B | C, False),
    ],
)
def test_what_was_left_to_a_letter_when_a_backfill_began_stays_left(
    past: Line, deeds: list[Line], since: list[Line], before: int, failed: bool
) -> None:
    later = had(*deeds, since=since)
    assert (later.before(past), later.failed(past)) == (before, failed)


def test_an_event_has_one_name_for_every_job() -> None:
    assert event_name(line()) == event_name(deed("delivered")) != event_name(deed("delivered", of="another"))
