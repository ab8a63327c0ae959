"""A small model of the autoencoder, and numbers that are new in every run of the tests."""

from __future__ import annotations

import numpy as np

from trend_dagster.science.features.autoencoder import AutoencoderConfig

T = 30
SMALL = AutoencoderConfig(
    d_model=24,
    n_heads=4,
    n_encoder_layers=2,
    n_decoder_layers=3,
    dim_feedforward=20,
    confidence_hidden=12,
)
TUTORIAL = SMALL.model_copy(update={"confidence": "tutorial"})


def fresh_seed() -> int:
    """Return a new seed in every run of the tests, shown by pytest when a test fails."""
    seed = int(np.random.default_rng().integers(2**31))
    print(f"seed {seed}")
    return seed
