"""Runs as labs store them: found, paired, read as what was written; and what is refused."""

from __future__ import annotations

import gzip
import json
import os
from contextlib import suppress
from pathlib import Path
from time import time as now

import nibabel as nib
import numpy as np
import pytest
from nibabel.cifti2.cifti2_axes import BrainModelAxis, SeriesAxis

from trend_dagster.errors import CohortError, InputError
from trend_dagster.storage.confounds import (
    columns_of,
    confounds_file,
    count_rows,
    read_confounds,
)
from trend_dagster.storage.runs import (
    brain_mask_of,
    find_runs,
    read_header,
    read_run,
    unread_files,
)
from trend_dagster.storage.space import VertexSpace, check_same_space

N_LEFT, N_RIGHT, N_TIMEPOINTS = 30, 20, 12


@pytest.fixture
def signal(rng) -> np.ndarray:
    return rng.standard_normal((N_LEFT + N_RIGHT, N_TIMEPOINTS), dtype=np.float32)


def write_gifti(path: Path, part: np.ndarray, *, one_array: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = [part] if one_array else list(part.T)
    image = nib.gifti.GiftiImage(
        darrays=[
            nib.gifti.GiftiDataArray(
                np.ascontiguousarray(a), "NIFTI_INTENT_TIME_SERIES", meta={"TimeStep": "800"}
            )
            for a in arrays
        ]
    )
    nib.save(image, path)


def write_mgh(path: Path, part: np.ndarray, tr_ms: float = 800) -> None:
    image = nib.MGHImage(part[:, None, None, :], np.eye(4))
    image.header["tr"] = tr_ms
    nib.save(image, path)


def models(left, right, *, subcortex: bool = True) -> BrainModelAxis:
    surfaces = BrainModelAxis.from_surface(
        left, N_LEFT, "CIFTI_STRUCTURE_CORTEX_LEFT"
    ) + BrainModelAxis.from_surface(right, N_RIGHT, "CIFTI_STRUCTURE_CORTEX_RIGHT")
    if not subcortex:
        return surfaces
    voxels = np.zeros((4, 4, 4), dtype=bool)
    voxels[1, 1, :2] = True
    return surfaces + BrainModelAxis.from_mask(voxels, "CIFTI_STRUCTURE_THALAMUS_LEFT", np.eye(4))


def write_cifti(path: Path, values: np.ndarray, axis: BrainModelAxis, step: float = 0.8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    series = SeriesAxis(0, step, values.shape[0])
    nib.save(nib.Cifti2Image(values.astype(np.float32), (series, axis)), path)


def the_run(folder: Path, **choose):
    (run,) = find_runs(folder, choose).values()
    return run


def refused(folder: Path, **choose) -> str:
    def read() -> None:
        run = the_run(folder, **choose)
        read_run(run, brain_mask_of(run))

    with pytest.raises(InputError) as caught:
        read()
    assert all((caught.value.expected, caught.value.found, caught.value.remedy))
    return str(caught.value)


# What is read


@pytest.mark.parametrize("one_array", [False, True])
@pytest.mark.parametrize("names", [("hemi-L", "hemi-R"), ("lh", "rh"), ("L", "R")])
def test_gifti_hemispheres_are_paired_left_first(tmp_path, signal, names, one_array):
    for side, part in zip(names, np.split(signal, [N_LEFT]), strict=True):
        write_gifti(tmp_path / f"sub-01_{side}_bold.func.gii", part, one_array=one_array)
    run = the_run(tmp_path)
    raw = read_run(run)
    assert (run.key, len(run.files)) == ("sub-01", 2)
    assert np.array_equal(raw.signal, signal)
    assert raw.space.n_vertices == {"L": N_LEFT, "R": N_RIGHT}
    assert (raw.repetition_time, raw.told_by) == (0.8, "header")


@pytest.mark.parametrize("ending", ["mgh", "mgz"])
def test_freesurfer_overlays(tmp_path, signal, ending):
    for side, part in zip(("lh", "rh"), np.split(signal, [N_LEFT]), strict=True):
        write_mgh(tmp_path / f"sub-01_run-1.fsa5.{side}.{ending}", part, tr_ms=0)
    run = the_run(tmp_path)
    raw = read_run(run)
    assert run.key == "sub-01_run-1.fsa5"
    assert np.array_equal(raw.signal, signal)
    assert raw.repetition_time is None  # a header without time is not guessed at


@pytest.mark.parametrize("subcortex", [True, False])
def test_grayordinates_take_their_place_on_the_full_mesh(tmp_path, rng, subcortex):
    left, right = np.arange(0, N_LEFT, 2), np.arange(5, N_RIGHT)
    axis = models(left, right, subcortex=subcortex)
    values = rng.standard_normal((N_TIMEPOINTS, len(axis))).astype(np.float32)
    write_cifti(tmp_path / "sub-01_bold.dtseries.nii", values, axis)
    raw = read_run(the_run(tmp_path))
    rows = np.concatenate([left, N_LEFT + right])
    assert np.array_equal(raw.signal[rows], values[:, : len(rows)].T)  # no subcortex
    assert np.flatnonzero(raw.space.in_data).tolist() == rows.tolist()
    assert not raw.signal[~raw.space.in_data].any()
    assert (raw.repetition_time, raw.told_by) == (0.8, "header")


@pytest.mark.parametrize("time", ["header", "sidecar", "none"])
@pytest.mark.parametrize("kind", ["npy", "func.gii", "func.gii.gz", "mgh", "mgz", "dtseries.nii"])
def test_a_header_tells_what_reading_tells(tmp_path, signal, kind, time):
    parts = list(zip(("hemi-L", "hemi-R"), np.split(signal, [N_LEFT]), strict=True))
    if kind == "npy":
        np.save(tmp_path / "sub-01_bold.npy", signal)
    elif kind == "dtseries.nii":
        axis = models(np.arange(0, N_LEFT, 2), np.arange(N_RIGHT), subcortex=False)
        step = 0.8 if time == "header" else 0
        write_cifti(tmp_path / f"sub-01_bold.{kind}", signal[: len(axis)].T, axis, step)
    for side, part in parts if kind.startswith(("func", "mg")) else ():
        path = tmp_path / f"sub-01_{side}_bold.{kind.removesuffix('.gz')}"
        if kind.startswith("mg"):
            write_mgh(path, part, 800 if time == "header" else 0)
            continue
        write_gifti(path, part)
        if time != "header":
            path.write_bytes(path.read_bytes().replace(b"TimeStep", b"SomeStep"))
        if kind.endswith(".gz"):
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    if time == "sidecar":
        (tmp_path / "sub-01_hemi-L_bold.json").write_text('{"RepetitionTime": 2.5}')
        (tmp_path / "sub-01_bold.json").write_text('{"RepetitionTime": 2.5}')
    run = the_run(tmp_path)
    raw, header = read_run(run), read_header(run)
    assert (header.n_rows, header.n_volumes) == raw.signal.shape
    assert header.n_vertices == raw.space.n_vertices
    assert (header.repetition_time, header.told_by) == (raw.repetition_time, raw.told_by)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_volumes_within_a_mask(tmp_path, rng, ending):
    volume = rng.standard_normal((4, 5, 3, 6)).astype(np.float32)
    mask = rng.random((4, 5, 3)) < 0.5
    folder = tmp_path / "sub-01" / "ses-1" / "func"
    folder.mkdir(parents=True)
    image = nib.Nifti1Image(volume, np.diag([2, 2, 2, 1]))
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 800
    nib.save(image, folder / f"sub-01_ses-1_space-MNI_desc-preproc_bold.{ending}")
    mask_image = nib.Nifti1Image(mask.astype(np.uint8), image.affine)
    nib.save(mask_image, folder / "sub-01_ses-1_space-MNI_desc-brain_mask.nii.gz")
    run = the_run(tmp_path)
    raw = read_run(run, brain_mask_of(run))
    assert run.key == "sub-01_ses-1"
    assert np.array_equal(raw.signal, volume[mask])
    assert raw.repetition_time == pytest.approx(0.8)
    header = read_header(run)
    assert (header.n_rows, header.n_volumes) == (None, 6)
    assert (header.repetition_time, header.told_by) == (raw.repetition_time, raw.told_by)
    back = np.zeros(volume.shape[:3], dtype=bool)
    back.flat[raw.space.voxels] = True
    assert np.array_equal(back, mask)


def test_a_space_survives_the_store(tmp_path, rng):
    axis = models(np.arange(N_LEFT), np.arange(3, N_RIGHT))
    write_cifti(tmp_path / "a_bold.dtseries.nii", rng.random((5, len(axis))), axis)
    space = read_run(the_run(tmp_path)).space
    again = VertexSpace.from_stored(json.loads(json.dumps(space.facts())), space.arrays())
    assert again.facts() == space.facts()


def test_the_sidecar_is_believed_before_the_header(tmp_path, signal):
    for side, part in zip("LR", np.split(signal, [N_LEFT]), strict=True):
        write_gifti(tmp_path / f"sub-01_hemi-{side}_bold.func.gii", part)
        sidecar = tmp_path / f"sub-01_hemi-{side}_bold.json"
        sidecar.write_text('{"RepetitionTime": 0.392}')
    raw = read_run(the_run(tmp_path))
    assert (raw.repetition_time, raw.told_by) == (0.392, "sidecar")


# Names


def test_which_of_several_must_be_said(tmp_path, signal):
    func = tmp_path / "sub-01" / "func"
    func.mkdir(parents=True)
    for side in "LR":
        for space in ("fsaverage5", "fsLR_den-32k"):
            path = func / f"sub-01_task-rest_hemi-{side}_space-{space}_bold.func.gii"
            write_gifti(path, signal)
    message = refused(tmp_path)
    assert "fsaverage5" in message
    assert "fsLR" in message
    run = the_run(tmp_path, space="fsLR", den="32k")
    assert run.key == "sub-01_task-rest"
    assert all("fsLR" in path.name for path in run.files)
    assert "none of them" in refused(tmp_path, space="T1w")


def test_a_hemisphere_alone_is_refused(tmp_path, signal):
    write_gifti(tmp_path / "sub-01_hemi-L_bold.func.gii", signal)
    assert "hemi-R" in refused(tmp_path)


def test_names_that_are_not_utf8(tmp_path, signal):
    with (tmp_path / os.fsdecode(b"sub-\xff.npy")).open("wb") as file:
        np.save(file, signal)
    message = refused(tmp_path)
    assert "UTF-8" in message
    message.encode()


@pytest.mark.parametrize("word", ["hemi-{}", "hemi-{word}", "{h}", "{}", "{word}"])
@pytest.mark.parametrize("ending", [".func.gii", ".time.gii", ".gii", ".func.gii.gz"])
def test_every_way_to_name_a_hemisphere_and_a_series(tmp_path, signal, word, ending):
    parts = np.split(signal, [N_LEFT])
    for side, name, h, part in zip("LR", ("left", "right"), ("lh", "rh"), parts, strict=True):
        stem = f"week-40_{word.format(side, word=name, h=h)}_task-rest"
        write_gifti(tmp_path / f"{stem}{ending.removesuffix('.gz')}", part)
        if ending.endswith(".gz"):
            path = tmp_path / f"{stem}.func.gii"
            path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
    write_gifti(tmp_path / "lh.pial.gii", signal)  # no series, by its name
    run = the_run(tmp_path)
    assert run.key == "week-40_task-rest"
    assert np.array_equal(read_run(run).signal, signal)


def entity_files(folder: Path, signal: np.ndarray, *stems: str) -> Path:
    func = folder / "sub-01" / "ses-1" / "func"
    func.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        np.save(func / f"{stem}_bold.npy", signal)
    return func


def test_runs_are_chosen_by_any_entity(tmp_path, signal):
    stems = [f"sub-01_task-{t}_run-0{r}" for t in ("rest", "movie") for r in (1, 2)]
    entity_files(tmp_path, signal, *stems)
    with pytest.raises(InputError, match=r"several tasks: movie \(2 runs\), rest \(2 runs\)"):
        find_runs(tmp_path)
    assert set(find_runs(tmp_path, {"task": "rest"})) == {f"{s}_bold" for s in stems[:2]}
    assert len(find_runs(tmp_path, {"task": ("rest", "movie")})) == 4
    assert list(find_runs(tmp_path, {"task": "rest", "run": "2"})) == [f"{stems[1]}_bold"]
    assert len(find_runs(tmp_path, {"session": None, "subject": "01", "task": "rest"})) == 2
    with pytest.raises(InputError, match=r"no tsk-; run: 01, 02; names have run, sub, task"):
        find_runs(tmp_path, {"tsk": "rest", "run": "3"})


@pytest.mark.parametrize("entity", ["echo", "part", "rec", "space", "den", "desc"])
def test_a_folder_of_several_kinds_is_not_taken_whole(tmp_path, signal, entity):
    for i in (1, 2):
        for side, half in zip("LR", np.split(signal, [N_LEFT]), strict=True):
            name = f"sub-0{i}_{entity}-v{i}_hemi-{side}_bold.func.gii"
            write_gifti(tmp_path / name, half)
    with pytest.raises(InputError, match=r"v1 \(1 runs\), v2 \(1 runs\)") as caught:
        find_runs(tmp_path)
    assert f"select: {{{entity}: [v1, v2]}}" in str(caught.value)
    assert len(find_runs(tmp_path, {entity: "v2"})) == 1
    assert len(find_runs(tmp_path, {entity: ("v1", "v2")})) == 2


def test_a_run_that_is_left_out_may_lack_a_hemisphere(tmp_path, signal):
    write_gifti(tmp_path / "sub-01_hemi-L_bold.func.gii", signal)
    with pytest.raises(InputError, match=r"or leave the run out: `.*exclude: \{sub-01: WHY"):
        find_runs(tmp_path)
    assert list(find_runs(tmp_path, left_out=lambda key: key == "sub-01")) == ["sub-01"]


@pytest.mark.parametrize("named", ["study/sub-01", "study/sub-01/ses-1", "."])
def test_a_folder_one_too_high_or_too_low_is_told_the_right_one(tmp_path, signal, named):
    entity_files(tmp_path / "study", signal, "sub-01_ses-1_task-rest")
    # Tables as BIDS has them, whose names begin as folders of subjects do.
    (tmp_path / "study" / "sub-01" / "sub-01_sessions.tsv").touch()
    (tmp_path / "study" / "sub-01" / "ses-1" / "sub-01_ses-1_scans.tsv").touch()
    with pytest.raises(InputError, match=rf"inputs: \{{bold: {tmp_path / 'study'}\}}"):
        find_runs(tmp_path / named)


def test_an_empty_folder_of_a_project_within_a_subjects_folder_is_what_is_empty(tmp_path):
    folder = tmp_path / "sub-01" / "study" / "bold"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match=r"found nothing in it\. Put the files there"):
        find_runs(folder)


def test_two_cohorts_of_a_template_are_two_versions_of_a_recording(tmp_path, signal):
    func = tmp_path / "sub-01" / "func"
    for cohort in (1, 2):
        for side in "LR":
            name = f"sub-01_hemi-{side}_space-MNIInfant_cohort-{cohort}_bold.func.gii"
            write_gifti(func / name, signal)
    assert "cohort-1" in refused(tmp_path)
    assert the_run(tmp_path, cohort="2").key == "sub-01_cohort-2"


def test_the_sidecar_and_the_header_disagree(tmp_path, signal):
    for side, part in zip("LR", np.split(signal, [N_LEFT]), strict=True):
        write_gifti(tmp_path / f"sub-01_hemi-{side}_bold.func.gii", part)
        (tmp_path / f"sub-01_hemi-{side}_bold.json").write_text('{"RepetitionTime": 2}')
    assert "sidecar says a repetition time of 2 s" in read_run(the_run(tmp_path)).notes[0]


def test_hemispheres_may_round_their_time_otherwise(tmp_path, signal):
    for name, part, time in (("lh", signal[:N_LEFT], 392), ("rh", signal[N_LEFT:], 392.00002)):
        write_mgh(tmp_path / f"{name}.a.mgh", part, time)
    assert read_run(the_run(tmp_path)).repetition_time == pytest.approx(0.392)
    write_mgh(tmp_path / "rh.a.mgh", signal[N_LEFT:], 800)
    assert "expected one repetition time in both hemispheres" in refused(tmp_path)


@pytest.mark.parametrize(
    ("sidecar", "said"),
    [
        ('\ufeff{"RepetitionTime": 2}', None),
        ('{"RepetitionTime": Infinity}', "above 0, found inf"),
        ('{"RepetitionTime": NaN}', "above 0, found nan"),
    ],
)
def test_odd_sidecars(tmp_path, signal, sidecar, said):
    np.save(tmp_path / "a.npy", signal)
    (tmp_path / "a.json").write_text(sidecar, encoding="utf-8")
    if said is None:
        assert read_run(the_run(tmp_path)).repetition_time == 2
    else:
        assert said in refused(tmp_path)


def test_a_series_of_fewer_volumes_than_its_file_says_is_refused(tmp_path, signal):
    for side, rows in (("L", slice(N_LEFT)), ("R", slice(N_LEFT, None))):
        path = tmp_path / f"a_hemi-{side}.func.gii"
        write_gifti(path, signal[rows])
        text = path.read_text()
        path.write_text(text[: text.rindex("<DataArray ")] + "</GIFTI>")
    assert "expected a complete GIFTI file (.func.gii)" in refused(tmp_path)


@pytest.mark.parametrize(
    ("left", "right", "halves"),
    [
        ("sub-1_hemi-L_bold", "sub-1_hemi-R_bold", True),
        ("lh.sub-1", "rh.sub-1", True),
        ("sub-1_hemi-L_bold", "sub-2_hemi-R_bold", False),
        ("sub-1_acq-left", "sub-1_acq-right", False),
    ],
)
def test_hemispheres_in_an_array_each_are_no_runs(tmp_path, signal, left, right, halves):
    for name in (left, right):
        np.save(tmp_path / f"{name}.npy", signal)
    if not halves:
        assert len(find_runs(tmp_path)) == 2
        return
    with pytest.raises(InputError, match=r"one \.npy of both hemispheres.*found one for each"):
        find_runs(tmp_path)


NO_VERTICES = np.array([1, 0, 1, 1, 1, 3, 0], dtype=">i4").tobytes() + bytes(300)


@pytest.mark.parametrize(
    "content", [b"", b"no overlay" * 50, NO_VERTICES], ids=["empty", "text", "none"]
)
def test_what_is_no_overlay_is_refused(tmp_path, signal, content):
    write_mgh(tmp_path / "rh.a.mgh", signal[N_LEFT:])
    (tmp_path / "lh.a.mgh").write_bytes(content)
    assert "lh.a.mgh: expected a complete FreeSurfer overlay" in refused(tmp_path)


def test_complex_volumes_are_refused(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 4, 4, 10), np.complex64), np.eye(4))
    nib.save(image, tmp_path / "a_bold.nii.gz")
    assert "expected floating point or integer numbers, found type complex64" in refused(tmp_path)


@pytest.mark.parametrize(
    "name", ["a_bold.dtseries.nii.gz", "a_bold.nii", "sub-1/func/sub-1_bold.dtseries.nii.gz"]
)
def test_grayordinates_under_another_name_are_told_theirs(tmp_path, rng, name):
    axis = models(np.arange(N_LEFT), np.arange(N_RIGHT))
    write_cifti(tmp_path / "made.dtseries.nii", rng.random((N_TIMEPOINTS, len(axis))), axis)
    content = (tmp_path / "made.dtseries.nii").read_bytes()
    (tmp_path / "made.dtseries.nii").unlink()
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    assert "give it a name that ends with .dtseries.nii" in refused(tmp_path)


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_a_folder_or_a_dead_link_in_place_of_a_file(tmp_path, make):
    make(tmp_path / "a.dtseries.nii")
    assert "a.dtseries.nii: expected a complete CIFTI-2 file" in refused(tmp_path)


def test_one_hemisphere_tells_the_time_of_both(tmp_path, signal):
    for side, part, time in zip("LR", np.split(signal, [N_LEFT]), (800, 0), strict=True):
        write_mgh(tmp_path / f"{side.lower()}h.a.mgh", part, time)
    assert read_run(the_run(tmp_path)).repetition_time == 0.8
    write_mgh(tmp_path / "rh.a.mgh", signal[N_LEFT:], 1000)
    assert "found 0.8 and 1.0 s" in refused(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("space-fsaverage5", "says space-fsaverage5, 10242 vertices"),
        ("space-fsLR_den-32k", "says den-32k, 32492 vertices in each hemisphere, and the files"),
        ("space-fsaverage", None),
        ("space-mine_den-low", None),
    ],
)
def test_a_name_that_says_another_mesh(tmp_path, signal, name, said):
    for side, part in zip("LR", np.split(signal, [N_LEFT]), strict=True):
        write_gifti(tmp_path / f"sub-01_hemi-{side}_{name}_bold.func.gii", part)
    notes = read_run(the_run(tmp_path)).notes
    assert said in notes[0] if said else notes == ()


def test_nan_in_a_mask_is_outside_and_fractions_are_said(tmp_path, rng):
    volume = rng.random((4, 3, 3, 6)).astype(np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "a_bold.nii")
    mask = np.full((4, 3, 3), np.nan, dtype=np.float32)
    mask[1], mask[2] = 1, 0.3
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "a_desc-brain_mask.nii")
    run = the_run(tmp_path)
    raw = read_run(run, brain_mask_of(run))
    assert np.array_equal(raw.signal, volume[1:3].reshape(-1, 6))
    assert "holds fractions" in raw.notes[0]


@pytest.mark.parametrize("damaged", ["a_bold.nii.gz", "a_desc-brain_mask.nii.gz", None])
def test_a_compressed_volume_is_read_to_its_checksum(tmp_path, rng, damaged):
    volume = rng.random((4, 3, 3, 200)).astype(np.float32)
    mask = np.ones((4, 3, 3, 1), dtype=np.uint8)  # as a series of one volume
    nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / "a_bold.nii.gz")
    nib.save(nib.Nifti1Image(mask, np.eye(4)), tmp_path / "a_desc-brain_mask.nii.gz")
    if damaged is None:
        run = the_run(tmp_path)
        assert np.array_equal(read_run(run, brain_mask_of(run)).signal, volume.reshape(36, 200))
        return
    stored = bytearray(gzip.compress(gzip.decompress((tmp_path / damaged).read_bytes()), 0))
    stored[-30] ^= 1  # one bit of the last numbers, which only the checksum tells
    (tmp_path / damaged).write_bytes(stored)
    assert f"{damaged}: expected a complete NIfTI" in refused(tmp_path)


def test_what_looks_like_bold_and_is_not_read_is_named(tmp_path, signal):
    func = entity_files(tmp_path, signal, "sub-01_task-rest")
    for name in ("sub-02_bold.nii.bz2", "sub-03_bold.mat", "x_bold.json", "notes.txt", "a.npz"):
        (func / name).touch()
    assert set(unread_files(tmp_path)) == {"sub-02_bold.nii.bz2", "sub-03_bold.mat", "a.npz"}


# What is refused


def test_the_numbers_of_a_gifti_file_beside_it_are_read(tmp_path):
    for name in ("sub-1_hemi-L_bold.func.gii", "sub-2_hemi-L_bold.func.gii"):
        (tmp_path / f"{name}.data").touch()
    header = b'<DataArray ExternalFileName="./sub-1_hemi-L_bold.func.gii.data">'
    (tmp_path / "sub-1_hemi-L_bold.func.gii").write_bytes(header)
    assert set(unread_files(tmp_path)) == {"sub-2_hemi-L_bold.func.gii.data"}


def test_one_hemisphere_given_for_both(tmp_path, signal):
    np.save(tmp_path / "a.npy", np.concatenate([signal[:20], signal[:20]]))
    assert "one is a copy of the other" in refused(tmp_path)
    for side in "LR":
        write_gifti(tmp_path / f"b_hemi-{side}_bold.func.gii", signal)
    (tmp_path / "a.npy").unlink()
    assert "one is a copy of the other" in refused(tmp_path)


def test_a_hemisphere_copied_in_another_unit(tmp_path, signal):
    np.save(tmp_path / "a.npy", np.concatenate([signal[:20], 3 - 2 * signal[:20]]))
    assert "one is a copy of the other" in refused(tmp_path)


def test_a_series_under_the_name_of_a_map(tmp_path, signal):
    for side in "LR":
        write_gifti(tmp_path / f"sub-01_hemi-{side}_bold.shape.gii", signal)
    assert "call a series .func.gii" in refused(tmp_path)


def test_volumes_in_rows_of_a_gifti_file(tmp_path, signal):
    for side, part in zip("LR", np.split(1000 + 10 * signal, [N_LEFT]), strict=True):
        write_gifti(tmp_path / f"a_hemi-{side}_bold.func.gii", part.T, one_array=True)
    with pytest.raises(InputError, match=r"wrong way round.*one array of all vertices a volume"):
        read_run(the_run(tmp_path), None, {"L": N_LEFT, "R": N_RIGHT})


@pytest.mark.parametrize("shape", [(40, 1, 1), (8, 1, 5)])
def test_a_surface_in_a_volume_s_clothes(tmp_path, rng, shape):
    image = nib.Nifti1Image(rng.random((*shape, 6)).astype(np.float32), np.eye(4))
    nib.save(image, tmp_path / "sub-01_bold.fsaverage.lh.nii.gz")
    assert "mri_convert" in refused(tmp_path)


def test_what_macos_puts_beside_each_file_is_no_run(tmp_path, signal):
    for side, rows in (("L", slice(N_LEFT)), ("R", slice(N_LEFT, None))):
        write_gifti(tmp_path / f"sub-01_task-rest_hemi-{side}_bold.func.gii", signal[rows])
    table = tmp_path / "sub-01_task-rest_desc-confounds_timeseries.tsv"
    table.write_text("a\n1\n")
    for path in list(tmp_path.iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    assert unread_files(tmp_path) == {}
    run = the_run(tmp_path)
    assert np.array_equal(read_run(run).signal, signal)
    assert confounds_file(run) == table


def test_hemispheres_of_different_lengths(tmp_path, signal):
    write_gifti(tmp_path / "a_hemi-L_bold.func.gii", signal)
    write_gifti(tmp_path / "a_hemi-R_bold.func.gii", signal[:, 1:])
    assert "12 timepoints in a_hemi-L" in refused(tmp_path)


def test_a_series_with_step_zero_has_no_time(tmp_path, rng):
    axis = models(np.arange(N_LEFT), np.arange(N_RIGHT))
    write_cifti(tmp_path / "a.dtseries.nii", rng.random((5, len(axis))), axis, step=0)
    raw = read_run(the_run(tmp_path))
    assert (raw.repetition_time, raw.told_by) == (None, "step 0")


def test_cifti_1_is_named_with_its_converter(tmp_path, rng):
    axis = models(np.arange(N_LEFT), np.arange(N_RIGHT))
    path = tmp_path / "a.dtseries.nii"
    write_cifti(path, rng.random((5, len(axis))), axis)
    path.write_bytes(path.read_bytes().replace(b'<CIFTI Version="2.0"', b'<CIFTI Version="1.0"'))
    message = refused(tmp_path)
    assert "CIFTI-1" in message
    assert "-cifti-version-convert" in message


def test_brain_models_that_differ_between_runs(tmp_path, rng):
    spaces = {}
    for name, first in (("a", 0), ("b", 1)):
        axis = models(np.arange(first, N_LEFT), np.arange(N_RIGHT))
        write_cifti(tmp_path / f"{name}.dtseries.nii", rng.random((5, len(axis))), axis)
    for key, run in find_runs(tmp_path).items():
        spaces[key] = read_run(run).space.facts()
    check_same_space({"a": spaces["a"], "again": spaces["a"]})
    with pytest.raises(CohortError, match="run b: expected the same vertices"):
        check_same_space(spaces)


RAW = "raw"
WALL = "a wall, constant"
DEMEANED = "demeaned"
ZSCORED = "z-scored"


def as_prepared(signal: np.ndarray, how: str) -> np.ndarray:
    """The same signal as different tools leave it."""
    rng = np.random.default_rng(5)
    if how == RAW:
        return 1000 + 300 * rng.random((len(signal), 1)) + 10 * signal
    if how == WALL:
        return np.where(np.arange(len(signal))[:, None] < 3, 0, 1000 + 10 * signal)
    centred = signal - signal.mean(axis=1, keepdims=True)
    centred -= centred.mean(axis=0)  # the global signal is gone
    return centred / (centred.std(axis=1, keepdims=True) if how == ZSCORED else 1)


@pytest.mark.parametrize("how", [RAW, WALL, DEMEANED, ZSCORED])
@pytest.mark.parametrize("n_timepoints", [20, 200])
def test_the_wrong_way_round_is_told_by_what_is_in_it(tmp_path, rng, how, n_timepoints):
    signal = rng.standard_normal((60, n_timepoints)) * rng.uniform(0.5, 2, (60, 1))
    right = as_prepared(signal, how).astype(np.float32)
    np.save(tmp_path / "a.npy", right)
    assert np.array_equal(read_run(the_run(tmp_path)).signal, right)
    if how == DEMEANED:  # twice centred, of any scale: nothing in it tells
        return
    np.save(tmp_path / "a.npy", right.T)
    message = refused(tmp_path)
    assert f"{n_timepoints} rows and 60 columns: the wrong way round" in message
    assert "array.T" in message


def test_the_mesh_tells_the_way_before_the_content(tmp_path, signal):
    np.save(tmp_path / "a.npy", signal)
    mesh = {"L": N_LEFT, "R": N_RIGHT}
    assert read_run(the_run(tmp_path), None, mesh).notes == ()
    np.save(tmp_path / "a.npy", signal.T)
    with pytest.raises(InputError, match="wrong way round"):
        read_run(the_run(tmp_path), None, mesh)
    (note,) = read_run(the_run(tmp_path)).notes  # noise: nothing tells
    assert "more timepoints (50) than vertices (12)" in note
    with pytest.raises(InputError, match="wrong way round"):  # but the label files
        read_run(the_run(tmp_path), n_labels=N_LEFT + N_RIGHT)


def test_files_are_found_in_sorted_order_whatever_the_order_of_writing(tmp_path):
    names = ["sub-10", "sub-02", "sub-1", "Sub-3", "a"]
    for name in names:
        np.save(tmp_path / f"{name}.npy", np.zeros(1))
    (tmp_path / "notes.txt").touch()
    (tmp_path / "below").mkdir()
    np.save(tmp_path / "below" / "deep.npy", np.zeros(1))
    found = find_runs(tmp_path)
    assert list(found) == sorted(names)
    assert all(run.files == (tmp_path / f"{key}.npy",) for key, run in found.items())


@pytest.mark.parametrize("others", [[], ["a.mat", "b.bin", "c.npz"]])
def test_a_folder_without_runs_says_what_else_is_in_it(tmp_path, others):
    for name in others:
        (tmp_path / name).touch()
    message = refused(tmp_path)
    found = f"{len(others)} entries, none of them one" if others else "nothing in it"
    assert f"found {found}" in message
    assert all(name in message for name in others)


def test_two_names_with_one_key_are_both_named(tmp_path):
    for name in ("sub 01.npy", "sub_01.npy"):
        np.save(tmp_path / name, np.zeros((4, 2)))
    message = refused(tmp_path)
    assert "'sub 01.npy'" in message
    assert "'sub_01.npy'" in message


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_gz(tmp_path, signal, share):
    for side, part in zip(("lh", "rh"), np.split(signal, [N_LEFT]), strict=True):
        write_mgh(tmp_path / f"a.{side}.mgz", part)
    path = tmp_path / "a.lh.mgz"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert "truncated" in refused(tmp_path)


def test_bytes_that_are_no_gz(tmp_path, signal):
    for side in ("lh", "rh"):
        (tmp_path / f"a.{side}.mgz").write_bytes(gzip.compress(b"nothing"))
    assert "a.lh.mgz" in refused(tmp_path)


@pytest.mark.parametrize("name", ["a", "a_bold", "a_desc-preproc_bold", "sub-1_space-x_bold"])
def test_the_mask_lies_beside_the_volume_and_is_never_the_volume(tmp_path, rng, name):
    path = tmp_path / f"{name}.nii.gz"
    nib.save(nib.Nifti1Image(rng.random((3, 3, 3, 4)).astype(np.float32), np.eye(4)), path)
    assert brain_mask_of(the_run(tmp_path)) is None
    stem = name.replace("_desc-preproc", "").removesuffix("_bold")
    mask = tmp_path / f"{stem}_desc-brain_mask.nii"
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), dtype=np.uint8), np.eye(4)), mask)
    run = the_run(tmp_path)
    assert brain_mask_of(run) == mask
    assert len(read_run(run, mask).signal) == 27


def test_a_mask_of_another_shape_or_none(tmp_path, rng):
    image = nib.Nifti1Image(rng.random((3, 3, 3, 4)).astype(np.float32), np.eye(4))
    nib.save(image, tmp_path / "a_bold.nii")
    assert "volume_mask" in refused(tmp_path)
    other = nib.Nifti1Image(np.ones((3, 3, 2), dtype=np.uint8), np.eye(4))
    nib.save(other, tmp_path / "a_desc-brain_mask.nii")
    assert "(3, 3, 2)" in refused(tmp_path)
    nothing = nib.Nifti1Image(np.zeros((3, 3, 3), dtype=np.uint8), np.eye(4))
    nib.save(nothing, tmp_path / "a_desc-brain_mask.nii")
    assert "numbers other than 0 where there is brain" in refused(tmp_path)


def test_a_volume_in_an_overlay_s_clothes(tmp_path, rng):
    for side in ("lh", "rh"):
        volume = rng.random((5, 4, 3, 2)).astype(np.float32)
        nib.save(nib.MGHImage(volume, np.eye(4)), tmp_path / f"a.{side}.mgh")
    assert "mri_vol2surf" in refused(tmp_path)


# Confounds


@pytest.fixture
def table(tmp_path, signal) -> Path:
    np.save(tmp_path / "sub-01_run-1.npy", signal)
    lines = ["a\tb\tc", "n/a\t1\t1", *[f"{i}\t2\tn/a" for i in range(1, N_TIMEPOINTS)]]
    path = tmp_path / "sub-01_run-1_desc-confounds_timeseries.tsv"
    path.write_text("\n".join(lines))
    assert confounds_file(the_run(tmp_path)) == path
    return path


def test_confounds_are_taken_by_name(table):
    found = read_confounds(table, ("b", "a"), N_TIMEPOINTS)
    assert found[:3].tolist() == [[1, 1], [2, 1], [2, 2]]


@pytest.mark.parametrize(
    ("columns", "n", "word"),
    [(("d",), 12, "columns d"), (("a",), 9, "9 rows"), (("c",), 12, "num")],
)
def test_confounds_that_do_not_fit(table, columns, n, word):
    with pytest.raises(InputError, match=word):
        read_confounds(table, columns, n)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("\t", ",", "tabs between its columns, found one column 'a,b,c'"),
        ("a\tb", "a\ta", "each column once, found several a"),
        ("5\t2", "five\t2", "found 1 without one, first a in row 6"),
        ("\t", " ", "tabs between its columns, found one column 'a b c'"),
        ("3\t2\tn/a", "3\t2", "3 values in each row, .* found 2 in row 4"),
        ("3\t2\tn/a", "3\t2\tn/a\t7", "3 values in each row, .* found 4 in row 4"),
    ],
)
def test_a_table_that_is_none(table, old, new, said):
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=said):
        read_confounds(table, ("a",), N_TIMEPOINTS)


def test_names_of_rows_are_no_column(table):
    first, *others = table.read_text().splitlines()
    table.write_text("\n".join([first, *(f"{i}\t{row}" for i, row in enumerate(others, 1))]))
    with pytest.raises(InputError, match=r"3 values in each row, .* found 4 in row 1"):
        read_confounds(table, ("a",), N_TIMEPOINTS)


@pytest.mark.parametrize("of_all", ["{}\t", "{}\t\t", "{}\r", " {} "])
@pytest.mark.parametrize("of_names", ['"a"\t"b"\t"c"', "a \t b\tc"])
def test_tables_as_other_programs_write_them(table, of_all, of_names):
    before = read_confounds(table, ("a", "b"), N_TIMEPOINTS)
    lines = table.read_text().replace("a\tb\tc", of_names).splitlines()
    table.write_text("\n".join(of_all.format(line) for line in lines))
    assert columns_of(table) == ["a", "b", "c"]
    assert count_rows(table) == N_TIMEPOINTS
    assert np.array_equal(read_confounds(table, ("a", "b"), N_TIMEPOINTS), before)


def test_a_table_of_true_and_false(tmp_path):
    (tmp_path / "outliers.tsv").write_text("moved\nTrue\nFalse\n")
    found = read_confounds(tmp_path / "outliers.tsv", ("moved",), 2)
    assert found.ravel().tolist() == [1, 0]


@pytest.mark.parametrize("content", [b"", b"\n", "a\tb\n1\t2\n".encode("utf-16")])
def test_a_table_of_nothing_has_no_rows_to_compare(table, content):
    table.write_bytes(content)
    assert count_rows(table) is None
    with pytest.raises(InputError, match="a table with tabs between its columns"):
        read_confounds(table, ("a",), N_TIMEPOINTS)


def test_a_mark_that_spreadsheets_write_is_no_part_of_a_name(table):
    table.write_text(table.read_text(), encoding="utf-8-sig")
    assert read_confounds(table, ("a",), N_TIMEPOINTS).shape == (N_TIMEPOINTS, 1)


def test_confounds_by_pattern(table):
    found = read_confounds(table, ("[ab]", "a"), N_TIMEPOINTS)
    assert found.shape == (N_TIMEPOINTS, 2)
    with pytest.raises(InputError, match=r"columns x_\*"):
        read_confounds(table, ("b", "x_*"), N_TIMEPOINTS)


@pytest.mark.parametrize(
    "processing",
    ["space-dhcpAsym_cohort-40_den-32k", "space-fsLR_den-91k_desc-denoised", "res-2", ""],
)
def test_a_table_belongs_to_a_recording_however_that_was_processed(tmp_path, signal, processing):
    own = "sub-01_ses-newborn_task-rest_dir-AP_run-1"
    name = f"{own}_{processing}_bold.npy".replace("__", "_")
    np.save(tmp_path / name, signal)
    for other in (own, own.replace("run-1", "run-2"), own.replace("_run-1", ""), "sub-02"):
        (tmp_path / f"{other}_desc-confounds_timeseries.tsv").write_text("a\n1\n")
    assert confounds_file(the_run(tmp_path)).name.startswith(f"{own}_desc-")


@pytest.mark.parametrize(
    ("run", "table"),
    [
        ("sub-01_task-rest_run-1", "sub-01_task-rest_run-01"),
        ("sub-01_task-rest_echo-1_part-mag_run-2", "sub-01_task-rest_run-2"),
    ],
)
def test_a_table_may_number_otherwise_and_serve_all_echoes(tmp_path, signal, run, table):
    np.save(tmp_path / f"{run}_bold.npy", signal)
    for other in (table, "sub-01_task-rest_run-3", "sub-01_task-rest", "sub-02_task-rest_run-1"):
        (tmp_path / f"{other}_desc-confounds_timeseries.tsv").write_text("a\n1\n")
    assert confounds_file(the_run(tmp_path)).name.startswith(f"{table}_desc-")


def test_confounds_that_are_not_there(tmp_path, signal):
    np.save(tmp_path / "a.npy", signal)
    with pytest.raises(InputError, match="no such file"):
        confounds_file(the_run(tmp_path))


@pytest.mark.parametrize("age", [0, 100])
def test_a_table_that_comes_or_goes_later_is_seen(tmp_path, signal, age):
    np.save(tmp_path / "a.npy", signal)
    run, table = the_run(tmp_path), tmp_path / "a_desc-confounds_timeseries.tsv"

    def looked_at_before() -> None:
        then = now() - age
        os.utime(tmp_path, (then, then))
        with suppress(InputError):
            confounds_file(run)

    looked_at_before()
    table.write_text("a\n1\n")
    assert confounds_file(run) == table
    looked_at_before()
    table.unlink()
    with pytest.raises(InputError, match="no such file"):
        confounds_file(run)


@pytest.mark.parametrize("right_first", [False, True])
def test_cortex_alone_of_equal_hemispheres_keeps_them_apart(tmp_path, rng, right_first):
    left, right = (
        BrainModelAxis.from_surface(np.arange(N_LEFT), N_LEFT, f"CIFTI_STRUCTURE_CORTEX_{side}")
        for side in ("LEFT", "RIGHT")
    )
    signal = rng.standard_normal((2 * N_LEFT, N_TIMEPOINTS), dtype=np.float32)
    axis = right + left if right_first else left + right
    stored = np.roll(signal, N_LEFT, axis=0) if right_first else signal
    write_cifti(tmp_path / "sub-01_bold.dtseries.nii", stored.T, axis)
    np.testing.assert_array_equal(read_run(the_run(tmp_path)).signal, signal)
