"""Each verb on a small project of its own: what it prints, what it exits with."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from penstock.cli.lazy import Settings
from penstock.cli.main import execute
from penstock.cli.terminal import Terminal

PIPELINE = """\
pipeline: shop
source:
  file: { paths: [in/*.jsonl] }
  event: { type: shop.line }
validate: shop.line@1
transforms:
  - name: sold
    filter: .n != 3
  - name: total
    jq: '{id: .n, total: (.n * 2)}'
sinks:
  - name: table
    sqlite: { path: out/shop.db, table: shop, key: [id], create: true }
  - name: lines
    file: { path: out/shop.jsonl }
tests:
  - name: doubled
    input: { data: { n: 2 } }
    output: [{ type: shop.line, data: { id: 2, total: 4 } }]
"""
SUMMARY_KEYS = (
    "pipeline version epoch received delivered filtered deduplicated dead_lettered".split()
    + "derived reread seconds events_per_second sinks".split()
)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pipelines/schemas/shop.line").mkdir(parents=True)
    (tmp_path / "in").mkdir()
    (tmp_path / "pipelines/shop.yaml").write_text(PIPELINE)
    (tmp_path / "pipelines/schemas/shop.line/1.json").write_text(json.dumps(SCHEMA))
    lines = [{"n": 1}, {"n": 2}, {"n": 3}, {"n": 0}, {"n": -1}, {"m": 1}]
    (tmp_path / "in/a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


Pipe = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pipe(capsys: pytest.CaptureFixture[str]) -> Pipe:
    def call(*arguments: str) -> tuple[int, str, str]:
        status = execute(list(arguments), Settings(), Terminal.of_process())
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def items(output: str) -> list[dict[str, Any]]:
    envelope = json.loads(output)
    assert list(envelope) == ["items", "next"]
    found: list[dict[str, Any]] = envelope["items"]
    return found


@pytest.fixture
def ran(project: Path, pipe: Pipe) -> Path:
    assert pipe("run", "--once", "pipelines/shop.yaml")[0] == 0
    return project


def test_run_says_the_whole_sum_in_one_line_and_prints_nothing(project: Path, pipe: Pipe) -> None:
    status, out, err = pipe("run", "--once", "pipelines")
    assert (status, out) == (0, "")
    assert err.startswith(
        "shop: done: received 6 = delivered 2 + filtered 1 + deduplicated 0 + dead-lettered 3; written: table 2, lines 2; "
    )
    assert err.endswith("; 3 open dead letters\n")


def test_run_json_is_one_object_with_the_documented_keys(project: Path, pipe: Pipe) -> None:
    status, out, err = pipe("run", "--once", "--json", "pipelines/shop.yaml")
    assert (status, err, out.count("\n")) == (0, "", 1)
    summary = json.loads(out)
    assert list(summary) == SUMMARY_KEYS
    assert summary["sinks"] == {"table": {"written": 2}, "lines": {"written": 2}}
    assert (summary["received"], summary["delivered"], summary["filtered"], summary["dead_lettered"]) == (6, 2, 1, 3)


def test_dead_letters_fail_a_run_only_where_that_was_asked_for(project: Path, pipe: Pipe) -> None:
    assert pipe("run", "--once", "--fail-on-dead-letters", "--max-events", "3", "pipelines/shop.yaml")[0] == 0
    assert pipe("run", "--once", "--fail-on-dead-letters", "pipelines/shop.yaml")[0] == 4
    assert pipe("run", "--once", "--fail-on-dead-letters", "pipelines/shop.yaml")[0] == 0


def test_json_and_a_stdout_sink_do_not_go_together(project: Path, pipe: Pipe) -> None:
    (project / "pipelines/out.yaml").write_text("pipeline: out\nsource: { generate: { count: 1 } }\nsink: stdout\n")
    status, out, err = pipe("run", "--once", "--json", "pipelines/out.yaml")
    assert (status, out) == (2, "")
    assert err.startswith("error[run.json_with_stdout]: --json prints to stdout, and so does the sink 'stdout' of out")
    assert not (project / ".penstock").exists()


def test_one_pipeline_that_fails_does_not_stop_the_others(project: Path, pipe: Pipe) -> None:
    (project / "pipelines/bad.yaml").write_text(
        "pipeline: bad\nsource: { generate: { count: 3 } }\ntransforms: [{ jq: 'error(\"boom\")', on_error: stop }]\nsink: drop\n"
    )
    status, out, err = pipe("run", "--once", "--json", "pipelines/bad.yaml", "pipelines/shop.yaml")
    summaries = {summary["pipeline"]: summary for summary in map(json.loads, out.splitlines())}
    assert status == 1
    assert summaries["bad"]["error"]["message"] == "boom"
    assert (summaries["shop"]["received"], "error" in summaries["shop"]) == (6, False)
    [incident] = [json.loads(line) for line in err.splitlines()]
    assert (incident["level"], incident["pipeline"], incident["message"]) == ("error", "bad", "boom")


def test_mistakes_of_all_files_are_said_before_anything_runs(project: Path, pipe: Pipe) -> None:
    (project / "pipelines/one.yaml").write_text("pipeline: one\nsource: { generate: { cout: 1 } }\nsink: drop\n")
    (project / "pipelines/two.yaml").write_text("pipeline: two\nsource: { generate: {} }\nsink: dorp\n")
    status, out, err = pipe("run", "--once", "pipelines")
    assert (status, out) == (2, "")
    assert err.count("error[") == 2
    assert "did you mean 'count'?" in err
    assert "did you mean 'drop'?" in err
    assert not (project / ".penstock").exists()


def test_two_files_of_one_pipeline_are_refused(project: Path, pipe: Pipe) -> None:
    (project / "pipelines/other.yaml").write_text(PIPELINE)
    status, _, err = pipe("run", "--once", "pipelines")
    assert status == 2
    assert "error[usage.same_pipeline]" in err


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--wait", "--take-over"], "usage.conflict"),
        (["--http", "0.0.0.0:80"], "http.not_loopback"),
        (["--set", "batching.cuont=3"], "config.unknown_field"),
    ],
)
def test_options_that_cannot_be_are_refused(project: Path, pipe: Pipe, options: list[str], code: str) -> None:
    status, out, err = pipe("run", "--once", *options, "pipelines/shop.yaml")
    assert (status, out) == (2, "")
    assert f"error[{code}]" in err
    assert not (project / ".penstock").exists()


def test_a_dry_run_shows_what_would_happen_and_touches_nothing(project: Path, pipe: Pipe) -> None:
    status, out, err = pipe("run", "--once", "--dry-run", "pipelines/shop.yaml")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].startswith('0-0  → table, lines  {"specversion":"1.0"')
    assert lines[0].endswith('"data":{"id":1,"total":2}}')
    assert lines[2:4] == ["0-18  filtered", "0-27  dead letter  validate: .n must be at least 1 (it is 0) [validate.failed]"]
    assert "nothing was delivered, no state was touched; of 6 events" in err
    assert not (project / ".penstock").exists()
    assert not (project / "out").exists()
    assert json.loads(pipe("run", "--once", "--dry-run", "--json", "pipelines/shop.yaml")[1])["dead_lettered"] == 3


def test_status_tells_counts_checkpoint_letters_and_runs(ran: Path, pipe: Pipe) -> None:
    [standing] = items(pipe("status", "--json")[1])
    counts = {name: standing[name] for name in ("received", "delivered", "filtered", "deduplicated", "dead_lettered")}
    assert counts == {"received": 6, "delivered": 2, "filtered": 1, "deduplicated": 0, "dead_lettered": 3}
    assert (standing["dead_letters"], standing["pid"], standing["epoch"]) == ({"open": 3}, None, 1)
    assert standing["checkpoint"]["drained"] is True
    assert list(standing["checkpoint"]["positions"]) == ["in/a.jsonl"]
    text = pipe("status", "shop")[1]
    assert "generation 0, byte 55" in text
    assert "       6           2          1              0               3" in text


def test_status_lists_pipelines_that_never_ran_and_those_without_a_file(ran: Path, pipe: Pipe) -> None:
    (ran / "pipelines/idle.yaml").write_text("pipeline: idle\nsource: { generate: {} }\nsink: drop\n")
    (ran / "pipelines/shop.yaml").rename(ran / "shop.txt")
    text = pipe("status")[1]
    assert [line.split()[0] for line in text.splitlines()] == ["PIPELINE", "idle", "shop"]
    assert "never run" in text


def test_an_unknown_pipeline_is_answered_with_the_nearest(ran: Path, pipe: Pipe) -> None:
    for verb in (["status"], ["dlq", "ls"], ["checkpoint", "show"], ["dlq", "replay", "--all"]):
        status, out, err = pipe(*verb, "shpo")
        assert (status, out) == (2, "")
        assert err == "error[usage.unknown_pipeline]: there is no pipeline 'shpo'\n  help: did you mean 'shop'?\n"


def test_letters_are_listed_page_by_page_grouped_and_shown(ran: Path, pipe: Pipe) -> None:
    first = json.loads(pipe("dlq", "ls", "shop", "--limit", "2", "--json")[1])
    rest = json.loads(pipe("dlq", "ls", "shop", "--limit", "2", "--json", "--after", first["next"])[1])
    letters = first["items"] + rest["items"]
    assert (len(letters), rest["next"]) == (3, None)
    assert {letter["event"]["id"] for letter in letters} == {"0-27", "0-36", "0-46"}
    groups = items(pipe("dlq", "groups", "--json")[1])
    assert [group["count"] for group in groups] == [2, 1]
    shown = json.loads(pipe("dlq", "show", letters[0]["id"][:8], "--json")[1])
    assert letters[0].items() <= shown.items()
    assert shown["received"]["id"] == letters[0]["event"]["id"]
    assert "what is wrong" in pipe("dlq", "show", letters[0]["id"])[1]


def test_letters_are_found_by_every_filter(ran: Path, pipe: Pipe) -> None:
    fingerprint = items(pipe("dlq", "groups", "--json")[1])[0]["fingerprint"]
    expected = {
        ("--fingerprint", fingerprint[:6]): 2,
        ("--code", "validate.failed"): 3,
        ("--code", "validate.faild"): 0,
        ("--step", "validate"): 3,
        ("--type", "shop.line"): 3,
        ("--since", "-1h"): 3,
        ("--until", "-1h"): 0,
        ("--since", "yesterday", "--until", "-1h"): 0,
        ("--status", "resolved"): 0,
        ("--status", "any"): 3,
    }
    found = {options: len(items(pipe("dlq", "ls", "--json", *options)[1])) for options in expected}
    assert found == expected
    assert "failed first from 20" in pipe("dlq", "ls", "--since", "-1h")[2]


def test_a_mended_cause_is_replayed_once_and_resolved(ran: Path, pipe: Pipe) -> None:
    fingerprint = items(pipe("dlq", "groups", "--json")[1])[0]["fingerprint"]
    schema = ran / "pipelines/schemas/shop.line/1.json"
    schema.write_text(json.dumps({**SCHEMA, "properties": {"n": {"type": "integer"}}}))
    assert "2 dead letters would be replayed: 2 delivered" in pipe("dlq", "replay", "shop", "-f", fingerprint, "--dry-run")[2]
    status, out, _ = pipe("dlq", "replay", "shop", "--fingerprint", fingerprint[:6], "--json")
    summary = json.loads(out)
    assert status == 0
    assert {k: summary[k] for k in ("selected", "delivered", "filtered", "deduplicated", "failed_again")} == {
        "selected": 2,
        "delivered": 2,
        "filtered": 0,
        "deduplicated": 0,
        "failed_again": 0,
    }
    assert sorted((ran / "out/shop.jsonl").read_text().split()) == sorted(
        ['{"id":1,"total":2}', '{"id":2,"total":4}', '{"id":0,"total":0}', '{"id":-1,"total":-2}']
    )
    assert pipe("dlq", "replay", "shop", "-f", fingerprint)[2] == "shop: no open dead letter was selected\n"
    [standing] = items(pipe("status", "--json")[1])
    assert standing["dead_letters"] == {"open": 1, "resolved": 2}
    status, _, err = pipe("dlq", "replay", "shop", "--all")
    assert (status, "1 failed again" in err) == (4, True)


def test_replay_and_discard_want_to_know_which(ran: Path, pipe: Pipe) -> None:
    for verb in ("replay", "discard"):
        assert "error[usage.choose]" in pipe("dlq", verb, "shop")[2]
        assert "error[usage.choose]" in pipe("dlq", verb, "shop", "--all", "--code", "x")[2]


def test_discarding_asks_or_is_told_not_to(ran: Path, pipe: Pipe) -> None:
    status, _, err = pipe("dlq", "discard", "shop", "--all")
    assert (status, "3 dead letters would be discarded" in err) == (2, True)
    assert json.loads(pipe("dlq", "discard", "shop", "--all", "--yes", "--json")[1]) == {"pipeline": "shop", "discarded": 3}
    assert pipe("dlq", "ls")[1:] == ("", "no dead letters\n")


def test_an_export_is_json_lines_and_never_overwrites(ran: Path, pipe: Pipe) -> None:
    assert pipe("dlq", "export", "shop", "-o", "letters.jsonl")[0] == 0
    documents = [json.loads(line) for line in (ran / "letters.jsonl").read_text().splitlines()]
    assert sorted(str(document["received"]["data"]) for document in documents) == ["{'m': 1}", "{'n': -1}", "{'n': 0}"]
    status, _, err = pipe("dlq", "export", "shop", "-o", "letters.jsonl")
    assert (status, "error[dlq.cannot_write]" in err) == (2, True)
    assert [json.loads(line) for line in pipe("dlq", "export")[1].splitlines()] == documents


def test_dead_letters_can_be_read_while_the_pipeline_file_has_mistakes(ran: Path, pipe: Pipe) -> None:
    (ran / "pipelines/shop.yaml").write_text(PIPELINE.replace("filter: .n", "filtr: .n"))
    assert len(items(pipe("dlq", "ls", "shop", "--json")[1])) == 3


def test_a_checkpoint_is_shown_and_reset_so_that_everything_is_read_again(ran: Path, pipe: Pipe) -> None:
    assert "generation 0, byte 55" in pipe("checkpoint", "show", "shop")[1]
    assert "error[usage.not_confirmed]" in pipe("checkpoint", "reset", "shop", "--all")[2]
    assert "did you mean 'in/a.jsonl'?" in pipe("checkpoint", "reset", "shop", "--partition", "in/b.jsonl", "--yes")[2]
    assert pipe("checkpoint", "reset", "shop", "--all", "--yes")[0] == 0
    assert json.loads(pipe("checkpoint", "show", "shop", "--json")[1])["checkpoint"]["positions"] == {}
    status, out, err = pipe("run", "--once", "--json", "pipelines/shop.yaml")
    assert (status, json.loads(out)["received"], err) == (0, 6, "")


def test_adopting_gives_a_new_run(ran: Path, pipe: Pipe) -> None:
    status, out, err = pipe("checkpoint", "adopt", "shop")
    assert (status, out, err.splitlines()[0]) == (0, "", "shop: adopted, as run 2")


def test_lint_finds_everything_and_says_how_much(project: Path, pipe: Pipe) -> None:
    assert pipe("lint", "pipelines") == (0, "✓ 1 file, 1 sound: no mistakes\n", "")
    (project / "bad.yaml").write_text("pipeline: BAD\nsource: { generate: { cout: 1 } }\nsink: dorp\nbatching: { period: 5 }\n")
    status, out, _ = pipe("lint", "bad.yaml", "pipelines/shop.yaml")
    assert (status, out.count("error["), out.splitlines()[-1]) == (2, 4, "✗ 2 files, 1 sound: 4 mistakes")
    status, out, _ = pipe("lint", "bad.yaml", "--json")
    found = items(out)
    assert [(item["severity"], item["file"], item["line"]) for item in found] == [("error", "bad.yaml", n) for n in (1, 2, 3, 4)]


def test_tests_pass_fail_with_a_difference_and_are_written_as_junit(project: Path, pipe: Pipe) -> None:
    assert pipe("test", "pipelines") == (0, "shop\n  ✓ doubled\n\n1 passed\n", "")
    (project / "pipelines/shop.yaml").write_text(PIPELINE.replace("total: 4 }", "total: 5 }"))
    status, out, _ = pipe("test", "pipelines", "--junit", "reports/junit.xml")
    assert status == 4
    assert '-      "total": 5\n' in out
    assert '+      "total": 4\n' in out
    assert out.endswith("1 test failed, 0 passed\n")
    suite = ElementTree.parse(project / "reports/junit.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"], suite[0].attrib["name"]) == ("1", "1", "doubled")
    [result] = items(pipe("test", "pipelines", "--json")[1])
    assert (result["name"], result["passed"], result["at"]) == ("doubled", False, "pipelines/shop.yaml:17:5")


class Stdin:
    """Standard input as a verb reads it."""

    def __init__(self, text: bytes) -> None:
        self.buffer = io.BytesIO(text)

    def isatty(self) -> bool:
        return False


def test_one_event_is_tried_step_by_step(project: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b'{"n": 2}'))
    status, out, _ = pipe("try", "shop", "--json")
    traces = items(out)
    assert (status, [trace["step"] for trace in traces]) == (0, ["event", "validate", "sold", "total"])
    assert traces[-1]["outputs"][0]["data"] == {"id": 2, "total": 4}
    monkeypatch.setattr("sys.stdin", Stdin(b'{"n": 0}'))
    status, out, _ = pipe("try", "pipelines/shop.yaml")
    assert (status, ".n must be at least 1 (it is 0)" in out) == (4, True)
    monkeypatch.setattr("sys.stdin", Stdin(b"{"))
    status, out, err = pipe("try", "shop")
    assert (status, out, err.startswith("error[decode.")) == (2, "", True)
    assert not (project / ".penstock").exists()


@pytest.mark.parametrize("source", ["file", "stdin", "generate"])
@pytest.mark.parametrize("sink", ["drop", "file", "sqlite", "stdout"])
def test_a_new_pipeline_lints_clean_and_its_tests_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: Pipe, source: str, sink: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert pipe("new", "my-shop", "--from", source, "--to", sink)[0] == 0
    text = (tmp_path / "pipelines/my-shop.yaml").read_text()
    schema = tmp_path / "pipelines" / text.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert json.loads(schema.read_text())["properties"].keys() >= {"source", "sink", "tests"}
    assert pipe("lint", "pipelines") == (0, "✓ 1 file, 1 sound: no mistakes\n", "")
    assert pipe("test", "pipelines")[0] == 0
    status, _, err = pipe("new", "my-shop")
    assert (status, "error[new.exists]" in err) == (2, True)
    assert (tmp_path / "pipelines/my-shop.yaml").read_text() == text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["Shop"], "usage.bad_name"), (["../x"], "usage.bad_name"), (["x", "--to", "sqlit"], "config.unknown_component")],
)
def test_a_new_pipeline_needs_a_name_and_components_that_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pipe: Pipe, arguments: list[str], code: str
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = pipe("new", *arguments)
    assert (status, f"error[{code}]" in err) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_components_are_listed_and_documented(pipe: Pipe) -> None:
    listed = items(pipe("connectors", "--json")[1])
    assert {(item["kind"], item["name"]) for item in listed} >= {("source", "file"), ("sink", "file"), ("transform", "jq")}
    for item in listed:
        assert item["summary"].endswith(".")
        assert all(field["description"] for field in item["fields"]), item["name"]
    [source, sink] = items(pipe("connectors", "file", "--json")[1])
    assert (source["kind"], sink["kind"]) == ("source", "sink")
    text = pipe("connectors", "sqlite")[1]
    assert "on_conflict  update | ignore | error  default update" in text
    assert "did you mean 'sqlite'?" in pipe("connectors", "sqlit")[2]


def test_schemas_are_listed_shown_and_checked(project: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    assert items(pipe("schema", "ls", "--json")[1]) == [{"subject": "shop.line", "versions": [1]}]
    assert json.loads(pipe("schema", "show", "shop.line")[1]) == SCHEMA
    assert pipe("schema", "check") == (0, "", "1 schema, 0 mistakes\n")
    monkeypatch.setattr("sys.stdin", Stdin(b'{"n":1}\n{"n":0}\n\n{\n'))
    status, out, err = pipe("schema", "check", "shop.line@1")
    assert (status, err) == (4, "3 documents, 1 valid, 2 not\n")
    assert [line.split(":")[0] for line in out.splitlines()] == ["line 2", "line 4"]
    (project / "data.json").write_text('{\n "n": 1\n}\n')
    assert pipe("schema", "check", "shop.line", "data.json") == (0, "", "1 document, 1 valid, 0 not\n")
    (project / "pipelines/schemas/shop.line/2.json").write_text('{"type": 7}')
    assert pipe("schema", "check")[0] == 4
    assert "did you mean 'shop.line'?" in pipe("schema", "show", "shop.lin")[2]


def test_the_schema_of_the_pipeline_file_is_printed(pipe: Pipe) -> None:
    assert json.loads(pipe("schema", "config")[1])["properties"].keys() >= {"source", "sink", "tests"}


def test_variables_come_from_a_file(project: Path, pipe: Pipe) -> None:
    (project / "pipelines/shop.yaml").write_text(PIPELINE.replace("out/shop.jsonl", "'${SHOP_TEST_OUT}'"))
    (project / ".env").write_text("SHOP_TEST_OUT=out/other.jsonl\n")
    assert "SHOP_TEST_OUT" in pipe("lint", "pipelines")[1]
    assert pipe("run", "--once", "--env-file", ".env", "pipelines")[0] == 0
    assert (project / "out/other.jsonl").exists()
