"""Pictures of time series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.png import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 300  # a carpet is looked at for stripes, not for single vertices


def carpet_figure(bold: NDArray[np.float32]) -> Figure:
    """Draw BOLD as a carpet: vertices down, time across, grey is signal.

    Parameters
    ----------
    bold : ndarray of shape (n_vertices, n_timepoints)
        Only vertices with signal, in any unit.

    Returns
    -------
    Figure
        Vertical stripes are events that all vertices share, such as motion.
    """
    step = max(1, len(bold) // MAX_ROWS)
    shown = bold[::step]
    shown = shown - shown.mean(axis=1, keepdims=True)
    scale = shown.std(axis=1, keepdims=True)
    shown = shown / np.where(scale > 0, scale, 1)
    # Placed by hand: a layout that is computed draws twice, and there is a picture for each run.
    figure = new_figure(figsize=(4.5, 2.2))
    axes = figure.add_axes((0.07, 0.23, 0.91, 0.73))
    axes.imshow(shown, aspect="auto", cmap="gray", vmin=-2, vmax=2, interpolation="nearest")
    axes.set_xlabel("timepoint")
    axes.set_ylabel("vertices" if step == 1 else f"every {step}th vertex")
    axes.set_yticks([])
    return figure
