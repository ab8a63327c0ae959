"""Agreement of a parcellation with an atlas, beside that of the same parcellation elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from trend_dagster.errors import InputError, MissingUpstreamError
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import read_mesh
from trend_dagster.science.evidence.measures import (
    adjusted_rand_index,
    dice_per_network,
    mean_dice,
)
from trend_dagster.science.evidence.nulls import spin_labels
from trend_dagster.science.evidence.stability import beside_null
from trend_dagster.science.surface import Surface
from trend_dagster.storage.label_files import label_file_at, read_networks
from trend_dagster.validation.recordings import Labels


def agree(
    surface: Surface,
    found: Labels,
    atlas: Labels,
    name: str,
    n_spins: int = 200,
    random_state: int = 108,
) -> pd.DataFrame:
    """Compare a parcellation with an atlas, and with the atlas turned on the sphere.

    Parameters
    ----------
    surface : Surface
        The mesh of both, with its sphere.
    found : ndarray of shape (n_vertices,)
        Networks; -1 without signal.
    atlas : ndarray of shape (n_vertices,)
        Networks of the atlas; -1 for none.
    name : str
        Of the atlas, for errors.
    n_spins : int
        Turns that make the null.
    random_state : int
        Seed of the turns.

    Returns
    -------
    DataFrame
        Rows: "all" with ``dice`` (mean over networks of the atlas) and ``ari``, then one with the
        Dice of each network; each with the mean of the null, excess, z and p.

    Raises
    ------
    InputError
        If the atlas belongs to another mesh.
    """
    if len(atlas) != len(found):
        raise InputError(
            f"atlas {name}",
            expected=f"{len(found)} labels, one per vertex of the parcellation",
            found=str(len(atlas)),
            remedy="Bring it to the mesh of the data.",
        )
    rng = np.random.default_rng(random_state)
    spun = [_measures(spin_labels(surface, found, rng), atlas) for _ in range(n_spins)]
    rows = []
    for (network, measure), value in _measures(found, atlas).items():
        beside = beside_null(value, np.array([one[network, measure] for one in spun]))
        columns = {name: float(beside[name]) for name in ("null", "excess", "z", "p")}
        rows.append({"network": network, "measure": measure, "value": value, **columns})
    return pd.DataFrame(rows)


def _measures(found: Labels, atlas: Labels) -> dict[tuple[str, str], float]:
    """Measure all networks, and each of the atlas; 0 for one that lies where nothing was found."""
    names = np.unique(atlas[atlas >= 0])
    each = np.zeros(len(names))
    each[np.isin(names, atlas[found >= 0])] = dice_per_network(found, atlas)
    return {
        ("all", "dice"): mean_dice(found, atlas),
        ("all", "ari"): adjusted_rand_index(found, atlas),
        **{(str(name), "dice"): float(dice) for name, dice in zip(names, each, strict=True)},
    }


def agreements(folder: Path, files: Sequence[Path]) -> Iterator[tuple[int, str, pd.DataFrame]]:
    """Compare the chosen parcellations of a project with atlases.

    Parameters
    ----------
    folder : Path
        The project, which has run and names its surface.
    files : sequence of Path
        Atlases: a .npy with one integer per vertex (-1 for none), one of a pair of .label.gii or
        .annot, or a .dlabel.nii of one map.

    Yields
    ------
    tuple of int, str, DataFrame
        Number of clusters, name of the atlas, and its rows as `agree` returns them.

    Raises
    ------
    InputError
        If the project has no surface, or an atlas lies on another.
    MissingUpstreamError
        If it has not run.
    """
    project = Project.open(folder)
    chosen = project.store.latest("selected_parcellations")
    if chosen is None:
        raise MissingUpstreamError(
            f"project {folder}",
            expected="chosen parcellations to compare with an atlas",
            found="none",
            remedy=f"Run it first: trend run {folder}",
        )
    all_labels, numbers = chosen.read("labels"), chosen.read("n_clusters")
    surface = read_mesh(project)
    if surface is None:
        raise InputError(
            f"project {folder}",
            expected="inputs.surface, whose sphere makes the null",
            found="none",
            remedy="Name it in trend.yaml.",
        )
    for path in files:
        atlas = read_networks(label_file_at(path))
        for n_clusters, labels in zip(numbers.tolist(), all_labels, strict=True):
            yield n_clusters, path.name, agree(surface, labels, atlas, path.name)
