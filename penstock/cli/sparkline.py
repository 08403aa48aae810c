"""Counts over time as one word: ▁▃█, or in ASCII where the output cannot show that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TextIO

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = ".:-=+*#@"
NONE = {BLOCKS: " ", ASCII: "_"}


def levels_of(out: TextIO) -> str:
    """The characters that this output can show, lowest first."""
    encoding = (out.encoding or "ascii").lower().replace("_", "-")
    dumb = os.environ.get("TERM", "") == "dumb"
    return BLOCKS if encoding.startswith("utf") and not dumb else ASCII


def sparkline(counts: Sequence[int], levels: str) -> str:
    """A character for each count, by its share of the highest; none at all is a gap."""
    most = max(counts, default=0)
    top = len(levels)
    return "".join(NONE[levels] if not count else levels[max(0, -(-count * top // most) - 1)] for count in counts)
