"""`pipe schema`: the group of verbs about schemas."""

from __future__ import annotations

from penstock.cli.lazy import LazyGroup

VERBS = {
    "ls": ("penstock.cli.schema_verbs:ls", "Subjects and their versions."),
    "show": ("penstock.cli.schema_verbs:show", "One schema as it is written."),
    "check": ("penstock.cli.schema_verbs:check", "Check all schemas; or data against one."),
    "config": ("penstock.cli.schema_verbs:config", "The JSON Schema of the pipeline file, for editors."),
}

schema = LazyGroup("schema", verbs=VERBS, subcommand_metavar="VERB …", help="Look at schemas, and check data against them.")
