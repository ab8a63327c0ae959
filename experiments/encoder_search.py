"""What would make the encoder earn its cost: ``python -m experiments.encoder_search``.

Simulated cohorts with planted networks of unequal size, at a signal so weak that the correlations
of raw BOLD find them only in part. Every candidate embeds the same cohort; KMeans on the average
correlation of its embeddings is scored by Dice against the planted networks. Candidates were
chosen on ``--seeds 0 1 2``; what they are worth is what they do on seeds that no choice has seen.
``docs/experiments.md`` keeps the log. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch import Tensor, nn

from trend_dagster.science.features.autoencoder import (
    AutoencoderConfig,
    TransformerAutoencoder,
    collapse_measures,
    embed,
    initial_model,
)
from trend_dagster.science.features.model_settings import FeatureSource
from trend_dagster.science.features.training import combined_loss

N_VERTICES, N_TIMEPOINTS, N_RUNS, N_NETWORKS = 400, 120, 8, 7


def make_cohort(seed: int, snr: float) -> tuple[list[NDArray[np.float32]], NDArray[np.int64]]:
    """Plant networks: vertices share their network's signal, at ``snr`` of the noise's variance."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(N_NETWORKS, 4.0))
    labels = np.sort(rng.choice(N_NETWORKS, N_VERTICES, p=shares))
    runs = []
    for _ in range(N_RUNS):
        signal = rng.standard_normal((N_NETWORKS, N_TIMEPOINTS))[labels] * np.sqrt(snr)
        noise = rng.standard_normal((N_VERTICES, N_TIMEPOINTS))
        runs.append((signal + noise).astype(np.float32))
    return runs, labels


def dice(found: NDArray[np.int64], planted: NDArray[np.int64]) -> float:
    """Mean Dice over planted networks, each matched to at most one found cluster."""
    overlap = np.zeros((N_NETWORKS, N_NETWORKS))
    np.add.at(overlap, (planted, found), 1)
    sizes = overlap.sum(1)[:, None] + overlap.sum(0)[None]
    scores = np.divide(2 * overlap, sizes, out=np.zeros_like(overlap), where=sizes > 0)
    rows, columns = linear_sum_assignment(-scores)
    present = overlap.sum(1) > 0
    return float(scores[rows, columns][present].mean())


def score(embeddings: list[NDArray[np.float32]], labels: NDArray[np.int64]) -> dict[str, float]:
    """Dice of KMeans on the average correlation, and how collapsed the embeddings are."""
    average = np.mean([np.corrcoef(e) for e in embeddings], axis=0)
    np.fill_diagonal(average, 0)
    found = KMeans(N_NETWORKS, n_init=10, random_state=0).fit_predict(average)
    collapse = [collapse_measures(e) for e in embeddings]
    return {
        "dice": dice(found.astype(np.int64), labels),
        "mean_correlation": float(np.mean([c.mean_correlation for c in collapse])),
        "effective_rank": float(np.mean([c.effective_rank for c in collapse])),
    }


class MaskedAutoencoder(TransformerAutoencoder):
    """Predict hidden vertices from the others, each known by a learned position."""

    def __init__(self, config: AutoencoderConfig, n_timepoints: int) -> None:
        super().__init__(config, n_timepoints)
        self.position = nn.Parameter(torch.randn(N_VERTICES, config.d_model) * 0.5)
        self.hidden = nn.Parameter(torch.zeros(config.d_model))

    def encode(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode (B, V, T); vertices in ``mask`` (V,) show their position only."""
        h = self.project(x)
        if mask is not None:
            h = torch.where(mask[:, None], self.hidden, h)
        encoded: Tensor = self.encoder(h + self.position)
        return encoded

    def reconstruct(self, x: Tensor, mask: Tensor) -> Tensor:
        """Reconstruct time series straight from the encoder's output, without a decoder."""
        output: Tensor = self.decoder.linear(self.encode(x, mask))
        return output


class PositionMixer(nn.Module):
    """One attention whose weights come from learned positions only, over the raw time series.

    Attention from vertex i to j depends on who they are, not on what they measured, and no vertex
    hears itself: what predicts i best is then the mean of its network, in every run.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(N_VERTICES, width) * 0.3)
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Mix (B, V, T)."""
        scores = self.position @ self.position.T
        scores = scores.masked_fill(torch.eye(N_VERTICES, dtype=torch.bool), -torch.inf)
        mixed: Tensor = self.gain * (torch.softmax(scores, -1) @ x)
        return mixed


class NetworkBottleneck(nn.Module):
    """Vertices meet in a few network tokens: attention by learned position, one token a network.

    Every token listens to the vertices (weights from their positions, and from their confidence),
    and every vertex is told back what its tokens heard: what a vertex gets is common to many.
    """

    def __init__(self, n_tokens: int, width: int = 32) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.randn(N_VERTICES, width) * 0.3)
        self.listen = nn.Parameter(torch.randn(n_tokens, width) * 0.3)
        self.tell = nn.Parameter(torch.randn(n_tokens, width) * 0.3)
        self.log_confidence = nn.Parameter(torch.zeros(N_VERTICES))

    def forward(self, x: Tensor, visible: Tensor | None = None) -> Tensor:
        """Mix (B, V, T); hidden vertices are told, but not listened to."""
        scores = self.listen @ self.position.T + self.log_confidence  # (tokens, V)
        if visible is not None:
            scores = scores.masked_fill(~visible, -torch.inf)
        tokens = torch.softmax(scores, -1) @ x
        mixed: Tensor = (self.position @ self.tell.T) @ tokens
        return mixed


Loss = Callable[[Any, Tensor], Tensor]


def optimise(
    model: Any,
    runs: list[NDArray[np.float32]],
    loss: Loss,
    rate: float,
    n: int,
    *,
    anneal: bool = False,
) -> None:
    """Adam over all runs in turn, ``n`` epochs, with the published clipping.

    With ``anneal`` the rate falls to zero along a cosine.
    """
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n if anneal else 10**9)
    model.train()
    for _ in range(n):
        for i in torch.randperm(len(runs)).tolist():
            optimizer.zero_grad()
            torch.autograd.backward(loss(model, torch.from_numpy(runs[i])[None]))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        schedule.step()
    model.eval()


def whole(model: Any, x: Tensor) -> Tensor:
    """Return the tutorial's objective: reconstruct everything from everything."""
    return combined_loss(model(x), x)


def masked(model: Any, x: Tensor) -> Tensor:
    """Hide a quarter of the vertices and score these alone."""
    mask = torch.rand(x.shape[1]) < 0.25
    return combined_loss(model.reconstruct(x, mask)[:, mask], x[:, mask])


SMALL = AutoencoderConfig(
    d_model=64,
    n_heads=4,
    n_encoder_layers=2,
    n_decoder_layers=2,
    dim_feedforward=128,
    confidence_hidden=32,
    dropout=0.0,
)


@dataclass(frozen=True)
class Candidate:
    """A model, an objective, and how long it trains."""

    changes: dict[str, Any]
    loss: Loss | None
    rate: float = 1e-3
    n_epochs: int = 0
    source: FeatureSource = "encoder"

    def embeddings(self, runs: list[NDArray[np.float32]], seed: int) -> list[NDArray[np.float32]]:
        """Train on all runs (no labels are involved) and embed them."""
        config = SMALL.model_copy(update=self.changes)
        model = initial_model(config, N_TIMEPOINTS, seed)
        if self.loss is masked:
            blank = MaskedAutoencoder(config, N_TIMEPOINTS)
            blank.load_state_dict(model.state_dict(), strict=False)
            model = blank
        if self.loss is not None:
            optimise(model, runs, self.loss, self.rate, self.n_epochs)
        return [embed(model, run, source=self.source) for run in runs]


def mix_by_position(runs: list[NDArray[np.float32]], n_epochs: int) -> list[NDArray[np.float32]]:
    """Embed with the position mixer."""
    mixer = PositionMixer()
    optimise(mixer, runs, lambda m, x: (m(x) - x).square().mean(), 1e-2, n_epochs)
    with torch.no_grad():
        return [mixer(torch.from_numpy(run)[None])[0].numpy() for run in runs]


def hidden_quarter(model: Any, x: Tensor) -> Tensor:
    """Squared error of a quarter of the vertices, told from the others."""
    visible = torch.rand(x.shape[1]) >= 0.25
    error: Tensor = (model(x, visible) - x)[:, ~visible].square().mean()
    return error


def through_networks(
    runs: list[NDArray[np.float32]], n_tokens: int, n_epochs: int
) -> list[NDArray[np.float32]]:
    """Embed with the network bottleneck."""
    model = NetworkBottleneck(n_tokens)
    optimise(model, runs, hidden_quarter, 1e-2, n_epochs, anneal=True)
    with torch.no_grad():
        return [model(torch.from_numpy(run)[None])[0].numpy() for run in runs]


def through_components(
    runs: list[NDArray[np.float32]], n_components: int
) -> list[NDArray[np.float32]]:
    """Project on the leading eigenvectors of the average correlation: the bottleneck's control."""
    average = np.mean([np.corrcoef(run) for run in runs], axis=0)
    np.fill_diagonal(average, 0)
    leading = np.linalg.eigh(average)[1][:, -n_components:].astype(np.float32)
    return [leading @ (leading.T @ run) for run in runs]


PRE = {"norm_first": True}
CENTRED = {"norm_first": True, "remove_mean": True}
CANDIDATES: dict[str, Candidate] = {
    "input projection, untrained": Candidate({}, None, source="input_projection"),
    "input projection, tutorial's objective": Candidate(
        {}, whole, n_epochs=60, source="input_projection"
    ),
    "encoder, untrained": Candidate({}, None),
    "encoder, tutorial's objective": Candidate({}, whole, n_epochs=60),
    "encoder, tutorial's objective and rate 1e-5": Candidate({}, whole, rate=1e-5, n_epochs=60),
    "encoder, norm first, untrained": Candidate(PRE, None),
    "encoder, norm first": Candidate(PRE, whole, n_epochs=60),
    "encoder, norm first, mean removed": Candidate(CENTRED, whole, n_epochs=60),
    "encoder, masked, position": Candidate({}, masked, n_epochs=60),
    "encoder, masked, position, norm first": Candidate(PRE, masked, n_epochs=60),
    "encoder, masked, position, norm first, longer": Candidate(PRE, masked, n_epochs=240),
}


def scores_of(
    seed: int, snr: float, *, only_bottlenecks: bool, n_epochs: int
) -> dict[str, dict[str, float]]:
    """Score the control and every candidate on one cohort."""
    runs, labels = make_cohort(seed, snr)
    torch.manual_seed(seed)
    found = {"bold (control)": score(runs, labels)}
    if only_bottlenecks:
        return found | bottlenecks(runs, labels, seed, n_epochs)
    for name, candidate in CANDIDATES.items():
        start = time.perf_counter()
        found[name] = score(candidate.embeddings(runs, seed), labels)
        print(
            f"  {name}: {found[name]['dice']:.3f} ({time.perf_counter() - start:.0f} s)", flush=True
        )
    for n in (100, 400):
        found[f"position mixer, {n} epochs"] = score(mix_by_position(runs, n), labels)
        print(f"  mixer {n}: {found[f'position mixer, {n} epochs']['dice']:.3f}", flush=True)
    return found | bottlenecks(runs, labels, seed, n_epochs)


def bottlenecks(
    runs: list[NDArray[np.float32]], labels: NDArray[np.int64], seed: int, n_epochs: int
) -> dict[str, dict[str, float]]:
    """Score the learned bottleneck beside its linear control."""
    found = {}
    for k in (N_NETWORKS, 2 * N_NETWORKS, 4 * N_NETWORKS):
        found[f"{k} leading eigenvectors (control)"] = score(through_components(runs, k), labels)
    torch.manual_seed(seed)
    mixed = through_networks(runs, n_tokens=4 * N_NETWORKS, n_epochs=n_epochs)
    found["bottleneck of 28 network tokens"] = score(mixed, labels)
    return found


def main() -> None:
    """Score every candidate on every seed and print the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--snr", type=float, default=0.02)
    parser.add_argument("--only-bottlenecks", action="store_true")
    parser.add_argument("--n-epochs", type=int, default=240, help="of the bottleneck")
    options = parser.parse_args()
    found = [
        scores_of(
            seed,
            options.snr,
            only_bottlenecks=options.only_bottlenecks,
            n_epochs=options.n_epochs,
        )
        for seed in options.seeds
    ]
    summary: dict[str, dict[str, Any]] = {
        name: {
            "dice": [round(f[name]["dice"], 3) for f in found],
            "mean_correlation": float(np.mean([f[name]["mean_correlation"] for f in found])),
            "effective_rank": float(np.mean([f[name]["effective_rank"] for f in found])),
        }
        for name in found[0]
    }
    print(f"{'':50s} {'Dice':>6s}   {'corr':>6s} {'rank':>6s}")
    for name, row in summary.items():
        mean = float(np.mean(row["dice"]))
        print(
            f"{name:50s} {mean:6.3f}   {row['mean_correlation']:6.3f} {row['effective_rank']:6.1f}"
        )
    sys.stdout.write(json.dumps({"snr": options.snr, "seeds": options.seeds, **summary}) + "\n")


if __name__ == "__main__":
    main()
