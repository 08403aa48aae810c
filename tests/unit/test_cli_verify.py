"""`pipe verify`: what it prints, and how it ends."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from cli_parts import Pipe

ALL = ("--from", "2000-01-01", "--to", "2100-01-01")


def test_a_range_without_a_gap_is_told_in_few_lines(ran: Path, pipe: Pipe) -> None:
    status, out, said = pipe("verify", "shop", *ALL)
    assert (status, out.splitlines()[-1]) == (0, "every event is accounted for")
    assert said.startswith("events from 2000-01-01T00:00:00.000Z to before 2100-01-01T00:00:00.000Z")
    report = json.loads(pipe("verify", "shop", *ALL, "--json")[1])
    now = json.loads(pipe("status", "shop", "--json")[1])["items"][0]
    names = ("delivered", "filtered", "deduplicated", "dead_lettered")
    assert {name: report["journal"][name] for name in names} == {name: now[name] for name in names}
    assert f"{now['delivered']:>14,}  delivered" in out
    assert f"{now['dead_lettered']:>14,}  open" in out
    assert (report["accounted"], report["gaps"], report["named"]) == (True, 0, [])


def test_what_is_missing_is_named_with_a_command_that_tells_more(ran: Path, pipe: Pipe) -> None:
    with sqlite3.connect(ran / "out/shop.db") as database:
        database.execute("DELETE FROM shop WHERE id = 2")
    (ran / "out/shop.jsonl").write_text("")
    status, out, _ = pipe("verify", "shop", *ALL)
    report = json.loads(pipe("verify", "shop", *ALL, "--json")[1])
    assert status == 4
    assert out.splitlines()[-1] == f"{report['gaps']} gaps: not every event is accounted for"
    assert report["gaps_by_part"] == {"table": 1, "lines": report["sinks"][1]["outputs"]}
    gap = report["named"][0]
    assert gap == {
        "part": "table",
        "what": gap["what"],
        "event": gap["event"],
        "where": gap["where"],
        "help": f"pipe explain {gap['event']} shop",
    }
    assert f"  table  {gap['event']}: {gap['what']}  ({gap['where']})\n    help: {gap['help']}\n" in out
    status, out, _ = pipe("explain", gap["event"], "shop", "--json")
    assert status == 0


def test_one_sink_alone_and_no_source(ran: Path, pipe: Pipe) -> None:
    (ran / "out/shop.jsonl").write_text("")
    status, out, _ = pipe("verify", "shop", *ALL, "--sink", "table", "--no-source")
    assert (status, "sink lines" in out) == (0, False)
    assert "source file  not looked at: it was not asked for" in out


def test_what_cannot_be_verified_is_refused(ran: Path, pipe: Pipe) -> None:
    assert pipe("verify", "shop", *ALL, "--sink", "nobody")[0] == 2
    assert pipe("verify", "shop", "--from", "2100-01-01", "--to", "2000-01-01")[0] == 2
    assert pipe("verify", "nobody", *ALL)[0] == 2
    file = ran / "pipelines" / "shop.yaml"
    file.write_text(file.read_text() + "journal: off\n")
    status, _, said = pipe("verify", "shop", *ALL)
    assert (status, "error[verify.no_journal]" in said) == (2, True)


def test_a_pipeline_that_never_ran_has_nothing_to_verify(shop: Path, pipe: Pipe) -> None:
    assert pipe("verify", "shop", *ALL)[0] == 3


def test_events_that_were_received_again_count_once_and_are_told(ran: Path, pipe: Pipe) -> None:
    before = json.loads(pipe("verify", "shop", *ALL, "--json")[1])
    assert pipe("checkpoint", "reset", "shop", "--all", "--yes")[0] == 0
    assert pipe("run", "--once", "pipelines/shop.yaml")[0] == 0
    status, out, _ = pipe("verify", "shop", *ALL, "--json")
    report = json.loads(out)
    assert (status, report["named"]) == (0, [])
    events = before["journal"]["events"]
    assert report["journal"] == before["journal"] | {"received_again": events, "began": report["journal"]["began"]}
    assert (report["source"], report["dead_letters"]) == (before["source"], before["dead_letters"])
    assert f"{events:>14,}  lines of events that were received again" in pipe("verify", "shop", *ALL)[1]
