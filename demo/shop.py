"""A shop that never closes: customers place orders, pay, receive and return them, and now and then something goes wrong."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import psycopg

TABLES = """
CREATE TABLE customers (id int PRIMARY KEY, name text NOT NULL, country char(2) NOT NULL);
CREATE TABLE orders (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    customer int NOT NULL REFERENCES customers,
    status text NOT NULL DEFAULT 'placed',
    total numeric(12, 2) NOT NULL,
    items jsonb NOT NULL,
    placed_at timestamptz NOT NULL DEFAULT now(),
    changed_at timestamptz NOT NULL DEFAULT now()
);
"""

CUSTOMERS = 500
OPENING_ORDERS = 2_000
"""Orders that are there before the pipeline begins: its snapshot."""

_NEXT = {"placed": "paid", "paid": "packed", "packed": "shipped", "shipped": "delivered", "delivered": "returned"}
_GOODS = (("lantern", "12.75"), ("teapot", "24.90"), ("mug", "6.25"), ("candle", "3.10"), ("clock", "49.00"), ("scarf", "18.40"))
_NEW_SHARE, _LOST_SHARE, _WRONG_SHARE = 0.35, 0.06, 0.004
_AT_HAND = 2_000


@dataclass(frozen=True, slots=True)
class Basket:
    """What somebody orders. Prices in pence, so that sums are exact."""

    items: tuple[tuple[str, int], ...]
    pence: int

    @property
    def total(self) -> str:
        sign = "-" if self.pence < 0 else ""
        return f"{sign}{abs(self.pence) // 100}.{abs(self.pence) % 100:02}"

    @property
    def json(self) -> str:
        return "[" + ", ".join(f'{{"name": "{name}", "quantity": {quantity}}}' for name, quantity in self.items) + "]"


class Shop:
    """Changes orders in a thread of its own, one transaction each, until `close`.

    :param rate: changes a second, about.
    :ivar changes: committed so far.
    :ivar fault: why it ended, where it did so by itself.
    """

    def __init__(self, dsn: str, rate: float, chance: random.Random, failed: Callable[[], None]) -> None:
        self._dsn = dsn
        self._rate = rate
        self._chance = chance
        self._failed = failed
        self._open: deque[tuple[int, str]] = deque(maxlen=_AT_HAND)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shop", daemon=True)
        self.changes = 0
        self.fault: psycopg.Error | None = None

    def furnish(self) -> None:
        """Tables, customers, and the orders of the days before."""
        with psycopg.connect(self._dsn) as connection:
            connection.execute(TABLES.encode())
            with connection.cursor() as cursor:
                names = [(n, f"customer {n}", self._chance.choice(("DE", "FR", "GB", "NL"))) for n in range(1, CUSTOMERS + 1)]
                cursor.executemany("INSERT INTO customers VALUES (%s, %s, %s)", names)
            for _ in range(OPENING_ORDERS):
                self._place(connection, self._basket())
            connection.execute("UPDATE orders SET placed_at = now() - interval '1 day', changed_at = now() - interval '1 day'")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Harmless when it never started."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            with psycopg.connect(self._dsn, autocommit=True) as connection:
                while not self._closing.wait(self._chance.expovariate(self._rate)):
                    self._change(connection)
                    self.changes += 1
        except psycopg.Error as error:
            self.fault = error
            self._failed()

    def _change(self, connection: psycopg.Connection[tuple[object, ...]]) -> None:
        fate = self._chance.random()
        if fate < _WRONG_SHARE:
            basket = self._basket()
            self._place(connection, Basket(basket.items, -basket.pence))  # a slip of the till, which the schema refuses
        elif fate < _NEW_SHARE or not self._open:
            self._place(connection, self._basket())
        elif fate < _NEW_SHARE + _LOST_SHARE:
            order, _ = self._take()
            connection.execute("DELETE FROM orders WHERE id = %s", (order,))
        else:
            order, status = self._take()
            after = _NEXT.get(status)
            if after is not None:
                connection.execute("UPDATE orders SET status = %s, changed_at = now() WHERE id = %s", (after, order))
                self._open.append((order, after))

    def _place(self, connection: psycopg.Connection[tuple[object, ...]], basket: Basket) -> None:
        row = connection.execute(
            "INSERT INTO orders (customer, total, items) VALUES (%s, %s, %s) RETURNING id",
            (self._chance.randint(1, CUSTOMERS), basket.total, basket.json),
        ).fetchone()
        if row is not None and basket.pence > 0:
            self._open.append((int(str(row[0])), "placed"))

    def _take(self) -> tuple[int, str]:
        place = self._chance.randrange(len(self._open))
        self._open.rotate(-place)
        return self._open.popleft()

    def _basket(self) -> Basket:
        goods = self._chance.sample(_GOODS, self._chance.randint(1, 3))
        items = tuple((name, self._chance.randint(1, 4)) for name, _ in goods)
        pence = sum(int(price.replace(".", "")) * quantity for (_, price), (_, quantity) in zip(goods, items, strict=True))
        return Basket(items, pence)
