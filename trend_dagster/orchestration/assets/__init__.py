"""The assets, in the order of computation: each file is one stretch of the way.

What belongs here: load, one call into science, metadata worth looking at. What does not: any
computation longer than that (``science``) and the handling of partitions, versions and records
(``stored_asset``, ``io_managers``).
"""

from trend_dagster.orchestration.assets import (  # noqa: I001 - the order of computation
    bold,
    cortex,
    features,
    connectivity,
    parcellation,
    validation,
    summary,
    controls,
    delivery,
)

__all__ = [
    "bold",
    "connectivity",
    "controls",
    "cortex",
    "delivery",
    "features",
    "parcellation",
    "summary",
    "validation",
]
