"""What a project has stored, as xarray: ``trend_dagster.open("study")["average_correlation"]``.

What belongs here: reading. What does not: making anything (``trend run`` does).
"""

from __future__ import annotations

import shlex
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trend_dagster.errors import InputError, MissingUpstreamError
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import Settings, nearest
from trend_dagster.storage.schema import SCHEMA
from trend_dagster.storage.stores import POINTER, Partition, Version, describe

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class Study:
    """What a project has stored. Nothing is read before it is asked for.

    Parameters
    ----------
    project : Project
        The project; :func:`trend_dagster.open` opens one.

    Examples
    --------
    >>> study = trend_dagster.open("demo")
    >>> study["average_correlation"]["correlation"]  # an asset that is one output
    >>> study["bold", "sub-01_run-1"]  # one output of an asset that has several
    >>> study.partitions("nmf_sweep")  # which ones there are
    """

    project: Project

    def __repr__(self) -> str:
        return f"<Study {self.folder}: {', '.join(self.assets)}>"

    @property
    def folder(self) -> Path:
        """Folder of the project."""
        return self.project.folder

    @property
    def settings(self) -> Settings:
        """Its settings, as they are today."""
        return self.project.settings

    @property
    def assets(self) -> list[str]:
        """Names of the assets of which anything is stored."""
        return [asset for asset in SCHEMA if self.partitions(asset)]

    def partitions(self, asset: str) -> list[Partition]:
        """Outputs of an asset that are stored, each by its keys; ``[{}]`` where it has but one.

        Raises
        ------
        InputError
            If there is no such asset; the nearest name is named.
        """
        if asset not in SCHEMA:
            raise InputError(
                f"asset {asset!r}",
                expected=f"one of {', '.join(SCHEMA)}",
                found="no such asset" + nearest(asset, SCHEMA),
                remedy="Correct the name.",
            )
        folder = self.project.store.folder(asset, {})
        found = sorted(path.parent.relative_to(folder) for path in folder.rglob(POINTER))
        return [dict(part.split("=", 1) for part in path.parts) for path in found]

    def version(self, asset: str, *keys: str) -> Version:
        """The stored version of an output: arrays as zarr, facts, recipe, attached files.

        Parameters
        ----------
        asset : str
            Its asset.
        *keys : str
            Its partition: a run, a label file, a label file and a number of components.

        Raises
        ------
        InputError
            If there is no such asset, or it has several outputs and the keys tell none of them.
        MissingUpstreamError
            If nothing of the asset is stored; says what makes it.
        """
        there = self.partitions(asset)
        if not there:
            raise MissingUpstreamError(
                f"{asset} of project {self.folder}",
                expected="a stored output",
                found="none",
                remedy=f"`trend run {shlex.quote(str(self.folder))} --select +{asset}` makes it.",
            )
        chosen = [p for p in there if tuple(p.values()) == tuple(map(str, keys))]
        if not chosen:
            shown = "; ".join(", ".join(p.values()) or "no key" for p in there[:5])
            raise InputError(
                f"output {', '.join((asset, *map(str, keys)))}",
                expected=f"keys of one of {len(there)}: {shown}{'; ...' if there[5:] else ''}",
                found=", ".join(map(str, keys)) or "no key",
                remedy="Name one: study[asset, key, ...]; study.partitions(asset) lists them.",
            )
        version = self.project.store.latest(asset, chosen[0])
        assert version is not None  # its pointer is there
        return version

    def __getitem__(self, key: str | tuple[str, ...]) -> xr.Dataset:
        """Open one output; arrays are read when they are used."""
        import xarray as xr

        asset, *keys = (key,) if isinstance(key, str) else key
        version = self.version(asset, *keys)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of files that lie beside the arrays
            opened: xr.Dataset = xr.open_zarr(
                version.group.store, consolidated=False, decode_cf=False, chunks=None
            )
            opened.attrs["output"] = describe(asset, version.partition)
            return _with_distinct_dims(opened)


def _with_distinct_dims(opened: xr.Dataset) -> xr.Dataset:
    """Name the columns of a matrix between vertices otherwise than its rows, as xarray needs it."""
    renamed = {}
    for name, variable in opened.variables.items():
        dims = [f"{d}_2" if d in variable.dims[:i] else d for i, d in enumerate(variable.dims)]
        if tuple(dims) != variable.dims:
            renamed[name] = variable.copy(deep=False)
            renamed[name].dims = tuple(dims)
    return opened.drop_vars(list(renamed)).assign(renamed)
