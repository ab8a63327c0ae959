"""Bring the pictures of an output back from Dagster's records as files.

What belongs here: reading what ``io_managers`` put into a record. What does not: drawing
(``figures``).
"""

from __future__ import annotations

import base64
import re
from pathlib import Path

import dagster as dg

from trend_dagster.files import replace_file
from trend_dagster.orchestration.partitions import to_key
from trend_dagster.project.folder import Project
from trend_dagster.storage.stores import Version

_PICTURE = re.compile(r"!\[\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)")


def write_pictures(project: Project, instance: dg.DagsterInstance, version: Version) -> list[Path]:
    """Write the pictures recorded with an output below the project's ``outputs/pictures``.

    Parameters
    ----------
    project : Project
        Where.
    instance : DagsterInstance
        Where the output is on record.
    version : Version
        Which output.

    Returns
    -------
    list of Path
        Empty if no pictures were made of it.
    """
    key = to_key(version.partition)
    records = instance.fetch_materializations(
        dg.AssetRecordsFilter(
            dg.AssetKey(version.asset), asset_partitions=None if key is None else [key]
        ),
        limit=10,
    ).records
    folder = project.outputs / "pictures"
    name = "_".join([version.asset, *version.partition.values()])
    for record in records:  # the newest first; one that was kept as it was has no pictures
        materialization = record.asset_materialization
        metadata = materialization.metadata if materialization else {}
        paths = []
        for title, value in metadata.items():
            if match := _PICTURE.fullmatch(str(value.value)):
                path = folder / f"{name}_{re.sub(r'[^A-Za-z0-9]+', '_', title)}.png"
                replace_file(path, base64.b64decode(match.group(1)))
                paths.append(path)
        if paths:
            return paths
    return []
