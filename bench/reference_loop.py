"""The reference loop: what the job costs in Python with no framework at all. Every whole-process figure is a ratio to it.

For each line of the order data: `orjson.loads`, `Validator.is_valid`, a projection of six fields, `orjson.dumps`, write.

    python bench/reference_loop.py INPUT OUTPUT
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import orjson
from jsonschema_rs import validator_for

SCHEMA = Path(__file__).parent / "pipelines" / "schemas" / "bench.order_line" / "1.json"


def project(line: dict[str, Any]) -> dict[str, Any]:
    """The six fields; `bench/pipelines/bench_steps.py` has the same for the `python` step."""
    return {
        "invoice": str(line["InvoiceNo"]),
        "sku": str(line["StockCode"]),
        "quantity": line["Quantity"],
        "price": line["UnitPrice"],
        "total": line["Quantity"] * line["UnitPrice"],
        "country": line["Country"],
    }


def main(source: str, target: str) -> None:
    is_valid = validator_for(orjson.loads(SCHEMA.read_bytes()), validate_formats=True).is_valid
    with Path(source).open("rb") as lines, Path(target).open("wb") as out:
        for text in lines:
            line = orjson.loads(text)
            if is_valid(line):
                out.write(orjson.dumps(project(line)) + b"\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
