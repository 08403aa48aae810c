"""`pipe checkpoint`: the group of verbs about where a pipeline stands."""

from __future__ import annotations

from penstock.cli.lazy import LazyGroup

VERBS = {
    "show": ("penstock.cli.checkpoint_verbs:show", "Where a pipeline stands, a line each partition."),
    "reset": ("penstock.cli.checkpoint_verbs:reset", "Read partitions from their beginning again."),
    "adopt": ("penstock.cli.checkpoint_verbs:adopt", "Take over ledgers of another state store, or another source."),
}

checkpoint = LazyGroup("checkpoint", verbs=VERBS, subcommand_metavar="VERB …", help="Show, move or adopt a checkpoint.")
