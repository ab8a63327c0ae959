"""Memory and time of the asset `bold` for a CIFTI run of the size that labs have.

``python -m benchmarks.read_cifti`` prints one JSON object as its last line.

The run has 91,282 grayordinates, as the Human Connectome Project has them: 59,412 vertices of two
meshes of 32,492, and 31,870 voxels of the subcortex, which are left out. It is made as the asset
makes it, into the store: read, masked, standardised, drawn, written. ``gib_over_imports`` is the
peak of resident memory over what the process held before it began. The file is
read in blocks of volumes, so that no second copy of a run is held besides what is made of it.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from nibabel import cifti2 as nibabel_cifti2

from benchmarks.measure import in_process, report, result_path
from trend_dagster.project.folder import BOLD_RUN, Project

MESH, LEFT, RIGHT, VOXELS = 32_492, 29_696, 29_716, 31_870
LIMIT_GIB = 2.0
BLOCK = 100  # volumes simulated at a time
RUN = "sub-01_task-rest"

# Its annotations cover a part only.
nib: Any = nibabel
cifti2: Any = nibabel_cifti2


def brain_models() -> Any:
    """Cortex and subcortex, as many of each as a 91k file has."""
    mask = np.zeros(91 * 109 * 91, dtype=bool)
    mask[:VOXELS] = True
    return (
        cifti2.BrainModelAxis.from_surface(np.arange(LEFT), MESH, "CIFTI_STRUCTURE_CORTEX_LEFT")
        + cifti2.BrainModelAxis.from_surface(np.arange(RIGHT), MESH, "CIFTI_STRUCTURE_CORTEX_RIGHT")
        + cifti2.BrainModelAxis.from_mask(
            mask.reshape(91, 109, 91), "CIFTI_STRUCTURE_BRAIN_STEM", np.eye(4)
        )
    )


def write_project(folder: Path, n_volumes: int) -> Path:
    """Write a project with one run, block by block; return the file of the run."""
    (folder / "bold").mkdir()
    (folder / "trend.yaml").write_text("profile: default\n")
    axis, rng = brain_models(), np.random.default_rng(108)
    shape = (n_volumes, len(axis))
    values: Any = np.memmap(folder / "values", dtype=np.float32, mode="w+", shape=shape)
    for start in range(0, n_volumes, BLOCK):
        block = values[start : start + BLOCK]
        block[:] = 1000 + 10 * rng.standard_normal(block.shape, dtype=np.float32)
    path = folder / "bold" / f"{RUN}_space-fsLR_den-91k_bold.dtseries.nii"
    nib.save(nib.Cifti2Image(values, (cifti2.SeriesAxis(0, 0.8, n_volumes), axis)), path)
    (folder / "values").unlink()
    return path


def make_bold(project: Project) -> dict[str, Any]:
    """Make the one run, and say what is stored of it."""
    from trend_dagster.orchestration.assets import ASSETS
    from trend_dagster.orchestration.production import produce

    (made,) = produce(
        ASSETS["bold"],
        project,
        [{BOLD_RUN: RUN}],
        force=False,
        run_id="benchmark",
        log=lambda line: None,
    )
    mask = made.version.read("vertex_mask")
    stored = made.version.array("bold")
    return {"stored": list(stored.shape), "with_signal": int(mask.sum())}


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--volumes", type=int, default=1200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", action="store_true", help="write figures to benchmarks/results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = write_project(Path(folder), args.volumes)
        measured = in_process(Project.open, make_bold, Path(folder), n_threads=args.threads)
        file_gib = path.stat().st_size / 2**30
    over_imports = measured.increment_mib / 1024
    figures = {
        "grayordinates": LEFT + RIGHT + VOXELS,
        "volumes": args.volumes,
        **measured.value,
        "file_gib": file_gib,
        "gib_over_imports": over_imports,
        "peak_gib": measured.peak_mib / 1024,
        "seconds": measured.seconds,
        "limit_gib": LIMIT_GIB,
        "within_limit": over_imports < LIMIT_GIB,
    }
    report(figures, result_path("read_cifti") if args.keep else None)
    if not figures["within_limit"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
