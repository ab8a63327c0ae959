"""trend_dagster: maps of the functional networks of the newborn brain, as Dagster assets."""

__version__ = "0.1.0"
