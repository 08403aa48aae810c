"""The demonstration: a shop's database, a warehouse's, and the pipeline between them. `make demo` from a clone."""
