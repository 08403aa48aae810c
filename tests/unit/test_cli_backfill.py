"""`pipe backfill`: begun, listed, reported, gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_parts import Pipe, items

ALL = ("--from", "2000-01-01", "--to", "2100-01-01")


def change(project: Path) -> None:
    """Another total."""
    file = project / "pipelines" / "shop.yaml"
    file.write_text(file.read_text().replace("(.n * 2)", "(.n * 3)"))


def test_a_dry_run_says_what_would_become_of_the_events(ran: Path, pipe: Pipe) -> None:
    status, out, said = pipe("backfill", "shop", *ALL)
    assert status == 0
    assert said.startswith("events from 2000-01-01T00:00:00.000Z to before 2100-01-01T00:00:00.000Z")
    report = json.loads(pipe("backfill", "shop", *ALL, "--json")[1])
    status_now = json.loads(pipe("status", "shop", "--json")[1])["items"][0]
    names = ("delivered", "filtered", "deduplicated", "dead_lettered")
    assert {name: report[name] for name in names} == {name: status_now[name] for name in names}
    assert f"{report['delivered']:>14,}  delivered" in out
    assert "dead letters it would make" in out


def test_a_shadow_of_a_changed_file_fails_the_check_and_writes_a_page(ran: Path, pipe: Pipe) -> None:
    clean = pipe("backfill", "shop", *ALL, "--mode", "shadow", "--fail-on-diff")
    assert (clean[0], "clean:" in clean[1]) == (0, True)
    change(ran)
    page = ran / "report.html"
    status, out, said = pipe("backfill", "shop", *ALL, "--mode", "shadow", "--fail-on-diff", "--html", str(page))
    assert (status, ".data.total" in out) == (4, True)
    assert f"the page is {page}" in said
    assert page.read_text().startswith("<!doctype html>")
    assert pipe("backfill", "shop", *ALL, "--mode", "shadow")[0] == 0
    assert pipe("backfill", "shop", *ALL, "--mode", "shadow", "--ignore", ".data.total", "--fail-on-diff")[0] == 0


def test_a_native_range_says_what_the_source_held(ran: Path, pipe: Pipe) -> None:
    records = ran / "in" / "more.jsonl"
    records.write_text('{"n": 7}\n')
    status, out, _ = pipe("backfill", "shop", *ALL, "--source", "native")
    assert (status, "read from the source: 6 events of the range" in out) == (0, True)
    assert f"{1:>14,}  records beside them may be of the range" in out
    assert "0-0 of in/more.jsonl: it has no time" in out
    page = ran / "report.html"
    report = json.loads(pipe("backfill", "shop", *ALL, "--source", "native", "--json", "--html", str(page))[1])
    assert report["native"] == {
        "events": 6,
        "unknown": 0,
        "changed": 0,
        "unplaced": 1,
        "examples": [{"id": "0-0", "partition": "in/more.jsonl", "why": "it has no time"}],
    }
    assert report["dead_lettered"] == json.loads(pipe("backfill", "shop", *ALL, "--json")[1])["dead_lettered"]
    assert "Read from the source" in page.read_text()
    live = pipe("backfill", "shop", *ALL, "--source", "native", "--mode", "live", "--overwrite")
    assert (live[0], "read from the source: 6 events of the range" in live[2]) == (0, True)


def test_against_another_file_or_a_version(ran: Path, pipe: Pipe) -> None:
    other = ran / "pipelines" / "next" / "shop.yaml"
    other.parent.mkdir()
    other.write_text((ran / "pipelines" / "shop.yaml").read_text().replace("(.n * 2)", "(.n * 3)"))
    (other.parent / "schemas").symlink_to(ran / "pipelines" / "schemas")
    report = json.loads(pipe("backfill", "shop", *ALL, "--mode", "shadow", "--against", str(other), "--json")[1])
    assert (report["verdict"], report["against"]) == ("different", str(other))
    old = json.loads(pipe("backfill", "shop", *ALL, "--mode", "shadow", "--json")[1])["version"]
    change(ran)
    report = json.loads(pipe("backfill", "shop", *ALL, "--mode", "shadow", "--against", old[:12], "--json")[1])
    assert report["verdict"] == "clean"


def test_backfills_are_listed_and_reported_later(ran: Path, pipe: Pipe) -> None:
    assert pipe("backfill", "ls")[2] == "no jobs\n"
    first = json.loads(pipe("backfill", "shop", *ALL, "--json")[1])
    pipe("backfill", "start", "shop", *ALL, "--mode", "shadow")
    listed = items(pipe("backfill", "ls", "--json")[1])
    assert [(job["kind"], job["state"], job["done"] == job["total"]) for job in listed] == [("backfill", "done", True)] * 2
    assert first["job"] == listed[1]["id"]
    assert json.loads(pipe("backfill", "report", first["job"][:6], "--json")[1]) == first
    assert first["job"] in pipe("backfill", "ls", "shop")[1]
    assert "done" in pipe("backfill", "cancel", first["job"])[2]
    status, _, said = pipe("backfill", "resume", first["job"])
    assert (status, "job.over" in said) == (3, True)


def test_a_changed_version_runs_only_once_it_was_let_through(ran: Path, pipe: Pipe) -> None:
    file = ran / "pipelines" / "shop.yaml"
    file.write_text(file.read_text() + "promote: required\n")
    assert pipe("run", "--once", str(file))[0] == 0  # the policy is no other version
    change(ran)
    status, _, said = pipe("run", "--once", str(file))
    assert (status, "version.not_promoted" in said) == (2, True)
    job = json.loads(pipe("backfill", "shop", *ALL, "--mode", "shadow", "--json")[1])["job"]
    status, _, said = pipe("backfill", "promote", job)
    assert (status, "error[backfill.not_clean]" in said) == (2, True)
    status, out, _ = pipe("backfill", "promote", job, "--accept-differences", "--json")
    promotion = json.loads(out)
    assert (status, promotion["job"], promotion["differences"]) == (0, job, 2)
    assert pipe("run", "--once", str(file))[0] == 0
    file.write_text(file.read_text().replace("(.n * 3)", "(.n * 2)"))
    assert pipe("run", "--once", str(file))[0] == 0  # it ran before: nothing stands in the way back


def test_only_a_shadow_that_is_done_and_clean_lets_a_version_through(ran: Path, pipe: Pipe) -> None:
    dry = json.loads(pipe("backfill", "shop", *ALL, "--json")[1])["job"]
    assert "error[backfill.not_shadow]" in pipe("backfill", "promote", dry)[2]
    empty = json.loads(pipe("backfill", "shop", "--from", "2000-01-01", "--to", "2000-01-02", "--mode", "shadow", "--json")[1])
    assert "error[backfill.not_clean]" in pipe("backfill", "promote", empty["job"])[2]
    clean = json.loads(pipe("backfill", "shop", *ALL, "--mode", "shadow", "--json")[1])["job"]
    status, _, said = pipe("backfill", "promote", clean)
    assert (status, "may run, by" in said) == (0, True)
    change(ran)
    assert "error[backfill.changed]" in pipe("backfill", "promote", clean)[2]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("shop", "--from", "now", "--to", "-1h"), "backfill.empty_range"),
        (("shop", *ALL, "--filter", ".data.("), "backfill.filter"),
        (("shop", *ALL, "--rate", "often"), "usage.bad_rate"),
        (("shop", *ALL, "--mode", "shadow", "--ignore", "data.ts"), "usage.bad_path"),
        (("shop", *ALL, "--fail-on-diff"), "usage.invalid"),
        (("shop", *ALL, "--mode", "shadow", "--against", "0123"), "version.unknown"),
        (("shop", *ALL, "--html", "/dev/null/x"), "backfill.page"),
        (("nobody", *ALL), "usage.unknown_pipeline"),
        (("shop",), "usage.invalid"),
        (("report", "x"), "job.unknown"),
    ],
)
def test_what_cannot_be_done_is_said(ran: Path, pipe: Pipe, arguments: tuple[str, ...], code: str) -> None:
    status, out, said = pipe("backfill", *arguments)
    assert (status, out) == (2, "")
    assert f"error[{code}]" in said


def test_without_a_journal_there_is_nothing_to_read(ran: Path, pipe: Pipe) -> None:
    file = ran / "pipelines" / "shop.yaml"
    file.write_text(file.read_text() + 'journal: "off"\n')
    status, _, said = pipe("backfill", "shop", *ALL)
    assert (status, "error[backfill.no_journal]" in said) == (2, True)
