"""Outputs of two versions, counted and grouped by cause."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from backfill import comparison as module
from backfill.comparison import Cause, Comparison, Made


def output(identity: str = "1", sinks: tuple[str, ...] = ("out",), **data: Any) -> dict[str, Any]:
    return {"id": identity, "source": "s", "type": "t", "data": data, "sinks": dict.fromkeys(sinks, True)}


def delivered(*outputs: dict[str, Any]) -> Made:
    return Made("delivered", outputs)


def counts(comparison: Comparison) -> tuple[int, int, int, int]:
    return comparison.same, comparison.changed, comparison.missing, comparison.extra


def test_equal_outputs_in_other_words_are_identical() -> None:
    comparison = Comparison()
    one = {"id": "1", "data": {"a": 1, "b": [1.0]}, "sinks": {"out": True}}
    comparison.add("e", delivered(one), delivered({"sinks": {"out": True}, "data": {"b": [1], "a": 1.0}, "id": "1"}))
    assert (counts(comparison), comparison.clean) == ((1, 0, 0, 0), True)


def test_outputs_are_paired_by_id_then_in_order() -> None:
    comparison = Comparison()
    before = delivered(output("1-0", n=1), output("1-1", n=2), output("1-2", n=3))
    after = delivered(output("1-2", n=3), output("x", n=1), output("1-1", n=2))
    comparison.add("e", before, after)
    assert counts(comparison) == (2, 1, 0, 0)
    assert [(cause.path, cause.kind) for cause in comparison.causes()] == [(".id", "changed")]


def test_what_is_made_no_more_and_what_is_made_anew_are_told_apart() -> None:
    comparison = Comparison()
    comparison.add("a", delivered(output()), Made("filtered"))
    comparison.add("b", Made("filtered"), delivered(output(), output("2")))
    assert counts(comparison) == (0, 0, 1, 2)
    assert comparison.outcomes == {"delivered": {"filtered": 1}, "filtered": {"delivered": 1}}
    assert [(cause.path, cause.kind, cause.count) for cause in comparison.causes()] == [
        ("(output)", "added", 2),
        ("(output)", "removed", 1),
    ]
    assert not comparison.clean


def test_another_sink_is_a_difference() -> None:
    comparison = Comparison()
    comparison.add("a", delivered(output(sinks=("x", "y"))), delivered(output(sinks=("x",))))
    assert [(cause.path, cause.kind) for cause in comparison.causes()] == [(".sinks.y", "removed")]


def test_an_event_that_fails_for_another_reason_differs() -> None:
    comparison = Comparison()
    comparison.add("a", Made("dead_lettered", (), "check: validate.failed"), Made("dead_lettered", (), "check: jq.error"))
    comparison.add("b", Made("dead_lettered", (), "check: jq.error"), Made("dead_lettered", (), "check: jq.error"))
    assert [(cause.path, cause.count) for cause in comparison.causes()] == [("(failure)", 1)]
    assert not comparison.clean


def test_ignored_places_do_not_count_with_all_below_them() -> None:
    comparison = Comparison([".data.ts", ".data.meta"])
    comparison.add("a", delivered(output(ts=1, meta={"a": 1}, tsx=1)), delivered(output(ts=2, meta={"a": 2}, tsx=1)))
    assert (counts(comparison), comparison.clean) == ((1, 0, 0, 0), True)
    comparison.add("b", delivered(output(tsx=1)), delivered(output(tsx=2)))
    assert [cause.path for cause in comparison.causes()] == [".data.tsx"]


def test_the_worst_examples_are_kept_beside_the_first() -> None:
    comparison = Comparison()
    for number in range(1, 101):
        comparison.add(f"e{number}", delivered(output(n=1000)), delivered(output(n=1000 + number)))
    (cause,) = comparison.causes()
    assert cause.count == 100
    assert [(each.event, each.before, each.after) for each in cause.examples] == [
        ("e1", "1000", "1001"),
        ("e99", "1000", "1099"),
        ("e100", "1000", "1100"),
    ]


def test_numbers_too_large_for_a_double_are_compared_and_kept_exactly() -> None:
    comparison = Comparison()
    comparison.add("e", delivered(output(n=10**400)), delivered(output(n=10**400 + 1)))
    (cause,) = comparison.causes()
    assert cause.examples[0].after == f"1{'0' * 399}1"


def test_a_long_value_is_cut_in_its_example() -> None:
    comparison = Comparison()
    comparison.add("e", delivered(output(n="a" * 10_000)), delivered(output(n="b")))
    before = comparison.causes()[0].examples[0].before
    assert before is not None
    assert (len(before), before[-1]) == (module.LONGEST_EXAMPLE, "…")


def test_causes_beyond_the_limit_share_one() -> None:
    comparison = Comparison()
    for number in range(module.MOST_CAUSES + 50):
        comparison.add("e", delivered({"id": "1", f"k{number}": 1}), delivered({"id": "1", f"k{number}": 2}))
    assert len(comparison.by_place) == module.MOST_CAUSES + 1
    assert comparison.by_place[f"changed {module.OTHERS}"].count == 50


MADE = st.builds(
    Made,
    st.sampled_from(["delivered", "filtered", "dead_lettered"]),
    st.lists(st.builds(output, st.sampled_from(["1", "2"]), n=st.integers(0, 3)), max_size=2),
    st.sampled_from(["", "a: x"]),
)


@given(st.lists(st.tuples(MADE, MADE), max_size=12), st.integers(0, 12))
def test_parts_put_together_are_the_whole(pairs: list[tuple[Made, Made]], cut: int) -> None:
    whole, first, second = Comparison(), Comparison(), Comparison()
    for number, (before, after) in enumerate(pairs):
        whole.add(str(number), before, after)
        (first if number < cut else second).add(str(number), before, after)
    first.merge(msgspec.json.decode(msgspec.json.encode(second), type=Comparison))
    assert (first.events, counts(first), first.outcomes, first.clean) == (
        whole.events,
        counts(whole),
        whole.outcomes,
        whole.clean,
    )
    assert [summary(cause) for cause in first.causes()] == [summary(cause) for cause in whole.causes()]


def summary(cause: Cause) -> tuple[str, str, int, int]:
    return cause.path, cause.kind, cause.count, len(cause.examples)
