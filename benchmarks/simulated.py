"""Does the method find planted networks? ``python -m benchmarks.simulated [--quick]``.

Cohorts of 10 newborns with 2 runs each on fsaverage3: 14 planted networks, irregular, unequal,
three in ten distributed, borders that differ between newborns, coloured noise, regional loss of
signal, and a motion-like signal that makes the mean correlation 0.11, as in the real recording of
``make real``. Everyone gets the same BOLD. Competitors get the raw correlation under each spatial
encoding of the table and are judged by the best of them; as a stricter comparison they get the
correlation cleaned as the profile `networks` cleans it, too.

The difficulty is the SNR. Each cohort's figures are kept in --cache, so that an interrupted
benchmark goes on. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from trend_dagster.orchestration.settings import Settings, load_settings
from trend_dagster.science.baselines import (
    kmeans_parcellation,
    nmf_parcellation,
    pca_features,
    spectral_parcellation,
    ward_parcellation,
)
from trend_dagster.science.block_matrix import threshold_by_label
from trend_dagster.science.bold import prepare, signal_mask
from trend_dagster.science.clustering import scale_rows
from trend_dagster.science.correlation import average_correlation
from trend_dagster.science.evaluation import mean_dice, mean_iou
from trend_dagster.science.geodesic import Surface, edge_graph
from trend_dagster.science.networks import (
    Neighbourhood,
    SmoothedCorrelation,
    find_networks,
    smoother,
)
from trend_dagster.science.simulation import SimulationConfig, simulate_cohort
from trend_dagster.science.sweep import sweep
from trend_dagster.storage.meshes import load_fsaverage

PROFILE = "networks"
COHORT: dict[str, Any] = {"n_subjects": 10, "runs_per_subject": 2, "motion": 0.35}
FULL_SNR = (0.12, 0.16, 0.19, 0.25)
QUICK_SNR = (0.19,)
# 1 to 6 chose the settings and the difficulties; these did not.
SEEDS = (101, 102, 103, 104, 105)
WIDTHS_MM = (0.0, 14.0, 19.0, 23.5)
HEADLINE = (0.75, 0.80)

Labels = NDArray[np.integer[Any]]
FloatArray = NDArray[np.floating[Any]]


def profile(name: str) -> Settings:
    """Settings of a profile, without a project."""
    return load_settings(Path(__file__).parent, name)


def correlation_of(
    runs: list[NDArray[np.float32]], mask: NDArray[np.bool_], settings: Settings
) -> FloatArray:
    """Average correlation of a cohort, prepared as settings say."""
    prepared = [(prepare(run, mask, settings.bold), mask) for run in runs]
    found: FloatArray = average_correlation(prepared, settings.correlation)
    return found


def parcellate(
    correlation: FloatArray, mask: NDArray[np.bool_], surface: Surface, settings: Settings
) -> Iterator[tuple[str, Labels]]:
    """Take the way of the platform with one label per hemisphere; yield one label vector a cell."""
    config, matrix = settings.thresholding, correlation
    near = Neighbourhood.of(surface, config.exclusion_mm)
    if config.smoothing_fwhm_mm:
        kernel = smoother(surface, mask, config.smoothing_fwhm_mm)
        matrix = SmoothedCorrelation(correlation, kernel, near.near)  # type: ignore[assignment]
    blocks = threshold_by_label(matrix, surface.hemisphere, mask, config)

    def find(W: FloatArray, n_networks: int) -> NDArray[np.int64]:
        return find_networks(W, correlation, n_networks, near, settings.networks)

    for cell in sweep(
        blocks,
        settings.sweep.model_copy(update={"n_clusters": (14,)}),
        settings.factorization,
        settings.clustering,
        find=find if settings.networks.method == "reduce" else None,
    ):
        yield f"{cell.n_components}", cell.clusterings[0].labels
        if settings.networks.method == "reduce":
            rows = scale_rows(cell.W[mask])
            model = KMeans(14, n_init="auto", random_state=settings.clustering.random_state)
            labels = np.full(len(mask), -1)
            labels[mask] = model.fit_predict(rows)
            yield "KMeans on its W", labels


def competitors(
    correlation: FloatArray, mask: NDArray[np.bool_], surface: Surface, quick: bool
) -> Iterator[tuple[str, Labels]]:
    """Competitors under each width of smoothing; a label vector each."""
    graph = sp.csr_array(edge_graph(surface)[mask][:, mask])
    for width in WIDTHS_MM[1:3] if quick else WIDTHS_MM:
        S = smoother(surface, mask, width) if width else sp.eye_array(len(mask))
        matrix = np.asarray((S @ (S @ correlation).T)[np.ix_(mask, mask)])
        ways: dict[str, Callable[[FloatArray], Labels]] = {
            "KMeans": lambda m: kmeans_parcellation(m, 14),
            "PCA, KMeans": lambda m: kmeans_parcellation(pca_features(m, 14), 14),
            "Spectral": lambda m: spectral_parcellation(m, 14),
            "NMF, largest loading": lambda m: nmf_parcellation(m, 14),
            "Ward on the mesh": lambda m: ward_parcellation(m, 14, graph),
        }
        for name, way in ways.items():
            labels = np.full(len(mask), -1)
            labels[mask] = way(matrix)
            yield f"{name}, {width:g} mm", labels


def cohort_figures(snr: float, seed: int, quick: bool) -> dict[str, list[float]]:
    """Dice and IoU of everyone on one cohort."""
    surface = load_fsaverage(642)
    truth, runs = simulate_cohort(surface, SimulationConfig(seed=seed, snr=snr, **COHORT))
    bold = [run for _, run in runs]
    mask = signal_mask(bold[0])
    ours, tutorial = profile(PROFILE), profile("tutorial")
    # The block solver finds what scikit-learn's finds, in less time (docs/method-engine.md).
    tutorial = tutorial.model_copy(update={"factorization": ours.factorization})
    if quick:
        grid = tutorial.sweep.model_copy(update={"n_components": (14, 20)})
        tutorial = tutorial.model_copy(update={"sweep": grid})
    raw, cleaned = (correlation_of(bold, mask, s) for s in (tutorial, ours))
    found: dict[str, Labels] = {}
    for name, labels in parcellate(cleaned, mask, surface, ours):
        found["ours: KMeans on its W" if "KMeans" in name else "ours"] = labels
    if snr == 0:
        return {name: _figures(labels, truth) for name, labels in found.items()}
    found |= {f"tutorial: {k}": v for k, v in parcellate(raw, mask, surface, tutorial)}
    found |= {f"raw: {k}": v for k, v in competitors(raw, mask, surface, quick)}
    found |= {f"cleaned: {k}": v for k, v in competitors(cleaned, mask, surface, quick)}
    return {name: _figures(labels, truth) for name, labels in found.items()}


def _figures(labels: Labels, truth: Labels) -> list[float]:
    return [mean_dice(labels, truth), mean_iou(labels, truth)]


def cached(cache: Path, snr: float, seed: int, quick: bool) -> dict[str, list[float]]:
    """Figures of one cohort, from the cache if everything that decides them is the same."""
    settings = profile(PROFILE).model_dump(mode="json")
    identity = json.dumps([snr, seed, quick, COHORT, settings], sort_keys=True)
    file = cache / f"{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figures = cohort_figures(snr, seed, quick)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(figures))
        part.replace(file)
    found: dict[str, list[float]] = json.loads(file.read_text())
    return found


def summarise(cohorts: list[dict[str, list[float]]]) -> dict[str, tuple[float, float, float]]:
    """Mean Dice, its standard deviation over cohorts, and mean IoU, best first."""
    rows = {}
    for name in cohorts[0]:
        values = np.array([cohort[name] for cohort in cohorts])
        dice, iou = values.T
        rows[name] = float(dice.mean()), float(dice.std()), float(iou.mean())
    return dict(sorted(rows.items(), key=lambda row: -row[1][0]))


def _best(rows: dict[str, tuple[float, float, float]], kind: str) -> tuple[str, float]:
    name = next(name for name in rows if name.startswith(kind))
    return name.removeprefix(kind), rows[name][0]


def main() -> None:
    """Print a table for each difficulty, and the headline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="one difficulty, two widths")
    parser.add_argument("--snr", type=float, nargs="+", help="difficulties")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/results/simulated"))
    options = parser.parse_args()
    difficulties = options.snr or (QUICK_SNR if options.quick else FULL_SNR)
    null = summarise([cached(options.cache, 0.0, seed, options.quick) for seed in options.seeds])
    headline: dict[str, Any] | None = None
    for snr in difficulties:
        cohorts = []
        for seed in options.seeds:
            cohorts.append(cached(options.cache, snr, seed, options.quick))
            print(f"SNR {snr}, seed {seed}: done", file=sys.stderr, flush=True)
        rows = summarise(cohorts)
        print(f"\nSNR {snr}: Dice (standard deviation), IoU over {len(cohorts)} cohorts")
        for name, (dice, spread, iou) in rows.items():
            print(f"  {name:44s} {dice:.3f} ({spread:.3f})  {iou:.3f}")
        name, best = _best(rows, "raw: ")
        if HEADLINE[0] <= best <= HEADLINE[1]:
            clean_name, clean = _best(rows, "cleaned: ")
            headline = {
                "dice": rows["ours"][0],
                "iou": rows["ours"][2],
                "best_competitor": name,
                "best_competitor_dice": best,
                "best_competitor_cleaned": clean_name,
                "best_competitor_cleaned_dice": clean,
                "tutorial_settings_dice": _best(rows, "tutorial: ")[1],
                "raw_bold_dice": rows["raw: KMeans, 14 mm"][0],
                "kmeans_on_W_dice": rows["ours: KMeans on its W"][0],
                "null_dice": null["ours"][0],
                "seeds": len(options.seeds),
                "difficulty": snr,
                "profile": PROFILE,
            }
    if headline is None:
        print(
            "No headline: at no difficulty asked for has the best competitor a mean Dice of "
            f"{HEADLINE[0]} to {HEADLINE[1]}.",
            file=sys.stderr,
        )
        sys.exit(1)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in headline.items()}))


if __name__ == "__main__":
    main()
