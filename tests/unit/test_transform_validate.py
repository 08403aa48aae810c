"""Validation as a step: what passes, what becomes of the rest, and which schemas it depends on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transform_parts import build, event, shown

from penstock.errors import ConfigProblem, Fatal, Permanent, Violation
from penstock.event import Event

ORDER = {
    "required": ["Description"],
    "properties": {"UnitPrice": {"$ref": "../shop.price/1.json"}, "Quantity": {"type": "integer"}},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for subject, schema in (("shop.order_line", ORDER), ("shop.price", {"exclusiveMinimum": 0})):
        path = tmp_path / "schemas" / subject / "1.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(schema))
    return tmp_path


GOOD: dict[str, Any] = {"Description": "LANTERN", "UnitPrice": 3.39, "Quantity": 6}


def test_what_fits_passes_as_it_is(project: Path) -> None:
    given = event(GOOD)

    assert build("validate", "shop.order_line@1", project).apply([given]) == [given]
    assert given.raw == json.dumps(GOOD, separators=(",", ":")).encode()


def test_what_does_not_fit_lists_every_violation(project: Path) -> None:
    (result,) = build("validate", "shop.order_line@latest", project).apply([event({"UnitPrice": 0, "Quantity": "six"})])

    assert isinstance(result, Permanent)
    assert (result.code, result.why) == ("validate.failed", "the data does not fit shop.order_line@1")
    assert sorted(result.violations, key=lambda each: each.path) == [
        Violation(".Description", "required", ".Description is missing"),
        Violation(".Quantity", "type", '.Quantity must be an integer (it is "six")'),
        Violation(".UnitPrice", "exclusiveMinimum", ".UnitPrice must be greater than 0 (it is 0)"),
    ]
    assert result.message == "; ".join(violation.message for violation in result.violations)


def test_neighbours_of_an_invalid_event_pass(project: Path) -> None:
    results = build("validate", "shop.order_line", project).apply([event(GOOD), event({}), event(GOOD)])

    assert [shown(result) for result in results] == [GOOD, ("validate.failed", ".Description is missing"), GOOD]


def test_on_invalid_drop_filters_the_event(project: Path) -> None:
    transform = build("validate", {"schema": "shop.order_line@1", "on_invalid": "drop"}, project)

    assert [shown(result) for result in transform.apply([event({}), event(GOOD)])] == [None, GOOD]


def test_on_invalid_stop_is_fatal_and_names_the_event(project: Path) -> None:
    (result,) = build("validate", {"schema": "shop.order_line@1", "on_invalid": "stop"}, project).apply([event({})])

    assert isinstance(result, Fatal)
    assert (result.code, result.message, result.where) == ("validate.failed", ".Description is missing", "event shop e1")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (Event("i", "s", "t", raw=b"{"), "decode.invalid_json"),
        (Event("i", "s", "t", decoded=b"\x00"), "validate.not_json"),
        (Event("i", "s", "t", decoded={1: 2}), "validate.not_json"),
    ],
)
def test_what_is_no_json_is_an_error_of_its_own(project: Path, given: Event, code: str) -> None:
    (result,) = build("validate", "shop.order_line@1", project).apply([given])

    assert isinstance(result, Permanent)
    assert result.code == code


def test_the_version_depends_on_every_schema_that_takes_part(project: Path) -> None:
    schemas = project / "schemas"

    assert build("validate", "shop.order_line", project).version_parts() == {
        "schema:shop.order_line@1": (schemas / "shop.order_line" / "1.json").read_text(),
        "schema:shop.price@1": (schemas / "shop.price" / "1.json").read_text(),
    }


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ("shop.order_lin@1", "registry.unknown_subject"),
        ("shop.order_line@2", "registry.unknown_version"),
        ("../x", "registry.invalid_ref"),
    ],
)
def test_an_unknown_schema_is_a_configuration_error(project: Path, schema: str, code: str) -> None:
    with pytest.raises(ConfigProblem) as caught:
        build("validate", schema, project)

    assert caught.value.code == code
