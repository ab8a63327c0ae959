"""Write parcellations as the files that other programs open.

Every format stores the same keys: 0 where there is no signal, ``cluster + 1`` elsewhere. Names and
colours travel inside the file, in the way of its format. What is written reads back equal.
"""

from __future__ import annotations

import gzip
import itertools
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trend_dagster.errors import StoreError
from trend_dagster.storage.space import Side, Subcortex

if TYPE_CHECKING:
    import pandas as pd
    from nibabel.cifti2.cifti2_axes import BrainModelAxis
    from nibabel.gifti.gifti import GiftiLabelTable

NO_SIGNAL_KEY = 0
NO_SIGNAL_NAME = "???"  # what Workbench calls a vertex without a label
# FreeSurfer has no transparent label; its own colour for "unknown" is this one.
FREESURFER_UNKNOWN = ("unknown", (25, 5, 25))

STRUCTURE: Mapping[Side, str] = {"L": "CortexLeft", "R": "CortexRight"}
CIFTI_STRUCTURE: Mapping[Side, str] = {
    "L": "CIFTI_STRUCTURE_CORTEX_LEFT",
    "R": "CIFTI_STRUCTURE_CORTEX_RIGHT",
}
FREESURFER_SIDE: Mapping[Side, str] = {"L": "lh", "R": "rh"}

WORKBENCH_EXTENSION = 30  # NIfTI's code for Workbench's XML


@dataclass(frozen=True)
class Overlap:
    """The network of an atlas that a network is most like.

    Parameters
    ----------
    atlas : str
        Name of the atlas.
    name : str
        Name of its network; empty where none overlaps.
    dice : float
        Dice coefficient, in the hemispheres that the network lies in.
    p : float
        Of so much overlap by chance; NaN where that is not known.
    """

    atlas: str
    name: str
    dice: float
    p: float


@dataclass(frozen=True)
class Network:
    """One row of a label table.

    Parameters
    ----------
    key : int
        The number in the files, from 1.
    name : str
        Its name.
    rgb : tuple of int
        Its colour, 0 to 255 each; no two networks of a table may share one.
    hemisphere : str
        ``L``, ``R``, ``LR`` if it lies in both, empty where that is not known.
    homologue : int, optional
        Key of its mirror image in the other hemisphere.
    n_vertices : int
        Vertices (or voxels) that carry it.
    overlaps : tuple of Overlap
        What it is most like in each atlas that it was compared with.
    """

    key: int
    name: str
    rgb: tuple[int, int, int]
    hemisphere: str = ""
    homologue: int | None = None
    n_vertices: int = 0
    overlaps: tuple[Overlap, ...] = ()

    @property
    def colour(self) -> str:
        """Colour as pages and tables write it, for instance ``#ff0010``."""
        return "#{:02x}{:02x}{:02x}".format(*self.rgb)


Networks = Sequence[Network]


def keys_of(labels: NDArray[np.integer]) -> NDArray[np.int32]:
    """Numbers that stand in the files for a label vector.

    Parameters
    ----------
    labels : ndarray of shape (n_vertices,)
        Cluster of each vertex from 0, -1 without signal.

    Returns
    -------
    ndarray of shape (n_vertices,), int32
        Cluster + 1; 0 without signal.
    """
    return np.asarray(np.maximum(labels, -1) + 1, dtype=np.int32)


def unique_rgb(colours: Iterable[ArrayLike]) -> list[tuple[int, int, int]]:
    """Round colours to bytes so that no two are equal: FreeSurfer tells labels by their colour.

    Parameters
    ----------
    colours : iterable of (red, green, blue)
        From 0 to 1.

    Returns
    -------
    list of tuple of int
        0 to 255; a colour that was taken already is moved by the least step that is free.
    """
    taken = {(0, 0, 0), FREESURFER_UNKNOWN[1]}  # FreeSurfer reads black as "no label"
    found = []
    for colour in colours:
        wanted = np.clip(np.rint(np.asarray(colour, dtype=float) * 255), 0, 255).astype(int)
        free = next(rgb for step in range(256) for rgb in _around(wanted, step) if rgb not in taken)
        taken.add(free)
        found.append(free)
    return found


def _around(rgb: NDArray[Any], step: int) -> Iterable[tuple[int, int, int]]:
    """Colours that differ by the step in one channel, and by no more in the others."""
    for offset in itertools.product(range(-step, step + 1), repeat=3):
        red, green, blue = moved = (rgb + offset).tolist()
        if max(map(abs, offset)) == step and min(moved) >= 0 and max(moved) <= 255:
            yield red, green, blue


# Surfaces


def gifti_surface(
    coordinates: NDArray[np.floating],
    triangles: NDArray[np.integer],
    side: Side,
    kind: str,
) -> bytes:
    """Write one hemisphere of a mesh as ``.surf.gii``.

    Parameters
    ----------
    coordinates : ndarray of shape (n_vertices, 3)
        In mm.
    triangles : ndarray of shape (n_triangles, 3)
        Vertices of each triangle, numbered within the hemisphere.
    side : {"L", "R"}
        Hemisphere.
    kind : {"MidThickness", "Pial", "GrayWhite", "Anatomical", "Inflated", "Sphere"}
        What the coordinates are.

    Returns
    -------
    bytes
        The file.
    """
    from nibabel.gifti import gifti

    drawn = {"Inflated": "Inflated", "Sphere": "Spherical"}
    meta = {"AnatomicalStructurePrimary": STRUCTURE[side]}
    meta["GeometricType"] = drawn.get(kind, "Anatomical")
    if kind in {"MidThickness", "Pial", "GrayWhite"}:
        meta["AnatomicalStructureSecondary"] = kind
    points = _array(coordinates, np.float32, "NIFTI_INTENT_POINTSET", meta)
    faces = _array(triangles, np.int32, "NIFTI_INTENT_TRIANGLE", {})
    return bytes(gifti.GiftiImage(darrays=[points, faces]).to_bytes())


def _array(values: ArrayLike, dtype: Any, intent: str, meta: Mapping[str, str]) -> Any:
    from nibabel.gifti import gifti

    values = np.ascontiguousarray(values, dtype=dtype)
    return gifti.GiftiDataArray(values, intent=intent, meta=gifti.GiftiMetaData(meta))


def gifti_labels(keys: NDArray[np.integer], networks: Networks, side: Side, map_name: str) -> bytes:
    """Write one hemisphere of a parcellation as ``.label.gii``.

    Parameters
    ----------
    keys : ndarray of shape (n_vertices_of_the_hemisphere,)
        Key of each vertex of the mesh, 0 for none.
    networks : sequence of Network
        The label table.
    side : {"L", "R"}
        Hemisphere.
    map_name : str
        Name of the map.

    Returns
    -------
    bytes
        The file.
    """
    from nibabel.gifti import gifti

    table = _label_table(keys, networks)
    array = _array(keys, np.int32, "NIFTI_INTENT_LABEL", {"Name": map_name})
    meta = gifti.GiftiMetaData({"AnatomicalStructurePrimary": STRUCTURE[side]})
    return bytes(gifti.GiftiImage(darrays=[array], labeltable=table, meta=meta).to_bytes())


def annot(keys: NDArray[np.integer], networks: Networks) -> bytes:
    """Write one hemisphere of a parcellation as FreeSurfer's ``.annot``.

    Parameters
    ----------
    keys : ndarray of shape (n_vertices_of_the_hemisphere,)
        Key of each vertex of the mesh, 0 for none.
    networks : sequence of Network
        The label table; keys from 1 without a gap, since the row in the file is the key.

    Returns
    -------
    bytes
        The file. Row 0 of its table is FreeSurfer's "unknown".
    """
    from nibabel.freesurfer.io import write_annot

    _label_table(keys, networks)
    rows = {NO_SIGNAL_KEY: FREESURFER_UNKNOWN}
    rows |= {network.key: (network.name, network.rgb) for network in networks}
    if sorted(rows) != list(range(len(rows))) or len({rgb for _, rgb in rows.values()}) < len(rows):
        raise _mistake("keys 0, 1, 2, ... and a colour for each", f"{len(rows)} rows")
    table = np.array([[*rows[key][1], 0] for key in sorted(rows)], dtype=np.int64)
    with tempfile.TemporaryDirectory() as folder:  # nibabel writes this format to a path only
        path = Path(folder) / "labels.annot"
        write_annot(path, np.asarray(keys), table, [rows[key][0] for key in sorted(rows)])
        return path.read_bytes()


# Grayordinates and volumes


def cifti_labels(
    keys: NDArray[np.integer],
    networks: Networks,
    brain_models: BrainModelAxis,
    map_name: str,
) -> bytes:
    """Write a parcellation as ``.dlabel.nii`` over given brain models.

    Parameters
    ----------
    keys : ndarray of shape (n_grayordinates,)
        Key of each grayordinate, in the order of the brain models; 0 for none.
    networks : sequence of Network
        The label table.
    brain_models : BrainModelAxis
        What each grayordinate is.
    map_name : str
        Name of the map.

    Returns
    -------
    bytes
        The file.
    """
    from nibabel.cifti2.cifti2 import Cifti2Image
    from nibabel.cifti2.cifti2_axes import LabelAxis

    labels = _label_table(keys, networks).labels
    table = {label.key: (label.label, label.rgba) for label in labels}
    maps = LabelAxis([map_name], [table])
    image = Cifti2Image(np.asarray(keys, dtype=np.int32)[None], (maps, brain_models))
    image.update_headers()
    image.nifti_header.set_intent("NIFTI_INTENT_CONNECTIVITY_DENSE_LABELS")
    return bytes(image.to_bytes())


def nifti_labels(
    keys: NDArray[np.integer],
    networks: Networks,
    affine: NDArray[np.floating],
    mask: NDArray[np.bool_],
    map_name: str,
) -> bytes:
    """Write a parcellation of voxels as ``.nii.gz``, with Workbench's label table inside.

    Parameters
    ----------
    keys : ndarray of shape (n_voxels_in_the_mask,)
        Key of each voxel of the mask, in C order; 0 for none.
    networks : sequence of Network
        The label table.
    affine : ndarray of shape (4, 4)
        From voxels to mm.
    mask : ndarray of shape (x, y, z), bool
        Voxels that the keys belong to; all others are 0.
    map_name : str
        Name of the map.

    Returns
    -------
    bytes
        The file, compressed.
    """
    import nibabel as nib

    table = _label_table(keys, networks)
    volume = np.zeros(mask.shape, dtype=np.int32)
    volume[mask] = keys
    image = nib.nifti1.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = map_name.encode("ascii", "replace")[:79]
    image.header.extensions.append(
        nib.nifti1.Nifti1Extension(WORKBENCH_EXTENSION, _workbench_xml(table))
    )
    # Not gzip's own time stamp: equal labels, equal bytes.
    return gzip.compress(image.to_bytes(), mtime=0)


def _workbench_xml(table: GiftiLabelTable) -> bytes:
    root = ET.Element("CaretExtension")
    info = ET.SubElement(root, "VolumeInformation", Index="0")
    info.append(ET.fromstring(table.to_xml()))  # Workbench writes it as GIFTI does
    ET.SubElement(info, "VolumeType").text = "Label"
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


# Numbers for each network


def gifti_maps(
    values: NDArray[np.floating], names: Sequence[str], side: Side, intent: str
) -> bytes:
    """Write maps of one hemisphere as ``.func.gii``, an array for each.

    Parameters
    ----------
    values : ndarray of shape (n_vertices_of_the_hemisphere, n_maps)
        Numbers.
    names : sequence of str
        Of the maps.
    side : {"L", "R"}
        Hemisphere.
    intent : str
        What the numbers are, as NIfTI names it.

    Returns
    -------
    bytes
        The file.
    """
    from nibabel.gifti import gifti

    arrays = [
        _array(column, np.float32, intent, {"Name": name})
        for column, name in zip(values.T, names, strict=True)
    ]
    meta = gifti.GiftiMetaData({"AnatomicalStructurePrimary": STRUCTURE[side]})
    return bytes(gifti.GiftiImage(darrays=arrays, meta=meta).to_bytes())


def cifti_maps(
    values: NDArray[np.floating], names: Sequence[str], brain_models: BrainModelAxis
) -> bytes:
    """Write maps as ``.dscalar.nii``; values of shape (n_grayordinates, n_maps)."""
    from nibabel.cifti2.cifti2 import Cifti2Image
    from nibabel.cifti2.cifti2_axes import ScalarAxis

    maps = np.ascontiguousarray(values.T, dtype=np.float32)
    image = Cifti2Image(maps, (ScalarAxis(list(names)), brain_models))
    image.update_headers()
    image.nifti_header.set_intent("NIFTI_INTENT_CONNECTIVITY_DENSE_SCALARS")
    return bytes(image.to_bytes())


def nifti_maps(
    values: NDArray[np.floating], affine: NDArray[np.floating], mask: NDArray[np.bool_]
) -> bytes:
    """Write maps of the voxels of a mask as a 4-D ``.nii.gz``, one after another."""
    import nibabel as nib

    volume = np.zeros((*mask.shape, values.shape[1]), dtype=np.float32)
    volume[mask] = values
    image = nib.nifti1.Nifti1Image(volume, affine)
    image.header.set_xyzt_units("mm")
    return gzip.compress(image.to_bytes(), mtime=0)


def voxel_models(subcortex: Subcortex) -> BrainModelAxis:
    """Brain models of the voxels of a CIFTI file."""
    from nibabel.cifti2.cifti2_axes import BrainModelAxis

    return BrainModelAxis(
        name=subcortex.structures,
        voxel=subcortex.voxels,
        vertex=np.full(len(subcortex.voxels), -1),
        affine=subcortex.affine,
        volume_shape=subcortex.volume_shape,
    )


# Beside the images


def label_columns(networks: Networks) -> pd.DataFrame:
    """Columns of the label table as BIDS names them, then what else is known.

    Parameters
    ----------
    networks : sequence of Network
        The label table.

    Returns
    -------
    DataFrame
        One row per network; "n/a" for what is not known. See the BIDS specification,
        "Segmentations".
    """
    import pandas as pd

    rows = [
        (n.key, n.name, n.colour, n.hemisphere or "n/a", n.homologue or "n/a", n.n_vertices)
        for n in networks
    ]
    columns = ["index", "name", "color", "hemisphere", "homologue", "n_vertices"]
    table = pd.DataFrame(rows, columns=columns)
    for i, first in enumerate(networks[0].overlaps if networks else ()):
        beside = [network.overlaps[i] for network in networks]
        table[first.atlas] = [each.name or "n/a" for each in beside]
        table[f"{first.atlas}_dice"] = [round(each.dice, 3) for each in beside]
        table[f"{first.atlas}_p_spin"] = [
            "n/a" if np.isnan(each.p) else round(each.p, 4) for each in beside
        ]
    return table


def label_tsv(networks: Networks) -> bytes:
    """Write the columns of the label table, separated by tabs."""
    return label_columns(networks).to_csv(sep="\t", index=False, lineterminator="\n").encode()


def spec_file(files: Iterable[tuple[str, str]]) -> bytes:
    """Write a Workbench ``.spec``: `wb_view` with it opens surfaces and labels together.

    Parameters
    ----------
    files : iterable of (str, str)
        Name relative to the spec file, and the side ("L", "R") it belongs to, or "" for both.

    Returns
    -------
    bytes
        The file; every data file is selected.
    """
    root = ET.Element("CaretSpecFile", Version="1.0")
    ET.SubElement(root, "MetaData")
    structures = {str(side): name for side, name in STRUCTURE.items()} | {"": "Invalid"}
    for name, side in files:
        kind = next((kind for ending, kind in _SPEC_KINDS.items() if name.endswith(ending)), None)
        if kind is None:
            continue
        ET.SubElement(
            root, "DataFile", Structure=structures[side], DataFileType=kind, Selected="true"
        ).text = name
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


_SPEC_KINDS = {
    ".surf.gii": "SURFACE",
    ".label.gii": "LABEL",
    ".func.gii": "METRIC",
    ".dscalar.nii": "CONNECTIVITY_DENSE_SCALAR",
    ".dlabel.nii": "CONNECTIVITY_DENSE_LABEL",
    ".nii.gz": "VOLUME",
}


def _label_table(keys: NDArray[np.integer], networks: Networks) -> GiftiLabelTable:
    """The label table as GIFTI has it; every key must have its row."""
    from nibabel.gifti.gifti import GiftiLabel, GiftiLabelTable

    rows = [(NO_SIGNAL_KEY, NO_SIGNAL_NAME, (255, 255, 255), 0.0)]
    rows += [(network.key, network.name, network.rgb, 1.0) for network in networks]
    table = GiftiLabelTable()
    for key, name, (red, green, blue), alpha in rows:
        label: Any = GiftiLabel(key, red / 255, green / 255, blue / 255, alpha)
        label.label = name
        table.labels.append(label)
    known = {label.key for label in table.labels}
    if unknown := sorted(set(np.unique(keys).tolist()) - known):
        raise _mistake("a row in the label table for every key", f"none for {unknown[:5]}")
    return table


def _mistake(expected: str, found: str) -> StoreError:
    return StoreError(
        "label image",
        expected=expected,
        found=found,
        remedy="This is a mistake in the caller: mend it there.",
    )
