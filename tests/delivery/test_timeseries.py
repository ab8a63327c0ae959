"""The carpet of a run shows what all vertices share, where it happened."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from trend_dagster.delivery.figures.timeseries import carpet_png


@pytest.mark.parametrize(("n_vertices", "n_timepoints"), [(24, 12), (5000, 300)])
def test_an_event_is_a_stripe_at_its_timepoint(n_vertices, n_timepoints):
    rng = np.random.default_rng(0)
    bold = rng.standard_normal((n_vertices, n_timepoints)).astype(np.float32)
    bold[0] = 0  # a vertex without signal divides by nothing
    when = n_timepoints // 3
    bold[1:, when] += 20
    png = carpet_png(bold, max_bytes=30_000)
    assert len(png) <= 30_000
    grey = np.asarray(Image.open(io.BytesIO(png)), dtype=float)
    rows = grey[40:150, 50:440].mean(axis=0)
    place = 50 + np.median(np.flatnonzero(rows == rows.max()))
    left, width = 0.07 * grey.shape[1], 0.91 * grey.shape[1]
    assert place == pytest.approx(left + (when + 0.5) / n_timepoints * width, abs=3)
