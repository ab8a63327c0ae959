"""The pictures of an output as files, for `trend show`: kept by a run, or from Dagster's records.

What belongs here: writing them, and reading what ``io_managers`` put into a record. What does not:
drawing (``delivery.figures``).
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from trend_dagster.files import replace_file
from trend_dagster.orchestration.partitions import asset_key, to_key
from trend_dagster.project.folder import Project
from trend_dagster.storage.stores import Version

_PICTURE = re.compile(r"!\[\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)")


def keep_pictures(project: Project, version: Version, pictures: Mapping[str, bytes]) -> list[Path]:
    """Write the pictures of an output below the project's ``outputs/pictures``.

    Parameters
    ----------
    project : Project
        Where.
    version : Version
        Which output.
    pictures : mapping of str to bytes
        PNG files by title.

    Returns
    -------
    list of Path
        What was written.
    """
    folder, name, index = _place(project, version)
    paths = [folder / f"{name}_{re.sub(r'[^A-Za-z0-9]+', '_', title)}.png" for title in pictures]
    for path, content in zip(paths, pictures.values(), strict=True):
        replace_file(path, content)
    said = {"version": version.path.name, "files": [path.name for path in paths]}
    replace_file(index, json.dumps(said).encode())
    return paths


def write_pictures(project: Project, version: Version) -> list[Path]:
    """Find the pictures of an output, or take them out of Dagster's records.

    Opening those takes about a second of processor time. A run keeps the pictures of what it makes,
    so they are opened for outputs of before that, or if somebody has removed the pictures.

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
    folder, _, index = _place(project, version)
    written = json.loads(index.read_text()) if index.exists() else {}
    paths = [folder / file for file in written.get("files", [])]
    if written.get("version") == version.path.name and all(path.exists() for path in paths):
        return paths
    return keep_pictures(project, version, _recorded(project, version))


def _place(project: Project, version: Version) -> tuple[Path, str, Path]:
    """Folder of the pictures, what the names begin with, and the file that lists them."""
    folder = project.outputs / "pictures"
    name = "_".join([version.asset, *version.partition.values()])
    return folder, name, folder / f".{name}.json"


def _recorded(project: Project, version: Version) -> dict[str, bytes]:
    """Pictures of the newest record that has any, by title; one that was kept has none."""
    # Loads sqlalchemy, which takes long.
    from trend_dagster.orchestration.instance import open_records

    key = to_key(version.partition)
    which = dg.AssetRecordsFilter(
        asset_key(version.asset), asset_partitions=None if key is None else [key]
    )
    with open_records(project.folder) as instance:
        records = instance.fetch_materializations(which, limit=10).records if instance else []
    for record in records:
        materialization = record.asset_materialization
        metadata = materialization.metadata if materialization else {}
        found = {
            title: base64.b64decode(match.group(1))
            for title, value in metadata.items()
            if (match := _PICTURE.fullmatch(str(value.value)))
        }
        if found:
            return found
    return {}
