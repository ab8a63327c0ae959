"""The surface of the report on a fine mesh: size of the page, and how fluently it turns.

``python -m benchmarks.page --vertices 64984`` writes a report with fourteen networks on such a
mesh, opens it in headless Chromium, which draws in software where there is no graphics card, and
turns the surface with the mouse. The last line is one JSON object: ``mib`` of the page,
``seconds_to_show`` until the surface is drawn, ``frames_per_second`` while it turns (the best of
some turns).
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import report, result_path
from benchmarks.meshes import cortex
from trend_dagster.delivery.page import Report, ShownCell, render

N_NETWORKS = 14
CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)

# Counts the frames in which the surface was drawn.
COUNT = """() => {
  const kind = WebGL2RenderingContext.prototype, draw = kind.drawElements;
  let drawn = false;
  kind.drawElements = function (...given) { drawn = true; return draw.apply(this, given); };
  window.frames_drawn = 0;
  const next = () => {
    window.frames_drawn += drawn;
    drawn = false;
    requestAnimationFrame(next);
  };
  requestAnimationFrame(next);
}"""


def page(n_vertices: int) -> str:
    """Write a report with nothing in it but a surface."""
    surface = cortex(n_vertices)
    assert surface.medial_wall is not None
    # Networks as wedges of each sphere.
    x, y = surface.coordinates[:, 1], surface.coordinates[:, 2]
    wedge = ((np.arctan2(y, x) / (2 * np.pi) % 1) * N_NETWORKS / 2).astype(np.int64)
    labels = np.where(surface.medial_wall, -1, wedge + N_NETWORKS // 2 * surface.hemisphere)
    shades = np.linspace(20, 235, N_NETWORKS).astype(int).tolist()
    colours = [(shade, 255 - shade, 120) for shade in shades]
    cell = ShownCell(0, "", labels, [f"network {k + 1}" for k in range(N_NETWORKS)], colours)
    empty: dict[str, Any] = {
        field.name: {"str": "", "bool": False}.get(str(field.type), ()) for field in fields(Report)
    }
    mappings: dict[str, Any] = {"imported": {}, "columns": {}, "libraries": {}, "training": None}
    return render(Report(**empty | mappings | {"surface": surface, "shown": [cell]}))


@contextmanager
def launched(executable: str) -> Iterator[Any]:
    """Start Chromium, drawing in software and asking nobody; end it afterwards."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=executable,
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader",
            ],
        )
        yield chromium
        chromium.close()


def turn(path: Path, seconds: float, repeats: int) -> dict[str, float]:
    """Open a page and turn its surface.

    Parameters
    ----------
    path : Path
        The page.
    seconds : float
        How long it turns.
    repeats : int
        How often.

    Returns
    -------
    dict of str to float
        ``seconds_to_show`` and ``frames_per_second``.
    """
    if CHROMIUM is None:
        raise SystemExit("no Chromium on this machine (Debian: apt-get install chromium)")
    with launched(CHROMIUM) as chromium:
        opened = chromium.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        opened.goto(path.as_uri())
        opened.wait_for_function("document.querySelector('#mesh canvas')")
        opened.evaluate("new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)))")
        shown = time.perf_counter() - began
        opened.evaluate(COUNT)
        rates = [_turn_once(opened, seconds) for _ in range(repeats)]
    return {"seconds_to_show": shown, "frames_per_second": max(rates)}


def _turn_once(opened: Any, seconds: float) -> float:
    """Drag the surface to and fro, as a hand does; in how many frames a second it is drawn."""
    mesh = opened.locator("#mesh")
    mesh.scroll_into_view_if_needed()
    before, box = mesh.screenshot(), mesh.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    opened.mouse.move(x, y)
    opened.mouse.down()
    n_before, began = opened.evaluate("window.frames_drawn"), time.perf_counter()
    while (elapsed := time.perf_counter() - began) < seconds:
        opened.mouse.move(x + 200 * np.sin(3 * elapsed), y + 30 * np.cos(3 * elapsed))
    n_drawn = opened.evaluate("window.frames_drawn") - n_before
    elapsed = time.perf_counter() - began
    if mesh.screenshot() == before:
        raise SystemExit("the surface did not turn")
    opened.mouse.up()
    return float(n_drawn / elapsed)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--vertices", type=int, default=64984)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each turn")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", action="store_true", help="write figures to benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "report.html"
        path.write_text(page(args.vertices), encoding="utf-8")
        figures = {
            "vertices": args.vertices,
            "mib": path.stat().st_size / 2**20,
            **turn(path, args.seconds, args.repeats),
        }
    report(figures, result_path("page") if args.keep else None)


if __name__ == "__main__":
    main()
