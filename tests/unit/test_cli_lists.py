"""`pipe connectors` and `pipe schema`: what there is, listed and documented."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import SCHEMA, Pipe, Stdin, items


def test_components_are_listed_and_documented(pipe: Pipe) -> None:
    listed = items(pipe("connectors", "--json")[1])
    assert {(item["kind"], item["name"]) for item in listed} >= {("source", "file"), ("sink", "file"), ("transform", "jq")}
    for item in listed:
        assert item["summary"].endswith(".")
        assert all(field["description"] for field in item["fields"]), item["name"]
    [source, sink] = items(pipe("connectors", "file", "--json")[1])
    assert (source["kind"], sink["kind"]) == ("source", "sink")
    assert "max_record  size or integer  default 1MiB\n" in pipe("connectors", "stdin")[1]
    text = pipe("connectors", "sqlite")[1]
    assert "on_conflict  update | ignore | error  default update" in text
    assert "did you mean 'sqlite'?" in pipe("connectors", "sqlit")[2]


def test_schemas_are_listed_shown_and_checked(shop: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    assert items(pipe("schema", "ls", "--json")[1]) == [{"subject": "shop.line", "versions": [1]}]
    assert json.loads(pipe("schema", "show", "shop.line")[1]) == SCHEMA
    assert pipe("schema", "check") == (0, "", "1 schema, 0 mistakes\n")
    monkeypatch.setattr("sys.stdin", Stdin(b'{"n":1}\n{"n":0}\n\n{\n'))
    status, out, err = pipe("schema", "check", "shop.line@1")
    assert (status, err) == (4, "3 documents, 1 valid, 2 not\n")
    assert [line.split(":")[0] for line in out.splitlines()] == ["line 2", "line 4"]
    (shop / "data.json").write_text('{\n "n": 1\n}\n')
    assert pipe("schema", "check", "shop.line", "data.json") == (0, "", "1 document, 1 valid, 0 not\n")
    (shop / "pipelines/schemas/shop.line/2.json").write_text('{"type": 7}')
    assert pipe("schema", "check")[0] == 4
    assert "did you mean 'shop.line'?" in pipe("schema", "show", "shop.lin")[2]


def test_schemas_are_looked_up_where_the_project_keeps_them(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines/schemas").rename(shop / "shared")
    (shop / "penstock.yaml").write_text("registry: shared\n")
    assert items(pipe("schema", "ls", "--json")[1]) == [{"subject": "shop.line", "versions": [1]}]
    assert pipe("schema", "check") == (0, "", "1 schema, 0 mistakes\n")
    assert items(pipe("schema", "ls", "--dir", "pipelines", "--json")[1]) == []
    assert pipe("run", "--once", "shop")[0] == 0
    (shop / "penstock.yaml").write_text("registri: shared\n")
    status, _, err = pipe("schema", "ls")
    assert (status, "did you mean 'registry'?" in err) == (2, True)


def test_the_schema_of_the_pipeline_file_is_printed(pipe: Pipe) -> None:
    assert json.loads(pipe("schema", "config")[1])["properties"].keys() >= {"source", "sink", "tests"}
