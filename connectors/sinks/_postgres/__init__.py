"""Rows into PostgreSQL: what stands behind `connectors.sinks.postgres`."""
