"""What the tests of the command share: a small shop of a project, a way to call `pipe`, its listings and its standard input."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

PIPELINE = """\
pipeline: shop
source:
  file: { paths: [in/*.jsonl] }
  event: { type: shop.line }
validate: shop.line@1
transforms:
  - name: sold
    filter: .n != 3
  - name: total
    jq: '{id: .n, total: (.n * 2)}'
sinks:
  - name: table
    sqlite: { path: out/shop.db, table: shop, key: [id], create: true }
  - name: lines
    file: { path: out/shop.jsonl }
tests:
  - name: doubled
    input: { data: { n: 2 } }
    output: [{ type: shop.line, data: { id: 2, total: 4 } }]
"""
SUMMARY_KEYS = (
    "pipeline version epoch received delivered filtered deduplicated dead_lettered".split()
    + "derived reread seconds events_per_second sinks".split()
)
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer", "minimum": 1}}, "required": ["n"]}

Pipe = Callable[..., tuple[int, str, str]]
"""Calls the command with some arguments: exit status, standard output, standard error."""


def items(output: str) -> list[dict[str, Any]]:
    envelope = json.loads(output)
    assert list(envelope) == ["items", "next"]
    found: list[dict[str, Any]] = envelope["items"]
    return found


class Stdin:
    """Standard input as a verb reads it."""

    def __init__(self, text: bytes) -> None:
        self.buffer = io.BytesIO(text)

    def isatty(self) -> bool:
        return False
