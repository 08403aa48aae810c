"""The postgres sink's plan against a table of one's own: whatever the operations, the rows in the end are those of doing them
one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sinks._postgres.plan import Layer, OnConflict, Rules, Truncation, plan
from connectors.sinks._postgres.rows import Op, block

NAMES = (("id", "a"), ("id", "b"), ("id", "a", "b"), ("id",))

Table = dict[str, dict[str, str]]


@st.composite
def operations(draw: st.DrawFn, keys: str = "xyz") -> list[Op]:
    ops = []
    for event in range(draw(st.integers(0, 12))):
        kind = draw(st.sampled_from(["put", "put", "put", "delete", "truncate"]))
        key = draw(st.sampled_from(keys))
        if kind == "truncate":
            ops.append(Op(event, "truncate"))
        elif kind == "delete":
            ops.append(Op(event, "delete", ("id",), (key,), (key,)))
        else:
            names = draw(st.sampled_from(NAMES))
            ops.append(Op(event, "put", names, (key, *[f"{name}{event}" for name in names[1:]]), (key,)))
    return ops


def put(table: Table, op: Op, on_conflict: OnConflict) -> None:
    key, row = str(op.row[0]).lower(), {name: str(value) for name, value in zip(op.names[1:], op.row[1:], strict=True)}
    if key not in table:
        table[key] = row
    elif on_conflict == "update":
        table[key] |= row


def one_by_one(ops: Sequence[Op], on_conflict: OnConflict) -> Table:
    table: Table = {}
    for op in ops:
        if op.kind == "truncate":
            table.clear()
        elif op.kind == "delete":
            table.pop(str(op.key[0]).lower(), None)
        else:
            put(table, op, on_conflict)
    return table


def at_once(ops: Sequence[Op], on_conflict: OnConflict, *, strict: bool) -> Table:
    table: Table = {}
    for step in plan(ops, Rules(keyed=True, on_conflict=on_conflict, strict=strict)):
        if isinstance(step, Truncation):
            table.clear()
            continue
        for op in step.deletes:
            table.pop(str(op.key[0]).lower(), None)
        puts = [op for group in step.puts for op in group]
        keys = [op.key for op in puts]
        assert len(set(keys)) == len(keys), "a statement would touch a row twice"
        for op in puts:
            put(table, op, on_conflict)
    return table


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("on_conflict", ["update", "ignore"])
@given(ops=operations())
def test_the_rows_are_those_of_doing_one_after_the_other(ops: list[Op], on_conflict: OnConflict, strict: bool) -> None:
    assert at_once(ops, on_conflict, strict=strict) == one_by_one(ops, on_conflict)


@pytest.mark.parametrize("on_conflict", ["update", "ignore"])
@given(ops=operations("xXyY"))
def test_where_keys_have_several_texts_the_rows_are_those_of_one_after_the_other(ops: list[Op], on_conflict: OnConflict) -> None:
    assert at_once(ops, on_conflict, strict=True) == one_by_one(ops, on_conflict)


@given(ops=operations())
def test_where_no_key_folds_rows_they_keep_their_order(ops: list[Op]) -> None:
    rows = [op for op in ops if op.kind == "put"]
    steps = plan(rows, Rules(keyed=False, on_conflict="update"))
    assert [op for step in steps if isinstance(step, Layer) for group in step.puts for op in group] == rows


@given(ops=operations())
def test_where_conflicts_are_errors_every_row_is_given_and_no_deletion_passes_its_row(ops: list[Op]) -> None:
    given_ops: list[Any] = []
    for step in plan(ops, Rules(keyed=True, on_conflict="error")):
        assert isinstance(step, Layer | Truncation)
        if isinstance(step, Truncation):
            given_ops.append(step.op)
            continue
        given_ops.extend(step.deletes)
        given_ops.extend(op for group in step.puts for op in group)
    puts = [op for op in given_ops if op.kind == "put"]
    assert puts == [op for op in ops if op.kind == "put"]
    for key in "xyz":
        last = {op.event: place for place, op in enumerate(given_ops)}
        for op in ops:
            if op.kind == "delete" and op.key == (key,) and op.event in last:
                before = [each.event for each in ops[: op.event] if each.kind == "put" and each.key == (key,)]
                assert all(last[event] < last[op.event] for event in before)


@given(
    rows=st.lists(
        st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")), min_size=2, max_size=2),
        min_size=1,
    )
)
def test_a_block_says_of_each_value_what_it_was(rows: list[list[str | None]]) -> None:
    def unescaped(text: str) -> str | None:
        if text == "\\N":
            return None
        named = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}
        parts = iter(text)
        return "".join(named[next(parts)] if character == "\\" else character for character in parts)

    lines = block(rows).decode().split("\n")
    assert lines.pop() == ""
    assert [[unescaped(value) for value in line.split("\t")] for line in lines] == rows
