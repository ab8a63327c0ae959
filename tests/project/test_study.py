"""`trend_dagster.open`: what is stored, as xarray."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import trend_dagster
from tests.conftest import MEDIAL_WALL, N_VERTICES
from trend_dagster.errors import InputError, MissingUpstreamError


@pytest.fixture
def study(finished_once):
    return trend_dagster.open(finished_once.folder)


def test_an_asset_is_a_dataset_with_named_dimensions_and_its_provenance(study):
    found = study["average_correlation"]
    assert found["correlation"].dims == ("vertex", "vertex_2")
    assert found["correlation"][:3, 1:3].shape == (3, 2)
    assert found["correlation"].attrs["units"] == "correlation"
    stored = study.project.store.latest("average_correlation")
    np.testing.assert_array_equal(found["correlation"], stored.read("correlation"))
    assert found.attrs["digest"] == stored.digest
    assert found.attrs["provenance"]["asset"] == "average_correlation"


def test_one_output_of_several_is_named_by_its_keys(study):
    run = study["bold", "sub-01_run-1"]["bold"]
    assert run.dims == ("vertex", "timepoint")
    assert not run.values[MEDIAL_WALL].any()
    cell = study["nmf_sweep", "two", 4]
    assert cell["labels"].sel(n_clusters=3).shape == (1, N_VERTICES)
    assert len(study.partitions("nmf_sweep")) == 4
    assert study.partitions("report") == [{}]
    assert {"bold", "report", "embeddings"} <= set(study.assets)
    assert "average_correlation" in repr(study)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("nmf_swep", "did you mean nmf_sweep"),
        ("bold", "keys of one of 6: sub-01_run-1; .* found no key"),
        (("bold", "sub-09"), "found sub-09"),
        (("report", "two"), "keys of one of 1: no key"),
    ],
)
def test_what_is_not_there_is_named(study, key, message):
    with pytest.raises(InputError, match=message):
        study[key]


def test_what_is_not_made_yet_is_named_with_the_command_that_makes_it(project_folder):
    study = trend_dagster.open(project_folder)
    assert study.assets == []
    with pytest.raises(MissingUpstreamError, match=rf"trend run {project_folder} --select \+bold"):
        study["bold"]


@pytest.mark.parametrize("trace", ["trend.yaml", "bold", "store"])
def test_a_folder_without_a_trace_of_a_project_is_none(tmp_path, trace):
    with pytest.raises(InputError, match=r"with a trend.yaml in it, found none.*trend init"):
        trend_dagster.open(tmp_path)
    (tmp_path / trace).touch()
    assert trend_dagster.open(tmp_path).project.folder == tmp_path


def test_importing_the_package_loads_nothing(tmp_path):
    code = (
        "import sys, trend_dagster; print(sorted({'numpy', 'xarray', 'zarr'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
