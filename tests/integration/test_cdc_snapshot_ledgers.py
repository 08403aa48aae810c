"""Rows of a snapshot that one ledger has taken and a crash kept from another, while the table changed: outcomes and journal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cdc_parts import sql
from engine_parts import PLACE, Feed, Table, kept, make_pipeline, run_once, sink, step
from engine_parts import parts as parts

from connectors.sources.postgres_cdc import PostgresCdcSource
from penstock.config.model import Component, Dedup, Journal, Pipeline
from penstock.errors import Fatal, Permanent
from penstock.event import Event
from penstock.faults import Faults
from penstock.ledger import Counts
from penstock.testing.journal_check import journal_lines
from penstock.testing.servers import Database


def read_orders(database: Database) -> Component:
    fields = {
        "dsn": database.dsn,
        "tables": ["public.orders"],
        "slot": {"name": f"slot_{database.name}"},
        "snapshot": {"mode": "initial"},
    }
    return Component("postgres_cdc", PostgresCdcSource.Config.model_validate_json(json.dumps(fields)), PLACE)


def refuse_row_two(event: Event) -> Any:
    return Permanent("step.two", "two") if event.id.endswith("-2") and event.type == "orders.snapshot" else event


async def die_between(pipeline: Pipeline, first: Table) -> None:
    """A run that ends once the first ledger has rows which the second has not."""

    def look(name: str) -> None:
        if first.ids:
            raise Fatal("test.crash", f"crashed at {name}")

    with pytest.raises(Fatal, match="crashed at between_ledgers"):
        await run_once(pipeline, faults=Faults({"between_ledgers": [(nth, look) for nth in range(1, 100)]}))


@pytest.mark.parametrize("dedup", [None, Dedup(3600.0, None)])
async def test_a_row_in_the_place_of_one_that_failed_before_a_crash_has_its_own_outcome(
    database: Database, tmp_path: Path, dedup: Dedup | None
) -> None:
    await sql(database, "CREATE TABLE orders (id int PRIMARY KEY); INSERT INTO orders SELECT n FROM generate_series(1, 4) AS n")
    first, second, journal = Table(tmp_path / "1.db"), Table(tmp_path / "2.db"), tmp_path / "journal"
    pipeline = make_pipeline(
        tmp_path, Feed.of(), sink("first", first), sink("second", second), steps=[step("check", refuse_row_two)],
        source=read_orders(database), dedup=dedup, journal=Journal(journal),
    )  # fmt: skip
    await die_between(pipeline, first)
    await sql(database, "DELETE FROM orders WHERE id = 2")
    await run_once(pipeline)
    left = await kept(pipeline)
    assert sorted(identity.rpartition("-")[2] for identity in first.ids) == ["1", "1", "3", "4"]
    assert sorted(second.ids) == sorted(first.ids)
    assert [(letter.event_id[-2:], letter.owed) for letter in left.letters] == [("-2", ["first"])]
    assert left.totals == Counts(received=4, delivered=4)
    assert [line["outcome"] for line in journal_lines(journal)] == ["delivered"] * 4
