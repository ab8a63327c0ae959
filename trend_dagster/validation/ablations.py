"""What each part of the method is worth: the same cohorts with one thing changed at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from trend_dagster.project.settings import Settings
from trend_dagster.validation.approaches import (
    PROFILE,
    Approach,
    EncodingChoice,
    changed,
    method_approach,
    profile,
)
from trend_dagster.validation.figures import FigureFolder
from trend_dagster.validation.simulated import QUICK_SNR, OnProgress, compare, summary

SNR = QUICK_SNR[7][0]
QUICK_PARTS = (
    "as it is",
    "cleaning",
    "networks",
    "smoothing",
    "encoding",
    "penalty",
    "components",
)


def variants(quick: bool) -> Iterator[Approach]:
    """Every variant; its kind is the part that is changed.

    Parameters
    ----------
    quick : bool
        Leave out smooth loadings and what trains models.
    """
    for approach in _all(profile(PROFILE)):
        if not quick or approach.kind in QUICK_PARTS:
            yield approach


def _all(base: Settings) -> Iterator[Approach]:
    def variant(
        part: str, name: str, encoding: EncodingChoice | None = None, **sections: Any
    ) -> Approach:
        return method_approach(part, name, changed(base, **sections), encoding)

    yield variant("as it is", f"profile {PROFILE}")
    yield variant("cleaning", "global signal kept", bold={"global_signal": "keep"})
    kmeans = {"method": "kmeans"}
    yield variant("networks", "KMeans on the rows of W", networks=kmeans)
    scaled = {"scale_rows": True}
    yield variant("networks", "KMeans on scaled rows", networks=kmeans, clustering=scaled)
    for width in (0, 8, 24):
        yield variant("smoothing", f"{width} mm", thresholding={"smoothing_fwhm_mm": width})
    yield variant("encoding", "none", EncodingChoice(labels=None))
    for labels in (2, 4, 10):
        yield variant("encoding", f"hard, L = {2 * labels}", EncodingChoice(labels=labels))
    for sigma in (30.0, 70.0):
        yield variant("encoding", f"smooth, sigma {sigma:g} mm", EncodingChoice(sigma_mm=sigma))
    for alpha in (1e-4, 1e-3):
        yield variant("penalty", f"alpha {alpha:g} absolute", sweep={"alpha_W": (alpha,)})
    yield variant(
        "penalty",
        "alpha 0.001 scaled",
        sweep={"alpha_W": (1e-3,)},
        factorization={"penalty": "scaled"},
    )
    for k in (14, 20, 60):
        yield variant("components", f"k = {k}", sweep={"n_components": (k,)})
    for strength in (2.0, 30.0):
        yield variant(
            "smooth loadings", f"lambda {strength:g}", factorization={"smoothness": strength}
        )
    yield from _models(base)


def _models(base: Settings) -> Iterator[Approach]:
    """Features of the demo's small model, before and after training."""
    small = profile("demo")
    model = {
        "autoencoder": small.autoencoder.model_dump(),
        "training": small.training.model_dump(),
    }
    for source, title in (("input_projection", "input projection"), ("encoder", "encoder")):
        settings = changed(base, features={"source": source}, **model)
        yield method_approach("features", f"{title}, untrained", settings, trained=False)
        yield method_approach("features", f"{title}, trained", settings)
    off = {**model["autoencoder"], "confidence": "tutorial"}
    settings = changed(
        base, features={"source": "encoder"}, training=model["training"], autoencoder=off
    )
    yield method_approach("confidence", "encoder, trained, confidence inert", settings)


def ablate(
    figures: FigureFolder, seeds: Sequence[int], quick: bool, on_progress: OnProgress
) -> pd.DataFrame:
    """Measure every variant.

    Parameters
    ----------
    figures : FigureFolder
        Where figures are kept.
    seeds : sequence of int
        Cohorts.
    quick : bool
        Fewer variants.
    on_progress : callable
        Shows progress.

    Returns
    -------
    DataFrame
        One row for each variant: part, variant, mean and spread of Dice and what it is worth,
        the Dice of the profile minus that of the variant on the same cohorts.
    """
    approaches = list(variants(quick))
    table = summary(compare(figures, "ablations", approaches, [SNR], seeds, on_progress))
    whole = table.loc[table["kind"] == "as it is", "dice"].iloc[0]
    order = {approach.name: i for i, approach in enumerate(approaches)}
    table = table.assign(worth=whole - table["dice"], order=table["approach"].map(order))
    table = table.sort_values("order", ignore_index=True).drop(columns=["order", "snr"])
    return table.rename(columns={"kind": "part", "approach": "variant"})
