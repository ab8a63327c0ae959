"""What the report says, gathered from the store.

What belongs here: putting what versions hold into words. What does not: which versions (the asset
``report``) and how the page looks (``page``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version as version_of
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import correlation_figure
from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.surface import distinct_colours, oklch_to_rgb
from trend_dagster.delivery.maps import networks_of
from trend_dagster.delivery.page import HISTORY, Chosen, Metric, Report, ShownCell
from trend_dagster.delivery.pictures import parcellation_or_sizes
from trend_dagster.project.dimensions import BOLD_RUN, LABEL_FILE
from trend_dagster.project.settings import Settings
from trend_dagster.project.tables import (
    Parcellations,
    beside_noise,
    comparison_table,
    labels_of,
    summary_table,
    verdict,
)
from trend_dagster.science.connectivity.encoding import NO_LABEL
from trend_dagster.science.evidence.measures import match_labels
from trend_dagster.science.parcellation.selection import rank_cells
from trend_dagster.science.plausibility import doubts, outlying
from trend_dagster.science.surface import Surface
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.label_images import Network, unique_rgb
from trend_dagster.storage.provenance import LIBRARIES
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:
    import pandas as pd

FEATURES_FROM = {
    "input_projection": "trained model",
    "encoder": "trained model",
    "bold": "signal itself",
}
"""Features of the sweep, as the heat maps name them."""

MADE_FROM = {
    "trained_model": ("embeddings", "average_correlation"),
    "embeddings": ("average_correlation",),
}
"""Assets that are no part of the results where one of these was imported in their place."""

MAX_LABEL_BYTES = 1_500_000  # of all cells that can be looked at on the surface
MAX_SHOWN = 24
MAX_DOUBTS = 30
PICTURE_BYTES = 200_000
MATRIX_BYTES = 60_000  # shown in the UI as well
MATRIX_PIXELS = 200

COLUMNS = {
    "label_file": "Label file",
    "n_components": "n_components",
    "n_clusters": "n_clusters",
    "alpha_W": "alpha_W",
    "l1_ratio": "l1_ratio",
    "silhouette": "Silhouette",
    "davies_bouldin": "Davies-Bouldin",
    "connectivity_ratio": "Connectivity within / between",
    "zero_row_share": "Share of zero rows",
    "stability": "Stability",
    "stability_null": "Stability, noise",
    "stability_excess": "Stability, excess",
    "stability_z": "Stability, z (sd at least 0.01)",
    "half_silhouette": "Silhouette of halves",
    "half_silhouette_null": "Silhouette of halves, noise",
    "homogeneity": "Homogeneity",
    "homogeneity_null": "Homogeneity, noise",
    "dice_trained": "Dice",
    "dice_untrained": "Dice, untrained",
    "dice_bold": "Dice, raw BOLD",
    "silhouette_untrained": "Silhouette, untrained",
    "silhouette_bold": "Silhouette, raw BOLD",
    "chosen": "Chosen",
}

RANKING = {
    "label_file": "Label file",
    "rank": "Rank",
    "n_labels": "Labels",
    "n_components": "n_components",
    "alpha_W": "alpha_W",
    "l1_ratio": "l1_ratio",
    "alive": "Not collapsed",
    "beyond_noise": "Beyond noise",
    "stability": "Stability",
    "stability_null": "of noise",
    "stability_excess": "Excess",
    "stability_z": "z",
    "half_silhouette_excess": "Silhouette, excess",
    "silhouette": "Silhouette",
    "zero_row_share": "Share of zero rows",
}
RANKED = 10  # cells of the ranking that are shown

RUN_FACTS = ("n_vertices", "n_vertices_without_signal", "temporal_snr")
NOISE = "noise as smooth as the data"

METRICS: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    (
        "dice_trained",
        "Dice with the planted networks",
        "How well the planted networks are found, up to 1. A model must exceed its controls.",
        {"untrained model": "dice_untrained", "raw BOLD": "dice_bold"},
    ),
    (
        "stability",
        "Stability between halves",
        "Adjusted Rand index between two halves of the cohort, up to 1. Noise reaches high values "
        "by the label file alone: only the excess over it says something of the data.",
        {NOISE: "stability_null"},
    ),
    (
        "homogeneity",
        "Homogeneity in the other half",
        "Mean correlation within the clusters of one half, in the other half. Smooth noise has "
        "some.",
        {NOISE: "homogeneity_null"},
    ),
    (
        "half_silhouette",
        "Silhouette of halves",
        "Silhouette, mean of both halves of the cohort, beside the same of noise.",
        {NOISE: "half_silhouette_null"},
    ),
    (
        "silhouette",
        "Silhouette",
        "How well clusters are separated; higher is better. It rewards fine label files by "
        "itself: compare cells of one label file only, and with the controls.",
        {"untrained model": "silhouette_untrained", "raw BOLD": "silhouette_bold"},
    ),
    ("davies_bouldin", "Davies-Bouldin", "Spread over separation; lower is better.", {}),
    (
        "connectivity_ratio",
        "Connectivity within / between",
        "Mean thresholded correlation within networks over that between them. The label file sets "
        "most of it.",
        {},
    ),
    (
        "zero_row_share",
        "Share of zero rows",
        "Vertices whose loadings are all zero: the penalty was too strong for them, or, with a "
        "penalty, there are fewer components than labels.",
        {},
    ),
)


def gather(
    name: str,
    settings: Settings,
    found: Sequence[Version],
    surface: Surface | None,
    individuals: Version | None = None,
    networks: Sequence[Sequence[Network]] = (),
) -> Report:
    """Put a report together.

    Parameters
    ----------
    name : str
        Name of the project.
    settings : Settings
        Its settings.
    found : sequence of Version
        Of the assets ``nmf_sweep``, ``sweep_summary``, ``selected_parcellations``,
        ``control_comparison``; and, where they are there, ``bold``, ``trained_model``,
        ``embeddings``, ``average_correlation`` and ``geodesic_labels``, which are shown as well.
    surface : Surface, optional
        The mesh.
    individuals : Version, optional
        Of the asset of that name.
    networks : sequence of sequence of Network
        Of each chosen parcellation, as on the maps.

    Returns
    -------
    Report
        All that the page says.
    """
    versions: dict[str, list[Version]] = {}
    for version in found:
        versions.setdefault(version.asset, []).append(version)
    cells = versions["nmf_sweep"]
    (summary,), (selected,) = versions["sweep_summary"], versions["selected_parcellations"]
    table = comparison_table(*versions["control_comparison"])
    columns = {n: t for n, t in COLUMNS.items() if n in table and not table[n].isna().all()}
    chosen = Parcellations.of(selected)
    imported = {v.asset: v.recipe.imported_from or "" for v in found if v.imported}
    used = {a: () if imported.keys() & MADE_FROM.get(a, ()) else v for a, v in versions.items()}
    model = next(iter(used.get("trained_model", ())), None)
    return Report(
        project=name,
        note=settings.inputs.note or "",
        date=max(v.attributes["created"] for v in found)[:10],
        software=f"trend_dagster {version_of('trend_dagster')}",
        runs=[_run(run, model, imported) for run in versions.get("bold", ())],
        doubts=_doubts([*versions.get("bold", ()), *versions.get("cortex", ())]),
        label_files=[_label_file(file) for file in versions.get("geodesic_labels", ())],
        imported=imported,
        settings=_used_settings(settings, imported),
        training=_training(model, used.get("embeddings", ())),
        own=_features_from(settings, imported),
        columns=columns,
        cells=_records(table[list(columns)].astype({"n_components": int, "n_clusters": int})),
        metrics=[
            Metric(name, title, text, {t: c for t, c in others.items() if c in columns})
            for name, title, text, others in METRICS
            if name in columns
        ],
        shown=_shown_cells(surface, table, cells, chosen, networks),
        chosen=_all_chosen(settings, versions, summary_table(summary, cells), surface, networks),
        rule=selected.facts["rule"],
        not_null_corrected=selected.facts["no_stability"],
        surface=surface,
        newborns=[] if individuals is None else individuals.facts.get("newborns", []),
        pages=settings.individuals.pages,
        not_associated=[] if individuals is None else individuals.facts.get("notes", []),
        provenance=[
            {
                "output": v.name,
                "digest": v.digest,
                "created": v.attributes["created"],
                "code_version": v.recipe.code_version,
                "imported_from": v.recipe.imported_from,
            }
            for each in used.values()
            for v in each
        ],
        libraries={name: version_of(name) for name in LIBRARIES},
    )


def _features_from(settings: Settings, imported: Collection[str]) -> str:
    brought = {"embeddings", "average_correlation"} & set(imported)
    return "what was imported" if brought else FEATURES_FROM[settings.features.source]


def _used_settings(settings: Settings, imported: Collection[str]) -> str:
    """All settings as YAML, less sections that decided nothing."""
    unused = {"autoencoder", "training"} if settings.features.source == "bold" else set()
    if {"trained_model", *MADE_FROM["trained_model"]} & set(imported):
        unused |= {"training"}  # the rest decides controls and newborns
    said = {n: v for n, v in settings.model_dump(mode="json").items() if n not in unused}
    return yaml.safe_dump(said, sort_keys=False)


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): v for name, v in row.items()} for row in table.to_dict("records")]


def _run(run: Version, model: Version | None, imported: Collection[str]) -> dict[str, Any]:
    key = run.partition[BOLD_RUN]
    used = {"training_runs": "training", "validation_runs": "validation"}
    return {
        "run": key,
        "subject": subject_of(key),
        **{name: run.facts.get(name) for name in RUN_FACTS},
        **_recorded(run.facts),
        "excluded": run.excluded,
        "used_for": next(
            (word for fact, word in used.items() if model and key in model.facts.get(fact, ())),
            "controls, newborns" if "average_correlation" in imported else "the average",
        ),
    }


def _recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """How long a run is and how much its subject moved; imported ones may lack it all."""
    kept, time = facts.get("n_timepoints"), facts.get("repetition_time_s")
    return {
        "n_volumes": facts.get("n_volumes", kept),
        "n_kept": kept,
        "minutes": None if kept is None or time is None else kept * time / 60,
        "mean_fd": facts.get("mean_framewise_displacement"),
    }


def _doubts(versions: Sequence[Version]) -> list[str]:
    beside = outlying({v.partition[BOLD_RUN]: v.facts for v in versions if BOLD_RUN in v.partition})
    said = [
        f"{v.name}: {doubt}"
        for v in versions
        for doubt in [*doubts(v.asset, v.facts), *beside.get(v.partition.get(BOLD_RUN, ""), ())]
    ]
    return said[:MAX_DOUBTS] + (
        [f"and {len(said) - MAX_DOUBTS} more (`trend status --all` shows them)"]
        if len(said) > MAX_DOUBTS
        else []
    )


def _label_file(file: Version) -> dict[str, Any]:
    labels = file.read("labels") if file.excluded is None else np.array([])
    return {
        "label_file": file.partition[LABEL_FILE],
        "n_labels": len(np.unique(labels[labels != NO_LABEL])),
        "digest": file.digest,
    }


def _training(model: Version | None, embeddings: Sequence[Version]) -> dict[str, Any] | None:
    if model is None or model.excluded is not None:
        return None
    facts = model.facts
    correlations = [e.facts.get("mean_correlation", np.nan) for e in embeddings]
    known = [value for value in correlations if np.isfinite(value)]
    said = {
        "Weights": f"{facts['n_parameters']:,}" if "n_parameters" in facts else None,
        "Training runs": len(facts.get("training_runs", ())) or None,
        "Validation runs": len(facts.get("validation_runs", ())) or None,
        "Split by": facts.get("split_by"),
        "Best epoch": facts.get("best_epoch"),
        "Best validation loss": _figure(facts.get("best_validation_loss")),
        "Mean correlation between embeddings": _figure(np.mean(known)) if known else None,
    }
    history = {
        name: model.read(f"history_{name}").tolist() if f"history_{name}" in model else []
        for name in HISTORY
    }
    return {"facts": {k: str(v) for k, v in said.items() if v is not None}, **history}


def _stability(choice: Mapping[str, Any]) -> str | None:
    """Stability of a chosen cell beside its null, in words."""
    if choice.get("stability") is None:
        return None
    said = f"{choice['stability']:.3f}"
    if choice["stability_excess"] is None:
        return f"{said}; noise has none to compare with"
    said += f"; {choice['stability_null']:.3f} on noise as smooth; excess "
    said += f"{choice['stability_excess']:+.3f}"
    if choice["stability_z"] is None:
        return said
    beyond = "more" if choice["beyond_noise"] else "no more"
    said += f", z {choice['stability_z']:.1f} (an sd below 0.01 counts as 0.01)"
    return f"{said}: {beyond} than chance"


def _figure(value: float | None) -> str | None:
    return None if value is None or not np.isfinite(value) else f"{value:.4g}"


def _all_chosen(
    settings: Settings,
    versions: Mapping[str, Sequence[Version]],
    summary: pd.DataFrame,
    surface: Surface | None,
    networks: Sequence[Sequence[Network]],
) -> list[Chosen]:
    (selected,), (comparison,) = versions["selected_parcellations"], versions["control_comparison"]
    matrix: Any = versions["average_correlation"][0].array("correlation")
    table, ranked = comparison_table(comparison), rank_cells(summary, settings.selection)
    imported = {v.asset for each in versions.values() for v in each if v.imported}
    own, split_by = _features_from(settings, imported), selected.facts["split_by"]
    parcellations = Parcellations.of(selected)
    chosen = zip(parcellations.choices, parcellations.labels, networks, strict=True)
    found = []
    for choice, labels, names in chosen:
        n = choice["n_clusters"]
        (row,) = table[(table["n_clusters"] == n) & table["chosen"]].to_dict("records")
        best = ranked[ranked["n_clusters"] == n].head(RANKED)
        best = best[[name for name in RANKING if name in ranked]].astype({"n_labels": int})
        picture = parcellation_or_sizes(
            surface, labels, f"{n} clusters", parcellations.partners(int(n))
        )
        sorted_matrix = correlation_figure(matrix, labels, max_pixels=MATRIX_PIXELS)
        found.append(
            Chosen(
                n_clusters=n,
                facts=_facts(choice, row, split_by),
                finding=beside_noise(choice, split_by),
                verdict=verdict(row, own),
                picture=small_png(picture, PICTURE_BYTES),
                correlation=small_png(sorted_matrix, MATRIX_BYTES),
                networks=names,
                ranking=_records(best.rename(columns=RANKING)),
            )
        )
    return found


def _facts(
    choice: Mapping[str, Any], row: Mapping[Any, Any], split_by: str | None
) -> dict[str, str]:
    facts = {
        "Label file": choice["label_file"],
        "n_components": str(choice["n_components"]),
        "alpha_W, l1_ratio": f"{choice['alpha_W']:g}, {choice['l1_ratio']:g}",
        "Silhouette": _figure(row["silhouette"]),
        "Share of zero rows": f"{row['zero_row_share']:.1%}",
        f"Stability (halves by {split_by})": _stability(choice),
        "Vertices without loadings": None if choice["alive"] else "many: see Share of zero rows",
    }
    return {name: value for name, value in facts.items() if value is not None}


def _shown_cells(
    surface: Surface | None,
    table: pd.DataFrame,
    cells: Sequence[Version],
    chosen: Parcellations,
    chosen_networks: Sequence[Sequence[Network]],
) -> list[ShownCell]:
    """The chosen cells first, then others, as many as keep the page small."""
    if surface is None:
        return []
    n_clusters, chosen_labels = chosen.n_clusters, chosen.labels
    most = min(MAX_SHOWN, max(1, MAX_LABEL_BYTES // (2 * chosen_labels.shape[1])))
    order = table.reset_index().sort_values("chosen", ascending=False, kind="stable")
    shown = []
    for row in order.head(most).to_dict("records"):
        like = n_clusters.index(row["n_clusters"])
        own = row["chosen"]  # only of the chosen ones is it known what they are like
        labels = chosen_labels[like] if own else labels_of(cells, row)
        networks = chosen_networks[like] if own else networks_of(labels, surface)
        colours = _colours_like(labels, networks, chosen_labels[like], chosen_networks[like])
        shown.append(
            ShownCell(
                row=int(row["index"]),
                title=f"{row['n_clusters']:.0f} clusters: {row['label_file']}, "
                f"{row['n_components']:.0f} components, alpha_W {row['alpha_W']:g}, "
                f"l1_ratio {row['l1_ratio']:g}" + (" (chosen)" if row["chosen"] else ""),
                labels=labels,
                names=[n.name for n in networks],
                colours=colours,
            )
        )
    return shown


def _colours_like(
    labels: NDArray[np.int32],
    networks: Sequence[Network],
    reference: NDArray[np.int32],
    reference_networks: Sequence[Network],
) -> list[tuple[int, int, int]]:
    """Give networks the colours of those that they match in another parcellation."""
    matched = match_labels(labels, reference)
    spare = distinct_colours(2 * len(networks))[len(networks) :]
    others = unique_rgb(np.clip(oklch_to_rgb(*spare.T), 0, 1))
    colours = []
    for k in range(len(networks)):
        names = matched[labels == k]
        name = int(names[0]) if len(names) else -1
        known = 0 <= name < len(reference_networks)
        colours.append(reference_networks[name].rgb if known else others[k])
    return colours
