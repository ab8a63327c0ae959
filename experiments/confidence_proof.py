"""What the confidence does, published and here: ``python -m experiments.confidence_proof``.

Measures on random weights and a random run of the tutorial's length that the published mask moves
nothing and that mode ``key`` is the pairwise mask of the paper, and draws both (``--figure``). The
last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from benchmarks.tutorial_model import TutorialModel
from trend_dagster.delivery.figures.matrices import BLUE, GREY, ORANGE
from trend_dagster.science.features.autoencoder import (
    AutoencoderConfig,
    Source,
    attend,
    initial_model,
)
from trend_dagster.science.features.training import combined_loss

N_VERTICES, N_TIMEPOINTS = 300, 1600


def is_confidence(name: str) -> bool:
    """Whether a weight belongs to a confidence network."""
    return "confidence_module" in name


def redraw_confidence(model: nn.Module) -> None:
    """Draw every confidence weight anew."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if is_confidence(name):
                weight.copy_(torch.randn_like(weight))


def effect(model: nn.Module, x: Tensor) -> dict[str, float]:
    """Gradients of the confidence and of the rest, and what a new confidence does to the output."""
    loss = combined_loss(model(x), x)
    torch.autograd.backward(loss)
    largest = {True: 0.0, False: 0.0}
    for name, weight in model.named_parameters():
        if weight.grad is not None:
            kind = is_confidence(name)
            largest[kind] = max(largest[kind], float(weight.grad.abs().max()))
    with torch.no_grad():
        before = model(x)
        redraw_confidence(model)
        change = float((model(x) - before).abs().max())
    return {
        "gradient_of_confidence": largest[True],
        "gradient_of_others": largest[False],
        "output_change": change,
    }


def attention_on_one(confidence: Tensor, form: str, seed: int) -> float:
    """Mean attention that a vertex gets, for a confidence of every vertex (V,), in float64."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 1, len(confidence), 16)
    query, keys = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    values = torch.zeros_like(keys)
    values[..., 0, 0] = 1  # so the first feature of the result is the attention on vertex 0
    log_c = confidence.log()
    if form == "here":
        mixed = attend(query, Source(keys, values, log_c[None]))
    else:
        pairs = log_c[:, None] + (log_c[:, None] if form == "published" else log_c[None])
        mixed = torch.softmax(query @ keys.mT / 4 + pairs, -1) @ values
    return float(mixed[..., 0].mean())


def curves(levels: np.ndarray[Any, np.dtype[np.float64]], seed: int) -> dict[str, list[float]]:
    """Attention on one vertex as its own confidence falls, the others' staying as drawn."""
    others = torch.rand(N_VERTICES, generator=torch.Generator().manual_seed(seed)).double()
    found: dict[str, list[float]] = {"published": [], "intended": [], "here": []}
    for level in levels:
        others[0] = level
        for form, values in found.items():
            values.append(attention_on_one(others, form, seed))
    return found


def draw(
    levels: np.ndarray[Any, np.dtype[np.float64]],
    lines: dict[str, list[float]],
    effects: dict[str, dict[str, float]],
) -> Figure:
    """Draw the curves, and beside them what a new confidence does to a model's output."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.5, 1]})
    left.plot(levels, lines["published"], color=ORANGE, label="published code")
    left.plot(levels, lines["here"], color=BLUE, label="mode 'key' (fused kernel)")
    left.plot(
        levels,
        lines["intended"],
        "o",
        mfc="none",
        color=GREY,
        label="paper's pairwise mask, explicit",
    )
    left.set(
        xscale="log",
        yscale="log",
        xlabel="Confidence of a vertex",
        ylabel="Mean attention on it",
        title="Who is distrusted is heard less",
    )
    left.legend(frameon=False, fontsize=8)
    names = ["output_change", "gradient_of_confidence"]
    places = np.arange(len(names))
    for shift, (label, colour) in ((-0.2, ("published", ORANGE)), (0.2, ("key", BLUE))):
        right.bar(places + shift, [effects[label][n] for n in names], 0.38, color=colour)
    right.set_yscale("log")
    right.set_xticks(
        places, ["output, confidence\nweights redrawn", "gradient of a\nconfidence weight"]
    )
    right.set_ylabel("Largest absolute value")
    right.set_title("Published: rounding only")
    return figure


def main() -> None:
    """Measure, print a table, draw if asked."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--seed", type=int, default=108)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    x = torch.randn(1, N_VERTICES, N_TIMEPOINTS)
    key = AutoencoderConfig(dropout=0.0)
    tutorial = key.model_copy(update={"confidence": "tutorial"})
    ours, bare = (initial_model(c, N_TIMEPOINTS, options.seed) for c in (key, tutorial))
    published = TutorialModel(tutorial, N_TIMEPOINTS).eval()
    published.load_state_dict(bare.state_dict())
    with torch.no_grad():
        difference = float((bare(x) - published(x)).abs().max())
    effects = {"published": effect(published, x), "key": effect(ours, x)}
    levels = np.geomspace(1e-3, 1, 13)
    lines = curves(levels, options.seed)
    for name, row in effects.items():
        print(name, "  ".join(f"{what} {value:.2g}" for what, value in row.items()))
    found = {
        **effects,
        "tutorial_mode_minus_published": difference,
        "key_over_pairwise_mask_minus_1": float(
            np.abs(np.divide(lines["here"], lines["intended"]) - 1).max()
        ),
        "published_attention_spread": float(np.ptp(lines["published"])),
    }
    if options.figure is not None:
        draw(levels, lines, effects).savefig(options.figure, dpi=110)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
