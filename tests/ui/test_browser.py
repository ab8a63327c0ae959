"""A person at the web page: open it, materialize an asset, see that it is stored."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import simulate_run
from trend_dagster.orchestration.resources import Project

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)
RUN = {"bold_run": "sub-02_run-1"}


@pytest.fixture(autouse=True)
def _needs_a_browser() -> None:
    if CHROMIUM is None:
        if os.environ.get("TREND_REQUIRE_BROWSER"):
            pytest.fail("no Chromium found, and TREND_REQUIRE_BROWSER is set")
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")


@pytest.fixture
def server(finished: Path) -> Iterator[str]:
    """Address of a real `trend dev` of the finished project."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = "from trend_dagster.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", command, "dev", str(finished), "--port", str(port)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    ) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_until(lambda: _answers(address), 120, "the UI answers")
            yield address
        finally:
            os.killpg(process.pid, signal.SIGINT)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/server_info", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _wait_until(condition, seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s, but not: {what}")
        time.sleep(0.5)


@pytest.fixture
def page(tmp_path: Path):
    """A page of a headless browser that talks to nobody but this machine."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield browser.new_page(viewport={"width": 1400, "height": 1000})
        browser.close()


def _screenshot(page, name: str) -> None:
    """Keep a picture to look at: where TREND_SCREENSHOTS says, if it does."""
    if folder := os.environ.get("TREND_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"))


def test_an_asset_is_materialized_from_the_page(finished, server, page):
    np.save(finished / "bold" / "sub-02_run-1.npy", simulate_run(99))
    store = Project.open(finished).store
    before = store.latest("bold", RUN)

    page.goto(f"{server}/asset-groups")
    page.get_by_text("parcellation").first.wait_for(timeout=60_000)
    _screenshot(page, "graph")

    page.goto(f"{server}/assets/bold?view=partitions&partition=sub-02_run-1")
    page.get_by_role("button", name="Materialize").first.click(timeout=60_000)
    _screenshot(page, "dialog")
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Launch").first.click(timeout=30_000)

    _wait_until(
        lambda: store.latest("bold", RUN).path != before.path, 120, "the asset is made anew"
    )
    after = store.latest("bold", RUN)
    after.verify()
    assert after.digest != before.digest
    assert after.recipe.inputs != before.recipe.inputs

    page.goto(f"{server}/runs")
    page.get_by_text("Success").first.wait_for(timeout=120_000)
    page.goto(f"{server}/assets/bold?view=partitions&partition=sub-02_run-1")
    page.get_by_text("n_timepoints").first.wait_for(timeout=60_000)
    _screenshot(page, "asset")
