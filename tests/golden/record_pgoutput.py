"""Records what real servers send: tests/golden/pgoutput_16.jsonl and pgoutput_18.jsonl.

    python tests/golden/record_pgoutput.py

Two slots see the same changes: one gets whole transactions (protocol 1), the other every transaction in streamed blocks (protocol
4). The first line holds the rows of pg_type that are needed, and every table as it stood in the end; each further line is a
capture's name and one message in hexadecimal.
"""

from __future__ import annotations

import json
import select
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
from psycopg import pq

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from pgoutput_parts import CASES, TYPES_SQL, VERSIONS  # noqa: E402

from connectors._pg_types import SESSION_SETTINGS, TYPES_QUERY  # noqa: E402
from connectors.sources._pg_replication import XLogData, frame  # noqa: E402
from penstock.testing.servers import PostgresServer  # noqa: E402

CAPTURES = {
    "whole": ("proto_version '1', messages 'true'", {}),
    "streamed": (
        "proto_version '4', streaming 'parallel', messages 'true'",
        {"debug_logical_replication_streaming": "immediate"},
    ),
}
BIG = "repeat(md5(random()::text), 100)"
TABLES = ["every_type", "by_default", "by_full", "by_nothing", "by_index", "parted_1", "parted_2", "drifting", "emptied"]

SCHEMA_SQL = f"""
{TYPES_SQL}
CREATE TABLE every_type (id int4 PRIMARY KEY, {", ".join(f"c{n} {kind}" for n, (kind, _, _) in enumerate(CASES))});
CREATE TABLE by_default (id int4, part text, body text, PRIMARY KEY (id, part));
CREATE TABLE by_full (id int4, body text, note text);
CREATE TABLE by_nothing (id int4, body text);
CREATE TABLE by_index (id int4, code text NOT NULL, body text);
CREATE UNIQUE INDEX by_code ON by_index (code);
CREATE TABLE parted (id int4 PRIMARY KEY, body text) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (100);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (100) TO (200);
CREATE TABLE drifting (id int4 PRIMARY KEY, a int4, b text);
CREATE TABLE emptied (id int4 PRIMARY KEY);
ALTER TABLE by_default ALTER body SET STORAGE EXTERNAL;
ALTER TABLE by_full ALTER body SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_code;
CREATE PUBLICATION everything FOR ALL TABLES;
"""

CHANGES = [
    ["INSERT INTO every_type (id) VALUES (2)"],
    ["INSERT INTO by_default VALUES (1, 'a', " + BIG + "), (2, 'b', 'small'), (3, 'c', NULL)"],
    ["UPDATE by_default SET part = 'A' WHERE id = 1", "UPDATE by_default SET body = 'grown' WHERE id = 2"],
    ["UPDATE by_default SET id = 20 WHERE id = 2", "DELETE FROM by_default WHERE id = 3"],
    ["INSERT INTO by_full VALUES (1, " + BIG + ", 'x'), (2, 'two', NULL), (2, 'two', NULL), (3, NULL, 'gone')"],
    ["UPDATE by_full SET note = 'y' WHERE id = 1", "DELETE FROM by_full WHERE id = 3"],
    ["INSERT INTO by_index VALUES (1, 'one', 'x'), (2, 'two', 'y'), (3, 'three', 'z')"],
    ["UPDATE by_index SET body = 'xx' WHERE id = 1", "UPDATE by_index SET code = 'TWO' WHERE id = 2"],
    ["DELETE FROM by_index WHERE id = 3", "INSERT INTO by_nothing VALUES (1, 'only inserted')"],
    ["INSERT INTO parted VALUES (1, 'one'), (2, 'two')", "UPDATE parted SET id = 101 WHERE id = 1"],
    ["INSERT INTO drifting VALUES (1, 1, 'one')"],
    ["ALTER TABLE drifting ADD c text, ALTER a TYPE int8", "INSERT INTO drifting VALUES (2, 4294967296, 'two', 'c')"],
    ["ALTER TABLE drifting DROP b", "UPDATE drifting SET c = 'new' WHERE id = 1", "ALTER TABLE drifting RENAME c TO d"],
    ["UPDATE drifting SET d = d || '!'"],
    ["INSERT INTO emptied SELECT generate_series(1, 3)", "TRUNCATE emptied RESTART IDENTITY CASCADE"],
    ["INSERT INTO emptied VALUES (4)"],
    [
        "INSERT INTO emptied VALUES (10)",
        "SAVEPOINT one",
        "INSERT INTO emptied VALUES (11)",
        "SAVEPOINT two",
        "INSERT INTO emptied VALUES (12)",
        "ROLLBACK TO one",
        "INSERT INTO emptied VALUES (13)",
    ],
    ["INSERT INTO emptied VALUES (99)", "ROLLBACK"],
    ["SELECT pg_logical_emit_message(true, 'noted', 'in the transaction')", "INSERT INTO emptied VALUES (14)"],
    ["SELECT pg_logical_emit_message(false, 'beat', E'\\\\x00ff'::bytea)"],
]


def record(version: int) -> None:
    with PostgresServer(version) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(SCHEMA_SQL.encode())
            for name in CAPTURES:
                connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", (name,))
            change(connection, server.dsn())
            connection.execute("SELECT pg_logical_emit_message(false, 'end', '')")
        header = {"server": server.execute("SHOW server_version")[0][0], "types": used_types(server), "rows": rows(server)}
        with (HERE / f"pgoutput_{version}.jsonl").open("w") as golden:
            golden.write(json.dumps(header, separators=(",", ":")) + "\n")
            for name, (options, settings) in CAPTURES.items():
                for message in capture(server.dsn(), name, options, settings):
                    golden.write(json.dumps([name, message.hex()]) + "\n")


def change(connection: psycopg.Connection, dsn: str) -> None:
    literals = [literal for _, literal, _ in CASES]
    values = ", ".join(["%s"] * len(literals))
    connection.execute(f"INSERT INTO every_type VALUES (1, {values})".encode(), literals, prepare=False)
    for statements in CHANGES:
        connection.execute("BEGIN")
        for statement in statements:
            connection.execute(statement.encode())
        if statements[-1] != "ROLLBACK":
            connection.execute("COMMIT")
    interleave(connection, dsn)
    replicate(connection)


def interleave(connection: psycopg.Connection, dsn: str) -> None:
    """Two transactions at once, so that their streamed blocks alternate; the one that began first ends last."""
    with psycopg.connect(dsn) as other:
        other.execute("INSERT INTO by_nothing VALUES (2, 'first of the other')")
        connection.execute("INSERT INTO by_nothing VALUES (3, 'between')")
        other.execute("INSERT INTO by_nothing VALUES (4, 'second of the other')")


def replicate(connection: psycopg.Connection) -> None:
    """A transaction that says it came from another server."""
    connection.execute("SELECT pg_replication_origin_create('elsewhere')")
    connection.execute("SELECT pg_replication_origin_session_setup('elsewhere')")
    connection.execute("BEGIN")
    connection.execute("SELECT pg_replication_origin_xact_setup('0/ABCDEF', '2024-01-01T00:00:00Z')")
    connection.execute("INSERT INTO by_nothing VALUES (5, 'from elsewhere')")
    connection.execute("COMMIT")
    connection.execute("SELECT pg_replication_origin_session_reset()")


def used_types(server: PostgresServer) -> list[list[object]]:
    """The rows of pg_type that the columns need: their types, and what these are made of."""
    known = {row[0]: row for row in server.execute(TYPES_QUERY)}
    columns = server.execute(
        "SELECT DISTINCT atttypid::int8 FROM pg_attribute WHERE attrelid::regclass::text = ANY (%s)", (TABLES,)
    )
    pending, used = [oid for (oid,) in columns], set()
    while pending:
        oid = pending.pop()
        if oid and oid not in used:
            used.add(oid)
            pending += known[oid][4:6]
    return [list(known[oid]) for oid in sorted(used)]


def rows(server: PostgresServer) -> dict[str, list[dict[str, str | None]]]:
    """Every table in the end, values as text under the settings that the stream had."""
    found = {}
    with psycopg.connect(server.dsn(), options=options_of(SESSION_SETTINGS)) as connection:
        for table in TABLES:
            result = connection.pgconn.exec_(f"SELECT * FROM public.{table}".encode())
            names = [(result.fname(n) or b"").decode() for n in range(result.nfields)]
            values = [[result.get_value(row, n) for n in range(result.nfields)] for row in range(result.ntuples)]
            found[table] = [{k: None if v is None else v.decode() for k, v in zip(names, line, strict=True)} for line in values]
    return found


def options_of(settings: object) -> str:
    return " ".join(f"-c {name}={value}" for name, value in dict(settings).items())  # type: ignore[call-overload]


def capture(dsn: str, slot: str, options: str, settings: dict[str, str]) -> Iterator[bytes]:
    """Every message of the slot up to the one that says `end`, that one excluded."""
    all_settings = options_of({**SESSION_SETTINGS, **settings})
    with closing(psycopg.connect(dsn, replication="database", autocommit=True, options=all_settings)) as connection:
        link = connection.pgconn
        start = link.exec_(f"START_REPLICATION SLOT {slot} LOGICAL 0/0 ({options}, publication_names 'everything')".encode())
        assert start.status == pq.ExecStatus.COPY_BOTH, start.error_message
        while True:
            size, data = link.get_copy_data(1)
            if size == 0:
                select.select([link.socket], [], [], 10)
                link.consume_input()
                continue
            assert size > 0, link.get_result()
            taken = frame(data)
            if isinstance(taken, XLogData):
                if taken.message[:1] == b"M" and taken.message[10:14] == b"end\0":
                    return
                yield taken.message


if __name__ == "__main__":
    for version in VERSIONS:
        record(version)
        print(f"pgoutput_{version}.jsonl", (HERE / f"pgoutput_{version}.jsonl").stat().st_size, "bytes")
