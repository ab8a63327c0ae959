"""The chosen parcellations as a BIDS derivatives data set, and as XCP-D takes an atlas.

Names and metadata: the BIDS specification, "Templates and atlases" and "Segmentations". What the
files hold is written by ``delivery.maps``; here it gets the names that BIDS has for it.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.maps import (
    VoxelLabels,
    cohort_networks,
    counted,
    map_files,
    voxels_of,
)
from trend_dagster.errors import InputError, SettingsError
from trend_dagster.files import replace_file
from trend_dagster.project.tables import Parcellations
from trend_dagster.project.target import MapSpace
from trend_dagster.science.surface import Surface
from trend_dagster.storage.label_images import Network, label_columns
from trend_dagster.storage.space import DENSITY
from trend_dagster.storage.stores import Version
from trend_dagster.storage.template import Grayordinates, Target, Voxels

BIDS_VERSION = "1.11.1"
ATLAS = "TReND"

COLUMNS = {
    "homologue": "Index of the mirror image in the other hemisphere; n/a for none",
    "n_vertices": "Vertices (or voxels) that carry the network",
    "hemisphere": "Where the network lies: L, R, or LR for both",
}
_OVERLAP_COLUMNS = {
    "": "Network of the atlas {} that it overlaps best",
    "_dice": "Dice coefficient with that network of {}, in its own hemispheres",
    "_p_spin": "Share of parcellations turned on the sphere that overlap {} as well",
}


@dataclass(frozen=True)
class Place:
    """What the maps lie on, as BIDS names it.

    Parameters
    ----------
    template : str
        Label of the template: ``fsaverage``, ``fsLR``.
    cohort : str, optional
        Its cohort.
    """

    template: str
    cohort: str | None = None

    @property
    def entities(self) -> str:
        """How names of files of the template begin."""
        return f"tpl-{self.template}" + (f"_cohort-{self.cohort}" if self.cohort else "")

    @property
    def space(self) -> str:
        """What names of a subject's files say of it."""
        return f"space-{self.template}" + (f"+{self.cohort}" if self.cohort else "")

    @property
    def folder(self) -> str:
        """Folder of the template."""
        return f"tpl-{self.template}" + (f"/cohort-{self.cohort}" if self.cohort else "")


def place_of(surface: str | None, entities: Iterable[Mapping[str, str]]) -> Place:
    """Tell the template from the settings, or from what the names of the runs say.

    Parameters
    ----------
    surface : str, optional
        The setting ``inputs.surface``.
    entities : iterable of mapping
        Entities of the names of the runs.
    """
    named = next((each for each in entities if "space" in each), {})
    space = surface or named.get("space", "custom")
    template = re.sub(r"^(fsaverage)\d$", r"\1", space)
    return Place(re.sub(r"[^A-Za-z0-9+]", "", template), named.get("cohort"))


@dataclass(frozen=True)
class Person:
    """A newborn's own maps.

    Parameters
    ----------
    label : str
        Its label: ``01``.
    labels : ndarray of shape (n_parcellations, n_vertices)
        Network of each vertex, -1 without signal.
    """

    label: str
    labels: NDArray[np.integer]


@dataclass(frozen=True)
class Chosen:
    """What a data set is made of.

    Parameters
    ----------
    name : str
        Of the project.
    place : Place
        What the maps lie on.
    labels : ndarray of shape (n_parcellations, n_vertices)
        The cohort's.
    n_clusters : list of int
        Of each.
    networks : list of list of Network
        The label table of each.
    surface : Surface, optional
        The mesh.
    target : Grayordinates or Voxels, optional
        What the rows are.
    voxels : list of VoxelLabels or None
        Of each, the networks of voxels outside the cortex, if they are known.
    persons : list of Person
        Newborns that have maps of their own.
    note : str
        The user's sentence about the data; empty if there is none.
    """

    name: str
    place: Place
    labels: NDArray[np.integer]
    n_clusters: list[int]
    networks: list[list[Network]]
    surface: Surface | None
    target: Target | None
    voxels: list[VoxelLabels | None]
    persons: list[Person]
    note: str = ""


def export_bids(chosen: Chosen, folder: Path) -> Iterator[Path]:
    """Write a derivatives data set.

    Parameters
    ----------
    chosen : Chosen
        What it is made of.
    folder : Path
        Where to; made if need be. Files of these names are replaced, others left alone.

    Yields
    ------
    Path
        Each file; ``dataset_description.json`` last, when all others are there.

    Raises
    ------
    SettingsError
        If another data set lies in the folder.
    InputError
        If two newborns would have one label.
    """
    _check_ours(folder)
    yield from _write(folder, bids_files(chosen))


def bids_files(chosen: Chosen) -> dict[str, bytes]:
    """Files of a derivatives data set, by path."""
    twice = [label for label, n in Counter(p.label for p in chosen.persons).items() if n > 1]
    if twice:
        raise InputError(
            f"subjects of {chosen.name}",
            expected="names that differ in letters and digits, which is all that BIDS allows",
            found=f"several that become sub-{twice[0]}",
            remedy="Rename the runs (sub-01_...), or export without newborns.",
        )
    place, files = chosen.place, {"README.md": _readme(chosen).encode()}
    description = {
        "Name": ATLAS,
        "Description": "Functional networks of one cohort, found by the TReND method.",
        "Authors": ["The authors of the data set"],
        "License": "As the data that it was made from",
    }
    files[f"atlas-{ATLAS}_description.json"] = _json(description)
    for i, (n, networks) in enumerate(zip(chosen.n_clusters, chosen.networks, strict=True)):
        stem = f"{place.folder}/{place.entities}"
        files |= _one(chosen, stem, n, chosen.labels[i], networks, chosen.voxels[i])
        for person in chosen.persons:
            stem = f"sub-{person.label}/anat/sub-{person.label}_{place.space}"
            # The newborn's own vertices, in the cohort's names and colours.
            own = counted(networks, person.labels[i])
            files |= _one(chosen, stem, n, person.labels[i], own)
    return files | {"dataset_description.json": _json(_description(chosen, "derivative"))}


def _one(
    chosen: Chosen,
    stem: str,
    n_clusters: int,
    labels: NDArray[np.integer],
    networks: list[Network],
    voxels: VoxelLabels | None = None,
) -> dict[str, bytes]:
    """One parcellation: images, and beside them the table and the metadata of all."""
    seg = f"atlas-{ATLAS}_seg-{n_clusters}networks"
    folder, _, entities = stem.rpartition("/")
    title = f"{n_clusters} networks"
    written = map_files("x", title, labels, networks, chosen.surface, chosen.target, voxels)
    density = _density(chosen)
    den = f"_den-{next(iter(density))}" if density else ""
    # Entities in the order that BIDS has: hemi before space.
    subject, _, space = entities.partition("_")
    names = {
        f"x.{side}.label.gii": f"{_joined(subject, space, side)}_{seg}{den}_dseg.label.gii"
        for side in "LR"
    }
    names |= {
        "x.dlabel.nii": f"{entities}_{seg}{den}_dseg.dlabel.nii",
        "x.nii.gz": f"{entities}_{seg}_dseg.nii.gz",
    }
    files = {new: written[old] for old, new in names.items() if old in written}
    files[f"{entities}_{seg}_dseg.tsv"] = written["x.tsv"]
    files[f"{entities}_{seg}_dseg.json"] = _json(_metadata(chosen, n_clusters, networks, density))
    return {f"{folder}/{name}": content for name, content in files.items()}


def _joined(subject: str, space: str, side: str) -> str:
    hemi = f"hemi-{side}"
    if space.startswith("cohort-"):  # of a template: tpl-X_cohort-1_hemi-L
        return f"{subject}_{space}_{hemi}"
    return "_".join(part for part in (subject, hemi, space) if part)


def _density(chosen: Chosen) -> dict[str, str]:
    """Density of the mesh, as names have it, in words; empty for volumes."""
    if isinstance(chosen.target, Voxels):
        return {}
    if isinstance(chosen.target, Grayordinates):
        n = max(int(v) for v in chosen.target.brain_models.nvertices.values())
    elif chosen.surface is not None:
        n = int((chosen.surface.hemisphere == 0).sum())
    else:
        return {}
    return {DENSITY.get(n, str(n)): f"{n} vertices in each hemisphere"}


def _metadata(
    chosen: Chosen, n_clusters: int, networks: list[Network], density: Mapping[str, str]
) -> dict[str, Any]:
    columns = dict(COLUMNS)
    for overlap in networks[0].overlaps if networks else ():
        for ending, text in _OVERLAP_COLUMNS.items():
            columns[overlap.atlas + ending] = text.format(overlap.atlas)
    found: dict[str, Any] = {
        "Description": f"{n_clusters} functional networks; 0 where there is no signal.",
        "SpatialReference": chosen.place.template,
        **{name: {"Description": text} for name, text in columns.items()},
    }
    return found | ({"Density": dict(density)} if density else {"Resolution": "As the BOLD"})


def _description(chosen: Chosen, kind: str) -> dict[str, Any]:
    version = version_of("trend_dagster")
    return {
        "Name": f"{chosen.name}: functional networks",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": kind,
        "GeneratedBy": [{"Name": "trend_dagster", "Version": version}],
    }


def _readme(chosen: Chosen) -> str:
    numbers = ", ".join(map(str, chosen.n_clusters))
    persons = f", and the maps of {len(chosen.persons)} newborns" if chosen.persons else ""
    note = f"\n**{chosen.note}**\n" if chosen.note else ""
    return f"""\
# Functional networks of {chosen.name}
{note}
Parcellations into {numbers} networks{persons}, found in resting-state BOLD by the TReND method
(Mohapatra, Ouyang and Huang, MICCAI 2025, arXiv 2503.02685) with trend_dagster
{version_of("trend_dagster")}, on the template {chosen.place.template}.

`{chosen.place.folder}` holds the cohort's parcellations (`seg-14networks` has 14 networks),
`sub-*` those of single newborns in the cohort's names and colours. In every image 0 is where there
is no signal, and the number of a network is its `index` in the table of the same name.
"""


XCPD_VOLUMES = ("MNI152NLin6Asym", "MNI152NLin2009cAsym", "MNIInfant")
"""Templates on which XCP-D looks for atlases of volumes; those of CIFTI are on fsLR, 32k."""


def export_xcpd(chosen: Chosen, folder: Path) -> Iterator[Path]:
    """Write the parcellations in the way that XCP-D takes an atlas, one folder for each.

    Parameters
    ----------
    chosen : Chosen
        The parcellations, of CIFTI runs on fsLR or of volumes on a template of XCP-D's.
    folder : Path
        Where to.

    Yields
    ------
    Path
        Each file.

    Raises
    ------
    SettingsError
        If another data set lies in the folder, or XCP-D would not find the maps.
    """
    _check_ours(folder)
    files: dict[str, bytes] = {}
    ending, space = _place_for_xcpd(chosen)
    for n, labels, networks, voxels in zip(
        chosen.n_clusters, chosen.labels, chosen.networks, chosen.voxels, strict=True
    ):
        written = map_files("x", f"{n} networks", labels, networks, None, chosen.target, voxels)
        stem = f"atlas-{ATLAS}{n}/atlas-{ATLAS}{n}"
        files[f"{stem}_{space}_dseg.{ending}"] = written[f"x.{ending}"]
        metadata = _json(_metadata(chosen, n, networks, _density(chosen)))
        files[f"{stem}_{space}_dseg.json"] = metadata
        table = label_columns(networks)
        for column in ("label", "cifti_label"):  # what XCP-D's versions name parcels by
            table.insert(1, column, table["name"])
        files[f"{stem}_dseg.tsv"] = table.to_csv(
            sep="\t", index=False, lineterminator="\n"
        ).encode()
    files["dataset_description.json"] = _json(_description(chosen, "atlas"))
    yield from _write(folder, files)


def _place_for_xcpd(chosen: Chosen) -> tuple[str, str]:
    """Ending and entities of the images that XCP-D looks for."""
    place, target, density = chosen.place, chosen.target, list(_density(chosen))
    if isinstance(target, Voxels) and place.template in XCPD_VOLUMES:
        cohort = f"_cohort-{place.cohort}" if place.cohort else ""
        return "nii.gz", f"space-{place.template}{cohort}"
    if isinstance(target, Grayordinates) and target.dense:
        if place.template == "fsLR" and density == ["32k"]:
            return "dlabel.nii", "space-fsLR_den-32k"
        found = f"grayordinates of {place.template}, {density[0]}"
    else:
        what = "volumes" if isinstance(target, Voxels) else "surfaces"
        found = f"{what} on {place.template}, which are no dense labels"
    raise SettingsError(
        "export for XCP-D",
        expected=f"maps of CIFTI runs on fsLR (32k), or of volumes on {', '.join(XCPD_VOLUMES)}",
        found=found,
        remedy="Name the runs with the space that they are in (space-fsLR), resample the maps "
        "(wb_command -label-resample, -cifti-create-label), or name the CIFTI file that the BOLD "
        "was taken from (inputs.template).",
    )


def chosen_of(
    name: str,
    place: Place,
    selected: Parcellations,
    space: MapSpace,
    overlap: Version | None = None,
    subcortical: Version | None = None,
    individuals: Mapping[str, Version] | None = None,
) -> Chosen:
    """Put together what a data set is made of; networks are named as on the maps.

    Parameters
    ----------
    name : str
        Of the project.
    place : Place
        What the maps lie on.
    selected : Parcellations
        The chosen parcellations.
    space : MapSpace
        What the maps are written on.
    overlap, subcortical : Version, optional
        Overlap with atlases, and networks of the voxels outside the cortex.
    individuals : mapping of str to Version, optional
        Own maps of newborns, by subject; those of other parcellations are left out.
    """
    labels, n_clusters = space.all_labels(selected.labels), selected.n_clusters
    persons = [
        Person(
            re.sub(r"[^A-Za-z0-9+]", "", subject.removeprefix("sub-")),
            space.all_labels(own.read("labels")),
        )
        for subject, own in (individuals or {}).items()
        if own.read("n_clusters").tolist() == n_clusters
    ]
    return Chosen(
        name,
        place,
        labels,
        n_clusters,
        cohort_networks(selected, space, overlap),
        space.surface,
        space.target,
        [None if subcortical is None else voxels_of(subcortical, i) for i in range(len(labels))],
        persons,
    )


def _write(folder: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    for name, content in files.items():
        replace_file(folder / name, content)
        yield folder / name


def _check_ours(folder: Path) -> None:
    file = folder / "dataset_description.json"
    if file.is_file() and '"trend_dagster"' not in file.read_text(
        encoding="utf-8", errors="replace"
    ):
        raise SettingsError(
            f"folder {folder}",
            expected="an empty folder, or a data set of this platform",
            found="another data set (its dataset_description.json names other software)",
            remedy="Name another folder.",
        )


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
