"""The options of verbs that let events out of the store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import click

from penstock.builtins import room


class Redaction(Protocol):
    """What is left out, and what of it there was (`dlq.redaction.Redaction`)."""

    @property
    def changed(self) -> set[str]: ...


def redaction_options(*flag: str, **more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds `--redact` and `--keep`, and one that says whether to guess."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        function = click.option(*flag, **more)(function)
        function = click.option(
            "--keep",
            multiple=True,
            metavar="PATH",
            help="Not this, though it looks secret: .data.token. May be given several times.",
        )(function)
        return click.option(
            "--redact", multiple=True, metavar="PATH", help="This too: .data.customer.email, .data.cards[].number."
        )(function)

    return decorate


def redaction_of(redact: Sequence[str], keep: Sequence[str], *, guesses: bool = True) -> Redaction:
    """:raises UsageError: `dlq.bad_path`."""
    made: Redaction = room("redaction")(redact, keep, guesses)
    return made
