"""A parcellation as the files that other programs open: which ones, under which names.

What belongs here: naming and colouring networks, and choosing formats by what the vertices are.
What does not: the formats themselves (``storage.label_images``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trend_dagster.delivery.figures.surface import (
    distinct_colours,
    homologous_labels,
    label_colours,
    oklch_to_rgb,
)
from trend_dagster.project.target import MapSpace
from trend_dagster.science.surface import Surface, hemisphere_triangles
from trend_dagster.storage.arrays import npy_bytes
from trend_dagster.storage.label_images import (
    FREESURFER_SIDE,
    Network,
    Networks,
    annot,
    cifti_labels,
    gifti_labels,
    gifti_surface,
    keys_of,
    label_columns,
    label_tsv,
    nifti_labels,
    spec_file,
    unique_rgb,
)
from trend_dagster.storage.space import Side
from trend_dagster.storage.stores import Version
from trend_dagster.storage.template import Grayordinates, Target, Voxels

MAPS = "maps"
"""Folder of the chosen parcellations, below the project's outputs."""

SIDES: tuple[Side, Side] = ("L", "R")
PREFIX = {"L": "LH", "R": "RH", "LR": "LR", "": "network"}
ONE_SIDED = 0.9  # share of its vertices that a network of one hemisphere has there
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


def chosen_maps(selected: Version, space: MapSpace) -> tuple[dict[str, bytes], dict[str, str]]:
    """Write the chosen parcellations.

    Parameters
    ----------
    selected : Version
        The chosen parcellations.
    space : MapSpace
        What they are written on.

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
    for choice, found in zip(selected.facts["chosen"], selected.read("labels"), strict=True):
        labels = space.labels(found)
        networks = networks_of(labels, surface, target)
        name = f"selected_{choice['n_clusters']}_clusters"
        written = map_files(name, cell_title(choice), labels, networks, surface, target)
        files |= {f"{MAPS}/{file}": content for file, content in written.items()}
        table = label_columns(networks).to_markdown(index=False)
        tables[f"networks, {choice['n_clusters']} clusters"] = str(table)
    return files, tables


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


def networks_of(
    labels: NDArray[np.integer], surface: Surface | None, target: Target | None = None
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
        of_right = homologous_labels(surface, labels)
        known = label_colours(surface, labels)
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
        networks.append(Network(key, name, rgb, side, homologues.get(k), size))
    return networks


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
        files[dense] = cifti_labels(keys[target.rows], networks, target.brain_models, title)
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


def _on_mesh(
    keys: NDArray[np.int32], side: Side, surface: Surface | None, target: Target | None
) -> NDArray[np.int32] | None:
    """Key of each vertex of a hemisphere's mesh, if the rows are vertices of one."""
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
