"""One training step against the tutorial's formulation: ``python -m benchmarks.train_step``.

Both sides take the same weights, run and loss, with no dropout; float32 for the tutorial's
explicit scores and mask, float32 and bfloat16 for ours. Each timing and each peak of memory has a
process of its own, sides take turns, and the fastest of the repeats counts. Memory is what a step
adds to the program with its model. ``ceiling_...`` is the speedup of a step that would be nothing
but its matrix products at the fastest speed this machine shows for one. The last line of the output
is one JSON object.

On a CUDA device ``--device cuda --n-vertices 5124`` measures the card, its largest number of
vertices, and projects the tutorial's training onto it.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

import pandas as pd
import psutil
import torch
from torch import Tensor, nn

from benchmarks import measure as costs
from benchmarks.tutorial_model import TutorialModel
from trend_dagster.science.features.autoencoder import AutoencoderConfig, initial_model
from trend_dagster.science.features.training import combined_loss

N_TIMEPOINTS = 1600
TUTORIAL_EPOCHS, TUTORIAL_RUNS, TUTORIAL_HOURS = 1500, 300, 72
PEAK_BF16_FLOPS = {"A100": 312e12, "H100": 989e12, "H200": 989e12}
"""Dense bfloat16 operations per second that the makers state for a card."""


def make_model(side: str) -> nn.Module:
    """Build a side with equal weights.

    ``explicit`` is the tutorial's formulation without dropout, ``published`` the same with its
    dropout of 0.1; ``tutorial`` and ``key`` are our modes without dropout.
    """
    confidence: Literal["key", "tutorial"] = "key" if side == "key" else "tutorial"
    rate = 0.1 if side == "published" else 0.0
    config = AutoencoderConfig(dropout=rate, attention_dropout=rate, confidence=confidence)
    model = initial_model(config, N_TIMEPOINTS, seed=108)
    if side not in {"explicit", "published"}:
        return model.train()
    explicit = TutorialModel(config, N_TIMEPOINTS)
    explicit.load_state_dict(model.state_dict())
    return explicit.train()


def make_run(n_vertices: int, device: str) -> Tensor:
    """Make one run of noise (1, V, T), the same in every process."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(1, n_vertices, N_TIMEPOINTS, generator=generator).to(device)


def step_of(model: nn.Module, x: Tensor, precision: str) -> Callable[[], float]:
    """Return a function that takes one training step and returns its loss."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-5)

    def step() -> float:
        optimizer.zero_grad()
        with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bf16"):
            output = model(x)
        loss = combined_loss(output, x)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step


def load_kernels(precision: str, device: str) -> None:
    """Take a step of a tiny model, so that lazily loaded libraries count as imports."""
    config = AutoencoderConfig(d_model=8, n_heads=1, n_encoder_layers=1, n_decoder_layers=1)
    tiny = initial_model(config, N_TIMEPOINTS, 0).to(device).train()
    step_of(tiny, make_run(8, device), precision)()


def measure(
    side: str, precision: str, n_vertices: int, device: str, repeats: int
) -> dict[str, Any]:
    """Seconds of the fastest step (wall, and processor over all threads), and memory added."""
    model, x = make_model(side).to(device), make_run(n_vertices, device)
    load_kernels(precision, device)
    step = step_of(model, x, precision)
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        step()
        increment = torch.cuda.max_memory_allocated() - before
    else:
        increment = round(costs.measure(step).increment_mib * 2**20)
    found = [costs.measure(step) for _ in range(repeats)]  # a step reads its loss: it waits
    return {
        "seconds": min(one.seconds for one in found),
        "cpu_seconds": min(one.cpu_seconds for one in found),
        "bytes": increment,
    }


def apart(*arguments: Any) -> dict[str, Any]:
    """Measure in a fresh process, so that memory of one side is not the other's."""
    # Not a Pool, which ends with a signal that its worker may not see while it waits for work.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(measure, *arguments).result()
        except torch.OutOfMemoryError:  # of a card, on the side that holds all pairs of vertices
            return {"seconds": math.inf, "cpu_seconds": math.inf, "bytes": math.inf}


def differences(n_vertices: int, device: str) -> dict[str, float]:
    """Largest relative differences of loss and gradient in float32, tutorial's mode."""
    x = make_run(n_vertices, device)
    losses, gradients = [], []
    for side in ("explicit", "tutorial"):
        model = make_model(side).to(device)
        loss = combined_loss(model(x), x)
        torch.autograd.backward(loss)
        losses.append(loss.item())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    theirs, ours = gradients
    # A bias of the keys adds a constant per row of scores: its gradient is zero, all rounding.
    live = [n for n in ours if not n.endswith("w_k.bias")]
    worst = max(float((ours[n] - theirs[n]).norm() / theirs[n].norm()) for n in live)
    relative_loss = abs(losses[0] - losses[1]) / abs(losses[0])
    return {
        "max_relative_loss_difference": relative_loss,
        "max_relative_gradient_difference": worst,
    }


def flops_per_step(n_vertices: int) -> float:
    """Multiplications and additions of the products of one step, backward counted as two."""
    config = AutoencoderConfig()
    d, ff, n_attentions = config.d_model, config.dim_feedforward, 18
    per_vertex = n_attentions * 4 * d * d + 12 * 2 * d * ff + 2 * N_TIMEPOINTS * d
    attention = n_attentions * 2 * n_vertices**2 * d
    return 3 * 2 * (n_vertices * per_vertex + attention)


def fits_card(n_vertices: int) -> bool:
    """Whether a mixed step over so many vertices fits the card."""
    try:
        step_of(make_model("key").cuda(), make_run(n_vertices, "cuda"), "bf16")()
    except torch.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    return True


def largest_cohort_on_card(unit: int = 4096) -> int:
    """Return the largest multiple of ``unit`` vertices whose mixed step fits, up to 2^18."""
    fits, fails = 0, 1
    while fails * unit <= 2**18 and fits_card(fails * unit):
        fits, fails = fails, 2 * fails
    while fails - fits > 1:
        middle = (fits + fails) // 2
        fits, fails = (middle, fails) if fits_card(middle * unit) else (fits, middle)
    return fits * unit


SIDES = (
    ("published", "32"),
    ("explicit", "32"),
    ("tutorial", "32"),
    ("tutorial", "bf16"),
    ("key", "32"),
    ("key", "bf16"),
)


def compare(n_vertices: int, device: str, repeats: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Measure every side in turn, ``rounds`` times, and keep each side's best."""
    best: dict[str, dict[str, Any]] = {}
    for i in range(rounds):
        for side, precision in SIDES[min(i, 1) :]:  # the published dropout is slow: once is enough
            found = apart(side, precision, n_vertices, device, repeats)
            print(f"  round {i + 1}, {describe(f'{side} {precision}', found)}", flush=True)
            old = best.get(f"{side} {precision}", found)
            best[f"{side} {precision}"] = {k: min(old[k], found[k]) for k in found}
    return best


def summarise(best: dict[str, dict[str, Any]], mode: str) -> dict[str, float]:
    """Ratios of the explicit formulation to one of our modes."""
    explicit, full, mixed = best["explicit 32"], best[f"{mode} 32"], best[f"{mode} bf16"]
    return {
        "speedup_fp32": explicit["seconds"] / full["seconds"],
        "speedup_mixed": explicit["seconds"] / mixed["seconds"],
        "speedup_fp32_cpu_seconds": explicit["cpu_seconds"] / full["cpu_seconds"],
        "speedup_mixed_cpu_seconds": explicit["cpu_seconds"] / mixed["cpu_seconds"],
        "memory_ratio_fp32": full["bytes"] / explicit["bytes"],
        "memory_ratio_mixed": mixed["bytes"] / explicit["bytes"],
    }


def ceilings(explicit_seconds: float, n_vertices: int, device: str) -> dict[str, float]:
    """Speedups of a step that is nothing but its products, each at the fastest speed seen."""
    n, d, ff = n_vertices, AutoencoderConfig().d_model, AutoencoderConfig().dim_feedforward
    sizes = (n, d, ff), (n, ff, d), (n, d, d), (2048, 2048, 2048)  # of a layer, and a large one
    found = {}
    for name, dtype in (("fp32", "float32"), ("mixed", "bfloat16")):
        speed = costs.product_speed(sizes, dtype, device)
        found[f"product_gflops_{name}"] = speed / 1e9
        found[f"ceiling_{name}"] = explicit_seconds * speed / flops_per_step(n_vertices)
    return found


def describe(name: str, found: dict[str, Any]) -> str:
    """One line of the table."""
    return (
        f"{name:14s} {found['seconds']:9.3f} s  {found['cpu_seconds']:9.3f} processor s  "
        f"{found['bytes'] / 1e9:8.3f} GB added"
    )


def grow(sizes: Sequence[int], device: str) -> dict[int, dict[str, Any]]:
    """Measure one step at growing numbers of vertices V.

    The operations grow as V + V^2: where their rate stays, so does the time. The memory per vertex
    falls to a constant: weights, gradients and moments do not grow.
    """
    print("Growth with the number of vertices (mode key, float32)")
    found = {n: apart("key", "32", n, device, 1) for n in sizes}
    table = pd.DataFrame.from_dict(found, orient="index")
    table["gflops"] = [flops_per_step(n) / 1e9 / one["seconds"] for n, one in found.items()]
    table["kb_per_vertex"] = table["bytes"] / 1e3 / table.index
    print(table.round(3).to_string(), flush=True)
    return found


def finite(value: Any) -> Any:
    """Replace what JSON cannot say (the infinity of a side that ran out of memory) by None."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main() -> None:
    """Measure, print tables, keep the result with machine and date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--n-vertices", type=int, default=1284)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--growth", type=int, nargs="*", default=[642, 1284, 2568, 5124])
    parser.add_argument("--keep", action="store_true", help="write figures to benchmarks/results")
    options = parser.parse_args()
    print(f"V={options.n_vertices}, T={N_TIMEPOINTS}, d=512, 6+6 layers, {options.device}")
    best = compare(options.n_vertices, options.device, options.repeats, options.rounds)
    print("Best of all rounds")
    for name, found in best.items():
        print(f"  {describe(name, found)}")
    growth = grow(options.growth, options.device)
    # The published weights' mode does the tutorial's arithmetic: the fair side of the ratio.
    result: dict[str, Any] = {
        **summarise(best, "tutorial"),
        **{f"key_{k}": v for k, v in summarise(best, "key").items()},
        "speedup_fp32_over_published_dropout": best["published 32"]["seconds"]
        / best["tutorial 32"]["seconds"],
        **differences(options.n_vertices, options.device),
        **ceilings(best["explicit 32"]["seconds"], options.n_vertices, options.device),
        "growth": growth,
        "seconds_and_bytes": best,
        "device": options.device,
        "threads": torch.get_num_threads(),
        "load_average": psutil.getloadavg()[0],
        "torch": torch.__version__,
    }
    if options.device == "cuda":
        result |= card_figures(options.n_vertices, best["key bf16"]["seconds"])
    keep = costs.result_path("train_step", options.device) if options.keep else None
    costs.report(finite(result), keep, options.device)


def card_figures(n_vertices: int, seconds: float) -> dict[str, Any]:
    """Utilisation, largest cohort, and the tutorial's training projected onto one card."""
    n_train = round(0.75 * TUTORIAL_RUNS)
    # Validation is a forward pass: a third of a step.
    steps = TUTORIAL_EPOCHS * (n_train + (TUTORIAL_RUNS - n_train) / 3)
    card = torch.cuda.get_device_name()
    peak = next((flops for name, flops in PEAK_BF16_FLOPS.items() if name in card), None)
    return {
        "card": card,
        "model_flop_utilisation": flops_per_step(n_vertices) / seconds / peak if peak else None,
        "largest_n_vertices_bf16": largest_cohort_on_card(),
        "projected_hours_one_card": steps * seconds / 3600,
        "tutorial_hours_four_a100": TUTORIAL_HOURS,
    }


if __name__ == "__main__":
    main()
