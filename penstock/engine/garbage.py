"""How often a process of ours looks for garbage."""

from __future__ import annotations

import gc

_THRESHOLDS = 10_000, 20, 50


def collect_less() -> None:
    """For a process that is the runs' own, once everything is imported: that is no garbage, and events are in no cycles, so that
    looking for some costs 7 % of the time of a pipeline and finds nothing. A program that embeds a run decides for itself."""
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
