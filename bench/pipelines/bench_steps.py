"""The projection as a `python` step."""

from __future__ import annotations

from typing import Any


def project(line: dict[str, Any]) -> dict[str, Any]:
    return {
        "invoice": str(line["InvoiceNo"]),
        "sku": str(line["StockCode"]),
        "quantity": line["Quantity"],
        "price": line["UnitPrice"],
        "total": line["Quantity"] * line["UnitPrice"],
        "country": line["Country"],
    }
