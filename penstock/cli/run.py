"""`pipe run`: pipelines until they are stopped or drained."""

from __future__ import annotations

import asyncio

import click

from penstock.cli import complete
from penstock.cli.dry_run import dry_run_all
from penstock.cli.lazy import Settings, Verb, pass_settings
from penstock.cli.project import load_files
from penstock.cli.running import Request, refuse_mixed_output, run_all
from penstock.cli.terminal import Terminal
from penstock.errors import UsageError
from penstock.observe.http import parse_address


@click.command(
    "run",
    cls=Verb,
    help="""Run pipelines, by files, directories, globs or names, until they are stopped, each supervised on its own.

    SIGTERM or Ctrl-C reads nothing more, delivers and commits what was read, and exits 0; a second one stops now.""",
)
@click.argument("files", nargs=-1, required=True, metavar="FILE…", shell_complete=complete.files)
@click.option("--once", is_flag=True, help="End when the source has been drained.")
@click.option("--dry-run", is_flag=True, help="Real source and steps; prints what sinks would get, touches no state.")
@click.option("--max-events", type=click.IntRange(1), metavar="N", help="End after so many events of each pipeline.")
@click.option("--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a field of the file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per pipeline when it ends, and nothing else.")
@click.option("--http", metavar="HOST:PORT", help="Serve /healthz, /readyz and /metrics on a loopback address.")
@click.option("--wait", is_flag=True, help="Wait for another run of the same pipeline to end.")
@click.option("--take-over", is_flag=True, help="Fence off another run of the same pipeline.")
@click.option("--fail-on-dead-letters", is_flag=True, help="Exit with 4 where events were dead-lettered.")
@pass_settings
def run(
    settings: Settings,
    files: tuple[str, ...],
    once: bool,
    dry_run: bool,
    max_events: int | None,
    overrides: tuple[str, ...],
    as_json: bool,
    http: str | None,
    wait: bool,
    take_over: bool,
    fail_on_dead_letters: bool,
) -> int:
    if wait and take_over:
        raise UsageError("usage.conflict", "--wait and --take-over do not go together", help="choose one")
    address = parse_address(http) if http is not None else None
    request = Request(once, max_events, as_json, wait, take_over, fail_on_dead_letters, address)
    terminal = Terminal.of_process()
    pipelines = load_files(settings, files, overrides)
    if dry_run:
        return asyncio.run(dry_run_all(pipelines, request, settings, terminal))
    refuse_mixed_output(pipelines, request)
    return asyncio.run(run_all(pipelines, request, settings, terminal))
