"""The project's mesh: the one place that knows where it comes from and who needs it.

What belongs here: which files the settings name, reading what the asset ``cortex`` holds, and what
the mesh adds to a correlation. What does not: reading files (``storage``) and the mathematics
(``science``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.project.folder import Project
from trend_dagster.project.fsaverage import FSAVERAGE, load_fsaverage
from trend_dagster.science.connectivity.encoding import Encoding
from trend_dagster.science.resampling import Resampling, coarser
from trend_dagster.science.surface import Surface, check_hemisphere
from trend_dagster.storage.label_files import LabelFile
from trend_dagster.storage.space import Side
from trend_dagster.storage.stores import Version
from trend_dagster.storage.surfaces import count_vertices, read_cortex_mask, read_surfaces

SIDES = ("left", "right")


# Where it comes from


def mesh_files(project: Project) -> dict[str, Path]:
    """Files of the mesh that the settings name, by what they are."""
    inputs = project.settings.inputs
    named = {"surface": inputs.surfaces, "inflated": inputs.inflated, "sphere": inputs.spheres}
    return {
        f"{what} {side}": project.folder / name
        for what, names in named.items()
        for side, name in zip(SIDES, names, strict=False)
    }


def mesh_names(project: Project) -> tuple[str, ...]:
    """What the settings call the mesh: its name or its files; empty if they name none."""
    inputs = project.settings.inputs
    return tuple(inputs.surfaces) if inputs.surface is None else (inputs.surface,)


def read_mesh(project: Project) -> Surface | None:
    """Read the mesh that is worked on: the one named, or a coarser one; None if none is named.

    Raises
    ------
    InputError
        If its files cannot be used.
    """
    way = resampling_of(project)
    return read_named_mesh(project) if way is None else way.surface


def needed_mesh(project: Project, what_for: str) -> Surface:
    """Read the mesh that is worked on, where it takes one.

    Raises
    ------
    InputError
        If the settings name none.
    """
    surface = read_mesh(project)
    if surface is None:
        raise InputError(
            f"project {project.folder}",
            expected=f"inputs.surface, {what_for}",
            found="none",
            remedy="Name it in trend.yaml.",
        )
    return surface


def read_named_mesh(project: Project) -> Surface | None:
    """Read the mesh that the settings name: that of the files; None if they name none.

    Raises
    ------
    InputError
        If its files cannot be used.
    """
    inputs = project.settings.inputs
    if inputs.surface is not None:
        return load_fsaverage(FSAVERAGE[inputs.surface])
    if not inputs.surfaces:
        return None
    shapes = ([project.folder / name for name in names]
              for names in (inputs.surfaces, inputs.inflated, inputs.spheres))  # fmt: skip
    return Surface(**vars(read_surfaces(*shapes, check=check_hemisphere)))


_FREQUENCY = {"3k": 16, "10k": 32}  # of icospheres with 2562 and 10242 vertices


def resampling_of(project: Project) -> Resampling | None:
    """Make the way from the mesh of the files to the one worked on; None if they are the same.

    Raises
    ------
    InputError
        If the mesh cannot be used, has no spheres, or is no finer than what is asked for.
    """
    inputs = project.settings.inputs
    if inputs.resample is None:
        return None
    stamps = tuple((path, _stamp(path)) for path in mesh_files(project).values())
    return _resampling(project, inputs.model_dump_json(), stamps)


def _stamp(path: Path) -> int | None:
    with suppress(OSError):  # said where it is read
        return path.stat().st_mtime_ns
    return None


class _Once:
    """The last way that was made: it takes seconds, and every run asks for it."""

    made: tuple[object, Resampling] | None = None


def _resampling(project: Project, *made_from: object) -> Resampling:
    if _Once.made is None or _Once.made[0] != made_from:
        fine = read_named_mesh(project)
        assert fine is not None  # the settings say so
        way = coarser(fine, _FREQUENCY[str(project.settings.inputs.resample)])
        _Once.made = (made_from, way)
    return _Once.made[1]


def mesh_sizes(project: Project) -> dict[Side, int] | None:
    """Vertices of each hemisphere of the mesh that the settings name; None if they name none."""
    with suppress(InputError):  # said once, where the mesh itself is read
        return count_mesh(project)
    return None


def count_mesh(project: Project) -> dict[Side, int] | None:
    """Count the vertices of each hemisphere of the mesh that the settings name, if they do.

    Raises
    ------
    InputError
        If its files cannot be read.
    """
    inputs = project.settings.inputs
    if inputs.surface is not None:
        return {"L": FSAVERAGE[inputs.surface], "R": FSAVERAGE[inputs.surface]}
    if not inputs.surfaces:
        return None
    left, right = (count_vertices(project.folder / name) for name in inputs.surfaces)
    return {"L": left, "R": right}


def cortex_mask_files(project: Project) -> dict[str, Path]:
    """Files that say where there is cortex, if the settings name any."""
    names = project.settings.inputs.cortex_mask
    return {f"cortex mask {i}": project.folder / name for i, name in enumerate(names, 1)}


def read_mask(project: Project, n_rows: int, n_vertices: Mapping[Side, int]) -> NDArray[np.bool_]:
    """Read where there is cortex.

    Parameters
    ----------
    project : Project
        Names the files.
    n_rows : int
        Vertices of both hemispheres.
    n_vertices : mapping of str to int
        Vertices of each hemisphere, where the BOLD tells; else the name of the surface may.

    Raises
    ------
    InputError
        If the files cannot be used.
    """
    name = project.settings.inputs.surface
    if not n_vertices and name is not None:
        n_vertices = {"L": FSAVERAGE[name], "R": FSAVERAGE[name]}
    return read_cortex_mask(list(cortex_mask_files(project).values()), n_rows, n_vertices)


def labels_worked_on(
    project: Project, labels: NDArray[np.int64], check: Callable[[NDArray[np.int64], int], None]
) -> NDArray[np.int64]:
    """Labels of the files' vertices as those of the mesh that is worked on.

    Parameters
    ----------
    project : Project
        The project.
    labels : ndarray of shape (n_vertices,)
        One for each vertex of the files.
    check : callable
        Takes the labels and how many there must be, and raises an error of its own words.
    """
    way = resampling_of(project)
    if way is None:
        return labels
    check(labels, way.down.shape[1])
    return way.labels_down(labels)


def check_label_file(file: LabelFile, labels: NDArray[np.int64], n_vertices: int) -> None:
    """Make sure that a geodesic label file lies on the mesh of the BOLD.

    Raises
    ------
    InputError
        If it has another number of vertices.
    """
    encoding = Encoding(labels, name=f"geodesic label file {file.name}")
    encoding.used(np.ones(n_vertices, dtype=bool))


def check_density(
    sizes: Sequence[int],
    names: Sequence[str],
    run: str,
    source: str | None,
    n_vertices: Sequence[int],
    n_rows: int | None,
) -> None:
    """Make sure that a run lies on the mesh.

    Parameters
    ----------
    sizes : sequence of int
        Vertices of the left and the right hemisphere of the mesh.
    names : sequence of str
        What the settings call it.
    run : str
        Key of the run.
    source : str or None
        Format of its files.
    n_vertices : sequence of int
        Vertices of its hemispheres; empty where the files do not tell.
    n_rows : int or None
        Vertices of both; None where that is not known.

    Raises
    ------
    InputError
        If it lies elsewhere.
    """
    if source == "nifti":
        raise InputError(
            f"surface {', '.join(names)}",
            expected="BOLD on this surface",
            found=f"voxels of a volume in BOLD run {run}",
            remedy="Sample the BOLD onto the surface, or leave the surface out of trend.yaml.",
        )
    if n_vertices and list(n_vertices) != list(sizes):
        expected, found = (
            " and ".join(f"{n} {side}" for n, side in zip(counts, SIDES, strict=True))
            for counts in (n_vertices, sizes)
        )
        raise wrong_density(names, expected, found)
    if n_rows is not None and n_rows != sum(sizes):
        raise wrong_density(names, str(n_rows), sum(sizes))


def check_fine_density(names: Sequence[str], run: str, n_rows: int, n_fine: int) -> None:
    """Make sure that a run lies on the mesh that it is brought from (``inputs.resample``).

    Raises
    ------
    InputError
        If it has another number of vertices.
    """
    if n_rows != n_fine:
        raise wrong_density(names, f"{n_rows} (BOLD run {run})", n_fine)


# What is stored of it


def mesh_of(cortex: Version | None, n_vertices: int | None = None) -> Surface | None:
    """Mesh that ``cortex`` holds; None without one.

    Parameters
    ----------
    cortex : Version or None
        What is stored.
    n_vertices : int, optional
        How many vertices the data has.

    Raises
    ------
    InputError
        If the mesh has another number of vertices than the data.
    """
    if cortex is None or cortex.excluded is not None:
        return None
    arrays: dict[str, Any] = {
        name: cortex.read(name) for name in cortex.names() if name != "vertex_area"
    }
    surface = Surface(**arrays, kind=cortex.facts["kind"])
    if n_vertices is not None and surface.n_vertices != n_vertices:
        raise wrong_density(cortex.facts["mesh_files"], str(n_vertices), surface.n_vertices)
    return surface


def surface_of(cortex: Version, n_vertices: int | None = None) -> Surface:
    """Mesh that ``cortex`` holds, where it cannot be missing: what is excluded is no input."""
    surface = mesh_of(cortex, n_vertices)
    assert surface is not None
    return surface


def wrong_density(files: Sequence[str], expected: str, found: object) -> InputError:
    """Error of a mesh that the data does not lie on."""
    return InputError(
        f"surface {', '.join(files)}",
        expected=f"{expected} vertices, as the BOLD has",
        found=str(found),
        remedy="Name the surface that the BOLD was sampled on (inputs.surface or inputs.surfaces), "
        "or leave it out. Where rows are grayordinates of a CIFTI file, which lacks the wall, "
        "leave it out and name that file: inputs.template.",
    )
