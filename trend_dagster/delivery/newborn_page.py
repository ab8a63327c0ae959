"""The page of one newborn: its map beside the cohort's, how sure that is, series, connectivity.

What belongs here: putting what versions hold onto the page. What does not: how the page looks
(``page/newborn.html``) and drawing (``figures``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version as version_of
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.newborns import (
    CONFIDENCE_STEPS,
    confidence_figure,
    connectivity_figure,
    series_figure,
)
from trend_dagster.delivery.figures.png import small_png
from trend_dagster.delivery.figures.surface import maps_png
from trend_dagster.delivery.figures.timeseries import carpet_png
from trend_dagster.delivery.page import render_page
from trend_dagster.project.dimensions import BOLD_RUN, SUBJECT
from trend_dagster.science.evidence.measures import match_labels, mean_dice
from trend_dagster.science.surface import Surface
from trend_dagster.storage.stores import Version

PIXELS_PER_MM = 1.4
PICTURE_BYTES = 90_000
SURE = CONFIDENCE_STEPS[-1]
ALL_SURE = 0.99  # share of vertices, above which a picture of confidence has one colour
OWN = 1  # of the maps that series are taken for; 0 is the cohort's


@dataclass(frozen=True)
class NewbornPage:
    """Everything that the page of a newborn says.

    Parameters
    ----------
    project, subject, note, date, software : str
        As in the report.
    maps : sequence of mapping
        For each parcellation ``n_clusters``, ``finding``, ``facts``, ``networks`` (rows of a table)
        and PNG files: ``picture``, ``confidence``, ``connectivity``, ``series``.
    runs : sequence of mapping
        ``name``, ``frames`` (in words) and ``carpet`` (a PNG file) of each.
    """

    project: str
    subject: str
    note: str
    date: str
    software: str
    maps: Sequence[dict[str, Any]]
    runs: Sequence[dict[str, Any]]


def newborn_page(
    project: str,
    note: str,
    runs: Sequence[Version],
    networks: Version,
    named: Version,
    series: Version,
    connectivity: Version,
    surface: Surface,
    planted: NDArray[np.integer] | None = None,
) -> tuple[bytes, dict[str, Any]]:
    """Write the page of a newborn.

    Parameters
    ----------
    project : str
        Name of the project.
    note : str
        The user's sentence about the data; empty if there is none.
    runs : sequence of Version
        Its runs.
    networks, named, series, connectivity : Version
        Of ``individual_networks``, ``individual_maps``, ``network_series`` and
        ``network_connectivity``.
    surface : Surface
        The mesh.
    planted : ndarray of shape (n_vertices,), optional
        What was planted for it, where the cohort is simulated.

    Returns
    -------
    page : bytes
        HTML that works offline.
    found : dict
        Mean Dice with what was planted, of the cohort's map and its own, by number of clusters.
    """
    from matplotlib.colors import to_rgb

    subject, found = networks.partition[SUBJECT], {}
    clusters = networks.read("n_clusters").tolist()
    maps = [_map(networks, named.facts["names"][i], i, n) for i, n in enumerate(clusters)]
    drawn = [
        _drawn(networks, series, connectivity, i, named.facts["names"][i], surface)
        for i in range(len(clusters))
    ]
    for i, n in enumerate(clusters):
        cohort, own = (networks.read(name)[i] for name in ("cohort_labels", "labels"))
        shown = {"cohort": cohort, subject: own}
        if planted is not None and len(np.unique(planted[planted >= 0])) == n:
            matched = match_labels(planted, cohort)
            dice = [mean_dice(labels, matched) for labels in shown.values()]
            shown[f"planted for {subject}"] = matched
            maps[i]["facts"] |= {"Dice, cohort": f"{dice[0]:.3f}", "Dice, own": f"{dice[1]:.3f}"}
            found[f"dice_{n}_clusters"] = [round(d, 4) for d in dice]
        colours = {k: np.array(to_rgb(hex)) for k, hex in enumerate(named.facts["colours"][i])}
        maps[i] |= drawn[i] | {"picture": maps_png(surface, shown, PIXELS_PER_MM, colours)}
    page = NewbornPage(
        project=project,
        subject=subject,
        note=note,
        date=networks.attributes["created"][:10],
        software=f"trend_dagster {version_of('trend_dagster')}",
        maps=maps,
        runs=[_run(run) for run in runs],
    )
    return render_page("newborn.html", page=page).encode(), found


def _map(networks: Version, names: Sequence[str], i: int, n: int) -> dict[str, Any]:
    """What is said of one map in words and numbers."""
    words = {"finding": networks.facts["findings"][i], "facts": _facts(networks, i)}
    return {"n_clusters": n, **words, "networks": _networks(networks, names, i)}


def _drawn(
    networks: Version,
    series: Version,
    connectivity: Version,
    i: int,
    names: Sequence[str],
    surface: Surface,
) -> dict[str, Any]:
    n = len(names)
    both = {
        title: connectivity.read(name)[OWN, i, :n, :n]
        for title, name in (("full", "correlation"), ("partial", "partial"))
    }
    confidence, mask = networks.read("confidence")[i], networks.read("vertex_mask")
    courses, lengths = series.read("mean")[OWN, i, :, :n], series.read("n_timepoints")
    sure = float((confidence[mask] >= SURE).mean())
    figures = {
        # One colour says nothing: then words do.
        **({} if sure > ALL_SURE else {"confidence": confidence_figure(surface, confidence, mask)}),
        "connectivity": connectivity_figure(both, names),
        "series": series_figure(courses, lengths, names),
    }
    drawn = {name: small_png(figure, PICTURE_BYTES) for name, figure in figures.items()}
    return {**drawn, "sure": f"{sure:.1%}"}


def _facts(networks: Version, i: int) -> dict[str, str]:
    share, null, deviation, z = (
        float(networks.read(f"departure_{name}")[i]) for name in ("share", "null", "null_sd", "z")
    )
    agreement = float(networks.read("agreement")[i])
    alike = f"{agreement:.1%}" if np.isfinite(agreement) else "one run"
    minutes = networks.facts["minutes"]
    return {
        "Minutes": "not known" if minutes is None else f"{minutes:.1f}",
        "Differs from the cohort": f"{share:.1%} of the cortex",
        "By noise alone": f"{null:.1%} (sd {deviation:.1%})",
        "z (an sd below 1 % counts as 1 %)": f"{z:.1f}",
        "Agreement between halves of its runs": alike,
        "Mean confidence": f"{networks.facts['confidence'][i]:.3f}",
    }


def _networks(networks: Version, names: Sequence[str], i: int) -> list[dict[str, Any]]:
    titles = {
        "area_mm2": "Area, mm2",
        "homogeneity": "Homogeneity",
        "silhouette": "Silhouette",
        "confidence": "Confidence",
    }
    columns = {title: networks.read(f"network_{name}")[i] for name, title in titles.items()}
    known = np.flatnonzero(np.isfinite(columns["Area, mm2"]))
    return [
        {"Network": int(k) + 1, "Name": names[int(k)]}
        | {title: float(values[k]) for title, values in columns.items()}
        for k in known
    ]


def _run(run: Version) -> dict[str, Any]:
    facts, signal = run.facts, run.read("bold")[run.read("vertex_mask")]
    recorded = facts.get("n_volumes", facts["n_timepoints"])
    frames = f"{facts['n_timepoints']} of {recorded} volumes kept."
    if facts.get("n_volumes_censored"):
        frames = f"{frames[:-1]}, {facts['n_volumes_censored']} left out for motion."
    carpet = carpet_png(signal, PICTURE_BYTES)
    return {"name": run.partition[BOLD_RUN], "frames": frames, "carpet": carpet}
