"""Backfills of a project of `EVENTS` events, as `pipe backfill ls` tells of them."""

from __future__ import annotations

import json
from typing import Any

from bad_input_parts import Project

EVENTS = 3000


def jobs(project: Project) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(project.call("backfill", "ls", "--json")[1])["items"]
    return found


def begun(project: Project) -> bool:
    """Whether some events are counted, and not all."""
    return any(0 < job["done"] < EVENTS for job in jobs(project))
