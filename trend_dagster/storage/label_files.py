"""Find and read the label files that users bring: .npy, GIFTI, FreeSurfer annotations, CIFTI.

Rows are all vertices of the left mesh, then all of the right one, as for BOLD (``storage.runs``).
Formats that name their labels can say "none": a vertex that is unknown, or medial wall, carries
:data:`NO_LABEL`. A .npy names nothing, and every value in it is a label.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.storage.arrays import (
    is_companion,
    key_of,
    read_labels,
    read_signed_labels,
)
from trend_dagster.storage.runs import (
    CORTEX,
    check_name,
    cortex_models,
    load_cifti,
    load_image,
    reading,
)
from trend_dagster.storage.sides import (
    SIDES,
    check_side,
    hemisphere_of,
    told_by_header,
    told_by_labels,
    twins,
    without_side,
)
from trend_dagster.storage.space import Side

NO_LABEL = -1
MAX_LABELS = 1000  # as many as the settings may ask for: science.connectivity.settings
LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL

LabelSource = Literal["npy", "gifti", "freesurfer", "cifti"]
SOURCE_OF: Mapping[str, LabelSource] = {
    ".npy": "npy",
    ".label.gii": "gifti",
    ".label.gii.gz": "gifti",
    ".annot": "freesurfer",
    ".dlabel.nii": "cifti",
    ".nii": "cifti",  # dense labels all the same, or else it is refused by what it holds
}
IN_PAIRS = frozenset({"gifti", "freesurfer"})

_LIKE_LABELS = re.compile(
    r"\.(npz|mat|mgh|mgz|nii|gii|dset|label|annot|dlabel|plabel)(\.(gz|bz2|xz|zip))?$",
    re.IGNORECASE,
)

# How Workbench, FreeSurfer and parcellations made for them say that there is no label, once
# everything but letters and digits is gone: "???", "lh.unknown", "MEDIAL.WALL".
_NONE = re.compile(r"unknown$|medialwall|^background|corpuscallosum$|^(none|unassigned)?$")


@dataclass(frozen=True)
class LabelFile:
    """A label for each row: one file, or one for each hemisphere.

    Parameters
    ----------
    key : str
        Partition key: the name without hemisphere and ending.
    files : tuple of Path
        One, or left and right.
    """

    key: str
    files: tuple[Path, ...]

    @property
    def name(self) -> str:
        """Names of its files, for people."""
        return ", ".join(file.name for file in self.files)

    @property
    def source(self) -> LabelSource:
        """Format."""
        return SOURCE_OF[str(_ending(self.files[0]))]

    def named_files(self, what: str) -> dict[str, Path]:
        """Files by what they are, as recipes name them: ``what``, or ``what L`` and ``what R``."""
        names = (what,) if len(self.files) == 1 else (f"{what} L", f"{what} R")
        return dict(zip(names, self.files, strict=True))


@dataclass(frozen=True)
class _Map:
    """One map of a file: a key for each vertex, and what keys are called.

    Parameters
    ----------
    name : str
        Of the map.
    keys : ndarray of shape (n_vertices,), int64
        As in the file; :data:`NO_LABEL` where it has no vertex.
    names : mapping of int to str
        The label table.
    n_left : int
        Vertices of the left hemisphere, where the file has both.
    """

    name: str
    keys: NDArray[np.int64]
    names: Mapping[int, str]
    n_left: int = 0

    def labels(self) -> NDArray[np.int64]:
        """Keys, with :data:`NO_LABEL` where the table says that there is none."""
        none = [k for k in np.unique(self.keys).tolist() if _is_none(k, self.names.get(k))]
        return np.where(np.isin(self.keys, none), NO_LABEL, self.keys)


def _is_none(key: int, name: str | None) -> bool:
    if name is None:  # not in the table: 0 is none by convention, and -1 is FreeSurfer's
        return key <= 0
    return _NONE.search(re.sub(r"[\W_]", "", name.lower())) is not None


def has_label(keys: NDArray[Any], names: Mapping[int, str]) -> NDArray[np.bool_]:
    """Tell where a label file has a label: not where its table says unknown or medial wall."""
    none = [key for key, name in names.items() if _is_none(key, name)]
    return ~np.isin(keys, none)


# Which files there are


def has_label_files(folder: Path) -> bool:
    """Tell whether a folder holds any label file."""
    return folder.is_dir() and any(_ending(path) for path in folder.iterdir())


def unread_label_files(folder: Path) -> dict[str, str]:
    """Files that look like labels and are in no format that is read, by name, with what to do."""
    endings = ", ".join(ending for ending in SOURCE_OF if ending != ".nii")
    return {
        path.name: f"no label file that is read ({endings}): convert or rename it"
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        if _ending(path) is None
        and _LIKE_LABELS.search(path.name)
        and not is_companion(path)
        and path.is_file()
    }


def find_label_files(folder: Path) -> dict[str, LabelFile]:
    """Find the label files of a folder.

    Parameters
    ----------
    folder : Path
        Where to look; folders below it are not searched.

    Returns
    -------
    dict of str to LabelFile
        By key, sorted. Hemispheres are paired by ``hemi-L``/``hemi-R``, ``lh``/``rh`` or
        ``L``/``R`` in the name.

    Raises
    ------
    InputError
        If there are none, if several claim one key, or if a hemisphere is missing.
    """
    endings = ", ".join(ending for ending in SOURCE_OF if ending != ".nii")
    if not folder.is_dir():
        raise InputError(
            f"geodesic label folder {folder}",
            expected=f"a folder with label files ({endings})",
            found="no such folder",
            remedy="Make it and put the files there, or name another one in trend.yaml (inputs).",
        )
    groups: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if _ending(path) is not None:
            groups.setdefault(_key(path), []).append(path)
    if not groups:
        raise InputError(
            f"geodesic label folder {folder}",
            expected=f"at least one label file ({endings})",
            found=f"{sum(1 for _ in folder.iterdir())} entries, none of them one"
            + "".join(f": {name}" for name in list(unread_label_files(folder))[:1]),
            remedy="Put the files there, name another folder in trend.yaml (inputs), or name the "
            "mesh (inputs.surface): then they are cut from it.",
        )
    return {key: _together(key, paths) for key, paths in sorted(groups.items())}


def label_file_at(path: Path) -> LabelFile:
    """Find the label file that a path belongs to: with its other hemisphere, if it has one.

    Parameters
    ----------
    path : Path
        A file, or one of a pair.

    Raises
    ------
    InputError
        If its ending is none of a label file, or if the other hemisphere is missing.
    """
    ending = _ending(path)
    if ending is None:
        raise InputError(
            f"label file {path}",
            expected=f"a name that ends with one of {', '.join(SOURCE_OF)}",
            found=repr(path.name),
            remedy="Convert it, or name another file.",
        )
    if SOURCE_OF[ending] not in IN_PAIRS or not path.is_file():
        return LabelFile(_key(path), (path,))
    same = [p for p in sorted(path.parent.iterdir()) if _ending(p) == ending]
    return _together(_key(path), [p for p in same if _key(p) == _key(path)])


def _ending(path: Path) -> str | None:
    if is_companion(path):
        return None
    return next((ending for ending in SOURCE_OF if path.name.endswith(ending)), None)


def _side(path: Path) -> tuple[Side | None, str]:
    """Hemisphere that a name tells, where its format has one, and the name without both."""
    ending = str(_ending(path))
    stem = path.name.removesuffix(ending)
    return hemisphere_of(stem) if SOURCE_OF[ending] in IN_PAIRS else (None, stem)


def _key(path: Path) -> str:
    if path.suffix == ".npy":
        return key_of(path)
    check_name(path, "label file")
    return key_of(Path(_side(path)[1]))


def _together(key: str, paths: list[Path]) -> LabelFile:
    if len({_ending(path) for path in paths}) == 1:
        by_side = {_side(path)[0]: path for path in paths}
        sides = SIDES if SOURCE_OF[str(_ending(paths[0]))] in IN_PAIRS else (None,)
        if len(paths) == len(by_side) and by_side.keys() == set(sides):
            return LabelFile(key, tuple(by_side[side] for side in sides))
        if len(paths) == 1:
            raise InputError(
                f"label file {paths[0].name!r}",
                expected="two files, one for each hemisphere: hemi-L and hemi-R, lh and rh, or L "
                "and R in their names",
                found="this one alone",
                remedy="Put the other hemisphere's file beside it.",
            )
    first, second, *_ = paths
    raise InputError(
        f"label file {second.name!r}",
        expected="a name of its own after unsafe characters are made '_'",
        found=f"the same key {key!r} as {first.name!r}",
        remedy="Rename one of the two.",
    )


# What they hold


def read_geodesic_labels(file: LabelFile) -> NDArray[np.int64]:
    """Read geodesic labels. No label lies in two hemispheres that have a file each.

    Parameters
    ----------
    file : LabelFile
        Which.

    Returns
    -------
    ndarray of shape (n_rows,), int64
        Label of each vertex; :data:`NO_LABEL` where the file says that there is none.

    Raises
    ------
    InputError
        If the files cannot be read, hold no labels, several maps, or too many labels.
    """
    if file.source == "npy":
        labels = read_labels(file.files[0])
    else:
        labels = _join(_only_map(file), apart=True)
    n_labels = len(np.unique(labels[labels != NO_LABEL]))
    if not 0 < n_labels <= MAX_LABELS:
        raise InputError(
            f"geodesic label file {file.name}",
            expected=f"at least one label and at most {MAX_LABELS:,}",
            found=f"{n_labels:,}",
            remedy="Correlations are kept within a label: with so many nothing is left to find "
            "networks in. A list of vertex numbers or a continuous map is no label file."
            if n_labels
            else "Name a file that labels vertices of the cortex.",
        )
    return labels


def notes_on_labels(file: LabelFile) -> dict[str, list[str]]:
    """Say what is odd about the two files of a pair, as a fact ``notes``; mostly nothing."""
    if len(file.files) != 2:
        return {}
    left, right = (part.keys for part in _only_map(file))
    if not twins(np.concatenate([left, right]), len(left)):
        return {}
    return {
        "notes": [
            f"{file.name} have the same labels vertex by vertex: right for a symmetric atlas, else "
            "one is a copy of the other"
        ]
    }


def read_networks(file: LabelFile) -> NDArray[np.int64]:
    """Read networks to compare with: what has one number and one name is one network.

    Parameters
    ----------
    file : LabelFile
        Which.

    Returns
    -------
    ndarray of shape (n_rows,), int64
        Network of each vertex; -1 where there is none. A number with a name in each hemisphere's
        file is one network if it is the same name, and two if not.

    Raises
    ------
    InputError
        If the files cannot be read, or hold no labels or several maps.
    """
    if file.source == "npy":
        return read_signed_labels(file.files[0])
    return _join(_only_map(file), apart=False)


def read_atlas(file: LabelFile) -> tuple[NDArray[np.int64], list[str]]:
    """Read networks with their names: what has one name is one network, in both hemispheres.

    Parameters
    ----------
    file : LabelFile
        Which.

    Returns
    -------
    networks : ndarray of shape (n_rows,), int64
        Network of each row, from 0; -1 where there is none.
    names : list of str
        Of each network, without its hemisphere where all names of a hemisphere carry it; its
        number where the file names none.

    Raises
    ------
    InputError
        If the files cannot be read, or hold no labels or several maps.
    """
    if file.source == "npy":
        signed = np.maximum(read_signed_labels(file.files[0]), NO_LABEL)
        every = np.unique(signed).tolist()  # each of them names itself, 0 as well
        maps: tuple[_Map, ...] = (
            _Map("", signed, {k: str(k) if k >= 0 else "none" for k in every}),
        )
    else:
        maps = _only_map(file)
    keys = np.concatenate([each.labels() for each in maps])
    n_left = maps[0].n_left if len(maps) == 1 else len(maps[0].keys)
    tables = (maps[0].names, maps[-1].names)
    names: dict[str, int] = {}
    found = []
    for side, own, table in zip(SIDES, np.split(keys, [n_left]), tables, strict=True):
        present = [int(key) for key in np.unique(own) if key != NO_LABEL]
        told = told_by_labels(table.get(key, "") for key in present)
        networks = np.full(len(own), NO_LABEL, dtype=np.int64)
        for key in present:
            name = _on_one_line(table.get(key) or "") or str(key)
            name = without_side(name, side) if told == side else name
            networks[own == key] = names.setdefault(name, len(names))
        found.append(networks)
    if not names:
        raise _bad(file.files[0], "at least one label", "none", "Name a file of networks.")
    return np.concatenate(found), list(names)


def _on_one_line(name: str) -> str:
    """A name without tabs, line breaks and control characters: it stands in tables and pages."""
    return " ".join("".join(c if c.isprintable() else " " for c in name).split())


def _only_map(file: LabelFile) -> tuple[_Map, ...]:
    found = _all_maps(file)
    if len(found) > 1:
        names = ", ".join(repr(maps[0].name) for maps in found[:5])
        raise _bad(
            file.files[0],
            "one map of labels",
            f"{len(found)}: {names}{', ...' if len(found) > 5 else ''}",
            "Write each to a file of its own: wb_command -cifti-merge (or -label-merge) with "
            "-column NAME.",
        )
    return found[0]


def _all_maps(file: LabelFile) -> list[tuple[_Map, ...]]:
    """Maps of a file, each for both hemispheres or in a part for each."""
    if file.source == "cifti":
        return [(each,) for each in _cifti_maps(file.files[0])]
    reader = {"gifti": _gifti_maps, "freesurfer": _annot_maps}[file.source]
    parts = [reader(path, side) for path, side in zip(file.files, SIDES, strict=True)]
    if len({len(maps) for maps in parts}) > 1:
        raise _bad(
            file.files[1],
            f"{len(parts[0])} maps, as {file.files[0].name} has",
            str(len(parts[1])),
            "Export both hemispheres together.",
        )
    return list(zip(*parts, strict=True))


def _join(parts: tuple[_Map, ...], *, apart: bool) -> NDArray[np.int64]:
    """One vector of both hemispheres.

    Numbers that are in both files are counted anew in the second one where they would mean two
    things: all of them, and the others with them, if ``apart``, else those whose names differ.
    """
    first, *others = (part.labels() for part in parts)
    if not others:
        return first
    second = others[0]
    shared = np.setdiff1d(np.intersect1d(first, second), [NO_LABEL]).tolist()
    left, right = (part.names for part in parts)
    lowest = min(0, int(second.min(initial=0, where=second != NO_LABEL)))
    if apart and shared:
        shift = int(first.max()) + 1 - lowest
        second = np.where(second == NO_LABEL, NO_LABEL, second + shift)
    elif two := [key for key in shared if left.get(key) != right.get(key)]:
        shift = max(int(first.max()), int(second.max())) + 1 - lowest
        second = np.where(np.isin(second, two), second + shift, second)
    return np.concatenate([first, second])


# The formats


def _gifti_maps(path: Path, side: Side) -> list[_Map]:
    what = "GIFTI label file (.label.gii)"
    image = load_image(path, what)
    header = told_by_header(image)
    with reading(path, what):
        # Not nibabel's dictionary, which fails for a label with an empty name.
        table = [(each.key, getattr(each, "label", "")) for each in image.labeltable.labels]
        names = dict(table)
        arrays = [(a.meta.get("Name") or "", np.asarray(a.data), a.intent) for a in image.darrays]
    wrong = [i for _, _, i in arrays if i != LABEL_INTENT]
    if not arrays or wrong:
        raise _bad(
            path,
            "arrays of labels (intent NIFTI_INTENT_LABEL)",
            f"{len(wrong)} of {len(arrays)} arrays with another intent" if wrong else "no array",
            "Check what the file is; wb_command -metric-label-import makes labels of numbers.",
        )
    _check_told_apart(path, [(key, name) for key, name in table if name != names[key]], "number")
    maps = [_Map(name, _integers(path, data.ravel()), names) for name, data, _ in arrays]
    for each in maps:
        _check_hemisphere(path, side, each.keys, names, header)
    return maps


def _check_told_apart(path: Path, twice: list[tuple[int, str]], what: str) -> None:
    if twice:
        shown = ", ".join(repr(name) for _, name in twice[:5])
        raise _bad(
            path,
            f"a {what} of its own for each label",
            f"{shown} with the {what} of another label: nobody can tell them apart",
            "Write the table again with a colour and a number for each label.",
        )


def _check_hemisphere(
    path: Path,
    side: Side,
    keys: NDArray[np.int64],
    names: Mapping[int, str],
    header: Iterable[Side] = (),
) -> None:
    """Compare a hemisphere with what the names of the labels in it say: tables may list both."""
    present = {key: names[key] for key in np.unique(keys).tolist() if key in names}
    check_side(
        "label file",
        path,
        side,
        "Rename the file, or mend it: wb_command -set-structure.",
        header=header,
        name=False,
        labels=told_by_labels(n for key, n in present.items() if not _is_none(key, n)),
    )


def _annot_maps(path: Path, side: Side) -> list[_Map]:
    what = "FreeSurfer annotation (.annot)"
    from nibabel.freesurfer import io

    read_annot: Any = io.read_annot  # without annotations
    with reading(path, what):
        try:
            # Not nibabel's rows: a colour that the table lacks would get that of the next one.
            colours, table, names = read_annot(path, orig_ids=True)
        except Exception as error:  # it raises this very class where there is no table
            raise ValueError(str(error)) from error
        vertices = np.fromfile(path, ">i4", 1 + 2 * len(colours))[1::2]
    # Each colour follows its vertex, which nibabel takes to be the next one.
    if not np.array_equal(np.sort(vertices), np.arange(len(colours))):
        raise _bad(
            path,
            f"a colour for each vertex from 0 to {len(colours) - 1}",
            f"{len(np.unique(vertices))} vertices up to {vertices.max(initial=-1)}",
            "Write it again for all vertices with FreeSurfer (mris_label2annot) or nibabel.",
        )
    colours = colours[np.argsort(vertices)]
    rows = np.arange(len(table))
    if len(names) != len(table):  # numbers that the table leaves out are rows of zeros
        rows = np.flatnonzero(table[:, :4].any(axis=1))
    known = {int(table[row, 4]): int(row) for row in reversed(rows)}
    unknown = np.setdiff1d(colours, [*known, 0])
    if len(names) != len(rows) or len(unknown):
        raise _bad(
            path,
            "a colour table with a row for every vertex' colour, and a name for every row",
            f"{len(names)} names of {len(rows)} rows, and {len(unknown)} colours without one",
            "Write it again with FreeSurfer (mris_label2annot) or nibabel.",
        )
    said = {int(r): n.decode("utf-8", "replace") for r, n in zip(rows, names, strict=True)}
    twice = []
    for row, name in said.items():
        colour = int(table[row, 4])
        other = said[known[colour]] if colour else "???"  # colour 0 stands for no label
        if name != other and colour in colours and not (colour == 0 and _is_none(row, name)):
            twice.append((row, name))
    _check_told_apart(path, twice, "colour")
    used, place = np.unique(colours, return_inverse=True)
    # FreeSurfer's colour 0 stands for no label.
    keys = np.array([known[c] if c else NO_LABEL for c in used.tolist()], dtype=np.int64)[place]
    _check_hemisphere(path, side, keys, said)
    return [_Map("", keys, said)]


def _cifti_maps(path: Path) -> list[_Map]:
    from nibabel.cifti2.cifti2_axes import BrainModelAxis, LabelAxis, ParcelsAxis

    image = load_cifti(path, "label file")
    with reading(path, "CIFTI-2 file"):
        axes = [image.header.get_axis(i) for i in range(image.ndim)]
    if len(axes) == 2 and isinstance(axes[1], ParcelsAxis) and not isinstance(axes[0], LabelAxis):
        return [_parcels(path, axes[1])]
    if len(axes) != 2 or not (
        isinstance(axes[0], LabelAxis) and isinstance(axes[1], BrainModelAxis)
    ):
        kinds = ", ".join(type(axis).__name__ for axis in axes)
        raise _bad(path, "dense labels (.dlabel.nii)", kinds, "Give the dense labels.")
    models = cortex_models(axes[1])
    _check_sides(path, [side for side, *_ in models])
    n_vertices = {side: n for side, _, _, n in models}
    rows = np.concatenate([models[0][2], models[1][2] + n_vertices["L"]])
    columns = np.concatenate([models[0][1], models[1][1]])
    with reading(path, "CIFTI-2 file"):
        values = np.asarray(image.dataobj)[:, columns]
    found = []
    for name, table, row in zip(axes[0].name, axes[0].label, values, strict=True):
        keys = np.full(sum(n_vertices.values()), NO_LABEL, dtype=np.int64)
        keys[rows] = _integers(path, row)
        title = "" if name == "None" else str(name)  # what nibabel makes of a missing name
        names = {k: str(label) for k, (label, _) in table.items()}
        for side, half in zip(SIDES, np.split(keys, [n_vertices["L"]]), strict=True):
            _check_hemisphere(path, side, half, names)
        found.append(_Map(title, keys, names, n_vertices["L"]))
    return found


def _parcels(path: Path, axis: Any) -> _Map:
    """Parcels of a parcellated file, numbered from 1."""
    n_vertices = {CORTEX[name]: int(n) for name, n in axis.nvertices.items() if name in CORTEX}
    _check_sides(path, sorted(n_vertices))
    keys = np.full(sum(n_vertices.values()), NO_LABEL, dtype=np.int64)
    for i, vertices in enumerate(axis.vertices):
        for name, inside in vertices.items():
            if name in CORTEX:
                keys[inside + (n_vertices["L"] if CORTEX[name] == "R" else 0)] = i + 1
    names = {i + 1: str(name) for i, name in enumerate(axis.name)}
    return _Map("", keys, names, n_vertices["L"])


def _check_sides(path: Path, sides: Iterable[str]) -> None:
    if tuple(sides) != SIDES:
        found = ", ".join(sides) or "no cortex"
        raise _bad(path, "brain models of the left and right cortex", found, "Export both.")


def _integers(path: Path, values: NDArray[Any]) -> NDArray[np.int64]:
    if not np.isfinite(values).all():
        raise _bad(path, "whole numbers", "NaN or infinity", "Write 0 where there is no label.")
    whole = np.asarray(values).astype(np.int64)
    if not np.array_equal(whole, values):
        raise _bad(path, "whole numbers", "fractions", "Give labels, not a continuous map.")
    return whole


def _bad(path: Path, expected: str, found: str, remedy: str) -> InputError:
    return InputError(f"label file {path}", expected=expected, found=found, remedy=remedy)
