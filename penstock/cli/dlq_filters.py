"""The filters that the dead letter verbs share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import wraps
from typing import Any

import click

from penstock.cli.lazy import Settings
from penstock.cli.terminal import Terminal
from penstock.cli.times import find_zone, parse_time
from penstock.clock import rfc3339
from penstock.errors import UsageError
from penstock.state.records import STATUSES, UNSETTLED, LetterQuery, Status

_RANGES = (
    ("since", "until", "failed first"),
    ("seen_since", "seen_until", "failed last"),
    ("event_since", "event_until", "happened"),
)


@dataclass(frozen=True, slots=True)
class Filters:
    """What was asked for. `query` makes sense of it."""

    ids: tuple[str, ...]
    fingerprint: str | None
    code: str | None
    step: str | None
    type: str | None
    owed: str | None
    filter: str | None
    since: str | None
    until: str | None
    seen_since: str | None
    seen_until: str | None
    event_since: str | None
    event_until: str | None
    status: tuple[str, ...]

    @property
    def any(self) -> bool:
        """Whether anything but the status narrows the selection."""
        names = ("ids", "fingerprint", "code", "step", "type", "owed", "filter", *(name for pair in _RANGES for name in pair[:2]))
        return any(getattr(self, name) for name in names)

    def query(self, settings: Settings, terminal: Terminal) -> LetterQuery:
        """The query; times are echoed in UTC.

        :raises UsageError: a time or an id that is none.
        """
        zone, now = find_zone(settings.tz), datetime.now(UTC)
        times: dict[str, float | None] = {}
        for since, until, what in _RANGES:
            texts = {"from": getattr(self, since), "to before": getattr(self, until)}
            at = {word: None if text is None else parse_time(text, now, zone).timestamp() for word, text in texts.items()}
            if bounds := [f"{word} {rfc3339(each)}" for word, each in at.items() if each is not None]:
                terminal.say(f"{what} {' '.join(bounds)}")
            times |= {since: at["from"], until: at["to before"]}
        return LetterQuery(
            ids=self.ids,
            fingerprint=self.fingerprint,
            code=self.code,
            step=self.step,
            type=self.type,
            owed=self.owed,
            filter=self.filter,
            status=self._statuses(),
            after=times["since"],
            before=times["until"],
            seen_after=times["seen_since"],
            seen_before=times["seen_until"],
            event_after=times["event_since"],
            event_before=times["event_until"],
        )

    def _statuses(self) -> tuple[Status, ...]:
        if "any" in self.status:
            return STATUSES
        if not self.status:
            return STATUSES if self.ids else UNSETTLED
        return tuple(status for status in STATUSES if status in self.status)


def letter_filters(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options, and hands them on as `filters`."""

    @wraps(function)
    def call(*arguments: Any, **values: Any) -> Any:
        own = {name: values.pop(name) for name in Filters.__slots__}
        if any(not text for text in own["ids"]):
            raise UsageError("dlq.unknown", "an id cannot be empty", help="pipe dlq ls lists them")
        return function(*arguments, filters=Filters(**own), **values)

    for decorate in reversed(_OPTIONS):
        call = decorate(call)
    return call


def only(query: LetterQuery, *statuses: Status) -> LetterQuery:
    """The query, reduced to letters of these statuses."""
    return replace(query, status=tuple(status for status in query.status if status in statuses))


_OPTIONS = (
    click.option("--id", "ids", multiple=True, metavar="ID", help="This one; may be given several times."),
    click.option("--fingerprint", "-f", metavar="F", help="Of this cause."),
    click.option("--code", metavar="CODE", help="With this error code, such as validate.failed."),
    click.option("--step", metavar="STEP", help="That failed in this step or sink."),
    click.option("--type", metavar="TYPE", help="Of this event type."),
    click.option("--owed", metavar="SINK", help="That are owed to this sink, as `show` names it."),
    click.option("--filter", metavar="JQ", help="For whose event this is neither false nor null: '.data.total > 5'."),
    click.option("--since", metavar="TIME", help="First failed at or after: 2026-11-01, -2h, yesterday, RFC 3339."),
    click.option("--until", metavar="TIME", help="First failed before."),
    click.option("--seen-since", metavar="TIME", help="Last failed at or after."),
    click.option("--seen-until", metavar="TIME", help="Last failed before."),
    click.option("--event-since", metavar="TIME", help="Whose event happened at or after, by its own time."),
    click.option("--event-until", metavar="TIME", help="Whose event happened before."),
    click.option(
        "--status",
        multiple=True,
        type=click.Choice([*STATUSES, "any"]),
        metavar="STATUS",
        help="open, parked, replaying, resolved, superseded, discarded or any.  [default: what is not settled]",
    ),
)
