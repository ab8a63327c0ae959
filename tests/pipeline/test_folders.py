"""Folders as preprocessing writes them, built small: with docs/input.md from input to maps."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import yaml
from nibabel.cifti2 import BrainModelAxis, Cifti2Image, SeriesAxis
from nibabel.gifti import GiftiDataArray, GiftiImage, GiftiMetaData
from sklearn.metrics import adjusted_rand_score

from tests.conftest import run
from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science.surface import Surface, cut_into_labels, hemisphere_triangles
from trend_dagster.storage.label_images import Network, gifti_labels, gifti_surface

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parents[2] / "docs" / "input.md"
N, N_T, TR = 642, 150, 2.0
SMALL = {
    "sweep": {"n_components": [8], "n_clusters": [6]},
    "validation": {"n_nulls": 0},
    "controls": {"features": []},
}
MADE = {
    "bold",
    "cortex",
    "embeddings",
    "average_correlation",
    "geodesic_labels",
    "thresholded_matrix",
    "nmf_sweep",
    "sweep_summary",
    "selected_parcellations",
    "atlas_overlap",
    "subcortical_networks",
    "parcellation_images",
}
"""What maps are made from: the report and the controls are tested elsewhere."""

NAMES = ("Vision", "Motor", "Default")
VOXELS = np.argwhere(np.ones((2, 3, 2)))


def settings_of(section: str) -> dict:
    """The settings that the page gives for a software, on the smallest mesh."""
    text = PAGE.read_text().split(f"### {section}\n")[1]
    block = re.search(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert block is not None
    return yaml.safe_load(block[1].replace("fsaverage5", "fsaverage3"))


def planted(surface: Surface) -> np.ndarray:
    """Three networks in each hemisphere; -1 on the medial wall."""
    return np.where(surface.medial_wall, -1, cut_into_labels(surface, 3))


def recording(surface: Surface, subject: int) -> tuple[np.ndarray, np.ndarray]:
    """Series of vertices, and of voxels that follow network 0, 1, 2, 0, ..."""
    rng = np.random.default_rng(subject)
    spectrum = np.zeros((6, N_T // 2 + 1), dtype=complex)
    slow = slice(4, 28)  # 0.013 to 0.09 Hz, where fluctuations at rest are
    spectrum[:, slow] = rng.standard_normal((6, 24)) + 1j * rng.standard_normal((6, 24))
    courses = np.fft.irfft(spectrum, N_T)
    courses /= courses.std(axis=1, keepdims=True)
    networks = planted(surface)
    signal = 1000 + 10 * (courses[networks] + 0.7 * rng.standard_normal((2 * N, N_T)))
    signal[networks < 0] = 0
    follow = courses[np.arange(len(VOXELS)) % 3]
    voxels = 800 + 5 * (follow + 0.7 * rng.standard_normal(follow.shape))
    return signal.astype(np.float32), voxels.astype(np.float32)


def write_series(path: Path, part: np.ndarray, structure: str | None) -> None:
    meta = GiftiMetaData({"TimeStep": str(1000 * TR)})
    arrays = [
        GiftiDataArray(np.ascontiguousarray(v), "NIFTI_INTENT_TIME_SERIES", meta=meta)
        for v in part.T
    ]
    own = GiftiMetaData({"AnatomicalStructurePrimary": structure} if structure else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(GiftiImage(darrays=arrays, meta=own), path)


def write_dense(path: Path, surface: Surface, signal: np.ndarray, voxels: np.ndarray) -> None:
    held = planted(surface) >= 0
    axis = BrainModelAxis.from_surface(np.flatnonzero(held[:N]), N, "CortexLeft")
    axis += BrainModelAxis.from_surface(np.flatnonzero(held[N:]), N, "CortexRight")
    volume = np.zeros((4, 4, 4), dtype=bool)
    volume[tuple(VOXELS.T)] = True
    axis += BrainModelAxis.from_mask(volume, "CIFTI_STRUCTURE_THALAMUS_LEFT", np.eye(4))
    rows = np.concatenate([signal[held], voxels]).T
    path.parent.mkdir(parents=True, exist_ok=True)
    Cifti2Image(rows, (SeriesAxis(0, TR, len(rows)), axis)).to_filename(path)


def write_table(path: Path, **columns: np.ndarray) -> None:
    pd.DataFrame(columns).to_csv(path, sep="\t", index=False, na_rep="n/a")


def write_mesh(folder: Path, surface: Surface, names: list[str], *, sphere: bool = False) -> None:
    for i, name in enumerate(names):
        inside, triangles = hemisphere_triangles(surface, i)
        points = surface.sphere if sphere else surface.coordinates
        kind = "Sphere" if sphere else "MidThickness"
        (folder / name).write_bytes(gifti_surface(points[inside], triangles, "LR"[i], kind))


def motion(rng: np.random.Generator) -> np.ndarray:
    moved = np.abs(rng.normal(0, 0.1, N_T))
    moved[40:43] = 2
    return moved


def fmriprep(folder: Path, surface: Surface, inputs: dict) -> None:
    for subject in (1, 2):
        func = folder / inputs["bold"] / f"sub-{subject:02d}" / "func"
        for task in ("rest", "movie"):
            signal, _ = recording(surface, subject + 10 * (task == "movie"))
            stem = f"sub-{subject:02d}_task-{task}"
            for i, side in enumerate("LR"):
                name = f"{stem}_hemi-{side}_space-fsaverage3_bold.func.gii"
                write_series(func / name, np.split(signal, 2)[i], f"Cortex{['Left', 'Right'][i]}")
                (func / name.replace(".func.gii", ".json")).write_text(
                    f'{{"RepetitionTime": {TR}}}'
                )
            rng = np.random.default_rng(subject)
            write_table(
                func / f"{stem}_desc-confounds_timeseries.tsv",
                framewise_displacement=motion(rng),
                **{f"{k}_{a}": rng.standard_normal(N_T) for k in ("trans", "rot") for a in "xyz"},
            )


def nibabies(folder: Path, surface: Surface, inputs: dict) -> None:
    write_mesh(folder, surface, inputs["surfaces"])
    write_mesh(folder, surface, inputs["spheres"], sphere=True)
    for subject in (1, 2):
        stem = f"sub-{subject:02d}_ses-1month_task-rest"
        func = folder / inputs["bold"] / f"sub-{subject:02d}" / "ses-1month" / "func"
        write_dense(
            func / f"{stem}_space-fsLR_den-91k_bold.dtseries.nii",
            surface,
            *recording(surface, subject),
        )
        volume = nib.Nifti1Image(np.ones((3, 3, 3, 5), np.float32), np.eye(4))
        nib.save(volume, func / f"{stem}_space-MNIInfant_cohort-1_desc-preproc_bold.nii.gz")
        rng = np.random.default_rng(subject)
        table = func / f"{stem}_desc-confounds_timeseries.tsv"
        write_table(table, a_comp_cor_00=rng.standard_normal(N_T), cosine00=np.ones(N_T))


def xcp_d(folder: Path, surface: Surface, inputs: dict) -> None:
    write_mesh(folder, surface, inputs["surfaces"])
    for subject in (1, 2):
        stem = f"sub-{subject:02d}_ses-1month_task-rest"
        func = folder / inputs["bold"] / f"sub-{subject:02d}" / "ses-1month" / "func"
        signal, voxels = recording(surface, subject)
        for desc in ("denoised", "denoisedSmoothed"):
            name = f"{stem}_space-fsLR_den-91k_desc-{desc}_bold.dtseries.nii"
            write_dense(func / name, surface, signal - signal.mean(axis=1, keepdims=True), voxels)
        moved = motion(np.random.default_rng(subject)) > 0.3 * subject
        write_table(func / f"{stem}_outliers.tsv", framewise_displacement=moved.astype(int))


def dhcp(folder: Path, surface: Surface, inputs: dict) -> None:
    write_mesh(folder, surface, inputs["surfaces"])
    wall = (planted(surface) >= 0).astype(np.float32)
    atlas = planted(surface) % 3 + 1
    atlas[planted(surface) < 0] = 0
    for i, (side, word) in enumerate((("L", "left"), ("R", "right"))):
        mask = GiftiDataArray(np.split(wall, 2)[i], "NIFTI_INTENT_SHAPE")
        nib.save(GiftiImage(darrays=[mask]), folder / inputs["cortex_mask"][i])
        table = [Network(k + 1, f"{side}_{name}", (9 * k, 1, 2)) for k, name in enumerate(NAMES)]
        name = f"week-40_hemi-{word}_space-dhcpSym_dens-32k_desc-networks_dseg.label.gii"
        (folder / name).write_bytes(gifti_labels(np.split(atlas, 2)[i], table, side, "networks"))
    for subject in ("CC00050XX01", "CC00051XX02"):
        signal, _ = recording(surface, int(subject[-2:]))
        signal[planted(surface) < 0] = np.nan  # the wall is not cut out
        for i, word in enumerate(("left", "right")):
            name = f"sub-{subject}_ses-7201_task-rest_hemi-{word}_space-dhcpSym40_bold.func.gii"
            func = folder / inputs["bold"] / f"sub-{subject}" / "ses-7201" / "func"
            write_series(func / name, np.split(signal, 2)[i], None)


@pytest.mark.parametrize(
    ("section", "build", "runs", "ending"),
    [
        ("fMRIPrep", fmriprep, {"sub-01_task-rest", "sub-02_task-rest"}, ".L.label.gii"),
        ("NiBabies", nibabies, {f"sub-0{i}_ses-1month_task-rest" for i in (1, 2)}, ".dlabel.nii"),
        ("XCP-D", xcp_d, {f"sub-0{i}_ses-1month_task-rest" for i in (1, 2)}, ".dlabel.nii"),
        (
            "dHCP",
            dhcp,
            {f"sub-{s}_ses-7201_task-rest" for s in ("CC00050XX01", "CC00051XX02")},
            ".L.label.gii",
        ),
    ],
)
def test_from_a_folder_to_maps(tmp_path, section, build, runs, ending):
    folder, surface, settings = tmp_path / "study", load_fsaverage(N), settings_of(section)
    (folder / "geodesic_labels").mkdir(parents=True)
    (folder / "trend.yaml").write_text(yaml.safe_dump(settings | SMALL))
    build(folder, surface, settings["inputs"])
    outcomes = run(folder, select=MADE)
    assert not any(outcome.errors for outcome in outcomes.values())
    assert {
        p.name.split("=", 1)[-1] for p in (folder / "store" / "bold").iterdir() if p.is_dir()
    } == runs
    stem = folder / "outputs" / "maps" / "selected_6_clusters"
    network = planted(surface)
    inside = network >= 0
    keys = np.concatenate([nib.load(f"{stem}.{side}.label.gii").darrays[0].data for side in "LR"])
    assert adjusted_rand_score(network[inside], keys[inside]) > 0.9
    assert (keys[~inside] == 0).all()
    assert Path(f"{stem}{ending}").is_file()
    share = np.stack([a.data for a in nib.load(f"{stem}_probability.L.func.gii").darrays], axis=1)
    np.testing.assert_allclose(share[inside[:N]].sum(axis=1), 1, atol=1e-5)
    assert (share.argmax(axis=1)[inside[:N]] + 1 == keys[:N][inside[:N]]).mean() > 0.9
    table = pd.read_csv(f"{stem}.tsv", sep="\t")
    if section == "dHCP":
        assert set(table["name"]) == {f"{side}H_{name}" for side in "LR" for name in NAMES}
    if section == "NiBabies":
        check_voxels(stem, network, keys)
    if section == "fMRIPrep":
        settings["inputs"]["template"] = "template.dtseries.nii"
        (folder / "trend.yaml").write_text(yaml.safe_dump(settings | SMALL))
        check_template(folder, stem, keys)


def check_template(folder: Path, stem: Path, keys: np.ndarray) -> None:
    """A CIFTI file with a grayordinate for each vertex makes CIFTI of GIFTI."""
    axis = BrainModelAxis.from_surface(np.arange(N), N, "CortexLeft")
    axis += BrainModelAxis.from_surface(np.arange(N), N, "CortexRight")
    image = Cifti2Image(np.zeros((2, 2 * N), np.float32), (SeriesAxis(0, TR, 2), axis))
    image.to_filename(folder / "template.dtseries.nii")
    run(folder, select=MADE)
    written = nib.load(f"{stem}.dlabel.nii")
    assert written.header.get_axis(1) == axis
    np.testing.assert_array_equal(np.asarray(written.dataobj)[0], keys)
    assert Path(f"{stem}_probability.dscalar.nii").is_file()


def check_voxels(stem: Path, network: np.ndarray, keys: np.ndarray) -> None:
    """Voxels were made to follow the left hemisphere's networks."""
    image = nib.load(f"{stem}.dlabel.nii")
    outside = ~image.header.get_axis(1).surface_mask
    found = np.asarray(image.dataobj)[0, outside]
    expected = [np.bincount(keys[network == v % 3]).argmax() for v in range(len(VOXELS))]
    assert found.tolist() == expected
    sure = np.asarray(nib.load(f"{stem}_subcortex.dscalar.nii").dataobj)
    assert (sure[0] > 0.5).all()
    assert (sure[1] > 0).all()
