"""`pipe status` and `pipe checkpoint`: where pipelines stand, and how that is moved."""

from __future__ import annotations

import json
from pathlib import Path

from cli_parts import Pipe, items


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


def test_a_pipeline_that_never_ran_has_the_same_keys(ran: Path, pipe: Pipe) -> None:
    (ran / "pipelines/idle.yaml").write_text("pipeline: idle\nsource: { generate: {} }\nsink: drop\n")
    idle, shop = items(pipe("status", "--json")[1])
    assert list(idle) == list(shop)
    assert {name: value for name, value in idle.items() if value} == {"pipeline": "idle"}
    assert json.loads(pipe("checkpoint", "show", "idle", "--json")[1]) == {"pipeline": "idle", "checkpoint": None}


def test_a_store_that_is_damaged_hides_no_other_pipeline(ran: Path, pipe: Pipe) -> None:
    (ran / ".penstock/broken.db").write_text("garbage")
    status, out, err = pipe("status")
    assert (status, [line.split()[0] for line in out.splitlines()]) == (3, ["PIPELINE", "shop"])
    assert err.startswith(f"error[state.damaged]: the state store {ran / '.penstock/broken.db'} is damaged\n")
    status, out, _ = pipe("status", "--json")
    assert (status, [item["pipeline"] for item in items(out)]) == (3, ["shop"])
    for verb in (["status"], ["checkpoint", "show"]):
        status, out, err = pipe(*verb, "broken")
        assert (status, out, err.startswith("error[state.damaged]")) == (3, "", True)


def test_an_unknown_pipeline_is_answered_with_the_nearest(ran: Path, pipe: Pipe) -> None:
    for verb in (["status"], ["dlq", "ls"], ["checkpoint", "show"], ["dlq", "replay", "--all"]):
        status, out, err = pipe(*verb, "shpo")
        assert (status, out) == (2, "")
        assert err == "error[usage.unknown_pipeline]: there is no pipeline 'shpo'\n  help: did you mean 'shop'?\n"


def test_a_checkpoint_is_shown_and_reset_so_that_everything_is_read_again(ran: Path, pipe: Pipe) -> None:
    assert "generation 0, byte 55" in pipe("checkpoint", "show", "shop")[1]
    assert "error[usage.not_confirmed]" in pipe("checkpoint", "reset", "shop", "--all")[2]
    assert "did you mean 'in/a.jsonl'?" in pipe("checkpoint", "reset", "shop", "--partition", "in/b.jsonl", "--yes")[2]
    assert pipe("checkpoint", "reset", "shop", "--all", "--yes")[0] == 0
    assert json.loads(pipe("checkpoint", "show", "shop", "--json")[1])["checkpoint"]["positions"] == {"in/a.jsonl": "00" * 12}
    status, out, err = pipe("run", "--once", "--json", "pipelines/shop.yaml")
    assert (status, json.loads(out)["received"], err) == (0, 6, "")


def test_adopting_gives_a_new_run(ran: Path, pipe: Pipe) -> None:
    status, out, err = pipe("checkpoint", "adopt", "shop")
    assert (status, out, err.splitlines()[0]) == (0, "", "shop: adopted, as run 2")
