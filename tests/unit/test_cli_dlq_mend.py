"""`pipe dlq edit | discard | export | import | to-test | stats`: dead letters, worked with."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_parts import PIPELINE, Pipe, Stdin, items

from penstock.cli.terminal import Terminal
from penstock.testing.servers import Database


def letter_ids(pipe: Pipe, *options: str) -> list[str]:
    return [each["id"] for each in items(pipe("dlq", "ls", "shop", "--json", *options)[1])]


def shown(pipe: Pipe, identity: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(pipe("dlq", "show", identity, "--json")[1])
    return document


def of_zero(pipe: Pipe) -> str:
    """The id of the letter whose `n` is 0."""
    [identity] = letter_ids(pipe, "--filter", ".data.n == 0")
    return identity


def editor(directory: Path, monkeypatch: pytest.MonkeyPatch, *programs: str) -> Path:
    """An editor: a Python program for each time it is opened, over `text`, which is what the file holds. What it saw is kept."""
    seen = directory / "seen.txt"
    script = directory / "editor.py"
    script.write_text(
        "import pathlib, sys\n"
        "file, seen = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[0]).with_name('seen.txt')\n"
        f"programs = {list(programs)!r}\n"
        "text, count = file.read_text(), seen.read_text().count('\\x00') if seen.exists() else 0\n"
        "seen.open('a').write(text + '\\x00')\n"
        "names = {'text': text}\n"
        "exec(programs[count], names)\n"
        "file.write_text(names['text'])\n"
    )
    monkeypatch.setenv("EDITOR", f"{sys.executable} {script}")
    monkeypatch.delenv("VISUAL", raising=False)
    return seen


def test_filters_of_every_kind_choose_what_other_verbs_work_on(ran: Path, pipe: Pipe) -> None:
    expected = {
        ("--filter", ".data.n != null"): 2,
        ("--filter", '.type == "shop.line"'): 3,
        ("--owed", "table"): 3,
        ("--owed", "nobody"): 0,
        ("--seen-since", "-1h", "--seen-until", "now"): 3,
        ("--seen-until", "-1h"): 0,
        ("--event-since", "2000-01-01"): 0,
    }
    for options, count in expected.items():
        assert len(letter_ids(pipe, *options)) == count, options
        assert sum(group["count"] for group in items(pipe("dlq", "groups", "--json", *options)[1])) == count, options
        assert items(pipe("dlq", "stats", "--json", *options)[1])[0]["letters"] == count, options
        assert len(pipe("dlq", "export", *options)[1].splitlines()) == count, options
    status, _, err = pipe("dlq", "ls", "--filter", ".data.n.x == 1")
    assert (status, "error[dlq.filter_failed]" in err, ".data.total?" in err) == (2, True, True)


def test_ambiguous_prefixes_list_what_they_may_mean(ran: Path, pipe: Pipe) -> None:
    ids = letter_ids(pipe, "--status", "any")
    status, _, err = pipe("dlq", "groups", "--fingerprint", "1")
    assert (status, "error[dlq.ambiguous]" in err) == (2, True)
    assert all(group["fingerprint"] in err for group in items(pipe("dlq", "groups", "--json")[1]))
    assert shown(pipe, ids[0][:10])["id"] == ids[0]


def test_a_program_mends_an_event_and_a_replay_sends_it_under_its_old_key(ran: Path, pipe: Pipe) -> None:
    (ran / "pipelines/shop.yaml").write_text(PIPELINE.replace("validate:", "dedup: { window: 1h, key: .data }\nvalidate:"))
    identity = of_zero(pipe)
    before = shown(pipe, identity)
    status, out, err = pipe("dlq", "edit", identity[:9], "--jq", ".data.n = 7", "--dry-run")
    assert (status, '-    "n": 0' in out, '+    "n": 7' in out, "would be edited" in err) == (0, True, True, True)
    assert shown(pipe, identity) == before
    assert pipe("dlq", "edit", identity, "--jq", ".data.n = 7", "--reason", "a typing error")[0] == 0
    after = shown(pipe, identity)
    assert (after["received"], after["edited"]["data"], after["original"]) == (before["received"], {"n": 7}, before["original"])
    [happening] = after["history"]
    assert (happening["what"], happening["reason"], happening["before"]["data"], happening["after"]["data"]) == (
        "edited",
        "a typing error",
        {"n": 0},
        {"n": 7},
    )
    assert "@" in happening["by"]
    assert pipe("dlq", "edit", identity, "--jq", ".data.n = 7")[2] == "shop: 0 dead letters edited, 1 unchanged\n"
    assert "a typing error" in pipe("dlq", "show", identity)[1]
    assert pipe("dlq", "replay", "shop", "--overwrite", "--filter", ".data.n == 7")[0] == 0
    assert '{"id":7,"total":14}' in (ran / "out/shop.jsonl").read_text().split()
    assert [each["what"] for each in shown(pipe, identity)["history"]] == ["edited", "replayed"]
    status, _, err = pipe("dlq", "edit", identity, "--jq", ".data.n = 8")
    assert (status, "error[dlq.not_open]" in err) == (2, True)


def test_an_edited_event_that_fails_again_stays_edited_and_can_be_put_back(ran: Path, pipe: Pipe) -> None:
    identity = of_zero(pipe)
    before = shown(pipe, identity)
    pipe("dlq", "edit", identity, "--jq", ".data.n = -5")
    assert pipe("dlq", "replay", "shop", "--overwrite", "--id", identity)[0] == 4
    after = shown(pipe, identity)
    assert (after["edited"]["data"], after["received"], after["original"]) == ({"n": -5}, before["received"], before["original"])
    assert (after["status"], after["history"][-1]["what"]) == ("open", "replayed")
    assert after["history"][-1]["result"].startswith("failed again in validate: ")
    assert "1 dead letter restored" in pipe("dlq", "edit", identity, "--restore")[2]
    assert shown(pipe, identity)["edited"] is None
    assert [each["what"] for each in shown(pipe, identity)["history"]] == ["edited", "replayed", "restored"]


def test_many_are_mended_by_a_program_and_what_it_cannot_mend_stays(ran: Path, pipe: Pipe) -> None:
    program = "if .data.m then .data.m.x = 1 else .data.n = 9 end"
    status, out, err = pipe("dlq", "edit", "--pipeline", "shop", "--all", "--jq", program)
    assert (status, out, "error[usage.not_confirmed]: 2 dead letters would be edited" in err) == (2, "", True)
    status, out, _ = pipe("dlq", "edit", "--pipeline", "shop", "--all", "--jq", program, "--yes", "--json")
    assert (status, json.loads(out)) == (4, {"pipeline": "shop", "dry_run": False, "changed": 2, "unchanged": 0, "failed": 1})
    assert len(letter_ids(pipe, "--filter", ".data.n == 9")) == 2
    for options in (["--all"], ["--code", "x"], [], ["x", "--code", "x"], ["--pipeline", "shop", "--restore"]):
        assert "error[usage.choose]" in pipe("dlq", "edit", *options)[2], options


def test_an_editor_that_saves_what_it_was_given_changes_nothing(ran: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = editor(ran, monkeypatch, "pass")
    identity = of_zero(pipe)
    assert pipe("dlq", "edit", identity)[2] == "shop: 0 dead letters edited, 1 unchanged\n"
    assert shown(pipe, identity)["history"] == []
    assert (".n must be" in seen.read_text(), '"n": 0' in seen.read_text()) == (True, True)


def test_an_editor_is_opened_again_until_the_event_is_right(ran: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = editor(
        ran,
        monkeypatch,
        """text = text.replace('"n": 0', '"n": 5,,')""",
        """text = text.replace('5,,', '5').replace('"id": "', '"id": "x')""",
        """text = text.replace('"id": "x', '"id": "')""",
    )
    identity = of_zero(pipe)
    assert pipe("dlq", "edit", identity, "--reason", "by hand")[0] == 0
    first, second, third, _ = seen.read_text().split("\x00")
    starts = [text.splitlines()[0] for text in (first, second, third)]
    assert starts[0].startswith(f"# The event of the dead letter {identity}")
    assert starts[1].startswith("# error: this is no event: the record is not valid JSON")
    assert starts[2] == "# error: the source and the id of an event cannot be edited"
    assert '"n": 5,,' in second
    assert (shown(pipe, identity)["edited"]["data"], shown(pipe, identity)["history"][0]["reason"]) == ({"n": 5}, "by hand")


def test_an_editor_that_gives_up_leaves_its_draft(ran: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    editor(ran, monkeypatch, "text = 'nothing'", "pass", "pass")
    identity = of_zero(pipe)
    status, _, err = pipe("dlq", "edit", identity)
    assert (status, "error[dlq.bad_edit]" in err) == (2, True)
    draft = Path(err.split("the draft is ")[1].strip())
    assert (draft.read_text().endswith("nothing\n"), draft.stat().st_mode & 0o777) == (True, 0o600)
    assert shown(pipe, identity)["edited"] is None
    monkeypatch.setenv("EDITOR", "false")
    assert "error[dlq.editor_failed]" in pipe("dlq", "edit", identity)[2]
    monkeypatch.delenv("EDITOR")
    assert "error[dlq.no_editor]" in pipe("dlq", "edit", identity)[2]


def test_an_edited_event_comes_from_a_file_or_standard_input(ran: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = of_zero(pipe)
    event = json.dumps({**shown(pipe, identity)["received"], "data": {"n": 4}}).encode()
    monkeypatch.setattr(sys, "stdin", Stdin(event))
    assert pipe("dlq", "edit", identity, "--file", "-")[0] == 0
    assert shown(pipe, identity)["edited"]["data"] == {"n": 4}
    assert "error[dlq.cannot_read]" in pipe("dlq", "edit", identity, "--file", "nowhere")[2]


def test_why_a_letter_was_discarded_stays_on_record(ran: Path, pipe: Pipe) -> None:
    identity = of_zero(pipe)
    assert pipe("dlq", "discard", "shop", "--id", identity, "--reason", "a test order", "--yes")[0] == 0
    after = shown(pipe, identity)
    assert (after["status"], [(each["what"], each["reason"]) for each in after["history"]]) == (
        "discarded",
        [("discarded", "a test order")],
    )


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_an_export_taken_in_elsewhere_and_given_out_again_is_the_same_bytes(ran: Path, pipe: Pipe, suffix: str) -> None:
    pipe("dlq", "edit", of_zero(pipe), "--jq", ".data.n = 2", "--reason", "r")
    pipe("dlq", "discard", "shop", "--id", letter_ids(pipe)[-1], "--yes")
    assert pipe("dlq", "export", "shop", "--status", "any", "-o", f"letters.jsonl{suffix}")[0] == 0
    file = ran / f"letters.jsonl{suffix}"
    assert file.stat().st_mode & 0o777 == 0o600
    plain = pipe("dlq", "export", "shop", "--status", "any")[1]
    if suffix == ".gz":
        assert gzip.decompress(file.read_bytes()).decode() == plain
    for name in ("shop.db", "shop.db-wal", "shop.db-shm", "shop.lock"):
        (ran / ".penstock" / name).unlink(missing_ok=True)
    status, out, _ = pipe("dlq", "import", "shop", str(file), "--json")
    assert (status, json.loads(out)) == (0, {"pipeline": "shop", "added": 3, "there": 0, "skipped": []})
    assert pipe("dlq", "export", "shop", "--status", "any")[1] == plain
    status, out, _ = pipe("dlq", "import", "shop", str(file), "--json")
    assert (status, json.loads(out)) == (0, {"pipeline": "shop", "added": 0, "there": 3, "skipped": []})
    assert [each["what"] for each in shown(pipe, letter_ids(pipe)[0])["history"]][-1] == "imported"
    assert sorted(path.name for path in ran.iterdir() if "letters" in path.name) == [file.name]


def test_an_import_tells_what_it_leaves_out_and_why(ran: Path, pipe: Pipe) -> None:
    lines = pipe("dlq", "export", "shop")[1].splitlines()
    pipe("dlq", "discard", "shop", "--all", "--yes")
    (ran / "letters.jsonl").write_text("\n".join([lines[0], "", "{}", lines[1].replace('"shop"', '"elsewhere"')]) + "\n")
    status, out, _ = pipe("dlq", "import", "shop", "letters.jsonl", "--json")
    answer = json.loads(out)
    assert (status, answer["added"], answer["there"]) == (4, 0, 0)
    assert [(each["line"], each["outcome"]) for each in answer["skipped"]] == [(3, "refused"), (4, "refused"), (1, "differs")]
    _, _, err = pipe("dlq", "import", "shop", "letters.jsonl")
    assert "shop: 0 dead letters taken in, 3 left out" in err
    assert "line 1: there is a dead letter of this event, which differs and is discarded" in err
    assert "error[dlq.cannot_read]" in pipe("dlq", "import", "shop", "nowhere.jsonl")[2]


def test_letters_of_another_pipeline_are_refused_unless_they_are_to_become_its_own(ran: Path, pipe: Pipe) -> None:
    pipe("dlq", "export", "shop", "-o", "letters.jsonl")
    (ran / "pipelines/other.yaml").write_text(PIPELINE.replace("pipeline: shop", "pipeline: other"))
    status, _, err = pipe("dlq", "import", "other", "letters.jsonl")
    assert (status, "3 left out" in err, "--as takes in" in err) == (4, True, True)
    status, out, _ = pipe("dlq", "import", "other", "letters.jsonl", "--as", "--json")
    assert (status, json.loads(out)["added"]) == (0, 3)
    found = items(pipe("dlq", "ls", "other", "--json")[1])
    assert {each["pipeline"] for each in found} == {"other"}
    assert not {each["id"] for each in found} & set(letter_ids(pipe))


def test_an_export_for_others_leaves_out_what_is_personal_and_is_never_taken_in(shop: Path, pipe: Pipe) -> None:
    (shop / "in/a.jsonl").write_text('{"n":0,"email":"ada@example.com","who":"Ada"}\n')
    pipe("run", "--once", "pipelines/shop.yaml")
    status, out, err = pipe("dlq", "export", "--redact-likely", "--redact", ".data.who")
    document = json.loads(out)
    assert (status, document["received"]["data"]) == (0, {"n": 0, "email": "xxx@xxxxxxx.xxx", "who": "Xxx"})
    assert ("ada" in out.lower(), document["original"]) == (False, None)
    assert ".data.email, .data.who" in err
    (shop / "x.jsonl").write_text(out)
    assert "what was redacted is not what came" in pipe("dlq", "import", "shop", "x.jsonl")[2]
    assert "error[dlq.bad_path]" in pipe("dlq", "export", "--redact", "x")[2]


def test_stats_count_everything_and_a_check_fails_at_the_threshold(ran: Path, pipe: Pipe) -> None:
    pipe("dlq", "discard", "shop", "--id", of_zero(pipe), "--yes")
    [figures] = items(pipe("dlq", "stats", "--json")[1])
    assert figures["by_status"] == {"open": 2, "discarded": 1}
    assert (figures["letters"], figures["by_step"], sum(figures["by_day"].values())) == (3, {"validate": 3}, 3)
    assert figures["oldest_at"] is not None
    lines = pipe("dlq", "stats")[1]
    assert ("by code" in lines, "validate.failed" in lines) == (True, True)
    file = ran / "pipelines/shop.yaml"
    assert pipe("dlq", "stats", "--check")[0] == 0
    file.write_text(PIPELINE + "dead_letter: { alert_threshold: 2 }\n")
    status, _, err = pipe("dlq", "stats", "--check")
    assert (status, "warning[dlq.threshold]: shop: 2 dead letters open, and 2 are an alarm" in err) == (4, True)
    assert pipe("dlq", "stats", "shop", "--check", "--threshold", "3")[0] == 0


def test_groups_show_when_in_one_word(ran: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "█" in pipe("dlq", "groups")[1]
    monkeypatch.setenv("TERM", "dumb")
    assert ("█" in pipe("dlq", "groups")[1], " @ " in pipe("dlq", "groups")[1]) == (False, True)
    [first, _] = items(pipe("dlq", "groups", "--json")[1])
    assert (first["timeline"]["counts"], first["timeline"]["seconds"]) == ([2], 300)
    assert Terminal.of_process().width is None


def test_a_dead_letter_becomes_a_test_that_fails_when_the_pipeline_changes(ran: Path, pipe: Pipe) -> None:
    identity = of_zero(pipe)
    file = ran / "pipelines/shop.yaml"
    status, out, _ = pipe("dlq", "to-test", identity, "--dry-run")
    assert (status, "+    input: { data: { n: 0 } }" in out, file.read_text()) == (0, True, PIPELINE)
    assert pipe("dlq", "to-test", identity, "--name", "zero: is refused")[0] == 0
    assert file.read_text() == PIPELINE + (
        '  - name: "zero: is refused"\n    input: { data: { n: 0 } }\n'
        "    dead_letter: { step: validate, code: validate.failed }\n"
    )
    assert pipe("test", "shop")[0] == 0
    assert "error[dlq.test_exists]" in pipe("dlq", "to-test", identity, "--name", "zero: is refused")[2]
    pipe("dlq", "edit", identity, "--jq", ".data.n = 4")
    assert pipe("dlq", "to-test", identity, "--edited", "--json")[0] == 0
    assert "output: [{ type: shop.line, data: { id: 4, total: 8 } }]" in file.read_text()
    assert pipe("test", "shop")[0] == 0
    file.write_text(file.read_text().replace("(.n * 2)", "(.n * 3)"))
    status, out, _ = pipe("test", "shop")
    assert (status, '+      "total": 12' in out) == (4, True)


def test_a_test_holds_no_secrets_and_says_where_that_matters(shop: Path, pipe: Pipe) -> None:
    (shop / "in/a.jsonl").write_text('{"n":0,"email":"ada@example.com","name":"${HOME}"}\nno JSON: bob@example.com\n')
    pipe("run", "--once", "pipelines/shop.yaml")
    bad, zero = letter_ids(pipe, "--step", "decode"), letter_ids(pipe, "--step", "validate")
    status, _, err = pipe("dlq", "to-test", zero[0])
    text = (shop / "pipelines/shop.yaml").read_text()
    assert (status, "redacted: .data.email" in err) == (0, True)
    assert ("ada@" in text, "$${HOME}" in text) == (False, True)
    assert pipe("dlq", "to-test", bad[0])[0] == 0
    assert 'input: { text: "no JSON: xxx@xxxxxxx.xxx" }' in (shop / "pipelines/shop.yaml").read_text()
    assert pipe("test", "shop")[0] == 0
    status, out, _ = pipe("dlq", "to-test", zero[0], "--name", "n", "--redact", ".data.email", "--keep", ".data.email", "--json")
    assert json.loads(out)["test"]["input"]["data"]["email"] == "ada@example.com"
    _, out, err = pipe("dlq", "to-test", zero[0], "--name", "m", "--redact", ".data.n", "--dry-run")
    assert "warning" not in err


def test_all_of_it_works_with_the_state_in_a_server(
    shop: Path, database: Database, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shop / "pipelines/shop.yaml").write_text(f"{PIPELINE}state: ${{STATE}}\n")
    monkeypatch.setenv("STATE", database.dsn)
    assert pipe("run", "--once", "pipelines/shop.yaml")[0] == 0
    identity = of_zero(pipe)
    assert pipe("dlq", "edit", identity, "--jq", ".data.n = 6", "--reason", "r")[0] == 0
    plain = pipe("dlq", "export", "shop")[1]
    assert pipe("dlq", "replay", "shop", "--overwrite", "--id", identity)[0] == 0
    assert pipe("dlq", "discard", "shop", "--all", "--yes")[0] == 0
    [figures] = items(pipe("dlq", "stats", "--json")[1])
    assert figures["by_status"] == {"discarded": 2, "resolved": 1}
    assert [each["what"] for each in shown(pipe, identity)["history"]] == ["edited", "replayed"]
    (shop / "letters.jsonl").write_text(plain)
    (shop / "pipelines/other.yaml").write_text(PIPELINE.replace("pipeline: shop", "pipeline: other"))
    assert pipe("dlq", "import", "other", "letters.jsonl", "--as")[0] == 0
    [edited] = items(pipe("dlq", "ls", "other", "--json", "--filter", ".data.n == 6")[1])
    assert edited["status"] == "open"
