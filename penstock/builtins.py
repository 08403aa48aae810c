"""The one table of built-in components, as lazy strings, so that `pipe --help` imports no client library.

It is also the only place where `penstock` names the outer rooms (registry, transforms, connectors, dlq).
"""

from __future__ import annotations

SOURCES = {
    "file": "connectors.sources.file:FileSource",
    "generate": "connectors.sources.generate:GenerateSource",
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
    "sqlite": "connectors.sinks.sqlite:SqliteSink",
    "stdout": "connectors.sinks.stdout:StdoutSink",
}

ROOMS = {
    "expressions": "transforms.expressions:compiler",
    "registry": "registry.files:FileRegistry",
    "dlq": "dlq.queue:DeadLetterQueue",
}
"""What the core needs of the outer rooms, by the name it asks for."""
