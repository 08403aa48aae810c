"""`pipe explain`: past events, computed again under the version that handled them, another file, or a stored version."""

from __future__ import annotations

import importlib
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_parts import PIPELINE, SCHEMA, Pipe, items

LINES = "in/a.jsonl"
KEYS = (
    "pipeline version received_at partition position outcome step letter event computed_under".split()
    + "steps routes recomputed doubts agreement fault letter_status later against".split()
)


def lines_from(text: str, first: str) -> list[str]:
    """The lines from the one that begins so."""
    lines = text.splitlines()
    return lines[next(n for n, line in enumerate(lines) if line.startswith(first)) :]


def without_times(lines: list[str]) -> list[str]:
    return [line.rpartition("  ")[0] if line.endswith(" ms") else line for line in lines]


def test_an_event_is_shown_step_by_step(ran: Path, pipe: Pipe) -> None:
    status, out, err = pipe("explain", "0-9")
    assert (status, err) == (0, "")
    head = out.splitlines()
    assert head[0] == "0-9  a.record  delivered"
    assert [line.split()[0] for line in head[1:7]] == ["pipeline", "version", "received", "source", "partition", "position"]
    assert head[1].split()[1:] == ["shop"]
    assert head[2].endswith(", today's")
    assert head[6] == "  position   generation 0, byte 18"
    assert without_times(lines_from(out, "event")) == [
        "event  changed",
        '  ~ .type  "a.record" → "shop.line"',
        "validate  validate  unchanged",
        "sold  filter  unchanged",
        "total  jq  changed",
        "  - .data.n  2",
        "  + .data.id  2",
        "  + .data.total  4",
        "→ table  sqlite  takes it",
        "→ lines  file  takes it",
        "",
        "outcome  delivered; computed again, it is the same",
    ]


def test_a_filtered_event_says_where_it_ended(ran: Path, pipe: Pipe) -> None:
    assert without_times(lines_from(pipe("explain", "0-18", "shop")[1], "sold")) == [
        "sold  filter  filtered",
        "",
        "outcome  filtered at sold; computed again, it is the same",
    ]


def test_a_dead_letter_is_named_with_why_it_failed(ran: Path, pipe: Pipe) -> None:
    out = pipe("explain", "0-27")[1]
    [letter] = [item["id"] for item in items(pipe("dlq", "ls", "--json")[1]) if item["event"]["id"] == "0-27"]
    told = without_times(lines_from(out, "validate"))
    assert told[0] == "validate  validate  failed"
    assert told[1].endswith("[validate.failed]")
    assert told[-3:] == [
        "outcome  dead-lettered at validate; computed again, it is the same",
        f"  dead letter {letter}  open  {told[1].strip().removesuffix('  [validate.failed]')}",
        f"  pipe dlq show {letter[:10]}  all about it",
    ]


def test_json_has_every_event_as_it_was(ran: Path, pipe: Pipe) -> None:
    [event] = items(pipe("explain", "0-9", "--json")[1])
    assert list(event) == KEYS
    assert event["event"] == {
        "specversion": "1.0",
        "id": "0-9",
        "source": event["event"]["source"],
        "type": "a.record",
        "data": {"n": 2},
    }
    assert [(step["step"], step["happened"]) for step in event["steps"]] == [
        ("event", "changed"),
        ("validate", "unchanged"),
        ("sold", "unchanged"),
        ("total", "changed"),
    ]
    assert event["steps"][-1]["outputs"][0]["data"] == {"id": 2, "total": 4}
    assert [(route["sink"], route["outputs"]) for route in event["routes"]] == [("table", ["0-9"]), ("lines", ["0-9"])]
    assert event["recomputed"] == {"outcome": "delivered", "step": None, "error": None}
    assert event["agreement"] == {"verdict": "same", "why": None}
    [failed] = items(pipe("explain", "0-27", "--json")[1])
    assert (failed["letter_status"], failed["step"], failed["recomputed"]["error"]["code"]) == (
        "open",
        "validate",
        "validate.failed",
    )


def test_a_schema_changed_in_place_changes_nothing_of_the_past(ran: Path, pipe: Pipe) -> None:
    schema = ran / "pipelines/schemas/shop.line/1.json"
    schema.write_text(json.dumps({**SCHEMA, "properties": {"n": {"type": "integer"}}}))
    status, out, _ = pipe("explain", "0-27", "--against", "pipelines/shop.yaml")
    assert status == 0
    assert "not today's" in out.splitlines()[2]
    assert "outcome  dead-lettered at validate; computed again, it is the same" in out
    told = without_times(lines_from(out, "against pipelines/shop.yaml"))
    assert told[-2:] == [
        "  so it would be delivered, and what goes out changes:",
        told[-1],
    ]
    assert told[-1] == '    + 0-27 to table, lines  {"id":0,"total":0}'
    [event] = items(pipe("explain", "0-27", "--against", "pipelines/shop.yaml", "--json")[1])
    assert (event["recomputed"]["outcome"], event["against"]["recomputed"]["outcome"]) == ("dead_lettered", "delivered")


def test_another_file_tells_what_would_go_out_elsewhere(ran: Path, pipe: Pipe) -> None:
    (ran / "schemas").symlink_to(ran / "pipelines/schemas")
    (ran / "other.yaml").write_text(
        PIPELINE.replace(".n * 2", ".n * 3").replace("  - name: lines\n", "  - name: lines\n    when: .id > 5\n")
    )
    assert lines_from(pipe("explain", "0-9", "--against", "other.yaml", "--project", str(ran))[1], "  so ") == [
        "  so it would be delivered, and what goes out changes:",
        '    - .to[1]  "lines"',
        "    ~ .event.data.total  4 → 6",
    ]
    (ran / "same.yaml").write_text(PIPELINE)
    assert pipe("explain", "0-9", "--against", "same.yaml")[1].endswith("  so it would be delivered, and the same goes out\n")


def test_a_version_that_is_not_stored_says_what_can_be_done(ran: Path, pipe: Pipe) -> None:
    (ran / "pipelines/shop.yaml").write_text(PIPELINE.replace(".n * 2", ".n * 3"))
    with sqlite3.connect(ran / ".penstock/shop.db") as database:
        database.execute("DELETE FROM versions")
    database.close()
    status, out, _ = pipe("explain", "0-9")
    assert status == 0
    told = lines_from(out, "outcome")
    assert told[0] == "outcome  delivered"
    assert told[1].startswith("  error[version.unknown]: the version ")
    assert "--against FILE" in told[-1]
    status, _, err = pipe("explain", "0-9", "--version", "feed")
    assert (status, err.splitlines()[0]) == (2, "error[version.unknown]: the version feed is not stored")


def test_an_old_version_is_computed_as_it_was_and_any_stored_one_on_demand(ran: Path, pipe: Pipe) -> None:
    old = items(pipe("explain", "0-9", "--json")[1])[0]["version"]
    (ran / "pipelines/shop.yaml").write_text(PIPELINE.replace(".n * 2", ".n * 3"))
    (ran / "in/b.jsonl").write_text('{"n": 3, "x": "padding"}\n{"n": 7}\n')
    assert pipe("run", "--once", "shop")[0] == 0
    [first] = items(pipe("explain", "0-9", "--json")[1])
    assert (first["steps"][-1]["outputs"][0]["data"]["total"], first["agreement"]["verdict"]) == (4, "same")
    [second] = items(pipe("explain", "--where", ".data.n == 7", "--json")[1])
    assert (second["steps"][-1]["outputs"][0]["data"]["total"], second["agreement"]["verdict"]) == (21, "same")
    out = pipe("explain", second["event"]["id"], "--version", old[:8])[1]
    assert "+ .data.total  14" in out
    assert f"{second['version']} handled it, {old} computes here" in out
    assert lines_from(out, "outcome") == ["outcome  delivered"]


def test_what_replays_made_of_it_is_told(ran: Path, pipe: Pipe) -> None:
    schema = ran / "pipelines/schemas/shop.line/1.json"
    schema.write_text(json.dumps({**SCHEMA, "properties": {"n": {"type": "integer"}}}))
    assert pipe("dlq", "replay", "shop", "--overwrite", "--all")[0] == 4
    out = pipe("explain", "0-27")[1]
    [replayed] = [line for line in out.splitlines() if line.startswith("  replayed ")]
    assert ": delivered  job " in replayed
    assert "  resolved  " in out
    [event] = items(pipe("explain", "0-46", "--json")[1])
    assert [(later["outcome"], later["step"]) for later in event["later"]] == [("dead_lettered", "validate")]


def test_python_code_that_changed_is_never_taken_for_the_old_one(shop: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = shop / "explained_steps.py"
    code.write_text("def double(data):\n    return {'id': data['n'], 'total': data['n'] * 2}\n")
    (shop / "pipelines/shop.yaml").write_text(
        PIPELINE.replace("jq: '{id: .n, total: (.n * 2)}'", "python: explained_steps:double")
    )
    assert pipe("run", "--once", "shop")[0] == 0
    code.write_text("def double(data):\n    return {'id': data['n'], 'total': data['n'] * 3}\n")
    sys.modules.pop("explained_steps")
    importlib.invalidate_caches()
    out = pipe("explain", "0-9")[1]
    sys.modules.pop("explained_steps")
    assert "  the code of step total has changed since" in out.splitlines()
    assert lines_from(out, "outcome") == [
        "outcome  delivered; computed again, it differs: its output, or where it goes, is another than was recorded "
        "(the code of step total has changed since)"
    ]


def test_events_are_found_by_what_is_in_them(ran: Path, pipe: Pipe) -> None:
    found: dict[tuple[str, ...], list[Any]] = {
        ("--where", ".data.n > 0"): [1, 2, 3],
        ("--where", ".data.n > 0", "--limit", "2"): [1, 2],
        ("shop", "--where", '.data.n > 1 and .type == "shop.line"', "--last", "1h"): [2, 3],
        ("--last", "1h"): [1, 2, 3, 0, -1, None],
        ("shop", "--from", "-1h", "--to", "now"): [1, 2, 3, 0, -1, None],
    }
    for options, expected in found.items():
        status, out, err = pipe("explain", *options, "--json")
        assert (status, [item["event"]["data"].get("n") for item in items(out)]) == (0, expected), err
    assert "there are more: the first 2 are shown (--limit)" in pipe("explain", "--where", ".data.n > 0", "--limit", "2")[2]
    assert "in the last" not in pipe("explain", "--last", "1h")[2]
    _, out, err = pipe("explain", "--where", "1 / .data.m > 0", "--json")
    assert [item["event"]["data"] for item in items(out)] == [{"m": 1}]
    assert "--where failed for 5 events, which are left out: " in err
    status, _, err = pipe("explain", "--where", ".data.n > 0", "--to", "-1h")
    assert (status, err.splitlines()[1]) == (2, "error[explain.not_found]: no such event was received")
    assert "the journal of shop covers 20" in err
    assert pipe("explain", "--where", ".data.n >", "--last", "1h")[0] == 2


def test_a_beginning_of_an_id_is_enough_where_it_is_one_event(ran: Path, pipe: Pipe) -> None:
    assert items(pipe("explain", "0-2", "--json")[1])[0]["event"]["id"] == "0-27"
    status, _, err = pipe("explain", "0-", "--last", "1h")
    assert status == 2
    assert err.splitlines()[:2] == [
        "error[explain.ambiguous]: 6 events begin with '0-'",
        "  why: they are 0-0, 0-9, 0-18, 0-27, 0-36, 0-46",
    ]
    status, _, err = pipe("explain", "nothing")
    assert status == 2
    assert err.splitlines()[0] == "error[explain.not_found]: no event has the id 'nothing'"
    assert err.splitlines()[1].startswith("  why: the journal of shop covers 20")


def test_without_a_name_all_journals_are_looked_through(ran: Path, pipe: Pipe) -> None:
    text = PIPELINE.replace("pipeline: shop", "pipeline: other").replace("out/", "out/other-") + "journal: { path: elsewhere }\n"
    (ran / "pipelines/other.yaml").write_text(text)
    (ran / "pipelines/broken.yaml").write_text("pipeline: broken\nsource: nothing\nstate: sqlite:there/\n")
    assert pipe("run", "--once", "other")[0] == 0
    status, out, err = pipe("explain", "0-9", "--json")
    assert (status, [item["pipeline"] for item in items(out)]) == (0, ["other", "shop"])
    assert "there is no source 'nothing'" in err
    assert [item["pipeline"] for item in items(pipe("explain", "0-9", "other", "--json")[1])] == ["other"]


def test_a_pipeline_whose_file_is_gone_is_explained_from_its_store(ran: Path, pipe: Pipe) -> None:
    (ran / "pipelines/shop.yaml").unlink()
    status, out, _ = pipe("explain", "0-9")
    assert status == 0
    assert "not today's" in out
    assert "outcome  delivered; computed again, it is the same" in out
    assert pipe("explain", "0-9", "shop")[0] == 0


def test_what_retention_has_removed_is_said(ran: Path, pipe: Pipe) -> None:
    journal = ran / ".penstock/journal/shop"
    for path in journal.glob("0000000001*"):
        path.rename(journal / path.name.replace("0000000001", "0000000002"))
    why = pipe("explain", "nothing")[2].splitlines()[1]
    assert why.endswith(", and what came before is gone by its retention (30d, 10240 MiB)")


def test_what_a_sink_refused_in_its_commit_is_told(shop: Path, pipe: Pipe) -> None:
    (shop / "out").mkdir()
    with sqlite3.connect(shop / "out/shop.db") as database:
        database.execute("CREATE TABLE shop (id INTEGER PRIMARY KEY, total INTEGER CHECK (total < 5))")
    database.close()
    assert pipe("run", "--once", "shop")[0] == 0
    (shop / "in/b.jsonl").write_text('{"n": 9, "more": 1}\n')
    assert pipe("run", "--once", "shop")[0] == 0
    [refused] = items(pipe("explain", "--where", ".data.n == 9", "--json")[1])
    assert (refused["outcome"], refused["step"], refused["letter_status"]) == ("dead_lettered", "table", "open")
    assert refused["recomputed"]["outcome"] == "delivered"
    assert refused["agreement"] == {"verdict": "beyond", "why": "table refused it, behind the steps"}


def test_an_event_that_a_worker_could_not_end_is_not_tried_again(shop: Path, pipe: Pipe) -> None:
    text = PIPELINE.replace("{id: .n, total: (.n * 2)}", "if .n == 2 then last(repeat(1)) else {id: .n, total: .n} end")
    (shop / "pipelines/shop.yaml").write_text(text + "workers: 1\ntransform_timeout: 300ms\n")
    assert pipe("run", "--once", "shop")[0] == 0
    told = lines_from(pipe("explain", "0-9")[1], "outcome")
    assert told[0] == (
        "outcome  dead-lettered at total; the steps took longer than 0.3 s for one event: "
        "it is not computed again here, where nothing would end that"
    )


def test_without_a_journal_it_says_so(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines/shop.yaml").write_text(PIPELINE + "journal: off\n")
    status, _, err = pipe("explain", "0-9", "shop")
    assert (status, err.splitlines()[0]) == (2, "error[journal.off]: shop keeps no journal")
    status, _, err = pipe("explain", "0-9")
    assert (status, err.splitlines()[1]) == (2, "  why: there is no journal here")


@pytest.mark.parametrize("arguments", [[], ["a", "b", "c"], ["--last", "1h", "--from", "-2h"], ["a", "--where", ".", "b"]])
def test_what_is_asked_must_be_plain(shop: Path, pipe: Pipe, arguments: list[str]) -> None:
    assert pipe("explain", *arguments)[0] == 2


def test_hostile_ids_and_data_move_no_cursor(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines/shop.yaml").write_text(PIPELINE.replace("event: { type", "event: { id: .id, type"))
    (shop / LINES).write_text(json.dumps({"n": 1, "id": "\x1b[2Jx", "text": "\x1b]0;\u202e"}) + "\n")
    assert pipe("run", "--once", "shop")[0] == 0
    status, out, _ = pipe("explain", "--last", "1h")
    assert status == 0
    assert "\x1b" not in out
    assert "\u202e" not in out
