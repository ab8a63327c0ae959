"""trend_dagster: maps of the functional networks of the newborn brain, as Dagster assets.

Public and stable are :func:`open`, which reads what a project has stored, and the module
``trend_dagster.science.method``, which goes from arrays to networks without a project.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
