"""A user's function as a step: how it is found, called, and what its mistakes become."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from transform_parts import build, event, shown

from penstock.errors import ConfigProblem, Fatal, Permanent, Transient
from penstock.event import Event
from penstock.spi import Keyed, Result

STEPS = """
import asyncio, datetime, decimal
from penstock.errors import Fatal, Permanent, Transient

def add(data): return {**data, "b": data["a"] + 1}
def nothing(data): return None
def several(data): return [data, None and 0, data["a"]]
def empty(data): return []
def with_event(data, event): return {"type": event.type, "a": data["a"]}
def with_optional(data, event=None, factor=2): return [event.id, data["a"] * factor]
def with_default(data, factor=2): return data["a"] * factor
def any_arguments(*args, **kwargs): return [len(args), sorted(kwargs)]
async def later(data): await asyncio.sleep(0); return {"later": data["a"]}
def coroutine(data): return later(data)
def mutate(data): data["a"] = 99; data.setdefault("l", []).append(1); return {"ok": True}

def fails(data):
    if data["a"] == 2:
        raise ValueError("no twos")
    return data

def nests(data):
    return fails(data)

def leaves(data): raise SystemExit(3)
def permanent(data): raise Permanent("shop.bad", "bad", why="so")
def transient(data): raise Transient("shop.busy", "busy")
def fatal(data): raise Fatal("shop.stop", "stop")
def unknown(data): return {"x": object()}
def nan(data): return {"x": float("nan")}
def big(data): return {"x": 2 ** 70, "y": "a\\0b"}
def date(data): return {"at": datetime.date(2010, 12, 1), "d": decimal.Decimal("1.50")}
def long(data): raise ValueError("x" * 1000)

calls = []
def double(data):
    calls.append(len(data))
    return [None if each["a"] == 3 else {"a": 2 * each["a"]} for each in data]
def batch_events(data, events): return [each.id for each in events]
def batch_fails(data):
    calls.append(len(data))
    for each in data:
        each["seen"] = True
    if any(each["a"] == 2 for each in data): raise KeyError("two")
    return data
async def batch_later(data):
    if any(each["a"] == 2 for each in data): raise KeyError("two")
    return [each["a"] for each in data]
def batch_short(data): return data[:1]
def batch_transient(data): calls.append(len(data)); raise Transient("shop.busy", "busy")
def batch_bad_one(data): return [object() if each["a"] == 2 else each["a"] for each in data]
def with_key(data, *, idempotency_key): return [data["a"], idempotency_key]
def with_key_and_event(data, event, idempotency_key="none"): return [event.id, idempotency_key]
async def later_with_key(data, idempotency_key): return [data["a"], idempotency_key]
def batch_keys(data, idempotency_keys):
    if len(data) > 1: raise ValueError("one by one")
    return [[data[0]["a"], idempotency_keys[0]]]
async def batch_keys_later(data, events, *, idempotency_keys):
    return [[event.id, key] for event, key in zip(events, idempotency_keys)]
def no_arguments(): return 1
def two_arguments(data, other): return 1
not_a_function = 3
class Grader:
    def __call__(self, data): return {"graded": data["a"]}
    def method(self, data): return "m"
grader = Grader()
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    before = list(sys.path)
    package = tmp_path / "shop_under_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "steps.py").write_text(STEPS)
    (package / "broken.py").write_text("import nothing_of_that_name\n")
    yield tmp_path
    sys.path[:] = before
    for name in [name for name in sys.modules if name.startswith("shop_under_test")]:
        del sys.modules[name]


async def results(project: Path, function: str, events: Sequence[Event], *, batch: bool = False) -> list[Result]:
    transform = build("python", {"call": f"shop_under_test.steps:{function}", "batch": batch}, project)
    made = transform.apply(events)
    return list(await made) if inspect.isawaitable(made) else made


async def run(project: Path, function: str, *values: Any, batch: bool = False) -> list[Any]:
    return [shown(each) for each in await results(project, function, [event({"a": value}) for value in values], batch=batch)]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("add", {"a": 1, "b": 2}),
        ("nothing", None),
        ("several", [{"a": 1}, None, 1]),
        ("empty", None),
        ("with_event", {"type": "order.line", "a": 1}),
        ("with_optional", ["e1", 2]),
        ("with_default", 2),
        ("any_arguments", [1, []]),
        ("later", {"later": 1}),
        ("grader", {"graded": 1}),
        ("grader.method", "m"),
        ("big", {"x": 2**70, "y": "a\0b"}),
        ("date", {"at": "2010-12-01", "d": "1.50"}),
    ],
)
async def test_data_in_and_data_out(project: Path, function: str, expected: Any) -> None:
    assert await run(project, function, 1) == [expected]


@pytest.mark.parametrize(
    ("function", "batch", "keyed", "plain"),
    [
        ("with_key", False, [[1, "k1"], [2, "k2"]], [[1, None], [2, None]]),
        ("with_key_and_event", False, [["e1", "k1"], ["e1", "k2"]], [["e1", None], ["e1", None]]),
        ("later_with_key", False, [[1, "k1"], [2, "k2"]], [[1, None], [2, None]]),
        ("batch_keys", True, [[1, "k1"], [2, "k2"]], [[1, None], [2, None]]),
        ("batch_keys_later", True, [["e1", "k1"], ["e1", "k2"]], [["e1", None], ["e1", None]]),
        ("add", False, [{"a": 1, "b": 2}, {"a": 2, "b": 3}], [{"a": 1, "b": 2}, {"a": 2, "b": 3}]),
    ],
)
async def test_a_function_that_asks_for_the_idempotency_key_is_given_it(
    project: Path, function: str, batch: bool, keyed: list[Any], plain: list[Any]
) -> None:
    transform = build("python", {"call": f"shop_under_test.steps:{function}", "batch": batch}, project)
    assert isinstance(transform, Keyed)
    events = [event({"a": value}) for value in (1, 2)]
    made = transform.apply_keyed(events, ["k1", "k2"])
    assert [shown(each) for each in (await made if inspect.isawaitable(made) else made)] == keyed
    assert [shown(each) for each in await results(project, function, events, batch=batch)] == plain


async def test_the_envelope_stays_and_the_old_text_goes(project: Path) -> None:
    (made,) = await results(project, "add", [event({"a": 1}, origin=4, position=b"p")])

    assert isinstance(made, Event)
    assert (made.json(), made.id, made.origin, made.position) == (b'{"a":1,"b":2}', "e1", 4, b"p")


async def test_an_exception_costs_only_its_event_and_names_its_place(project: Path) -> None:
    made = await results(project, "nests", [event({"a": n}) for n in (1, 2, 3)])

    assert [shown(each) for each in made] == [{"a": 1}, ("python.raised", "ValueError: no twos"), {"a": 3}]
    assert isinstance(made[1], Permanent)
    line = STEPS.splitlines().index('        raise ValueError("no twos")') + 1
    assert made[1].why == f"raised at shop_under_test/steps.py:{line} in fails"


async def test_a_long_exception_is_shortened_and_leaving_is_an_exception_too(project: Path) -> None:
    ((_, message),) = await run(project, "long", 1)

    assert (len(message), message[-1]) == (500, "…")
    assert await run(project, "leaves", 1) == [("python.raised", "SystemExit: 3")]


@pytest.mark.parametrize(("function", "kind"), [("permanent", Permanent), ("transient", Transient), ("fatal", Fatal)])
async def test_an_error_of_ours_passes_as_it_is(project: Path, function: str, kind: type) -> None:
    (made,) = await results(project, function, [event({"a": 1})])

    assert type(made) is kind
    assert made.code.startswith("shop.")  # type: ignore[union-attr]  # an error, as the line above says


@pytest.mark.parametrize("function", ["unknown", "nan", "coroutine"])
async def test_what_is_no_json_is_a_bad_result(project: Path, function: str) -> None:
    ((code, message),) = await run(project, function, 1)

    assert (code, message.startswith(f"shop_under_test.steps:{function} returned ")) == ("python.bad_result", True)


@pytest.mark.parametrize("with_steps", [False, True])
async def test_a_function_may_change_what_it_is_given(project: Path, with_steps: bool) -> None:
    data = {"a": 1, "l": [0]}
    given = Event("i", "s", "t", decoded=data, steps={"earlier": data} if with_steps else None)

    (made,) = await results(project, "mutate", [given])

    assert shown(made) == {"ok": True}
    assert given.data == {"a": 1, "l": [0]}
    assert given.json() == b'{"a":1,"l":[0]}'
    if with_steps:
        assert given.steps == {"earlier": {"a": 1, "l": [0]}}


async def test_data_that_cannot_be_decoded_is_its_own_error(project: Path) -> None:
    for function, batch in (("add", False), ("double", True), ("later", False)):
        made = await results(project, function, [Event("i", "s", "t", raw=b"{")], batch=batch)
        assert [shown(each)[0] for each in made] == ["decode.invalid_json"]


async def test_a_batch_is_one_call_with_a_result_for_each(project: Path) -> None:
    assert await run(project, "double", 1, 2, 3, batch=True) == [{"a": 2}, {"a": 4}, None]
    assert await run(project, "batch_events", 1, 2, batch=True) == ["e1", "e1"]
    assert calls() == [3]


async def test_a_batch_that_raises_is_tried_one_by_one_with_unchanged_data(project: Path) -> None:
    assert await run(project, "batch_fails", 1, 2, 3, batch=True) == [
        {"a": 1, "seen": True},
        ("python.raised", "KeyError: 'two'"),
        {"a": 3, "seen": True},
    ]
    assert calls() == [3, 1, 1, 1]


async def test_an_async_batch_that_raises_is_tried_one_by_one(project: Path) -> None:
    assert await run(project, "batch_later", 1, 2, 3, batch=True) == [1, ("python.raised", "KeyError: 'two'"), 3]


async def test_a_batch_of_the_wrong_length_is_a_bad_result(project: Path) -> None:
    assert await run(project, "batch_short", 1, 2, batch=True) == [{"a": 1}, {"a": 2}]
    ((code, message),) = await run(project, "grader.method", 1, batch=True)
    assert (code, "returned str for a batch of 1" in message) == ("python.bad_result", True)


async def test_a_transient_error_of_a_batch_holds_for_all_of_it(project: Path) -> None:
    assert await run(project, "batch_transient", 1, 2, batch=True) == [("shop.busy", "busy")] * 2
    assert calls() == [2]


async def test_one_bad_result_of_a_batch_costs_only_its_event(project: Path) -> None:
    assert [each if isinstance(each, int) else each[0] for each in await run(project, "batch_bad_one", 1, 2, 3, batch=True)] == [
        1,
        "python.bad_result",
        3,
    ]


def calls() -> list[int]:
    return list(sys.modules["shop_under_test.steps"].calls)


@pytest.mark.parametrize(
    ("call", "code", "text"),
    [
        ("shop_under_test.nowhere:f", "python.import_failed", "ModuleNotFoundError"),
        ("shop_under_test.broken:f", "python.import_failed", "nothing_of_that_name"),
        ("transforms.my_steps:f", "python.import_failed", "belongs to Penstock"),
        ("shop_under_test.steps:none", "python.not_found", "has no function 'none'"),
        ("shop_under_test.steps:not_a_function", "python.not_found", "has no function"),
        ("shop_under_test.steps:no_arguments", "python.bad_signature", "takes nothing"),
        ("shop_under_test.steps:two_arguments", "python.bad_signature", "takes data, other"),
    ],
)
def test_what_is_no_function_of_data_is_a_configuration_error(project: Path, call: str, code: str, text: str) -> None:
    with pytest.raises(ConfigProblem) as caught:
        build("python", call, project)

    assert caught.value.code == code
    assert text in caught.value.render()


@pytest.mark.parametrize("call", ["shop", "shop:", ":f", "shop.steps.f", "shop:f()", "../shop:f", "shop:f\n"])
def test_a_call_names_a_module_and_a_function(call: str) -> None:
    with pytest.raises(ValidationError):
        build("python", call)


def test_the_project_is_looked_in_last(project: Path) -> None:
    (project / "transforms").mkdir()
    (project / "transforms" / "__init__.py").write_text("raise RuntimeError('shadowed')\n")

    build("python", "shop_under_test.steps:add", project)

    assert sys.path[-1] == str(project.resolve())


def test_the_version_depends_on_the_modules_source(project: Path) -> None:
    parts = build("python", "shop_under_test.steps:add", project).version_parts()

    assert parts == {"python:shop_under_test.steps:add": hashlib.sha256(STEPS.encode()).hexdigest()}
