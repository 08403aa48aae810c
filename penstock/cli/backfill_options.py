"""What `pipe backfill` is asked for, by what it is about: which events, which steps, how fast, whom to, and what to print."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from penstock.cli.lazy import Settings
from penstock.cli.option_groups import option_group
from penstock.cli.terminal import Terminal
from penstock.cli.times import parse_range
from penstock.clock import rfc3339
from penstock.errors import UsageError

MODES = ("dry_run", "shadow", "live")
ORIGINS = ("journal", "native")


@dataclass(frozen=True, slots=True)
class Events:
    """Which past events."""

    start: str
    end: str
    condition: str
    limit: int | None
    source: str

    def range(self, settings: Settings, terminal: Terminal) -> dict[str, float]:
        """Both ends, in seconds since 1970; echoed in UTC."""
        first, last = parse_range(self.start, self.end, settings.tz, datetime.now(UTC))
        terminal.say(f"events from {rfc3339(first)} to before {rfc3339(last)}")
        return {"start": first, "end": last}


@dataclass(frozen=True, slots=True)
class Trial:
    """What is done with them: `against` names the steps, `ignore` what does not count."""

    mode: str
    against: str
    ignore: tuple[str, ...]

    @property
    def places(self) -> list[str]:
        """What does not count, each checked.

        :raises UsageError: `usage.bad_path`.
        """
        for path in self.ignore:
            if not path.startswith(".") or len(path) < 2:
                raise UsageError("usage.bad_path", f"{path!r} is no place in an event", help="as in jq: --ignore .data.ts")
        return list(self.ignore)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast."""

    rate: str | None
    concurrency: int | None


@dataclass(frozen=True, slots=True)
class Delivery:
    """Of a live one: whom to, and who does it."""

    sinks: tuple[str, ...] = ()
    redeliver: bool = False
    overwrite: bool = False
    no_wait: bool = False


@dataclass(frozen=True, slots=True)
class Output:
    """What to print, and when that is a failure."""

    fail_on_diff: bool
    html: Path | None
    as_json: bool


def check(trial: Trial, speed: Speed, delivery: Delivery, output: Output) -> None:
    """What does not go with the mode is refused.

    :raises UsageError: `usage.invalid`.
    """
    live, shadow = trial.mode == "live", trial.mode == "shadow"
    if not live and delivery != Delivery():
        raise UsageError("usage.invalid", "--sink, --redeliver, --overwrite and --no-wait are of a live one", help="--mode live")
    if live and (output.html is not None or speed.concurrency is not None):
        raise UsageError(
            "usage.invalid",
            "--html and --concurrency are not of a live one",
            why="the run of the pipeline carries it out, and its `workers` say how many processes there are",
        )
    if not shadow and (output.fail_on_diff or trial.ignore):
        raise UsageError("usage.invalid", "--fail-on-diff and --ignore are of a shadow", help="--mode shadow")


events = option_group(
    "events",
    Events,
    click.option(
        "--from", "start", required=True, metavar="TIME", help="First event time: 2026-11-01, -2h, yesterday, RFC 3339."
    ),
    click.option("--to", "end", required=True, metavar="TIME", help="Event time to stop before."),
    click.option(
        "--filter", "condition", metavar="JQ", default="", help="Only events for which it is true: '.data.total >= 100'."
    ),
    click.option("--limit", type=click.IntRange(min=1), help="Look at about so many events, spread over the range."),
    click.option(
        "--source",
        type=click.Choice(ORIGINS),
        default="journal",
        show_default=True,
        help="Where they come from: what the journal holds, or what the source itself has (file, postgres).",
    ),
)
trial = option_group(
    "trial",
    Trial,
    click.option("--mode", type=click.Choice(MODES), default="dry_run", show_default=True, help="What to do."),
    click.option("--against", metavar="FILE|VERSION", default="", help="The steps of this file or stored version instead."),
    click.option("--ignore", multiple=True, metavar="PATH", help="A place whose differences do not count: '.data.ts'."),
)
speed = option_group(
    "speed",
    Speed,
    click.option("--rate", metavar="N/s", help="No more events than that: 1000/s."),
    click.option("--concurrency", type=click.IntRange(min=0), help="Worker processes; 0: none.  [default: as there is work]"),
)
delivery = option_group(
    "delivery",
    Delivery,
    click.option("--sink", "sinks", multiple=True, metavar="NAME", help="Of a live one: to this sink alone, such as a new one."),
    click.option("--redeliver", is_flag=True, help="Of a live one: also what the sinks had before."),
    click.option("--overwrite", is_flag=True, help="Of a live one: older events may overwrite newer rows."),
    click.option("--no-wait", is_flag=True, help="Of a live one: leave it to the run; without one it waits for the next."),
)
output = option_group(
    "output",
    Output,
    click.option("--fail-on-diff", is_flag=True, help="End with 4 where the shadow is not clean."),
    click.option(
        "--html", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Write the report as a page, too."
    ),
    click.option("--json", "as_json", is_flag=True, help="Print the report as JSON."),
)
