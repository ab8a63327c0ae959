"""Does the method find planted networks? ``python -m benchmarks.simulated [--quick]``.

The section `simulated` of ``trend validate``, with the headline as last line: one JSON object. See
`trend_dagster.validation.simulated` for the cohorts and who takes part; each cohort's figures are
kept in --cache, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from trend_dagster.validation.kept import Kept
from trend_dagster.validation.simulated import (
    HEADLINE,
    SEEDS,
    compare,
    difficulties,
    headline,
    summary,
)
from trend_dagster.validation.ways import everyone


def main() -> None:
    """Print a table for each difficulty, and the headline."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--quick", action="store_true", help="one difficulty, two widths")
    parser.add_argument("--networks", type=int, default=7, help="planted in each hemisphere")
    parser.add_argument("--snr", type=float, nargs="+", help="difficulties")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--cache", type=Path, default=Path("benchmarks/results/simulated"))
    options = parser.parse_args()
    rows = compare(
        Kept(options.cache),
        "simulated",
        list(everyone(options.quick)),
        (0.0, *(options.snr or difficulties(options.networks, options.quick))),
        options.seeds,
        lambda doing, share: print(f"{share:4.0%} {doing}", file=sys.stderr, flush=True),
        options.networks,
    )
    for snr, those in summary(rows).groupby("snr"):
        print(f"\nSNR {snr}: Dice (standard deviation), IoU, and Dice at SNR 0")
        for row in those.to_dict("records"):
            name = f"{row['kind']}: {row['way']}"
            print(
                f"  {name:44s} {row['dice']:.3f} ({row['dice_sd']:.3f})  "
                f"{row['iou']:.3f}  {row['null_dice']:.3f}"
            )
    found = headline(rows)
    if found is None:
        print(
            "No headline: at no difficulty asked for has the best competitor a mean Dice of "
            f"{HEADLINE[0]} to {HEADLINE[1]}.",
            file=sys.stderr,
        )
        sys.exit(1)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}))


if __name__ == "__main__":
    main()
