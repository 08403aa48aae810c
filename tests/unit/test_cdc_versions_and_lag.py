"""What needs no server: SQL for versions that are not here, masks, and the lag as its samples give it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from connectors._pg_values import text
from connectors._postgres import TableName
from connectors.sources._cdc import publication, slot
from connectors.sources._cdc.config import PostgresCdcConfig, SlotFields
from connectors.sources._cdc.lag import Lag
from connectors.sources._cdc.mask import MaskPattern, Masks
from connectors.sources._pg_replication import lsn_text
from penstock.config.base import Secret
from penstock.errors import EnvironmentFault

ORDERS = TableName("public", "orders")
KEY = Secret("sixteen bytes, or more")


def config(**fields: Any) -> PostgresCdcConfig:
    return PostgresCdcConfig.model_validate_json(json.dumps({"dsn": "dbname=shop", "tables": ["orders"], **fields}))


@pytest.mark.parametrize(
    ("version", "sql"),
    [
        (120022, 'CREATE PUBLICATION "p" FOR TABLE "public"."orders"'),
        (130000, 'CREATE PUBLICATION "p" FOR TABLE "public"."orders" WITH (publish_via_partition_root = true)'),
    ],
)
def test_partitions_are_published_as_their_table_where_the_server_can(version: int, sql: str) -> None:
    assert publication.creation("p", [ORDERS], (), (), version) == sql


def test_what_an_older_server_cannot_publish_is_named() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        publication.creation("p", [ORDERS], (), [ORDERS], 120022)
    assert (caught.value.code, caught.value.help) == (
        "source.no_partitions",
        "name its partitions in `tables`, or use 13 or newer",
    )
    with pytest.raises(EnvironmentFault) as caught:
        publication.creation("p", [], ("shop",), (), 140000)
    assert caught.value.code == "source.no_schemas"


@pytest.mark.parametrize(
    ("version", "fields", "command"),
    [
        (120000, {}, 'CREATE_REPLICATION_SLOT "s" LOGICAL pgoutput NOEXPORT_SNAPSHOT'),
        (140000, {"temporary": True}, 'CREATE_REPLICATION_SLOT "s" TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT'),
        (150000, {}, "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'nothing')"),
        (170000, {"failover": True}, "CREATE_REPLICATION_SLOT \"s\" LOGICAL pgoutput (SNAPSHOT 'nothing', FAILOVER true)"),
    ],
)
def test_a_slot_is_made_in_the_words_of_its_server(version: int, fields: dict[str, bool], command: str) -> None:
    assert slot.creation("s", SlotFields(**fields), version) == command


def test_what_an_older_server_does_not_know_is_refused() -> None:
    with pytest.raises(EnvironmentFault) as caught:
        slot.creation("s", SlotFields(failover=True), 160004)
    assert caught.value.code == "slot.no_failover"
    with pytest.raises(EnvironmentFault) as caught:
        slot.origin_options("none", 150000)
    assert caught.value.code == "source.no_origin"
    assert (slot.origin_options("none", 160000), slot.origin_options("any", 120000)) == ([("origin", "none")], [])


@pytest.mark.parametrize(
    "fields",
    [
        {"slot": {"temporary": True, "drop_on_stop": True}},
        {"slot": {"temporary": True, "failover": True}},
        {"slot": {"temporary": True, "create": "never"}},
        {"mask": {"email": "hash"}},
        {"mask": {"email": "hash"}, "mask_key": "short"},
        {"mask": {"email": {"fill": "abc"}}},
        {"max_slot_lag": 0},
        {"max_slot_lag": {"size": "1GiB", "action": "explode"}},
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        config(**fields)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "bound", "stops"), [("1GiB", 1 << 30, False), ({"size": 7, "action": "stop"}, 7, True), (None, None, False)]
)
def test_max_slot_lag_is_a_size_or_a_block(given: Any, bound: int | None, stops: bool) -> None:
    found = config(max_slot_lag=given)
    assert (found.lag_bound, found.stops_at_lag) == (bound, stops)


def test_masks_keep_nothing_that_is_not_declared() -> None:
    masks = Masks({"a": "hash", "b": "null", "c": MaskPattern(keep_first=1, keep_last=4)}, KEY)
    assert masks.converter("other", text)(b"plain") == "plain"
    assert masks.converter("b", text)(b"x") is None
    assert [masks.converter("c", text)(value) for value in (b"4111111111111111", b"0123456789", b"\xff" * 11)] == [
        "4***1111",
        "***",
        "\ufffd***\ufffd\ufffd\ufffd\ufffd",
    ]
    hashed = masks.converter("a", text)
    assert hashed(b"x") == hashed(b"x") != hashed(b"y")
    assert hashed(b"x") != Masks({"a": "hash"}, Secret("another sixteen bytes")).converter("a", text)(b"x")
    assert masks.undistinguished(("a", "b", "c", "d")) == ("b", "c")
    assert "sixteen" not in repr(config(mask={"a": "hash"}, mask_key=KEY.reveal()))


def test_lag_is_counted_in_bytes_and_in_seconds_since_the_first_byte_that_is_not_confirmed() -> None:
    lag = Lag()
    assert (lag.bytes, lag.seconds, lag.endangered) == (None, 0.0, False)
    lag.sample(100.0, lsn_text(1000), lsn_text(1000), lsn_text(900))
    assert (lag.bytes, lag.held, lag.seconds) == (0, 100, 0.0)
    lag.sample(110.0, lsn_text(1600), lsn_text(1000), lsn_text(900))
    assert (lag.bytes, lag.held, lag.seconds) == (600, 700, 0.0)
    lag.sample(125.0, lsn_text(2000), lsn_text(1000), lsn_text(900))
    assert (lag.bytes, lag.seconds) == (1000, 15.0)
    lag.sample(130.0, lsn_text(2000), lsn_text(1700), lsn_text(1700))
    assert (lag.bytes, lag.held, lag.seconds) == (300, 300, 5.0)
    lag.sample(131.0, lsn_text(2000), lsn_text(2000), None)
    assert (lag.bytes, lag.held, lag.seconds) == (0, 0, 0.0)


def test_a_slot_is_in_danger_before_the_server_gives_it_up() -> None:
    lag = Lag()
    found = []
    for status, safe in (("reserved", None), ("extended", 800), ("extended", 10), ("unreserved", -5)):
        lag.sample(0.0, lsn_text(1000), lsn_text(0), lsn_text(800), status, safe)
        found.append(lag.endangered)
    assert found == [False, False, True, True]


@pytest.mark.parametrize(
    ("samples", "exceeds"),
    [
        ([(500, 0), (1_000, 0), (1_001, 0)], [False, False, True]),
        ([(10_000, 0), (11_000, 0), (11_001, 0), (12_000, 6_000)], [False, False, True, False]),
    ],
    ids=["begun within the bound", "begun far behind"],
)
def test_a_run_that_begins_far_behind_may_fall_behind_by_another_bound(
    samples: list[tuple[int, int]], exceeds: list[bool]
) -> None:
    lag = Lag()
    found = []
    for server, restart in samples:
        lag.sample(0.0, lsn_text(server), lsn_text(restart), lsn_text(restart))
        found.append(lag.exceeds(1_000))
    assert found == exceeds
