"""Figures -> PNG bytes, without pyplot: nothing is kept open and no display is needed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(**how: Any) -> Figure:
    """Make an empty figure; see :class:`matplotlib.figure.Figure` for what it takes."""
    from matplotlib.figure import Figure

    return Figure(**how)


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """Render a figure.

    Parameters
    ----------
    figure : Figure
        Any matplotlib figure; it is not changed.
    dpi : int
        Dots per inch of its size.

    Returns
    -------
    bytes
        A PNG file.
    """
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=dpi, facecolor="white")
    return target.getvalue()


def small_png(figure: Figure, max_bytes: int = 40_000, dpi: int = 110) -> bytes:
    """Render a figure small enough to travel in the metadata of a materialization.

    Parameters
    ----------
    figure : Figure
        Any matplotlib figure.
    max_bytes : int
        Largest size; resolution is lowered until the picture fits.
    dpi : int
        Resolution to begin with; each lower one that has to be tried takes its time.

    Returns
    -------
    bytes
        A PNG file with a palette of 255 colours.
    """
    picture = _with_palette(to_png(figure, dpi))
    while len(picture) > max_bytes and dpi > 20:
        # Bytes grow a little slower than the number of pixels.
        dpi = int(dpi * min(0.95, (max_bytes / len(picture)) ** 0.6))
        picture = _with_palette(to_png(figure, dpi))
    return picture


def _with_palette(png: bytes) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        few = picture.convert("RGB").quantize(255, dither=Image.Dither.NONE)
    few.save(target, "PNG", optimize=True)
    return target.getvalue()
