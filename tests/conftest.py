"""Fixtures for all tests: synthetic data only, nothing from outside the repository."""

from __future__ import annotations

import fcntl
import gc
import os
import pickle
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, event

from tests.postgres import postgres  # noqa: F401 - a fixture
from tests.slurm import slurm, slurm_of_two  # noqa: F401 - fixtures
from tests.workbench import workbench  # noqa: F401 - a fixture
from trend_dagster.definitions import build_definitions
from trend_dagster.orchestration.instance import open_instance
from trend_dagster.orchestration.running import Wish, run_all
from trend_dagster.project.folder import Project
from trend_dagster.project.fsaverage import load_fsaverage
from trend_dagster.science.surface import Surface

N_VERTICES, N_TIMEPOINTS, N_NETWORKS = 90, 40, 4
MEDIAL_WALL = np.arange(0, N_VERTICES, 15)  # 6 vertices without signal

# Of the assets: this project has label files, and its mesh is not known.
NOTHING_TO_DO = {
    "cortex",
    "geodesic_distances",
    "split_correlation",
    "null_correlation",
    "stability",
    "individual_prior",
    "individual_networks",
    "network_names",
    "individual_maps",
    "network_series",
    "network_connectivity",
    "individuals",
    "individual_page",
    "atlas_overlap",
    "subcortical_networks",
}

LONGEST = {
    "test_commands_run[docs/tutorials/cohort.md]",
    "test_a_training_killed_at_any_moment_ends_bitwise_where_an_unbroken_one_does",
    "test_each_newborn_has_its_own_networks_and_a_new_one_makes_only_its_own",
    "test_planted_networks_come_back_without_label_files_or_a_model",
    "test_umap_separates_strong_networks",
}
"""Tests that take minutes: a worker that begins one last would let the others wait."""

SETTINGS = """\
profile: demo
autoencoder:
  {d_model: 16, n_heads: 2, n_encoder_layers: 1, n_decoder_layers: 1, dim_feedforward: 16}
training: {n_epochs: 2, learning_rate: 1.0e-3}
sweep: {n_components: [4, 6], alpha_W: [1.0e-4], n_clusters: [3, 4]}
inputs: {truth: planted_networks.npy}
"""


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests that share a fixture of their module on one worker, so that it is made once.

    The longest come first, and of those that are alone slow ones before the others, so that workers
    end at about the same time.
    """
    for item in items:
        if item.get_closest_marker("xdist_group") is not None:
            continue
        fixtures = item._fixtureinfo.name2fixturedefs.values()  # type: ignore[attr-defined]
        if any(definitions[-1].scope == "module" for definitions in fixtures):
            item.add_marker(pytest.mark.xdist_group(item.path.name))

    def late(item: pytest.Item) -> tuple[bool, bool, bool]:
        alone = item.get_closest_marker("xdist_group") is None
        fast = item.get_closest_marker("slow") is None
        return item.name not in LONGEST, alone, alone and fast

    items.sort(key=late)


@event.listens_for(Engine, "connect")
def without_waiting_for_the_disk(connection: Any, record: object) -> None:
    """Dagster's records in tests may be lost with the power: nobody waits for the disk."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous=OFF")


@pytest.fixture(scope="session", autouse=True)
def without_waiting_for_files() -> Iterator[None]:
    """What tests store may be lost with the power, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture
def collected() -> Iterator[None]:
    """What was left open is warned of in the test that expects it, and not in a later one."""
    yield
    gc.collect()


@pytest.fixture
def rng() -> np.random.Generator:
    """Fixed numbers: a test that fails once fails always."""
    return np.random.default_rng(108)


def planted_networks() -> np.ndarray:
    """Four networks, two in each half of the vertices; -1 on the medial wall."""
    networks = np.repeat(np.arange(N_NETWORKS), [20, 25, 21, 24])
    networks[MEDIAL_WALL] = -1
    return networks


def simulate_run(seed: int, n_timepoints: int = N_TIMEPOINTS) -> np.ndarray:
    """One run: each network has a time course of its own, plus noise."""
    rng = np.random.default_rng(seed)
    courses = rng.standard_normal((N_NETWORKS, n_timepoints))
    bold = 2 * courses[planted_networks()] + rng.standard_normal((N_VERTICES, n_timepoints))
    bold[MEDIAL_WALL] = 0
    return (1000 + 10 * bold).astype(np.float32)


def write_project(folder: Path) -> Path:
    """Write inputs and settings: 3 subjects with 2 runs each, 2 label files."""
    (folder / "bold").mkdir(parents=True)
    (folder / "geodesic_labels").mkdir()
    for subject in range(3):
        for run in range(2):
            name = f"sub-{subject + 1:02d}_run-{run + 1}.npy"
            np.save(folder / "bold" / name, simulate_run(10 * subject + run))
    halves = (planted_networks() >= 2).astype(np.int64)
    halves[MEDIAL_WALL] = MEDIAL_WALL >= 45
    np.save(folder / "geodesic_labels" / "two.npy", halves)
    np.save(folder / "geodesic_labels" / "six.npy", np.arange(N_VERTICES, dtype=np.int64) // 15)
    np.save(folder / "planted_networks.npy", planted_networks())
    (folder / "trend.yaml").write_text(SETTINGS)
    return folder


@dataclass(frozen=True)
class Finished:
    """A project in which everything was made once, and what the run said."""

    folder: Path
    outcomes: dict


@pytest.fixture(scope="session")
def surface() -> Surface:
    """fsaverage3: 642 vertices a hemisphere; read only."""
    return load_fsaverage(642)


@pytest.fixture(scope="session")
def finished_once(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Made once for all tests; never changed by them. Each worker has a copy of what one made."""
    own = tmp_path_factory.mktemp("finished") / "project"
    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    made, said = shared / "made-once" / "project", shared / "made-once.pickle"
    with (shared / "made-once.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            said.write_bytes(pickle.dumps(run(write_project(made))))
    shutil.copytree(made, own)
    return Finished(own, pickle.loads(said.read_bytes()))


@pytest.fixture
def finished(finished_once: Finished, tmp_path: Path) -> Path:
    """A copy of the finished project that a test may change."""
    return Path(shutil.copytree(finished_once.folder, tmp_path / "project"))


@pytest.fixture
def project_folder(tmp_path: Path) -> Path:
    """A project of which nothing is made yet."""
    return write_project(tmp_path / "project")


def run(folder: Path, **options) -> dict:
    """Make what is missing or out of date; the outcome of each asset by name."""
    project = Project.open(folder)
    with open_instance(folder) as instance:
        outcomes = run_all(project, build_definitions(folder), instance, Wish(**options))
        return {outcome.asset: outcome for outcome in outcomes}
