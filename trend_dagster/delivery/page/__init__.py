"""The report: one HTML file that works offline, on a phone and on paper.

Everything that a reader needs is in the HTML itself; the script only adds to it: sorting, heat
maps, and the surface that can be turned. The page forbids itself every network request.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.science.surface import Surface, hemisphere_triangles
from trend_dagster.storage.label_images import Network

FloatArray = NDArray[np.floating]
GAP = 12.0  # mm between the hemispheres
HISTORY = ("epoch", "train_loss", "validation_loss")
SULCUS = 0.18  # how much darker a deep one is drawn


@dataclass(frozen=True)
class Metric:
    """A column of the sweep that can be looked at as a heat map.

    Parameters
    ----------
    name : str
        Column of the trained model's own values.
    title : str
        Its title on the page.
    help : str
        What it means and which way is good.
    beside : mapping of str to str
        Title -> column of what it must be compared with: controls, nulls.
    """

    name: str
    title: str
    help: str
    beside: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownCell:
    """A cell of the sweep that can be looked at on the surface.

    Parameters
    ----------
    row : int
        Its place in the table.
    title : str
        Its name.
    labels : ndarray of shape (n_vertices,)
        Cluster of each vertex, -1 without signal.
    names : sequence of str
        Name of each cluster.
    colours : sequence of (red, green, blue)
        Colour of each cluster, 0 to 255.
    """

    row: int
    title: str
    labels: NDArray[np.integer]
    names: Sequence[str]
    colours: Sequence[tuple[int, int, int]]


@dataclass(frozen=True)
class Chosen:
    """A chosen parcellation.

    Parameters
    ----------
    n_clusters : int
        How many networks.
    facts : mapping of str to str
        What is known of it, in words.
    finding : str
        Whether it is more than noise, in a sentence; empty where that is not known.
    verdict : str
        How it compares with its controls, in a sentence; empty without controls.
    picture, correlation : bytes
        PNG files: the parcellation, and the correlation matrix sorted by it.
    networks : sequence of Network
        Rows of its label table: name, colour, vertices.
    ranking : sequence of mapping
        The best cells by the rule, the chosen one first.
    """

    n_clusters: int
    facts: Mapping[str, str]
    finding: str
    verdict: str
    picture: bytes
    correlation: bytes
    networks: Sequence[Network]
    ranking: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Report:
    """Everything that the report says.

    Parameters
    ----------
    project : str
        Name of the project.
    note : str
        The user's sentence about the data; empty if there is none.
    date : str
        Day of the newest result in it.
    software : str
        Name and version of this package.
    runs, label_files : sequence of mapping
        What went in, a row each.
    imported : mapping of str to str
        Name of the file that outputs of an asset were imported from.
    settings : str
        Settings that decided something, as YAML.
    training : mapping, optional
        ``facts`` in words, and lists ``epoch``, ``train``, ``validation``.
    own : str
        What the features of the sweep come from, as the heat maps name it.
    columns : mapping of str to str
        Columns of the sweep's table and their titles.
    cells : sequence of mapping
        Rows of that table.
    metrics : sequence of Metric
        What can be drawn as a heat map.
    shown : sequence of ShownCell
        Cells for the surface.
    chosen : sequence of Chosen
        The chosen parcellations.
    rule : str
        How they were chosen.
    not_null_corrected : str, optional
        Why stability played no part in it; None if it did.
    surface : Surface, optional
        The mesh.
    newborns : sequence of mapping
        A row for each newborn and number of clusters.
    pages : bool
        Whether each newborn has a page of its own.
    not_associated : sequence of str
        Associations of newborns that were asked for and not made, with the reason; newborns that
        the participants table has no row of.
    provenance : sequence of mapping
        The outputs that it was made from.
    libraries : mapping of str to str
        Versions of libraries.
    """

    project: str
    note: str
    date: str
    software: str
    runs: Sequence[Mapping[str, Any]]
    doubts: Sequence[str]
    label_files: Sequence[Mapping[str, Any]]
    imported: Mapping[str, str]
    settings: str
    training: Mapping[str, Any] | None
    own: str
    columns: Mapping[str, str]
    cells: Sequence[Mapping[str, Any]]
    metrics: Sequence[Metric]
    shown: Sequence[ShownCell]
    chosen: Sequence[Chosen]
    rule: str
    not_null_corrected: str | None
    surface: Surface | None
    newborns: Sequence[Mapping[str, Any]]
    pages: bool
    not_associated: Sequence[str]
    provenance: Sequence[Mapping[str, Any]]
    libraries: Mapping[str, str]


def render(report: Report) -> str:
    """Write the report as one HTML page.

    Parameters
    ----------
    report : Report
        What it says.

    Returns
    -------
    str
        HTML; every text from outside is escaped.
    """
    from jinja2.utils import htmlsafe_json_dumps
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    return render_page(
        "page.html",
        report=report,
        script=Markup(_resource("surface.js") + _resource("page.js")),
        plotly=Markup(get_plotlyjs()),
        # Escaped so that no name from a file ends the script.
        data=htmlsafe_json_dumps(_data(report), allow_nan=False, separators=(",", ":")),
    )


def render_page(template: str, **said: Any) -> str:
    """Fill a template of this folder in; every text is escaped, and the style is that of all."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"shown": _shown, "data_url": _data_url}
    page = environment.from_string(_resource(template))
    return page.render(style=Markup(_resource("page.css")), **said)


def _resource(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _data(report: Report) -> dict[str, Any]:
    """What the script draws."""
    training = report.training or {}
    return {
        "cells": [{k: _finite(v) for k, v in cell.items()} for cell in report.cells],
        "own": report.own,
        "metrics": [vars(metric) for metric in report.metrics],
        "training": {
            name: [_finite(value) for value in training.get(name, [])] for name in HISTORY
        },
        "surface": None if report.surface is None else _mesh(report.surface),
        "shown": [vars(cell) | {"labels": _base64(cell.labels, "<i2")} for cell in report.shown],
    }


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _mesh(surface: Surface) -> list[dict[str, Any]]:
    """Both hemispheres beside each other, as the script reads them."""
    points = surface.coordinates if surface.inflated is None else surface.inflated
    depth = np.zeros(len(points)) if surface.sulcal_depth is None else surface.sulcal_depth
    groove = SULCUS * (np.tanh(depth) + 1) / 2
    parts = []
    for side, towards in ((0, -1), (1, 1)):
        inside, triangles = hemisphere_triangles(surface, side)
        own = points[inside].astype(np.float64)
        edge = own[:, 0].max() if towards < 0 else own[:, 0].min()
        own[:, 0] += towards * GAP / 2 - edge
        own[:, 1:] -= own[:, 1:].mean(axis=0)
        parts.append(
            {
                "side": ("left", "right")[side],
                "vertices": [int(inside[0]), len(inside)],
                "points": _base64(own, "<f4"),
                "groove": _base64(np.rint(255 * groove[inside]), "u1"),
                "triangles": _base64(triangles, "<u4" if len(inside) > 65535 else "<u2"),
                "wide": len(inside) > 65535,
            }
        )
    return parts


def _base64(array: NDArray[Any], dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array).astype(dtype).tobytes()).decode()


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _shown(value: Any) -> str:
    """Write a value the way a reader wants it in a table."""
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, float):
        if value == 0 or 0.001 <= abs(value) < 1000:
            return f"{value:.3f}"
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:g}"
    return str(value)
