"""trend_dagster: maps of the functional networks of the newborn brain, as Dagster assets.

Public and stable are :func:`open`, which reads what a project has stored, :func:`method_settings`,
and the module ``trend_dagster.science.method``, which goes from arrays to networks without a
project.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trend_dagster.science.settings import MethodSettings
    from trend_dagster.study import Study

__version__ = "0.1.0"


def open(folder: str | Path, profile: str | None = None) -> Study:
    """Open a project to read what it has stored.

    Parameters
    ----------
    folder : str or Path
        Folder of the project.
    profile : str, optional
        In place of the profile that `trend.yaml` names.

    Returns
    -------
    Study
        ``study["average_correlation"]`` is an xarray Dataset.

    Raises
    ------
    InputError
        If there is no such folder.
    SettingsError
        If its settings cannot be used.
    """
    from trend_dagster.project.folder import Project  # nothing is imported until it is needed
    from trend_dagster.study import Study

    return Study(Project.open(Path(folder), profile))


def method_settings(profile: str = "default", **sections: Any) -> MethodSettings:
    """Settings of the method on top of a profile, such as ``tutorial``.

    Parameters
    ----------
    profile : str
        As `trend.yaml` names it.
    **sections : mapping
        What differs: ``sweep={"n_components": [20]}``.

    Returns
    -------
    MethodSettings
        For the functions of ``trend_dagster.science.method``.

    Raises
    ------
    SettingsError
        For a profile or setting that does not exist (the nearest is named), or a wrong value.
    """
    from trend_dagster.project.settings import method_settings as made

    return made(profile, **sections)
