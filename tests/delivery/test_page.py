"""The report's page by itself: what comes from outside cannot become part of it."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from trend_dagster.delivery.page import Chosen, Metric, Report, ShownCell, render
from trend_dagster.delivery.report import MAX_LABEL_BYTES, MAX_SHOWN
from trend_dagster.science.surface import Surface

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"'`{{ 7*7 }} \u2028"

TETRAHEDRON = np.array([[0, 1, 2], [0, 2, 3], [0, 3, 1], [1, 3, 2]])
PICTURE = b"\x89PNG"


def report(text: str, **more) -> Report:
    row = {"label_file": text, "n_components": 4, "n_clusters": 2, "alpha_W": 1e-4, "l1_ratio": 0.4}
    cells = [{**row, "silhouette": float("nan"), "chosen": True}]
    points = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)
    surface = Surface(
        points, np.concatenate([TETRAHEDRON, TETRAHEDRON + 4]), np.repeat([0, 1], 4).astype(np.int8)
    )
    labels = np.array([0, 0, 0, -1, 1, 1, 1, -1])
    values = {
        "project": text,
        "note": text,
        "date": "2026-01-01",
        "software": "trend_dagster 0",
        "runs": [
            {
                "run": text,
                "subject": text,
                "n_vertices": 8,
                "n_vertices_without_signal": 2,
                "n_volumes": None,
                "n_kept": None,
                "minutes": None,
                "mean_fd": None,
                "temporal_snr": None,
                "excluded": text,
                "used_for": "the average",
            }
        ],
        "doubts": [text],
        "label_files": [{"label_file": text, "n_labels": 2, "digest": "0"}],
        "imported": {text: text},
        "settings": text,
        "training": {
            "facts": {"a": text},
            "epoch": [1],
            "train_loss": [1.0],
            "validation_loss": [None],
        },
        "own": text,
        "columns": {"label_file": "Label file", "silhouette": "Silhouette"},
        "cells": cells,
        "metrics": [Metric("silhouette", "Silhouette", text)],
        "shown": [ShownCell(0, text, labels, [text, "b"], [(1, 2, 3), (4, 5, 6)])],
        "chosen": [
            Chosen(2, {"a": text}, text, text, PICTURE, PICTURE, [], [{"Label file": text}]),
        ],
        "rule": text,
        "not_null_corrected": text,
        "surface": surface,
        "newborns": [
            {
                "subject": text,
                "n_clusters": 2,
                "minutes": None,
                "mean_fd": None,
                "share": 0.1,
                "null": 0.02,
                "z": 8.0,
                "different": True,
                "excess_vertices": 96.2,
            }
        ],
        "pages": True,
        "not_associated": [text],
        "provenance": [
            {
                "output": text,
                "digest": "0",
                "created": "0",
                "code_version": "1",
                "imported_from": text,
            }
        ],
        "libraries": {"numpy": text},
    }
    return Report(**{**values, **more})


@pytest.fixture(scope="module")
def pages() -> tuple[str, str]:
    return render(report("plain")), render(report(EVIL))


def without_plotly(page: str) -> str:
    start, end = page.index("plotly.js v"), page.rindex("</script>", 0, page.rindex("<script>"))
    return page[:start] + page[end:]


def test_names_from_files_add_no_element(pages):
    plain, evil = (without_plotly(page) for page in pages)
    for pattern in (r"<script", r"</script", r"<img", r"<[a-z]"):
        assert len(re.findall(pattern, evil)) == len(re.findall(pattern, plain))
    assert "{{ 7*7 }}" in evil  # no template of ours either


def test_data_for_the_script_comes_through_unchanged(pages):
    _, evil = pages
    (embedded,) = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', evil, re.DOTALL
    )
    data = json.loads(embedded)
    assert data["cells"][0]["label_file"] == EVIL
    assert data["cells"][0]["silhouette"] is None
    assert data["shown"][0]["names"] == [EVIL, "b"]


def test_the_page_forbids_itself_the_network(pages):
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', pages[0])
    assert "default-src 'none'" in policy
    assert "http" not in policy
    assert not re.search(r"<(script|link|img|iframe)[^>]+(src|href)=\"(?!data:)", pages[0])


def test_a_page_of_the_finest_usual_mesh_stays_below_30_mb(rng):
    """With as many cells as are shown, and pictures of the size that they have."""
    n = 32492
    triangles = rng.integers(0, n, (2 * n - 4, 3)).astype(np.int32)
    surface = Surface(
        rng.normal(size=(2 * n, 3)).astype(np.float32),
        np.concatenate([triangles, triangles + n]),
        np.repeat([0, 1], n).astype(np.int8),
    )
    labels = rng.integers(-1, 14, 2 * n)
    names, colours = [f"LR_{i:02d}" for i in range(14)], [(1, 2, 3)] * 14
    n_shown = min(MAX_SHOWN, MAX_LABEL_BYTES // (2 * 2 * n))
    shown = [ShownCell(0, "cell", labels, names, colours) for _ in range(n_shown)]
    picture = PICTURE + rng.bytes(400_000)
    row = [{"Label file": "surface_002"}]
    chosen = [Chosen(14, {}, "", "", picture, picture, [], row) for _ in range(2)]
    page = render(report("x", surface=surface, shown=shown, chosen=chosen))
    assert n_shown > 10
    assert 7e6 < len(page.encode()) < 30e6


def test_without_a_surface_or_training_their_sections_are_left_out():
    page = render(report("x", surface=None, shown=[], training=None, runs=[]))
    assert 'id="surface"' not in page
    assert 'id="training"' not in page
    assert "brought from elsewhere" in page
