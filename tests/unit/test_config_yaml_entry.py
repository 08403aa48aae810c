"""An entry is added to a list of a YAML file, and not a byte of the rest changes."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.config.yaml import parse_yaml
from penstock.config.yaml_entry import with_entry
from penstock.errors import UsageError

ENTRY: dict[str, Any] = {
    "name": "dead letter: ${HOME} # not",
    "input": {
        "data": {"n": 1, "f": 1.5, "t": "no", "u": "12", "x": "a\nb\u2028\x00", "e": {}, "l": [], "none": None, "ok": True}
    },
    "output": [{"type": "a.b", "data": {"long": ["x" * 60, "y" * 60]}}, {}],
}
READ = {**ENTRY, "name": "dead letter: $${HOME} # not"}
"""As YAML says it: `${` is escaped, for references are looked for in it."""

FILES = {
    "no list": "pipeline: a # one\nsink: drop\n",
    "no end of line": "pipeline: a",
    "a block": "x: a\ntests:\n  - name: b   # first\n    input: {}\n\n  # about it\n  - name: c\n    input: |\n      text\n",
    "a block in between": "tests:\n- name: b\n  input: 'x'\n# the sink\nsink: drop\n",
    "deeper": "tests:\n      - name: b\n\n\nsink: drop\n",
    "empty": "tests: []  # none yet\nsink: drop\n",
    "null": "tests:\nsink: drop\n",
    "tilde": "tests: ~\n",
    "flow": "tests: [{ name: b }]\nsink: drop\n",
    "flow over lines": "tests: [\n  { name: b },  # one\n  { name: c },\n] # end\nsink: drop\n",
    "windows": "pipeline: a\r\ntests:\r\n  - name: b\r\nsink: drop\r\n",
    "quoted key": '"tests":\n  - name: b\n',
    "document end": "tests:\n  - name: b\n...\n",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_the_rest_of_the_file_stays_as_it_is(text: str) -> None:
    made = with_entry(text, "tests", ENTRY, "a.yaml")
    before, after = parse_yaml(text, "a").plain(), parse_yaml(made, "a").plain()
    assert after == {**before, "tests": [*(before.get("tests") or []), READ]}
    kept = iter(made.replace("tests: ~", "tests:").split("\n"))
    for line in text.split("\n"):
        wanted = line.replace("tests: []  #", "tests: #").replace("tests: ~", "tests:")
        if wanted and "[{" not in wanted and not wanted.startswith("]"):
            assert any(found == wanted for found in kept), wanted
    assert ("\r\n" in made) == ("\r\n" in text)
    assert made.count("\n") == made.count("\r\n") or "\r" not in made


def test_adding_again_follows_the_format_of_what_is_there() -> None:
    text = with_entry("pipeline: a\n", "tests", {"name": "one", "output": []}, "a.yaml")
    assert text == "pipeline: a\n\ntests:\n  - name: one\n    output: []\n"
    assert with_entry(text, "tests", {"name": "two"}, "a.yaml") == text + "  - name: two\n"


@pytest.mark.parametrize("text", ["x: &a [1]\ntests: *a\n", "tests: text\n", "- a\n", "tests: {}\n", "{ tests: [1], sink: x }\n"])
def test_what_cannot_be_added_to_is_refused_with_the_entry(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        with_entry(text, "tests", {"name": "one"}, "a.yaml")
    assert caught.value.code == "dlq.cannot_insert"
    assert str(caught.value.help).endswith("tests:\n  - name: one")
