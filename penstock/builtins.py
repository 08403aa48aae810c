"""The one table of built-in components, as lazy strings, so that `pipe --help` imports no client library.

It is also the only place where `penstock` names the outer rooms (registry, transforms, connectors, dlq, backfill, verify).
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

SOURCES = {
    "file": "connectors.sources.file:FileSource",
    "generate": "connectors.sources.generate:GenerateSource",
    "postgres": "connectors.sources.postgres:PostgresSource",
    "postgres_cdc": "connectors.sources.postgres_cdc:PostgresCdcSource",
    "stdin": "connectors.sources.stdin:StdinSource",
}

TRANSFORMS = {
    "filter": "transforms.filter:Filter",
    "jq": "transforms.jq:Jq",
    "python": "transforms.python:Python",
    "redact": "transforms.redact:Redact",
    "set": "transforms.set:Set",
    "split": "transforms.split:Split",
    "validate": "transforms.validate:Validate",
}

SINKS = {
    "drop": "connectors.sinks.drop:DropSink",
    "file": "connectors.sinks.file:FileSink",
    "postgres": "connectors.sinks.postgres:PostgresSink",
    "sqlite": "connectors.sinks.sqlite:SqliteSink",
    "stdout": "connectors.sinks.stdout:StdoutSink",
}

ROOMS = {
    "expressions": "transforms.expressions:compiler",
    "registry": "registry.files:FileRegistry",
    "fingerprint": "dlq.fingerprint:fingerprint",
    "dlq": "dlq.queue:DeadLetterQueue",
    "shipping": "dlq.shipping:Shipping",
    "redaction": "dlq.redaction:redaction",
    "regression": "dlq.regression:regression",
    "replays": "dlq.replay:Replays",
    "carry_replay": "dlq.replay_carrier:carry_replay",
    "carry_retry": "dlq.due_carrier:carry_retry",
    "carry_release": "dlq.due_carrier:carry_release",
    "backfill": "backfill.desk:Desk",
    "carry_backfill": "backfill.live:carry_backfill",
    "settle_backfill": "backfill.settling:settle_backfill",
    "spared": "backfill.job:spared",
    "verify": "verify.verifier:Verifier",
}
"""What the core needs of the outer rooms, by the name it asks for."""


def room(name: str) -> Any:
    """What an outer room offers to the core, imported now."""
    return load(ROOMS[name])


def load(target: str) -> Any:
    """Import `module:name`."""
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)
