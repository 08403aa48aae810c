"""`pipe dlq`: the group of verbs about dead letters."""

from __future__ import annotations

from penstock.cli.lazy import LazyGroup

VERBS = {
    "groups": ("penstock.cli.dlq_look:groups", "Dead letters by cause, most frequent first."),
    "ls": ("penstock.cli.dlq_look:ls", "Single dead letters, in order of first failure."),
    "show": ("penstock.cli.dlq_look:show", "One dead letter: what is wrong, its data, what was done with it."),
    "stats": ("penstock.cli.dlq_stats:stats", "In figures: by status, code, step, type and day."),
    "edit": ("penstock.cli.dlq_edit:edit", "Mend their events; the originals stay."),
    "replay": ("penstock.cli.dlq_replay:replay", "Send them through the pipeline again, from the start."),
    "discard": ("penstock.cli.dlq_settle:discard", "Close them without delivering their events."),
    "to-test": ("penstock.cli.dlq_to_test:to_test", "Make one a regression test in the pipeline's file."),
    "export": ("penstock.cli.dlq_transfer:export", "Write them to a file, one JSON object a line."),
    "import": ("penstock.cli.dlq_transfer:import_", "Take in what was exported, here or elsewhere."),
}

dlq = LazyGroup(
    "dlq",
    verbs=VERBS,
    subcommand_metavar="VERB …",
    help="Look at dead letters, mend, replay, discard or export them.",
    epilog="Ids and fingerprints may be shortened to a unique prefix.",
)
