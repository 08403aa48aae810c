"""What a crash round over a changing database runs: servers, a pipeline from `items` to outputs, and how to read what came out.

Collaborators: `cdc_writer` (who changes the tables), `cdc_oracle` (what has to come out).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from penstock.testing.cdc_oracle import CLASSES, FAILING, FILTERED, REFUSED, Arrival, Change, Op
from penstock.testing.proxy import Proxy
from penstock.testing.scenario import PIPELINE, Unreadable
from penstock.testing.servers import NEWEST, Database, PostgresServer

TABLES = """
CREATE TABLE items (
    id bigint PRIMARY KEY, entity text NOT NULL, sequence int NOT NULL, body text NOT NULL, checksum text NOT NULL
);
CREATE TABLE tickets (last bigint NOT NULL);
INSERT INTO tickets VALUES (0);
CREATE TABLE commits (name text PRIMARY KEY, ticket bigint NOT NULL UNIQUE);
"""
"""`items` is what is replicated. The others are the writers' own: every transaction draws a ticket last, and leaves its name."""

COLUMNS = "id, entity, sequence, body, checksum"

SLOT = "penstock_crash"

EVENTS = "out/events.jsonl"

SETTINGS = {"logical_decoding_work_mem": "64kB", "wal_sender_timeout": "5s", "max_connections": "60"}
"""Of the source's server: transactions of some hundred rows are large already."""

_TARGET = f"""
CREATE TABLE items (
    id bigint PRIMARY KEY, entity text NOT NULL, sequence int NOT NULL, body text NOT NULL, checksum text NOT NULL
);
CREATE TABLE history (place bigint GENERATED ALWAYS AS IDENTITY, event text NOT NULL, type text NOT NULL,
    id bigint NOT NULL CHECK (id % {CLASSES} <> {REFUSED}), entity text, sequence int, body text, checksum text);
"""
_OPS: Mapping[str, Op] = {f"items.{op}": op for op in ("insert", "update", "delete", "snapshot")}
_HISTORY = {"event": "$event.id", "type": "$event.type", "id": ".id"} | {
    name: f".{name}" for name in ("entity", "sequence", "body", "checksum")
}


@dataclass(frozen=True, slots=True)
class World:
    """The surroundings of one round: two databases, and the proxies that lead to them."""

    source: Database
    target: Database
    to_source: Proxy
    to_target: Proxy


@dataclass(frozen=True, slots=True)
class CdcOutput:
    """One sink that keeps every event it gets, in order of arrival.

    :ivar component: makes the sink of a pipeline file.
    :ivar arrivals: reads back; `Unreadable` where that is torn or damaged.
    :ivar refuses: whether it refuses the class `REFUSED`.
    """

    name: str
    component: Callable[[World], Mapping[str, Any]]
    arrivals: Callable[[World, Path], Sequence[Arrival]]
    refuses: bool = False


@dataclass(frozen=True, slots=True)
class CdcScenario:
    """Outputs under one name.

    :ivar mirrored: whether another sink keeps a copy of the table besides.
    """

    name: str
    outputs: Sequence[CdcOutput]
    mirrored: bool = False
    version: int = NEWEST

    @property
    def dead(self) -> tuple[int, ...]:
        """Classes whose changes become dead letters."""
        return (FAILING, REFUSED) if any(output.refuses for output in self.outputs) else (FAILING,)

    @contextmanager
    def servers(self) -> Iterator[Servers]:
        """A server for the source and one for the outputs, for round after round."""
        with (
            PostgresServer(self.version, durable=False, settings=SETTINGS) as source,
            PostgresServer(self.version, durable=False) as target,
        ):
            yield Servers(source, target)


@dataclass(frozen=True, slots=True)
class Servers:
    """Where rounds find their databases."""

    source: PostgresServer
    target: PostgresServer

    @contextmanager
    def world(self, name: str, settings: CdcSettings) -> Iterator[World]:
        """Databases of the name with empty tables; dropped afterwards."""
        source, target = self.source.create_database(name), self.target.create_database(name)
        try:
            source.execute(TABLES)
            if settings.full:
                source.execute("ALTER TABLE items REPLICA IDENTITY FULL")
            target.execute(_TARGET)
            with Proxy(self.source.port) as to_source, Proxy(self.target.port) as to_target:
                yield World(source, target, to_source, to_target)
        finally:
            self.source.drop_database(name)
            self.target.drop_database(name)


@dataclass(frozen=True, slots=True)
class CdcSettings:
    """What a seed chooses.

    :ivar full: REPLICA IDENTITY FULL, else the default one.
    :ivar snapshot: rows of a chunk of the initial snapshot; 0: none is taken, and nothing is there before the slot is.
    :ivar bodies: bytes of the longest bodies: with more, values are stored apart, and transactions are streamed in progress.
    :ivar bulk: as `Writers` takes it: with more, most batches end in mid-transaction.
    """

    transactions: int
    writers: int
    full: bool
    count: int
    in_flight: int
    dedup: bool
    bodies: int = 200
    snapshot: int = 0
    bulk: int = 1

    @classmethod
    def draw(cls, rng: random.Random) -> CdcSettings:
        """Batches that end in mid-transaction, tight limits, either replica identity."""
        return cls(
            transactions=rng.randrange(150, 260),
            writers=rng.randrange(1, 5),
            full=rng.random() < 0.4,
            count=rng.choice([3, 10, 40, 150, 500]),
            in_flight=rng.choice([20, 200, 10_000]),
            dedup=rng.random() < 0.3,
            bodies=rng.choice([200, 200, 4000]),
            snapshot=rng.choice([0, 0, 7, 50, 300]),
        )


def write_cdc_pipeline(project: Path, scenario: CdcScenario, world: World, settings: CdcSettings) -> None:
    """The pipeline file (JSON, which is YAML too)."""
    sinks = [{"name": output.name, **output.component(world)} for output in scenario.outputs]
    if scenario.mirrored:
        mirror = {"dsn": _through(world), "table": "items", "key": ["id"], "delete": '$event.type == "items.delete"'}
        sinks.insert(0, {"name": "mirror", "postgres": mirror})
    pipeline: dict[str, Any] = {
        "pipeline": PIPELINE,
        "source": {
            "postgres_cdc": {
                "dsn": world.source.dsn_through(world.to_source.port),
                "tables": ["public.items"],
                "slot": {"name": SLOT},
                "status_interval": "1s",
                "snapshot": {"mode": "initial", "batch_rows": settings.snapshot} if settings.snapshot else {"mode": "never"},
            }
        },
        "transforms": [
            {"filter": f".id % {CLASSES} != {FILTERED}"},
            {"name": "check", "jq": f'if .id % {CLASSES} == {FAILING} then error("the item is broken") else . end'},
        ],
        "sinks": sinks,
        "batching": {"count": settings.count},
        "limits": {"in_flight_events": settings.in_flight},
        "retry": {"initial_delay": "5ms", "max_delay": "50ms", "max_attempts": 1000, "max_elapsed": "5m"},
    }
    if settings.dedup:
        pipeline["dedup"] = {"window": "24h"}
    (project / "out").mkdir()
    (project / f"{PIPELINE}.yaml").write_text(json.dumps(pipeline, indent=2))


def table_checksum(database: Database, without: Sequence[int] = ()) -> tuple[int, str]:
    """Rows of `items` and md5 of their text, computed by the server."""
    left_out = ", ".join(map(str, without)) or "-1"
    ((count, digest),) = database.execute(
        f"SELECT count(*), md5(coalesce(string_agg(items::text, E'\\n' ORDER BY id), '')) FROM items "  # noqa: S608
        f"WHERE id % {CLASSES} NOT IN ({left_out})"
    )
    return int(count), str(digest)


def _through(world: World) -> str:
    return world.target.dsn_through(world.to_target.port)


def _change(type: str, data: Mapping[str, Any]) -> Change:
    return Change(_OPS[type], data["id"], data.get("entity"), data.get("sequence"), data.get("checksum"))


def _table_arrivals(world: World, project: Path) -> list[Arrival]:
    rows = world.target.execute(f"SELECT event, type, body, {COLUMNS} FROM history ORDER BY place")  # noqa: S608
    names = COLUMNS.split(", ")
    return [Arrival(event, _change(type, dict(zip(names, row, strict=True))), body) for event, type, body, *row in rows]


def _file_arrivals(world: World, project: Path) -> list[Arrival]:
    *lines, rest = (project / EVENTS).read_bytes().split(b"\n")
    if rest:
        raise Unreadable(f"{EVENTS} ends in the middle of a line")
    try:
        events = [json.loads(line) for line in lines]
        return [Arrival(event["id"], _change(event["type"], event["data"]), event["data"].get("body")) for event in events]
    except (ValueError, LookupError, TypeError) as error:
        raise Unreadable(f"{EVENTS} holds something else than events: {error}") from error


def _history(world: World) -> Mapping[str, Any]:
    return {"postgres": {"dsn": _through(world), "table": "history", "columns": _HISTORY}}


def _lines(world: World) -> Mapping[str, Any]:
    return {"file": {"path": EVENTS, "format": "cloudevents"}}


HISTORY = CdcOutput("history", _history, _table_arrivals, refuses=True)
LINES = CdcOutput("lines", _lines, _file_arrivals)

CDC_SCENARIOS: Mapping[str, CdcScenario] = {
    "cdc_postgres": CdcScenario("cdc_postgres", [HISTORY], mirrored=True),
    "cdc_file": CdcScenario("cdc_file", [LINES]),
    "cdc_both": CdcScenario("cdc_both", [HISTORY, LINES], mirrored=True),
    "cdc_postgres16": CdcScenario("cdc_postgres16", [HISTORY, LINES], mirrored=True, version=16),
}
"""By what has to be right in the end: tables of PostgreSQL, a file, all of it, and all of it with PostgreSQL 16."""
