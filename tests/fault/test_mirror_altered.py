"""A mirrored table is altered while its pipeline is away, with changes before and after that wait in the slot.

The copy is altered in step. In the end both are equal, and nothing became a dead letter.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mirror_parts import differences, two_databases
from server_parts import StartPostgres

from penstock.testing.cdc_scenario import World
from penstock.testing.processes import Launcher
from penstock.testing.scenario import PIPELINE, read_remains

TABLE = "CREATE TABLE zoo.changing (id int PRIMARY KEY, n int, note text, gone text)"
LATER = "CREATE TABLE zoo.later (id int PRIMARY KEY, note text)"
ROWS = "INSERT INTO zoo.changing (id) SELECT generate_series(1, 30) ON CONFLICT (id) DO UPDATE SET n = excluded.id;"


def write_pipeline(project: Path, world: World) -> None:
    target = world.target.dsn_through(world.to_target.port)
    tables = ["zoo.changing", "zoo.later"]
    pipeline = {
        "pipeline": PIPELINE,
        "source": {"postgres_cdc": {"dsn": world.source.dsn_through(world.to_source.port), "schemas": ["zoo"]}},
        "sinks": [
            {
                "name": f"table-{number}",
                "when": f'$event.source | endswith("/{table}")',
                "postgres": {"dsn": target, "table": table, "key": ["id"], "delete": '$event.type | endswith(".delete")'},
            }
            for number, table in enumerate(tables)
        ],
    }
    (project / f"{PIPELINE}.yaml").write_text(json.dumps(pipeline))


@pytest.mark.parametrize(("version", "identity"), [(18, "DEFAULT"), (16, "FULL")])
def test_a_table_that_is_altered_in_mid_stream_is_mirrored_when_its_copy_is_altered_too(
    version: int, identity: str, start_postgres: StartPostgres, tmp_path: Path
) -> None:
    source, target = start_postgres(version, durable=False), start_postgres(durable=False)
    with two_databases(source, target, "altered") as world, Launcher() as launcher:
        write_pipeline(tmp_path, world)

        def run() -> None:
            process = launcher.start(["run", "--once", f"{PIPELINE}.yaml"], tmp_path, tmp_path / "log")
            assert process.wait(60) == 0, (tmp_path / "log").read_text()[-3000:]

        original, copy = world.source.execute, world.target.execute
        for execute in (original, copy):
            execute(f"CREATE SCHEMA zoo; {TABLE}")
        copy(LATER)
        original(f"ALTER TABLE zoo.changing REPLICA IDENTITY {identity}; {ROWS}")
        run()

        original(f"{ROWS} ALTER TABLE zoo.changing ADD fresh text DEFAULT 'd'; UPDATE zoo.changing SET fresh = 'f' WHERE id < 5")
        copy("ALTER TABLE zoo.changing ADD fresh text DEFAULT 'd'")
        run()

        original(
            "UPDATE zoo.changing SET n = n + 1 WHERE id < 9; ALTER TABLE zoo.changing ALTER n TYPE bigint;"
            "UPDATE zoo.changing SET n = 5000000000 WHERE id = 7"
        )
        copy("ALTER TABLE zoo.changing ALTER n TYPE bigint")
        run()

        original(
            "UPDATE zoo.changing SET gone = 'g' WHERE id < 9; ALTER TABLE zoo.changing DROP gone;"
            "DELETE FROM zoo.changing WHERE id = 3"
        )
        run()
        copy("ALTER TABLE zoo.changing DROP gone")  # what was written before it was dropped has arrived

        for execute in (original, copy):
            execute("ALTER TABLE zoo.changing RENAME note TO remark")
        original("UPDATE zoo.changing SET remark = 'r' WHERE id < 9")
        run()

        original(
            "UPDATE zoo.changing SET n = 3 WHERE id = 4; ALTER TABLE zoo.changing ALTER n TYPE text;"
            "UPDATE zoo.changing SET n = 'n' || n WHERE id > 9"
        )
        copy("ALTER TABLE zoo.changing ALTER n TYPE text")
        run()

        original(f"{LATER}; INSERT INTO zoo.later VALUES (1, 'a'), (2, NULL); UPDATE zoo.changing SET id = id + 100 WHERE id = 5")
        run()
        assert differences(world, ["zoo.changing", "zoo.later"]) == {}
        assert read_remains(tmp_path).letters == []
