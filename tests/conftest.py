"""Fixtures for all tests: synthetic data only, nothing from outside the repository."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def rng() -> np.random.Generator:
    """Fixed numbers: a test that fails once fails always."""
    return np.random.default_rng(108)
