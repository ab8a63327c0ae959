"""The command line: what it says, what it returns, and that it shows no traces."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image
from rich.console import Console

from benchmarks.start import commands, measure
from tests.conftest import N_VERTICES
from trend_dagster import cli
from trend_dagster.cli.app import PROFILES
from trend_dagster.cli.results import _comparison
from trend_dagster.cli.runs import foretelling
from trend_dagster.errors import SettingsError
from trend_dagster.orchestration import instance
from trend_dagster.orchestration.assets import select_assets
from trend_dagster.orchestration.recorded_pictures import write_pictures
from trend_dagster.project.folder import Project
from trend_dagster.project.settings import Settings, load_settings, profile_names, sections


@pytest.fixture
def trend(monkeypatch, capsys):
    """Run a command in this process: exit status, stdout, stderr."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["trend", *map(str, words)])
        status = 0
        monkeypatch.setattr(cli.app.console, "quiet", False)
        try:
            cli.main()
        except SystemExit as end:
            status = end.code or 0
        return status, *capsys.readouterr()

    return run


def test_help_names_every_command(trend):
    status, out, _ = trend("--help")
    assert status == 0
    for name in ("init", "run", "status", "show", "settings", "dev", "demo", "import-embeddings"):
        assert f" {name} " in out, name


def test_every_option_and_argument_has_a_help_text():
    import typer

    for name, command in typer.main.get_command(cli.app.app).commands.items():
        assert command.help, name
        for parameter in command.params:
            if parameter.name != "help":
                assert getattr(parameter, "help", None), (name, parameter.name)


def test_a_new_project_has_its_folders_and_a_commented_file(trend, tmp_path):
    status, out, _ = trend("init", tmp_path / "new", "--profile", "tutorial")
    assert status == 0
    assert "trend run" in out
    text = (tmp_path / "new" / "trend.yaml").read_text()
    assert {p.name for p in (tmp_path / "new").iterdir()} == {
        "bold", "geodesic_labels", "trend.yaml"
    }  # fmt: skip
    assert yaml.safe_load(text) == {"profile": "tutorial"}
    # Without the signs before them the lines say what holds anyway.
    told = "\n".join(
        line.removeprefix("#") for line in text.splitlines() if not line.startswith("# ")
    )
    assert set(yaml.safe_load(told)) > {"sweep", "inputs"}
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / "trend.yaml").write_text(told)
    assert load_settings(tmp_path / "told") == load_settings(tmp_path / "new")


@pytest.mark.parametrize("there", ["file", "settings"])
def test_what_is_there_is_not_overwritten(trend, tmp_path, there):
    path = tmp_path / "new"
    if there == "file":
        path.write_text("mine")
    else:
        path.mkdir()
        (path / "trend.yaml").write_text("profile: demo")
    before = {p: p.read_text() for p in [path, *tmp_path.rglob("*")] if p.is_file()}
    status, _, err = trend("init", path)
    assert status == 1
    assert "expected a new folder" in err
    assert {p: p.read_text() for p in [path, *tmp_path.rglob("*")] if p.is_file()} == before


def test_settings_lists_each_with_its_default_and_the_tutorials_value(trend, tmp_path):
    (tmp_path / "trend.yaml").write_text("training: {n_epochs: 7}")
    status, out, _ = trend("settings", tmp_path, "--json")
    assert status == 0
    lines = {line["name"]: line for line in json.loads(out)}
    expected = {f"{s}.{n}" for s, model in sections().items() for n in model.model_fields}
    assert set(lines) == expected
    assert lines["training.n_epochs"]["here"] == 7
    assert lines["training.n_epochs"]["default"] == Settings().training.n_epochs
    assert lines["bold.standardize"]["tutorial"] == "none"
    status, out, _ = trend("settings", tmp_path)
    assert status == 0
    # Not in a terminal: a line for each, however long it is.
    told = dict(line.split(" = ", 1) for line in out.splitlines())
    assert set(told) == expected
    assert told["training.n_epochs"].startswith("7  # ")
    assert told["training.n_epochs"].endswith(
        f"(default {Settings().training.n_epochs}, tutorial"
        f" {lines['training.n_epochs']['tutorial']})"
    )
    assert told["inputs.space"].startswith("none  # ")


@pytest.mark.parametrize("width", [80, 116])
def test_names_of_settings_are_whole_however_narrow_the_terminal_is(
    trend, tmp_path, monkeypatch, width
):
    (tmp_path / "trend.yaml").write_text("profile: default")
    narrow = Console(highlight=False, width=width, force_terminal=True, color_system=None)
    for module in ("app", "settings"):
        monkeypatch.setattr(f"trend_dagster.cli.{module}.console", narrow)
    status, out, _ = trend("settings", tmp_path)
    assert status == 0
    for section, model in sections().items():
        for name in model.model_fields:
            whole = f"{section}.{name} = " if width < 116 else f" {name} "
            assert whole in out, whole


def test_status_says_what_is_missing_out_of_date_excluded_and_removed(trend, finished):
    np.save(finished / "bold" / "sub-01_run-1.npy", np.full((N_VERTICES, 40), np.nan))
    (finished / "bold" / "sub-03_run-2.npy").unlink()
    np.save(finished / "geodesic_labels" / "new.npy", np.zeros(N_VERTICES, dtype=int))
    assert trend("run", finished, "--select", "bold")[0] == 0
    status, out, _ = trend("status", finished, "--json")
    assert status == 0
    assets = {asset["asset"]: asset for asset in json.loads(out)["assets"]}
    assert assets["bold"]["counts"]["current"] == 4
    assert assets["bold"]["counts"]["excluded"] == 1
    assert assets["bold"]["removed"] == ["bold[bold_run=sub-03_run-2]"]
    assert "NaN" in assets["bold"]["excluded"]["bold[bold_run=sub-01_run-1]"]
    assert assets["geodesic_labels"]["counts"]["missing"] == 1
    assert assets["average_correlation"]["counts"]["out of date"] == 1
    assert assets["nmf_sweep"]["counts"]["blocked"] == 2
    assert assets["cortex"]["not_needed"] == "the settings name no surface"
    assert assets["cortex"]["counts"]["missing"] == 0
    assert all(a["n_bytes"] > 0 for a in assets.values())
    status, out, _ = trend("status", finished)
    assert "its file was removed; what is stored stays" in out
    assert "is excluded: sub-01_run-1.npy" in out
    assert "Not needed (the settings name no surface): cortex" in out
    assert "Out of date only because what they are made from is: " in out
    assert "sub-03_run-2] is gone" in out


def test_pictures_are_kept_by_the_run_and_taken_from_the_records_if_they_are_gone(
    finished, monkeypatch
):
    project = Project.open(finished)
    version = project.store.latest("sweep_summary")
    really, opened = instance.open_records, []
    monkeypatch.setattr(
        instance, "open_records", lambda folder: opened.append(folder) or really(folder)
    )
    written = write_pictures(project, version)
    before = [path.read_bytes() for path in written]
    assert written
    assert not opened
    written[0].unlink()
    assert write_pictures(project, version) == written
    another = replace(version, path=version.path.with_name("another"))
    written[0].write_bytes(b"of the version before")
    assert write_pictures(project, another) == written
    assert [path.read_bytes() for path in written] == before
    assert len(opened) == 2


def test_show_gives_shape_picture_and_provenance(trend, finished):
    status, out, _ = trend("show", "nmf_sweep", "two", "4", "--folder", finished, "--json")
    assert status == 0
    found = json.loads(out)
    assert found["status"] == "current"
    assert {"name": "labels", "shape": [1, 2, N_VERTICES]}.items() <= next(
        a for a in found["arrays"] if a["name"] == "labels"
    ).items()
    assert any("file bold" in line["what"] for line in found["made_from"])
    assert len({line["what"] for line in found["made_from"]}) > 10
    assert found["pictures"]
    for path in found["pictures"]:
        with Image.open(path) as picture:
            assert min(picture.size) > 50
    status, out, _ = trend("show", "average_correlation", "--folder", finished)
    assert status == 0
    assert "90 x 90" in out
    assert "as above" in out
    status, out, _ = trend("show", "nmf_sweep", "--folder", finished)
    assert out.count("current") == 4


def test_show_takes_the_folder_of_the_project_as_the_other_commands_do(
    trend, finished_once, monkeypatch
):
    study = finished_once.folder
    told = trend("show", "nmf_sweep", "two", "4", "--folder", study, "--json")
    assert told[0] == 0
    for words in (
        (study, "nmf_sweep", "two", "4"),
        ("nmf_sweep", "two", "4", study),
        ("nmf_sweep", study, "two", "4"),
    ):
        assert trend("show", *words, "--json") == told
    listed = trend("show", "nmf_sweep", "--folder", study)
    assert trend("show", study, "nmf_sweep") == listed
    monkeypatch.chdir(study.parent)
    assert trend("show", study.name, "nmf_sweep") == listed
    status, _, err = trend("show", study)
    assert status == 1
    assert "expected the name of an asset, found only the project's folder" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", "nmf_swep"], "did you mean nmf_sweep"),
        (["show", "nmf_sweep", "two"], "2 keys (LABEL_FILE N_COMPONENTS)"),
        (["show", "nmf_sweep", "two", "5"], "expected a stored version"),
        (["show", "bold", "../../etc"], "expected names of letters, digits"),
    ],
)
def test_what_cannot_be_shown_is_named(trend, finished_once, words, message):
    status, _, err = trend(*words, "--folder", finished_once.folder)
    assert status == 1
    assert message in " ".join(err.split())
    assert "Traceback" not in err


def test_run_says_as_json_what_became_of_each_asset(trend, finished):
    status, out, err = trend("run", finished, "--select", "sweep_summary", "--json")
    assert (status, err) == (0, "")
    (asset,) = json.loads(out)["assets"]
    assert (asset["asset"], asset["made"], asset["kept"]) == ("sweep_summary", 0, 1)


def test_a_mistake_of_ours_shows_no_trace_unless_asked_for(trend, finished, monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("a mistake")

    monkeypatch.setattr("trend_dagster.project.recordings.read_run", broken)
    status, _, err = trend("run", finished, "--select", "bold", "--force")
    assert status == 1
    assert "RuntimeError: a mistake" in err
    assert "Traceback" not in err
    assert "line " not in err
    status, _, err = trend("run", finished, "--select", "bold", "--force", "--debug")
    assert status == 1
    assert "in broken" in err


def test_an_unknown_option_is_a_usage_error():
    code = "from trend_dagster.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--selct", "x"], capture_output=True, check=False
    )
    assert done.returncode == 2


def test_nobody_has_to_listen(tmp_path):
    code = "from trend_dagster.cli import main; main()"
    command = 'exec "$0" -c "$1" init new >&- 2>&-'
    subprocess.run(["sh", "-c", command, sys.executable, code], cwd=tmp_path, check=True)
    assert (tmp_path / "new" / "trend.yaml").is_file()


@pytest.mark.slow
def test_commands_that_only_look_start_quickly(finished):
    ratios = measure(finished, repeats=1)["ratios"]
    assert ratios.keys() == commands(finished).keys()
    assert ratios["trend --help"] < 1


def test_long_work_is_foretold_once_it_is_known_and_only_once():
    said, left = [], iter([None, None, 900.0, 10.0, 800.0, 9.0])
    tell = foretelling(lambda doing, share: next(left), said.append)
    for epoch in range(3):
        tell("trained_model", f"epoch {epoch}", 0.1 * epoch)
        tell("nmf_sweep", "short", 0.5)
    assert said == [
        "trained_model: epoch 1; about 15 min left. Ctrl-C stops it; the same command goes on "
        "from there."
    ]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["+embeddings"], ["bold", "trained_model", "embeddings"]),
        (
            ["+thresholded_matrix"],
            [
                "bold",
                "cortex",
                "trained_model",
                "embeddings",
                "average_correlation",
                "geodesic_distances",
                "geodesic_labels",
                "thresholded_matrix",
            ],
        ),
        (["1+embeddings"], ["bold", "trained_model", "embeddings"]),
        (["key:bold or key:cortex"], ["bold", "cortex"]),
        (["bold or cortex"], ["bold", "cortex"]),
        (["bold, cortex"], ["bold", "cortex"]),
        (["+embeddings and not bold"], ["trained_model", "embeddings"]),
        (["group:inputs", "embeddings"], ["bold", "cortex", "embeddings"]),
        (["parcellation_images+"], ["parcellation_images"]),
    ],
)
def test_selections_are_those_of_dagster(words, names):
    assert sorted(select_assets(words)) == sorted(names)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("+nmf_swep", "did you mean nmf_sweep"),
        ("bold or nmf_swep", "did you mean nmf_sweep"),
        ("group:x", "selects no asset"),
        ("", "selects no asset"),
    ],
)
def test_a_selection_of_nothing_is_refused(word, message):
    with pytest.raises(SettingsError, match=message):
        select_assets([word])


@pytest.mark.slow
def test_what_is_missing_upstream_is_named_with_the_command_that_makes_it(trend, project_folder):
    status, _, err = trend("run", project_folder, "--select", "sweep_summary")
    assert status == 1
    command = f"trend run {project_folder} --select +sweep_summary"
    assert command in err, err
    status, out, err = trend("run", project_folder, *command.split()[3:])
    assert (status, err) == (0, "")
    assert "sweep_summary            1 made" in out


def test_what_is_wrong_with_a_whole_folder_is_in_the_log_too(trend, finished):
    rest, *_ = (finished / "bold").iterdir()
    for task in ("rest", "movie"):
        shutil.copy(rest, rest.with_name(f"sub-90_task-{task}{rest.suffix}"))
    status, out, err = trend("run", finished, "--select", "bold")
    assert status == 1
    assert err.count("several tasks") == 1
    assert "several tasks" in out.partition("Left out:")[2]


def test_the_table_at_the_end_shows_what_tells_its_rows_apart():
    rows = {name: [1.0, 1.0] for name in ("n_components", "n_clusters", "silhouette", "l1_ratio")}
    found = pd.DataFrame({"label_file": "two", **rows, "chosen": False, "alpha_W": [1e-3, 0.1]})
    shown = _comparison(found)
    titles = [column.header for column in shown.columns]
    assert titles[:3] == ["label file", "n_com-\nponents", "alpha_W"]
    assert "l1_ratio" not in titles
    assert list(shown.columns[2].cells) == ["0.001", "0.1"]


def test_the_help_names_every_profile():
    assert sorted(re.findall(r"\w+", PROFILES.replace(" or ", ", "))) == sorted(profile_names())
