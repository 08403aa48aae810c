"""Reads the columns of a CSV file that is to be appended to."""

from __future__ import annotations

from pathlib import Path

from connectors.sources._file_reader import csv_header
from connectors.sources._records import Limits, Naming
from connectors.sources._streams import Damaged
from penstock.errors import EnvironmentFault


def read_columns(path: Path) -> list[str] | None:
    """The names in its first row; None where it has none yet.

    :raises EnvironmentFault: `source.csv_header`, where the first row cannot name columns; `sink.file`, where it cannot be
        decompressed.
    """
    try:
        return csv_header(path, path.suffix, Naming(0, str(path), ""), Limits())
    except Damaged as error:
        raise EnvironmentFault("sink.file", f"cannot read the columns of {path}", why=str(error)) from error
