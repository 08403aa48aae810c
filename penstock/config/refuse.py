"""What is refused by name: features that do not exist, and the spellings that people bring from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from penstock.config.document import Document, Path
from penstock.errors import ConfigProblem

SPELLINGS = {
    "connection": "dsn",
    "connection_string": "dsn",
    "slot_name": "slot.name",
    "alert_above": "dead_letter.alert_threshold",
    "retries": "retry.max_attempts",
    "retires": "retry.max_attempts",
    "max_retries": "retry.max_attempts",
    "batch_size": "batching.count",
    "batch": "batching",
    "threads": "workers",
    "steps": "transforms",
    "processors": "transforms",
    "input": "source",
    "output": "sink",
    "mapping": "jq",
    "bloblang": "jq",
    "path": "paths",
    "dlq": "dead_letter",
}
"""Field names from elsewhere, with ours."""

_LATER = {
    ("journal",): ("the journal", "leave `journal` out, or write `journal: off`"),
    ("effects",): ("`effects`", "leave it out"),
    ("idempotency_key",): ("`idempotency_key`", "leave it out"),
    ("order_by",): ("`order_by`", "leave it out"),
}
_FOREIGN_PROGRAMS = (
    (
        re.compile(r"(?<![\w.\"\])])\.trigger\.(data|body)\b"),
        "input is the event's data already",
        "write `.x` for `.trigger.data.x`",
    ),
    (
        re.compile(r"(?<![\w.\"\])$])\.steps\.(\w+)(\.output)?"),
        "earlier outputs are in $steps",
        "write `$steps.NAME` for `.steps.NAME.output`",
    ),
    (
        re.compile(r"^\s*root(\.\w+)*\s*=", re.MULTILINE),
        "this is a Bloblang mapping",
        "jq builds an object: `{total: (.price * .qty)}`",
    ),
    (re.compile(r"\bthis\.\w+"), "`this.` is Bloblang", "jq says `.field`"),
    (
        re.compile(r"\{\{-?\s*(if|range|with|end|\.|\w+\s+\.)"),
        "this is a Go template",
        'jq says `.field`, or "text \\(.field)" in a string',
    ),
)


def is_foreign_shape(data: Any) -> bool:
    """Whether the file is one of Benthos' or Redpanda Connect's."""
    return isinstance(data, dict) and "source" not in data and {"input", "output"} & data.keys() == {"input", "output"}


def refuse_later(document: Document) -> Iterator[ConfigProblem]:
    """Everything in the file that the format describes and this version does not do, a line each; removed, so that nothing else
    complains of it."""
    data = document.data
    if data.get("journal") not in (None, "off", False):
        yield _later(document, ("journal",), *_LATER[("journal",)])
        data["journal"] = "off"
    letters = data.get("dead_letter")
    if isinstance(letters, dict):
        if letters.get("lane") == "park":
            yield _later(document, ("dead_letter", "lane"), "`lane: park`", "write `skip` or `stop`")
            del letters["lane"]
        if letters.get("retry", "never") != "never":
            yield _later(
                document, ("dead_letter", "retry"), "a schedule of retries", "write `never`, and replay with `pipe dlq replay`"
            )
            del letters["retry"]
    if isinstance(data.get("state"), str) and re.match(r"postgres(ql)?:", data["state"]):
        yield _later(document, ("state",), "state in PostgreSQL", "write `sqlite:DIRECTORY`")
        del data["state"]
    yield from _refuse_in_components(document)


def _refuse_in_components(document: Document) -> Iterator[ConfigProblem]:
    data = document.data
    for group in ("transforms", "sinks"):
        for index, entry in enumerate(data.get(group) or ()):
            yield from _refuse_in_entry(document, entry, (group, index))
    yield from _refuse_in_entry(document, data.get("sink"), ("sink",))


def _refuse_in_entry(document: Document, entry: Any, path: Path) -> Iterator[ConfigProblem]:
    if not isinstance(entry, dict):
        return
    blocks = [(entry, path), *((block, (*path, name)) for name, block in entry.items() if isinstance(block, dict))]
    for block, at in blocks:
        for name in ("effects", "idempotency_key", "order_by"):
            if name in block:
                yield _later(document, (*at, name), *_LATER[(name,)])
                del block[name]


def _later(document: Document, path: Path, what: str, help: str) -> ConfigProblem:
    return ConfigProblem("config.not_yet", f"this version does not have {what} yet", where=document.at(path, key=True), help=help)


def foreign_program(text: str) -> tuple[str, str] | None:
    """What is foreign in a jq program (it would be a silent null here), and what to write; None where nothing is."""
    for pattern, what, instead in _FOREIGN_PROGRAMS:
        if pattern.search(text):
            return what, instead
    return None
