"""`pipe checkpoint show | reset | adopt`. The latter two hold the pipeline meanwhile: no run of it may be alive."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import click

from penstock.cli import complete, numbers
from penstock.cli.dlq_render import hint_lines
from penstock.cli.lazy import Settings, Verb, pass_settings, unknown
from penstock.cli.positions import position_teller
from penstock.cli.project import find_stores, load_named
from penstock.cli.running import make_log
from penstock.cli.status import checkpoint_document, checkpoint_lines, read_standing
from penstock.cli.terminal import Terminal
from penstock.clock import SystemClock
from penstock.config.model import Pipeline
from penstock.engine.checkpoints import adopt_ledgers, reset_positions
from penstock.engine.run import RunOptions
from penstock.errors import UsageError
from penstock.faults import Faults
from penstock.observe.text import printable


@click.command("show", cls=Verb, help="Where a pipeline stands: everything up to there has a durable outcome.")
@click.argument("pipeline", shell_complete=complete.pipelines)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_settings
def show(settings: Settings, pipeline: str, as_json: bool) -> None:
    terminal, now = Terminal.of_process(), SystemClock().now()
    [ref] = find_stores(settings, [pipeline])
    standing = asyncio.run(read_standing(ref))
    if as_json:
        checkpoint = checkpoint_document(standing.note, now) if standing is not None else None
        terminal.show_json({"pipeline": ref.pipeline, "checkpoint": checkpoint})
        return
    style = terminal.style
    terminal.show(style.bold(printable(ref.pipeline)))
    if standing is None:
        terminal.show("  never run")
    else:
        terminal.show(*checkpoint_lines(standing.note, position_teller(ref.source), now, style, terminal.width))


@click.command(
    "reset",
    cls=Verb,
    help="""Forget where partitions stand, so that the next run reads them from their beginning.

    Events that the dedup window still knows are not delivered again; all others are. Counts and dead letters stay.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@click.option("--partition", "partitions", multiple=True, metavar="NAME", help="This one; may be given several times.")
@click.option("--all", "take_all", is_flag=True, help="All partitions.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_settings
def reset(settings: Settings, pipeline: str, partitions: tuple[str, ...], take_all: bool, yes: bool) -> None:
    terminal = Terminal.of_process()
    if bool(partitions) == take_all:
        raise UsageError("usage.choose", "which partitions?", help="--partition NAME, or --all")
    loaded = load_named(settings, pipeline)
    [ref] = find_stores(settings, [pipeline])
    standing = asyncio.run(read_standing(ref))
    known = sorted(standing.note.positions) if standing else []
    chosen = known if take_all else [_known(name, known, loaded) for name in partitions]
    if not chosen:
        terminal.say(f"{loaded.name}: there is no checkpoint to reset")
        return
    _ask(loaded, chosen, yes, terminal)
    asyncio.run(reset_positions(loaded, chosen, _options(settings, terminal)))
    terminal.say(f"{loaded.name}: {numbers.plural(len(chosen), 'partition')} will be read from the beginning")


def _known(name: str, known: list[str], pipeline: Pipeline) -> str:
    if name not in known:
        raise unknown("checkpoint.unknown_partition", f"{pipeline.name} has no partition", name, known, "pipe checkpoint show")
    return name


def _ask(pipeline: Pipeline, partitions: Sequence[str], yes: bool, terminal: Terminal) -> None:
    """:raises UsageError: `usage.not_confirmed`: nobody can answer, or the answer was no."""
    question = f"{pipeline.name}: read {numbers.plural(len(partitions), 'partition')} from the beginning again"
    if yes:
        return
    if not (terminal.interactive and terminal.asks and click.confirm(f"{printable(question)}?", err=True)):
        raise UsageError("usage.not_confirmed", f"{question}: not confirmed", help="--yes does it without asking")


@click.command(
    "adopt",
    cls=Verb,
    help="""Accept what a run refused: ledgers of another or a restored state store, another source, a sink that came back.

    The errors that name this verb: ledger.mismatch, state.restored, ledger.came_back, ledger.restored. The pipeline goes on from
    where its ledgers stand now; what a sink missed meanwhile, or lost to a backup, is not delivered to it.""",
)
@click.argument("pipeline", shell_complete=complete.pipelines)
@pass_settings
def adopt(settings: Settings, pipeline: str) -> None:
    terminal = Terminal.of_process()
    loaded = load_named(settings, pipeline)
    epoch = asyncio.run(adopt_ledgers(loaded, _options(settings, terminal)))
    terminal.say(f"{loaded.name}: adopted, as run {epoch}")
    terminal.say(*hint_lines([(f"pipe checkpoint show {loaded.name}", "where it goes on")], terminal.err_style))


def _options(settings: Settings, terminal: Terminal) -> RunOptions:
    return RunOptions(log=make_log(settings, terminal), faults=Faults.from_environment())
