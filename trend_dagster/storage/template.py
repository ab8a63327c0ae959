"""What maps are written on: grayordinates of CIFTI, vertices of meshes, or voxels.

The files that the BOLD came from tell it (``storage.space``); for .npy files, which do not, an
image that the user names does.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.label_images import CIFTI_STRUCTURE
from trend_dagster.storage.runs import load_image, reading
from trend_dagster.storage.space import Side, VertexSpace

if TYPE_CHECKING:
    from nibabel.cifti2.cifti2 import Cifti2Image
    from nibabel.cifti2.cifti2_axes import BrainModelAxis


Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True)
class Grayordinates:
    """Vertices of the cortex as CIFTI lists them: the left hemisphere's, then the right one's.

    Parameters
    ----------
    brain_models : BrainModelAxis
        What each grayordinate is; cortex only.
    rows : ndarray of shape (n_grayordinates,)
        Row of the BOLD that each is.
    n_rows : int
        Rows of the BOLD; those that are no grayordinate have no signal.
    dense : bool
        Whether the BOLD was CIFTI, so that maps are wanted as such.
    """

    brain_models: BrainModelAxis
    rows: NDArray[np.intp]
    n_rows: int
    dense: bool = True

    def __len__(self) -> int:
        return self.n_rows

    @property
    def hemisphere(self) -> NDArray[np.int8]:
        """0 for rows of the left hemisphere, 1 for the right one's."""
        found = np.zeros(self.n_rows, dtype=np.int8)
        found[self.rows] = self.brain_models.name == CIFTI_STRUCTURE["R"]
        return found

    @property
    def n_mesh(self) -> int:
        """Vertices of both meshes, those without a grayordinate among them."""
        return sum(int(self.brain_models.nvertices.get(s, 0)) for s in CIFTI_STRUCTURE.values())

    @property
    def vertices(self) -> NDArray[np.intp]:
        """Vertex of each grayordinate, those of the right mesh counted after the left one's."""
        right = self.brain_models.name == CIFTI_STRUCTURE["R"]
        n_left = int(self.brain_models.nvertices.get(CIFTI_STRUCTURE["L"], 0))
        return np.asarray(self.brain_models.vertex + np.where(right, n_left, 0), dtype=np.intp)

    def on_mesh(self, keys: NDArray[Number], side: Side) -> NDArray[Number] | None:
        """Lay the keys or other numbers of one hemisphere out over all vertices of its mesh.

        Parameters
        ----------
        keys : ndarray of shape (n_rows,)
            One per row.
        side : {"L", "R"}
            Hemisphere.

        Returns
        -------
        ndarray of shape (n_vertices_of_the_mesh,) or None
            0 where there is no row (the medial wall); None without that hemisphere.
        """
        own = self.brain_models.name == CIFTI_STRUCTURE[side]
        if not own.any():
            return None
        laid_out = np.zeros(self.brain_models.nvertices[CIFTI_STRUCTURE[side]], dtype=keys.dtype)
        laid_out[self.brain_models.vertex[own]] = keys[self.rows[own]]
        return laid_out


@dataclass(frozen=True)
class Voxels:
    """Voxels of a mask, in C order.

    Parameters
    ----------
    affine : ndarray of shape (4, 4)
        From voxels to mm.
    mask : ndarray of shape (x, y, z), bool
        The voxels.
    """

    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.mask.sum())


Target = Grayordinates | Voxels


def read_template(path: Path) -> Target:
    """Read from an image what the rows of the BOLD are.

    Parameters
    ----------
    path : Path
        A CIFTI-2 file with dense brain models (``.dtseries.nii``, ``.dscalar.nii``,
        ``.dlabel.nii``): its cortical ones, in its order; subcortex is left out. Or a NIfTI mask:
        the voxels that are not 0.

    Returns
    -------
    Grayordinates or Voxels
        One entry per row.

    Raises
    ------
    InputError
        If it is neither.
    """
    from nibabel.cifti2.cifti2 import Cifti2Image

    what = "CIFTI-2 file or NIfTI mask"
    try:
        image = load_image(path, what)
        shape = getattr(image, "shape", ())  # GIFTI has none
        is_cifti = isinstance(image, Cifti2Image)
        with reading(path, what):
            mask = np.asarray(image.dataobj) > 0 if len(shape) == 3 else np.zeros(1, dtype=bool)
    except InputError as error:
        found = error.found if path.is_file() else "no such file"
        raise _not_a_template(path, found) from error
    if is_cifti:
        return _grayordinates(path, image)
    if mask.any():
        return Voxels(np.asarray(image.affine, dtype=np.float64), mask)
    raise _not_a_template(path, f"a {type(image).__name__} of shape {shape}")


def target_of(space: VertexSpace) -> Target | None:
    """What maps are written on for BOLD of a space; None where the files do not tell (.npy)."""
    from nibabel.cifti2.cifti2_axes import BrainModelAxis

    if space.volume_shape is not None and space.voxels is not None and space.affine is not None:
        mask = np.zeros(space.volume_shape, dtype=bool)
        mask.flat[space.voxels] = True
        return Voxels(space.affine, mask)
    if not space.n_vertices:
        return None
    n_rows = sum(space.n_vertices.values())
    held = np.ones(n_rows, dtype=bool) if space.in_data is None else space.in_data
    axes, start = [], 0
    for side, n in space.n_vertices.items():
        inside = np.flatnonzero(held[start : start + n])
        axes.append(BrainModelAxis.from_surface(inside, n, CIFTI_STRUCTURE[side]))
        start += n
    brain_models = functools.reduce(operator.add, axes)
    return Grayordinates(brain_models, np.flatnonzero(held), n_rows, space.source == "cifti")


def _grayordinates(path: Path, image: Cifti2Image) -> Grayordinates:
    from nibabel.cifti2.cifti2_axes import BrainModelAxis

    axes = [image.header.get_axis(i) for i in range(image.ndim)]
    dense = [axis for axis in axes if isinstance(axis, BrainModelAxis)]
    if not dense:
        raise _not_a_template(path, "a CIFTI file without dense brain models")
    cortex = np.isin(dense[-1].name, list(CIFTI_STRUCTURE.values()))
    if not cortex.any():
        raise _not_a_template(path, "a CIFTI file without cortex")
    n = int(cortex.sum())
    return Grayordinates(dense[-1][cortex], np.arange(n), n)


def _not_a_template(path: Path, found: str) -> InputError:
    return InputError(
        f"template {path}",
        expected="a CIFTI-2 file with cortical brain models, or a 3-D NIfTI mask",
        found=found,
        remedy="Name the file that the BOLD was taken from in trend.yaml (inputs.template). "
        "`wb_command -file-convert -cifti-version-convert OLD 2 NEW` makes CIFTI-2 of CIFTI-1.",
    )
