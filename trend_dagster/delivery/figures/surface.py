"""Parcellations on the cortical surface: colours, mesh refinement, four views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import new_figure, palette_png
from trend_dagster.science.evidence.measures import match_labels
from trend_dagster.science.surface import (
    Surface,
    hemisphere_triangles,
    mirrored_coordinates,
)

if TYPE_CHECKING:
    import scipy.sparse as sp
    from matplotlib.figure import Figure

FloatArray = NDArray[np.floating]

NO_SIGNAL = np.array([0.78, 0.78, 0.78])
BORDER = np.array([0.16, 0.16, 0.18])
GAP, TITLE = 6, 22  # pixels between views, and for what is written above them
MIN_VERTICES_TO_DRAW = 10_000  # of one hemisphere; coarser meshes are refined


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
    return np.asarray(np.where(linear <= 0.0031308, 12.92 * linear, bright))


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
            np.linspace(0.60, 0.86, 4),
            [0.09, 0.13, 0.17],
            np.linspace(0, 2 * np.pi, 48, endpoint=False),
            indexing="ij",
        )
    )
    rgb = oklch_to_rgb(lightness, chroma, hue)
    shown = ((rgb >= 0) & (rgb <= 1)).all(axis=1)
    candidates = np.column_stack([lightness, chroma, hue])[shown]
    # Shading changes lightness, so a difference of hue counts for more.
    place = np.column_stack([0.6 * lightness, chroma * np.cos(hue), chroma * np.sin(hue)])[shown]
    # The grey of vertices without signal is the first colour: the others keep away from it.
    nearest = np.linalg.norm(place - [0.6 * 0.8, 0, 0], axis=1)
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
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial import KDTree

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


def label_colours(
    surface: Surface, labels: NDArray[np.integer], partner: Mapping[int, int] | None = None
) -> dict[int, FloatArray]:
    """Give every network a colour; partners across hemispheres share a hue.

    Parameters
    ----------
    surface : Surface
        The mesh.
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal.
    partner : mapping of int to int, optional
        Right label -> left label, where that is known; else by overlap.

    Returns
    -------
    dict
        Label -> sRGB in 0..1; the right partner is a shade darker than the left one.
    """
    partner = homologous_labels(surface, labels) if partner is None else partner
    own = [int(name) for name in np.unique(labels[labels >= 0]) if int(name) not in partner]
    table = dict(zip(own, distinct_colours(len(own)), strict=True))
    darker = np.array([0.05, 0.0, 0.0])
    table |= {right: table[left] - darker for right, left in partner.items()}
    return {name: np.clip(oklch_to_rgb(*table[name]), 0, 1) for name in sorted(table)}


def shared_colours(
    surface: Surface,
    maps: Sequence[NDArray[np.integer]],
    known: Mapping[int, FloatArray] | None = None,
) -> dict[int, FloatArray]:
    """Colours that are known, else of the first map, and spare ones for labels without."""
    colours = label_colours(surface, maps[0]) if known is None else dict(known)
    extra = [int(k) for k in np.unique(np.concatenate(maps)) if k >= 0 and int(k) not in colours]
    spare = distinct_colours(len(colours) + len(extra))[len(colours) :]
    return colours | {k: np.clip(oklch_to_rgb(*c), 0, 1) for k, c in zip(extra, spare, strict=True)}


# From mesh to picture


@dataclass(frozen=True, eq=False)
class _Hemisphere:
    """A hemisphere fine enough to draw; one row per vertex, but for the triangles."""

    inside: NDArray[np.intp]
    finer: sp.csr_array  # from the mesh to the vertices that are drawn, smoothed
    points: FloatArray
    triangles: NDArray[np.intp]
    normals: FloatArray
    groove: FloatArray  # sulcal depth, in mm or in FreeSurfer's units


@lru_cache(maxsize=2)
def _hemisphere(surface: Surface, side: int) -> _Hemisphere:
    import scipy.sparse as sp

    inside, triangles = hemisphere_triangles(surface, side)
    whole = surface.coordinates if surface.inflated is None else surface.inflated
    depth = np.zeros(len(whole)) if surface.sulcal_depth is None else surface.sulcal_depth
    finer = sp.csr_array(sp.eye_array(len(inside)))
    while finer.shape[0] < MIN_VERTICES_TO_DRAW:
        triangles, step = _refine(triangles, finer.shape[0])
        finer = step @ finer
    points, groove = finer @ whole[inside], finer @ depth[inside]
    smooth = _average(triangles, len(points))
    # Half the memory to move for every pixel, and pixels ask for no more digits.
    single = [a.astype(np.float32) for a in (_normals(points, triangles), groove)]
    borders = smooth @ (smooth @ finer)  # without the mesh's zigzag
    return _Hemisphere(inside, borders, points.astype(np.float32), triangles, *single)


def _refine(triangles: NDArray[np.intp], n: int) -> tuple[NDArray[np.intp], sp.csr_array]:
    """Split each triangle in four and smooth: new triangles, and the matrix that moves values."""
    import scipy.sparse as sp

    sides = np.sort(triangles[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    edges, middle = np.unique(sides, axis=0, return_inverse=True)
    ab, bc, ca = (n + middle.reshape(-1, 3)).T
    a, b, c = triangles.T
    four = [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
    fine = np.concatenate([np.column_stack(one) for one in four])
    rows = np.concatenate([np.arange(n), n + np.repeat(np.arange(len(edges)), 2)])
    columns = np.concatenate([np.arange(n), edges.ravel()])
    values = np.concatenate([np.ones(n), np.full(2 * len(edges), 0.5)])
    split = sp.csr_array((values, (rows, columns)), shape=(n + len(edges), n))
    return fine, sp.csr_array(_average(fine, n + len(edges)) @ split)


def _average(triangles: NDArray[np.intp], n: int) -> sp.csr_array:
    """Matrix that gives half the value of a vertex and half the mean of its neighbours."""
    import scipy.sparse as sp

    start, end = triangles[:, [0, 1, 2]].ravel(), triangles[:, [1, 2, 0]].ravel()
    step = sp.csr_array((np.ones(len(start)), (start, end)), shape=(n, n))
    step = step + step.T
    mean = sp.diags_array(1 / np.maximum(step.sum(axis=1), 1)) @ step
    return sp.csr_array(0.5 * sp.eye_array(n) + 0.5 * mean)


def _normals(points: FloatArray, triangles: NDArray[np.intp]) -> FloatArray:
    a, b, c = np.moveaxis(points[triangles], 1, 0)
    normals = np.zeros_like(points)
    np.add.at(normals, triangles.ravel(), np.repeat(np.cross(b - a, c - a), 3, axis=0))
    return np.asarray(normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12))


@dataclass(frozen=True, eq=False)
class _View:
    """A hemisphere from one side; one row per pixel that shows it."""

    shape: tuple[int, int]
    row: NDArray[np.int32]
    column: NDArray[np.int32]
    corners: NDArray[np.int32]
    weights: FloatArray
    light: FloatArray


@lru_cache(maxsize=4)  # all of one surface: every other map of it is then drawn at once
def _view(surface: Surface, side: int, from_right: bool, pixels_per_mm: float) -> _View:
    """See a hemisphere from the right or from the left side of the head.

    Every pixel finds its triangle, and in it its light and depth, so that shading is smooth however
    coarse the mesh is.
    """
    hemisphere = _hemisphere(surface, side)
    towards = 1.0 if from_right else -1.0
    flat = hemisphere.points[:, 1:] * np.array([towards, -1.0], dtype=np.float32)
    flat = (flat - flat.min(axis=0)) * (2 * pixels_per_mm) + 4
    width, height = (2 * np.ceil(flat.max(axis=0) / 2) + 4).astype(int)
    depth = hemisphere.points[hemisphere.triangles, 0].sum(axis=1) * towards
    triangle = _triangle_of_pixel(flat[hemisphere.triangles], depth.argsort(), width, height)
    row, column = np.nonzero(triangle >= 0)
    corners = hemisphere.triangles[triangle[row, column]]
    centres = np.column_stack([column, row]).astype(np.float32) + np.float32(0.5)
    weights = _barycentric(centres, flat[corners])
    normal = np.einsum("ij,ijk->ik", weights, hemisphere.normals[corners])
    groove = np.einsum("ij,ij->i", weights, hemisphere.groove[corners])
    places = [a.astype(np.int32) for a in (row, column, corners)]
    light = _light(normal, groove, towards)
    return _View((height, width), places[0], places[1], places[2], weights, light)


def _image(view: _View, membership: FloatArray, palette: FloatArray) -> NDArray[np.uint8]:
    """Colour a view by the share of each label at each vertex.

    Drawn twice too large, then averaged.

    Returns
    -------
    ndarray of shape (height, width, 4), uint8
        sRGB and opacity, top row first.
    """
    from PIL import Image

    row, column = view.row, view.column
    index = np.full(view.shape, -1)
    index[row, column] = _label_of_pixel(membership, view.corners, view.weights)
    image = np.zeros((*view.shape, 4), dtype=np.float32)
    image[row, column, :3] = palette[index[row, column]] * view.light[:, None]
    image[row, column, 3] = 1
    image[_borders(index), :3] = BORDER
    # Pillow weighs colours by opacity, so that the outline stays clean.
    return np.asarray(Image.fromarray(np.rint(255 * image).astype(np.uint8)).reduce(2))


def _triangle_of_pixel(
    corners: FloatArray, order: NDArray[np.intp], width: int, height: int
) -> NDArray[np.int32]:
    """Paint each triangle's number, far ones first; -1 where there is none."""
    from PIL import Image, ImageDraw

    image = Image.new("I", (width, height), -1)
    draw = ImageDraw.Draw(image)
    for number in order.tolist():
        draw.polygon(corners[number].ravel().tolist(), fill=number)
    return np.asarray(image, dtype=np.int32)


def _barycentric(points: FloatArray, corners: FloatArray) -> FloatArray:
    """Weights of a triangle's corners that give each point; clipped, as pixels overlap edges."""
    a, b, c = np.moveaxis(corners, 1, 0)
    u, v, p = b - a, c - a, points - a
    area = u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0]
    area = np.where(np.abs(area) < 1e-9, 1e-9, area)
    second = np.clip((p[:, 0] * v[:, 1] - p[:, 1] * v[:, 0]) / area, 0, 1)
    third = np.clip((u[:, 0] * p[:, 1] - u[:, 1] * p[:, 0]) / area, 0, 1 - second)
    return np.column_stack([1 - second - third, second, third])


def _label_of_pixel(
    membership: FloatArray, corners: NDArray[np.int32], weights: FloatArray
) -> NDArray[np.intp]:
    at_corner = membership.argmax(axis=1)[corners]
    label = at_corner[:, 0].copy()
    # Only where the corners disagree is there anything to interpolate.
    mixed = (at_corner != label[:, None]).any(axis=1)
    label[mixed] = np.einsum("ij,ijk->ik", weights[mixed], membership[corners[mixed]]).argmax(
        axis=1
    )
    return np.asarray(label)


def _light(normal: FloatArray, groove: FloatArray, towards: float) -> FloatArray:
    # A lamp above the viewer's shoulder; sulci a little darker than gyri.
    lamp = np.array([0.85 * towards, 0.0, 0.53], dtype=np.float32)
    bright = 0.66 + 0.36 * np.clip(normal @ lamp, 0, 1)
    return np.asarray(np.minimum(bright, 1.0) * (1 - 0.10 * (np.tanh(groove) + 1) / 2))


def _borders(index: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Pixels between two labels, and the outline."""
    from scipy import ndimage

    border = np.zeros(index.shape, dtype=bool)
    border[:, 1:] |= index[:, 1:] != index[:, :-1]
    border[1:] |= index[1:] != index[:-1]
    return np.asarray(ndimage.binary_dilation(border) & (index >= 0))


# Figures


def draw_parcellation(
    axes: NDArray[np.object_],
    surface: Surface,
    labels: NDArray[np.integer],
    colours: dict[int, FloatArray] | None = None,
    pixels_per_mm: float = 2.2,
) -> None:
    """Draw four views into a 2 x 2 array of axes: left and right, lateral above medial.

    Parameters
    ----------
    axes : ndarray of shape (2, 2) of Axes
        Where to draw.
    surface : Surface
        The mesh.
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal.
    colours : dict, optional
        Label -> sRGB; from `label_colours` by default.
    pixels_per_mm : float
        Resolution of the views.
    """
    colours = label_colours(surface, labels) if colours is None else colours
    for (row, side), image in _images(surface, labels, colours, pixels_per_mm):
        axes[row, side].imshow(image, interpolation="antialiased")
        axes[row, side].set_axis_off()


def _images(
    surface: Surface,
    labels: NDArray[np.integer],
    colours: Mapping[int, FloatArray],
    pixels_per_mm: float,
) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8]]]:
    """Four views, each with its row and column."""
    names = np.array([-1, *colours])
    palette = np.array([NO_SIGNAL, *colours.values()], dtype=np.float32)
    for side in (0, 1):
        hemisphere = _hemisphere(surface, side)
        member = (labels[hemisphere.inside, None] == names).astype(np.float32)
        membership = hemisphere.finer @ member
        for row, from_right in enumerate((side == 1, side == 0)):
            view = _view(surface, side, from_right, pixels_per_mm)
            yield (row, side), _image(view, membership, palette)


def maps_png(
    surface: Surface,
    maps: Mapping[str, NDArray[np.integer]],
    pixels_per_mm: float = 1.0,
    colours: Mapping[int, FloatArray] | None = None,
) -> bytes:
    """Maps beside each other as a PNG file, in a tenth of the time of `maps_figure`.

    Parameters
    ----------
    surface : Surface
        The mesh.
    maps : mapping of str to ndarray of shape (n_vertices,)
        Label vectors by what is written above them; equal labels have one colour.
    pixels_per_mm : float
        Resolution.
    colours : mapping of int to ndarray of shape (3,), optional
        sRGB in 0..1 by label; else, and for others, as of `shared_colours`.

    Returns
    -------
    bytes
        With a palette of 255 colours.
    """
    from PIL import Image, ImageDraw

    colours, parts = shared_colours(surface, list(maps.values()), colours), []
    for title, labels in maps.items():
        views = {
            at: Image.fromarray(v) for at, v in _images(surface, labels, colours, pixels_per_mm)
        }
        width, height = (max(v.size[i] for v in views.values()) + GAP for i in (0, 1))
        part = Image.new("RGB", (2 * width, 2 * height + TITLE), "white")
        ImageDraw.Draw(part).text((width, 2), title, "black", anchor="ma", font_size=TITLE - 6)
        for (row, side), view in views.items():
            part.paste(view, (side * width, TITLE + row * height), view)
        parts.append(part)
    whole = Image.new("RGB", (sum(p.width for p in parts), max(p.height for p in parts)), "white")
    for i, part in enumerate(parts):
        whole.paste(part, (sum(p.width for p in parts[:i]), 0))
    return palette_png(whole)


def parcellation_figure(
    surface: Surface,
    labels: NDArray[np.integer],
    title: str = "",
    pixels_per_mm: float = 2.2,
    partner: Mapping[int, int] | None = None,
) -> Figure:
    """Four views of a parcellation.

    Parameters
    ----------
    surface : Surface
        The mesh; drawn inflated where it has inflated coordinates.
    labels : ndarray of shape (n_vertices,)
        Label vector; -1 without signal, drawn grey.
    title : str
        Written above.
    pixels_per_mm : float
        Resolution; time grows with its square. 1.2 is enough for a thumbnail.
    partner : mapping of int to int, optional
        Right label -> left label, where that is known; else by overlap.

    Returns
    -------
    Figure
        Left hemisphere on the left; lateral views above medial ones.
    """
    figure = new_figure(figsize=(6.4, 4.7 if title else 4.3), layout="compressed")
    axes = figure.subplots(2, 2)
    draw_parcellation(axes, surface, labels, label_colours(surface, labels, partner), pixels_per_mm)
    figure.suptitle(title, fontsize=13)
    return figure


def comparison_figure(
    surface: Surface,
    reference: NDArray[np.integer],
    other: NDArray[np.integer],
    titles: tuple[str, str],
    pixels_per_mm: float = 2.2,
) -> Figure:
    """Two parcellations beside each other, matched networks in one colour.

    Parameters
    ----------
    surface : Surface
        The mesh.
    reference, other : ndarray of shape (n_vertices,)
        Label vectors, such as the planted and the found networks. The second is renamed after
        the first by `match_labels`.
    titles : tuple of two str
        Written above each.
    pixels_per_mm : float
        Resolution; time grows with its square.

    Returns
    -------
    Figure
        Eight views.
    """
    maps = dict(zip(titles, (reference, match_labels(other, reference)), strict=True))
    return maps_figure(surface, maps, pixels_per_mm)


def maps_figure(
    surface: Surface,
    maps: Mapping[str, NDArray[np.integer]],
    pixels_per_mm: float = 2.2,
    colours: dict[int, FloatArray] | None = None,
) -> Figure:
    """Maps beside each other, equal labels in one colour.

    Parameters
    ----------
    surface : Surface
        The mesh.
    maps : mapping of str to ndarray of shape (n_vertices,)
        Label vectors by what is written above them.
    pixels_per_mm : float
        Resolution; time grows with its square.
    colours : dict, optional
        Label -> sRGB; from `shared_colours` by default.

    Returns
    -------
    Figure
        Four views of each.
    """
    colours = shared_colours(surface, list(maps.values())) if colours is None else colours
    figure = new_figure(figsize=(6.2 * len(maps), 4.7), layout="constrained")
    parts: Any = figure.subfigures(1, len(maps), wspace=0.04, squeeze=False)[0]
    for part, (title, labels) in zip(parts, maps.items(), strict=True):
        draw_parcellation(part.subplots(2, 2), surface, labels, colours, pixels_per_mm)
        part.suptitle(title, fontsize=14)
    return figure
