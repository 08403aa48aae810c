"""`make demo`: change data capture from one PostgreSQL database into another, live, with nothing installed but Python packages.

python -m demo [--rate 50] [--seconds 60] [--seed N]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from demo import screen, warehouse
from demo.shop import Shop
from penstock.engine.embed import load
from penstock.engine.run import Run, RunOptions
from penstock.errors import PenstockError
from penstock.testing.servers import Database, PostgresServer

PIPELINE = Path(__file__).parents[1] / "pipelines" / "orders_cdc.yaml"
REFRESH_SECONDS = 0.25
LINE_SECONDS = 2.0
ROWS = 10
_WINDOW = 20
_PATIENCE = 30.0


class Pace:
    """How fast a number grows, over the last few looks."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque(maxlen=_WINDOW)

    def __call__(self, now: float, number: int) -> float:
        self._samples.append((now, number))
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return (last - first) / (ended - began) if ended > began else 0.0


class Demo:
    """One showing: `play`, once."""

    def __init__(self, shop: Database, store: Database, options: argparse.Namespace) -> None:
        self._options = options
        self._address = f"127.0.0.1:{shop.server.port}"
        self._over = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._shop = Shop(shop.dsn, options.rate, random.Random(options.seed), self._failed)
        self._dsn = shop.dsn
        self._store = store
        environment = {**os.environ, "SHOP_DSN": shop.dsn, "WAREHOUSE_DSN": store.dsn}
        self._run = Run(load(PIPELINE, overrides=[f"state={store.dsn}"], environment=environment), RunOptions())

    def end(self) -> None:
        """Close the shop, deliver what is under way, compare."""
        self._over.set()

    def _failed(self) -> None:
        self._loop.call_soon_threadsafe(self.end)

    async def play(self, console: Console) -> bool:
        """Until `end`, or the time is over, or something fails.

        :return: whether both sides say the same in the end.
        :raises PenstockError: what stopped the pipeline.
        """
        await asyncio.to_thread(self._shop.furnish)
        await asyncio.to_thread(self._store.execute, warehouse.TABLES)
        running = asyncio.create_task(self._run.execute())
        running.add_done_callback(lambda _: self.end())
        with warehouse.Window(self._dsn, self._store.dsn) as window, ExitStack() as stack:
            stack.callback(self._shop.close)
            self._shop.start()
            try:
                await self._show(window, console)
                await asyncio.to_thread(self._shop.close)
                same = not running.done() and await self._settle(window, console)
            finally:
                self._run.stop()
                await running
        if self._shop.fault is not None:
            raise self._shop.fault
        return same

    async def _show(self, window: warehouse.Window, console: Console) -> None:
        changes, events = Pace(), Pace()
        tell, pause = self._teller(console)
        while not self._over.is_set():
            view = await asyncio.to_thread(window.look, ROWS)
            now, changed, delivered = time.monotonic(), self._shop.changes, self._run.status.counts.delivered
            tell(screen.Picture(view, self._run.status, changed, changes(now, changed), events(now, delivered)))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._over.wait(), pause)
        tell(None)

    def _teller(self, console: Console) -> tuple[Callable[[screen.Picture | None], None], float]:
        """How to show a picture, and how often; None ends it."""
        if not console.is_terminal:
            return (
                lambda picture: None if picture is None else console.print(screen.plain(picture), soft_wrap=True),
                LINE_SECONDS,
            )
        live = Live(console=console, auto_refresh=False)
        live.start()

        def tell(picture: screen.Picture | None) -> None:
            if picture is None:
                live.stop()
            else:
                live.update(screen.paint(picture, self._address), refresh=True)

        return tell, REFRESH_SECONDS

    async def _settle(self, window: warehouse.Window, console: Console) -> bool:
        """Wait for what is under way; say whether the tables are equal."""
        deadline = time.monotonic() + _PATIENCE
        while True:
            shop, store = await asyncio.to_thread(window.compare)
            if shop == store or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
        letters = self._run.status.counts.dead_lettered
        kept = f"; {letters} that the schema refused wait as dead letters" if letters else ""
        if shop == store:
            console.print(
                f"✓ {shop.orders:,} orders, the same on both sides (checksum {shop.checksum[:8]}){kept}", soft_wrap=True
            )
        else:
            console.print(
                f"✗ the two sides differ: {shop.orders:,} orders in the shop, {store.orders:,} in the warehouse{kept}",
                soft_wrap=True,
            )
        return shop == store


async def play(options: argparse.Namespace) -> int:
    """Servers up, the showing, everything down."""
    console = Console(highlight=False)
    with ExitStack() as stack:
        if console.is_terminal:
            console.print("starting PostgreSQL …", end="\r")
        server = stack.enter_context(PostgresServer(durable=False))
        demo = Demo(server.create_database("shop"), server.create_database("warehouse"), options)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, demo.end)
        if options.seconds:
            loop.call_later(options.seconds, demo.end)
        return 0 if await demo.play(console) else 1


def main() -> int:
    """:return: 0, where both sides were the same in the end."""
    parser = argparse.ArgumentParser(prog="demo", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=50.0, help="changes a second (default: %(default)g)")
    parser.add_argument("--seconds", type=float, help="end by itself after so many (default: Ctrl-C ends it)")
    parser.add_argument("--seed", type=int, help="the same shop again")
    try:
        return asyncio.run(play(parser.parse_args()))
    except PenstockError as error:
        print(error.render(), file=sys.stderr)
        return error.exit_status


if __name__ == "__main__":
    sys.exit(main())
