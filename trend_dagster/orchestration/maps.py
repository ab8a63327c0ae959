"""A parcellation as the files that other programs open: which ones, under which names.

What belongs here: naming and colouring networks, and choosing formats by what the vertices are.
What does not: the formats themselves (``storage.label_images``) and which parcellation (the asset
``parcellation_images`` and the command `trend export`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trend_dagster.figures.surface import (
    distinct_colours,
    homologous_labels,
    label_colours,
    oklch_to_rgb,
)
from trend_dagster.science.geodesic import Surface
from trend_dagster.storage.label_images import (
    FREESURFER_SIDE,
    Network,
    Networks,
    Side,
    annot,
    gifti_labels,
    gifti_surface,
    keys_of,
    label_tsv,
    spec_file,
    unique_rgb,
)

SIDES: tuple[Side, Side] = ("L", "R")
ONE_SIDED = 0.9  # share of its vertices that a network of one hemisphere has there


def networks_of(labels: NDArray[np.integer], surface: Surface | None) -> list[Network]:
    """Name and colour the networks of a parcellation.

    Parameters
    ----------
    labels : ndarray of shape (n_vertices,)
        Cluster of each vertex from 0, -1 without signal.
    surface : Surface, optional
        The mesh. Without it networks have a number and a colour, but no side.

    Returns
    -------
    list of Network
        One per key from 1 to the largest, in order. Mirror images across the hemispheres share a
        number and a hue: ``LH_03`` and ``RH_03``; a network of both is ``LR_05``.
    """
    n = int(labels.max(initial=-1)) + 1
    sizes = np.bincount(labels[labels >= 0], minlength=n)
    if surface is None:
        colours = np.clip(oklch_to_rgb(*distinct_colours(n).T), 0, 1)
        return [
            Network(k + 1, f"network_{k + 1:02d}", rgb, n_vertices=int(sizes[k]))
            for k, rgb in enumerate(unique_rgb(colours))
        ]
    of_right = homologous_labels(surface, labels)
    of_left = {left: right for right, left in of_right.items()}
    found = label_colours(surface, labels)
    rgb = unique_rgb([found.get(k, np.zeros(3)) for k in range(n)])
    left_share = [_left_share(surface, labels == k) for k in range(n)]
    numbers: dict[int, int] = {}
    for k in range(n):
        if k not in of_right:
            numbers[k] = len(numbers) + 1
    numbers |= {right: numbers[left] for right, left in of_right.items()}
    networks = []
    for k in range(n):
        side = _side(left_share[k])
        prefix = f"{side}H" if len(side) == 1 else side or "empty"
        homologue = of_right.get(k, of_left.get(k))
        networks.append(
            Network(
                key=k + 1,
                name=f"{prefix}_{numbers[k]:02d}",
                rgb=rgb[k],
                hemisphere=side,
                homologue=None if homologue is None else homologue + 1,
                n_vertices=int(sizes[k]),
            )
        )
    return networks


def _left_share(surface: Surface, inside: NDArray[np.bool_]) -> float:
    return float((surface.hemisphere[inside] == 0).mean()) if inside.any() else float("nan")


def _side(left_share: float) -> str:
    if np.isnan(left_share):
        return ""
    if left_share > ONE_SIDED:
        return "L"
    return "R" if left_share < 1 - ONE_SIDED else "LR"


def map_files(
    name: str, title: str, labels: NDArray[np.integer], networks: Networks, surface: Surface | None
) -> dict[str, bytes]:
    """Write one parcellation in every format that fits what its vertices are.

    Parameters
    ----------
    name : str
        Stem of the files' names.
    title : str
        Name of the map inside them.
    labels : ndarray of shape (n_vertices,)
        Cluster of each vertex from 0, -1 without signal.
    networks : sequence of Network
        The label table, from :func:`networks_of`.
    surface : Surface, optional
        The mesh.

    Returns
    -------
    dict of str to bytes
        File by name. The ``.spec`` names the others relative to itself.
    """
    files = {f"{name}.tsv": label_tsv(networks)}
    if surface is None:
        return files
    keys = keys_of(labels)
    listed: list[tuple[str, str]] = []
    for side in SIDES:
        inside = np.flatnonzero(surface.hemisphere == SIDES.index(side))
        label_name = f"{name}.{side}.label.gii"
        files[label_name] = gifti_labels(keys[inside], networks, side, title)
        files[f"{FREESURFER_SIDE[side]}.{name}.annot"] = annot(keys[inside], networks)
        meshes = surface_files(surface, side)
        files |= meshes
        listed += [(mesh, side) for mesh in meshes] + [(label_name, side)]
    return files | {f"{name}.spec": spec_file(listed)}


def surface_files(surface: Surface, side: Side) -> dict[str, bytes]:
    """Write the meshes of one hemisphere.

    Returns
    -------
    dict of str to bytes
        ``L.midthickness.surf.gii``, and ``L.inflated.surf.gii`` where there is an inflated one.
    """
    inside = np.flatnonzero(surface.hemisphere == SIDES.index(side))
    own = np.isin(surface.triangles[:, 0], inside)
    triangles = np.searchsorted(inside, surface.triangles[own])
    files = {}
    if surface.inflated is not None:
        files[f"{side}.inflated.surf.gii"] = gifti_surface(
            surface.inflated[inside], triangles, side, "Inflated"
        )
    files[f"{side}.midthickness.surf.gii"] = gifti_surface(
        surface.coordinates[inside], triangles, side, "MidThickness"
    )
    return files
