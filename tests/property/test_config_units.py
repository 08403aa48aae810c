from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from penstock.config.units import format_duration, format_rate, format_size, parse_duration, parse_rate, parse_size
from penstock.config.yaml import parse_yaml
from penstock.errors import ConfigurationError

KEYS = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), min_size=1, max_size=8)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | KEYS
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)


@given(st.integers(0, 2**40) | st.floats(0, 1e9))
def test_a_duration_survives_being_written(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == seconds


@given(st.integers(0, 2**50))
def test_a_size_survives_being_written(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.floats(1e-6, 1e9))
def test_a_rate_survives_being_written(rate: float) -> None:
    assert parse_rate(format_rate(rate)) == rate


@given(DOCUMENTS)
def test_json_is_read_as_it_is_written(document: object) -> None:
    assert parse_yaml(json.dumps(document, ensure_ascii=False), "p.yaml").plain() == document


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    problems = []
    try:
        parse_yaml(text, "p.yaml").plain()
    except ConfigurationError as error:
        problems = error.problems
    assert all(problem.code.startswith("config.") and "p.yaml" in problem.render() for problem in problems)
