"""Figures that are finished are kept, and not computed twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import trend_dagster
from trend_dagster.errors import StoreError
from trend_dagster.files import replace_file
from trend_dagster.storage.provenance import digest_of, digest_of_file, library_versions

Figures = dict[str, Any]


@dataclass(frozen=True)
class FigureFolder:
    """A folder of finished figures, one small file for each.

    A figure is found again only if everything that decides it is the same: the cohort, the
    approach, its settings, the code of the method and the libraries under it.

    Parameters
    ----------
    folder : Path
        Made when the first figure is kept.
    """

    folder: Path

    def path(self, section: str, identity: Mapping[str, Any]) -> Path:
        """File of one figure."""
        everything = {"identity": identity, "code": code_digest(), "libraries": library_versions()}
        return self.folder / section / f"{digest_of(everything)}.json"

    def get(
        self, section: str, identity: Mapping[str, Any], compute: Callable[[], Figures]
    ) -> Figures:
        """Return a figure; compute and keep it if it is not there.

        Parameters
        ----------
        section : str
            Which part of the validation it belongs to.
        identity : mapping
            Everything besides code that decides it, as JSON can store it.
        compute : callable
            Makes the figures, as JSON can store them.

        Returns
        -------
        dict
            The figures.

        Raises
        ------
        StoreError
            If the file is there and cannot be read.
        """
        path = self.path(section, identity)
        if not path.exists():
            figures = compute()
            text = json.dumps({"identity": identity, "figures": figures}, indent=1)
            replace_file(path, text.encode())
        try:
            found: Figures = json.loads(path.read_text())["figures"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"kept figure {path}",
                expected="a file that this command wrote",
                found=str(error),
                remedy="Delete it; it is computed anew.",
            ) from error
        return found


@cache
def code_digest() -> str:
    """Digest of the code that decides figures: the method, and how it is validated."""
    package = Path(trend_dagster.__file__).parent
    files = [f for folder in ("science", "validation") for f in (package / folder).rglob("*.py")]
    return digest_of({str(f.relative_to(package)): digest_of_file(f) for f in sorted(files)})
