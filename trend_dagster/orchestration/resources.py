"""What assets reach for besides their inputs: the project they work in.

What belongs here: Dagster resources. What does not: the project itself (``project.folder``), and
how outputs are recorded (``io_managers``).

See https://docs.dagster.io/guides/build/external-resources.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trend_dagster.project.folder import Project


@dataclass(frozen=True)
class ProjectResource:
    """The project that a run works in.

    No configurable resource of Dagster's: the launchpad would offer its folder to be changed, and
    record here what was computed elsewhere.

    Parameters
    ----------
    folder : Path
        Settings, inputs, store, outputs.
    profile : str, optional
        Profile in place of the one that `trend.yaml` names.
    """

    folder: Path
    profile: str | None = None

    def open(self) -> Project:
        """Open it, reading its settings and input folders afresh."""
        return Project.open(self.folder, self.profile)
