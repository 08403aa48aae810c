from __future__ import annotations

from pathlib import Path

import pytest

from penstock.config import yaml
from penstock.config.scalars import resolve
from penstock.config.yaml import MAX_ALIASES, MAX_BYTES, MAX_DEPTH, parse_yaml, read_yaml
from penstock.errors import ConfigurationError, Location


def refused(text: str) -> list[tuple[str, str]]:
    with pytest.raises(ConfigurationError) as caught:
        parse_yaml(text, "p.yaml")
    return [(problem.code, str(problem.where)) for problem in caught.value.problems]


def test_scalars_follow_yaml_1_2() -> None:
    text = (
        "[no, yes, on, true, False, null, ~, 010, 0o10, 0x1F, -3, 1_000, 1.5, 1e3, '5', 2026-11-01, 12:30, 1152921504606846977]"
    )
    assert parse_yaml(text, "p.yaml").plain() == [
        *("no", "yes", "on", True, False, None, None, 10, 8, 31, -3, "1_000", 1.5, 1000.0),
        *("5", "2026-11-01", "12:30", 1152921504606846977),
    ]  # fmt: skip


def test_a_version_directive_changes_no_scalar() -> None:
    assert parse_yaml("%YAML 1.1\n---\na: yes\n", "p.yaml").plain() == {"a": "yes"}


def test_an_empty_document_is_null() -> None:
    assert parse_yaml("# nothing\n", "p.yaml").plain() is None


def test_every_key_and_value_knows_its_place() -> None:
    root = parse_yaml("a: 1\nb:\n  - x\n  - c: |\n      .data\n", "p.yaml")
    step = root.value["b"].value[1]
    assert root.keys == {"a": (1, 1), "b": (2, 1)}
    assert root.value["a"].at("a") == Location("p.yaml", 1, 4, "a")
    assert root.at("b", key="b") == Location("p.yaml", 2, 1, "b")
    assert (step.keys["c"], step.value["c"].mark, step.value["c"].style) == ((4, 5), (4, 8), "literal")
    assert [path for path, _ in root.walk()] == ["", "a", "b", "b[0]", "b[1]", "b[1].c"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\nb: 2\na: 3\n", [("config.duplicate_key", "p.yaml:3:1")]),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", [("config.merge_key", "p.yaml:3:3")]),
        ("a: !!int '1'\nb: !own x\n", [("config.tag", "p.yaml:1:4"), ("config.tag", "p.yaml:2:4")]),
        ("a: 1\n---\nb: 2\n", [("config.many_documents", "p.yaml:2:1")]),
        ("a: *gone\n", [("config.unknown_alias", "p.yaml:1:4")]),
        ("a: &self [*self]\n", [("config.unknown_alias", "p.yaml:1:11")]),
        ("a: .inf\nb: -.inf\nc: .nan\nd: 1e400\n", [("config.number_out_of_range", f"p.yaml:{n}:4") for n in (1, 2, 3, 4)]),
        ("? [a]\n: b\n", [("config.key_not_text", "p.yaml:1:3")]),
        ("a: b: c\n", [("config.yaml", "p.yaml:1:5")]),
        ("a:\n\tb: 1\n", [("config.yaml", "p.yaml:2:1")]),
        ("a: \x07\n", [("config.yaml", "p.yaml")]),
    ],
)
def test_what_is_refused_names_its_place(text: str, found: list[tuple[str, str]]) -> None:
    assert refused(text) == found


def test_the_place_of_nothing_is_that_of_its_key() -> None:
    root = parse_yaml("a:\nb:\n  c: 1\n", "p.yaml")
    assert (root.value["a"].mark, root.value["b"].mark) == ((1, 1), (3, 3))


def test_a_character_written_as_two_escapes_is_one_and_half_of_it_is_none() -> None:
    assert parse_yaml('a: "\\ud83d\\ude00 é"\n', "p.yaml").plain() == {"a": "😀 é"}
    assert refused('a: "\\ud83d"\n"\\ude00": 1\n') == [("config.not_utf8", "p.yaml:1:4"), ("config.not_utf8", "p.yaml:2:1")]


def test_nesting_is_bounded_through_aliases_too() -> None:
    levels = "".join(f"a{n}: &a{n} {'[' * 30}*a{n - 1}{']' * 30}\n" for n in range(1, 5))
    assert [code for code, _ in refused("a0: &a0 x\n" + levels)] == ["config.too_deep"]


def test_values_are_counted_while_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml, "MAX_NODES", 10)
    assert parse_yaml("[1, 2, 3, 4, 5, 6, 7, 8, 9]", "p.yaml").plain() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert refused("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, {") == [("config.too_large", "p.yaml:1:29")]


def test_nesting_is_bounded_before_it_costs_anything() -> None:
    assert refused("[" * 100_000) == [("config.too_deep", f"p.yaml:1:{MAX_DEPTH + 2}")]


def test_aliases_are_counted() -> None:
    allowed = "a: &a 1\nb: [" + ", ".join(["*a"] * MAX_ALIASES) + "]\n"
    assert parse_yaml(allowed, "p.yaml").plain()["b"] == [1] * MAX_ALIASES
    assert [code for code, _ in refused(allowed.replace("]", ", *a]"))] == ["config.too_many_aliases"]


def test_few_aliases_cannot_expand_without_bound() -> None:
    levels = "".join(f"b{n}: &b{n} [{', '.join([f'*b{n - 1}'] * 10)}]\n" for n in range(1, 7))
    assert [code for code, _ in refused("b0: &b0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + levels)] == ["config.too_large"]


def test_a_file_larger_than_the_limit_is_not_parsed(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(file, shown="p.yaml")
    assert [problem.code for problem in caught.value.problems] == ["config.too_large"]


def test_a_file_that_is_not_utf8_names_the_line(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(file, shown="p.yaml")
    assert [(p.code, str(p.where)) for p in caught.value.problems] == [("config.not_utf8", "p.yaml:2")]


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_yaml(tmp_path / "gone.yaml", shown="gone.yaml")
    assert [p.code for p in caught.value.problems] == ["config.unreadable"]


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(file)[0].plain() == {"a": 1}


def test_a_number_of_absurd_length_is_refused() -> None:
    with pytest.raises(ValueError, match="more than 1,000 digits"):
        resolve("9" * 1001)
    with pytest.raises(ValueError, match="more than 1,000 digits"):
        resolve("0x" + "f" * 1001)
