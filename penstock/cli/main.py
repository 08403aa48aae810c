"""The command `pipe`: finds the verb, and turns whatever ends it into text on stderr and an exit status.

Verbs are modules of their own, loaded when they are called, so that `pipe --help` imports next to nothing. A verb returns its
exit status (None: done), and raises `PenstockError` for everything that can be expected to go wrong.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from penstock._version import __version__
from penstock.cli.lazy import LazyGroup, ReaderGone, Settings, global_options
from penstock.cli.terminal import Terminal, complete_streams
from penstock.engine.garbage import collect_less
from penstock.errors import ExitStatus, PenstockError

VERBS = {
    "run": ("penstock.cli.run:run", "Run pipelines until stopped, or until drained with --once."),
    "lint": ("penstock.cli.lint:lint", "Check pipeline files: every mistake at once, each with its fix."),
    "doctor": ("penstock.cli.doctor:doctor", "Connect, and find what would keep pipelines from running well."),
    "test": ("penstock.cli.test:test", "Run the tests that pipeline files declare."),
    "try": ("penstock.cli.try_event:try_event", "Show what each step makes of one event."),
    "new": ("penstock.cli.new:new", "Start a pipeline: file, schema, editor completion."),
    "connectors": ("penstock.cli.connectors:connectors", "List sources, sinks and transforms, and document their fields."),
    "status": ("penstock.cli.status:status", "Show counts, checkpoint, dead letters and runs of pipelines."),
    "explain": ("penstock.cli.explain:explain", "Show what became of past events: each step's input and output."),
    "tap": ("penstock.cli.tap:tap", "Show events of a live run, with what each step makes of them."),
    "signal": ("penstock.cli.signal:signal", "Ask something of a pipeline, such as a snapshot; list what was asked."),
    "pause": ("penstock.cli.signal:pause", "Read nothing more until resumed; what was read is committed."),
    "resume": ("penstock.cli.signal:resume", "Go on with a paused pipeline."),
    "dlq": ("penstock.cli.dlq:dlq", "Look at dead letters, replay, discard or export them."),
    "backfill": ("penstock.cli.backfill:backfill", "Send past events through a pipeline again: dry run, shadow."),
    "verify": ("penstock.cli.verify:verify", "See that every event is accounted for: source, journal, dead letters, sinks."),
    "jobs": ("penstock.cli.jobs:jobs", "Look at replays and backfills, pause, resume or cancel them."),
    "checkpoint": ("penstock.cli.checkpoint:checkpoint", "Show where a pipeline stands; move or adopt it."),
    "schema": ("penstock.cli.schema:schema", "Look at schemas, and check data against them."),
    "completion": ("penstock.cli.completion:completion", "Print the completion script of a shell."),
}


def _print_version(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        click.echo(f"pipe (penstock) {__version__}")
        context.exit()


@click.command(
    cls=LazyGroup,
    verbs=VERBS,
    name="pipe",
    subcommand_metavar="VERB …",
    help="Streaming pipelines that lose nothing: source → CloudEvents → schema → transforms → sink.",
    epilog="Begin with: pipe new orders --from file --to sqlite",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    params=[
        *global_options(),
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Print the version."
        ),
    ],
)
@click.pass_context
def cli(context: click.Context) -> None:
    context.ensure_object(Settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command, and end the process with its exit status."""
    collect_less()  # what a verb imports is no garbage, and most of its time
    complete_streams()
    terminal = Terminal.of_process()
    settings = Settings()
    try:
        status = execute(list(sys.argv[1:] if arguments is None else arguments), settings, terminal)
    except ReaderGone:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the interpreter's end
        status = ExitStatus.DONE
    sys.exit(int(status))


def execute(arguments: list[str], settings: Settings, terminal: Terminal) -> int:
    """Run one command line; errors are said on stderr.

    :return: its exit status.
    :raises ReaderGone: nobody reads stdout any more.
    """
    try:
        result = cli.main(arguments, prog_name="pipe", standalone_mode=False, obj=settings)
        return int(result or ExitStatus.DONE)
    except PenstockError as error:
        terminal.say_error(error)
        return int(error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        terminal.say(error.format_message())
        return int(ExitStatus.USAGE)
    except click.ClickException as error:
        return _say_usage(error, terminal)
    except (click.Abort, KeyboardInterrupt):
        return int(ExitStatus.INTERRUPTED)
    except ReaderGone:
        raise
    except Exception as error:  # supervision point: the command ends, and says that the mistake is ours
        _say_internal_error(error, settings, terminal)
        return int(ExitStatus.FAILED)


def _say_usage(error: click.ClickException, terminal: Terminal) -> int:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "pipe"
    message = " ".join(error.format_message().split())  # choices come as a list of lines
    terminal.say_error(PenstockError("usage.invalid", message, help=f"{path} --help says what there is"))
    return int(ExitStatus.USAGE)


def _say_internal_error(error: Exception, settings: Settings, terminal: Terminal) -> None:
    """An exception that nobody expected, in short; its traceback only at `--log-level debug`."""
    if settings.log_level == "debug":
        terminal.say("".join(traceback.format_exception(error)).rstrip())
    help = "run it again with --log-level debug for the traceback, and report it"
    terminal.say_error(
        PenstockError("internal.error", f"{type(error).__name__}: {error}", why="a mistake in Penstock", help=help)
    )


if __name__ == "__main__":
    main()
