"""What is refused by name: features that do not exist, and the names of fields that people bring from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from penstock.config.document import Document, Path
from penstock.errors import ConfigProblem, Location

SPELLINGS = {
    "connection": "dsn",
    "connection_string": "dsn",
    "slot_name": "slot.name",
    "alert_above": "dead_letter.alert_threshold",
    "retries": "retry.max_attempts",
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
    "name": "pipeline",
}
"""Field names from elsewhere, with ours."""

_LATER_COMPONENTS = {
    "source": ("http", "kafka", "nats", "postgres", "postgres_cdc", "redis_streams", "s3", "schedule", "sqs"),
    "transform": ("http", "sql"),
    "sink": ("elasticsearch", "http", "kafka", "nats", "postgres", "redis", "redis_streams", "s3", "sqs"),
}


def is_foreign_shape(data: Any) -> bool:
    """Whether the file is one of Benthos' or Redpanda Connect's."""
    if not isinstance(data, dict) or {"source", "sink", "sinks"} & data.keys():
        return False
    inner = data.get("pipeline")
    return {"input", "output"} <= data.keys() or (isinstance(inner, dict) and "processors" in inner)


def refuse_later(document: Document) -> Iterator[ConfigProblem]:
    """Everything in the file that the format describes and this version does not do, a line each; removed, so that nothing else
    complains of it."""
    data = document.data
    for name in ("http", "connections"):
        if name in data:
            yield _later(document, (name,), f"`{name}`", "leave it out")
            del data[name]
    letters = data.get("dead_letter")
    if isinstance(letters, dict) and letters.get("retry") == "webhook":
        yield _later(document, ("dead_letter", "retry"), "`retry: webhook`", "write the delays, such as [5s, 5m, 30m, 2h]")
        del letters["retry"]
    if isinstance(data.get("registry"), str) and re.match(r"https?:", data["registry"]):
        yield _later(document, ("registry",), "a registry behind HTTP", "name a directory")
        del data["registry"]


def _later(document: Document, path: Path, what: str, help: str) -> ConfigProblem:
    return ConfigProblem("config.not_yet", f"this version does not have {what} yet", where=document.at(path, key=True), help=help)


def later_component(kind: str, name: str, where: Location) -> ConfigProblem | None:
    """The problem of a component that the format describes and this version does not have; None for any other name."""
    if name not in _LATER_COMPONENTS.get(kind, ()):
        return None
    return ConfigProblem("config.not_yet", f"this version does not have the {kind} '{name}' yet", where=where)
