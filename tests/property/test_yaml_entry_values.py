"""Whatever JSON value goes into a YAML file as an entry is what a reader finds there; no reference to a variable comes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.config.interpolate import Interpolator
from penstock.config.yaml import parse_yaml
from penstock.config.yaml_entry import with_entry

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "no",
        "1e3",
        "0x10",
        "~",
        "",
        " a",
        "a: b",
        "- a",
        "a #b",
        "${HOME}",
        "$${x}",
        "\ufeff",
        "\x85",
        "1_0",
        ".5",
        "=",
        "<<",
        "!t",
        "&a",
    ]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS.filter(lambda t: t != "<<"), inner, max_size=4)
)
FILES = st.sampled_from(
    ["a: 1\n", "tests:\n  - name: x\n\n  - name: y\nb: 2\n", "tests: [{ name: x }]\n", "tests:\n- name: x # c\n"]
)


def read(node: Any) -> Any:
    """As a pipeline's loader does: references replaced."""
    if isinstance(node, str):
        return Interpolator({}, Path())(node).text
    if isinstance(node, dict):
        return {name: read(inner) for name, inner in node.items()}
    return [read(inner) for inner in node] if isinstance(node, list) else node


@settings(deadline=None)
@given(VALUES, TEXTS, FILES)
def test_an_entry_is_read_as_it_was_given(value: Any, name: str, text: str) -> None:
    entry = {"name": name, "input": {"data": value}}
    made = parse_yaml(with_entry(text, "tests", entry, "a.yaml"), "a").plain()
    found = made["tests"][-1]
    assert json.dumps(read(found["name"])) == json.dumps(name)
    assert json.dumps(read(found["input"]["data"])) == json.dumps(value)
    before = parse_yaml(text, "a").plain() or {}
    assert {**made, "tests": made["tests"][:-1]} == {**before, "tests": before.get("tests", [])}
