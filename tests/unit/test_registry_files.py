"""Subjects, versions, references between schemas, and what is wrong with a directory of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import ConfigProblem, Location
from registry.files import FileRegistry, Ref


@pytest.fixture
def registry(tmp_path: Path) -> FileRegistry:
    return FileRegistry(tmp_path / "schemas")


def add(registry: FileRegistry, ref: str, schema: Any) -> Path:
    subject, _, version = ref.partition("@")
    path = registry.directory / subject / f"{version}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(schema if isinstance(schema, str) else json.dumps(schema))
    return path


def refusal(registry: FileRegistry, ref: str) -> ConfigProblem:
    with pytest.raises(ConfigProblem) as caught:
        registry.validator(registry.resolve(ref))
    return caught.value


def test_subjects_and_versions_are_listed_in_order(registry: FileRegistry) -> None:
    for ref in ("shop.order@10", "shop.order@9", "a-b_c@1"):
        add(registry, ref, {})

    assert registry.subjects() == ["a-b_c", "shop.order"]
    assert registry.versions("shop.order") == [9, 10]
    assert registry.versions("nothing") == []


def test_without_the_directory_there_are_no_subjects(registry: FileRegistry) -> None:
    assert (registry.subjects(), registry.check()) == ([], [])


@pytest.mark.parametrize(
    ("text", "version"), [("shop.order@2", 2), ("shop.order@10", 10), ("shop.order@latest", 10), ("shop.order", 10)]
)
def test_a_reference_names_a_version_or_the_latest(registry: FileRegistry, text: str, version: int) -> None:
    for each in (2, 10):
        add(registry, f"shop.order@{each}", {})

    assert registry.resolve(text) == Ref("shop.order", version)


@pytest.mark.parametrize(
    ("text", "code", "help"),
    [
        ("shop.ordr@1", "registry.unknown_subject", "did you mean 'shop.order'?"),
        ("shop.order@3", "registry.unknown_version", "there are: shop.order@1, shop.order@2"),
        ("shop.order@01", "registry.unknown_version", "there are: shop.order@1, shop.order@2"),
        ("shop.order@", "registry.unknown_version", "there are: shop.order@1, shop.order@2"),
    ],
)
def test_a_reference_to_nothing_says_what_there_is(registry: FileRegistry, text: str, code: str, help: str) -> None:
    for each in (1, 2):
        add(registry, f"shop.order@{each}", {})

    error = refusal(registry, text)

    assert (error.code, error.help) == (code, help)


@pytest.mark.parametrize("text", ["../secret@1", "..", "shop/order@1", "/etc@1", "", "Shop@1", "a\n@1", "shop.order@1@1"])
def test_no_reference_leaves_the_directory(registry: FileRegistry, tmp_path: Path, text: str) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "1.json").write_text("{}")
    add(registry, "shop.order@1", {})

    assert refusal(registry, text).code in ("registry.invalid_ref", "registry.unknown_version")
    with pytest.raises(ConfigProblem, match="names no schema"):
        registry.text(Ref("../secret", 1))


@pytest.mark.parametrize("target", ["registry:///shop.price/1.json", "../shop.price/1.json"])
def test_a_schema_refers_to_others_of_the_registry(registry: FileRegistry, target: str) -> None:
    add(registry, "shop.price@1", {"$defs": {"amount": {"exclusiveMinimum": 0}}, "$ref": "2.json"})
    add(registry, "shop.price@2", {"type": "number"})
    add(registry, "shop.order@1", {"properties": {"a": {"$ref": target}, "b": {"$ref": f"{target}#/$defs/amount"}}})
    validator = registry.validator(Ref("shop.order", 1))

    assert validator.is_valid({"a": 1, "b": 1})
    assert not validator.is_valid({"a": "1"})
    assert not validator.is_valid({"b": 0})
    assert validator.references == ("shop.price@1", "shop.price@2")
    assert registry.texts(Ref("shop.order", 1)) == {
        f"shop.{name}": registry.text(Ref(f"shop.{name[:-2]}", int(name[-1]))) for name in ("order@1", "price@1", "price@2")
    }


def test_schemas_may_refer_to_each_other_in_a_circle(registry: FileRegistry) -> None:
    add(registry, "tree@1", {"properties": {"left": {"$ref": "registry:///leaf/1.json"}, "right": {"$ref": "#"}}})
    add(registry, "leaf@1", {"type": "object", "properties": {"up": {"$ref": "registry:///tree/1.json"}}})

    validator = registry.validator(Ref("tree", 1))

    assert validator.is_valid({"left": {"up": {"right": {}}}})
    assert not validator.is_valid({"right": {"left": {"up": {"left": 1}}}})


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("https://example.com/schema.json", "registry.foreign_ref"),
        ("file:///etc/passwd", "registry.foreign_ref"),
        ("registry:shop.price/1", "registry.foreign_ref"),
        ("registry:///shop.prices/1.json", "registry.unknown_subject"),
        ("registry:///shop.price/2.json", "registry.unknown_version"),
        ("../../secret/1.json", "registry.foreign_ref"),
    ],
)
def test_a_reference_to_anywhere_else_is_refused(registry: FileRegistry, target: str, code: str) -> None:
    add(registry, "shop.price@1", {})
    path = add(registry, "shop.order@1", {"$ref": target})

    error = refusal(registry, "shop.order@1")

    if target.startswith("../../"):
        assert error.code in (code, "registry.unknown_subject")
    else:
        assert error.code == code
    assert error.where == Location(str(path))


@pytest.mark.parametrize(
    ("schema", "path", "line", "column"),
    [
        ('{\n  "type": "string",\n}', "", 3, 1),
        ('{\n  "ü": "\\ud800"}', "", 2, 9),
        ('{\n  "type"', "", 2, 9),
        ('{\n  "ü": tru }', "", 2, 12),
        ({"properties": {"a": {"minimum": "x"}}}, ".properties.a.minimum", 0, 0),
        ({"type": "text"}, ".type", 0, 0),
        ([], "", 0, 0),
        ({"pattern": "("}, ".pattern", 0, 0),
        ({"$schema": "http://example.com/my-draft"}, "", 0, 0),
        ({"$ref": "#/$defs/none"}, "", 0, 0),
        ("[" * 100_000 + "]" * 100_000, "", 0, 0),
        ("", "", 0, 0),
    ],
)
def test_an_invalid_schema_is_refused_with_its_place(
    registry: FileRegistry, schema: Any, path: str, line: int, column: int
) -> None:
    file = add(registry, "shop.order@1", schema)

    error = refusal(registry, "shop.order@1")

    assert (error.code, error.where) == ("registry.invalid_schema", Location(str(file), line, column, path))
    assert error.why


@pytest.mark.parametrize(
    ("draft", "schema", "good", "bad"),
    [
        ("http://json-schema.org/draft-04/schema#", {"minimum": 0, "exclusiveMinimum": True}, 1, 0),
        ("http://json-schema.org/draft-06/schema#", {"exclusiveMinimum": 0}, 1, 0),
        ("http://json-schema.org/draft-07/schema#", {"if": {"minimum": 5}, "then": {"multipleOf": 2}}, 6, 7),
        ("https://json-schema.org/draft/2019-09/schema", {"unevaluatedProperties": False}, {}, {"a": 1}),
        ("https://json-schema.org/draft/2020-12/schema", {"prefixItems": [{"type": "string"}]}, ["a"], [1]),
        (None, {"prefixItems": [{"type": "string"}]}, ["a"], [1]),
    ],
)
def test_every_draft_is_understood(registry: FileRegistry, draft: str | None, schema: Any, good: Any, bad: Any) -> None:
    add(registry, "a@1", schema if draft is None else {"$schema": draft, **schema})
    validator = registry.validator(Ref("a", 1))

    assert (validator.is_valid(good), validator.is_valid(bad)) == (True, False)


def test_check_finds_everything_that_is_wrong(registry: FileRegistry) -> None:
    add(registry, "good@1", {"type": "string"})
    add(registry, "bad@1", {"type": "text"})
    add(registry, "lost@1", {"$ref": "registry:///nowhere/1.json"})
    add(registry, "good@v2", {})
    add(registry, "Upper@1", {})

    assert [(problem.code, Path(str(problem.where).partition(":")[0]).name) for problem in registry.check()] == [
        ("registry.stray_file", "Upper"),
        ("registry.stray_file", "1.json"),
        ("registry.invalid_schema", "1.json"),
        ("registry.stray_file", "v2.json"),
        ("registry.unknown_subject", "1.json"),
    ]


def test_a_validator_is_compiled_once(registry: FileRegistry) -> None:
    add(registry, "a@1", {})

    assert registry.validator(Ref("a", 1)) is registry.validator(Ref("a", 1))


def test_a_file_that_cannot_be_read_is_named(registry: FileRegistry) -> None:
    path = add(registry, "a@1", {})
    path.unlink()
    path.mkdir()

    with pytest.raises(ConfigProblem) as caught:
        registry.text(Ref("a", 1))

    assert (caught.value.code, caught.value.where) == ("registry.unreadable", Location(str(path)))
