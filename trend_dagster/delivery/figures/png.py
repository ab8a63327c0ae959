"""Figures -> PNG bytes, without pyplot: nothing is kept open and no display is needed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL import Image


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


def small_png(figure: Figure, max_bytes: int = 40_000) -> bytes:
    """Render a figure small enough to travel in the metadata of a materialization.

    Parameters
    ----------
    figure : Figure
        Any matplotlib figure.
    max_bytes : int
        Largest size; resolution is lowered until the picture fits.

    Returns
    -------
    bytes
        A PNG file with a palette of 255 colours.
    """
    dpi = 110
    picture = _with_palette(to_png(figure, dpi))
    while len(picture) > max_bytes and dpi > 20:
        # Bytes grow a little slower than the number of pixels.
        dpi = int(dpi * min(0.95, (max_bytes / len(picture)) ** 0.6))
        picture = _with_palette(to_png(figure, dpi))
    return picture


def _with_palette(png: bytes) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        return palette_png(picture.convert("RGB"))


def palette_png(picture: Image.Image) -> bytes:
    """Write a picture as a PNG file with a palette of 255 colours."""
    from PIL import Image

    target = io.BytesIO()
    few = picture.quantize(255, dither=Image.Dither.NONE)
    few.save(target, "PNG", optimize=True)
    return target.getvalue()
