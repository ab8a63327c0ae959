"""Where everything meets: the one place that builds Dagster's definitions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from trend_dagster.errors import SettingsError
from trend_dagster.orchestration.assets import DEFINITIONS
from trend_dagster.orchestration.checks import CHECKS, build_checks
from trend_dagster.orchestration.executors import OWN_PROCESS
from trend_dagster.orchestration.failures import build_failure_sensor
from trend_dagster.orchestration.io_managers import ZarrIOManager
from trend_dagster.orchestration.jobs import build_jobs
from trend_dagster.orchestration.resources import ProjectResource
from trend_dagster.orchestration.schedules import build_schedule
from trend_dagster.orchestration.sensors import build_lookout, build_sensor
from trend_dagster.project.settings import AutomationConfig

PROJECT_VARIABLE = "TREND_PROJECT"
PROFILE_VARIABLE = "TREND_PROFILE"


def build_definitions(
    project: Path, profile: str | None = None, **resources: Any
) -> dg.Definitions:
    """Build the definitions for one project.

    Parameters
    ----------
    project : Path
        Folder of the project.
    profile : str, optional
        In place of the profile that `trend.yaml` names.
    **resources
        Resources in place of the usual ones, for tests.

    Returns
    -------
    Definitions
        Assets, checks, jobs, sensor, schedule and resources.

    Raises
    ------
    SettingsError
        If the project's settings cannot be used.
    """
    resource = ProjectResource(project.resolve(), profile)
    return _definitions(resource, resource.open().settings.automation, resources)


def _definitions(
    resource: ProjectResource, automation: AutomationConfig, resources: Mapping[str, Any]
) -> dg.Definitions:
    jobs: list[Any] = [*build_jobs(), CHECKS]
    return dg.Definitions(
        assets=DEFINITIONS,
        asset_checks=build_checks(),
        jobs=jobs,
        sensors=[
            build_sensor(automation.watch_seconds, jobs),
            build_lookout(automation.watch_seconds),
            build_failure_sensor(),
        ],
        schedules=[build_schedule(automation.nightly)],
        executor=OWN_PROCESS,
        resources={"project": resource, "zarr": ZarrIOManager(project=resource), **resources},
    )


@dg.definitions
def defs() -> dg.Definitions:
    """Definitions for the project that the environment variable TREND_PROJECT names."""
    folder = Path(os.environ.get(PROJECT_VARIABLE, "."))
    profile = os.environ.get(PROFILE_VARIABLE) or None
    try:
        return build_definitions(folder, profile)
    except SettingsError:
        # Each run will say so in words; one that cannot even load its code is tried again.
        return _definitions(ProjectResource(folder.resolve(), profile), AutomationConfig(), {})
