"""Read the surface that a user brings: a mesh per hemisphere, and where on it there is cortex.

GIFTI (``.surf.gii``) and FreeSurfer's geometry (``lh.midthickness``, ``rh.pial``) are read through
nibabel. A file says which hemisphere it is in its header or its name; what it says is compared with
its place in the settings.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.gifti import read_map
from trend_dagster.storage.label_files import has_label
from trend_dagster.storage.runs import cortex_models, load_cifti, load_image, reading
from trend_dagster.storage.sides import (
    SIDES,
    check_order,
    check_side,
    hemisphere_of,
    told_by_header,
)
from trend_dagster.storage.space import Side

_KIND = {"MidThickness": "midthickness", "Pial": "pial", "GrayWhite": "white"}  # of GIFTI
_APART = 10.0  # mm between the centres of hemispheres that share a coordinate system
_ROUND = 1.02  # largest over smallest radius of a sphere
_COVERED = 1.5  # times that triangles cover a sphere; registration folds some
SIZE_MM = (20.0, 600.0)  # a hemisphere's longest side, inflated or spherical: marmoset to human
_LEFT_FIRST = "Name the left one first, then the right one ({} in trend.yaml)."


@dataclass(frozen=True)
class _Hemisphere:
    points: NDArray[np.float32]
    triangles: NDArray[np.int32]
    sides: frozenset[Side]
    kind: str


@dataclass(frozen=True)
class MeshFiles:
    """What the files of both hemispheres hold, left then right.

    Parameters
    ----------
    coordinates : ndarray of shape (n_vertices, 3), float32
        In mm.
    triangles : ndarray of shape (n_triangles, 3), int32
        Vertices of each triangle.
    hemisphere : ndarray of shape (n_vertices,), int8
        0 for left, 1 for right.
    kind : str
        ``midthickness``, ``pial``, ``white`` or ``anatomical``.
    inflated : ndarray of shape (n_vertices, 3), float32, optional
        Coordinates to draw it with.
    sphere : ndarray of shape (n_vertices, 3), float32, optional
        Coordinates on a sphere about the origin.
    """

    coordinates: NDArray[np.float32]
    triangles: NDArray[np.int32]
    hemisphere: NDArray[np.int8]
    kind: str
    inflated: NDArray[np.float32] | None = None
    sphere: NDArray[np.float32] | None = None


Check = Callable[[str, NDArray[np.float32], NDArray[np.int32]], None]
"""Takes what a mesh is called, its points and its triangles; raises InputError."""


def read_surfaces(
    files: Sequence[Path],
    inflated: Sequence[Path] = (),
    spheres: Sequence[Path] = (),
    *,
    check: Check,
) -> MeshFiles:
    """Read both hemispheres.

    Parameters
    ----------
    files : sequence of Path
        Left, right: the mesh that distances are measured on.
    inflated : sequence of Path
        Left, right: the same mesh with the coordinates to draw it with, if there is one.
    spheres : sequence of Path
        Left, right: the same mesh on a sphere, if there is one.
    check : callable
        Tells whether a hemisphere is one closed, connected surface
        (:func:`trend_dagster.science.surface.check_hemisphere`).

    Returns
    -------
    MeshFiles
        Checked.

    Raises
    ------
    InputError
        If a file cannot be read; if its mesh is not one closed, connected surface; if a hemisphere
        is in the other's place, or there twice; or if the inflated mesh or the sphere is another
        one, or no sphere.
    """
    left, right = (_read(path) for path in files)
    for path, mesh in zip(files, (left, right), strict=True):
        check(f"surface file {path}", mesh.points, mesh.triangles)
        _check_size(path, mesh.points)
    _check_sides(files, (left, right))
    n = len(left.points)
    surface = MeshFiles(
        coordinates=np.concatenate([left.points, right.points]),
        triangles=np.concatenate([left.triangles, right.triangles + np.int32(n)]),
        hemisphere=np.repeat(np.array([0, 1], dtype=np.int8), [n, len(right.points)]),
        kind=left.kind if left.kind == right.kind else "anatomical",
    )
    if inflated:
        drawn = _shapes(inflated, (left, right), "inflated", "inputs.inflated")
        if np.array_equal(drawn[0], drawn[1]):
            raise _twice(inflated, "inputs.inflated")
        surface = replace(surface, inflated=np.concatenate(drawn))
    if spheres:  # those of a symmetric mesh may be the same
        round_ones = _shapes(spheres, (left, right), "sphere", "inputs.spheres")
        for path, points, mesh in zip(spheres, round_ones, (left, right), strict=True):
            _check_sphere(path, points, mesh.triangles)
        surface = replace(surface, sphere=np.concatenate(round_ones))
    return surface


def _shapes(
    paths: Sequence[Path], meshes: Sequence[_Hemisphere], what: str, setting: str
) -> list[NDArray[np.float32]]:
    return [
        _same_mesh(path, side, mesh, what, setting)
        for path, side, mesh in zip(paths, SIDES, meshes, strict=True)
    ]


def count_vertices(path: Path) -> int:
    """Vertices of the mesh in a file.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    return len(_read(path).points)


def _read(path: Path) -> _Hemisphere:
    return _read_gifti(path) if ".gii" in path.suffixes else _read_freesurfer(path)


def _read_gifti(path: Path) -> _Hemisphere:
    what = "GIFTI surface (.surf.gii)"
    image = load_image(path, what)
    with reading(path, what):
        points = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
        triangles = image.get_arrays_from_intent("NIFTI_INTENT_TRIANGLE")
    if len(points) != 1 or len(triangles) != 1:
        raise InputError(
            f"surface file {path}",
            expected="one array of coordinates and one of triangles",
            found=f"{len(points)} and {len(triangles)}",
            remedy="Name the mesh itself (.surf.gii), not data on it.",
        )
    arrays = [np.asarray(each.data) for each in (points[0], triangles[0])]
    wrong = [str(each.shape) for each in arrays if each.ndim != 2 or each.shape[1] != 3]
    if wrong:
        raise InputError(
            f"surface file {path}",
            expected="coordinates of shape (vertices, 3) and triangles of shape (triangles, 3)",
            found=f"shape {', '.join(wrong)}",
            remedy="Write it again with a row for each vertex and each triangle.",
        )
    meta = {**image.meta, **points[0].meta}
    return _Hemisphere(
        arrays[0].astype(np.float32),
        arrays[1].astype(np.int32),
        frozenset(told_by_header(image)),
        _KIND.get(str(meta.get("AnatomicalStructureSecondary"))) or _kind_in_name(path),
    )


def _read_freesurfer(path: Path) -> _Hemisphere:
    from nibabel.freesurfer.io import read_geometry

    with reading(path, "GIFTI surface (.surf.gii) or FreeSurfer geometry (lh.midthickness)"):
        points, triangles = read_geometry(path)  # type: ignore[no-untyped-call]
    return _Hemisphere(
        points.astype(np.float32), triangles.astype(np.int32), frozenset(), _kind_in_name(path)
    )


def _kind_in_name(path: Path) -> str:
    return next((kind for kind in _KIND.values() if kind in path.name.lower()), "anatomical")


def _check_size(path: Path, points: NDArray[np.float32]) -> None:
    size = float(np.ptp(points, axis=0).max())
    if not SIZE_MM[0] <= size <= SIZE_MM[1]:
        raise InputError(
            f"surface file {path}",
            expected=f"coordinates in mm: a hemisphere is {SIZE_MM[0]:g} to {SIZE_MM[1]:g} mm long",
            found=f"{size:.3g}: metres, centimetres or micrometres, or a sphere of radius 1",
            remedy="Scale the coordinates to mm (wb_command -surface-apply-affine).",
        )


def _check_sides(files: Sequence[Path], meshes: Sequence[_Hemisphere]) -> None:
    remedy = _LEFT_FIRST.format("inputs.surfaces")
    for path, mesh, wanted in zip(files, meshes, SIDES, strict=True):
        check_side("surface file", path, wanted, remedy, header=mesh.sides)
    left, right = meshes
    if left.points.shape == right.points.shape and (left.points == right.points).all():
        raise _twice(files, "inputs.surfaces")
    # In the head, left is where x is smaller; spheres and inflated ones lie about one origin.
    beyond = float(left.points[:, 0].mean() - right.points[:, 0].mean())
    if beyond > _APART:
        told = any(m.sides or hemisphere_of(p.name)[0] for p, m in zip(files, meshes, strict=True))
        raise InputError(
            f"surface file {files[0]}",
            expected="the left hemisphere",
            found=f"one that lies {beyond:.0f} mm to the right of the other"
            + (", whatever name and header say" if told else ""),
            remedy=f"{remedy} Where the files themselves are exchanged, rename them; where x grows "
            "to the left in them, turn them (wb_command -surface-apply-affine).",
        )


def _twice(files: Sequence[Path], setting: str) -> InputError:
    return InputError(
        f"surface files {files[0]} and {files[1]}",
        expected="the left and the right hemisphere",
        found="the same mesh twice",
        remedy=f"Name the file of each hemisphere in trend.yaml ({setting}).",
    )


def _same_mesh(
    path: Path, side: Side, mesh: _Hemisphere, what: str, setting: str
) -> NDArray[np.float32]:
    """Coordinates of another shape of the same mesh."""
    found = _read(path)
    remedy = _LEFT_FIRST.format(setting)
    check_side(f"{what} surface file", path, side, remedy, header=found.sides)
    if not (np.array_equal(found.triangles, mesh.triangles) and np.isfinite(found.points).all()):
        raise InputError(
            f"{what} surface file {path}",
            expected=f"the triangles of the surface itself, {len(mesh.triangles)} between "
            f"{len(mesh.points)} vertices, and finite coordinates",
            found=f"{len(found.triangles)} between {len(found.points)} vertices, or others",
            remedy=f"Name the {what} surface of the same mesh, or take {setting} out.",
        )
    return found.points


def _check_sphere(path: Path, points: NDArray[np.float32], triangles: NDArray[np.int32]) -> None:
    radius = np.linalg.norm(points, axis=1)
    if radius.max() > _ROUND * radius.min():
        raise InputError(
            f"sphere surface file {path}",
            expected="points on a sphere about the origin",
            found=f"points {radius.min():.1f} to {radius.max():.1f} from it",
            remedy="Name the spherical surface (lh.sphere, ...sphere.surf.gii) in trend.yaml "
            "(inputs.spheres).",
        )
    a, b, c = (points[triangles[:, i]].astype(np.float64) for i in range(3))
    area = float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2)
    covered = area / (4 * np.pi * float(radius.max()) ** 2)
    if covered > _COVERED:
        raise InputError(
            f"sphere surface file {path}",
            expected="the same mesh on a sphere, whose triangles cover it once",
            found=f"triangles that cover it {covered:.1f} times: vertices in another order",
            remedy="Name the sphere of this mesh and subject in trend.yaml (inputs.spheres).",
        )


def read_cortex_mask(
    files: Sequence[Path], n_rows: int, n_vertices: Mapping[Side, int]
) -> NDArray[np.bool_]:
    """Read where there is cortex; elsewhere is the medial wall.

    Parameters
    ----------
    files : sequence of Path
        One for both hemispheres: a .npy with a number for each row, or a CIFTI-2 file, whose brain
        models tell. Or two, left and right: .npy, GIFTI data (.shape.gii, .label.gii, .func.gii),
        or FreeSurfer's list of vertices (lh.cortex.label).
    n_rows : int
        Vertices of both hemispheres.
    n_vertices : mapping of str to int
        Vertices of each hemisphere (``L``, ``R``); empty where that is not known.

    Returns
    -------
    ndarray of shape (n_rows,), bool
        True where a file has a finite number other than 0 (in a file of labels: one that is not
        named medial wall or unknown), a brain model, or a listed vertex.

    Raises
    ------
    InputError
        If a file cannot be read, has another number of vertices, or holds no cortex.
    """
    if len(files) == 1 and files[0].name.endswith(".nii"):
        parts = [_mask_of_cifti(files[0])]
    elif len(files) == 1:
        parts = [_mask_of(files[0], None, None)]
    else:
        check_order("cortex mask", files, "inputs.cortex_mask")
        parts = [
            _mask_of(path, n_vertices.get(side), side)
            for path, side in zip(files, SIDES, strict=True)
        ]
        for path, side, part in zip(files, SIDES, parts, strict=True):
            _check_length(path, len(part), n_vertices.get(side, len(part)))
    mask = np.concatenate(parts)
    _check_length(files[-1], len(mask), n_rows, "both hemispheres")
    if not mask.any():
        raise InputError(
            f"cortex mask {files[0]}",
            expected="numbers other than 0 where there is cortex",
            found="none",
            remedy="Turn the mask around: 1 on cortex, 0 on the medial wall.",
        )
    return mask


def _mask_of(path: Path, n_vertices: int | None, side: Side | None) -> NDArray[np.bool_]:
    from nibabel.freesurfer.io import read_label

    if path.suffix == ".npy":
        from trend_dagster.storage.arrays import read_mask

        return read_mask(path)
    if path.suffix == ".gii":
        image = load_image(path, "GIFTI file")
        with reading(path, "GIFTI file"):
            values = read_map(path, image, n_vertices, "cortex mask")
        if side is not None:
            remedy = _LEFT_FIRST.format("inputs.cortex_mask")
            check_side("cortex mask", path, side, remedy, header=told_by_header(image))
        names = {each.key: getattr(each, "label", "") for each in image.labeltable.labels}
        return _not_zero(values) & has_label(values, names)
    if path.suffix != ".label":
        raise InputError(
            f"cortex mask {path}",
            expected="a .npy, .shape.gii, .label.gii, .func.gii, .label or CIFTI-2 file",
            found=f"the ending {path.suffix!r}",
            remedy="Convert it, for instance with wb_command -file-convert or mris_convert.",
        )
    with reading(path, "FreeSurfer label file"):
        with path.open(encoding="latin-1") as file:
            n_listed = int(file.read().splitlines()[1])  # below the comment
        with warnings.catch_warnings(action="ignore"):  # of none
            listed = np.atleast_1d(read_label(path))  # type: ignore[no-untyped-call]
        if len(listed) != n_listed:
            raise ValueError(f"{len(listed)} vertices, where its second line says {n_listed}")
    odd = listed.min() if listed.min(initial=0) < 0 else listed.max(initial=0)
    if n_vertices is None or not 0 <= odd < n_vertices:
        raise InputError(
            f"cortex mask {path}",
            expected="a list of vertices of a hemisphere whose size the BOLD or inputs.surface "
            "tells" + ("" if n_vertices is None else f": {n_vertices} vertices"),
            found="a size that nothing tells" if n_vertices is None else f"vertex {odd}",
            remedy="Give the mask of the mesh that the BOLD lies on, or one with a number for each "
            "vertex (.npy, .shape.gii).",
        )
    return np.isin(np.arange(n_vertices), listed)


def _mask_of_cifti(path: Path) -> NDArray[np.bool_]:
    from nibabel.cifti2.cifti2_axes import BrainModelAxis

    image = load_cifti(path)
    with reading(path, "CIFTI-2 file"):
        axes = [image.header.get_axis(i) for i in range(image.ndim)]
    models = [m for axis in axes if isinstance(axis, BrainModelAxis) for m in cortex_models(axis)]
    if [side for side, *_ in models] != list(SIDES):
        raise InputError(
            f"cortex mask {path}",
            expected="brain models of the left and the right cortex",
            found=", ".join(side for side, *_ in models) or "none",
            remedy="Name a dense file of both hemispheres (.dscalar.nii, .dtseries.nii).",
        )
    inside = _inside(path, image, axes)
    return np.concatenate(
        [np.isin(np.arange(n), vertices[inside[places]]) for _, places, vertices, n in models]
    )


def _inside(path: Path, image: Any, axes: Sequence[Any]) -> NDArray[np.bool_]:
    """Grayordinates that a map counts as cortex; where there is no map, or an empty one, all."""
    from nibabel.cifti2.cifti2_axes import LabelAxis, ScalarAxis

    everywhere = np.ones(image.shape[-1], dtype=bool)
    if not isinstance(axes[0], LabelAxis | ScalarAxis) or image.shape[0] != 1:
        return everywhere
    with reading(path, "CIFTI-2 file"):
        values = np.asarray(image.dataobj)[0]
    inside = _not_zero(values)
    if isinstance(axes[0], LabelAxis):
        names = {key: name for key, (name, _) in axes[0].label[0].items()}
        inside &= has_label(values, names)
    return inside if inside.any() else everywhere


def _not_zero(values: NDArray[Any]) -> NDArray[np.bool_]:
    return np.asarray(np.isfinite(values) & (values != 0))


def _check_length(path: Path, found: int, expected: int, of: str = "the hemisphere") -> None:
    if found != expected:
        raise InputError(
            f"cortex mask {path}",
            expected=f"{expected} vertices of {of}, as the BOLD has",
            found=str(found),
            remedy="Take the mask of the mesh that the BOLD lies on.",
        )
