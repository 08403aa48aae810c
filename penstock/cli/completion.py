"""`pipe completion`: the script that makes a shell complete verbs, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from penstock.cli.lazy import Verb
from penstock.cli.main import cli
from penstock.cli.terminal import Terminal

INSTALL = {
    "bash": 'eval "$(pipe completion bash)"  in ~/.bashrc',
    "zsh": 'eval "$(pipe completion zsh)"  in ~/.zshrc',
    "fish": "pipe completion fish > ~/.config/fish/completions/pipe.fish",
}


@click.command(
    "completion", cls=Verb, help="Print the completion script of a shell, bash, zsh or fish; a terminal is told where it goes."
)
@click.argument("shell", type=click.Choice(list(INSTALL)), metavar="SHELL")
def completion(shell: str) -> None:
    terminal = Terminal.of_process()
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    terminal.show(kind(cli, {}, "pipe", "_PIPE_COMPLETE").source())
    if terminal.width is not None:
        terminal.say(INSTALL[shell])
