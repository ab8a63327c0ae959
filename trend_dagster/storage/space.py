"""What the rows of a run are: the vertices of two hemispheres, or voxels of a volume.

Rows are all vertices of the left mesh, then all of the right one, whatever the file left out; so
surfaces, label files and maps fit row by row. What the file did not hold (outside CIFTI brain
models) is told by ``in_data`` and has no signal.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import CohortError

Source = Literal["npy", "gifti", "freesurfer", "cifti", "nifti"]
Side = Literal["L", "R"]

DENSITY = {2562: "3k", 10242: "10k", 32492: "32k", 40962: "41k", 59292: "59k", 163842: "164k"}
"""What densities are called, by the vertices of a hemisphere."""


@dataclass(frozen=True, eq=False)
class VertexSpace:
    """The space that the rows of a run lie in.

    Attributes
    ----------
    source : str
        Format of the files: ``npy``, ``gifti``, ``freesurfer``, ``cifti`` or ``nifti``.
    n_vertices : mapping of str to int
        Vertices of the full mesh of each hemisphere (``L``, ``R``), in the order of the rows;
        empty for volumes, and for .npy files, which do not tell.
    in_data : ndarray of shape (n_rows,), bool, optional
        Vertices that the file holds (its brain models); None if it holds all.
    volume_shape : tuple of int, optional
        Shape of the volume that the rows are voxels of.
    affine : ndarray of shape (4, 4), optional
        From voxels to mm.
    voxels : ndarray of shape (n_rows,), int64, optional
        Place of each row in the volume, counted in C order.
    """

    source: Source
    n_vertices: Mapping[Side, int]
    in_data: NDArray[np.bool_] | None = None
    volume_shape: tuple[int, ...] | None = None
    affine: NDArray[np.float64] | None = None
    voxels: NDArray[np.int64] | None = None

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What of it is stored as arrays beside the signal."""
        found = {"in_data": self.in_data, "voxels": self.voxels}
        return {name: array for name, array in found.items() if array is not None}

    def facts(self) -> dict[str, Any]:
        """What of it is stored as JSON, with a digest of the arrays."""
        digest = hashlib.sha256()
        for array in self.arrays().values():
            digest.update(array.tobytes())
        facts: dict[str, Any] = {"source": self.source, "n_vertices": dict(self.n_vertices)}
        if self.volume_shape is not None and self.affine is not None:
            facts |= {"volume_shape": list(self.volume_shape), "affine": self.affine.tolist()}
        return facts | {"rows": digest.hexdigest()[:16]}

    @classmethod
    def from_stored(
        cls, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> VertexSpace:
        """Make it again from what `bold` stores: its fact ``space`` and its arrays."""
        shape = facts.get("volume_shape")
        return cls(
            source=facts["source"],
            n_vertices=facts["n_vertices"],
            in_data=arrays.get("in_data"),
            volume_shape=None if shape is None else tuple(shape),
            affine=None if shape is None else np.array(facts["affine"]),
            voxels=arrays.get("voxels"),
        )


@dataclass(frozen=True, eq=False)
class Subcortex:
    """Voxels of a CIFTI file outside the cortex.

    Attributes
    ----------
    voxels : ndarray of shape (n_voxels, 3), int64
        Place of each in the volume.
    structures : ndarray of shape (n_voxels,), str
        What each is part of, as CIFTI names it.
    volume_shape : tuple of int
        Shape of the volume.
    affine : ndarray of shape (4, 4)
        From voxels to mm.
    """

    voxels: NDArray[np.int64]
    structures: NDArray[np.str_]
    volume_shape: tuple[int, ...]
    affine: NDArray[np.float64]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """What of it is stored as arrays."""
        named = self.facts()["structures"]
        return {
            "voxels": self.voxels,
            "structure": np.searchsorted(named, self.structures).astype(np.int64),
        }

    def facts(self) -> dict[str, Any]:
        """What of it is stored as JSON."""
        return {
            "structures": np.unique(self.structures).tolist(),
            "volume_shape": list(self.volume_shape),
            "affine": self.affine.tolist(),
        }

    @classmethod
    def from_stored(cls, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Subcortex:
        """Make it again from what `subcortical_networks` stores."""
        return cls(
            arrays["voxels"],
            np.array(facts["structures"])[arrays["structure"]],
            tuple(facts["volume_shape"]),
            np.array(facts["affine"]),
        )


def same_voxels(found: Mapping[str, Subcortex]) -> Subcortex:
    """Make sure that all runs hold the same voxels.

    Raises
    ------
    CohortError
        If they differ; names the first run that differs from the first one.
    """
    first, wanted = next(iter(found.items()))
    for run, each in found.items():
        if not (
            np.array_equal(each.voxels, wanted.voxels)
            and np.array_equal(each.structures, wanted.structures)
            and np.allclose(each.affine, wanted.affine)
        ):
            raise CohortError(
                f"BOLD run {run}",
                expected=f"the same voxels outside the cortex as {first}",
                found=f"{len(each.voxels)} voxels, others than the {len(wanted.voxels)} there",
                remedy="Bring all runs to one template with `wb_command "
                "-cifti-create-dense-from-template`, or turn parcellation_images.subcortex off.",
            )
    return wanted


def check_same_space(told: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Make sure that the rows of all runs are the same vertices or voxels.

    Parameters
    ----------
    told : mapping of str to mapping or None
        The fact ``space`` of each run; None where it is not known (embeddings that a user brought).

    Raises
    ------
    CohortError
        If they differ; names the first run that differs from the first one.
    """
    # .npy files do not say what they hold; the others must agree with each other.
    spaces = {r: s for r, s in told.items() if s is not None and s["source"] != "npy"}
    if not spaces:
        return
    first, wanted = next(iter(spaces.items()))
    for run, space in spaces.items():
        # Files of different formats may lie on one mesh.
        differ = [
            name
            for name in ("n_vertices", "rows", "volume_shape", "affine")
            if space.get(name) != wanted.get(name)
            and (name != "rows" or space["source"] == wanted["source"])
        ]
        if differ:
            raise CohortError(
                f"BOLD run {run}",
                expected=f"the same vertices or voxels as {first}",
                found=f"other {', '.join(differ)} (brain models or mask)",
                remedy="Bring all runs to one template with `wb_command "
                "-cifti-create-dense-from-template` (volumes: name one mask for "
                "all, inputs.volume_mask), or take the run out.",
            )
