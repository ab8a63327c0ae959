"""The report of the demo, in a real browser: everything is drawn, nothing is fetched."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.browser import browser  # noqa: F401 - a fixture
from tests.delivery.test_figures import hue_of
from trend_dagster.project.folder import Project

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.xdist_group("demo")]

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def report(made):
    folder, done = made
    assert done.returncode == 0, done.stderr
    return folder / "outputs" / "report.html"


def opened(browser, report, size):  # noqa: F811
    """A page with all it complained of and all it asked for."""
    page = browser.new_page(viewport=size)
    page.complaints, page.asked = [], []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("console", lambda m: m.type == "error" and page.complaints.append(m.text))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(report.as_uri())
    page.wait_for_function("document.querySelectorAll('#mesh canvas').length > 0")
    page.wait_for_timeout(1500)
    return page


@pytest.fixture(scope="module")
def page(browser, report):  # noqa: F811
    page = opened(browser, report, DESK)
    yield page
    page.close()


def pixels(page, selector):
    png = page.locator(selector).screenshot()
    if folder := os.environ.get("TREND_SCREENSHOTS"):
        (Path(folder) / f"report{selector.replace('#', '_')}.png").write_bytes(png)
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB")) / 255


def changed(page, before, share=0.005, seconds=15):
    """The surface when it no longer looks as before."""
    for _ in range(2 * seconds):
        now = pixels(page, "#mesh")
        if (now != before).any(axis=2).mean() > share:
            return now
        page.wait_for_timeout(500)
    return pytest.fail("the surface looks as before")


def test_no_complaint_and_no_request(page, report):
    assert page.complaints == []
    assert [u for u in page.asked if not u.startswith(("data:", "blob:"))] == [report.as_uri()]


def test_every_chart_is_drawn(page):
    assert (
        page.locator(".chart").count() == 3 + 3
    )  # surface, sizes, loss; heat maps of 1 n_clusters
    for chart in page.locator(".chart").all():
        assert chart.locator("svg, canvas").count() > 0
        with Image.open(io.BytesIO(chart.screenshot())) as image:
            assert len(image.convert("RGB").getcolors(1 << 24)) > 20
    assert page.locator("#sizes .point").count() == 14
    assert page.locator("#loss .lines .js-line").count() == 2


def test_the_surface_shows_the_networks_and_turns(page):
    before = pixels(page, "#mesh")
    for view in ("left-lateral", "left-medial", "right-lateral", "right-medial", "both"):
        page.click(f"[data-view={view}]")
        before = changed(page, before)
        assert np.isfinite(hue_of(before)).mean() > 0.1, view
    page.focus("#mesh")
    page.keyboard.press("ArrowLeft")
    before = changed(page, before)
    box = page.locator("#mesh").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 90, y + 40, steps=3)
    page.mouse.up()
    before = changed(page, before)
    page.mouse.wheel(0, -400)
    changed(page, before)


def test_the_network_under_the_pointer_is_named(page):
    page.click("[data-view=left-lateral]")
    page.wait_for_timeout(1500)
    box = page.locator("#mesh").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    name = page.locator("#mesh .hover")
    assert name.is_visible()
    shown = page.eval_on_selector("#sizes", "chart => chart.data[0].x")
    assert name.text_content() in shown
    page.mouse.move(box["x"] + 3, box["y"] + 3)
    assert not name.is_visible()


def test_another_cell_is_another_picture(page):
    page.click("[data-view=left-lateral]")
    page.wait_for_timeout(1500)
    before = pixels(page, "#mesh")
    page.select_option("#cell", "1")
    changed(page, before)
    title = page.locator("#cell option").nth(1).text_content()
    assert page.locator("#cell-said").text_content() == title


def test_a_metric_is_drawn_on_one_scale_with_its_controls(page):
    for value in range(page.locator("#metric option").count()):
        page.select_option("#metric", str(value))
        page.wait_for_timeout(300)
        scales = page.eval_on_selector_all(
            ".heatmap", "all => all.map(e => [e.data[0].zmin, e.data[0].zmax])"
        )
        assert len({tuple(scale) for scale in scales}) == 1
    page.select_option("#metric", "0")
    titles = page.eval_on_selector_all(".heatmap", "all => all.map(e => e.layout.title.text)")
    assert titles == [f"14 clusters: {n}" for n in ("trained model", "untrained model", "raw BOLD")]


def test_the_table_sorts_by_keyboard_and_filters(page):
    column = page.locator("#cells thead button", has_text="Silhouette").first
    for direction in ("ascending", "descending"):
        column.focus()
        page.keyboard.press("Enter")
        assert page.locator(f"#cells th[aria-sort={direction}]").count() == 1
        index = page.locator("#cells thead th").all_text_contents().index("Silhouette")
        shown = [
            float(row.locator("td").nth(index).text_content())
            for row in page.locator("#cells tbody tr").all()
        ]
        assert shown == sorted(shown, reverse=direction == "descending")
    page.fill("#filter", "geodesic_008")
    assert page.locator("#cells tbody tr:visible").count() == 2
    page.fill("#filter", "")
    assert page.locator("#cells tbody tr:visible").count() == 6


def test_it_says_what_the_store_says(page, made):
    project = Project.open(made[0])
    chosen = project.store.latest("selected_parcellations")
    text = page.locator("main").inner_text()
    assert chosen.facts["chosen"][0]["label_file"] in text
    assert project.settings.inputs.note in page.locator("header").inner_text()
    for key in project.bold_runs:
        assert key in text
    html = page.content()
    for name in ("average_correlation", "selected_parcellations"):
        assert project.store.latest(name).digest in html


def test_on_a_phone_nothing_sticks_out(browser, report):  # noqa: F811
    page = opened(browser, report, PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert page.complaints == []
    assert np.isfinite(hue_of(pixels(page, "#mesh"))).mean() > 0.1
    page.close()


def test_on_paper_what_is_folded_is_open_and_controls_are_gone(browser, report):  # noqa: F811
    page = opened(browser, report, DESK)
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    assert not page.locator("#cell").is_visible()
    assert page.locator("#chosen img").first.is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.close()


def test_without_script_the_figures_are_there(browser, report):  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("#cells tbody tr").count() == 6
    assert page.locator("#chosen img").count() == 2
    context.close()


def test_it_is_small_enough_to_send(report):
    assert report.stat().st_size < 8e6
