"""The oracle of rounds over a changing database finds what is wrong with what came out, and nothing wrong with what is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.testing.cdc_oracle import Arrival, Begin, Change, Record, Transaction, checksum, judge


def change(op: Any, id: int, entity: str, sequence: int) -> Change:
    return Change(op, id, entity, sequence, checksum(entity, sequence, f"body {sequence}"))


FIRST = [change("insert", 5, "a", 0), change("insert", 6, "b", 0)]
SECOND = [change("update", 5, "a", 1), change("delete", 6, "b", 0)]
THIRD = [change("insert", 7, "c", 0), change("update", 5, "a", 2)]


def record() -> Record:
    made = Record()
    for ticket, changes in ((2, SECOND), (1, FIRST), (3, THIRD)):
        made.add(Transaction(f"t{ticket}", ticket, ticket * 10.0, ticket * 10.0 + 5, tuple(changes)))
    return made


def arrived(*changes: Change, first: str = "0/1") -> list[Arrival]:
    return [Arrival(f"{first}-{n}", each, f"body {each.sequence}") for n, each in enumerate(changes, 1)]


def snapshot(id: int, entity: str, sequence: int, name: str = "initial-0/1") -> Arrival:
    return Arrival(f"{name}-{id}", change("snapshot", id, entity, sequence), f"body {sequence}")


EMPTY = Begin()
"""Nothing was there when the stream began."""


def verdict(found: list[Arrival], begin: Begin = EMPTY) -> dict[str, int]:
    findings = judge(record().changes(), found, begin, whole_deletes=True)
    names = ("missing", "duplicate", "misordered", "corrupt", "phantom")
    return {name: getattr(findings, name) for name in names if getattr(findings, name)}


def test_every_change_once_and_in_order_is_right() -> None:
    assert verdict(arrived(*FIRST, *SECOND, *THIRD)) == {}
    keys_alone = [each.key_alone if each.op == "delete" else each for each in (*FIRST, *SECOND, *THIRD)]
    assert judge(record().changes(), arrived(*keys_alone), Begin(), whole_deletes=False).clean


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda all: all[1:], {"missing": 1}),
        (lambda all: all[:-1], {"missing": 1}),
        (lambda all: [*all, all[0]], {"duplicate": 1}),
        (lambda all: [all[1], all[0], *all[2:]], {"misordered": 2}),
        (lambda all: [*all, *arrived(change("insert", 9, "z", 0))], {"phantom": 1}),
        (lambda all: [Arrival("0/1-1", all[0].change, "another body"), *all[1:]], {"corrupt": 1}),
    ],
)
def test_what_is_wrong_with_changes_is_counted(spoil: Callable[[list[Arrival]], list[Arrival]], found: dict[str, int]) -> None:
    assert verdict(spoil(arrived(*FIRST, *SECOND, *THIRD))) == found


BEGUN = Begin(1, 2)
"""The stream began behind the first transaction, or behind the second."""


def test_rows_of_a_snapshot_before_and_between_their_changes_are_right() -> None:
    rows = [snapshot(5, "a", 0), snapshot(6, "b", 0)]
    assert verdict([*rows, *arrived(*SECOND, *THIRD)], BEGUN) == {}
    assert verdict([*arrived(*SECOND), snapshot(5, "a", 1), *arrived(*THIRD, first="0/2")], BEGUN) == {}
    assert verdict([snapshot(5, "a", 1), *arrived(*THIRD)], BEGUN) == {}
    again = snapshot(5, "a", 2, "signal-1")
    assert verdict([*rows, *arrived(*SECOND, *THIRD), again], BEGUN) == {}


@pytest.mark.parametrize(
    ("found", "count"),
    [
        ([snapshot(5, "a", 0), snapshot(5, "a", 0), snapshot(6, "b", 0), *arrived(*SECOND, *THIRD)], 1),
        ([snapshot(5, "a", 1), snapshot(6, "b", 0), *arrived(*SECOND, *THIRD)], 1),
        ([*arrived(*SECOND), snapshot(6, "b", 0), *arrived(*THIRD, first="0/2")], 1),
        ([*arrived(*SECOND), snapshot(5, "a", 0), *arrived(*THIRD, first="0/2")], 1),
    ],
    ids=["a row twice", "a row that is too new", "a row that is gone", "a row that is too old"],
)
def test_a_row_of_a_snapshot_that_does_not_stand_so_at_its_place_is_found(found: list[Arrival], count: int) -> None:
    assert verdict(found, BEGUN) == {"misordered": count}


def test_a_row_that_was_there_and_never_arrives_is_found() -> None:
    made = record()
    made.add(Transaction("t4", 4, 40.0, 45.0, (change("insert", 8, "d", 0),)))
    found = arrived(change("insert", 8, "d", 0))
    findings = judge(made.changes(), [snapshot(5, "a", 2), *found], Begin(3, 3), whole_deletes=True)
    assert findings.misordered == 1
    assert "id 7" in findings.examples[0]


def test_a_stream_that_begins_later_than_it_may_lacks_changes() -> None:
    assert verdict([snapshot(5, "a", 1), *arrived(*THIRD)], Begin(1, 1)) == {"missing": 2}
    assert verdict([snapshot(5, "a", 0), snapshot(6, "b", 0), *arrived(SECOND[1], *THIRD)], BEGUN) == {"missing": 1}


def test_a_record_whose_tickets_contradict_the_clock_is_found() -> None:
    made = record()
    assert made.contradictions() == []
    made.add(Transaction("late", 4, 1.0, 2.0, ()))
    made.add(Transaction("twin", 1, 1.0, 90.0, ()))
    assert len(made.contradictions()) == 2
