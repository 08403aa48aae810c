"""The oracle of the crash harness: each kind of damage is seen and counted as what it is."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import pytest

from penstock.testing.oracle import MAX_RECORD, Findings, Oracle, Plan, Row, write_input


@pytest.fixture
def oracle(tmp_path: Path) -> Oracle:
    write_input(tmp_path / "in", tmp_path / "record.jsonl", random.Random(7), Plan(lines=400, files=2, repetitions=0.2))
    return Oracle.load(tmp_path / "record.jsonl")


def perfect(oracle: Oracle, tmp_path: Path) -> list[Row]:
    """Rows of an output that refuses nothing, made from the input files alone."""
    rows, seen = [], set()
    for path in sorted((tmp_path / "in").iterdir()):
        for raw in path.read_bytes().splitlines():
            if raw in seen or len(raw) > MAX_RECORD or not raw.endswith(b"}"):
                continue
            seen.add(raw)
            line = json.loads(raw)
            if line["kind"] not in ("filtered", "error"):
                row = Row(line["key"], line["sequence"], 0, line["text"], line["checksum"])
                rows += [replace(row, part=part) for part in range(line["parts"])]
    return rows


def test_an_output_that_holds_everything_once_and_in_order_is_clean(oracle: Oracle, tmp_path: Path) -> None:
    findings = oracle.judge(perfect(oracle, tmp_path), refuses=False)
    assert findings.clean
    assert findings == Findings()


def test_lost_doubled_swapped_spoilt_and_invented_rows_are_counted_apart(oracle: Oracle, tmp_path: Path) -> None:
    rows = perfect(oracle, tmp_path)
    spoilt = replace(rows[50], text=rows[50].text + " ")
    invented = replace(rows[60], sequence=99_999)
    damaged = [*rows[1:50], spoilt, *rows[51:60], rows[61], rows[60], *rows[62:], rows[70], invented]
    findings = oracle.judge(damaged, refuses=False)
    counts = (findings.missing, findings.duplicate, findings.misordered, findings.corrupt, findings.phantom)
    assert counts == (1, 1, 1, 1, 1)
    assert not findings.clean
    assert "missing" in str(findings)


def test_a_checksum_that_was_changed_along_with_the_text_is_corrupt(oracle: Oracle, tmp_path: Path) -> None:
    rows = perfect(oracle, tmp_path)
    forged = replace(rows[3], text="forged", checksum=blake2b(b"forged", digest_size=8).hexdigest())
    assert oracle.judge([*rows[:3], forged, *rows[4:]], refuses=False).corrupt == 1


def test_the_totals_add_up_and_every_poisoned_line_has_one_dead_letter(oracle: Oracle) -> None:
    for refuses in (False, True):
        totals = oracle.totals(refuses=refuses)
        assert totals.received == 400
        assert totals.received == totals.delivered + totals.filtered + totals.deduplicated + totals.dead_lettered
        assert totals.dead_lettered == len(oracle.dead_letters(refuses=refuses)) > 0
    assert oracle.totals(refuses=True).dead_lettered > oracle.totals(refuses=False).dead_lettered
    assert sum(oracle.dead_letters(refuses=True).values()) > 0


def test_one_seed_writes_the_same_input_again(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_input(tmp_path / name, tmp_path / f"{name}.jsonl", random.Random(3), Plan(lines=100))
    one, two = (sorted((path.name, path.read_bytes()) for path in (tmp_path / name).iterdir()) for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
