"""Every row of docs/bad-input.md: what it says is said, and what was stored is still there."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np
import openpyxl
import pytest
from nibabel import cifti2
from nibabel.freesurfer import write_annot
from sklearn.exceptions import ConvergenceWarning

from tests.conftest import MEDIAL_WALL, N_VERTICES, Finished, run, simulate_run
from tests.spheres import brain, halves, write_gifti
from trend_dagster import cli
from trend_dagster.orchestration import production
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.instance import only_run_here
from trend_dagster.project.folder import Project
from trend_dagster.storage import stores
from trend_dagster.storage.label_images import gifti_surface

TABLE = Path(__file__).parents[1] / "docs" / "bad-input.md"


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    name: str
    message: str
    kept: str

    @property
    def pattern(self) -> str:
        """What must be said; `…` stands for any text."""
        parts = " ".join(self.message.split()).split("…")
        return ".*?".join(re.escape(part.strip()) for part in parts)

    @property
    def accepted_as(self) -> str | None:
        """Key under which an odd input is accepted, or None where it is refused."""
        found = re.fullmatch(r"accepted as `(.+)`", self.message)
        return found.group(1) if found else None


def rows() -> dict[str, Row]:
    found = {}
    for line in TABLE.read_text().splitlines():
        if line.startswith("| ") and not line.startswith(("| case", "| ---")):
            name, _, message, kept = (c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1])
            assert name not in found, name
            if not message.startswith("accepted"):
                message = message[1:-1]
            found[name] = Row(name, message, kept)
    return found


ROWS = rows()
ACCEPTED = [name for name, row in ROWS.items() if row.accepted_as]


@dataclass
class Desk:
    """A project in which something goes wrong, and what is said of it."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture
    before: dict = field(default_factory=dict)
    may_change: set = field(default_factory=set)

    def trend(self, *words: object, status: int = 1) -> str:
        """Run a command; all that it says."""
        self.monkeypatch.setattr(sys, "argv", ["trend", *map(str, words)])
        self.monkeypatch.setattr(cli.app.console, "quiet", False)
        found = 0
        try:
            cli.main()
        except SystemExit as end:
            found = int(end.code or 0)
        said = " ".join("".join(self.capsys.readouterr()).split())
        assert found == status, said
        assert "Traceback" not in said
        return said

    def run(self, *assets: str, status: int = 1, force: bool = False) -> str:
        """Make assets."""
        selected = [word for asset in assets for word in ("--select", asset)]
        more = ["--force"] if force else []
        return self.trend("run", self.folder, *selected, *more, status=status)

    def settings(self, text: str | bytes) -> str:
        """Read these settings, in a project that has nothing else."""
        folder = self.folder.parent / "settings"
        folder.mkdir(exist_ok=True)
        file = folder / "trend.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return self.trend("settings", folder)

    def add_settings(self, text: str) -> None:
        with (self.folder / "trend.yaml").open("a") as file:
            file.write(text + "\n")

    def replace_settings(self, old: str, new: str) -> None:
        file = self.folder / "trend.yaml"
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    def bold(self, array: np.ndarray, name: str = "sub-02_run-1.npy") -> Path:
        np.save(self.folder / "bold" / name, array)
        return self.folder / "bold" / name

    def labels(self, array: np.ndarray, name: str = "wrong.npy") -> Path:
        np.save(self.folder / "geodesic_labels" / name, array)
        return self.folder / "geodesic_labels" / name

    def pointers(self) -> dict[tuple, str]:
        """Current version of everything stored."""
        store = self.folder / "store"
        return {p.relative_to(store).parts: p.read_text() for p in store.rglob("current")}


CASES: dict[str, Callable[[Desk], str]] = {}
FAST: set[str] = set()


def case(name: str, *, fast: bool = False, may_change: tuple[str, ...] = ()):
    """Register what a row does; assets that may get a new version are named."""

    def register(do: Callable[[Desk], str]) -> Callable[[Desk], str]:
        def with_changes(desk: Desk) -> str:
            desk.may_change = set(may_change)
            return do(desk)

        CASES[name] = with_changes
        if fast:
            FAST.add(name)
        return do

    return register


# Settings

SETTINGS: dict[str, str | bytes] = {
    "misspelt-setting": "training: {learning_rat: 1}",
    "misspelt-section": "autoencodr: {d_model: 8}",
    "wrong-type": "training: {n_epochs: many}",
    "fraction-for-integer": "training: {n_epochs: 1.5}",
    "out-of-range": "training: {test_size: 1}",
    "infinite": "training: {gradient_clip: .inf}",
    "single-cluster": "sweep: {n_clusters: [1]}",
    "grid-value-twice": "sweep: {n_components: [4, 4]}",
    "heads": "autoencoder: {d_model: 10, n_heads: 4}",
    "bad-cron": "automation: {nightly: at night}",
    "section-twice": "sweep: {n_clusters: [3]}\nsweep: {n_components: [4]}",
    "setting-twice": "sweep:\n  alpha_W: [1]\n  alpha_W: [2]",
    "not-yaml": "training: {n_epochs: [",
    "not-utf8": "inputs: {note: Zürich}".encode("latin-1"),
    "no-such-profile": "profile: tutorail",
    "surface-unknown": "inputs: {surface: fsaverage9}",
    "surface-labels-many": "geodesic_labels: {n_labels_per_hemisphere: [501]}",
}
for _name, _text in SETTINGS.items():
    case(_name, fast=True)(lambda desk, text=_text: desk.settings(text))


@case("code-in-yaml", fast=True)
def _(desk):
    trace = desk.folder.parent / "trace"
    said = desk.settings(f"profile: !!python/object/apply:os.mkdir ['{trace}']")
    assert not trace.exists()
    return said


# The command line


@case("no-such-profile-option", fast=True)
def _(desk):
    return desk.trend("run", desk.folder, "--profile", "tutorail")


@case("no-project", fast=True)
def _(desk):
    nowhere = desk.folder.parent / "nowhere"
    said = desk.trend("run", nowhere)
    assert not nowhere.exists()
    return said


@case("misspelt-asset", fast=True)
def _(desk):
    return desk.run("nmf_swep")


@case("no-such-partition", fast=True)
def _(desk):
    return desk.trend("show", "nmf_sweep", "two", "5", "--folder", desk.folder)


@case("init-over-project", fast=True)
def _(desk):
    before = (desk.folder / "trend.yaml").read_bytes()
    said = desk.trend("init", desk.folder)
    assert (desk.folder / "trend.yaml").read_bytes() == before
    return said


@case("port-in-use", fast=True)
def _(desk):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        return desk.trend("dev", desk.folder, "--port", taken.getsockname()[1])


@case("two-runs", fast=True)
def _(desk):
    with only_run_here(desk.folder):
        return desk.run("bold")


# BOLD


@case("bold-folder-missing", fast=True)
def _(desk):
    shutil.rmtree(desk.folder / "bold")
    return desk.run("bold")


@case("bold-folder-empty", fast=True)
def _(desk):
    shutil.rmtree(desk.folder / "bold")
    (desk.folder / "bold").mkdir()
    (desk.folder / "bold" / "scan.dcm").touch()
    return desk.run("bold")


@case("bold-truncated")
def _(desk):
    path = desk.folder / "bold" / "sub-02_run-1.npy"
    path.write_bytes(path.read_bytes()[:5000])
    return desk.run("bold")


@case("bold-no-file")
def _(desk):
    path = desk.folder / "bold" / "sub-02_run-1.npy"
    path.unlink()
    path.symlink_to(desk.folder / "annexed")
    return desk.run("bold")


@case("bold-long-name", fast=True)
def _(desk):
    path = desk.folder / "bold" / "sub-02_run-1.npy"
    path.rename(path.with_name("sub-02_" + "x" * 234 + ".npy"))
    return desk.run("bold")


class Bomb:
    """A Python object that would leave a trace if it were unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = str(trace)

    def __reduce__(self):
        return (os.mkdir, (self.trace,))


@case("bold-pickle")
def _(desk):
    trace = desk.folder.parent / "trace"
    bombs = np.array([[Bomb(trace)]], dtype=object)
    np.save(desk.folder / "bold" / "sub-02_run-1.npy", bombs, allow_pickle=True)
    said = desk.run("bold")
    assert not trace.exists()
    return said


@case("bold-archive")
def _(desk):
    path = desk.folder / "bold" / "sub-02_run-1.npy"
    with path.open("wb") as file:
        np.savez(file, simulate_run(1))
    return desk.run("bold")


@case("bold-3d")
def _(desk):
    desk.bold(np.stack([simulate_run(1), simulate_run(2)]))
    return desk.run("bold")


@case("bold-complex")
def _(desk):
    desk.bold(simulate_run(1).astype(np.complex128))
    return desk.run("bold")


@case("bold-nan", may_change=("bold",))
def _(desk):
    bold = simulate_run(1)
    bold[3, 5], bold[4, 5] = np.nan, np.inf
    desk.bold(bold)
    return desk.run("bold", status=0)


@case("bold-constant", may_change=("bold",))
def _(desk):
    desk.bold(np.ones((N_VERTICES, 40), dtype=np.float32))
    return desk.run("bold", status=0)


@case("bold-fewer-vertices", may_change=("bold", "embeddings"))
def _(desk):
    desk.bold(simulate_run(1)[:80])
    return desk.run("bold", "embeddings", "average_correlation")


@case("bold-shorter", may_change=("bold",))
def _(desk):
    desk.bold(simulate_run(1, 30))
    return desk.run("bold", "trained_model")


@case("bold-one-usable", may_change=("bold",))
def _(desk):
    for path in sorted((desk.folder / "bold").iterdir())[1:]:
        desk.bold(np.ones((N_VERTICES, 40), dtype=np.float32), path.name)
    return desk.run("bold", "trained_model")


@case("bold-wrong-way")
def _(desk):
    desk.bold(simulate_run(1).T)
    return desk.run("bold")


SECOND = "sub-02_run-1"


def in_place_of(desk: Desk, run_name: str = SECOND) -> Path:
    """Take a run's .npy away; what its other files begin with."""
    (desk.folder / "bold" / f"{run_name}.npy").unlink()
    return desk.folder / "bold" / run_name


def write_dtseries(path: Path, left: int = 45, step: float = 2.0) -> None:
    axis = cifti2.BrainModelAxis.from_surface(np.arange(left), 45, "CortexLeft")
    axis += cifti2.BrainModelAxis.from_surface(np.arange(45), 45, "CortexRight")
    values = simulate_run(1)[: len(axis)].T
    image = cifti2.Cifti2Image(values, (cifti2.SeriesAxis(0, step, len(values)), axis))
    image.to_filename(path)


@case("bold-cifti-1")
def _(desk):
    path = in_place_of(desk).with_suffix(".dtseries.nii")
    write_dtseries(path)
    content = path.read_bytes()
    assert b'<CIFTI Version="2' in content
    path.write_bytes(content.replace(b'<CIFTI Version="2', b'<CIFTI Version="1'))
    return desk.run("bold")


@case("bold-step-0")
def _(desk):
    write_dtseries(in_place_of(desk).with_suffix(".dtseries.nii"), step=0)
    return desk.run("bold")


@case("bold-parcels")
def _(desk):
    axis = cifti2.ParcelsAxis(
        ["a"],
        [np.empty((0, 3), dtype=int)],
        [{"CIFTI_STRUCTURE_CORTEX_LEFT": np.arange(9)}],
        nvertices={"CIFTI_STRUCTURE_CORTEX_LEFT": 45},
    )
    series = cifti2.SeriesAxis(0, 2, 40)
    image = cifti2.Cifti2Image(np.ones((40, 1), np.float32), (series, axis))
    image.to_filename(in_place_of(desk).with_suffix(".dtseries.nii"))
    return desk.run("bold")


@case("bold-brain-models", may_change=("bold", "embeddings"))
def _(desk):
    for name, left in ((SECOND, 45), ("sub-02_run-2", 44)):
        write_dtseries(in_place_of(desk, name).with_suffix(".dtseries.nii"), left)
    return desk.run("bold", "embeddings", "average_correlation")


def write_overlays(desk: Desk, lengths: tuple[int, ...]) -> Path:
    """Write a hemisphere of each length; the path of the left one."""
    stem = in_place_of(desk)
    for side, n_timepoints in zip(("lh", "rh"), lengths, strict=False):
        signal = simulate_run(1)[:45, None, None, :n_timepoints]
        nib.save(nib.MGHImage(signal, np.eye(4)), f"{stem}.{side}.mgz")
    return stem.with_name(f"{stem.name}.lh.mgz")


@case("bold-hemispheres")
def _(desk):
    write_overlays(desk, (40, 39))
    return desk.run("bold")


@case("bold-one-hemisphere", fast=True)
def _(desk):
    write_overlays(desk, (40,))
    return desk.run("bold")


@case("bold-gz-truncated")
def _(desk):
    path = write_overlays(desk, (40, 40))
    path.write_bytes(path.read_bytes()[:4000])
    return desk.run("bold")


def write_volume(desk: Desk, mask_shape: tuple[int, ...] | None) -> None:
    stem = in_place_of(desk)
    volume = np.random.default_rng(0).random((5, 6, 4, 40), dtype=np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4)), f"{stem}_bold.nii.gz")
    if mask_shape is not None:
        mask = nib.Nifti1Image(np.ones(mask_shape, np.uint8), np.eye(4))
        nib.save(mask, f"{stem}_desc-brain_mask.nii.gz")


@case("bold-mask-shape")
def _(desk):
    write_volume(desk, (5, 6, 3))
    return desk.run("bold")


@case("bold-no-mask")
def _(desk):
    write_volume(desk, None)
    return desk.run("bold")


@case("bold-not-utf8", fast=True)
def _(desk):
    stem = os.fsencode(in_place_of(desk))
    with open(stem + b"\xff.npy", "wb") as file:  # noqa: PTH123
        np.save(file, simulate_run(1))
    return desk.run("bold")


STRUCTURE = {"L": "CortexLeft", "R": "CortexRight"}


def gifti_series(
    path: Path,
    signal: np.ndarray,
    header: str | None = None,
    intent: str = "TIME_SERIES",
    others: dict[str, np.ndarray] | None = None,
    step: str | None = None,
) -> None:
    """Write one hemisphere: arrays of other intents first, then one array for each volume."""
    arrays = [
        nib.gifti.GiftiDataArray(values, f"NIFTI_INTENT_{name}")
        for name, values in (others or {}).items()
    ]
    meta = {} if step is None else {"TimeStep": step}
    arrays += [
        nib.gifti.GiftiDataArray(np.ascontiguousarray(v), f"NIFTI_INTENT_{intent}", meta=dict(meta))
        for v in signal.T
    ]
    named = {} if header is None else {"AnatomicalStructurePrimary": STRUCTURE[header]}
    nib.save(nib.gifti.GiftiImage(darrays=arrays, meta=nib.gifti.GiftiMetaData(named)), path)


def gifti_pair(desk: Desk, name: str = SECOND, signal: np.ndarray | None = None, **more) -> None:
    """A run as a pair of GIFTI files, in place of a .npy."""
    stem = in_place_of(desk, name)
    signal = simulate_run(1) if signal is None else signal
    for side, part in zip("LR", np.split(signal, 2), strict=True):
        gifti_series(stem.with_name(f"{name}_hemi-{side}_bold.func.gii"), part, **more)


@case("bold-header-side")
def _(desk):
    stem = in_place_of(desk)
    for side, other, part in zip("LR", "RL", np.split(simulate_run(1), 2), strict=True):
        path = stem.with_name(f"{SECOND}_hemi-{side}_bold.func.gii")
        gifti_series(path, part, header=other)
    return desk.run("bold")


@case("bold-hemisphere-twice")
def _(desk):
    left = simulate_run(1)[:45]
    desk.bold(np.concatenate([left, left]))
    return desk.run("bold")


@case("bold-copies", may_change=("bold", "embeddings"))
def _(desk):
    desk.bold(3 * np.load(desk.folder / "bold" / "sub-01_run-1.npy") + 5)
    said = desk.run("bold", status=0)
    assert "note bold[bold_run=sub-02_run-1]: sub-01_run-1 and this one are the same" in said
    assert "sub-01_run-1 and this one are the same" in desk.trend("status", desk.folder, status=0)
    return desk.run("bold", "embeddings", "average_correlation")


@case("bold-intents")
def _(desk):
    gifti_pair(desk, intent="SHAPE")
    return desk.run("bold")


@case("bold-mean-beside", may_change=("bold",))
def _(desk):
    mean = simulate_run(1)[:45].mean(axis=1)
    gifti_pair(desk, others={"SHAPE": mean})
    return desk.run("bold", status=0)


@case("bold-name-mesh", may_change=("bold",))
def _(desk):
    gifti_pair(desk)
    for path in desk.folder.glob("bold/*_bold.func.gii"):
        path.rename(path.with_name(path.name.replace("_bold", "_space-fsaverage5_bold")))
    return desk.run("bold", status=0)


@case("bold-sparse")
def _(desk):
    index = np.arange(45, dtype=np.int32) * 2
    gifti_pair(desk, others={"NODE_INDEX": index})
    return desk.run("bold")


@case("bold-nan-wall", may_change=("bold",))
def _(desk):
    bold = simulate_run(1)
    bold[MEDIAL_WALL] = np.nan
    desk.bold(bold)
    return desk.run("bold", status=0)


@case("bold-time-unit", may_change=("bold",))
def _(desk):
    gifti_pair(desk, step="2.0")  # milliseconds by the standard
    return desk.run("bold", status=0)


@case("bold-filter-unit")
def _(desk):
    gifti_pair(desk, step="2.0")
    desk.add_settings("bold: {low_pass_hz: 0.1, repetition_time: 2000}")
    return desk.run("bold")


@case("bold-part", may_change=("bold",))
def _(desk):
    bold = simulate_run(1)
    bold[:54] = 0
    desk.bold(bold)
    return desk.run("bold", status=0)


@case("bold-tasks", fast=True)
def _(desk):
    for task in ("rest", "movie"):
        desk.bold(simulate_run(1), f"sub-09_task-{task}_run-1.npy")
    return desk.run("bold")


def write_dense(desk: Desk, *names: str) -> None:
    shutil.rmtree(desk.folder / "bold")
    (desk.folder / "bold").mkdir()
    for name in names:
        write_dtseries(desk.folder / "bold" / f"{name}_bold.dtseries.nii")


@case("bold-spaces", fast=True)
def _(desk):
    write_dense(desk, "sub-01_space-fsLR", "sub-02_space-dhcpSym")
    return desk.run("bold")


@case("bold-echoes", fast=True)
def _(desk):
    write_dense(desk, "sub-01_echo-1", "sub-01_echo-2")
    return desk.run("bold")


@case("bold-npy-halves", fast=True)
def _(desk):
    for side in "LR":
        np.save(desk.folder / "bold" / f"sub-07_hemi-{side}.npy", simulate_run(1)[:45])
    return desk.run("bold")


@case("bold-select", fast=True)
def _(desk):
    desk.replace_settings("inputs: {", "inputs: {select: {sesion: 1, run: 1}, ")
    return desk.run("bold")


@case("bold-surface-nifti")
def _(desk):
    signal = simulate_run(1)[:45, None, None, :]
    nib.save(nib.Nifti1Image(signal, np.eye(4)), f"{in_place_of(desk)}.nii.gz")
    return desk.run("bold")


@case("labels-other-format")
def _(desk):
    (desk.folder / "geodesic_labels" / "wrong.mgz").touch()
    return desk.run("geodesic_labels", status=0)


@case("bold-other-format")
def _(desk):
    (desk.folder / "bold" / "sub-07_bold.mat").touch()
    return desk.run("bold", status=0)


@case("bold-left-out", may_change=("bold",))
def _(desk):
    desk.bold(np.ones((N_VERTICES, 40), dtype=np.float32))
    return desk.run("bold", status=0)


def confounds(desk: Desk, leave_out: str = "", **bold: object) -> None:
    """A confounds table beside every run."""
    for path in desk.folder.glob("bold/*.npy"):
        columns = ["trans_x", "framewise_displacement"]
        if path.stem == SECOND:
            columns = [name for name in columns if name != leave_out]
        lines = ["\t".join(columns), *["\t".join("0.9" for _ in columns)] * 40]
        table = path.with_name(f"{path.stem}_desc-confounds_timeseries.tsv")
        table.write_text("\n".join(lines) + "\n")
    desk.add_settings(f"bold: {json.dumps(bold)}")


@case("confounds-misspelt")
def _(desk):
    confounds(desk, confounds=["trans_xx"])
    said = desk.run("bold")
    assert said.count("error setting bold.confounds") == 1
    assert "1 error;" in said or "1 error." in said
    return said


@case("confounds-column", may_change=("bold",))
def _(desk):
    confounds(desk, leave_out="trans_x", confounds=["trans_?"])
    said = desk.run("bold", status=0)
    assert "5 made, 1 left out" in said
    return said


@case("confounds-none")
def _(desk):
    desk.add_settings("bold: {confounds: [trans_x]}")
    return desk.run("bold")


@case("confounds-commas", may_change=("bold",))
def _(desk):
    confounds(desk, confounds=["trans_x"])
    table = desk.folder / "bold" / f"{SECOND}_desc-confounds_timeseries.tsv"
    table.write_text(table.read_text().replace("\t", ","))
    said = desk.run("bold")
    assert "5 made" in said
    return said


@case("filter-short", may_change=("bold",))
def _(desk):
    band = {"high_pass_hz": 0.01, "low_pass_hz": 0.1}
    desk.add_settings(f"bold: {json.dumps(band | {'drop_first': 25, 'repetition_time': 2})}")
    return desk.run("bold", status=0)


@case("censor-too-much", may_change=("bold",))
def _(desk):
    confounds(desk, censor={"above": 0.5})
    return desk.run("bold", status=0)


@case("censor-minutes", may_change=("bold",))
def _(desk):
    confounds(desk, drop_first=10, minimum_minutes=1.5, repetition_time=2)
    return desk.run("bold", status=0)


@case("bold-one-key", fast=True)
def _(desk):
    for name in ("sub 01.npy", "sub+01.npy"):
        desk.bold(simulate_run(1), name)
    return desk.run("bold")


# Label files

HALVES = np.arange(N_VERTICES) // 45
ODD_NAMES = {
    "labels-pipe": "a|b",
    "labels-comma": "c,d",
    "labels-space": " sp ace",
    "labels-dots": ".",
    "labels-dots-name": "..x",
    "labels-newline": "new\nline",
    "labels-not-utf8": b"\xff",
    "labels-equals": "=1+2",
    "labels-plus": "+p",
    "labels-minus": "-m",
    "labels-at": "@at",
}


def odd_labels(name: str) -> np.ndarray:
    """Content of the label file of a row."""
    labels = np.zeros(N_VERTICES, dtype=int)
    if name == "labels-lonely":
        labels[7] = 1
    elif name != "labels-one":
        labels[45:] = 1
    return labels


@pytest.fixture(scope="module")
def accepted(finished_once: Finished, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished project with all the odd label files, made current again in one run."""
    folder = tmp_path_factory.mktemp("accepted") / "project"
    shutil.copytree(finished_once.folder, folder)
    settings = (folder / "trend.yaml").read_text()
    (folder / "trend.yaml").write_text(settings.replace("[4, 6]", "[4]"))
    for row in (ROWS[name] for name in ACCEPTED):
        name = os.fsencode(ODD_NAMES.get(row.name, row.accepted_as)) + b".npy"
        with open(os.fsencode(folder / "geodesic_labels") + b"/" + name, "wb") as file:  # noqa: PTH123
            np.save(file, odd_labels(row.name))
    names = ["geodesic_labels", "thresholded_matrix", "nmf_sweep", "sweep_summary"]
    outcomes = run(folder, select=names)
    assert [outcome.errors for outcome in outcomes.values() if outcome.errors] == []
    return Project.open(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_an_odd_label_file_is_accepted(name: str, accepted: Project):
    key = ROWS[name].accepted_as
    assert key in accepted.keys("label_file")
    cell = accepted.store.latest("nmf_sweep", {"label_file": key, "n_components": "4"})
    assert (cell.read("labels") >= 0).any()
    stored = accepted.store.latest("geodesic_labels", {"label_file": key})
    assert np.array_equal(stored.read("labels"), odd_labels(name))
    book = openpyxl.load_workbook(accepted.outputs / "Complete_Clustering.xlsx")
    cells = [cell for sheet in book for line in sheet.iter_rows() for cell in line]
    assert all(cell.data_type != "f" for cell in cells)
    assert key in {line[0].value for line in book["Details"].iter_rows()}


@case("labels-one-key", fast=True)
def _(desk):
    for name in ("a b.npy", "a+b.npy"):
        desk.labels(HALVES, name)
    return desk.run("geodesic_labels")


@case("labels-length")
def _(desk):
    desk.labels(np.zeros(N_VERTICES + 3, dtype=int))
    return desk.run("geodesic_labels", "thresholded_matrix")


@case("labels-floats")
def _(desk):
    desk.labels(HALVES.astype(float))
    return desk.run("geodesic_labels")


@case("labels-negative")
def _(desk):
    desk.labels(HALVES - 1)
    return desk.run("geodesic_labels")


@case("labels-each")
def _(desk):
    desk.labels(1000 * np.arange(N_VERTICES))
    return desk.run("geodesic_labels", "thresholded_matrix")


@case("labels-thousand")
def _(desk):
    desk.labels(np.arange(1001))
    return desk.run("geodesic_labels")


@case("labels-one-hemisphere", fast=True)
def _(desk):
    path = desk.folder / "geodesic_labels" / "lh.wrong.annot"
    write_annot(path, np.zeros(45, dtype=int), np.array([[1, 2, 3, 0]]), ["a"], fill_ctab=True)
    return desk.run("geodesic_labels")


@case("labels-maps")
def _(desk):
    write_dlabel(desk, "seven", n_maps=2)
    return desk.run("geodesic_labels")


@case("labels-none")
def _(desk):
    write_dlabel(desk, "unknown", n_maps=1)
    return desk.run("geodesic_labels")


def write_labels(desk: Desk, header: dict[str, str], arrays: np.ndarray) -> None:
    """A pair of .label.gii whose headers name these hemispheres."""
    for side, keys in zip("LR", np.split(arrays, 2), strict=True):
        image = nib.gifti.GiftiImage(
            darrays=[nib.gifti.GiftiDataArray(keys.astype(np.int32), "NIFTI_INTENT_LABEL")],
            meta=nib.gifti.GiftiMetaData({"AnatomicalStructurePrimary": STRUCTURE[header[side]]}),
        )
        path = desk.folder / "geodesic_labels" / f"wrong.{side}.label.gii"
        path.write_bytes(image.to_bytes())


@case("labels-names-inside")
def _(desk):
    write_dlabel(desk, "R_V1_ROI", n_maps=1)
    return desk.run("geodesic_labels")


@case("labels-header-side")
def _(desk):
    write_labels(desk, {"L": "R", "R": "L"}, 1 + HALVES)
    return desk.run("geodesic_labels")


@case("labels-copy", may_change=("geodesic_labels",))
def _(desk):
    write_labels(desk, {"L": "L", "R": "R"}, 1 + np.tile(np.arange(45) // 15, 2))
    return desk.run("geodesic_labels", status=0)


def write_annotations(desk: Desk, table: list[list[int]], names: list[str]) -> None:
    for side in ("lh", "rh"):
        path = desk.folder / "geodesic_labels" / f"{side}.wrong.annot"
        rows = np.arange(45) * len(names) // 45
        write_annot(path, rows, np.array(table), names, fill_ctab=True)


@case("labels-colour")
def _(desk):
    write_annotations(desk, [[9, 9, 9, 0], [1, 2, 3, 0], [1, 2, 3, 0]], ["a", "b", "c"])
    return desk.run("geodesic_labels")


@case("labels-names-side")
def _(desk):
    write_annotations(desk, [[9, 9, 9, 0], [1, 2, 3, 0]], ["L_V1", "L_V2"])
    return desk.run("geodesic_labels")


def write_dlabel(desk: Desk, name: str, n_maps: int) -> None:
    axis = cifti2.BrainModelAxis.from_surface(np.arange(45), 45, "CortexLeft")
    axis += cifti2.BrainModelAxis.from_surface(np.arange(45), 45, "CortexRight")
    labels = cifti2.LabelAxis(list("ab"[:n_maps]), [{7: (name, (1, 0, 0, 1))}] * n_maps)
    image = cifti2.Cifti2Image(np.full((n_maps, 90), 7, np.int32), (labels, axis))
    image.to_filename(desk.folder / "geodesic_labels" / "wrong.dlabel.nii")


# The surface


def _surface(desk: Desk, files: str = "L.surf.gii, R.surf.gii", n: int = N_VERTICES // 2) -> str:
    write_gifti(desk.folder, brain(n))
    desk.replace_settings("inputs: {", f"inputs: {{surfaces: [{files}], ")
    return desk.run("cortex")


@case("surface-no-file")
def _(desk):
    return _surface(desk, "L.surf.gii, nowhere.surf.gii")


@case("surface-hole")
def _(desk):
    points, triangles = halves(brain(N_VERTICES // 2))[0]
    (desk.folder / "torn").mkdir()
    left = desk.folder / "torn" / "L.surf.gii"
    left.write_bytes(gifti_surface(points, triangles[1:], "L", "MidThickness"))
    return _surface(desk, "torn/L.surf.gii, R.surf.gii")


@case("surface-swapped")
def _(desk):
    return _surface(desk, "R.surf.gii, L.surf.gii")


@case("surface-density")
def _(desk):
    return _surface(desk, n=50)


@case("surface-metres")
def _(desk):
    surface = brain(N_VERTICES // 2)
    surface.coordinates[:] /= 1000
    (desk.folder / "m").mkdir()
    write_gifti(desk.folder / "m", surface)
    return _surface(desk, "m/L.surf.gii, m/R.surf.gii")


@case("surface-transposed")
def _(desk):
    points, triangles = halves(brain(N_VERTICES // 2))[0]
    arrays = [
        nib.gifti.GiftiDataArray(np.ascontiguousarray(points.T), "NIFTI_INTENT_POINTSET"),
        nib.gifti.GiftiDataArray(triangles.astype(np.int32), "NIFTI_INTENT_TRIANGLE"),
    ]
    nib.save(nib.gifti.GiftiImage(darrays=arrays), desk.folder / "turned_hemi-L.surf.gii")
    return _surface(desk, "turned_hemi-L.surf.gii, R.surf.gii")


@case("inflated-swapped")
def _(desk):
    return _surface(desk, "L.surf.gii, R.surf.gii], inflated: [R.surf.gii, L.surf.gii")


@case("sphere-no-sphere")
def _(desk):
    return _surface(desk, "L.surf.gii, R.surf.gii], spheres: [L.surf.gii, R.surf.gii")


@case("sphere-order")
def _(desk):
    points, triangles = halves(brain(N_VERTICES // 2))[0]
    points = points - points.mean(axis=0)
    points *= 50 / np.linalg.norm(points, axis=1, keepdims=True)
    turned = np.random.default_rng(0).permutation(points)
    for side in "LR":
        content = gifti_surface(turned.astype(np.float32), triangles, side, "Spherical")
        (desk.folder / f"S.{side}.surf.gii").write_bytes(content)
    return _surface(desk, "L.surf.gii, R.surf.gii], spheres: [S.L.surf.gii, S.R.surf.gii")


@case("cortex-masks-swapped")
def _(desk):
    for side in "LR":
        np.save(desk.folder / f"wall_hemi-{side}.npy", np.ones(45))
    names = "wall_hemi-R.npy, wall_hemi-L.npy"
    desk.replace_settings("inputs: {", f"inputs: {{cortex_mask: [{names}], ")
    return desk.run("bold")


@case("cortex-masks-exchanged", may_change=("bold",))
def _(desk):
    bold = simulate_run(1)
    cortex = np.ones(N_VERTICES)
    cortex[[*range(9), *range(70, 79)]] = 0
    bold[cortex == 0] = 0
    desk.bold(bold, "sub-01_run-1.npy")
    for name, part in zip("ab", np.split(cortex, 2), strict=True):
        np.save(desk.folder / f"{name}.npy", part)
    desk.replace_settings("inputs: {", "inputs: {cortex_mask: [b.npy, a.npy], ")
    return desk.run("bold")


@case("cortex-masks-copy", may_change=("bold",))
def _(desk):
    bold, left = simulate_run(1), np.ones(45)
    left[1:9] = 0
    bold[[*range(1, 9), *range(70, 79)]] = 0
    desk.bold(bold, "sub-01_run-1.npy")
    for name in "ab":
        np.save(desk.folder / f"{name}.npy", left)
    desk.replace_settings("inputs: {", "inputs: {cortex_mask: [a.npy, b.npy], ")
    return desk.run("bold")


@case("cortex-mask-length")
def _(desk):
    np.save(desk.folder / "cortex.npy", np.ones(N_VERTICES - 10))
    desk.replace_settings("inputs: {", "inputs: {cortex_mask: [cortex.npy], ")
    return desk.run("bold")


@case("cortex-mask-turned", may_change=("bold",))
def _(desk):
    wall = np.zeros(N_VERTICES)
    wall[MEDIAL_WALL] = 1
    np.save(desk.folder / "wall.npy", wall)
    desk.replace_settings("inputs: {", "inputs: {cortex_mask: [wall.npy], ")
    return desk.run("bold", status=0)


@case("distances-metres", may_change=("geodesic_distances",))
def _(desk):
    along = np.abs(np.subtract.outer(np.arange(45), np.arange(45))) / 1000
    for side in "LR":
        np.save(desk.folder / f"along_hemi-{side}.npy", along)
    names = "along_hemi-L.npy, along_hemi-R.npy"
    desk.replace_settings("inputs: {", f"inputs: {{geodesic_distances: [{names}], ")
    return desk.run("geodesic_distances", status=0)


# The sweep


@case("too-many-components")
def _(desk):
    desk.replace_settings("[4, 6]", "[4, 6, 120]")
    return desk.run("nmf_sweep")


@case("too-many-clusters")
def _(desk):
    desk.replace_settings("n_clusters: [3, 4]", "n_clusters: [3, 5000]")
    return desk.run("nmf_sweep")


@case("fewer-rows-than-clusters", may_change=("nmf_sweep",))
def _(desk):
    desk.replace_settings("alpha_W: [1.0e-4]", "alpha_W: [10.0]")
    with warnings.catch_warnings():  # scikit-learn's, which `distinct_rows` says in figures
        warnings.simplefilter("ignore", ConvergenceWarning)
        return desk.run("nmf_sweep", status=0)


@case("planted-length")
def _(desk):
    np.save(desk.folder / "planted_networks.npy", np.zeros(80, dtype=int))
    return desk.run("control_comparison")


@case("atlas-length")
def _(desk):
    np.save(desk.folder / "short.npy", np.zeros(80, dtype=np.int64))
    desk.add_settings("outputs: {atlases: [short.npy]}")
    return desk.run("atlas_overlap")


@case("export-other-data-set")
def _(desk):
    theirs = desk.folder / "bids" / "dataset_description.json"
    theirs.parent.mkdir()
    theirs.write_text('{"Name": "theirs"}')
    said = desk.trend("export", desk.folder, "--bids", theirs.parent)
    assert [p.name for p in theirs.parent.iterdir()] == [theirs.name]
    return said


# Files brought from elsewhere


def bring(desk: Desk, kind: str, array: np.ndarray) -> str:
    path = desk.folder.parent / "brought.npy"
    np.save(path, array)
    return desk.trend(f"import-{kind}", path, "--folder", desk.folder)


@case("import-correlation-shape", fast=True)
def _(desk):
    return bring(desk, "correlation", np.eye(80))


@case("import-correlation-values", fast=True)
def _(desk):
    matrix = np.eye(N_VERTICES)
    matrix[1, 2] = 0.9
    return bring(desk, "correlation", matrix)


@case("import-embeddings-runs", fast=True)
def _(desk):
    return bring(desk, "embeddings", np.random.default_rng(0).normal(size=(5, N_VERTICES, 3)))


@case("import-embeddings-nan", fast=True)
def _(desk):
    embeddings = np.random.default_rng(0).normal(size=(6, N_VERTICES, 3))
    embeddings[3, 7, 1] = np.nan
    return bring(desk, "embeddings", embeddings)


def checkpoint(desk: Desk, content: object) -> str:
    import torch

    path = desk.folder.parent / "best.pth"
    torch.save(content, path)
    return desk.trend("import-checkpoint", path, "--folder", desk.folder)


@case("import-checkpoint-length", fast=True)
def _(desk):
    from benchmarks.tutorial_model import TutorialModel
    from trend_dagster.science.features.model_settings import AutoencoderConfig

    small = AutoencoderConfig(d_model=8, n_encoder_layers=1, n_decoder_layers=1, dim_feedforward=8)
    return checkpoint(desk, {"model_state_dict": TutorialModel(small, 41).state_dict()})


class _Code:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@case("import-checkpoint-code", fast=True)
def _(desk):
    said = checkpoint(desk, {"model_state_dict": _Code()})
    assert not Path("executed").exists()
    return said


@case("import-checkpoint-other", fast=True)
def _(desk):
    return checkpoint(desk, {"state_dict": {}})


# The store and the disk


def stored(desk: Desk, asset: str = "average_correlation") -> Path:
    return Project.open(desk.folder).store.latest(asset).path


def made_anew(desk: Desk, asset: str = "average_correlation") -> None:
    """What is damaged is made anew on request, and only then."""
    desk.run(asset, force=True, status=0)
    Project.open(desk.folder).store.latest(asset).verify()
    desk.may_change = {asset}


def damage_chunk(desk: Desk, array: str = "average_correlation/correlation") -> None:
    asset, _, name = array.partition("/")
    chunk = max(stored(desk, asset).glob(f"{name}/c/**/*"), key=lambda p: p.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 0xFF
    chunk.write_bytes(bytes(content))


@case("newer-store")
def _(desk):
    with desk.monkeypatch.context() as patch:
        patch.setattr(stores, "STORE_FORMAT", 2)
        desk.run("sweep_summary", force=True, status=1)  # its inputs are of format 1
        project = Project.open(desk.folder)
        with project.store.draft("average_correlation") as draft:
            shape = (N_VERTICES, N_VERTICES)
            draft.write("correlation", np.zeros(shape, dtype=np.float32))
            draft.write("vertex_mask", np.ones(N_VERTICES, dtype=bool))
            draft.write("run_masks", np.ones((1, N_VERTICES), dtype=bool))
            recipe = stores.Recipe("average_correlation", "1")
            project.store.publish(draft, {}, recipe)
    desk.may_change = {"average_correlation"}
    return desk.run("thresholded_matrix")


@case("store-damaged")
def _(desk):
    damage_chunk(desk)
    said = desk.trend("status", desk.folder, "--verify")
    assert desk.run("average_correlation", status=0)  # nobody has asked for it to be made anew
    made_anew(desk)
    return said


@case("store-damaged-read")
def _(desk):
    damage_chunk(desk, "selected_parcellations/labels")
    return desk.run("parcellation_images", force=True)


@case("store-metadata")
def _(desk):
    (stored(desk) / "zarr.json").write_text("{}")
    assert "damaged" in desk.trend("status", desk.folder, status=0)
    said = desk.run("average_correlation")
    made_anew(desk)
    return said


@case("store-version-gone")
def _(desk):
    shutil.rmtree(stored(desk))
    said = desk.run("average_correlation")
    made_anew(desk)
    return said


@case("store-no-folder")
def _(desk):
    folder = desk.folder / "store" / "geodesic_labels" / "label_file=wrong"
    desk.labels(HALVES)
    folder.touch()
    return desk.run("geodesic_labels")


@contextmanager
def full_disk(folder: Path, room: int) -> Iterator[Callable[[], None]]:
    """Let a folder lie on a real disk with that little room; call what is given to free it."""
    content = folder.with_name(f"{folder.name}-content")
    shutil.copytree(folder, content)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(folder)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("no right to mount a small disk here")
    try:
        shutil.copytree(content, folder, dirs_exist_ok=True)
        filler = folder / "filler"
        with filler.open("wb") as file:
            free = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
            file.write(bytes(free - room))
        yield filler.unlink
        shutil.rmtree(content)
        shutil.copytree(folder, content)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    shutil.rmtree(folder)
    content.rename(folder)


@case("disk-full-store")
def _(desk):
    desk.bold(simulate_run(99))
    with full_disk(desk.folder / "store", room=12_000) as free:
        said = desk.run("bold")
        unchanged(desk)
        free()
        desk.run("bold", status=0)
    desk.may_change = {"bold"}
    return said


@case("disk-too-small")
def _(desk):
    with full_disk(desk.folder / "store", room=24_000) as free:
        said = desk.run("average_correlation", force=True)
        unchanged(desk)
        free()
    return said


@case("disk-full-scratch")
def _(desk):
    with full_disk(desk.folder / "store", room=24_000) as free:
        with desk.monkeypatch.context() as patch:  # what fills the disk comes after it was asked
            patch.setattr(production, "check_disk", lambda *asked: None)
            said = desk.run("average_correlation", force=True)
        unchanged(desk)
        free()
        desk.run("average_correlation", force=True, status=0)
    desk.may_change = {"average_correlation"}
    return said


@case("disk-full-outputs")
def _(desk):
    with full_disk(desk.folder / "outputs", room=0) as free:
        said = desk.run("sweep_summary", force=True)
        unchanged(desk)
        book = openpyxl.load_workbook(desk.folder / "outputs" / "Complete_Clustering.xlsx")
        assert book["Sheet1"].max_row == 9
        free()
        desk.run("sweep_summary", force=True, status=0)
    desk.may_change = {"sweep_summary"}
    return said


@case("disk-full-records")
def _(desk):
    desk.bold(simulate_run(99))
    with full_disk(desk.folder / ".dagster", room=8_000) as free:
        said = desk.run("bold")
        free()
        desk.run("bold", status=0)
    desk.may_change = {"bold"}
    return said


@case("disk-full-publish")
def _(desk):
    desk.bold(simulate_run(99))
    replace = stores.replace_file

    def full(path: Path, content: bytes) -> None:
        if path.name == "current":
            raise OSError(28, "No space left on device")
        replace(path, content)

    with desk.monkeypatch.context() as patch:
        patch.setattr(stores, "replace_file", full)
        return desk.run("bold")


# The tests


@pytest.fixture
def desk(
    finished_once: Finished,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    request: pytest.FixtureRequest,
) -> Desk:
    """The finished project; where only settings are read, an empty folder does."""
    folder = tmp_path / "project"
    if request.node.callspec.params["name"] in {*SETTINGS, "code-in-yaml", "no-project"}:
        folder.mkdir()
    else:
        shutil.copytree(finished_once.folder, folder)
    desk = Desk(folder, monkeypatch, capsys)
    desk.before = desk.pointers()
    return desk


def unchanged(desk: Desk) -> None:
    """What was stored is current, whole and readable; only what may change is newer."""
    after = desk.pointers()
    store = Project.open(desk.folder).store if desk.before else None
    for parts, version in desk.before.items():
        asset = parts[0]
        if asset not in desk.may_change:
            assert after[parts] == version, parts
    for parts in after:
        partition = dict(part.split("=", 1) for part in parts[1:-1])
        if parts[0] in desk.may_change or parts not in desk.before:
            assert parts[0] in ASSETS
            store.latest(parts[0], partition)
    assert not list(desk.folder.glob("store/**/.partial-*"))


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in CASES]
)
def test_bad_input(name: str, desk: Desk):
    said = CASES[name](desk)
    assert re.search(ROWS[name].pattern, said), f"{ROWS[name].pattern}\n\nnot in\n\n{said}"
    if name != "newer-store":
        unchanged(desk)


def test_the_table_and_the_cases_are_the_same():
    assert set(ROWS) == {*CASES, *ACCEPTED}
    assert len(ROWS) >= 40
    assert all(row.kept for row in ROWS.values())
