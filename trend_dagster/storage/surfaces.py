"""Read the surface that a user brings: a mesh per hemisphere, and where on it there is cortex.

GIFTI (``.surf.gii``) and FreeSurfer's geometry (``lh.midthickness``, ``rh.pial``) are read through
nibabel. A file says which hemisphere it is in its header or its name; what it says is compared with
its place in the settings.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.runs import cortex_models, load_cifti, reading
from trend_dagster.storage.space import Side

SIDES: tuple[Side, Side] = ("L", "R")
WORD: Mapping[Side, str] = {"L": "left", "R": "right"}

_SIDE_IN_NAME = re.compile(
    r"(?:^|[._-])(?:(?P<L>hemi-L|lh|L|left)|(?P<R>hemi-R|rh|R|right))(?=[._-]|$)"
)
_STRUCTURE: Mapping[str, Side] = {"CortexLeft": "L", "CortexRight": "R"}
_KIND = {"MidThickness": "midthickness", "Pial": "pial", "GrayWhite": "white"}  # of GIFTI
_APART = 10.0  # mm between the centres of hemispheres that share a coordinate system


@dataclass(frozen=True)
class _Hemisphere:
    points: NDArray[np.float32]
    triangles: NDArray[np.int32]
    side: Side | None
    told_by: str
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
    """

    coordinates: NDArray[np.float32]
    triangles: NDArray[np.int32]
    hemisphere: NDArray[np.int8]
    kind: str
    inflated: NDArray[np.float32] | None = None


Check = Callable[[str, NDArray[np.float32], NDArray[np.int32]], None]
"""Takes what a mesh is called, its points and its triangles; raises InputError."""


def read_surfaces(
    files: Sequence[Path], inflated: Sequence[Path] = (), *, check: Check
) -> MeshFiles:
    """Read both hemispheres.

    Parameters
    ----------
    files : sequence of Path
        Left, right: the mesh that distances are measured on.
    inflated : sequence of Path
        Left, right: the same mesh with the coordinates to draw it with, if there is one.
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
        is in the other's place, or there twice; or if the inflated mesh is another one.
    """
    left, right = (_read(path) for path in files)
    for path, mesh in zip(files, (left, right), strict=True):
        check(f"surface file {path}", mesh.points, mesh.triangles)
    _check_sides(files, (left, right))
    n = len(left.points)
    surface = MeshFiles(
        coordinates=np.concatenate([left.points, right.points]),
        triangles=np.concatenate([left.triangles, right.triangles + np.int32(n)]),
        hemisphere=np.repeat(np.array([0, 1], dtype=np.int8), [n, len(right.points)]),
        kind=left.kind if left.kind == right.kind else "anatomical",
    )
    if not inflated:
        return surface
    drawn = [_same_mesh(path, mesh) for path, mesh in zip(inflated, (left, right), strict=True)]
    return replace(surface, inflated=np.concatenate(drawn))


def _read(path: Path) -> _Hemisphere:
    mesh = _read_gifti(path) if ".gii" in path.suffixes else _read_freesurfer(path)
    if mesh.side is not None:
        return mesh
    match = _SIDE_IN_NAME.search(path.name)
    side: Side | None = None if match is None else "L" if match["L"] else "R"
    return replace(mesh, side=side, told_by="its name")


def _read_gifti(path: Path) -> _Hemisphere:
    import nibabel as nib

    what = "GIFTI surface (.surf.gii)"
    with reading(path, what):
        image: Any = nib.load(path)
        points = image.get_arrays_from_intent("NIFTI_INTENT_POINTSET")
        triangles = image.get_arrays_from_intent("NIFTI_INTENT_TRIANGLE")
    if len(points) != 1 or len(triangles) != 1:
        raise InputError(
            f"surface file {path}",
            expected="one array of coordinates and one of triangles",
            found=f"{len(points)} and {len(triangles)}",
            remedy="Name the mesh itself (.surf.gii), not data on it.",
        )
    meta = {**image.meta, **points[0].meta}
    side = _STRUCTURE.get(str(meta.get("AnatomicalStructurePrimary")))
    with reading(path, what):
        return _Hemisphere(
            np.asarray(points[0].data, dtype=np.float32).reshape(-1, 3),
            np.asarray(triangles[0].data, dtype=np.int32).reshape(-1, 3),
            side,
            "its header",
            _KIND.get(str(meta.get("AnatomicalStructureSecondary"))) or _kind_in_name(path),
        )


def _read_freesurfer(path: Path) -> _Hemisphere:
    from nibabel.freesurfer.io import read_geometry

    with reading(path, "GIFTI surface (.surf.gii) or FreeSurfer geometry (lh.midthickness)"):
        points, triangles = read_geometry(path)  # type: ignore[no-untyped-call]
    return _Hemisphere(
        points.astype(np.float32), triangles.astype(np.int32), None, "", _kind_in_name(path)
    )


def _kind_in_name(path: Path) -> str:
    return next((kind for kind in _KIND.values() if kind in path.name.lower()), "anatomical")


def _check_sides(files: Sequence[Path], meshes: Sequence[_Hemisphere]) -> None:
    for path, mesh, wanted in zip(files, meshes, SIDES, strict=True):
        if mesh.side not in (None, wanted):
            found = f"the {WORD['R' if wanted == 'L' else 'L']} one ({mesh.told_by} says so)"
            raise _swapped(path, wanted, found)
    left, right = meshes
    same = left.points.shape == right.points.shape and (left.points == right.points).all()
    if same:
        raise InputError(
            f"surface files {files[0]} and {files[1]}",
            expected="the left and the right hemisphere",
            found="the same mesh twice",
            remedy="Name the file of each hemisphere in trend.yaml (inputs.surfaces).",
        )
    # In the head, left is where x is smaller; spheres and inflated ones lie about one origin.
    beyond = float(left.points[:, 0].mean() - right.points[:, 0].mean())
    if left.side is None and right.side is None and beyond > _APART:
        raise _swapped(files[0], "L", f"one that lies {beyond:.0f} mm to the right of the other")


def _swapped(path: Path, wanted: Side, found: str) -> InputError:
    return InputError(
        f"surface file {path}",
        expected=f"the {WORD[wanted]} hemisphere",
        found=found,
        remedy="Name the left one first, then the right one (inputs.surfaces in trend.yaml).",
    )


def _same_mesh(path: Path, mesh: _Hemisphere) -> NDArray[np.float32]:
    """Coordinates of another shape of the same mesh."""
    found = _read(path)
    if not (np.array_equal(found.triangles, mesh.triangles) and np.isfinite(found.points).all()):
        raise InputError(
            f"inflated surface file {path}",
            expected=f"the triangles of the surface itself, {len(mesh.triangles)} between "
            f"{len(mesh.points)} vertices, and finite coordinates",
            found=f"{len(found.triangles)} between {len(found.points)} vertices, or others",
            remedy="Name the inflated surface of the same mesh, or take inputs.inflated out.",
        )
    return found.points


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
        True where a file has a finite number other than 0, a brain model, or a listed vertex.

    Raises
    ------
    InputError
        If a file cannot be read, has another number of vertices, or holds no cortex.
    """
    if len(files) == 1 and files[0].name.endswith(".nii"):
        parts = [_mask_of_cifti(files[0])]
    elif len(files) == 1:
        parts = [_mask_of(files[0], None)]
    else:
        parts = [
            _mask_of(path, n_vertices.get(side)) for path, side in zip(files, SIDES, strict=True)
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


def _mask_of(path: Path, n_vertices: int | None) -> NDArray[np.bool_]:
    import nibabel as nib
    from nibabel.freesurfer.io import read_label

    if path.suffix == ".npy":
        from trend_dagster.storage.arrays import read_mask

        return read_mask(path)
    if path.suffix == ".gii":
        with reading(path, "GIFTI file"):
            image: Any = nib.load(path)
            values = np.asarray(image.darrays[0].data)
        return _not_zero(path, values)
    if path.suffix != ".label":
        raise InputError(
            f"cortex mask {path}",
            expected="a .npy, .shape.gii, .label.gii, .func.gii, .label or CIFTI-2 file",
            found=f"the ending {path.suffix!r}",
            remedy="Convert it, for instance with wb_command -file-convert or mris_convert.",
        )
    with reading(path, "FreeSurfer label file"):
        listed = np.atleast_1d(read_label(path))  # type: ignore[no-untyped-call]
    if n_vertices is None or listed.max(initial=0) >= n_vertices:
        raise InputError(
            f"cortex mask {path}",
            expected="a list of vertices of a hemisphere whose size the BOLD or inputs.surface "
            "tells" + ("" if n_vertices is None else f": {n_vertices} vertices"),
            found="a size that nothing tells" if n_vertices is None else f"vertex {listed.max()}",
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
    return np.concatenate([np.isin(np.arange(n), vertices) for _, _, vertices, n in models])


def _not_zero(path: Path, values: NDArray[Any]) -> NDArray[np.bool_]:
    if values.ndim != 1:
        raise InputError(
            f"cortex mask {path}",
            expected="one number for each vertex",
            found=f"shape {values.shape}",
            remedy="Save one vector.",
        )
    return np.asarray(np.isfinite(values) & (values != 0))


def _check_length(path: Path, found: int, expected: int, of: str = "the hemisphere") -> None:
    if found != expected:
        raise InputError(
            f"cortex mask {path}",
            expected=f"{expected} vertices of {of}, as the BOLD has",
            found=str(found),
            remedy="Take the mask of the mesh that the BOLD lies on.",
        )
