"""`pipe backfill`: past events through a pipeline's steps again. A name that is no verb is a pipeline, to begin one."""

from __future__ import annotations

import click

from penstock.cli.lazy import LazyGroup

START = "start"
VERBS = {
    START: ("penstock.cli.backfill_start:start", "Begin one: what it would do (dry_run), what would differ (shadow), or live."),
    "ls": ("penstock.cli.backfill_verbs:ls", "Backfills, newest first."),
    "report": ("penstock.cli.backfill_verbs:report", "What one has come to so far; --html FILE for a reviewer."),
    "pause": ("penstock.cli.jobs_ask:pause", "Let one rest."),
    "resume": ("penstock.cli.backfill_verbs:resume", "Go on with one that rests, or whose process died."),
    "cancel": ("penstock.cli.jobs_ask:cancel", "End one."),
    "promote": ("penstock.cli.backfill_promote:promote", "Let the version through that a clean shadow tried."),
}


class BackfillGroup(LazyGroup):
    """`pipe backfill orders …` is `pipe backfill start orders …`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self._verbs and args[0] not in ctx.help_option_names:
            args = [START, *args]
        return super().parse_args(ctx, args)


backfill = BackfillGroup(
    "backfill",
    verbs=VERBS,
    subcommand_metavar="PIPELINE … | VERB …",
    help="Send past events through a pipeline again: to see what it would do, or what a change of it would change.",
    epilog="Begin with: pipe backfill orders --from yesterday --to now",
)
