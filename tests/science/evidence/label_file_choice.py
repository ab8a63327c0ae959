"""What the choice of a label file goes by, on noise and on planted networks.

Cohorts on fsaverage3, label files with 2, 14 and 20 labels, 14 clusters: each cell's stability
between halves beside its surrogates', and which label file is chosen by the raw stability, by the
plain excess, and by the rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trend_dagster.science.evidence.nulls import SurrogateMaker
from trend_dagster.science.evidence.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.evidence.stability import COLUMNS, split_halves
from trend_dagster.science.method import (
    Correlation,
    Encoding,
    MethodSettings,
    correlate_bold,
    stability_beside_noise,
)
from trend_dagster.science.parcellation.selection import rank_cells
from trend_dagster.science.parcellation.settings import SelectionConfig
from trend_dagster.science.surface import Surface, cut_into_labels

N_LABELS = (2, 14, 20)  # 14 is the number of clusters: the label file can give them all by itself
K, N_CLUSTERS = 20, 14
SETTINGS = MethodSettings.model_validate(
    {
        "bold": {"global_signal": "keep"},
        "thresholding": {"smoothing_fwhm_mm": 0},
        "sweep": {"n_components": [K], "alpha_W": [0.0], "n_clusters": [N_CLUSTERS]},
        "factorization": {"max_iter": 200},
        "networks": {"method": "kmeans"},
    }
)

Runs = Sequence[NDArray[np.float32]]
LabelFiles = Mapping[int, NDArray[np.integer[Any]]]


def label_files_of(surface: Surface) -> LabelFiles:
    """Label files by their number of labels."""
    return {n: cut_into_labels(surface, n // 2) for n in N_LABELS}


def cohort(surface: Surface, snr: float, seed: int) -> Runs:
    """Four newborns with a run each."""
    config = SimulationConfig(snr=snr, n_subjects=4, runs_per_subject=1, seed=seed)
    _, runs = simulate_cohort(surface, config)
    return [run for _, run in runs]


def both_halves(runs: Runs) -> tuple[Correlation, Correlation]:
    """Average the correlation over each half of a cohort."""
    halves = split_halves([str(i) for i in range(len(runs))], random_state=108)
    first, second = (correlate_bold([runs[r] for r in half], SETTINGS) for half in halves.runs)
    return first, second


def beside_surrogates(
    runs: Runs, maker: SurrogateMaker, label_files: LabelFiles, n_nulls: int
) -> pd.DataFrame:
    """The table of a cohort's cells, as the assets make it; one row per label file."""
    smooth = [maker.measure(run) for run in runs]
    data, nulls = both_halves(runs), []
    for null in range(n_nulls):
        rng = np.random.default_rng([108, null])
        noise = [maker.surrogate(r, s, rng) for r, s in zip(runs, smooth, strict=True)]
        nulls.append(both_halves(noise))
    rows = []
    for n, labels in label_files.items():
        arrays = stability_beside_noise(data, nulls, Encoding(labels), SETTINGS)[K]
        rows.append(
            {name: arrays[name][0, 0] for name in COLUMNS}
            | {"label_file": f"L{n:02d}", "n_labels": n, "n_components": K}
            | {"n_clusters": N_CLUSTERS, "alpha_W": 0.0, "l1_ratio": 0.4}
            | {"zero_row_share": 0.0, "distinct_rows": 1000}
            | {"silhouette": arrays["half_silhouette"][0, 0]}
        )
    return pd.DataFrame(rows)


def choices(table: pd.DataFrame) -> dict[str, str]:
    """Label file that is chosen by the raw stability, by the plain excess, and by the rule."""

    def largest(column: str) -> str:
        return str(table.sort_values(column, ascending=False).iloc[0]["label_file"])

    return {
        "raw stability": largest("stability"),
        "plain excess": largest("stability_excess"),
        "the rule": str(rank_cells(table, SelectionConfig()).iloc[0]["label_file"]),
    }
