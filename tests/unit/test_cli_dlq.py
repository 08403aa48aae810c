"""`pipe dlq`: dead letters listed, shown, replayed, discarded, exported."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from cli_parts import PIPELINE, SCHEMA, Pipe, items

from penstock.state.lock import PipelineLock


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
    assert (
        "2 dead letters would be replayed: 2 delivered"
        in pipe("dlq", "replay", "shop", "--overwrite", "-f", fingerprint, "--dry-run")[2]
    )
    status, out, _ = pipe("dlq", "replay", "shop", "--overwrite", "--fingerprint", fingerprint[:6], "--json")
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
    assert pipe("dlq", "replay", "shop", "--overwrite", "-f", fingerprint)[2] == "shop: no open dead letter was selected\n"
    [standing] = items(pipe("status", "--json")[1])
    assert standing["dead_letters"] == {"open": 1, "resolved": 2}
    status, _, err = pipe("dlq", "replay", "shop", "--overwrite", "--all", "--dry-run")
    assert (status, err) == (4, "shop: 1 dead letter would be replayed: 1 would fail again\n")
    status, _, err = pipe("dlq", "replay", "shop", "--overwrite", "--all")
    assert (status, "1 failed again" in err) == (4, True)


def test_what_is_owed_to_a_sink_that_was_renamed_stays_open_until_it_is_said_which_took_its_place(ran: Path, pipe: Pipe) -> None:
    schema = ran / "pipelines/schemas/shop.line/1.json"
    schema.write_text(json.dumps({**SCHEMA, "properties": {"n": {"type": "integer"}}}))
    renamed = PIPELINE.replace("name: table", "name: orders").replace("out/shop.db", "out/orders.db")
    (ran / "pipelines/shop.yaml").write_text(renamed.replace("  - name: lines\n    file: { path: out/shop.jsonl }\n", ""))
    status, out, err = pipe("dlq", "replay", "shop", "--overwrite", "--code", "validate.failed")
    assert (status, out) == (4, "")
    assert err.splitlines() == [
        "shop: 3 dead letters replayed: 3 left open",
        "warning[dlq.unknown_ledger]: 3 dead letters owed to sink lines, which the pipeline no longer has: left open",
        "warning[dlq.unknown_ledger]: 3 dead letters owed to sink table, which the pipeline no longer has: left open",
        "  pipe dlq replay shop … --renamed lines=SINK  give it to the sink that took its place",
        "  pipe dlq discard shop …                      if nobody wants it",
    ]
    status, out, _ = pipe("dlq", "replay", "shop", "--overwrite", "--all", "--renamed", "table=orders", "--json")
    summary = json.loads(out)
    assert (status, summary["delivered"], summary["failed_again"], summary["left"]) == (4, 2, 1, 0)
    assert summary["unknown_ledgers"] == {"lines": 3}
    assert items(pipe("dlq", "ls", "--json")[1])[0]["status"] == "open"
    assert "error[usage.bad_pair]" in pipe("dlq", "replay", "shop", "--overwrite", "--all", "--renamed", "table")[2]
    assert "error[dlq.unknown_sink]" in pipe("dlq", "replay", "shop", "--overwrite", "--all", "--renamed", "table=x")[2]


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


def test_a_replay_asks_before_an_older_event_may_overwrite_a_newer_one(ran: Path, pipe: Pipe) -> None:
    status, _, said = pipe("dlq", "replay", "shop", "--all")
    assert (status, "error[sink.overwrites]" in said, "sink table" in said) == (3, True, True)
    assert items(pipe("dlq", "ls", "--json")[1]), "no job was made"
    assert pipe("dlq", "replay", "shop", "--all", "--dry-run")[0] == 4
    file = ran / "pipelines" / "shop.yaml"
    file.write_text(file.read_text().replace("key: [id],", "key: [id], on_conflict: ignore,"))
    assert pipe("dlq", "replay", "shop", "--all")[0] == 4


def test_a_run_that_has_only_begun_is_not_taken_for_the_one_before_it(ran: Path, pipe: Pipe) -> None:
    file = ran / "pipelines/shop.yaml"
    file.write_text(PIPELINE.replace("filter: .n", "filter: .n != 7 and .n"))
    asked = ("dlq", "replay", "shop", "--all", "--overwrite", "--no-wait")
    lock = PipelineLock(ran / ".penstock/shop.lock")
    assert lock.acquire() is None
    try:
        assert "error[replay.other_version]" in pipe(*asked)[2]
        with closing(sqlite3.connect(ran / ".penstock/shop.db")) as database:
            database.execute("UPDATE epochs SET pid = ?", [os.getpid() + 1])
            database.commit()
        assert pipe(*asked)[0] == 0
    finally:
        lock.release()
