from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from penstock.config.document import Document
from penstock.config.interpolate import Interpolator
from penstock.errors import ConfigProblem, Location

TEXTS = st.text(st.characters(codec="utf-8"), max_size=40) | st.text("${}:aA\\'\"\n", max_size=20)
VALUES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


@given(TEXTS)
def test_every_text_can_be_escaped(text: str) -> None:
    assert Interpolator({}, Path())(text.replace("${", "$${")) == (text, [], [])


@given(TEXTS, VALUES)
def test_a_variable_is_put_in_as_it_is(text: str, value: str) -> None:
    before, after = text.replace("${", "").rstrip("$"), text.replace("${", "")
    assert Interpolator({"A": value}, Path())(f"{before}${{A}}{after}") == (before + value + after, [value], ["A"])


@given(VALUES.filter(lambda value: len(value) >= 4))
def test_no_form_of_a_value_is_left_in_a_problem(value: str) -> None:
    document = Document("p.yaml", foreign={("source",): [value]})
    shown = f"'{value}' {value!r} {value}"
    problem = ConfigProblem("x", shown, where=Location("p.yaml", 1, 1, f"source.{value}"), why=shown, help=shown)
    document.conceal(problem)
    assert problem.render() == (
        "error[x]: '***' '***' *** at source.***\n  --> p.yaml:1:1\n  why: '***' '***' ***\n  help: '***' '***' ***"
        .replace("'***' '***'", f"'***' {repr(value)[0]}***{repr(value)[0]}")
    )  # fmt: skip
