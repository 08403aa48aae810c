"""What a verification holds of its events: digests, places of lines, what jobs made of them, shares of what is named."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from journal_parts import BEGAN, an_event, ids, lines_of, write, writer

from penstock.clock import rfc3339
from penstock.engine.owed import event_digest
from penstock.journal import digests as module
from penstock.journal.digests import Digests
from penstock.journal.lines import Line
from penstock.journal.reader import EVER, JournalReader
from verify.findings import shares
from verify.jobs import Deed, Deeds
from verify.marks import Marks
from verify.range import LineRange
from verify.standing import Delivery, standing_of


@pytest.mark.parametrize("seed", range(4))
def test_digests_are_a_set_of_which_some_were_met(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(module, "_RECENT", 7)
    monkeypatch.setattr(module, "_LARGE", 40)
    rng, kept, model = random.Random(seed), Digests(), set[int]()
    for _ in range(500):
        number = rng.randrange(300) << 50
        assert (number in kept) == (number in model)
        if number not in model:
            kept.add(number)
            model.add(number)
    assert kept.count == len(model)
    asked = {rng.randrange(400) << 50 for _ in range(200)}
    for number in asked:
        assert kept.meet(number) == (number in model)
    assert kept.met() == len(asked & model)


async def test_lines_are_found_again_by_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Marks, "EVERY", 4)
    journal = writer(tmp_path, roll=1)
    for first in range(0, 40, 5):
        write(journal, *range(first, first + 5))
    lines = LineRange(JournalReader(tmp_path), BEGAN + 3, BEGAN + 37, lambda each: iter([list(each)]))
    async for number, batch in lines.batches():
        assert (number, len(batch)) == (0, 34)
    assert lines.marks.count == 34
    found = await lines.lines([0, 5, 6, 33, 33])
    assert {number: line.filled().id for number, line in found.items()} == {0: "e3", 5: "e8", 6: "e9", 33: "e36"}
    (tmp_path / "0000000001.jsonl.zst").unlink()
    assert set(await lines.lines([0, 5, 6, 33])) == {5, 6, 33}


def test_what_named_parts_get_is_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shares([[1] * 5, [2], [3] * 9], 7) == [1, 1, 1, 2, 3, 3, 3]
    assert shares([[1] * 2, [2] * 2], 9) == [1, 1, 2, 2]
    assert shares([], 5) == []


def a_line(**changes: object) -> Line:
    journal_line = {"at": rfc3339(BEGAN), "partition": "p", "version": "v1", "position": "01", "outcome": "delivered"}
    return Line(**(journal_line | changes))  # type: ignore[arg-type]


def a_deed(outcome: str, *, version: str = "v2", sinks: list[str] | None = None, step: str | None = None) -> Line:
    return a_line(outcome=outcome, version=version, sinks=sinks, step=step, corrects="e", job="j", letter=None)


def standing(line: Line, *deeds: Line) -> tuple[str, list[tuple[str, tuple[str, ...] | None]]]:
    """Outcome; who delivered it, and to whom."""
    kept = Deeds.of(deeds)
    names = {"v1": ["a", "b"], "v2": ["a", "b", "c"]}
    found = standing_of(line, kept.about(a_line(corrects="e")) if deeds else (), names.get, {"j"})
    return found.outcome, [(told(delivery), delivery.sinks) for delivery in found.deliveries]


def told(delivery: Delivery) -> str:
    return "run" if delivery.deed is None else delivery.deed.kind.version


@pytest.mark.parametrize(
    ("line", "deeds", "expected"),
    [
        (a_line(), [], ("delivered", [("run", None)])),
        (a_line(outcome="filtered"), [], ("filtered", [])),
        (a_line(outcome="dead_lettered"), [], ("dead_lettered", [])),
        (a_line(), [a_deed("delivered", sinks=["c"])], ("delivered", [("run", None), ("v2", ("c",))])),
        (a_line(outcome="dead_lettered"), [a_deed("delivered")], ("delivered", [("v2", None)])),
        (a_line(outcome="dead_lettered"), [a_deed("delivered", sinks=["b"])], ("delivered", [("v2", ("a", "b"))])),
        (a_line(outcome="dead_lettered"), [a_deed("filtered")], ("filtered", [])),
        (a_line(), [a_deed("filtered")], ("delivered", [("run", None)])),
        (a_line(outcome="filtered"), [a_deed("delivered")], ("delivered", [("v2", None)])),
        (a_line(), [a_deed("dead_lettered", sinks=["c"])], ("dead_lettered", [("run", None)])),
        (
            a_line(outcome="filtered"),
            [a_deed("dead_lettered", sinks=["c"]), a_deed("delivered", sinks=["c"])],
            ("delivered", [("v2", ("c",))]),
        ),
        (a_line(outcome="dead_lettered"), [a_deed("dead_lettered"), a_deed("deduplicated")], ("deduplicated", [])),
    ],
)
def test_what_has_become_of_an_event_is_told_by_its_line_and_by_jobs(line: Line, deeds: list[Line], expected: object) -> None:
    assert standing(line, *deeds) == expected


def test_deeds_are_kept_by_event_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verify.jobs._RUN", 4)
    lines = [
        a_line(corrects=f"e{n % 3}", job="j", outcome=outcome, letter="00ff")
        for n, outcome in enumerate(["dead_lettered", "filtered", "delivered"] * 4)
    ]
    deeds = Deeds.of(lines)
    assert (deeds.count, 255 in deeds.letters) == (12, True)
    for n in range(3):
        about: list[Deed] = list(deeds.about(a_line(corrects=f"e{n}")))
        expected = [line.outcome for line in lines if event_digest(line) == event_digest(a_line(corrects=f"e{n}"))]
        assert [deed.kind.outcome for deed in about] == expected
        assert len(about) == 4


def test_marks_of_a_journal_are_of_its_own_lines(tmp_path: Path) -> None:
    journal = writer(tmp_path)
    journal.append(lines_of(events=[an_event(1)]))
    journal.commit()
    lines = LineRange(JournalReader(tmp_path), *EVER, lambda each: iter([list(each)]))
    assert lines.before_first is None


def test_a_reader_goes_as_far_as_a_ledger_says_whatever_the_index_says(tmp_path: Path) -> None:
    journal = writer(tmp_path, roll=1)
    write(journal, 1, 2)
    first = write(journal, 3)
    under_way = journal.append(lines_of(4, 5))
    assert ids(list(JournalReader(tmp_path).range(*EVER))) == ["e1", "e2", "e3"]
    assert ids(list(JournalReader(tmp_path, under_way).range(*EVER))) == ["e1", "e2", "e3", "e4", "e5"]
    journal.commit()
    write(journal, 6)
    assert ids(list(JournalReader(tmp_path, under_way).range(*EVER))) == ["e1", "e2", "e3", "e4", "e5"]
    assert ids(list(JournalReader(tmp_path, first).range(*EVER))) == ["e1", "e2", "e3"]
