"""Penstock: source → CloudEvents → schema → transforms → sink, with nothing lost or skipped silently.

This is the package that plugins and programs import: every public name is here. Names are loaded when first used, so that
importing `penstock` costs next to nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from penstock._guard import refuse_strangers
from penstock._version import __version__

if TYPE_CHECKING:
    from penstock.clock import Clock, SystemClock
    from penstock.cloudevents import from_batch, from_structured, to_batch, to_structured
    from penstock.cloudevents_binary import from_binary, to_binary
    from penstock.config.base import (
        ComponentConfig,
        DataField,
        DataProgram,
        Duration,
        EventField,
        EventProgram,
        ProjectPath,
        Rate,
        RecordField,
        RecordProgram,
        Secret,
        Size,
    )
    from penstock.config.model import Pipeline
    from penstock.engine.embed import load, run
    from penstock.errors import (
        BatchError,
        ComponentError,
        ConfigProblem,
        ConfigurationError,
        EnvironmentFault,
        Fatal,
        Fenced,
        Location,
        MissingExtra,
        Oversized,
        PenstockError,
        Permanent,
        Transient,
        Unavailable,
        UsageError,
        Violation,
    )
    from penstock.event import Event, decode, encode
    from penstock.faults import Faults
    from penstock.inspection import Absence, Inspection, Verifying
    from penstock.ledger import Claim, Claimant, Commit, Counts, JobRecord, Key, Ledger, LedgerSink
    from penstock.observe.status import RunSummary
    from penstock.spi import (
        Batch,
        Batched,
        Concluding,
        Context,
        Examined,
        Expressions,
        FieldsProgram,
        Finding,
        Healthy,
        Identifying,
        Keyed,
        Legible,
        Measured,
        Notes,
        Overwriting,
        Position,
        Program,
        Progress,
        RangeSource,
        Readmitting,
        Rereadable,
        Restartable,
        Result,
        Resume,
        Revertible,
        Signal,
        Signalled,
        Sink,
        Source,
        Token,
        Transform,
        View,
    )

_HOMES = {
    "penstock.clock": ("Clock", "SystemClock"),
    "penstock.cloudevents": ("from_batch", "from_structured", "to_batch", "to_structured"),
    "penstock.cloudevents_binary": ("from_binary", "to_binary"),
    "penstock.config.base": (
        *("ComponentConfig", "DataField", "DataProgram", "Duration", "EventField", "EventProgram"),
        *("ProjectPath", "Rate", "RecordField", "RecordProgram", "Secret", "Size"),
    ),
    "penstock.config.model": ("Pipeline",),
    "penstock.engine.embed": ("load", "run"),
    "penstock.errors": (
        *("BatchError", "ComponentError", "ConfigProblem", "ConfigurationError", "EnvironmentFault", "Fatal"),
        *("Fenced", "Location", "MissingExtra", "Oversized", "PenstockError", "Permanent", "Transient"),
        *("Unavailable", "UsageError", "Violation"),
    ),
    "penstock.event": ("Event", "decode", "encode"),
    "penstock.faults": ("Faults",),
    "penstock.inspection": ("Absence", "Inspection", "Verifying"),
    "penstock.ledger": ("Claim", "Claimant", "Commit", "Counts", "JobRecord", "Key", "Ledger", "LedgerSink"),
    "penstock.observe.status": ("RunSummary",),
    "penstock.spi": (
        *("Batch", "Batched", "Concluding", "Context", "Examined", "Expressions", "FieldsProgram", "Finding", "Healthy"),
        *(
            "Identifying",
            "Keyed",
            "Legible",
            "Measured",
            "Notes",
            "Overwriting",
            "Position",
            "Program",
            "Progress",
            "RangeSource",
        ),
        *("Readmitting", "Rereadable", "Restartable", "Result", "Resume", "Revertible", "Signal", "Signalled", "Sink", "Source"),
        *("Token", "Transform", "View"),
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Absence",
    "Batch",
    "BatchError",
    "Batched",
    "Claim",
    "Claimant",
    "Clock",
    "Commit",
    "ComponentConfig",
    "ComponentError",
    "Concluding",
    "ConfigProblem",
    "ConfigurationError",
    "Context",
    "Counts",
    "DataField",
    "DataProgram",
    "Duration",
    "EnvironmentFault",
    "Event",
    "EventField",
    "EventProgram",
    "Examined",
    "Expressions",
    "Fatal",
    "Faults",
    "Fenced",
    "FieldsProgram",
    "Finding",
    "Healthy",
    "Identifying",
    "Inspection",
    "JobRecord",
    "Key",
    "Keyed",
    "Ledger",
    "LedgerSink",
    "Legible",
    "Location",
    "Measured",
    "MissingExtra",
    "Notes",
    "Oversized",
    "Overwriting",
    "PenstockError",
    "Permanent",
    "Pipeline",
    "Position",
    "Program",
    "Progress",
    "ProjectPath",
    "RangeSource",
    "Rate",
    "Readmitting",
    "RecordField",
    "RecordProgram",
    "Rereadable",
    "Restartable",
    "Result",
    "Resume",
    "Revertible",
    "RunSummary",
    "Secret",
    "Signal",
    "Signalled",
    "Sink",
    "Size",
    "Source",
    "SystemClock",
    "Token",
    "Transform",
    "Transient",
    "Unavailable",
    "UsageError",
    "Verifying",
    "View",
    "Violation",
    "__version__",
    "decode",
    "encode",
    "from_batch",
    "from_binary",
    "from_structured",
    "load",
    "run",
    "to_batch",
    "to_binary",
    "to_structured",
]

refuse_strangers(os.path.dirname(os.path.dirname(__file__)))  # noqa: PTH120 pathlib is not imported this early

if not TYPE_CHECKING:  # a type checker sees the imports above, and misses what is not among them

    def __getattr__(name: str) -> object:
        """Load a public name when it is first used."""
        home = _HOME_OF.get(name)
        if home is None:
            raise AttributeError(f"module 'penstock' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(home), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
