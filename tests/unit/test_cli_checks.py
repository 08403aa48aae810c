"""`pipe lint`, `pipe test` and `pipe try`: what is found before anything runs."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_parts import PIPELINE, Pipe, Stdin, items


def test_lint_finds_everything_and_says_how_much(shop: Path, pipe: Pipe) -> None:
    for what in ("pipelines", "shop", "pipelines/*.yaml"):
        assert pipe("lint", what) == (0, "✓ 1 file, 1 sound: no mistakes\n", "")
    (shop / "bad.yaml").write_text("pipeline: BAD\nsource: { generate: { cout: 1 } }\nsink: dorp\nbatching: { period: 5 }\n")
    status, out, _ = pipe("lint", "bad.yaml", "pipelines/shop.yaml")
    assert (status, out.count("error["), out.splitlines()[-1]) == (2, 4, "✗ 2 files, 1 sound: 4 mistakes")
    status, out, _ = pipe("lint", "bad.yaml", "--json")
    found = items(out)
    assert [(item["severity"], item["file"], item["line"]) for item in found] == [("error", "bad.yaml", n) for n in (1, 2, 3, 4)]


def test_a_warning_has_the_keys_of_a_mistake_and_a_run_says_it_too(
    shop: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_WORKER", "2")
    message = "the environment variable PENSTOCK_WORKER sets nothing: did you mean PENSTOCK_WORKERS?"
    (shop / "bad.yaml").write_text("pipeline: bad\nsource: stdin\nsink: dorp\n")
    mistake, warning = items(pipe("lint", "bad.yaml", "shop", "--json")[1])
    assert list(mistake) == list(warning)
    assert (warning["severity"], warning["code"], warning["message"], warning["line"]) == (
        "warning",
        "config.warning",
        message,
        None,
    )
    status, _, err = pipe("run", "--once", "shop")
    said = json.loads(err.splitlines()[0])
    assert (status, said["level"], said["pipeline"], said["message"]) == (0, "warning", "shop", message)


def test_tests_pass_fail_with_a_difference_and_are_written_as_junit(shop: Path, pipe: Pipe) -> None:
    assert pipe("test", "pipelines") == (0, "shop\n  ✓ doubled\n\n1 passed\n", "")
    (shop / "pipelines/shop.yaml").write_text(PIPELINE.replace("total: 4 }", "total: 5 }"))
    status, out, _ = pipe("test", "pipelines", "--junit", "reports/junit.xml")
    assert status == 4
    assert '-      "total": 5\n' in out
    assert '+      "total": 4\n' in out
    assert out.endswith("1 test failed, 0 passed\n")
    suite = ElementTree.parse(shop / "reports/junit.xml").getroot()[0]
    assert (suite.attrib["tests"], suite.attrib["failures"], suite[0].attrib["name"]) == ("1", "1", "doubled")
    [result] = items(pipe("test", "pipelines", "--json")[1])
    assert (result["name"], result["passed"], result["at"]) == ("doubled", False, "pipelines/shop.yaml:17:5")


def test_one_event_is_tried_step_by_step(shop: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(b'{"n": 2}'))
    status, out, _ = pipe("try", "shop", "--json")
    traces = items(out)
    assert (status, [trace["step"] for trace in traces]) == (0, ["event", "validate", "sold", "total"])
    assert traces[-1]["outputs"][0]["data"] == {"id": 2, "total": 4}
    monkeypatch.setattr("sys.stdin", Stdin(b'{"n": 2}'))
    told = pipe("try", "shop")[1].splitlines()
    assert [line for line in told if not line.startswith(" ")] == ["event", "validate  unchanged", "sold  unchanged", "total"]
    monkeypatch.setattr("sys.stdin", Stdin(b'{"n": 0}'))
    status, out, _ = pipe("try", "pipelines/shop.yaml")
    assert (status, ".n must be at least 1 (it is 0)" in out) == (4, True)
    monkeypatch.setattr("sys.stdin", Stdin(b"{"))
    status, out, err = pipe("try", "shop")
    assert (status, out, err.startswith("error[decode.")) == (2, "", True)
    assert not (shop / ".penstock").exists()
