"""What the rows of the BOLD are, where an image says so: grayordinates of CIFTI, or voxels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.cifti2.cifti2 import Cifti2Image
from nibabel.cifti2.cifti2_axes import BrainModelAxis
from nibabel.filebasedimages import ImageFileError
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.label_images import CIFTI_STRUCTURE, Side


@dataclass(frozen=True)
class Grayordinates:
    """Vertices of the cortex as CIFTI lists them: the left hemisphere's, then the right one's.

    Parameters
    ----------
    brain_models : BrainModelAxis
        What each row is; cortex only.
    """

    brain_models: BrainModelAxis

    def __len__(self) -> int:
        return len(self.brain_models)

    @property
    def hemisphere(self) -> NDArray[np.int8]:
        """0 for rows of the left hemisphere, 1 for the right one's."""
        return np.asarray(self.brain_models.name == CIFTI_STRUCTURE["R"], dtype=np.int8)

    def on_mesh(self, keys: NDArray[np.integer], side: Side) -> NDArray[np.int32] | None:
        """Lay the keys of one hemisphere out over all vertices of its mesh.

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
        laid_out = np.zeros(self.brain_models.nvertices[CIFTI_STRUCTURE[side]], dtype=np.int32)
        laid_out[self.brain_models.vertex[own]] = keys[own]
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


Space = Grayordinates | Voxels


def read_space(path: Path) -> Space:
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
    try:
        image: Any = nib.load(path)
    except (ImageFileError, OSError, ValueError, EOFError) as error:
        found = str(error) if path.is_file() else "no such file"
        raise _not_a_space(path, found) from error
    if isinstance(image, Cifti2Image):
        return _grayordinates(path, image)
    if len(image.shape) == 3:
        mask = np.asarray(image.dataobj) > 0
        if mask.any():
            return Voxels(np.asarray(image.affine, dtype=np.float64), mask)
    raise _not_a_space(path, f"a {type(image).__name__} of shape {image.shape}")


def _grayordinates(path: Path, image: Cifti2Image) -> Grayordinates:
    axes = [image.header.get_axis(i) for i in range(image.ndim)]
    dense = [axis for axis in axes if isinstance(axis, BrainModelAxis)]
    if not dense:
        raise _not_a_space(path, "a CIFTI file without dense brain models")
    cortex = np.isin(dense[-1].name, list(CIFTI_STRUCTURE.values()))
    if not cortex.any():
        raise _not_a_space(path, "a CIFTI file without cortex")
    return Grayordinates(dense[-1][cortex])


def _not_a_space(path: Path, found: str) -> InputError:
    return InputError(
        f"template {path}",
        expected="a CIFTI-2 file with cortical brain models, or a 3-D NIfTI mask",
        found=found,
        remedy="Name the file that the BOLD was taken from in trend.yaml (inputs.template). "
        "`wb_command -file-convert -cifti-version-convert OLD 2 NEW` makes CIFTI-2 of CIFTI-1.",
    )
