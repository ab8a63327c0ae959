"""Bring the pictures of an output back from Dagster's records as files.

What belongs here: reading what ``io_managers`` put into a record. What does not: drawing
(``delivery.figures``).
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import dagster as dg

from trend_dagster.files import replace_file
from trend_dagster.orchestration.partitions import to_key
from trend_dagster.project.folder import Project
from trend_dagster.storage.stores import Version

_PICTURE = re.compile(r"!\[\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)")


def write_pictures(project: Project, version: Version) -> list[Path]:
    """Write the pictures recorded with an output below the project's ``outputs/pictures``.

    Opening Dagster's records takes about a second of processor time; where the pictures of this
    very version were written before, they are not opened.

    Parameters
    ----------
    project : Project
        Where.
    version : Version
        Which output.

    Returns
    -------
    list of Path
        Empty if no pictures were made of it.
    """
    folder = project.outputs / "pictures"
    name = "_".join([version.asset, *version.partition.values()])
    index = folder / f".{name}.json"
    written = json.loads(index.read_text()) if index.exists() else {}
    paths = [folder / file for file in written.get("files", [])]
    if written.get("version") == version.path.name and all(path.exists() for path in paths):
        return paths
    pictures = _recorded(project, version)
    paths = [folder / f"{name}_{title}.png" for title in pictures]
    for path, content in zip(paths, pictures.values(), strict=True):
        replace_file(path, content)
    if paths:
        said = {"version": version.path.name, "files": [path.name for path in paths]}
        replace_file(index, json.dumps(said).encode())
    return paths


def _recorded(project: Project, version: Version) -> dict[str, bytes]:
    """Pictures of the newest record that has any, by title; one that was kept has none."""
    # Loads sqlalchemy, which takes long.
    from trend_dagster.orchestration.instance import open_records

    key = to_key(version.partition)
    which = dg.AssetRecordsFilter(
        dg.AssetKey(version.asset), asset_partitions=None if key is None else [key]
    )
    with open_records(project.folder) as instance:
        records = instance.fetch_materializations(which, limit=10).records if instance else []
    for record in records:
        materialization = record.asset_materialization
        metadata = materialization.metadata if materialization else {}
        found = {
            re.sub(r"[^A-Za-z0-9]+", "_", title): base64.b64decode(match.group(1))
            for title, value in metadata.items()
            if (match := _PICTURE.fullmatch(str(value.value)))
        }
        if found:
            return found
    return {}
