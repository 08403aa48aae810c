"""Verbs that are imported when they are called, and the options that every verb takes."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import click
from click.shell_completion import CompletionItem

from penstock.errors import UsageError

LOG_LEVELS = ("debug", "info", "warning", "error")
Level = Literal["debug", "info", "warning", "error"]


@dataclass(slots=True)
class Settings:
    """What the global options say.

    :ivar tz: name of the zone of times without an offset; None is this machine's.
    """

    env_file: Path | None = None
    log_level: Level = "info"
    project: Path | None = None
    tz: str | None = None

    def environment(self) -> Mapping[str, str]:
        """What `${VAR}` sees: the process's environment, over the file of `--env-file`."""
        if self.env_file is None:
            return os.environ
        from penstock.cli.env_file import read_env_file

        return {**read_env_file(self.env_file), **os.environ}


pass_settings = click.make_pass_decorator(Settings, ensure=True)


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and parameter.name is not None:
        setattr(context.ensure_object(Settings), parameter.name, value)


def global_options() -> list[click.Parameter]:
    """Options that stand before or after the verb, and land in `Settings`."""
    file, directory = click.Path(dir_okay=False, path_type=Path), click.Path(file_okay=False, exists=True, path_type=Path)
    return [
        GlobalOption(["--env-file"], type=file, metavar="FILE", help="Variables for ${VAR}; the environment overrules it."),
        GlobalOption(
            ["--log-level"],
            type=click.Choice(LOG_LEVELS),
            metavar="LEVEL",
            help="debug, info, warning or error.  [default: info]",
        ),
        GlobalOption(["--project"], type=directory, metavar="DIR", help="The project's root, instead of looking for it."),
        GlobalOption(["--tz"], metavar="ZONE", help="Zone of times without an offset.  [default: this machine's]"),
    ]


class GlobalOption(click.Option):
    """An option of every verb."""

    def __init__(self, names: list[str], **more: Any) -> None:
        super().__init__(names, expose_value=False, callback=_remember, **more)


class Text(click.types.StringParamType):
    """Free text. Bytes that are not UTF-8, which an argument gives as lone surrogates, no store, pipe or terminal would take.

    A name of a file may have them: it is no free text.
    """

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!r} is not UTF-8", param, ctx)
        return text


TEXT = Text()


class ReaderGone(Exception):
    """Whoever read our output has seen enough: `pipe dlq ls | head -1`."""


class Verb(click.Command):
    """A verb: takes the global options too, and lists them apart. Its options of no other type are free text."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.params.extend(global_options())
        for parameter in self.params:
            if isinstance(parameter, click.Option) and parameter.type is click.STRING:
                parameter.type = TEXT

    def invoke(self, ctx: click.Context) -> Any:
        """:raises ReaderGone: in the place of `BrokenPipeError`, which click would make an exit status of 1."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ReaderGone from error
        return result

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None  # arguments are in the usage
            if record is not None:
                (shared if isinstance(parameter, GlobalOption) else own).append(record)
        for title, records in (("Options", own), ("Global options", shared)):
            with formatter.section(title):
                formatter.write_dl(records)


class LazyGroup(click.Group):
    """A group whose verbs are known by name and summary, and imported when called.

    :param verbs: by name, `module:attribute` and the one line of `--help`.
    """

    def __init__(self, *arguments: Any, verbs: Mapping[str, tuple[str, str]], **more: Any) -> None:
        super().__init__(*arguments, **more)
        self._verbs = verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._verbs)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._verbs:
            return None
        module, _, attribute = self._verbs[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}:{attribute} is no command")
        return command

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self._verbs and not ctx.resilient_parsing and not name.startswith("-"):
            raise unknown(
                "usage.unknown_verb", f"{ctx.command_path} has no verb", name, list(self._verbs), f"{ctx.command_path} -h"
            )
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Verbs come from the table; completing must not import them all."""
        own = [CompletionItem(name, help=text) for name, (_, text) in self._verbs.items() if name.startswith(incomplete)]
        return own + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._verbs.items()])


def unknown(code: str, what: str, name: str, known: list[str], lists: str) -> UsageError:
    """The error of a name that does not exist, with the one that was probably meant.

    :param lists: the command that lists the known ones.
    """
    close = difflib.get_close_matches(name, known, 1)
    return UsageError(code, f"{what} {name!r}", help=f"did you mean {close[0]!r}?" if close else f"{lists} lists them")
