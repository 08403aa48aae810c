"""The demonstration as people see it: a picture that changes in place on a terminal, a line every other second elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from demo.warehouse import View
from penstock.observe.status import RunStatus


@dataclass(frozen=True, slots=True)
class Picture:
    """All that is shown.

    :ivar changed: changes the shop has committed; `changes_per_second` and `events_per_second` of the last seconds.
    """

    view: View
    status: RunStatus
    changed: int
    changes_per_second: float
    events_per_second: float


def plain(picture: Picture) -> str:
    """One line, for a log."""
    status, view = picture.status, picture.view
    latency = (
        f"p50 {view.median:.0f} ms, p99 {view.slowest:.0f} ms" if view.median is not None and view.slowest is not None else ""
    )
    return "  ".join(
        (
            f"shop {picture.changed:,} changes, {picture.changes_per_second:,.0f}/s",
            f"delivered {status.counts.delivered:,}, {picture.events_per_second:,.0f}/s",
            latency,
            f"{status.counts.dead_lettered} dead letters",
        )
    )


def paint(picture: Picture, address: str) -> Group:
    """The picture, for `rich.live.Live`."""
    return Group(
        Text.assemble(
            ("\nPenstock", "bold"), f"  two PostgreSQL databases on {address}, and pipelines/orders_cdc.yaml between them\n"
        ),
        _rows(picture.view),
        Text(),
        _figures(picture),
        Text("\nCtrl-C ends it, compares both sides and leaves nothing behind", style="dim"),
    )


def _rows(view: View) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 2), header_style="bold")
    for name in ("order", "shop", "", "warehouse", "after"):
        table.add_column(name, justify="right" if name in ("order", "after") else "left", min_width=9 if name else 1)
    for row in view.rows:
        arrived = row.warehouse == row.shop
        table.add_row(
            f"#{row.order:,}",
            row.shop,
            Text("→", style="green" if arrived else "yellow"),
            Text(row.warehouse or "…", style="" if arrived else "yellow"),
            f"{row.after:,.0f} ms" if arrived and row.after is not None else "",
        )
    return table


def _figures(picture: Picture) -> Table:
    status, view, gauges = picture.status, picture.view, picture.status.gauges()
    table = Table.grid(padding=(0, 3, 0, 2))
    table.add_row(Text("changes", "bold"), f"{picture.changes_per_second:,.0f}/s in the shop, {picture.changed:,} in all")
    delivered = f"{picture.events_per_second:,.0f}/s, {status.counts.delivered:,} in all"
    table.add_row(Text("delivered", "bold"), status.waiting or delivered)
    if view.median is not None and view.slowest is not None:
        table.add_row(
            Text("latency", "bold"), f"p50 {view.median:,.0f} ms, p99 {view.slowest:,.0f} ms, from commit to commit, about"
        )
    if "slot_lag_bytes" in gauges:
        lag = f"{gauges['slot_lag_bytes'] / 1024:,.0f} KiB, {gauges['slot_lag_seconds']:.1f} s"
        table.add_row(Text("slot lag", "bold"), lag)
    letters = status.counts.dead_lettered
    why = "  orders of less than nothing, which the schema refuses; nothing else waits for them" if letters else ""
    table.add_row(Text("dead letters", "bold"), f"{letters}{why}")
    return table
