"""All settings of a project, read from its `trend.yaml` on top of a profile.

What belongs here: where settings come from and how they are put together. What does not: what a
single setting of the science means (``science``, the module ``settings`` of each room), and paths
(``folder``).

See https://docs.pydantic.dev/latest/concepts/models/ for the models.
"""

from __future__ import annotations

import difflib
import itertools
import json
import math
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from trend_dagster.errors import SettingsError
from trend_dagster.science.evidence.settings import ValidationConfig
from trend_dagster.science.identity import NO_IDENTITY, UNLESS_DEFAULT, Section
from trend_dagster.science.individuals.settings import IndividualsConfig
from trend_dagster.science.parcellation.settings import SelectionConfig
from trend_dagster.science.settings import MethodSettings
from trend_dagster.storage.provenance import flatten

SETTINGS_FILE = "trend.yaml"
DEFAULT_PROFILE = "default"


def _place(default: object, **how: Any) -> Any:
    """Where something lies does not decide results; its content does, and is fingerprinted."""
    return Field(default, json_schema_extra=NO_IDENTITY, **how)


class InputsConfig(Section):
    """Where the input files are, relative to the project folder."""

    bold: str = _place("bold")
    """Folder of BOLD runs: .npy, .dtseries.nii, .nii(.gz) with a mask, or pairs of .func.gii, .mgh
    or .mgz; also the folder that fMRIPrep, NiBabies or XCP-D wrote.
    """
    select: dict[str, str | tuple[str, ...]] = _place({})
    """Which runs to take, by any entity of BIDS names: {task: rest, space: fsLR}. A list takes
    several: {run: [1, 2]}. Runs of several tasks are taken only if it is said so.
    """
    space: str | None = _place(None)
    """As select: {space: ...}."""
    density: str | None = _place(None)
    """As select: {den: ...}."""
    desc: str | None = _place(None)
    """As select: {desc: ...}."""
    exclude: dict[str, str] = _place({})
    """Runs to leave out, each with the reason, which status and report show: a key or a pattern of
    keys. {'sub-07_ses-1_*': fell asleep late, 'sub-09_*': another scanner}.
    """
    volume_mask: str | None = _place(None)
    """For volumes: a NIfTI that is not 0 in the voxels to use. None takes the desc-brain_mask
    beside each run.
    """
    geodesic_labels: str = _place("geodesic_labels")
    """Folder of geodesic label files: .npy, .dlabel.nii, or pairs of .label.gii or .annot."""
    geodesic_distances: tuple[str, ...] = _place((), max_length=2)
    """Distances along the cortex in mm, for smooth spatial encodings and smooth loadings: a .npy of
    shape (vertices, vertices) per hemisphere, in the order of the vertices of the BOLD runs (left,
    then right).
    """
    truth: str | None = _place(None)
    """A label file with the planted network of each vertex (-1 none in a .npy), for simulated
    cohorts; of a pair, either file. Only compared with, never used to choose.
    """
    surface: Literal["fsaverage3", "fsaverage4", "fsaverage5"] | None = None
    """The mesh that the vertices belong to, if it is one of these. They come with the platform:
    642, 2562 and 10242 vertices a hemisphere.
    """
    surfaces: tuple[str, ...] = _place(())
    """Or its files, left and right: GIFTI (.surf.gii) or FreeSurfer's geometry (lh.midthickness,
    rh.midthickness). Distances are measured on it: midthickness is best.
    """
    inflated: tuple[str, ...] = _place(())
    """For pictures: the inflated form of inputs.surfaces, left and right."""
    spheres: tuple[str, ...] = _place(())
    """The spherical form of inputs.surfaces, left and right: for p beside atlases (outputs.atlases)
    and for inputs.resample. fsaverage brings its own.
    """
    resample: Literal["3k", "10k"] | None = Field(None, json_schema_extra=UNLESS_DEFAULT)
    """Work on a coarser mesh: 2562 or 10242 vertices a hemisphere, laid over the sphere of the one
    named here; BOLD and label files are brought there by area, and the networks back up. For a
    first look: small networks lose most.
    """
    cortex_mask: tuple[str, ...] = _place(())
    """Where there is cortex; the rest, the medial wall, is taken out of the BOLD. One .npy or
    CIFTI-2 file, or two files, left and right: .npy, .shape.gii, .label.gii or FreeSurfer's
    lh.cortex.label. None takes what has signal; where BOLD has values on the medial wall of
    inputs.surface, that wall is taken out.
    """
    template: str | None = _place(None)
    """An image that says what the rows of the BOLD are, .npy or GIFTI, so that maps come out in its
    format: a CIFTI file with as many cortical grayordinates (in its order), or a NIfTI mask of
    voxels.
    """
    note: str | None = _place(None)
    """A sentence about the data, shown wherever results are."""

    @field_validator("select", mode="before")
    @classmethod
    def _are_words(cls, select: object) -> object:
        """YAML reads ``run: 1`` as a number, and ``01`` as 1."""
        if not isinstance(select, Mapping):
            return select
        return {
            str(name): [str(v) for v in value] if isinstance(value, list | tuple) else str(value)
            for name, value in select.items()
        }

    @field_validator("exclude")
    @classmethod
    def _has_reasons(cls, exclude: dict[str, str]) -> dict[str, str]:
        if nameless := [pattern for pattern, why in exclude.items() if not why.strip()]:
            raise ValueError(f"a reason for each, also for {nameless[0]}")
        return exclude

    @field_validator("surfaces", "inflated", "spheres")
    @classmethod
    def _is_pair(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        if len(files) not in (0, 2):
            raise ValueError("two files, left and right")
        return files

    @field_validator("cortex_mask")
    @classmethod
    def _is_one_or_pair(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        if len(files) > 2:
            raise ValueError("one file, or two, left and right")
        return files

    @property
    def has_mesh(self) -> bool:
        """Whether a mesh is named."""
        return self.surface is not None or bool(self.surfaces)

    @model_validator(mode="after")
    def _has_one_mesh(self) -> InputsConfig:
        if self.surface is not None and self.surfaces:
            raise ValueError("one mesh: either inputs.surface or inputs.surfaces")
        for name in ("inflated", "spheres"):
            if getattr(self, name) and not self.surfaces:
                raise ValueError(f"inputs.surfaces beside inputs.{name}")
        if self.resample and not self.has_mesh:
            raise ValueError("a mesh beside inputs.resample: inputs.surface or inputs.surfaces")
        if self.resample and self.geodesic_distances:
            raise ValueError(
                "either inputs.resample or inputs.geodesic_distances, which are those of the mesh "
                "of the files"
            )
        return self


class ControlsConfig(Section):
    """What every result is compared with."""

    features: tuple[Literal["untrained", "bold"], ...] = ("untrained", "bold")
    """'untrained': the same features from the model before training. 'bold': the signal itself.
    Each goes through the same correlation, thresholding and sweep. Empty: no controls, as the
    tutorial.
    """


class DeliveryConfig(Section):
    """What is written besides the store."""

    label_vectors: bool = False
    """Write the label vector of each cell as .npy under the tutorial's names, in a folder per label
    file.
    """


class OutputsConfig(Section):
    """What the chosen parcellations are compared with, and named by."""

    atlases: tuple[str, ...] = _place(())
    """Label files of networks on the mesh of the data, of a pair either file; or schaefer7, which
    comes along for fsaverage. Networks get the names of the first one where they overlap it by more
    than chance.
    """
    n_spins: int = Field(200, ge=0)
    """Times that a parcellation is turned on the sphere, to tell how much overlap chance makes. 0:
    no p, and networks are named from a Dice of 0.5 up.
    """

    @field_validator("atlases", mode="before")
    @classmethod
    def _are_several(cls, atlases: object) -> object:
        return (atlases,) if isinstance(atlases, str) else atlases


class ParcellationImagesConfig(Section):
    """What the files of the chosen parcellations hold besides the cortex."""

    subcortex: bool = False
    """Give each voxel of CIFTI runs to the network whose mean series it follows most, and write it
    into the .dlabel.nii.
    """
    soft: bool = True
    """Write the probability of each network at each vertex: .func.gii, .dscalar.nii."""


class StorageConfig(Section):
    """How long superseded versions are kept."""

    keep_versions: int = Field(2, ge=1)
    """Versions of each output that are always kept, the current included."""
    grace_hours: float = Field(1.0, ge=0)
    """Hours for which a superseded version is kept besides, for readers that hold no lock on it."""


class DaskConfig(Section):
    """Dask's workers: those of a scheduler that runs, or jobs of Slurm."""

    address: str | None = None
    cluster: Literal["slurm"] | None = None
    queue: str | None = None
    cores: int = Field(1, ge=1)
    memory: str = Field("4 GiB", pattern=r"^\d+(\.\d+)? ?[KMGT]i?B$")
    walltime: str = Field("04:00:00", pattern=r"^(\d+-)?\d+(:\d\d){0,2}$")
    most_jobs: int = Field(4, ge=1)
    interface: str | None = None
    slurm_options: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_one_of_both(self) -> DaskConfig:
        if (self.address is None) == (self.cluster is None):
            raise ValueError("either an address (tcp://HOST:8786) or a cluster (slurm)")
        return self


class ComputeConfig(Section):
    """Which machines compute, and how much of them; nothing here changes a result."""

    engine: Literal["local", "dask"] = "local"
    """Where partitions are computed: 'local', by the process of the run, or 'dask', by the workers
    that compute.dask names.
    """
    dask: DaskConfig | None = None
    """With engine 'dask': {address: 'tcp://HOST:8786'}, or {cluster: slurm, queue, cores, memory,
    walltime, most_jobs, interface, slurm_options} for jobs of Slurm. docs/cluster.md.
    """
    workers: int = Field(1, ge=1)
    """Label files that are swept at the same time at most, each in a process with its share of the
    cores. One uses all cores by itself; several help where there are many cores and label files
    with small labels.
    """
    memory_gib: float | None = Field(None, gt=0)
    """Memory that one step may take, or all workers together: so many work at a time as fit, and a
    step that would need more says so before it begins. null: all that the machine (or its
    container) has.
    """

    @model_validator(mode="after")
    def _has_workers(self) -> ComputeConfig:
        if self.engine == "dask" and self.dask is None:
            raise ValueError("compute.dask beside engine dask: an address or a cluster")
        return self


class AutomationConfig(Section):
    """When the sensor and the schedule work, once they are switched on (page, Automation)."""

    watch_seconds: int = Field(30, ge=5)
    """Seconds between two looks at the input folders."""
    nightly: str = "0 2 * * *"
    """When what is missing is made, as cron writes it: minute, hour, day, month, weekday."""

    @field_validator("nightly")
    @classmethod
    def _is_cron(cls, value: str) -> str:
        # Whether there is such an hour Dagster tells, where the schedule is built.
        if not re.fullmatch(r"([\w*,/-]+\s+){4}[\w*,/-]+", value):
            raise ValueError("five fields as cron writes them, like '0 2 * * *'")
        return value


class _Project(Section):
    """What a project has besides the method: it stands in front."""

    profile: str = DEFAULT_PROFILE
    """Profile that these settings build on."""
    inputs: InputsConfig = InputsConfig()


class Settings(MethodSettings, _Project):
    """Every setting of a project: those of the method, and where files are and what is made."""

    validation: ValidationConfig = ValidationConfig()
    selection: SelectionConfig = SelectionConfig()
    individuals: IndividualsConfig = IndividualsConfig()
    controls: ControlsConfig = ControlsConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    outputs: OutputsConfig = OutputsConfig()
    parcellation_images: ParcellationImagesConfig = ParcellationImagesConfig()
    storage: StorageConfig = StorageConfig()
    compute: ComputeConfig = ComputeConfig()
    automation: AutomationConfig = AutomationConfig()


def surface_labels(settings: Settings) -> dict[str, int]:
    """Labels per hemisphere of each label file that is made from the surface, by partition key.

    Parameters
    ----------
    settings : Settings
        Of the project.

    Returns
    -------
    dict of str to int
        In the order of the settings. The key tells the labels of both hemispheres.
    """
    asked = settings.geodesic_labels.n_labels_per_hemisphere
    if asked is None:
        asked = (1,) if settings.inputs.has_mesh else ()
    return {f"surface_{2 * n:03d}": n for n in asked}


def made_encodings(settings: Settings) -> list[str]:
    """Partition keys of the spatial encodings that no file of the user stands behind."""
    return [*surface_labels(settings), *settings.thresholding.kernels()]


def why_no_individuals(settings: Settings) -> str | None:
    """Say why no newborn's own networks are looked for; None if they are.

    Parameters
    ----------
    settings : Settings
        Of the project.

    Returns
    -------
    str or None
        A clause for messages.
    """
    if settings.individuals.n_nulls == 0:
        return "individuals.n_nulls is 0, and without a null a newborn's difference says nothing"
    if not settings.inputs.has_mesh:
        return "no mesh is named (inputs.surface), and a newborn's networks are found along one"
    return None


def why_no_stability(settings: Settings) -> str | None:
    """Say why the stability of the sweep is not computed; None if it is.

    Parameters
    ----------
    settings : Settings
        Of the project.

    Returns
    -------
    str or None
        A clause for messages.
    """
    if settings.validation.n_nulls == 0:
        return "validation.n_nulls is 0, and without a null stability says nothing"
    if not settings.inputs.has_mesh:
        return (
            "no mesh is named (inputs.surface), and without it no noise can be made that is as "
            "smooth along the cortex as the data"
        )
    return None


def resource_folder(name: str) -> Path:
    """Find a folder or file that ships beside the package (profiles, dagster.yaml).

    Parameters
    ----------
    name : str
        Its name at the top level of the repository.

    Returns
    -------
    Path
        In a checkout the top level's; in an installed wheel the copy inside the package.
    """
    package = Path(__file__).resolve().parents[1]
    inside = package / "_shipped" / name
    return inside if inside.exists() else package.parent / name


def profile_names() -> list[str]:
    """Names of the profiles there are."""
    return sorted(path.stem for path in resource_folder("profiles").glob("*.yaml"))


def load_settings(project: Path, profile: str | None = None) -> Settings:
    """Read a project's settings: defaults, then the profile, then `trend.yaml`.

    Parameters
    ----------
    project : Path
        Folder of the project. Without a `trend.yaml` the default profile holds.
    profile : str, optional
        Take this profile in place of the one that `trend.yaml` names.

    Returns
    -------
    Settings
        Complete and checked.

    Raises
    ------
    SettingsError
        For a profile that does not exist, an unknown setting (the nearest is named), a wrong
        type or a value out of range.
    """
    file = project / SETTINGS_FILE
    own = _read_yaml(file) if file.exists() else {}
    name = profile or own.get("profile", DEFAULT_PROFILE)
    check_profile(name, "" if profile else f" in {file}")
    return _checked(_merge(_read_yaml(_profile_file(name)), own) | {"profile": name}, file)


def method_settings(profile: str = DEFAULT_PROFILE, **sections: Any) -> MethodSettings:
    """Settings of the method on top of a profile; see `trend_dagster.method_settings`."""
    check_profile(profile)
    where = "method_settings"
    if unknown := [name for name in sections if name not in MethodSettings.model_fields]:
        raise SettingsError(
            f"setting {unknown[0]} in {where}",
            expected=f"one of {', '.join(MethodSettings.model_fields)}",
            found="no such setting" + nearest(unknown[0], MethodSettings.model_fields),
            remedy="Correct the name.",
        )
    own = {name: s.model_dump() if isinstance(s, BaseModel) else s for name, s in sections.items()}
    settings = _checked(_merge(_read_yaml(_profile_file(profile)), own), where)
    return MethodSettings(**{name: getattr(settings, name) for name in MethodSettings.model_fields})


def check_profile(name: object, where: str = "") -> None:
    """Make sure that a profile exists.

    Raises
    ------
    SettingsError
        If it does not; the nearest is named.
    """
    if name not in profile_names():
        raise SettingsError(
            f"profile {name!r}{where}",
            expected=f"one of {', '.join(profile_names())}",
            found="no such profile" + nearest(str(name), profile_names()),
            remedy="Name one of these, or leave `profile` out.",
        )


def setting_lines(project: Path, profile: str | None = None) -> list[dict[str, Any]]:
    """Every setting with its value here, by default, and in the tutorial.

    Parameters
    ----------
    project : Path
        The project folder.
    profile : str, optional
        In place of the profile that `trend.yaml` names.

    Returns
    -------
    list of dict
        ``name`` (``section.setting``), ``here``, ``default``, ``tutorial`` and ``description``; in
        the order in which they are defined.
    """
    tutorial = _profile_file("tutorial")
    columns = {
        "here": load_settings(project, profile),
        "default": Settings(),
        "tutorial": _checked(_read_yaml(tutorial), tutorial),
    }
    return [
        {
            "name": f"{section}.{name}",
            **{c: getattr(getattr(values, section), name) for c, values in columns.items()},
            "description": meaning,
        }
        for section, model in sections().items()
        for name, meaning in model.meanings().items()
    ]


def sections() -> dict[str, type[Section]]:
    """Sections of the settings, by name."""
    found = {name: field.annotation for name, field in Settings.model_fields.items()}
    return {n: a for n, a in found.items() if isinstance(a, type) and issubclass(a, Section)}


SHOWN_AT_FIRST: Mapping[str, tuple[str, ...] | None] = {
    "inputs": None,
    "bold": None,
    "sweep": None,
    "controls": None,
    "individuals": ("n_nulls", "pages", "participants", "associate", "covariates"),
    "outputs": ("atlases",),
}
"""Sections that the file of a new project lists, commented out; of each all settings, or these."""


def new_settings_file(profile: str) -> str:
    """Text of the `trend.yaml` of a new project: the profile, and what is most often changed.

    Parameters
    ----------
    profile : str
        Profile to build on.

    Returns
    -------
    str
        YAML; every line but the profile's is a comment that shows the profile's value.
    """
    values = _checked(_read_yaml(_profile_file(profile)), _profile_file(profile))
    lines = [
        "# Settings of this project. A line that begins with '#' is a comment and changes nothing:",
        "# what it shows holds anyway. To change a value, take the '#' away from the section's",
        "# name and from the setting. All settings there are: `trend settings`.",
        "",
        f"profile: {profile}  # {', '.join(profile_names())}; tutorial has the notebook's numbers",
    ]
    for section, shown in SHOWN_AT_FIRST.items():
        model = sections()[section]
        lines += ["", f"# {' '.join((model.__doc__ or '').split())}", f"#{section}:"]
        for name, meaning in model.meanings().items():
            if shown is not None and name not in shown:
                continue
            lines += textwrap.wrap(meaning, 94, initial_indent="#  # ", subsequent_indent="#  # ")
            value = getattr(getattr(values, section), name)
            value = list(value) if isinstance(value, tuple) else value
            lines.append(f"#  {name}: {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def _profile_file(name: str) -> Path:
    return resource_folder("profiles") / f"{name}.yaml"


def _checked(values: Mapping[str, Any], file: Path | str) -> Settings:
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise _explain(error, file) from None
    # No result could be stored with infinity or NaN beside it.
    for name, value in flatten(settings.model_dump()).items():
        numbers = value if isinstance(value, tuple) else (value,)
        if wrong := [n for n in numbers if isinstance(n, float) and not math.isfinite(n)]:
            raise SettingsError(
                f"setting {name} in {file}",
                expected="a finite number",
                found=str(wrong[0]),
                remedy="Write a large number if that is meant.",
            )
    return settings


class _Loader(yaml.SafeLoader):
    """Plain data only, and no name twice: YAML's own reader would silently take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} is written twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        # A subclass of SafeLoader: it makes plain data and runs no code.
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"settings file {file}",
            expected="valid YAML in UTF-8",
            found=" ".join(str(error).split()),
            remedy="Mend that line.",
        ) from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise SettingsError(
            f"settings file {file}",
            expected="sections with settings below them",
            found=type(content).__name__,
            remedy="See the commented file that the project was made with.",
        )
    if sum(1 for _ in itertools.islice(_parts(content), MOST_VALUES + 1)) > MOST_VALUES:
        raise SettingsError(
            f"settings file {file}",
            expected=f"at most {MOST_VALUES} values",
            found="more, once what '*' repeats is written out",
            remedy="Write the values themselves.",
        )
    # A section of which every line is commented out is empty, not wrong.
    return {name: value for name, value in content.items() if value is not None}


MOST_VALUES = 100_000
"""In a settings file: ten lines of YAML can stand for more than any memory holds."""


def _parts(value: Any) -> Iterator[Any]:
    """Go through what plain data consists of, over and over where it is repeated."""
    waiting = [value]
    while waiting:
        yield (part := waiting.pop())
        if isinstance(part, dict | list):
            waiting += part.values() if isinstance(part, dict) else part


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in own.items():
        below = merged.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = {**below, **value}
        merged[name] = value
    return merged


_IN_YAML = {
    "tuple_type": "a list, as [4, 6]",
    "model_type": "settings below it, as {name: value}",
    "dict_type": "settings below it, as {name: value}",
}
"""What a kind of pydantic's findings expects, where it speaks of Python."""


def _explain(error: ValidationError, file: Path | str) -> SettingsError:
    """Turn the first of pydantic's findings into a sentence."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = sorted(_model_at(path[:-1]).model_fields)
        return SettingsError(
            f"setting {name} in {file}",
            expected=f"one of {', '.join(known)}",
            found="no such setting" + nearest(path[-1], known),
            remedy="Correct the name or take the line out.",
        )
    return SettingsError(
        f"setting {name} in {file}",
        expected=_IN_YAML.get(
            first["type"],
            first["msg"].removeprefix("Input should be ").removeprefix("Value error, "),
        ),
        found=repr(first["input"]),
        remedy="Correct the value, or take the line out to get the default.",
    )


def _model_at(path: list[str]) -> type[BaseModel]:
    """Find what holds the settings below a name."""
    model: type[BaseModel] = Settings
    for name in path:
        types = [model.model_fields[name].annotation]
        types += get_args(types[0])
        model = next(t for t in types if isinstance(t, type) and issubclass(t, BaseModel))
    return model


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that name what a user may have meant; empty if nothing is near."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""
