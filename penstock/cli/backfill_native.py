"""What a native range came to, on the terminal: what the source held beside what the journal tells of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from penstock.cli import numbers
from penstock.cli.terminal import Style
from penstock.observe.text import printable


def native_lines(report: Mapping[str, Any], style: Style) -> Iterator[str]:
    """None, where the range was read from the journal."""
    native = report["native"]
    if native is None:
        return
    yield f"read from the source: {numbers.plural(native['events'], 'event')} of the range"
    if native["unknown"]:
        yield f"{native['unknown']:>14,}  the journal does not tell of"
    if native["changed"]:
        yield style.yellow(f"{native['changed']:>14,}  were changed at the source since they were received")
    if native["unplaced"]:
        yield style.yellow(f"{native['unplaced']:>14,}  records beside them may be of the range: nobody knows when they happened")
        for each in native["examples"]:
            yield style.dim(f"{'':>14}  {printable(each['id'])} of {printable(each['partition'])}: {printable(each['why'])}")
