"""Pictures of time series."""

from __future__ import annotations

import io
import math
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import new_figure, to_png

if TYPE_CHECKING:
    from PIL import Image

MAX_ROWS = 160  # the carpet is 177 pixels high, and looked at for stripes, not for vertices
_INCHES, _DPI = (4.5, 2.2), 110
_AXES = (0.07, 0.23, 0.91, 0.73)  # left, bottom, width, height, in shares of the figure
_DEVIATIONS = 2.0  # of a vertex, shown as black and as white
_GREYS = 32  # more are not told apart, and make a larger file


def carpet_png(bold: NDArray[np.float32], max_bytes: int = 40_000) -> bytes:
    """Draw BOLD as a carpet: vertices down, time across, grey is signal.

    There is a picture for each run of a cohort, so axes and words are drawn once for all runs that
    share them, and the carpet is laid into them.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        Only vertices with signal, in any unit.
    max_bytes : int
        Largest size; fewer vertices are shown until the picture fits.

    Returns
    -------
    bytes
        A PNG file. Vertical stripes are events that all vertices share, such as motion.
    """
    n_rows = MAX_ROWS
    picture = _with_carpet(bold, n_rows)
    while len(picture) > max_bytes and n_rows > 1:
        n_rows = int(n_rows * min(0.9, max_bytes / len(picture)))
        picture = _with_carpet(bold, n_rows)
    return picture


def _with_carpet(bold: NDArray[np.float32], n_rows: int) -> bytes:
    from PIL import Image

    step = max(1, math.ceil(len(bold) / max(n_rows, 1)))
    shown = bold[::step]
    shown = shown - shown.mean(axis=1, keepdims=True)
    scale = _DEVIATIONS * shown.std(axis=1, keepdims=True)
    shown = np.clip(shown / np.where(scale > 0, scale, 1), -1, 1)
    grey = np.rint((shown + 1) / 2 * (_GREYS - 1)) * (255 / (_GREYS - 1))
    frame, (left, upper, right, lower) = _frame(bold.shape[1], step)
    carpet = Image.fromarray(grey.astype(np.uint8))
    size = (right - left, lower - upper)
    picture = frame.copy()
    picture.paste(carpet.resize(size, Image.Resampling.NEAREST), (left, upper))
    target = io.BytesIO()
    picture.save(target, "PNG")
    return target.getvalue()


@lru_cache(maxsize=16)
def _frame(n_timepoints: int, step: int) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """Draw axes and words; return them and the place of the carpet, in pixels."""
    from PIL import Image

    figure = new_figure(figsize=_INCHES)
    axes = figure.add_axes(_AXES)
    axes.set_xlim(-0.5, n_timepoints - 0.5)
    axes.set_xlabel("timepoint")
    axes.set_ylabel("vertices" if step == 1 else f"every {step}th vertex")
    axes.set_yticks([])
    with Image.open(io.BytesIO(to_png(figure, _DPI))) as png:
        picture = png.convert("L")
    width, height = picture.size
    left, bottom, across, up = _AXES
    edges = (
        left * width,
        (1 - bottom - up) * height,
        (left + across) * width,
        (1 - bottom) * height,
    )
    x0, y0, x1, y1 = (round(edge) for edge in edges)
    return picture, (x0 + 1, y0 + 1, x1, y1)  # within the lines of the axes
