"""Rows into SQLite: what stands behind `connectors.sinks.sqlite`."""
