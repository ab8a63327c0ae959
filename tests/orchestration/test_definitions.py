"""What the code location offers: it loads whatever trend.yaml says, and for one project only."""

from __future__ import annotations

import dagster as dg
import pytest

from trend_dagster.definitions import PROJECT_VARIABLE, build_definitions, defs
from trend_dagster.errors import SettingsError
from trend_dagster.orchestration.io_managers import _numbers
from trend_dagster.orchestration.private import execute_here, failed_in_a_step
from trend_dagster.orchestration.running import LOCATION, MODULE


@pytest.mark.parametrize("text", ["sweep: [", "swep: {}", "automation: {nightly: '0 25 * * *'}"])
def test_a_broken_trend_yaml_fails_a_run_in_its_step_which_is_not_tried_again(
    tmp_path, monkeypatch, text
):
    (tmp_path / "trend.yaml").write_text(text)
    monkeypatch.setenv(PROJECT_VARIABLE, str(tmp_path))
    with pytest.raises(SettingsError):
        build_definitions(tmp_path)
    definitions = defs()
    if "nightly" in text:
        return  # only the schedule is wrong
    with dg.DagsterInstance.ephemeral() as instance:
        done = execute_here(
            definitions,
            instance,
            dg.AssetKey("cortex"),
            module=MODULE,
            location=LOCATION,
            tags={},
            run_config={},
        )
        run = instance.get_run_by_id(done.run_id)
        assert run is not None
        assert run.status == dg.DagsterRunStatus.FAILURE
        assert failed_in_a_step(run)
    (failure,) = done.get_step_failure_events()
    assert str(tmp_path / "trend.yaml") in str(failure.step_failure_data.error)


def test_the_launchpad_cannot_name_another_project(tmp_path):
    (tmp_path / "trend.yaml").touch()
    resources = build_definitions(tmp_path).resolve_job_def("train").resource_defs
    elsewhere = {"project": {"config": {"folder": "/tmp"}}}
    with dg.build_resources({"project": resources["project"]}, resource_config=elsewhere) as found:
        assert found.project.folder == tmp_path


def test_single_numbers_of_a_nested_fact_have_names_of_their_own():
    chosen = [{"n_clusters": 14, "stability": 0.8, "alive": True, "label_file": "two"}]
    assert dict(_numbers("chosen", chosen)) == {
        "chosen, 14 clusters, n_clusters": 14,
        "chosen, 14 clusters, stability": 0.8,
    }
    assert dict(_numbers("stability", [0.5])) == {"stability": 0.5}
    assert dict(_numbers("silhouette", [[[0.1, 0.2]]])) == {
        "silhouette, 1": 0.1,
        "silhouette, 2": 0.2,
    }
    assert dict(_numbers("rule", ["a", None, True])) == {}
