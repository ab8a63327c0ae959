"""The real project goes in as FreeSurfer wrote it."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from nibabel.freesurfer.mghformat import MGHImage

from trend_dagster.examples import MEMBER, N_PARTS, make_real
from trend_dagster.project.settings import load_settings, surface_labels
from trend_dagster.storage.runs import find_runs, read_run


def overlay(folder: Path, side: str, data: np.ndarray) -> None:
    """An overlay as the package has it, so that nothing is fetched."""
    image = MGHImage(data[:, None, None, :], np.eye(4))
    image.header["tr"] = 1400
    folder.mkdir(exist_ok=True)
    path = folder / Path(MEMBER.format(side)).name
    path.write_bytes(gzip.compress(image.to_bytes()))


def test_overlays_are_cut_into_runs_that_the_platform_reads(tmp_path, rng):
    whole = rng.standard_normal((2, 700, 4 * 10 + 3)).astype(np.float32)
    for side, data in zip(("lh", "rh"), whole, strict=True):
        overlay(tmp_path / "source", side, data)
    make_real(tmp_path, 642, lambda line: None)
    runs = find_runs(tmp_path / "bold")
    assert list(runs) == [f"sub-010188_ses-02_run-{i}" for i in range(1, N_PARTS + 1)]
    assert {run.source for run in runs.values()} == {"freesurfer"}
    found = [read_run(run) for run in runs.values()]
    assert {(raw.repetition_time, raw.told_by) for raw in found} == {(1.4, "header")}
    signal = np.concatenate([raw.signal for raw in found], axis=1)
    np.testing.assert_array_equal(signal, np.concatenate(whole[:, :642])[:, :40])
    settings = load_settings(tmp_path)
    assert list(surface_labels(settings)) == ["surface_002", "surface_010", "surface_020"]
    assert not (tmp_path / "geodesic_labels").exists()
    assert not list(tmp_path.rglob("*.npy"))
