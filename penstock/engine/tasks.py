"""The end of tasks: whoever started one sees it end, too."""

from __future__ import annotations

import asyncio
from typing import Any


async def call_off(*tasks: asyncio.Future[Any]) -> None:
    """Cancel them all, and return when they have ended. What they would have returned or raised is nobody's matter any more."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
