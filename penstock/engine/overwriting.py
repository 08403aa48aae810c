"""Which sinks of a pipeline could put what is older over what is newer (rule 11), for whoever delivers events late.

asked = overwriting_sinks(assembly.sinks)      # of the sinks that are to get something
if asked and not overwrite:
    raise overwrite_needed(asked)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from penstock.config.model import DeadLetters
from penstock.errors import EnvironmentFault
from penstock.ledger import LedgerSink
from penstock.spi import Overwriting, Sink


def overwriting_sinks(sinks: Mapping[str, Sink | LedgerSink]) -> list[str]:
    """Names of those that would take an older event for a newer one. The sinks need not be open.

    :param sinks: by name, as `Assembly.sinks`; of a replay, those alone that are owed something.
    """
    return [name for name, sink in sinks.items() if isinstance(sink, Overwriting) and sink.overwrites]


def overwrite_needed(names: Sequence[str]) -> EnvironmentFault:
    """What to say where such a delivery was not asked for. Nothing has been done yet."""
    sinks = f"sink{'s' if len(names) > 1 else ''} {', '.join(names)}"
    return EnvironmentFault(
        "sink.overwrites",
        f"older events could overwrite newer ones in {sinks}",
        why="an event that comes late replaces or deletes the row of its key, whatever was written there since",
        help="--overwrite lets it; with `order_by` in the sink older events change nothing, and it need not be asked for",
    )


def refuse_overwriting_retries(letters: DeadLetters, sinks: Mapping[str, Sink | LedgerSink]) -> None:
    """A schedule of retries delivers events late, and nobody is asked. Where lanes are parked nothing newer went before.

    :raises EnvironmentFault: `sink.overwrites`.
    """
    if not letters.retry or letters.lane == "park" or not (names := overwriting_sinks(sinks)):
        return
    raise EnvironmentFault(
        "sink.overwrites",
        f"retries of dead letters could put older events over newer ones in {', '.join(names)}",
        why="a retried event replaces or deletes the row of its key, whatever was written there since",
        help="`order_by` in the sink, or `lane: park`, keeps what is newer; or `retry: never`",
    )


def stale_of(sinks: Mapping[str, Sink | LedgerSink]) -> dict[str, int]:
    """By name, of those that know which event is the newer: how many changed nothing."""
    counts = {name: sink.stale for name, sink in sinks.items() if isinstance(sink, Overwriting)}
    return {name: count for name, count in counts.items() if count is not None}
