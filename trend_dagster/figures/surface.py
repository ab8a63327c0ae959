"""Parcellations on the cortical surface: colours, mesh refinement, four views."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.spatial import KDTree

from trend_dagster.science.geodesic import Surface, mirrored_coordinates

FloatArray = NDArray[np.float64]

NO_SIGNAL = np.array([0.72, 0.72, 0.72])


# Colours


def oklch_to_rgb(lightness: FloatArray, chroma: FloatArray, hue: FloatArray) -> FloatArray:
    """Colours of the OKLCh space, in which equal steps look equal, as linear-light-corrected sRGB.

    Ottosson 2020, https://bottosson.github.io/posts/oklab. Hue in radians. Values out of [0, 1]
    are colours that no screen shows.
    """
    a, b = chroma * np.cos(hue), chroma * np.sin(hue)
    cones = np.stack(
        [
            lightness + 0.3963377774 * a + 0.2158037573 * b,
            lightness - 0.1055613458 * a - 0.0638541728 * b,
            lightness - 0.0894841775 * a - 1.2914855480 * b,
        ],
        axis=-1,
    )
    to_rgb = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    linear = cones**3 @ to_rgb.T
    bright = 1.055 * np.clip(linear, 0.0031308, None) ** (1 / 2.4) - 0.055
    return np.where(linear <= 0.0031308, 12.92 * linear, bright)


def distinct_colours(n: int) -> FloatArray:
    """Colours that look as different from each other as can be, the first ones most of all.

    Parameters
    ----------
    n : int
        How many.

    Returns
    -------
    ndarray of shape (n, 3)
        Lightness, chroma and hue in OKLCh; always the same ones.
    """
    lightness, chroma, hue = (
        axis.ravel()
        for axis in np.meshgrid(
            np.linspace(0.48, 0.86, 5),
            [0.09, 0.13, 0.17],
            np.linspace(0, 2 * np.pi, 48, endpoint=False),
            indexing="ij",
        )
    )
    rgb = oklch_to_rgb(lightness, chroma, hue)
    shown = ((rgb >= 0) & (rgb <= 1)).all(axis=1)
    candidates = np.column_stack([lightness, chroma, hue])[shown]
    place = np.column_stack(
        [
            candidates[:, 0],
            candidates[:, 1] * np.cos(candidates[:, 2]),
            candidates[:, 1] * np.sin(candidates[:, 2]),
        ]
    )
    # The grey of vertices without signal is the first colour: the others keep away from it.
    nearest = np.linalg.norm(place - [0.78, 0, 0], axis=1)
    chosen = list[int]()
    for _ in range(n):
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, np.linalg.norm(place - place[chosen[-1]], axis=1))
    return candidates[chosen]


def homologous_labels(surface: Surface, labels: NDArray[np.integer]) -> dict[int, int]:
    """Pair each network of the right hemisphere with its mirror image in the left one.

    Parameters
    ----------
    surface : Surface
        The mesh.
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal.

    Returns
    -------
    dict
        Right label -> left label, one to one. Labels that spread over both hemispheres, and those
        whose mirror image hardly meets a network, have no partner.
    """
    points, left = mirrored_coordinates(surface), surface.hemisphere == 0
    _, mirror = KDTree(points[left]).query(points[~left])
    here, there = labels[~left], labels[left][mirror]
    names = np.unique(labels[labels >= 0])
    share_left = np.array([left[labels == name].mean() for name in names])
    lefts, rights = names[share_left > 0.9], names[share_left < 0.1]
    shared = np.array([[((here == r) & (there == m)).sum() for m in lefts] for r in rights])
    if shared.size == 0:
        return {}
    size = [[(here == r).sum() + (there == m).sum() for m in lefts] for r in rights]
    dice = 2 * shared / np.maximum(size, 1)
    pairs = zip(*linear_sum_assignment(dice, maximize=True), strict=True)
    return {int(rights[i]): int(lefts[j]) for i, j in pairs if dice[i, j] > 0.1}


def label_colours(surface: Surface, labels: NDArray[np.integer]) -> dict[int, FloatArray]:
    """Give every network a colour; partners across hemispheres share a hue.

    Returns
    -------
    dict
        Label -> sRGB in 0..1; the right partner is a shade darker than the left one.
    """
    partner = homologous_labels(surface, labels)
    own = [int(name) for name in np.unique(labels[labels >= 0]) if int(name) not in partner]
    table = dict(zip(own, distinct_colours(len(own)), strict=True))
    darker = np.array([0.05, 0.0, 0.0])
    table |= {right: table[left] - darker for right, left in partner.items()}
    return {name: np.clip(oklch_to_rgb(*table[name]), 0, 1) for name in sorted(table)}


# Drawing


@dataclass(frozen=True)
class _Scene:
    """One hemisphere, fine enough to draw: triangles with a label, a colour and a shade."""

    coordinates: FloatArray
    triangles: NDArray[np.int32]
    label: NDArray[np.int32]
    colour: FloatArray


MIN_VERTICES_TO_DRAW = 10_000


def _refine(triangles: NDArray[np.int32], n: int) -> tuple[NDArray[np.int32], sp.csr_array]:
    """Split each triangle in four and smooth: the triangles, and the matrix that moves values."""
    sides = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, middle = np.unique(sides, axis=0, return_inverse=True)
    ab, bc, ca = (n + middle.reshape(-1, 3)).T
    a, b, c = triangles.T
    four = [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
    fine = np.concatenate([np.column_stack(one) for one in four]).astype(np.int32)
    rows = np.concatenate([np.arange(n), n + np.repeat(np.arange(len(edges)), 2)])
    columns = np.concatenate([np.arange(n), edges.ravel()])
    values = np.concatenate([np.ones(n), np.full(2 * len(edges), 0.5)])
    split = sp.csr_array((values, (rows, columns)), shape=(n + len(edges), n))
    return fine, sp.csr_array(_average(fine, n + len(edges)) @ split)


def _average(triangles: NDArray[np.int32], n: int) -> sp.csr_array:
    """Half the value of a vertex and half the mean of its neighbours."""
    start, end = triangles[:, [0, 1, 2]].ravel(), triangles[:, [1, 2, 0]].ravel()
    step = sp.csr_array((np.ones(len(start)), (start, end)), shape=(n, n))
    step = step + step.T
    mean = sp.diags_array(1 / np.maximum(step.sum(axis=1), 1)) @ step
    return sp.csr_array(0.5 * sp.eye_array(n) + 0.5 * mean)


def _hemisphere(
    surface: Surface, labels: NDArray[np.integer], colours: dict[int, FloatArray], side: int
) -> _Scene:
    inside = np.flatnonzero(surface.hemisphere == side)
    whole = surface.coordinates if surface.inflated is None else surface.inflated
    depth = np.zeros(len(whole)) if surface.sulcal_depth is None else surface.sulcal_depth
    names = np.array([-1, *colours])
    values = np.column_stack([whole[inside], depth[inside], labels[inside, None] == names])
    triangles = np.searchsorted(inside, surface.triangles[np.isin(surface.triangles[:, 0], inside)])
    while len(values) < MIN_VERTICES_TO_DRAW:
        triangles, finer = _refine(triangles.astype(np.int32), len(values))
        values = finer @ values
    corners = values[triangles].mean(axis=1)
    index = corners[:, 4:].argmax(axis=1)
    palette = np.array([NO_SIGNAL, *colours.values()])
    groove = np.clip(corners[:, 3] / 2, -0.5, 0.5)[:, None]
    colour = palette[index] * (1 - 0.16 * (groove + 0.5))
    return _Scene(values[:, :3], triangles.astype(np.int32), names[index].astype(np.int32), colour)


def _draw(axes: Axes, scene: _Scene, from_right: bool) -> None:
    """Draw a hemisphere as seen from the right or the left side of the head."""
    towards = 1.0 if from_right else -1.0
    a, b, c = np.moveaxis(scene.coordinates[scene.triangles], 1, 0)
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    facing = normal[:, 0] * towards
    depth = (a + b + c)[:, 0] * towards
    order = np.flatnonzero(facing > 0)[depth[facing > 0].argsort()]
    flat = scene.coordinates[:, 1:] * [towards, 1.0]
    light = normal @ np.array([0.8 * towards, 0.0, 0.6])
    shade = 0.62 + 0.38 * np.clip(light, 0, 1)
    colour = np.clip(scene.colour * shade[:, None], 0, 1)[order]
    faces = PolyCollection(
        flat[scene.triangles[order]],
        facecolors=colour,
        edgecolors=colour,
        linewidths=0.3,
        rasterized=True,
    )
    axes.add_collection(faces)
    axes.add_collection(
        LineCollection(flat[_borders(scene, facing > 0)], colors="#202020", linewidths=0.6)
    )
    axes.set_xlim(flat[:, 0].min() - 2, flat[:, 0].max() + 2)
    axes.set_ylim(flat[:, 1].min() - 2, flat[:, 1].max() + 2)
    axes.set_aspect("equal")
    axes.set_axis_off()


def _borders(scene: _Scene, seen: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Edges between two visible triangles of different labels."""
    sides = np.sort(scene.triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    order = np.lexsort(sides.T)
    first, second = order[:-1], order[1:]
    same = (sides[first] == sides[second]).all(axis=1)
    differ = scene.label[first // 3] != scene.label[second // 3]
    return sides[first][same & differ & seen[first // 3] & seen[second // 3]]


def draw_parcellation(
    axes: NDArray[np.object_],
    surface: Surface,
    labels: NDArray[np.integer],
    colours: dict[int, FloatArray] | None = None,
) -> None:
    """Draw four views into a 2 x 2 array of axes: left and right, lateral above medial."""
    colours = label_colours(surface, labels) if colours is None else colours
    for side in (0, 1):
        scene = _hemisphere(surface, labels, colours, side)
        _draw(axes[0, side], scene, from_right=side == 1)
        _draw(axes[1, side], scene, from_right=side == 0)


def parcellation_figure(surface: Surface, labels: NDArray[np.integer], title: str = "") -> Figure:
    """Four views of a parcellation.

    Parameters
    ----------
    surface : Surface
        The mesh; drawn inflated where it has inflated coordinates.
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal, drawn grey.
    title : str
        Written above.

    Returns
    -------
    Figure
        Left hemisphere on the left; lateral views above medial ones.
    """
    figure = Figure(figsize=(6.4, 4.9), layout="compressed")
    axes = figure.subplots(2, 2)
    draw_parcellation(axes, surface, labels)
    figure.suptitle(title, fontsize=13)
    return figure
