"""Penstock: source → CloudEvents → schema → transforms → sink, with nothing lost or skipped silently."""
