"""Every setting that decides which networks are found, section by section.

Each section stands beside what it sets; only models of settings are imported here, so that who
reads settings does not wait for the libraries that compute.
"""

from __future__ import annotations

from typing import Any

from trend_dagster.science.bold import BoldConfig, CohortConfig
from trend_dagster.science.connectivity.settings import (
    CorrelationConfig,
    GeodesicLabelsConfig,
    ThresholdConfig,
)
from trend_dagster.science.features.model_settings import (
    AutoencoderConfig,
    FeaturesConfig,
    TrainingConfig,
)
from trend_dagster.science.identity import Section, deciding
from trend_dagster.science.parcellation.settings import (
    ClusteringConfig,
    FactorizationConfig,
    NetworksConfig,
    SweepGrid,
)


class MethodSettings(Section):
    """Every setting that decides which networks are found; a section for each step."""

    bold: BoldConfig = BoldConfig()
    cohort: CohortConfig = CohortConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    training: TrainingConfig = TrainingConfig()
    features: FeaturesConfig = FeaturesConfig()
    correlation: CorrelationConfig = CorrelationConfig()
    geodesic_labels: GeodesicLabelsConfig = GeodesicLabelsConfig()
    thresholding: ThresholdConfig = ThresholdConfig()
    sweep: SweepGrid = SweepGrid()
    factorization: FactorizationConfig = FactorizationConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    networks: NetworksConfig = NetworksConfig()

    def identity(self, section: str) -> dict[str, Any]:
        """Settings of a section that decide results; those that only change speed are left out.

        Parameters
        ----------
        section : str
            Name of the section.

        Returns
        -------
        dict
            As JSON can store it.
        """
        return deciding(getattr(self, section))
