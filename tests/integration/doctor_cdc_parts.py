"""What tests of doctor over a postgres_cdc source share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cdc_parts import ORDERS, make_source
from doctor_parts import wrong

from penstock.spi import Finding
from penstock.testing.servers import Database


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute(ORDERS)
    return database


async def found_in(database: Database, directory: Path, **fields: Any) -> dict[str, Finding]:
    source = make_source(database, directory, **{"max_slot_lag": "10GiB", **fields})
    return wrong(await source.examine({}))
