"""`pipe backfill promote`: a version is let through, after a shadow has shown what it changes."""

from __future__ import annotations

import asyncio

import click

from penstock.builtins import room
from penstock.cli import numbers
from penstock.cli.backfill_parts import Backfills, at_counter
from penstock.cli.job_find import find_job
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.sender import sender
from penstock.cli.terminal import Terminal
from penstock.journal.lines import VERSION_DIGITS
from penstock.state.promotions import Promotion


@click.command(
    "promote",
    cls=Verb,
    help="""Let the version through that a clean shadow tried. With `promote: required` in its file a pipeline runs no changed
    version before that; one that has run before may always run again.""",
)
@click.argument("job")
@click.option("--accept-differences", is_flag=True, help="What the shadow found is meant; who accepted it is kept.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def promote(settings: Settings, job: str, accept_differences: bool, as_json: bool) -> None:
    terminal = Terminal.of_process()
    name, promotion = asyncio.run(_promote(settings, job, accept_differences, terminal))
    if as_json:
        values = {"version": promotion.version, "at": promotion.at, "by": promotion.by, "job": promotion.job}
        terminal.show_json({"pipeline": name, **values, "differences": promotion.differences})
        return
    accepted = f", {numbers.plural(promotion.differences, 'difference')} accepted" if promotion.differences else ""
    terminal.say(f"{name}: version {promotion.version[:VERSION_DIGITS]} may run, by {promotion.by}{accepted}")


async def _promote(settings: Settings, prefix: str, accept: bool, terminal: Terminal) -> tuple[str, Promotion]:
    _, job = await find_job(settings, prefix)
    backfills: Backfills = room("backfill")
    async with at_counter(settings, backfills.file(job)) as counter:
        steps = await counter.steps(backfills.against(job), terminal)
        return counter.pipeline.name, await counter.desk.promote(job, steps, sender(), accept=accept)
