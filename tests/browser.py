"""A headless browser that talks to nobody but this machine."""

from __future__ import annotations

import os
import shutil

import pytest

CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)


@pytest.fixture(scope="module")
def browser():
    """Chromium with WebGL in software; skip with a reason where there is none."""
    if CHROMIUM is None:
        if os.environ.get("TREND_REQUIRE_BROWSER"):
            pytest.fail("no Chromium found, and TREND_REQUIRE_BROWSER is set")
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--disable-background-networking",
                "--use-angle=swiftshader",
                "--enable-unsafe-swiftshader",
            ],
        )
        yield chromium
        chromium.close()
