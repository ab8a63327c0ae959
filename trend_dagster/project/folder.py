"""The project: a folder with settings, inputs, the store and what is delivered.

What belongs here: where things are, and which partition keys the input files make. What does not:
how outputs are stored (``storage``) or made (``orchestration``).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from trend_dagster.errors import InputError, SettingsError, TrendError
from trend_dagster.files import replace_file
from trend_dagster.project.dimensions import BOLD_RUN as BOLD_RUN
from trend_dagster.project.dimensions import LABEL_FILE as LABEL_FILE
from trend_dagster.project.dimensions import N_COMPONENTS as N_COMPONENTS
from trend_dagster.project.dimensions import SUBJECT as SUBJECT
from trend_dagster.project.settings import (
    SETTINGS_FILE,
    Settings,
    load_settings,
    made_encodings,
    nearest,
)
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.label_files import (
    LabelFile,
    find_label_files,
    has_label_files,
    read_geodesic_labels,
)
from trend_dagster.storage.provenance import InputDigests
from trend_dagster.storage.runs import BoldRun, Header, brain_mask_of, find_runs
from trend_dagster.storage.stores import Store, Version

Input = TypeVar("Input", BoldRun, LabelFile, BoldRun | LabelFile)


@dataclass(frozen=True)
class Project:
    """A folder with settings, inputs, the store and what is delivered.

    Parameters
    ----------
    folder : Path
        The project folder.
    settings : Settings
        What its `trend.yaml` says.
    """

    folder: Path
    settings: Settings

    @classmethod
    def open(cls, folder: Path, profile: str | None = None) -> Project:
        """Open the project in a folder.

        Parameters
        ----------
        folder : Path
            Its folder.
        profile : str, optional
            In place of the profile that `trend.yaml` names.

        Raises
        ------
        InputError
            If there is no such folder.
        SettingsError
            If its settings cannot be used.
        """
        if not folder.is_dir():
            raise InputError(
                f"project {folder}",
                expected="a project's folder, with a trend.yaml in it",
                found="a file" if folder.exists() else "no such folder",
                remedy="Name the project's folder, or make one: `trend init DIR`.",
            )
        settings = load_settings(folder, profile)
        # A project may do without settings, but not without any trace of one.
        traces = (SETTINGS_FILE, "store", settings.inputs.bold, settings.inputs.geodesic_labels)
        if not any((folder / trace).exists() for trace in traces):
            raise InputError(
                f"project {folder}",
                expected="a project's folder, with a trend.yaml in it",
                found=f"none, and no folder {settings.inputs.bold} either",
                remedy="Name the project's folder, or make this one a project: `trend init DIR`.",
            )
        return cls(folder.resolve(), settings)

    @cached_property
    def store(self) -> Store:
        """All outputs, as versioned zarr."""
        storage = self.settings.storage
        return Store(
            self.folder / "store",
            keep_versions=storage.keep_versions,
            grace_seconds=storage.grace_hours * 3600,
        )

    @cached_property
    def digests(self) -> InputDigests:
        """Digests of the input files."""
        return InputDigests(self.folder / "store" / ".input_digests.json")

    @property
    def outputs(self) -> Path:
        """Folder of what is delivered to people: workbook, pictures, label vectors."""
        return self.folder / "outputs"

    @cached_property
    def bold_runs(self) -> dict[str, BoldRun]:
        """BOLD runs by key; may be none where the average correlation was imported."""
        inputs = self.settings.inputs
        choose = {"space": inputs.space, "den": inputs.density, "desc": inputs.desc}
        try:
            runs = find_runs(
                self.folder / inputs.bold,
                {**choose, **inputs.select},
                lambda key: self.why_left_out(key) is not None,
            )
        except InputError:
            correlation = self.store.latest("average_correlation")
            if correlation is not None and correlation.imported:
                return {}
            raise
        _check_excluded(inputs.exclude, runs)
        return runs

    @cached_property
    def label_files(self) -> dict[str, LabelFile]:
        """Geodesic label files by key; may be none where other spatial encodings are made."""
        folder = self.folder / self.settings.inputs.geodesic_labels
        made = made_encodings(self.settings)
        if made and not has_label_files(folder):
            return {}
        files = find_label_files(folder)
        for key in files.keys() & set(made):
            raise InputError(
                f"geodesic label file {files[key].name}",
                expected="a name that no encoding made by the settings has",
                found=f"{key}, which stands for geodesic_labels or thresholding.smooth_sigma_mm",
                remedy="Rename the file.",
            )
        return files

    @cached_property
    def found_columns(self) -> dict[tuple[str, str], tuple[list[str] | None, str]]:
        """Columns of tables, or why there are none, by setting and run: each is read once."""
        return {}

    @cached_property
    def found_headers(self) -> dict[str, Header | None]:
        """What the headers of runs tell, by run: each is read once."""
        return {}

    @cached_property
    def label_vertices(self) -> tuple[str, int] | None:
        """Name and number of vertices of the first label file that can be read."""
        with suppress(InputError):
            for file in self.label_files.values():
                with suppress(InputError):
                    return file.name, len(read_geodesic_labels(file))
        return None

    @cached_property
    def runs_by_subject(self) -> dict[str, list[str]]:
        """Keys of the BOLD runs of each subject."""
        found: dict[str, list[str]] = {}
        for run in self.bold_runs:
            found.setdefault(subject_key(run), []).append(run)
        return found

    def keys(self, dimension: str) -> list[str]:
        """Partition keys that a dimension has today.

        Parameters
        ----------
        dimension : str
            ``bold_run``, ``label_file``, ``n_components`` or ``subject``.

        Returns
        -------
        list of str
            From the input files and the settings; not what Dagster happens to have registered.
        """
        if dimension == BOLD_RUN:
            return list(self.bold_runs)
        if dimension == LABEL_FILE:
            return [*self.label_files, *made_encodings(self.settings)]
        if dimension == SUBJECT:
            return list(self.runs_by_subject)
        return [str(k) for k in self.settings.sweep.n_components]

    def current(self, asset: str, *dimensions: str) -> Iterator[Version]:
        """Go through what is stored of an asset for the keys of today and is not excluded."""
        for keys in itertools.product(*map(self.keys, dimensions)):
            version = self.store.latest(asset, dict(zip(dimensions, keys, strict=True)))
            if version is not None and version.excluded is None:
                yield version

    def inputs(self, dimension: str) -> Mapping[str, BoldRun | LabelFile]:
        """What lies behind the partition keys of a dimension of files.

        Parameters
        ----------
        dimension : str
            ``bold_run`` or ``label_file``.
        """
        return self.bold_runs if dimension == BOLD_RUN else self.label_files

    def input_files(self, dimension: str, key: str) -> tuple[Path, ...]:
        """All files behind a partition key: one, or one for each hemisphere.

        Raises
        ------
        InputError
            If they are not there any more.
        """
        return _still_there(self.inputs(dimension), dimension, key).files

    def bold_run(self, key: str) -> BoldRun:
        """Run behind a partition key.

        Raises
        ------
        InputError
            If it is not there any more.
        """
        return _still_there(self.bold_runs, BOLD_RUN, key)

    def why_left_out(self, run: str) -> str | None:
        """Why the user leaves a run out (``inputs.exclude``); None for one that is taken."""
        excluded = self.settings.inputs.exclude.items()
        return next((why for pattern, why in excluded if fnmatchcase(run, pattern)), None)

    @property
    def failed_import(self) -> str | None:
        """What the last import failed with; None if it did not. Nothing is trained in its place."""
        return self._failed_import.read_text() if self._failed_import.exists() else None

    def record_import(self, error: TrendError | None) -> None:
        """Remember how an import ended."""
        if error is None:
            self._failed_import.unlink(missing_ok=True)
        else:
            replace_file(self._failed_import, str(error).encode())

    @property
    def _failed_import(self) -> Path:
        return self.folder / "store" / ".failed-import"

    def mask_of(self, run: BoldRun) -> Path | None:
        """Mask of the voxels to use, for a volume: the one that the settings name, or its own."""
        if run.source != "nifti":
            return None
        named = self.settings.inputs.volume_mask
        return brain_mask_of(run) if named is None else self.folder / named

    def label_file(self, key: str) -> LabelFile:
        """Label file behind a partition key.

        Raises
        ------
        InputError
            If it is not there any more.
        """
        return _still_there(self.label_files, LABEL_FILE, key)


def _check_excluded(exclude: Mapping[str, str], runs: Mapping[str, BoldRun]) -> None:
    for pattern in exclude:
        if not any(fnmatchcase(run, pattern) for run in runs):
            raise SettingsError(
                "setting inputs.exclude",
                expected="keys of runs, or patterns of them (sub-07_*)",
                found=f"{pattern!r}, which no run matches" + nearest(pattern, runs),
                remedy=_how_to_exclude(pattern, runs),
            )
    if runs and all(any(fnmatchcase(run, pattern) for pattern in exclude) for run in runs):
        raise SettingsError(
            "setting inputs.exclude",
            expected="at least one run that is not left out",
            found=f"patterns that leave out all {len(runs)} runs: {', '.join(exclude)}",
            remedy="Take one out of the list, or write it so that it matches fewer.",
        )


def _how_to_exclude(pattern: str, runs: Mapping[str, BoldRun]) -> str:
    if any(run.startswith(f"{pattern}_") for run in runs):
        return f"For all runs whose key begins so write {pattern}_*."
    some = list(runs)[:3]
    keys = ", ".join(some) + (", ..." if len(runs) > len(some) else "")
    return f"Correct it in trend.yaml, or take the line out. Keys are {keys}."


def _still_there(found: Mapping[str, Input], dimension: str, key: str) -> Input:
    if key not in found:
        raise InputError(
            f"input of {dimension} {key!r}",
            expected="its file among the inputs",
            found="none: it was removed or renamed",
            remedy="Put it back to compute it again; what is stored stays as it is.",
        )
    return found[key]


def subject_key(run: str) -> str:
    """Partition key of the subject of a run: ``sub-01``; a run that names none is its own."""
    subject = subject_of(run)
    return run if subject is None else f"sub-{subject}"


def participants_file(project: Project) -> Path | None:
    """Table of the newborns, if the settings name one."""
    name = project.settings.individuals.participants
    return None if name is None else project.folder / name
