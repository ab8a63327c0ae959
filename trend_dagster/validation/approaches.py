"""Approaches from BOLD to networks: the method under some settings, and its competitors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trend_dagster.project.settings import Settings, load_settings
from trend_dagster.science.connectivity.settings import Gaussian, ThresholdConfig
from trend_dagster.science.evidence.competitors import (
    COMPETITORS,
    FAST_COMPETITORS,
    SLOW_COMPETITORS,
    competitor_input,
)
from trend_dagster.science.method import Encoding, MethodSettings, parcellate
from trend_dagster.science.parcellation.sweep import Solution
from trend_dagster.science.surface import cut_into_labels, distance_rows, step_graph
from trend_dagster.validation.recordings import Labels, Recording

Find = Callable[[Recording, int, int], Labels]


@dataclass(frozen=True)
class Approach:
    """One way to find networks in a recording.

    Parameters
    ----------
    kind : str
        "ours", "tutorial", or that of a competitor that gets the BOLD "raw" or "cleaned" as the
        default settings clean it.
    name : str
        Unique within its kind.
    identity : mapping
        Everything that decides its result, as JSON can store it.
    find : callable
        Takes a recording, a number of networks and a seed; returns the network of each vertex.
    """

    kind: str
    name: str
    identity: Mapping[str, Any]
    find: Find

    def labels(self, recording: Recording, n_networks: int, seed: int) -> Labels:
        """Find networks. That an optimiser stopped early is part of the result, and not said."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return self.find(recording, n_networks, seed)


@dataclass(frozen=True)
class EncodingChoice:
    """Which spatial encoding is made on the mesh of a recording.

    Parameters
    ----------
    labels : int or None
        Hard labels per hemisphere; 1 cuts the hemispheres apart only, None cuts nothing.
    sigma_mm : float or None
        A smooth kernel of that width in place of labels.
    """

    labels: int | None = 1
    sigma_mm: float | None = None

    def on(self, recording: Recording, settings: MethodSettings) -> Encoding:
        """Make the encoding, with distances where something needs them."""
        surface = recording.surface
        smooth = self.sigma_mm is not None or settings.factorization.smoothness > 0
        sides = [step_graph(surface, side) for side in ((0, 1) if smooth else ())]
        distances = [distance_rows(steps, 0, steps.shape[0]) for steps in sides]
        if self.sigma_mm is not None:
            return Encoding.smooth(Gaussian(self.sigma_mm), distances, surface)
        if self.labels == 1:
            return Encoding.hemispheres(surface, distances)
        labels = (
            np.zeros(surface.n_vertices, dtype=np.int64)
            if self.labels is None
            else cut_into_labels(surface, self.labels, recording.mask)
        )
        return Encoding(labels, None, distances, surface)


def profile(name: str) -> Settings:
    """Settings of a profile, without a project."""
    return load_settings(Path(__file__).parent, name)


def changed(settings: Settings, **sections: Mapping[str, Any]) -> Settings:
    """Return settings with some of them changed, checked anew."""
    values = settings.model_dump()
    for section, changes in sections.items():
        values[section] |= changes
    return Settings.model_validate(values)


# --- The method --------------------------------------------------------------------------------


def method_approach(
    kind: str,
    name: str,
    settings: Settings,
    encoding: EncodingChoice | None = None,
    *,
    trained: bool = True,
) -> Approach:
    """Return the method under some settings.

    Parameters
    ----------
    kind, name : str
        What to call it.
    settings : Settings
        With one value for each setting of the grid but n_clusters.
    encoding : EncodingChoice, optional
        The spatial encoding; one label per hemisphere by default.
    trained : bool
        Whether a model is trained before its features are taken; without effect on features
        that need no model.

    Returns
    -------
    Approach
    """
    choice = encoding or EncodingChoice()
    needs_model = settings.features.source != "bold"
    of_model = ("cohort", "autoencoder", "training")
    sections = [
        section
        for section in MethodSettings.model_fields
        if section != "geodesic_labels" and (needs_model or section not in of_model)
    ]
    identity = {
        "settings": {section: settings.identity(section) for section in sections},
        "encoding": asdict(choice),
        "trained": trained and needs_model,
    }

    def find(recording: Recording, n_networks: int, random_state: int) -> Labels:
        asked = _asked(settings, n_networks, random_state)
        return solve(recording, asked, choice, trained=trained).clusterings[0].labels

    return Approach(kind, name, identity, find)


def _asked(settings: Settings, n_networks: int, random_state: int) -> Settings:
    return changed(
        settings,
        sweep={"n_clusters": (n_networks,)},
        clustering={"random_state": random_state},
        factorization={"random_state": random_state},
    )


def solve(
    recording: Recording, settings: Settings, encoding: EncodingChoice, *, trained: bool = True
) -> Solution:
    """Go from a recording to the one cell of a grid of one, with its factorisation."""
    correlation = recording.source(settings, trained=trained)
    ((_, (cell,)),) = parcellate(correlation, encoding.on(recording, settings), settings)
    return cell


def default_solution(recording: Recording, n_networks: int, random_state: int) -> Solution:
    """Factorisation and networks of a recording under the default settings."""
    return solve(recording, _asked(profile(PROFILE), n_networks, random_state), EncodingChoice())


# --- Competitors -------------------------------------------------------------------------------


def competitor(kind: str, name: str, fwhm_mm: float, settings: Settings) -> Approach:
    """Return a competitor's approach.

    Parameters
    ----------
    kind : {"raw", "cleaned"}
        "cleaned": the very matrix that our factorisation sees, prepared as `settings` say, without
        the correlation of a vertex with itself, hemispheres apart. "raw": BOLD as the tutorial
        prepares it, nothing left out.
    name : str
        One of `trend_dagster.science.evidence.competitors.COMPETITORS`.
    fwhm_mm : float
        Smoothing along the cortex, full width at half maximum.
    settings : Settings
        How runs are prepared and correlations averaged.

    Returns
    -------
    Approach
    """
    cleaned = kind == "cleaned"
    identity = {
        "clusterer": name,
        "fwhm_mm": fwhm_mm,
        "hollow": cleaned,
        "settings": {section: settings.identity(section) for section in ("bold", "correlation")},
    }
    signal = changed(settings, features={"source": "bold"})

    def find(recording: Recording, n_networks: int, random_state: int) -> Labels:
        correlation = recording.correlation(signal)
        given = competitor_input(
            correlation.matrix,
            correlation.mask,
            recording.surface,
            fwhm_mm,
            cleaned=cleaned,
            of_subjects=lambda: [r.correlation(signal).matrix for r in recording.of_subjects()],
            runs=lambda: [
                run[:, recording.timepoints or slice(None)]
                for run, _ in recording.prepared(signal.bold).values()
            ],
        )
        labels = np.full(len(given.mask), -1)
        labels[given.mask] = COMPETITORS[name](given, n_networks, random_state)
        return labels

    return Approach(kind, f"{name}, {fwhm_mm:g} mm", identity, find)


# --- Who takes part ----------------------------------------------------------------------------

PROFILE = "default"
DEFAULT_WIDTH_MM = ThresholdConfig().smoothing_fwhm_mm
RAW_WIDTHS_MM = (0.0, 14.0, 19.0, 24.0)
CLEANED_WIDTHS_MM = (12.0, DEFAULT_WIDTH_MM, 24.0)


def default_approach(settings: Settings | None = None) -> Approach:
    """The method with its default settings."""
    return method_approach("ours", PROFILE, settings or profile(PROFILE))


def tutorial_approach(n_components: int) -> Approach:
    """The tutorial's settings with one number of components, on the BOLD itself.

    The block solver finds what scikit-learn's finds, in less time (docs/method-engine.md).
    """
    settings = changed(
        profile("tutorial"),
        features={"source": "bold"},
        sweep={"n_components": (n_components,)},
        factorization={"solver": "block"},
    )
    return method_approach("tutorial", f"{n_components} components", settings)


def all_approaches(quick: bool) -> Iterator[Approach]:
    """All approaches that are compared, the default first.

    Parameters
    ----------
    quick : bool
        Two widths of smoothing, and only competitors that take seconds.
    """
    yield default_approach()
    on_W = changed(profile(PROFILE), networks={"method": "kmeans"}, clustering={"scale_rows": True})
    yield method_approach("ours", "KMeans on its W", on_W)
    for k in (14, 20, 40) if quick else (14, 20, 30, 40):
        yield tutorial_approach(k)
    for kind, name, widths in (
        ("raw", "tutorial", RAW_WIDTHS_MM),
        ("cleaned", PROFILE, CLEANED_WIDTHS_MM),
    ):
        settings = profile(name)
        for width in widths[1:3] if quick and kind == "raw" else widths[1:] if quick else widths:
            for clusterer in FAST_COMPETITORS:
                yield competitor(kind, clusterer, width, settings)
        for clusterer in () if quick else SLOW_COMPETITORS:
            yield competitor(kind, clusterer, widths[-2], settings)
