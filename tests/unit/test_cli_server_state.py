"""The verbs that look at state, where it is in a server: found through the pipeline's file; a server that is away; secrets."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from cli_parts import PIPELINE, Pipe, items

from penstock.testing.servers import Database

LOOKING = [
    ["status"],
    ["status", "shop"],
    ["dlq", "groups"],
    ["dlq", "ls", "shop"],
    ["checkpoint", "show", "shop"],
    ["checkpoint", "reset", "shop", "--all", "--yes"],
    ["dlq", "discard", "shop", "--all", "--yes"],
    ["signal", "shop"],
    ["pause", "shop", "--no-wait"],
]
ENVIRONMENT = 3


@pytest.fixture
def server_shop(shop: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shop with its state in a server."""
    (shop / "pipelines/shop.yaml").write_text(f"{PIPELINE}state: ${{STATE}}\nretry: {{ max_attempts: 1 }}\n")
    monkeypatch.setenv("STATE", database.dsn)
    return shop


@pytest.fixture
def server_ran(server_shop: Path, pipe: Pipe) -> Path:
    assert pipe("run", "--once", "pipelines/shop.yaml")[0] == 0
    return server_shop


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.mark.usefixtures("server_ran")
def test_state_in_a_server_is_found_by_name_and_without_one(pipe: Pipe) -> None:
    for names in ((), ("shop",), ("pipelines/shop.yaml",)):
        status, out, _ = pipe("status", *names, "--json")
        assert (status, [(item["pipeline"], item["received"]) for item in items(out)]) == (0, [("shop", 6)])
        assert items(pipe("dlq", "groups", *names, "--json")[1]) != []
    assert json.loads(pipe("checkpoint", "show", "shop", "--json")[1])["checkpoint"]["drained"] is True
    (letter,) = {item["id"] for item in items(pipe("dlq", "ls", "--json", "--limit", "1")[1])}
    assert pipe("dlq", "show", letter)[0] == 0
    assert [path.name for path in Path(".penstock").iterdir()] == ["journal"]


@pytest.mark.usefixtures("server_shop")
def test_a_pipeline_that_never_ran_is_told_as_such_and_looking_makes_nothing(pipe: Pipe, database: Database) -> None:
    assert "never run" in pipe("status")[1]
    assert "no dead letters" in pipe("dlq", "groups")[2]
    assert "never run" in pipe("checkpoint", "show", "shop")[1]
    assert database.execute("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'penstock%'") == [(0,)]


def test_without_its_file_a_pipeline_with_state_in_a_server_is_not_known(server_ran: Path, pipe: Pipe) -> None:
    (server_ran / "pipelines/shop.yaml").unlink()
    status, _, said = pipe("status", "shop")
    assert (status, "usage.unknown_pipeline" in said) == (2, True)
    assert "no pipelines here" in pipe("status")[2]


@pytest.mark.usefixtures("server_ran")
@pytest.mark.parametrize("arguments", LOOKING, ids=" ".join)
def test_a_server_that_cannot_be_reached_is_told_with_the_pipeline_and_without_the_password(
    arguments: list[str], pipe: Pipe, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE", database.dsn_through(closed_port()))
    status, out, said = pipe(*arguments)
    assert (status, out.replace('{"items": [], "next": null}', "").strip()) == (ENVIRONMENT, "")
    assert "error[postgres.unreachable]: the state store cannot be reached" in said
    assert "pipeline shop" in said
    assert database.server.password not in said


@pytest.mark.usefixtures("server_ran")
@pytest.mark.parametrize("arguments", LOOKING, ids=" ".join)
def test_a_wrong_password_is_refused_and_shown_nowhere(
    arguments: list[str], pipe: Pipe, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE", database.server.dsn(database.name, password="canary-hunter2"))
    status, out, said = pipe(*arguments)
    assert status == ENVIRONMENT
    assert "error[postgres.refused]: the state store refuses the connection" in said
    assert "canary-hunter2" not in out + said


@pytest.mark.usefixtures("server_ran")
def test_a_new_password_is_another_way_to_the_same_state(pipe: Pipe, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.execute("CREATE ROLE penstock_keeper LOGIN SUPERUSER PASSWORD 'canary-one'")
    try:
        before = pipe("status", "--json")[1]
        for password in ("canary-one", "canary-two"):
            database.execute(f"ALTER ROLE penstock_keeper PASSWORD '{password}'")
            dsn = database.server.dsn(database.name, user="penstock_keeper", password=password)
            monkeypatch.setenv("STATE", dsn)
            status, out, said = pipe("run", "--once", "pipelines/shop.yaml")
            assert (status, password in out + said) == (0, False)
            (item,) = items(pipe("status", "--json")[1])
            assert item["received"] == 6
        assert len({run["version"] for run in item["runs"]} | {items(before)[0]["version"]}) == 1
        kept = database.execute("SELECT string_agg(v::text, ' ') FROM penstock_shop.versions AS v")[0][0]
        assert "canary" not in kept
    finally:
        database.execute("DROP OWNED BY penstock_keeper; DROP ROLE penstock_keeper")


def test_of_several_pipelines_those_that_can_be_read_are_shown(
    server_ran: Path, pipe: Pipe, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = PIPELINE.replace("pipeline: shop", "pipeline: local").replace("out/shop", "out/local")
    (server_ran / "pipelines/local.yaml").write_text(text)
    assert pipe("run", "--once", "pipelines/local.yaml")[0] == 0
    monkeypatch.setenv("STATE", database.dsn_through(closed_port()))
    status, out, said = pipe("status", "--json")
    assert (status, [item["pipeline"] for item in items(out)]) == (ENVIRONMENT, ["local"])
    assert "pipeline shop" in said
