"""What people see of the two databases: rows on either side, how long changes took, and whether both sides say the same."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import psycopg

TABLES = """
CREATE TABLE orders (
    id bigint PRIMARY KEY,
    customer int NOT NULL,
    status text NOT NULL,
    total numeric(12, 2) NOT NULL,
    pieces int NOT NULL,
    placed_at timestamptz NOT NULL,
    changed_at timestamptz NOT NULL,
    arrived_at timestamptz,
    penstock_order text
);
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.arrived_at := clock_timestamp(); RETURN NEW; END $$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION stamp();
"""

_LATEST = "SELECT id, status FROM orders WHERE total >= 0 ORDER BY changed_at DESC, id DESC LIMIT %s"
_ARRIVED = "SELECT id, status, 1000 * extract(epoch FROM arrived_at - changed_at)::float8 FROM orders WHERE id = ANY (%s)"
_LATENCY = """
SELECT percentile_cont(ARRAY[0.5, 0.99]) WITHIN GROUP (ORDER BY 1000 * extract(epoch FROM arrived_at - changed_at)::float8)
FROM orders WHERE changed_at > clock_timestamp() - interval '10 s'
"""
_CONTENT = """
SELECT count(*),
       md5(coalesce(string_agg(concat_ws('|', id, customer, status, total, placed_at, changed_at), ',' ORDER BY id), ''))
FROM orders WHERE total >= 0
"""


@dataclass(frozen=True, slots=True)
class Row:
    """An order on both sides.

    :ivar after: milliseconds from the shop's transaction to the warehouse's; None where the warehouse does not have it yet.
    """

    order: int
    shop: str
    warehouse: str | None
    after: float | None


@dataclass(frozen=True, slots=True)
class View:
    """Both databases at a moment.

    :ivar median: milliseconds, of the changes of the last ten seconds; `slowest` their 99th percentile.
    """

    rows: list[Row]
    median: float | None
    slowest: float | None


@dataclass(frozen=True, slots=True)
class Content:
    """What a table says: so many orders, and a checksum over all of them."""

    orders: int
    checksum: str


class Window:
    """Looks at both databases. Calls block."""

    def __init__(self, shop: str, warehouse: str) -> None:
        self._shop = psycopg.connect(shop, autocommit=True)
        self._warehouse = psycopg.connect(warehouse, autocommit=True)

    def __enter__(self) -> Window:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._shop.close()
        self._warehouse.close()

    def look(self, count: int) -> View:
        """The orders that changed last."""
        latest = self._shop.execute(_LATEST, (count,)).fetchall()
        arrived = {row[0]: row[1:] for row in self._warehouse.execute(_ARRIVED, ([order for order, _ in latest],))}
        rows = [Row(order, status, *arrived.get(order, (None, None))) for order, status in latest]
        ((latencies,),) = self._warehouse.execute(_LATENCY).fetchall()
        median, slowest = latencies or (None, None)
        return View(rows, median, slowest)

    def compare(self) -> tuple[Content, Content]:
        """Shop and warehouse, whole; without the orders that the schema refuses."""
        return self._content(self._shop), self._content(self._warehouse)

    def _content(self, connection: psycopg.Connection[tuple[object, ...]]) -> Content:
        ((orders, checksum),) = connection.execute(_CONTENT).fetchall()
        return Content(int(str(orders)), str(checksum))
