"""The assets, in the order of computation: each file is one stretch of the way.

What belongs here: load, one call into science, what is worth looking at. What does not: any
computation longer than that (``science``) and the handling of partitions, versions and records
(``production``, ``io_managers``).
"""

import dagster as dg

from trend_dagster.errors import SettingsError
from trend_dagster.orchestration.assets import (
    connectivity,
    delivery,
    evidence,
    features,
    individuals,
    inputs,
    parcellation,
)
from trend_dagster.orchestration.production import StoredAsset, stored
from trend_dagster.project.settings import nearest

DEFINITIONS: tuple[dg.AssetsDefinition, ...] = (
    inputs.bold,
    inputs.cortex,
    features.trained_model,
    features.embeddings,
    connectivity.average_correlation,
    connectivity.geodesic_distances,
    connectivity.geodesic_labels,
    connectivity.thresholded_matrix,
    parcellation.nmf_sweep,
    evidence.split_correlation,
    evidence.null_correlation,
    evidence.stability,
    parcellation.sweep_summary,
    parcellation.selected_parcellations,
    individuals.individual_prior,
    individuals.individual_networks,
    individuals.network_series,
    individuals.network_connectivity,
    individuals.individuals,
    evidence.control_correlation,
    evidence.control_sweep,
    delivery.control_comparison,
    delivery.parcellation_images,
    delivery.report,
)

ASSETS: dict[str, StoredAsset] = {asset.name: asset for asset in map(stored, DEFINITIONS)}
"""What is behind each of them, by name, in an order of computation."""


def find_asset(name: str) -> StoredAsset:
    """Find an asset by name.

    Raises
    ------
    SettingsError
        If there is none; the nearest is named.
    """
    if name not in ASSETS:
        raise SettingsError(
            f"asset {name!r}",
            expected=f"one of {', '.join(ASSETS)}",
            found="no such asset" + nearest(name, ASSETS),
            remedy="Correct the name.",
        )
    return ASSETS[name]
