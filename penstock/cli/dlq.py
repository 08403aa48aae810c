"""`pipe dlq`: the group of verbs about dead letters."""

from __future__ import annotations

from penstock.cli.lazy import LazyGroup

VERBS = {
    "groups": ("penstock.cli.dlq_look:groups", "Dead letters by cause, most frequent first."),
    "ls": ("penstock.cli.dlq_look:ls", "Single dead letters, in order of first failure."),
    "show": ("penstock.cli.dlq_look:show", "One dead letter: what is wrong, where, how often, its data."),
    "replay": ("penstock.cli.dlq_replay:replay", "Send them through the pipeline again, from the start."),
    "discard": ("penstock.cli.dlq_settle:discard", "Close them without delivering their events."),
    "export": ("penstock.cli.dlq_look:export", "Everything that is kept of them, one JSON object a line."),
}

dlq = LazyGroup(
    "dlq",
    verbs=VERBS,
    subcommand_metavar="VERB …",
    help="Look at dead letters, replay, discard or export them.",
    epilog="Ids and fingerprints may be shortened to a unique prefix.",
)
