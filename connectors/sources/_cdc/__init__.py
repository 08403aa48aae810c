"""Change data capture from PostgreSQL: what stands behind `connectors.sources.postgres_cdc`."""
