"""The journal as other tools read it: `zstdcat | jq`, and DuckDB's `read_json`, on the files as a run wrote them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import jq
import pytest
import zstandard
from bad_input_parts import Project

RECORDS = [b'{"n":%d,"country":"%b","price":%d.25}' % (n, (b"FR", b"DE", b"IE")[n % 3], n) for n in range(300)]
PIPELINE = """\
source: { file: in.jsonl, event: { type: order.line, time: '"2026-01-01T00:00:00Z"', subject: .country } }
dedup: { window: 1d, key: .data.n % 250 }
transforms:
  - name: sold
    filter: .n % 10 != 3
  - name: check
    jq: 'if .n == 57 then error("odd") else { n, price } end'
sinks:
  - file: out.jsonl
  - sqlite: { path: out.db, table: t, key: [n], create: true }
batching: { count: 20 }
journal: { outputs: full }
"""


@pytest.fixture
async def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    project = Project(tmp_path)
    project.pipeline(PIPELINE)
    project.write("in.jsonl", *RECORDS, b'{"n":')
    summary = await project.run()
    assert summary.counts.received == 301
    return project


def expected() -> dict[str, int]:
    kinds: Counter[str] = Counter(dead_lettered=1)
    for n in range(300):
        kinds["deduplicated" if n >= 250 else "filtered" if n % 10 == 3 else "dead_lettered" if n == 57 else "delivered"] += 1
    return dict(kinds)


def segments(project: Project) -> list[Path]:
    return sorted((project.root / ".penstock/journal/orders").glob("*.jsonl.zst"))


def decompressed(project: Project) -> str:
    """`zstdcat *.jsonl.zst`; where that is not installed, the same by the library."""
    if shutil.which("zstdcat"):
        return subprocess.run(["zstdcat", *segments(project)], capture_output=True, check=True, text=True).stdout
    texts = []
    for path in segments(project):
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as stream:
            texts.append(io.TextIOWrapper(stream, encoding="utf-8").read())
    return "".join(texts)


def through_jq(text: str, program: str) -> list[Any]:
    """`jq -c PROGRAM`; where that is not installed, the library that Penstock itself uses."""
    if shutil.which("jq"):
        done = subprocess.run(["jq", "-c", program], input=text, capture_output=True, check=True, text=True)
        return [json.loads(line) for line in done.stdout.splitlines()]
    return [result for line in text.splitlines() for result in jq.compile(program).input_text(line).all()]


def test_zstdcat_and_jq_read_it(project: Project) -> None:
    text = decompressed(project)
    assert Counter(through_jq(text, ".outcome")) == expected()
    prices = through_jq(text, 'select(.outcome == "delivered" and .event.subject == "FR") | .event.data.price')
    assert sum(prices) == sum(n + 0.25 for n in range(0, 250, 3) if n % 10 != 3 and n != 57)
    assert through_jq(text, 'select(.step == "check") | [.event.data.n, .event.type, .letter != null]') == [
        [57, "order.line", True]
    ]
    assert len(through_jq(text, ".outputs[].data | select(.n == 5)")) == 1


def test_duckdb_reads_it(project: Project) -> None:
    files = str(project.root / ".penstock/journal/orders/*.jsonl.zst")
    with duckdb.connect() as database:
        source = f"read_json('{files}', format = 'newline_delimited')"
        rows = database.execute(f"SELECT outcome, count(*) FROM {source} GROUP BY ALL").fetchall()
        assert dict(rows) == expected()
        query = f"SELECT event.subject, sum(event.data.price) FROM {source} WHERE outcome = 'delivered' GROUP BY ALL ORDER BY 1"
        assert database.execute(query).fetchall() == [
            (name, sum(n + 0.25 for n in range(rest, 250, 3) if n % 10 != 3 and n != 57))
            for rest, name in sorted(enumerate(("FR", "DE", "IE")), key=lambda pair: pair[1])
        ]
        times = f"""SELECT year(min("at"::TIMESTAMP)), max(event.time)::DATE FROM {source}"""
        [(first, last)] = database.execute(times).fetchall()
        assert (first >= 2026, str(last)) == (True, "2026-01-01")


def test_duckdb_reads_it_without_being_told_of_the_format(project: Project) -> None:
    with duckdb.connect() as database:
        [(count,)] = database.execute(f"SELECT count(*) FROM '{segments(project)[0]}'").fetchall()
    assert count == 301
