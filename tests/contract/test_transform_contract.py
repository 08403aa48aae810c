"""What every transform promises the engine (`penstock.spi.Transform`), whichever it is."""

from __future__ import annotations

import inspect
import json
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import BaseModel

from penstock.builtins import TRANSFORMS, load
from penstock.clock import SystemClock
from penstock.errors import ComponentError
from penstock.event import Event
from penstock.faults import Faults
from penstock.spi import Context, Result
from transforms.expressions import compiler

CONFIGS: dict[str, Any] = {
    "jq": {"program": "{n: (.n + 0)}"},
    "filter": {"condition": ".n + 0 >= 0"},
    "set": {"subject": '.n + 0 | "s-\\(.)"', "tenant": "t"},
    "split": {"path": "[.n + 0, 1]"},
    "validate": {"schema": "number@1"},
    "redact": {"fields": [".n.secret", ".other"]},
    "python": {"call": "contract_steps:step"},
}
"""Each works for `{"n": number}` (redact: for null) and fails for `{"n": "text"}`."""


@pytest.fixture
def context(tmp_path: Path) -> Context:
    (tmp_path / "schemas" / "number").mkdir(parents=True)
    (tmp_path / "schemas" / "number" / "1.json").write_text(json.dumps({"properties": {"n": {"type": "number"}}}))
    (tmp_path / "contract_steps.py").write_text("def step(data):\n    return {'n': data['n'] + 0}\n")
    return Context("shop", "step", tmp_path, tmp_path, compiler(), SystemClock(), random.Random(1), Faults())


def build(kind: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(context.project))
    monkeypatch.delitem(__import__("sys").modules, "contract_steps", raising=False)
    component = load(TRANSFORMS[kind])
    return component(component.Config.model_validate_json(msgspec.json.encode(CONFIGS[kind])), context)


def good(kind: str, place: int) -> Event:
    data = {"n": None if kind == "redact" else place, "other": "x"}
    return Event(f"e{place}", "s", "t", decoded=data, origin=place, position=b"%d" % place)


def bad(place: int) -> Event:
    return Event(f"e{place}", "s", "t", decoded={"n": "text"}, origin=place)


def outputs(result: Result) -> list[Event]:
    assert not isinstance(result, ComponentError), result.render()
    return [result] if isinstance(result, Event) else result or []


def test_every_built_in_transform_is_held_to_the_contract() -> None:
    assert sorted(CONFIGS) == sorted(TRANSFORMS)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_a_transform_describes_itself_and_all_its_fields(kind: str) -> None:
    component = load(TRANSFORMS[kind])

    assert component.name == kind
    assert inspect.getdoc(component)
    assert issubclass(component.Config, BaseModel)
    assert all(field.description for field in component.Config.model_fields.values())
    assert component.Config.model_json_schema()["type"] == "object"


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_each_event_has_its_result_in_order_and_keeps_its_origin(
    kind: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    transform = build(kind, context, monkeypatch)
    events = [good(kind, place) for place in range(20)]

    results = transform.apply(events)

    assert len(results) == len(events)
    for place, result in enumerate(results):
        made = outputs(result)
        assert made
        assert {(each.origin, each.position, each.id) for each in made} == {(place, b"%d" % place, f"e{place}")}
        assert all(each.json() for each in made)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_an_event_that_fails_costs_only_itself(kind: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = build(kind, context, monkeypatch)

    results = transform.apply([good(kind, 0), bad(1), good(kind, 2)])

    assert isinstance(results[1], ComponentError)
    assert results[1].code
    assert results[1].message
    assert outputs(results[0])
    assert outputs(results[2])


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_data_that_is_no_json_fails_and_nothing_is_raised(kind: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = build(kind, context, monkeypatch)

    results = transform.apply([Event("e", "s", "t", raw=b"{")])

    assert [type(result).__mro__[1].__name__ for result in results] == ["ComponentError"]
    assert results[0].code.startswith("decode.")


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_no_events_give_no_results(kind: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build(kind, context, monkeypatch).apply([]) == []


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_the_same_event_gives_the_same_result_again(kind: str, context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    transform = build(kind, context, monkeypatch)

    first, second = ([each.json() for each in outputs(transform.apply([good(kind, 5)])[0])] for _ in range(2))

    assert first == second
