"""All settings of a project, read from its `trend.yaml` on top of a profile.

What belongs here: where settings come from and how they are put together. What does not: what a
single setting means, which stands beside the function it sets (``science``), and paths, which are
the project's (``resources``).

See https://docs.pydantic.dev/latest/concepts/models/ for the models.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, Field, JsonValue, ValidationError

from trend_dagster.errors import SettingsError
from trend_dagster.science.block_matrix import ThresholdConfig
from trend_dagster.science.bold import BoldConfig, CohortConfig
from trend_dagster.science.clustering import ClusteringConfig
from trend_dagster.science.correlation import CorrelationConfig
from trend_dagster.science.factorization import FactorizationConfig
from trend_dagster.science.model_settings import AutoencoderConfig, TrainingConfig
from trend_dagster.science.selection import SelectionConfig
from trend_dagster.science.sweep import SweepGrid

SETTINGS_FILE = "trend.yaml"
DEFAULT_PROFILE = "default"

# Where a file lies does not decide results; its content does, and is fingerprinted.
PLACE: dict[str, JsonValue] = {"identity": False}


class InputsConfig(BaseModel, frozen=True, extra="forbid"):
    """Where the input files are, relative to the project folder."""

    bold: str = Field(
        "bold", description="Folder of BOLD runs, one .npy per run.", json_schema_extra=PLACE
    )
    geodesic_labels: str = Field(
        "geodesic_labels",
        description="Folder of geodesic label files, one .npy each.",
        json_schema_extra=PLACE,
    )
    truth: str | None = Field(
        None,
        description="A .npy with the planted network of each vertex (-1 none), for simulated "
        "cohorts. Only compared with, never used to choose.",
        json_schema_extra=PLACE,
    )
    surface: str | None = Field(
        None,
        description="The mesh that the vertices belong to, for pictures: 'fsaverage3', "
        "'fsaverage4' or 'fsaverage5'.",
    )
    note: str | None = Field(
        None,
        description="A sentence about the data, shown wherever results are.",
        json_schema_extra=PLACE,
    )


class FeaturesConfig(BaseModel, frozen=True, extra="forbid"):
    """What represents a vertex."""

    source: Literal["input_projection", "encoder", "bold"] = Field(
        "input_projection",
        description="'input_projection': what the tutorial exports, the model's first linear "
        "layer. 'encoder': the latent embedding of the paper. 'bold': the signal itself, no model "
        "(the control).",
    )


class ControlsConfig(BaseModel, frozen=True, extra="forbid"):
    """What every result is compared with."""

    features: tuple[Literal["untrained", "bold"], ...] = Field(
        ("untrained", "bold"),
        description="'untrained': the same features from the model before training. 'bold': the "
        "signal itself. Each goes through the same correlation, thresholding and sweep. Empty: "
        "no controls, as the tutorial.",
    )


class DeliveryConfig(BaseModel, frozen=True, extra="forbid"):
    """What is written besides the store."""

    label_vectors: bool = Field(
        False,
        description="Write the label vector of each cell as .npy under the tutorial's names, in a "
        "folder per label file.",
    )


class StorageConfig(BaseModel, frozen=True, extra="forbid"):
    """How long superseded versions are kept."""

    keep_versions: int = Field(
        2, ge=1, description="Versions of each output that are always kept, the current included."
    )
    grace_hours: float = Field(
        1.0,
        ge=0,
        description="Hours for which a superseded version is kept besides, for readers that hold "
        "no lock on it.",
    )


class Settings(BaseModel, frozen=True, extra="forbid"):
    """Every setting of a project; a section each for what reads it."""

    profile: str = Field(DEFAULT_PROFILE, description="Profile that these settings build on.")
    inputs: InputsConfig = InputsConfig()
    bold: BoldConfig = BoldConfig()
    cohort: CohortConfig = CohortConfig()
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    training: TrainingConfig = TrainingConfig()
    features: FeaturesConfig = FeaturesConfig()
    correlation: CorrelationConfig = CorrelationConfig()
    thresholding: ThresholdConfig = ThresholdConfig()
    sweep: SweepGrid = SweepGrid()
    factorization: FactorizationConfig = FactorizationConfig()
    clustering: ClusteringConfig = ClusteringConfig()
    selection: SelectionConfig = SelectionConfig()
    controls: ControlsConfig = ControlsConfig()
    delivery: DeliveryConfig = DeliveryConfig()
    storage: StorageConfig = StorageConfig()

    def identity(self, section: str) -> dict[str, Any]:
        """Settings of a section that decide results; those that only change speed are left out.

        Parameters
        ----------
        section : str
            Name of the section.

        Returns
        -------
        dict
            As JSON can store it.
        """
        model: BaseModel = getattr(self, section)
        values = model.model_dump(mode="json")
        for name, field in type(model).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, Mapping) and extra.get("identity") is False:
                del values[name]
        return values


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
    if name not in profile_names():
        raise SettingsError(
            f"profile {name!r}" + (f" in {file}" if profile is None else ""),
            expected=f"one of {', '.join(profile_names())}",
            found="no such profile" + _nearest(str(name), profile_names()),
            remedy="Name one of these, or leave `profile` out.",
        )
    base = resource_folder("profiles") / f"{name}.yaml"
    merged = _merge(_read_yaml(base), own) | {"profile": name}
    try:
        settings = Settings.model_validate(merged)
    except ValidationError as error:
        raise _explain(error, file) from None
    _check_finite(settings.model_dump(), file)
    return settings


def _read_yaml(file: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
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
    # A section of which every line is commented out is empty, not wrong.
    return {name: value for name, value in content.items() if value is not None}


def _check_finite(value: object, file: Path, name: str = "") -> None:
    """Refuse infinity and NaN: no result could be stored with such a setting beside it."""
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(
            f"setting {name} in {file}",
            expected="a finite number",
            found=str(value),
            remedy="Write a large number if that is meant.",
        )
    if isinstance(value, Mapping):
        for key, below in value.items():
            _check_finite(below, file, f"{name}.{key}".lstrip("."))
    elif isinstance(value, tuple):
        for below in value:
            _check_finite(below, file, name)


def _merge(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in own.items():
        below = merged.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            merged[name] = {**below, **value}
        else:
            merged[name] = value
    return merged


def _explain(error: ValidationError, file: Path) -> SettingsError:
    """Turn the first of pydantic's findings into a sentence."""
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "extra_forbidden":
        known = _known_names(path[:-1])
        return SettingsError(
            f"setting {name} in {file}",
            expected=f"one of {', '.join(known)}",
            found="no such setting" + _nearest(path[-1], known),
            remedy="Correct the name or take the line out.",
        )
    return SettingsError(
        f"setting {name} in {file}",
        expected=first["msg"].removeprefix("Input should be ").removeprefix("Value error, "),
        found=repr(first["input"]),
        remedy="Correct the value, or take the line out to get the default.",
    )


def _known_names(path: list[str]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        annotation = model.model_fields[part].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return sorted(model.model_fields)


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""
