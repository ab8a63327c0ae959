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
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import report, result_path
from benchmarks.meshes import cortex
from trend_dagster.delivery.page import Report, ShownCell, render

N_NETWORKS = 14
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")

# Moves the mouse with each frame that the browser has drawn, for some seconds.
TURN = """async (seconds) => {
  const mesh = document.getElementById("mesh");
  const box = mesh.getBoundingClientRect();
  const at = (name, x, y) => mesh.querySelector("canvas").dispatchEvent(new MouseEvent(name, {
    bubbles: true, view: window, buttons: name === "mouseup" ? 0 : 1,
    clientX: box.x + box.width / 2 + x, clientY: box.y + box.height / 2 + y,
  }));
  const camera = () => JSON.stringify(mesh._fullLayout.scene._scene.getCamera().eye);
  const before = camera();
  at("mousedown", 0, 0);
  const frames = await new Promise((done) => {
    const began = performance.now();
    let n = 0;
    const next = () => {
      const elapsed = performance.now() - began;
      if (elapsed > 1000 * seconds) return done(n / elapsed * 1000);
      n += 1;
      at("mousemove", 200 * Math.sin(n / 10), 30 * Math.cos(n / 10));
      requestAnimationFrame(next);
    };
    requestAnimationFrame(next);
  });
  at("mouseup", 0, 0);
  return [frames, camera() !== before];
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
    from playwright.sync_api import sync_playwright

    browser = next((which for name in CHROMIUM if (which := shutil.which(name))), None)
    if browser is None:
        raise SystemExit("no Chromium on this machine (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser,
            args=["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        opened = chromium.new_page(viewport={"width": 1280, "height": 900})
        began = time.perf_counter()
        opened.goto(path.as_uri())
        opened.wait_for_function("document.querySelector('#mesh canvas')")
        opened.evaluate("new Promise((drawn) => requestAnimationFrame(() => setTimeout(drawn)))")
        shown = time.perf_counter() - began
        turns = [opened.evaluate(TURN, seconds) for _ in range(repeats)]
        chromium.close()
    if not all(turned for _, turned in turns):
        raise SystemExit("the surface did not turn")
    return {"seconds_to_show": shown, "frames_per_second": max(frames for frames, _ in turns)}


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
