"""What assets reach for besides their inputs: the project they work in.

What belongs here: Dagster resources. What does not: the project itself (``project.folder``), and
how outputs are recorded (``io_managers``).

See https://docs.dagster.io/guides/build/external-resources.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from trend_dagster.project.folder import Project


class ProjectResource(dg.ConfigurableResource[Any]):
    """The project that a run works in."""

    folder: str = Field(description="Folder of the project: settings, inputs, store, outputs.")
    profile: str = Field(
        "",
        description="Profile in place of the one that trend.yaml names: default, demo, tutorial.",
    )

    def open(self) -> Project:
        """Open it, reading its settings and input folders afresh."""
        return Project.open(Path(self.folder), self.profile or None)
