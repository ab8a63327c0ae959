"""A headless browser that talks to nobody but this machine."""

from __future__ import annotations

import os

import pytest

from benchmarks.page import CHROMIUM, launched


def chromium_or_skip() -> str:
    """Where Chromium is; skip with a reason where there is none."""
    if CHROMIUM is None:
        if os.environ.get("TREND_REQUIRE_BROWSER"):
            pytest.fail("no Chromium found, and TREND_REQUIRE_BROWSER is set")
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    return CHROMIUM


@pytest.fixture(scope="module")
def browser():
    """Chromium with WebGL in software."""
    with launched(chromium_or_skip()) as chromium:
        yield chromium
