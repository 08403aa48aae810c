"""The example pipeline on the 40,000 order lines, against an oracle that reads them with nothing but `json` and `decimal`."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DATA = "pipelines/data/online_retail_40k.jsonl.gz"
COUNTS = ("received", "delivered", "filtered", "deduplicated", "dead_lettered")
PENNY = Decimal("0.01")


@dataclass
class Oracle:
    """What must come out: rows in order as the file and the table hold them, counts, and why lines are refused."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    keys: list[tuple[str, str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[tuple[str, ...]] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)

    def read(self, text: bytes, file: str, start: int = 0) -> Oracle:
        """Take the lines of a file from the byte `start` of its text."""
        offset = 0
        for line in text.splitlines(keepends=True):
            if offset >= start:
                self._take(json.loads(line, parse_float=Decimal), f"file:{file}", f"0-{offset}")
            offset += len(line)
        return self

    def _take(self, line: dict[str, Any], source: str, event_id: str) -> None:
        self.counts["received"] += 1
        canonical = json.dumps(line, sort_keys=True, default=str)
        wrong = [name for name, bad in (("Description", not line["Description"]), ("UnitPrice", line["UnitPrice"] <= 0)) if bad]
        if canonical in self.seen:
            self.counts["deduplicated"] += 1
        elif wrong:
            self.counts["dead_lettered"] += 1
            self.refused[tuple(wrong)] += 1
        elif str(line["InvoiceNo"]).startswith("C"):
            self.counts["filtered"] += 1
        else:
            self.counts["delivered"] += 1
            self.rows.append(enriched(line))
            self.keys.append((event_id, source))
        self.seen.add(canonical)


def enriched(line: dict[str, Any]) -> dict[str, Any]:
    """An order line as a shopkeeper would work it out on paper."""
    total = (line["Quantity"] * Decimal(line["UnitPrice"])).quantize(PENNY, ROUND_HALF_UP)
    return {
        "invoice": str(line["InvoiceNo"]),
        "stock_code": str(line["StockCode"]),
        "description": line["Description"],
        "quantity": line["Quantity"],
        "unit_price": Decimal(line["UnitPrice"]),
        "total": total,
        "currency": "GBP",
        "customer": "guest" if line["CustomerID"] is None else str(line["CustomerID"]),
        "country": line["Country"],
        "ordered_at": line["InvoiceDate"],
    }


@dataclass
class Project:
    """A copy of the example project, and the command run in it."""

    root: Path

    def pipe(self, *arguments: str, status: int = 0) -> str:
        """Standard output of `pipe ARGUMENTS`."""
        command = [sys.executable, "-P", "-m", "penstock.cli.main", *arguments]
        result = subprocess.run(
            command,
            cwd=self.root,
            env={**os.environ, "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=110,
            check=False,
        )
        assert result.returncode == status, result.stderr
        return result.stdout

    def run(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self.pipe("run", "--once", "--json", "pipelines/orders.yaml"))
        return summary

    def lines(self) -> list[dict[str, Any]]:
        """The file's lines, numbers exact."""
        text = (self.root / "out/orders.jsonl").read_bytes()
        assert text.endswith(b"\n")
        return [json.loads(line, parse_float=Decimal) for line in text.splitlines()]

    def table(self) -> list[dict[str, Any]]:
        """The table's rows in the order in which they were written."""
        connection = sqlite3.connect(self.root / "out/orders.db")
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute("SELECT * FROM orders ORDER BY rowid")]
        finally:
            connection.close()


@pytest.fixture(scope="module")
def text() -> bytes:
    return gzip.decompress((ROOT / DATA).read_bytes())


@pytest.fixture(scope="module")
def oracle(text: bytes) -> Oracle:
    return Oracle().read(text, DATA)


@pytest.fixture(scope="module")
def after_one_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A project in which the pipeline ran once. Tests that change it take a copy."""
    root = tmp_path_factory.mktemp("orders") / "project"
    shutil.copytree(ROOT / "pipelines", root / "pipelines", copy_function=shutil.copyfile)
    return root, Project(root).run()


@pytest.fixture
def project(after_one_run: tuple[Path, dict[str, Any]], tmp_path: Path) -> Project:
    root = tmp_path / "project"
    shutil.copytree(after_one_run[0], root)
    return Project(root)


def counts(summary: dict[str, Any]) -> dict[str, int]:
    return {name: summary[name] for name in COUNTS}


def expect_same(project: Project, oracle: Oracle) -> None:
    """File and table equal the oracle, row for row and in order."""
    assert project.lines() == oracle.rows
    rows = project.table()
    assert [(row.pop("event_id"), row.pop("event_source")) for row in rows] == oracle.keys
    assert rows == [{**row, "unit_price": float(row["unit_price"]), "total": float(row["total"])} for row in oracle.rows]


def test_the_oracle_counts_what_the_description_of_the_data_says(oracle: Oracle) -> None:
    assert oracle.counts == {"received": 40_000, "delivered": 39_119, "filtered": 674, "deduplicated": 28, "dead_lettered": 179}
    assert oracle.refused == {("Description", "UnitPrice"): 105, ("UnitPrice",): 74}


def test_every_line_ends_in_the_outcome_that_the_oracle_gives_it(
    after_one_run: tuple[Path, dict[str, Any]], oracle: Oracle
) -> None:
    root, summary = after_one_run
    assert counts(summary) == {name: oracle.counts[name] for name in COUNTS}
    assert (summary["derived"], summary["reread"]) == (0, 0)
    assert summary["sinks"] == {"table": {"written": 39_119}, "lines": {"written": 39_119}}
    expect_same(Project(root), oracle)


def test_the_dead_letters_make_two_groups_that_say_what_is_wrong(after_one_run: tuple[Path, dict[str, Any]]) -> None:
    project = Project(after_one_run[0])
    groups = json.loads(project.pipe("dlq", "groups", "orders", "--json"))["items"]
    assert [(group["count"], group["step"], group["message"]) for group in groups] == [
        (105, "validate", ".Description must be a string (it is null); .UnitPrice must be greater than 0 (it is 0)"),
        (74, "validate", ".UnitPrice must be greater than 0 (it is 0)"),
    ]


def test_a_second_run_delivers_nothing(project: Project, oracle: Oracle) -> None:
    summary = project.run()
    assert counts(summary) == dict.fromkeys(COUNTS, 0)
    expect_same(project, oracle)


def test_ten_lines_in_a_further_gzip_member_are_all_that_arrives(project: Project, text: bytes, oracle: Oracle) -> None:
    added = ten_lines(text)
    with (project.root / DATA).open("ab") as file:
        file.write(gzip.compress(added))
    summary = project.run()
    assert counts(summary) == {"received": 10, "delivered": 10, "filtered": 0, "deduplicated": 0, "dead_lettered": 0}
    expect_same(project, Oracle().read(text + added, DATA))


def test_ten_lines_in_a_new_file_are_all_that_arrives(project: Project, text: bytes) -> None:
    added, name = ten_lines(text), "pipelines/data/online_retail_later.jsonl"
    (project.root / name).write_bytes(added)
    summary = project.run()
    assert counts(summary) == {"received": 10, "delivered": 10, "filtered": 0, "deduplicated": 0, "dead_lettered": 0}
    expect_same(project, Oracle().read(text, DATA).read(added, name))


def test_lines_that_were_there_before_are_repetitions_wherever_they_turn_up(
    project: Project, text: bytes, oracle: Oracle
) -> None:
    repeated = b"".join(text.splitlines(keepends=True)[:10])
    (project.root / "pipelines/data/online_retail_again.jsonl").write_bytes(repeated)
    summary = project.run()
    assert counts(summary) == {"received": 10, "delivered": 0, "filtered": 0, "deduplicated": 10, "dead_lettered": 0}
    expect_same(project, oracle)


def test_after_mending_the_schema_a_replay_delivers_the_dead_letters_once(project: Project, text: bytes) -> None:
    schema = project.root / "pipelines/schemas/shop.order_line/1.json"
    mended = json.loads(schema.read_text())
    mended["properties"]["UnitPrice"] = {"type": "number", "minimum": 0}
    schema.write_text(json.dumps(mended))
    groups = json.loads(project.pipe("dlq", "groups", "orders", "--json"))["items"]
    free = next(group["fingerprint"] for group in groups if group["count"] == 74)
    project.pipe("dlq", "replay", "orders", "--fingerprint", free)
    project.pipe("dlq", "replay", "orders", "--fingerprint", free)
    assert [group["count"] for group in json.loads(project.pipe("dlq", "groups", "orders", "--json"))["items"]] == [105]
    replayed = project.lines()[39_119:]
    assert (len(replayed), {row["total"] for row in replayed}) == (74, {0})
    assert [row["total"] for row in project.table()[39_119:]] == [0] * 74
    assert counts(project.run()) == dict.fromkeys(COUNTS, 0)


def ten_lines(text: bytes) -> bytes:
    """Ten order lines that were not there before: the first ten, a year on."""
    return b"".join(text.splitlines(keepends=True)[:10]).replace(b'"InvoiceDate":"2010-', b'"InvoiceDate":"2012-')
