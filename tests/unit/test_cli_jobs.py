"""`pipe jobs`, and what `pipe dlq replay` makes of jobs, where no run is alive."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_parts import PIPELINE, SCHEMA, Pipe, items


def mend(shop: Path) -> None:
    properties = {"n": {"type": "integer"}}
    (shop / "pipelines/schemas/shop.line/1.json").write_text(json.dumps({**SCHEMA, "properties": properties}))


def version_of(pipe: Pipe) -> str:
    [standing] = items(pipe("status", "--json")[1])
    found: str = standing["version"]
    return found


def shown(pipe: Pipe, job: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(pipe("jobs", "show", job, "--json")[1])
    return found


def test_a_job_that_waits_is_listed_paused_resumed_and_shown(ran: Path, pipe: Pipe) -> None:
    mend(ran)
    status, out, _ = pipe(
        "dlq", "replay", "shop", "--overwrite", "--code", "validate.failed", "--no-wait", "--rate", "90/s", "--json"
    )
    made = json.loads(out)
    assert (status, made["state"], made["selected"]) == (0, "waiting", 0)
    job = made["job"]
    [listed] = items(pipe("jobs", "ls", "--open", "--json")[1])
    assert (listed["id"], listed["pipeline"], listed["kind"], listed["state"]) == (job, "shop", "replay", "waiting")
    assert (listed["done"], listed["total"], listed["options"]["rate"]) == (0, 3, 90.0)
    assert pipe("jobs", "pause", job[:5])[2] == f"shop: job {job}, replay: paused, 0 of 3 done\n"
    assert "paused" in pipe("status", "shop")[1]
    status, _, said = pipe("jobs", "resume", job)
    assert (status, said.splitlines()[-1]) == (4, f"shop: job {job}, replay: done, 3 of 3 done")  # one failed again
    found = shown(pipe, job)
    assert {name: found["counts"][name] for name in ("received", "delivered", "dead_lettered")} == {
        "received": 3, "delivered": 2, "dead_lettered": 1,
    }  # fmt: skip
    lines = pipe("jobs", "show", job)[1]
    assert "3 of 3" in lines
    assert '"rate":90' in lines
    assert job in pipe("jobs", "ls")[1]
    assert items(pipe("jobs", "ls", "--open", "--json")[1]) == []


def test_a_job_that_nobody_began_is_cancelled_at_once(ran: Path, pipe: Pipe) -> None:
    job = json.loads(pipe("dlq", "replay", "shop", "--overwrite", "--all", "--no-wait", "--json")[1])["job"]
    status, out, _ = pipe("jobs", "cancel", job, "--json")
    assert (status, json.loads(out)["state"]) == (0, "cancelled")
    assert pipe("jobs", "resume", job)[2] == f"shop: job {job}, replay: cancelled, 0 of 3 done\n"
    assert [letter["status"] for letter in items(pipe("dlq", "ls", "--json")[1])] == ["open"] * 3


def test_jobs_that_there_are_not_are_named(ran: Path, pipe: Pipe) -> None:
    assert pipe("jobs", "ls")[2] == "no jobs\n"
    status, _, err = pipe("jobs", "show", "abc")
    assert (status, "error[job.unknown]" in err) == (2, True)


def test_a_replay_goes_through_a_stored_version_where_it_is_asked_to(ran: Path, pipe: Pipe) -> None:
    strict = version_of(pipe)
    mend(ran)
    assert pipe("run", "--once", "pipelines/shop.yaml")[0] == 0
    mended = version_of(pipe)
    assert mended != strict
    summary = json.loads(pipe("dlq", "replay", "shop", "--overwrite", "--all", "--version", strict[:10], "--json")[1])
    assert (summary["delivered"], summary["failed_again"]) == (0, 3)
    (ran / "pipelines/schemas/shop.line/1.json").write_text(json.dumps(SCHEMA))
    dry = json.loads(pipe("dlq", "replay", "shop", "--overwrite", "--all", "--version", mended, "--dry-run", "--json")[1])
    summary = json.loads(pipe("dlq", "replay", "shop", "--overwrite", "--all", "--version", mended, "--json")[1])
    assert (summary["delivered"], summary["failed_again"]) == (dry["delivered"], dry["failed_again"]) == (2, 1)
    letters = items(pipe("dlq", "ls", "--json")[1])
    assert [(letter["status"], letter["version"]) for letter in letters] == [("open", mended)]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (("  - name: lines\n", "  - name: rows\n"), "replay.other_sinks"),
        (("  event: { type: shop.line }\n", '  event: { type: shop.line, id: ".n | tostring" }\n'), "replay.other_keys"),
    ],
)
def test_a_version_with_other_sinks_or_other_ids_cannot_be_replayed_through(
    shop: Path, pipe: Pipe, change: tuple[str, str], code: str
) -> None:
    file = shop / "pipelines/shop.yaml"
    keyed = PIPELINE + "dedup: { window: 1h }\n"
    file.write_text(keyed)
    assert pipe("run", "--once", "pipelines/shop.yaml")[0] == 0
    old = version_of(pipe)
    file.write_text(keyed.replace(*change))
    status, _, err = pipe("dlq", "replay", "shop", "--overwrite", "--all", "--version", old)
    assert (status, f"error[{code}]" in err) == (1, True)
    [job] = items(pipe("jobs", "ls", "--json")[1])
    assert (job["state"], job["error"]["code"]) == ("failed", code)


def test_a_version_that_is_not_stored_and_a_rate_that_is_none_are_refused_before_a_job_is_made(ran: Path, pipe: Pipe) -> None:
    for options, code in ((("--version", "abcdef"), "version.unknown"), (("--rate", "fast"), "usage.bad_rate")):
        status, _, err = pipe("dlq", "replay", "shop", "--overwrite", "--all", *options)
        assert (status, f"error[{code}]" in err) == (2, True)
    assert items(pipe("jobs", "ls", "--json")[1]) == []
