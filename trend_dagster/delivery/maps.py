"""A parcellation as the files that other programs open: which ones, under which names.

What belongs here: naming and colouring networks, and choosing formats by what the vertices are.
What does not: the formats themselves (``storage.label_images``).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trend_dagster.delivery.figures.surface import (
    distinct_colours,
    homologous_labels,
    label_colours,
    oklch_to_rgb,
)
from trend_dagster.project.tables import Parcellations
from trend_dagster.project.target import MapSpace
from trend_dagster.science.evidence.atlases import ONE_SIDED
from trend_dagster.science.surface import Surface, hemisphere_triangles
from trend_dagster.storage.arrays import npy_bytes
from trend_dagster.storage.label_images import (
    FREESURFER_SIDE,
    Network,
    Networks,
    Overlap,
    annot,
    cifti_labels,
    cifti_maps,
    gifti_labels,
    gifti_maps,
    gifti_surface,
    keys_of,
    label_columns,
    label_tsv,
    nifti_labels,
    nifti_maps,
    spec_file,
    unique_rgb,
    voxel_models,
)
from trend_dagster.storage.space import Side, Subcortex
from trend_dagster.storage.stores import Version
from trend_dagster.storage.template import Grayordinates, Target, Voxels

MAPS = "maps"
"""Folder of the chosen parcellations, below the project's outputs."""

Number = TypeVar("Number", bound=np.generic)
PROBABILITY = "NIFTI_INTENT_NORMAL"  # what Workbench gives metric maps
SIDES: tuple[Side, Side] = ("L", "R")
PREFIX = {"L": "LH", "R": "RH", "LR": "LR", "": "network"}
CHANCE = 0.05  # false discovery rate over networks up to which an overlap names one
NAMED_FROM = 0.5  # Dice that names one where chance is not known
KINDS = {
    "midthickness": "MidThickness",
    "pial": "Pial",
    "white": "GrayWhite",
    "anatomical": "Anatomical",
}
"""What a mesh is, as Workbench says it."""


def cell_title(cell: Mapping[Any, Any]) -> str:
    """Name a cell of the sweep as maps and pictures do."""
    return (
        f"{cell['n_clusters']} clusters: label file {cell['label_file']}, "
        f"{cell['n_components']} components"
    )


def chosen_maps(
    chosen: Parcellations,
    space: MapSpace,
    overlap: Version | None = None,
    soft: Sequence[NDArray[np.float32]] = (),
    subcortical: Version | None = None,
) -> tuple[dict[str, bytes], dict[str, str]]:
    """Write the chosen parcellations.

    Parameters
    ----------
    chosen : Parcellations
        The chosen parcellations.
    space : MapSpace
        What they are written on.
    overlap : Version, optional
        Overlap with atlases, that networks are named by.
    soft : sequence of ndarray of shape (n_vertices, n_networks)
        Probability of each network, for each parcellation; none if there are none.
    subcortical : Version, optional
        Networks of the voxels outside the cortex.

    Returns
    -------
    files : dict of str to bytes
        By path below the project's outputs.
    tables : dict of str to str
        The networks of each, as Markdown.
    """
    files: dict[str, bytes] = {}
    tables: dict[str, str] = {}
    surface, target = space.surface, space.target
    named = cohort_networks(chosen, space, overlap)
    each = zip(chosen.choices, chosen.labels, named, strict=True)
    for i, (choice, found, networks) in enumerate(each):
        labels = space.labels(found)
        name = f"selected_{choice['n_clusters']}_clusters"
        voxels = None if subcortical is None else voxels_of(subcortical, i)
        written = map_files(name, cell_title(choice), labels, networks, surface, target, voxels)
        if len(soft):
            written |= soft_files(name, soft[i], networks, surface, target)
        files |= {f"{MAPS}/{file}": content for file, content in written.items()}
        table = label_columns(networks).to_markdown(index=False)
        tables[f"networks, {choice['n_clusters']} clusters"] = str(table)
    return files, tables


def cohort_networks(
    chosen: Parcellations, space: MapSpace, overlap: Version | None = None
) -> list[list[Network]]:
    """Networks of each chosen parcellation, in the numbers, names and colours that all maps have.

    Parameters
    ----------
    chosen : Parcellations
        The chosen parcellations.
    space : MapSpace
        What maps are written on.
    overlap : Version, optional
        Overlap with atlases, that networks are named by.
    """
    overlaps = overlaps_of(overlap, len(chosen.labels))
    return [
        networks_of(space.labels(found), space.surface, space.target, beside, chosen.partners(n))
        for found, n, beside in zip(chosen.labels, chosen.n_clusters, overlaps, strict=True)
    ]


def label_files(
    key: str,
    title: str,
    labels: NDArray[np.integer],
    on_cortex: NDArray[np.integer],
    surface: Surface,
) -> dict[str, bytes]:
    """Spatial labels of a mesh as files: all of them as .npy, and to look at as GIFTI.

    Parameters
    ----------
    key : str
        What the files are named by.
    title : str
        Name of the GIFTI map.
    labels : ndarray of shape (n_vertices,)
        On the medial wall as well.
    on_cortex : ndarray of shape (n_vertices,)
        The same, -1 on the medial wall.
    surface : Surface
        The mesh.

    Returns
    -------
    dict of str to bytes
        Content by name of file.
    """
    networks, keys = networks_of(on_cortex, surface), keys_of(on_cortex)
    return {f"{key}.npy": npy_bytes(labels)} | {
        f"{key}.{side}.label.gii": gifti_labels(
            keys[surface.hemisphere == i], networks, side, title
        )
        for i, side in enumerate(SIDES)
    }


def counted(networks: Sequence[Network], labels: NDArray[np.integer]) -> list[Network]:
    """The same networks, with the vertices that they have in another map.

    What they overlap in an atlas is measured on the map that they are named by alone.
    """
    return [
        replace(each, n_vertices=int((labels == each.key - 1).sum()), overlaps=())
        for each in networks
    ]


def networks_of(
    labels: NDArray[np.integer],
    surface: Surface | None,
    target: Target | None = None,
    overlaps: Sequence[tuple[Overlap, ...]] = (),
    partner: Mapping[int, int] | None = None,
) -> list[Network]:
    """Name and colour the networks of a parcellation.

    Parameters
    ----------
    labels : ndarray of shape (n_vertices,)
        Cluster of each vertex from 0, -1 without signal.
    surface : Surface, optional
        The mesh. Without it no network has a mirror image.
    target : Grayordinates or Voxels, optional
        What the rows are. Without it and without a mesh networks have no side.
    overlaps : sequence of tuple of Overlap
        What each network is most like in each atlas; the first atlas names it, if the overlap is
        more than chance: ``LH_Visual``, or ``LH_Visual_1`` where there are several.
    partner : mapping of int to int, optional
        Mirror images, right label -> left label, where they are known; else by overlap.

    Returns
    -------
    list of Network
        One per key from 1 to the largest, in order. Mirror images across the hemispheres share a
        number and a hue: ``LH_03`` and ``RH_03``; a network of both is ``LR_05``.
    """
    n = int(labels.max(initial=-1)) + 1
    of_right: dict[int, int] = {}
    if surface is not None:
        hemisphere: NDArray[np.int8] | None = surface.hemisphere
        of_right = dict(homologous_labels(surface, labels) if partner is None else partner)
        known = label_colours(surface, labels, of_right)
        colours: Iterable[ArrayLike] = [known.get(k, np.zeros(3)) for k in range(n)]
    else:
        hemisphere = target.hemisphere if isinstance(target, Grayordinates) else None
        colours = np.clip(oklch_to_rgb(*distinct_colours(n).T), 0, 1)
    keys = {k: k + 1 for k in range(n)}
    homologues = {right: keys[left] for right, left in of_right.items()}
    homologues |= {left: keys[right] for right, left in of_right.items()}
    numbers = {k: i for i, k in enumerate((k for k in keys if k not in of_right), 1)}
    numbers |= {right: numbers[left] for right, left in of_right.items()}
    networks = []
    for (k, key), rgb in zip(keys.items(), unique_rgb(colours), strict=True):
        inside = labels == k
        side = _side(hemisphere, inside)
        name, size = f"{PREFIX[side]}_{numbers[k]:02d}", int(inside.sum())
        beside = overlaps[k] if k < len(overlaps) else ()
        networks.append(Network(key, name, rgb, side, homologues.get(k), size, beside))
    return _named(networks)


def _named(networks: list[Network]) -> list[Network]:
    """Give networks the names of the atlas' where they overlap them by more than chance."""
    beyond = _beyond_chance(networks)
    wanted = {n.key: _atlas_name(n) if n.key in beyond else "" for n in networks}
    taken = {n.name for n in networks if not wanted[n.key]}  # an atlas may have a network 12, too
    several = Counter([*taken, *filter(None, wanted.values())])
    found = []
    for network in networks:
        if name := wanted[network.key]:
            numbered = (f"{name}_{i}" for i in count(1))
            name = name if several[name] == 1 else next(n for n in numbered if n not in taken)
            taken.add(name)
            network = replace(network, name=name)
        found.append(network)
    return found


def _beyond_chance(networks: list[Network]) -> set[int]:
    """Keys of networks that overlap the first atlas by more than chance.

    By the false discovery rate over networks (Benjamini and Hochberg): of fourteen that lie
    anywhere, one would be named every other time by its own p.
    """
    first = {n.key: n.overlaps[0] for n in networks if n.overlaps and n.overlaps[0].name}
    found = {key for key, each in first.items() if np.isnan(each.p) and each.dice >= NAMED_FROM}
    if tested := {key: each.p for key, each in first.items() if not np.isnan(each.p)}:
        from statsmodels.stats.multitest import multipletests

        below = multipletests(list(tested.values()), alpha=CHANCE, method="fdr_bh")[0]
        found |= {key for key, named in zip(tested, below, strict=True) if named}
    return found


def _atlas_name(network: Network) -> str:
    name = re.sub(r"\W+", "_", network.overlaps[0].name).strip("_")
    return f"{PREFIX[network.hemisphere]}_{name}" if name else ""


def overlaps_of(version: Version | None, n_parcellations: int) -> list[list[tuple[Overlap, ...]]]:
    """What each network of each parcellation is most like, as ``atlas_overlap`` holds it."""
    if version is None or version.excluded is not None:
        return [[] for _ in range(n_parcellations)]
    best, dice, p = (version.read(name) for name in ("best", "dice", "p"))
    atlases = version.facts["atlases"]
    return [
        [
            tuple(
                Overlap(
                    atlas["name"],
                    atlas["networks"][best[i, j, k]] if best[i, j, k] >= 0 else "",
                    float(dice[i, j, k]),
                    float(p[i, j, k]),
                )
                for j, atlas in enumerate(atlases)
            )
            for k in range(best.shape[2])
        ]
        for i in range(n_parcellations)
    ]


def _side(hemisphere: NDArray[np.int8] | None, inside: NDArray[np.bool_]) -> str:
    if hemisphere is None or not inside.any():
        return ""
    left = float((hemisphere[inside] == 0).mean())
    if left > ONE_SIDED:
        return "L"
    return "R" if left < 1 - ONE_SIDED else "LR"


def map_files(
    name: str,
    title: str,
    labels: NDArray[np.integer],
    networks: Networks,
    surface: Surface | None,
    target: Target | None = None,
    voxels: VoxelLabels | None = None,
) -> dict[str, bytes]:
    """Write one parcellation in every format that fits what its rows are.

    Parameters
    ----------
    name : str
        Stem of the files' names.
    title : str
        Name of the map inside them.
    labels : ndarray of shape (n_vertices,)
        Cluster of each row from 0, -1 without signal.
    networks : sequence of Network
        The label table, from :func:`networks_of`.
    surface : Surface, optional
        The mesh, if each row is one of its vertices.
    target : Grayordinates or Voxels, optional
        What the rows are, where files say so.
    voxels : VoxelLabels, optional
        Networks of voxels outside the cortex, for the ``.dlabel.nii``.

    Returns
    -------
    dict of str to bytes
        File by name. The ``.spec`` names the others relative to itself.
    """
    keys = keys_of(labels)
    files = {f"{name}.tsv": label_tsv(networks)}
    listed: list[tuple[str, str]] = []
    if isinstance(target, Voxels):
        files[f"{name}.nii.gz"] = nifti_labels(keys, networks, target.affine, target.mask, title)
        listed.append((f"{name}.nii.gz", ""))
    if isinstance(target, Grayordinates) and target.dense:
        dense = f"{name}.dlabel.nii"
        models, values = target.brain_models, keys[target.rows]
        if voxels is not None:
            models = models + voxels.models
            values = np.concatenate([values, keys_of(voxels.labels)])
            sure = np.stack([voxels.correlation, voxels.lead], axis=1)
            names = ["correlation with its network", "lead over the next network"]
            files[f"{name}_subcortex.dscalar.nii"] = cifti_maps(sure, names, voxels.models)
        files[dense] = cifti_labels(values, networks, models, title)
        listed.append((dense, ""))
    for side in SIDES:
        if surface is not None:
            meshes = surface_files(surface, side)
            files |= meshes
            listed += [(mesh, side) for mesh in meshes]
        own = _on_mesh(keys, side, surface, target)
        if own is not None:
            files[f"{name}.{side}.label.gii"] = gifti_labels(own, networks, side, title)
            files[f"{FREESURFER_SIDE[side]}.{name}.annot"] = annot(own, networks)
            listed.append((f"{name}.{side}.label.gii", side))
    if listed:
        files[f"{name}.spec"] = spec_file(listed)
    return files


@dataclass(frozen=True)
class VoxelLabels:
    """Networks of the voxels outside the cortex.

    Parameters
    ----------
    models : BrainModelAxis
        Where they are.
    labels : ndarray of shape (n_voxels,)
        Network that each follows most; -1 for none.
    correlation, lead : ndarray of shape (n_voxels,)
        Correlation with its mean series, and how much more that is than with the next network's.
    """

    models: Any
    labels: NDArray[np.int32]
    correlation: NDArray[np.float32]
    lead: NDArray[np.float32]


def voxels_of(version: Version, parcellation: int) -> VoxelLabels | None:
    """Networks of the voxels, as ``subcortical_networks`` holds them."""
    if version.excluded is not None:
        return None
    arrays = {name: version.read(name) for name in ("voxels", "structure")}
    models = voxel_models(Subcortex.from_stored(version.facts, arrays))
    each = np.nan_to_num(version.read("correlation")[parcellation], nan=-1)
    two = np.sort(each, axis=1)[:, -2:]
    labels = version.read("labels")[parcellation]
    followed = labels >= 0
    return VoxelLabels(
        models,
        labels,
        np.where(followed, two[:, -1], 0),
        np.where(followed, two[:, -1] - two[:, 0], 0),
    )


def soft_files(
    name: str,
    probability: NDArray[np.float32],
    networks: Networks,
    surface: Surface | None,
    target: Target | None,
) -> dict[str, bytes]:
    """Write the probability of each network, in every format that fits what the rows are."""
    names = [network.name for network in networks]
    stem = f"{name}_probability"
    if isinstance(target, Voxels):
        return {f"{stem}.nii.gz": nifti_maps(probability, target.affine, target.mask)}
    files = {}
    if isinstance(target, Grayordinates) and target.dense:
        values = probability[target.rows]
        files[f"{stem}.dscalar.nii"] = cifti_maps(values, names, target.brain_models)
    for side in SIDES:
        columns = [_on_mesh(column, side, surface, target) for column in probability.T]
        own = [column for column in columns if column is not None]
        if own:
            values = np.stack(own, axis=1)
            files[f"{stem}.{side}.func.gii"] = gifti_maps(values, names, side, PROBABILITY)
    return files


def _on_mesh(
    keys: NDArray[Number], side: Side, surface: Surface | None, target: Target | None
) -> NDArray[Number] | None:
    """Value of each vertex of a hemisphere's mesh, if the rows are vertices of one."""
    if isinstance(target, Grayordinates):
        return target.on_mesh(keys, side)
    if surface is None:
        return None
    return np.asarray(keys[surface.hemisphere == SIDES.index(side)])


def surface_files(surface: Surface, side: Side) -> dict[str, bytes]:
    """Write the meshes of one hemisphere.

    Returns
    -------
    dict of str to bytes
        ``L.midthickness.surf.gii`` (or pial, white, anatomical), and ``L.inflated.surf.gii`` where
        there is an inflated one.
    """
    inside, triangles = hemisphere_triangles(surface, SIDES.index(side))
    files = {}
    if surface.inflated is not None:
        files[f"{side}.inflated.surf.gii"] = gifti_surface(
            surface.inflated[inside], triangles, side, "Inflated"
        )
    files[f"{side}.{surface.kind}.surf.gii"] = gifti_surface(
        surface.coordinates[inside], triangles, side, KINDS[surface.kind]
    )
    return files
