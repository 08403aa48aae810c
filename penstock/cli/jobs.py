"""`pipe jobs`: the group of verbs about stored jobs, of every kind."""

from __future__ import annotations

from penstock.cli.lazy import LazyGroup

VERBS = {
    "ls": ("penstock.cli.jobs_look:ls", "Jobs, newest first: what they are, how far they are."),
    "show": ("penstock.cli.jobs_look:show", "One job: its options, its counts, why it failed."),
    "pause": ("penstock.cli.jobs_ask:pause", "Let one rest; live work goes on."),
    "resume": ("penstock.cli.jobs_ask:resume", "Go on with one that rests, or whose run has ended."),
    "cancel": ("penstock.cli.jobs_ask:cancel", "End one; what it has done stays."),
}

jobs = LazyGroup(
    "jobs",
    verbs=VERBS,
    subcommand_metavar="VERB …",
    help="Look at replays and backfills, pause, resume or cancel them.",
    epilog="Ids may be shortened to a unique prefix.",
)
