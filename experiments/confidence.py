"""Does confidence learn to distrust noise? ``python -m experiments.confidence``.

A simulated cohort in which a fifth of the vertices is pure noise, the others share the signals of
planted networks; all vertices have the same variance. After training in mode ``key`` the mean
confidence of noise vertices is compared with that of the others, attention by attention, beside
the same figures before training. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from trend_dagster.science.features.autoencoder import (
    AutoencoderConfig,
    ConfidenceAttention,
    TransformerAutoencoder,
    initial_model,
)
from trend_dagster.science.features.training import combined_loss

N_VERTICES, N_TIMEPOINTS, N_RUNS = 400, 120, 8
SMALL = AutoencoderConfig(
    d_model=64,
    n_heads=4,
    n_encoder_layers=2,
    n_decoder_layers=2,
    dim_feedforward=128,
    confidence_hidden=32,
    dropout=0.0,
)


def make_cohort(seed: int, smoothing: float) -> tuple[list[NDArray[np.float32]], NDArray[np.bool_]]:
    """Plant seven networks (half of the variance is signal) and a fifth of pure noise.

    With ``smoothing`` (a Gaussian's width in time points) the signals are slow and the noise is
    white, as in BOLD, so that one time series alone tells them apart.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(7, size=N_VERTICES)
    is_noise = rng.random(N_VERTICES) < 0.2
    weight = np.where(is_noise, 0.0, np.sqrt(0.5))[:, None]
    runs = []
    for _ in range(N_RUNS):
        signal = rng.standard_normal((7, N_TIMEPOINTS))
        if smoothing:
            signal = gaussian_filter1d(signal, smoothing, axis=1, mode="wrap")
        signal = (signal / signal.std(axis=1, keepdims=True))[labels]
        noise = rng.standard_normal((N_VERTICES, N_TIMEPOINTS))
        runs.append((weight * signal + np.sqrt(1 - weight**2) * noise).astype(np.float32))
    return runs, is_noise


def optimise(
    model: TransformerAutoencoder, runs: list[NDArray[np.float32]], rate: float, n_epochs: int
) -> None:
    """Adam over all runs in turn, with the published objective and clipping."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    model.train()
    for _ in range(n_epochs):
        for i in torch.randperm(len(runs)).tolist():
            x = torch.from_numpy(runs[i])[None]
            optimizer.zero_grad()
            torch.autograd.backward(combined_loss(model(x), x))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    model.eval()


def confidences(
    model: TransformerAutoencoder, runs: list[NDArray[np.float32]]
) -> dict[str, NDArray[np.float64]]:
    """Mean confidence of every vertex over runs and depth, for each kind of attention."""
    heard: dict[str, list[NDArray[np.float32]]] = {}

    def note(name: str) -> Any:
        def hook(_: Any, __: Any, output: torch.Tensor) -> None:
            heard.setdefault(name, []).append(output.exp()[0].numpy())

        return hook

    parts = {"encoder": model.encoder.layers[0], "decoder": model.decoder.layers[0]}
    handles = [
        module.confidence_module.register_forward_hook(note(f"{part} {name}"))
        for part, layer in parts.items()
        for name, module in layer.named_children()
        if isinstance(module, ConfidenceAttention)
    ]
    with torch.no_grad():
        for run in runs:
            model(torch.from_numpy(run)[None])
    for handle in handles:
        handle.remove()
    return {name: np.mean(values, axis=0, dtype=np.float64) for name, values in heard.items()}


def compare(seed: int, n_epochs: int, rate: float, smoothing: float) -> dict[str, dict[str, float]]:
    """Confidence of noise and signal vertices, before and after training."""
    runs, is_noise = make_cohort(seed, smoothing)
    model = initial_model(SMALL, N_TIMEPOINTS, seed)
    torch.manual_seed(seed)
    found: dict[str, dict[str, float]] = {}
    for stage in ("before", "after"):
        if stage == "after":
            optimise(model, runs[: N_RUNS - 2], rate, n_epochs)
        held_out = confidences(model, runs[N_RUNS - 2 :])
        for name, values in held_out.items():
            row = found.setdefault(name, {})
            row[f"noise_{stage}"] = float(values[is_noise].mean())
            row[f"signal_{stage}"] = float(values[~is_noise].mean())
    return found


def main() -> None:
    """Print a table over seeds."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--n-epochs", type=int, default=150)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--smoothing", type=float, default=0.0)
    options = parser.parse_args()
    result = {
        seed: compare(seed, options.n_epochs, options.rate, options.smoothing)
        for seed in options.seeds
    }
    for seed, found in result.items():
        print(f"seed {seed}\n{pd.DataFrame(found).T.round(3).to_string()}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
