"""Dagster, one concept per file; each opens by saying what belongs there and what does not."""
