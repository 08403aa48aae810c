from __future__ import annotations

import pickle

import pytest
from pydantic import Field, ValidationError

from penstock.config.base import ComponentConfig, Duration, Rate, Secret, Size
from penstock.config.units import parse_duration, parse_rate, parse_size


class Config(ComponentConfig):
    wait: Duration = 5.0
    room: Size = 1 << 20
    rate: Rate | None = None
    token: Secret | None = None
    tags: tuple[str, ...] = ()
    count: int = 1
    schema_: str = Field("x", alias="schema")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("24h", 86400), ("7d", 604800), ("1h30m", 5400), ("1.5s", 1.5), ("0", 0), (0, 0)],
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("512B", 512), ("64KiB", 65536), ("10MiB", 10 << 20), ("1.5GiB", 3 << 29), (7, 7)])
def test_sizes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(("text", "rate"), [("5000/s", 5000), ("120/m", 2), ("3600/h", 1), ("0.5/s", 0.5)])
def test_rates(text: object, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("parse", "value", "message"),
    [
        (parse_duration, 30, "write '30s'"),
        (parse_duration, "30", "such as 500ms"),
        (parse_duration, "5 minutes", "such as 500ms"),
        (parse_duration, "-1s", "such as 500ms"),
        (parse_duration, True, "such as 500ms"),
        (parse_duration, "9" * 400 + "d", "too large"),
        (parse_size, "10MB", "write '10MiB'"),
        (parse_size, -1, "such as 512B"),
        (parse_size, True, "such as 512B"),
        (parse_rate, 5000, "write '5000/s'"),
        (parse_rate, "0/s", "above zero"),
        (parse_rate, "5000", "such as 5000/s"),
    ],
)
def test_a_value_without_a_clear_unit_is_refused(parse: object, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(value)  # type: ignore[operator]  # one of three functions


def test_a_secret_shows_itself_nowhere() -> None:
    config = Config.model_validate_json('{"token": "hunter2"}')
    shown = [
        repr(config),
        str(config),
        config.model_dump_json(),
        str(config.model_dump()),
        f"{config.token}",
        f"{config.token!r:>20}",
    ]
    assert not [text for text in shown if "hunter2" in text]
    assert config.token is not None
    assert config.token.reveal() == "hunter2"


def test_a_refused_secret_is_not_in_the_error() -> None:
    with pytest.raises(ValidationError) as caught:
        Config.model_validate_json('{"token": ["hunter2"], "count": "hunter2"}')
    assert "hunter2" not in str(caught.value)


def test_secrets_compare_by_value_and_survive_a_worker() -> None:
    assert Secret("a") == pickle.loads(pickle.dumps(Secret("a")))
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert (bool(Secret("")), len({Secret("a"), Secret("a")})) == (False, 1)


def test_types_are_strict_but_lists_fill_tuples() -> None:
    assert Config.model_validate_json('{"tags": ["a"], "schema": "s@1"}') == Config(tags=("a",), schema_="s@1")
    with pytest.raises(ValidationError) as caught:
        Config.model_validate_json('{"count": "5", "tags": "a", "colour": 1}')
    assert [(error["loc"], error["type"]) for error in caught.value.errors()] == [
        (("tags",), "tuple_type"),
        (("count",), "int_type"),
        (("colour",), "extra_forbidden"),
    ]


def test_values_are_written_as_people_write_them() -> None:
    config = Config.model_validate_json('{"wait": "90s", "room": "1024KiB", "rate": "5000/s", "token": "t"}')
    assert config.model_dump(mode="json", by_alias=True, exclude_defaults=True) == {
        "wait": "90s",
        "rate": "5000/s",
        "token": "***",
    }
