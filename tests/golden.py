"""Golden outputs: what every asset made of one tiny project when it was last looked at.

``golden.json`` holds a summary of the outputs of each asset, with the code version that made them.
An output that differs while its code version is the same means that stores in use are not made
anew although the code has changed. ``python -m tests.golden --write`` takes the values of today.
So does what each output was made from: a setting or an input that comes to it puts it out of date
in every store in use, and a rerun of an old project must change nothing that was right.

What is compared: names of arrays, files and facts, and of each array its shape, type, mean,
standard deviation, a weighted sum and three entries. Pictures are drawn by libraries that change,
so only their names count; of the report its headings, of tables their columns.

The tolerance is ``TOLERANCE`` of a value and of its array's mean and standard deviation. Another
processor, BLAS or number of threads adds up in another order: float32 changes in the seventh digit,
and two epochs of training and some hundred iterations of the solver enlarge that. Where a
clustering is a matter of taste it may come out otherwise altogether; so the planted networks are
plain to see, as many as clusters and components are asked for, and what noise gives (surrogate
cohorts have no networks) counts only by its shape. ``--measure`` prints the differences from what
is written, in units of the tolerance.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import io
import json
import math
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openpyxl import load_workbook

from tests.conftest import N_NETWORKS, N_VERTICES, planted_networks, run
from tests.spheres import brain, write_gifti
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.production import StoredAsset
from trend_dagster.project.folder import BOLD_RUN, Project
from trend_dagster.storage.provenance import Recipe, flatten
from trend_dagster.storage.stores import Version, describe

FILE = Path(__file__).with_name("golden.json")
TOLERANCE = 1e-3
COMMAND, RAISE = "python -m tests.golden --write", "Raise its code_version"

# Of this machine or moment: no change of results. A stop rule may be met an iteration later, and
# `findings` and `newborns` say in words and rows what arrays of individual_networks hold.
NOT_COMPARED = {
    "precision",
    "findings",
    "newborns",
    "megabytes",
    "tiles_resumed",
    "cell",
    "digest",
    "sha256",
    "n_iter",
}
OF_NOISE = re.compile(r"_(nulls?|null_sd|excess|margin|z)( |$)")

Values = dict[str, Any]
Golden = dict[str, dict[str, Any]]
"""By asset: the code version, and the values by name."""

SETTINGS = """\
profile: demo
autoencoder:
  {d_model: 32, n_heads: 2, n_encoder_layers: 1, n_decoder_layers: 1, dim_feedforward: 16}
training: {n_epochs: 2, learning_rate: 1.0e-3}
sweep: {n_components: [4], alpha_W: [1.0e-4], n_clusters: [4]}
inputs: {truth: planted_networks.npy, surfaces: [L.surf.gii, R.surf.gii]}
geodesic_labels: {n_labels_per_hemisphere: [1]}
thresholding: {smooth_sigma_mm: [40.0], smoothing_fwhm_mm: 8.0}
validation: {n_nulls: 1}
selection: {rule: conservative}
individuals: {pages: true}
outputs: {atlases: [planted_networks.npy]}
"""


def write_inputs(folder: Path) -> Path:
    """Write a project in which every asset has something to do: three runs, a mesh, one file."""
    networks = planted_networks()
    (folder / "bold").mkdir(parents=True)
    (folder / "geodesic_labels").mkdir()
    for subject in range(3):
        rng = np.random.default_rng(subject)
        bold = 5 * rng.standard_normal((N_NETWORKS, 60))[networks]
        bold += rng.standard_normal(bold.shape)
        bold[networks < 0] = 0
        np.save(folder / "bold" / f"sub-{subject + 1}_run-1.npy", bold.astype(np.float32))
    np.save(folder / "planted_networks.npy", networks)
    np.save(folder / "geodesic_labels" / "four.npy", np.where(networks < 0, 0, networks))
    write_gifti(folder, brain(N_VERTICES // 2, radius=30.0))
    (folder / "trend.yaml").write_text(SETTINGS)
    return folder


def outputs_of(folder: Path) -> Golden:
    """Summarise a finished project; one run of BOLD stands for all."""
    project = Project.open(folder)
    found: Golden = {}
    for asset in ASSETS.values():
        partitions = asset.partitions(project)
        values: Values = {}
        made_from: list[str] = []
        for partition in partitions[:1] if asset.dims == (BOLD_RUN,) else partitions:
            version = project.store.latest(asset.name, partition)
            assert version is not None, f"{describe(asset.name, partition)} was not made"
            at = describe("", partition) + " " if partition else ""
            values |= {f"{at}{key}": value for key, value in _summary(project, version)}
            made_from = made_from or _made_from(version.recipe)
        found[asset.name] = {
            "code_version": asset.code_version,
            "made_from": made_from,
            "values": values,
        }
    return found


def _made_from(recipe: Recipe) -> list[str]:
    """What decides whether an output in a store is current: settings with values, and inputs."""
    settings = [f"{name} = {json.dumps(value)}" for name, value in flatten(recipe.settings).items()]
    return sorted(settings) + sorted(recipe.inputs)


def _summary(project: Project, version: Version) -> Iterator[tuple[str, Any]]:
    yield "excluded", version.excluded
    for name in version.names():
        if name not in NOT_COMPARED:
            numbers = _numbers(version.read(name))
            yield f"array {name}", numbers[:1] if OF_NOISE.search(name) else numbers
    facts = version.facts
    for name in facts.pop("files", {}):
        yield f"file {name}", _content(project.outputs / name)
    for key, fact in _flat("fact", facts):
        names = {*key.split()}
        if not names & NOT_COMPARED and "seconds" not in key and not OF_NOISE.search(key):
            yield key, fact


def _numbers(array: NDArray[Any]) -> list[Any]:
    """Shape and type; mean, standard deviation, a weighted sum; three entries.

    The weights are the same everywhere and differ from entry to entry: values that have changed
    places show. None stands for an entry that is not finite.
    """
    values = array.astype(np.float64).ravel()
    places = np.linspace(0, len(values) - 1, 3).round().astype(int) if len(values) else []
    finite = np.isfinite(values)
    moments: list[float] = []
    if finite.any():
        weights = np.cos(np.arange(len(values)))[finite] / math.sqrt(finite.sum())
        kept = values[finite]
        moments = [kept.mean(), kept.std(), float(weights @ kept)]
    what = f"{'x'.join(map(str, array.shape))} {array.dtype}, {finite.sum()} finite"
    return [what, *(_rounded(v) for v in [*moments, *values[places]])]


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _flat(at: str, fact: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(fact, Mapping):
        for key, value in fact.items():
            yield from _flat(f"{at} {key}", value)
    elif isinstance(fact, list) and fact and isinstance(fact[0], list | dict):
        for i, value in enumerate(fact):
            yield from _flat(f"{at} {i}", value)
    else:
        yield at, fact


def _content(path: Path) -> Any:
    """What a delivered file says, as far as no library decides it."""
    if path.suffix == ".html":
        headings = re.findall(r"<h[123][^>]*>(.*?)</h", path.read_text(), flags=re.DOTALL)
        return [re.sub(r"<[^>]+>", "", heading).strip() for heading in headings]
    if path.suffix == ".npy":
        return _numbers(np.load(path))
    if path.suffix in (".csv", ".tsv"):
        delimiter = "," if path.suffix == ".csv" else "\t"
        return next(csv.reader(io.StringIO(path.read_text()), delimiter=delimiter))
    if path.suffix == ".xlsx":
        book = load_workbook(path, read_only=True)
        return [[sheet.title, *next(sheet.iter_rows(values_only=True))] for sheet in book]
    return None


# --- Comparison -------------------------------------------------------------------------------


def distance(before: Any, after: Any, scale: float = 0.0) -> float:
    """Largest difference of two summaries, in units of the tolerance; infinite if not numbers."""
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        if before and isinstance(before[0], str) and all(_is_number(v) for v in before[1:3]):
            scale = sum(abs(v) for v in before[1:3])  # an array's mean and deviation
        pairs = zip(before, after, strict=True)
        return max((distance(b, a, scale) for b, a in pairs), default=0.0)
    if before == after:
        return 0.0
    if not (_is_number(before) and _is_number(after)):
        return math.inf
    allowed = TOLERANCE * (abs(before) + scale)
    return abs(before - after) / allowed if allowed else math.inf


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def differing(before: Values, after: Values) -> list[str]:
    """Names of the values that differ by more than the tolerance, or are there only once."""
    names = [*before, *(name for name in after if name not in before)]
    return [
        name
        for name in names
        if name not in before or name not in after or distance(before[name], after[name]) > 1
    ]


def complaints(golden: Golden, found: Golden) -> list[str]:
    """Say which assets have changed, and what to do about each.

    Where an input of an asset has changed as well, the change is the input's: only the first assets
    of the graph are named.
    """
    said = [
        f"{name} has golden outputs and is no asset: {COMMAND}" for name in {*golden} - {*found}
    ]
    changed = {
        name: differing(golden[name]["values"], entry["values"])
        for name, entry in found.items()
        if name in golden
    }
    for name, entry in found.items():
        asset = ASSETS[name]
        if name in golden and entry["code_version"] == golden[name]["code_version"]:
            said += _out_of_date(name, golden[name]["made_from"], entry["made_from"])
        if name not in golden:
            said.append(f"{name} has no golden outputs: {COMMAND}")
        elif entry["code_version"] != (before := golden[name]["code_version"]):
            said.append(
                f"{name}: code_version is {entry['code_version']!r}, its golden outputs are of "
                f"{before!r}: {COMMAND}"
            )
        elif changed[name] and not any(changed.get(upstream) for upstream in asset.upstream):
            said.append(_blame(asset, changed[name]))
    return said


def _out_of_date(name: str, before: list[str], after: list[str]) -> list[str]:
    """What puts outputs out of date in stores in use, although the asset makes the same."""
    changed = sorted({*before} ^ {*after})
    if not changed:
        return []
    return [
        f"{name} is out of date in stores in use: {'; '.join(changed[:3])} decides it now, or did "
        "before. Keep a new setting out of recipes (NO_IDENTITY, LATER), or say in the changelog "
        f"what is made anew and why; then {COMMAND}"
    ]


def _blame(asset: StoredAsset, names: list[str]) -> str:
    shown = "; ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    source = inspect.getsourcefile(asset.compute) or ""
    file = Path(source).relative_to(FILE.parents[1]).as_posix()
    return (
        f"{asset.name} makes other outputs than before ({shown}), and its inputs are the same. "
        f"{RAISE} (now {asset.code_version!r}) in {file}, or stores in use keep the old outputs; "
        f"then {COMMAND}"
    )


def read() -> Golden:
    """Read what was written."""
    golden: Golden = json.loads(FILE.read_text())
    return golden


def write(found: Golden) -> None:
    """Write one value a line, so that a difference can be read."""
    entries = []
    for key, entry in found.items():
        lines = [f"   {json.dumps(name)}: {json.dumps(v)}" for name, v in entry["values"].items()]
        values = ",\n".join(lines)
        version, made = json.dumps(entry["code_version"]), json.dumps(entry["made_from"])
        head = f' "{key}": {{"code_version": {version},\n  "made_from": {made},\n  "values": '
        entries.append(f"{head}{{\n{values}}}}}")
    FILE.write_text("{\n" + ",\n".join(entries) + "\n}\n")


def make() -> Golden:
    """Make the project in a folder that is deleted, and summarise it."""
    with tempfile.TemporaryDirectory() as folder:
        outcomes = run(write_inputs(Path(folder) / "golden"))
        errors = [error for outcome in outcomes.values() for error in outcome.errors]
        assert errors == []
        return outputs_of(Path(folder) / "golden")


def main() -> int:
    """Write or measure; 1 where results have changed and no code version was raised."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write the outputs of today")
    parser.add_argument(
        "--anyway",
        action="store_true",
        help="also where a code version should be raised: a library changed results, not our code",
    )
    parser.add_argument("--measure", action="store_true", help="print the largest differences")
    asked = parser.parse_args()
    before, found = (read() if FILE.exists() else {}), make()
    if asked.measure:
        for key, entry in found.items():
            for name, value in entry["values"].items():
                if (
                    far := distance(before.get(key, {"values": {}})["values"].get(name), value)
                ) > 0.01:
                    print(f"{far:8.3f}  {key} {name}")
    blamed = [line for line in complaints(before, found) if RAISE in line]
    if blamed and not asked.anyway:
        print("\n".join(blamed))
        return 1
    if asked.write:
        write(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
