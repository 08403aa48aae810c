"""What looks on performs no step that changes the world: `pipe try`, `pipe test`, `pipe run --dry-run`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
from cli_parts import Pipe

STEPS = """\
from pathlib import Path

def act(data):
    with Path("world").open("a") as world:
        world.write("asked\\n")
    return {**data, "paid": True}
"""
PIPELINE = """\
pipeline: shop
source: { file: { paths: [in.jsonl] } }
retry: { initial_delay: 30s, max_delay: 30s, max_attempts: 5, max_elapsed: 15m }
transforms:
  - filter: .n > 0
  - { name: charge, python: "preview_steps:act", effects: EFFECTS, when: .n != 2 }
  - { name: told, jq: '. + {told: true}' }
sink: { file: { path: out.jsonl } }
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "preview_steps", raising=False)
    (tmp_path / "preview_steps.py").write_text(STEPS)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n":{n}}}\n' for n in range(4)))
    write(tmp_path)
    return tmp_path


def write(shop: Path, effects: str = "write", tests: str = "") -> None:
    (shop / "shop.yaml").write_text(PIPELINE.replace("EFFECTS", effects) + tests)


def case(mock: str, expected: str, more: str = "") -> str:
    return f"tests:\n  - {{ name: one, input: {{ data: {{ n: 5 }} }}, {more}mocks: {{ {mock} }}, {expected} }}\n"


def test_try_ends_at_a_step_that_changes_the_world_and_says_so(shop: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"n": 1}')))
    status, out, _ = pipe("try", "shop.yaml", "--json")
    items = json.loads(out)["items"]
    assert (status, [item["step"] for item in items]) == (0, ["event", "filter-1", "charge"])
    assert (items[-1]["outputs"], items[-1]["error"]) == ([], None)
    assert items[-1]["note"] == "the step changes the world, and was not performed: what comes behind it is not known"
    assert not (shop / "world").exists()


def test_try_performs_a_step_that_only_asks(shop: Path, pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    write(shop, "read")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"n": 1}')))
    _, out, _ = pipe("try", "shop.yaml", "--json")
    assert json.loads(out)["items"][-1]["outputs"][0]["data"] == {"n": 1, "paid": True, "told": True}


def test_a_dry_run_counts_apart_what_it_could_not_answer(shop: Path, pipe: Pipe) -> None:
    status, out, _ = pipe("run", "--dry-run", "--once", "--json", "shop.yaml")
    told = json.loads(out)
    assert status == 0
    assert {name: told[name] for name in ("received", "delivered", "filtered", "dead_lettered", "unanswered")} == {
        "received": 4,
        "delivered": 1,
        "filtered": 1,
        "dead_lettered": 0,
        "unanswered": {"charge": 2},
    }
    assert not (shop / "world").exists()


def test_a_dry_run_shows_each_event_without_an_answer_and_the_sum(shop: Path, pipe: Pipe) -> None:
    status, out, err = pipe("run", "--dry-run", "--once", "shop.yaml")
    assert (status, out.count("unanswered  charge: the step changes the world, and was not performed")) == (0, 2)
    assert "dead-lettered + unanswered" in err
    assert "charge has effects, and was not performed: of 2 events the outcome is not known" in err


@pytest.mark.parametrize(
    ("mock", "expected"),
    [
        ("charge: { output: { n: 9 } }", "output: [{ data: { n: 9, told: true } }]"),
        ("charge: { output: [{ n: 9 }, { n: 8 }] }", "output: [{ id: 0-0, data: { n: 9, told: true } }, { id: 0-1 }]"),
        ("charge: { output: null }", "output: []"),
        ("charge: { output: [] }", "output: []"),
        ("charge: { error: declined }", "dead_letter: { step: charge, code: mock.error }"),
        ("charge: { error: transient }", "dead_letter: { step: charge, code: mock.transient }"),
        ("charge: { output: {}, delay: 10ms }, told: { output: 1 }", "output: [{ data: 1 }]"),
    ],
)
def test_a_mock_stands_for_a_step_in_no_time(shop: Path, pipe: Pipe, mock: str, expected: str) -> None:
    write(shop, tests=case(mock, expected))
    status, out, _ = pipe("test", "shop.yaml", "--json")
    [item] = json.loads(out)["items"]
    assert (item["actual"], status) == (item["expected"], 0)
    assert item["seconds"] < 20
    assert not (shop / "world").exists()


def test_a_mock_that_takes_longer_than_the_step_may_has_timed_out(shop: Path, pipe: Pipe) -> None:
    write(shop, tests=case("charge: { output: {}, delay: 3s }", "dead_letter: { code: step.timeout }"))
    text = (shop / "shop.yaml").read_text().replace("effects: write", "effects: write, timeout: 2s")
    (shop / "shop.yaml").write_text(text)
    assert pipe("test", "shop.yaml")[0] == 0


@pytest.mark.parametrize("effects", ["read", "write"])
@pytest.mark.parametrize("expected", ["output: []", "dead_letter: { step: charge }"])
def test_a_test_without_a_mock_for_a_step_with_effects_fails_and_says_what_is_missing(
    shop: Path, pipe: Pipe, effects: str, expected: str
) -> None:
    write(shop, effects, case("", expected))
    status, out, _ = pipe("test", "shop.yaml")
    assert status == 4
    assert "the step has effects: give it a mock" in out
    assert not (shop / "world").exists()


def test_a_dead_letter_behind_a_step_with_effects_becomes_no_test_by_itself(shop: Path, pipe: Pipe) -> None:
    text = (shop / "shop.yaml").read_text()
    (shop / "pipelines").mkdir()
    (shop / "pipelines/shop.yaml").write_text(text.replace("jq: '. + {told: true}'", "jq: 'error(\"no\")'"))
    assert pipe("run", "--once", "shop")[0] == 0
    _, out, _ = pipe("dlq", "ls", "shop", "--json")
    outcomes = [pipe("dlq", "to-test", item["id"], "--dry-run") for item in json.loads(out)["items"]]
    refused = [err for status, _, err in outcomes if status == 2]
    assert (len(refused), all("error[dlq.no_test]" in err and "mocks: { charge" in err for err in refused)) == (2, True)
    assert len((shop / "world").read_text().splitlines()) == 2


def test_explain_answers_from_the_journal_and_says_of_other_steps_that_nothing_is_known(shop: Path, pipe: Pipe) -> None:
    (shop / "pipelines").mkdir()
    text = (shop / "shop.yaml").read_text()
    (shop / "pipelines/shop.yaml").write_text(text)
    (shop / "other.yaml").write_text(
        text.replace(".n > 0", ".n > 0 | select(.)").replace("- filter", "- jq: '.n += 1'\n  - filter")
    )
    assert pipe("run", "--once", "shop")[0] == 0
    asked = (shop / "world").read_text()
    status, out, _ = pipe("explain", "0-24", "shop", "--against", "other.yaml")
    assert (status, "computed again, it is the same" in out, "+ .data.paid" in out) == (0, True, True)
    assert "charge  python  no answer" in out
    assert "what would become of it is not known: charge has no answer" in out
    _, told, _ = pipe("explain", "0-24", "shop", "--against", "other.yaml", "--json")
    [item] = json.loads(told)["items"]
    assert [step["happened"] for step in item["steps"]] == ["unchanged", "changed", "changed"]
    assert item["agreement"] == {"verdict": "same", "why": None}
    assert (shop / "world").read_text() == asked
