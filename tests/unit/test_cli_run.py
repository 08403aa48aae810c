"""`pipe run` on a small project: what it prints, what it exits with, what it leaves alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import PIPELINE, SUMMARY_KEYS, Pipe


def test_run_says_the_whole_sum_in_one_line_and_prints_nothing(shop: Path, pipe: Pipe) -> None:
    status, out, err = pipe("run", "--once", "pipelines")
    assert (status, out) == (0, "")
    assert err.startswith(
        "shop: done: received 6 = delivered 2 + filtered 1 + deduplicated 0 + dead-lettered 3; written: table 2, lines 2; "
    )
    assert err.endswith("; 3 open dead letters\n")


def test_run_json_is_one_object_with_the_documented_keys(shop: Path, pipe: Pipe) -> None:
    status, out, err = pipe("run", "--once", "--json", "pipelines/shop.yaml")
    assert (status, err, out.count("\n")) == (0, "", 1)
    summary = json.loads(out)
    assert list(summary) == SUMMARY_KEYS
    assert summary["sinks"] == {"table": {"written": 2}, "lines": {"written": 2}}
    assert (summary["received"], summary["delivered"], summary["filtered"], summary["dead_lettered"]) == (6, 2, 1, 3)


def test_dead_letters_fail_a_run_only_where_that_was_asked_for(shop: Path, pipe: Pipe) -> None:
    assert pipe("run", "--once", "--fail-on-dead-letters", "--max-events", "3", "pipelines/shop.yaml")[0] == 0
    assert pipe("run", "--once", "--fail-on-dead-letters", "pipelines/shop.yaml")[0] == 4
    assert pipe("run", "--once", "--fail-on-dead-letters", "pipelines/shop.yaml")[0] == 0


def test_json_and_a_stdout_sink_do_not_go_together(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines/out.yaml").write_text("pipeline: out\nsource: { generate: { count: 1 } }\nsink: stdout\n")
    status, out, err = pipe("run", "--once", "--json", "pipelines/out.yaml")
    assert (status, out) == (2, "")
    assert err.startswith("error[run.json_with_stdout]: --json prints to stdout, and so does the sink 'stdout' of out")
    assert not (shop / ".penstock").exists()


def test_one_pipeline_that_fails_does_not_stop_the_others(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines/bad.yaml").write_text(
        "pipeline: bad\nsource: { generate: { count: 3 } }\ntransforms: [{ jq: 'error(\"boom\")', on_error: stop }]\nsink: drop\n"
    )
    status, out, err = pipe("run", "--once", "--json", "pipelines/bad.yaml", "pipelines/shop.yaml")
    summaries = {summary["pipeline"]: summary for summary in map(json.loads, out.splitlines())}
    assert status == 1
    assert summaries["bad"]["error"]["message"] == "boom"
    assert (summaries["shop"]["received"], "error" in summaries["shop"]) == (6, False)
    [incident] = [json.loads(line) for line in err.splitlines()]
    assert (incident["level"], incident["pipeline"], incident["message"]) == ("error", "bad", "boom")


def test_mistakes_of_all_files_are_said_before_anything_runs(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines/one.yaml").write_text("pipeline: one\nsource: { generate: { cout: 1 } }\nsink: drop\n")
    (shop / "pipelines/two.yaml").write_text("pipeline: two\nsource: { generate: {} }\nsink: dorp\n")
    status, out, err = pipe("run", "--once", "pipelines")
    assert (status, out) == (2, "")
    assert err.count("error[") == 2
    assert "did you mean 'count'?" in err
    assert "did you mean 'drop'?" in err
    assert not (shop / ".penstock").exists()


def test_two_files_of_one_pipeline_are_refused(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines/other.yaml").write_text(PIPELINE)
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
def test_options_that_cannot_be_are_refused(shop: Path, pipe: Pipe, options: list[str], code: str) -> None:
    status, out, err = pipe("run", "--once", *options, "pipelines/shop.yaml")
    assert (status, out) == (2, "")
    assert f"error[{code}]" in err
    assert not (shop / ".penstock").exists()


def test_a_dry_run_shows_what_would_happen_and_touches_nothing(shop: Path, pipe: Pipe) -> None:
    status, out, err = pipe("run", "--once", "--dry-run", "pipelines/shop.yaml")
    lines = out.splitlines()
    assert status == 0
    assert lines[0].startswith('0-0  → table, lines  {"specversion":"1.0"')
    assert lines[0].endswith('"data":{"id":1,"total":2}}')
    assert lines[2:4] == ["0-18  filtered", "0-27  dead letter  validate: .n must be at least 1 (it is 0) [validate.failed]"]
    assert "nothing was delivered, no state was touched; of 6 events" in err
    assert not (shop / ".penstock").exists()
    assert not (shop / "out").exists()
    assert json.loads(pipe("run", "--once", "--dry-run", "--json", "pipelines/shop.yaml")[1])["dead_lettered"] == 3


def test_variables_come_from_a_file(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines/shop.yaml").write_text(PIPELINE.replace("out/shop.jsonl", "'${SHOP_TEST_OUT}'"))
    (shop / ".env").write_text("SHOP_TEST_OUT=out/other.jsonl\n")
    assert "SHOP_TEST_OUT" in pipe("lint", "pipelines")[1]
    assert pipe("run", "--once", "--env-file", ".env", "pipelines")[0] == 0
    assert (shop / "out/other.jsonl").exists()
