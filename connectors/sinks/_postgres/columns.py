"""Which columns a table that is made for the events gets, and of which types. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.sinks._asked import Asked
from connectors.sinks._postgres.config import PostgresSinkConfig
from connectors.sinks._postgres.create import types_of_schema, types_of_values
from connectors.sinks._postgres.events import unfit_for_columns
from connectors.sinks._postgres.order_types import type_for_orders
from connectors.sinks._postgres.ordering import Order
from penstock.errors import ComponentError


def types_of(asked: Sequence[Asked], config: PostgresSinkConfig, schema: Any, order: Order | None) -> dict[str, str] | None:
    """By column, in SQL; None where no event says of which columns.

    :param schema: that the configuration names; None without.
    :raises EnvironmentFault: `sink.schema`.
    """
    types = _types_of_rows(asked, config, schema)
    if types is None or order is None or (schema is not None and not order.made):
        return types
    orders = [content[order.column] for _, content in asked if not isinstance(content, ComponentError)]
    return {**types, order.column: type_for_orders(orders)} if orders else None


def _types_of_rows(asked: Sequence[Asked], config: PostgresSinkConfig, schema: Any) -> dict[str, str] | None:
    key = tuple(config.key or ())
    if schema is not None:
        return types_of_schema(schema, config.row_schema or "", config.columns, key)
    contents = [content for kind, content in asked if kind == "put" and not isinstance(content, ComponentError)]
    fitting = [content for content in contents if unfit_for_columns(content, key) is None]
    return types_of_values(fitting[0], fitting) if fitting else None
