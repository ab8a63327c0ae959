"""Settings: the profiles that ship, what lies over what, and words for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from trend_dagster.errors import SettingsError
from trend_dagster.project.settings import (
    Settings,
    load_settings,
    method_settings,
    profile_names,
    resource_folder,
)
from trend_dagster.science.connectivity.settings import ThresholdConfig

SECTIONS = {name: type(section) for name, section in Settings() if isinstance(section, BaseModel)}

TUTORIAL = {
    "bold": {"standardize": "none"},
    # Steps 1b to 1d
    "autoencoder": {
        "d_model": 512,
        "n_heads": 8,
        "n_encoder_layers": 6,
        "n_decoder_layers": 6,
        "dim_feedforward": 1600,
        "dropout": 0.1,
        "attention_dropout": 0.1,
        "confidence": "tutorial",
        "confidence_hidden": 512,
        "share_layers": True,
        "norm_first": False,
        "remove_mean": False,
    },
    # Steps 1a, 1e and 1f
    "training": {
        "n_epochs": 1500,
        "learning_rate": 1e-5,
        "lr_patience": 10,
        "gradient_clip": 1.0,
        "mse_weight": 0.5,
        "test_size": 0.25,
        "random_state": 108,
        "precision": "32",
        "vertices_per_step": 0,
        "accumulate": 1,
        "early_stopping_patience": None,
    },
    # Step 1g
    "features": {"source": "input_projection"},
    # Step 3
    "sweep": {
        "n_components": (10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 32, 34, 36, 38, 40),
        "alpha_W": (1e-3,),
        "l1_ratio": (0.4,),
        "n_clusters": (14, 38),
    },
    "factorization": {
        "solver": "sklearn",
        "penalty": "absolute",
        "tol": 1e-4,
        "max_iter": 10000,
        "smoothness": 0.0,
        "random_state": 108,
    },
    "clustering": {"random_state": 108, "scale_rows": False},
    "controls": {"features": ()},
    "validation": {"n_nulls": 0},
}


def project(folder: Path, text: str) -> Path:
    """A folder with this trend.yaml."""
    (folder / "trend.yaml").write_text(text)
    return folder


def refused(folder: Path, text: str, **options) -> SettingsError:
    """The error of loading this trend.yaml."""
    with pytest.raises(SettingsError) as caught:
        load_settings(project(folder, text), **options)
    error = caught.value
    assert all((error.subject, error.expected, error.found, error.remedy))
    return error


# Profiles


def test_the_profiles_that_ship_can_be_loaded(tmp_path):
    assert profile_names() == ["autoencoder", "default", "demo", "tutorial"]
    for name in profile_names():
        assert load_settings(tmp_path, name).profile == name


def test_a_project_without_settings_has_the_defaults_of_the_code(tmp_path):
    assert load_settings(tmp_path) == Settings()


@pytest.mark.parametrize("section", TUTORIAL)
def test_the_tutorial_profile_has_exactly_the_tutorials_numbers(tmp_path, section):
    found = getattr(load_settings(tmp_path, "tutorial"), section)
    expected = TUTORIAL[section]
    assert {name: getattr(found, name) for name in expected} == expected


def test_the_tutorial_profile_says_itself_what_no_later_default_may_change():
    written = yaml.safe_load((resource_folder("profiles") / "tutorial.yaml").read_text())
    for section, numbers in TUTORIAL.items():
        said = set(written[section])
        silent = {n for n in numbers if n not in said}
        # Switches of ours, of which the value named here turns off what the tutorial has not.
        assert silent <= {
            "confidence_hidden",
            "norm_first",
            "remove_mean",
            "accumulate",
            "early_stopping_patience",
            "penalty",
            "smoothness",
            "scale_rows",
        }, section


def test_own_settings_lie_over_the_profile_and_the_profile_over_the_defaults(tmp_path):
    text = "profile: demo\nautoencoder: {d_model: 32}\nsweep: {n_components: [5, 7]}\n"
    found = load_settings(project(tmp_path, text))
    assert found.autoencoder.d_model == 32  # own
    assert found.sweep.n_components == (5, 7)  # own: a list is replaced, not added to
    demo = load_settings(tmp_path / "nothing here", "demo")
    assert found.autoencoder.n_heads == demo.autoencoder.n_heads == 4  # the profile's
    assert found.sweep.alpha_W == demo.sweep.alpha_W
    assert found.autoencoder.dropout == Settings().autoencoder.dropout  # the code's


def test_a_profile_asked_for_replaces_the_one_in_the_file(tmp_path):
    folder = project(tmp_path, "profile: demo\ntraining: {n_epochs: 3}\n")
    found = load_settings(folder, "tutorial")
    assert found.profile == "tutorial"
    assert found.training.learning_rate == 1e-5
    assert found.training.n_epochs == 3


@pytest.mark.parametrize("text", ["", "# nothing\n", "training:\n", "profile:\ntraining:\n  # x\n"])
def test_empty_files_and_empty_sections_set_nothing(tmp_path, text):
    assert load_settings(project(tmp_path, text)) == Settings()


def test_numbers_may_be_written_without_a_point(tmp_path):
    # YAML 1.1 takes 1e-4 for text.
    found = load_settings(project(tmp_path, "training: {learning_rate: 1e-4}\n"))
    assert found.training.learning_rate == 1e-4


# What is refused


@pytest.mark.parametrize(
    ("text", "name", "nearest"),
    [
        ("training: {learning_rat: 1}", "training.learning_rat", "learning_rate"),
        ("sweep: {ncomponents: [2]}", "sweep.ncomponents", "n_components"),
        ("autoencodr: {d_model: 8}", "autoencodr", "autoencoder"),
        ("profil: demo", "profil", "profile"),
    ],
)
def test_a_misspelt_name_gets_the_nearest(tmp_path, text, name, nearest):
    error = refused(tmp_path, text)
    assert error.subject == f"setting {name} in {tmp_path / 'trend.yaml'}"
    assert error.found == f"no such setting (did you mean {nearest}?)"
    assert nearest in error.expected


def test_a_name_like_no_other_gets_the_list(tmp_path):
    error = refused(tmp_path, "bold: {qqq: 1}")
    assert error.found == "no such setting"
    names = "censor, confounds, detrend, drop_first, global_signal, high_pass_hz, low_pass_hz"
    others = "minimum_minutes, repetition_time, standardize"
    assert error.expected == f"one of {names}, {others}"


@pytest.mark.parametrize(
    ("text", "name", "expected", "found"),
    [
        ("training: {n_epochs: many}", "training.n_epochs", "integer", "'many'"),
        ("training: {n_epochs: 1.5}", "training.n_epochs", "integer", "1.5"),
        ("training: {n_epochs: 0}", "training.n_epochs", "greater than or equal to 1", "0"),
        ("training: {mse_weight: 1.2}", "training.mse_weight", "less than or equal to 1", "1.2"),
        ("training: {test_size: 1}", "training.test_size", "less than 1", "1"),
        ("bold: {standardize: yes}", "bold.standardize", "'zscore' or 'none'", "True"),
        ("sweep: {n_components: 14}", "sweep.n_components", "a list, as [4, 6]", "14"),
        ("sweep: {n_components: [4, x]}", "sweep.n_components.1", "integer", "'x'"),
        ("sweep: {n_components: []}", "sweep.n_components", "at least 1 item", "[]"),
        ("controls: {features: [bald]}", "controls.features.0", "'bold'", "'bald'"),
        ("bold: 5", "bold", "settings below it, as {name: value}", "5"),
        ("training: {gradient_clip: .inf}", "training.gradient_clip", "a finite number", "inf"),
        ("training: {gradient_clip: infinity}", "training.gradient_clip", "a finite number", "inf"),
        ("sweep: {alpha_W: [1, .nan]}", "sweep.alpha_W.1", "greater than or equal to 0", "nan"),
    ],
)
def test_a_wrong_value_says_which_and_what_may_stand_there(tmp_path, text, name, expected, found):
    error = refused(tmp_path, text)
    assert error.subject == f"setting {name} in {tmp_path / 'trend.yaml'}"
    assert expected in error.expected
    assert error.found == found


def test_settings_that_do_not_fit_together_are_refused(tmp_path):
    error = refused(tmp_path, "autoencoder: {d_model: 65, n_heads: 8}")
    assert "a multiple of n_heads (8)" in error.expected
    assert "d_model=72" in error.remedy


def test_an_unknown_profile_gets_the_nearest(tmp_path):
    error = refused(tmp_path, "profile: tutorail")
    assert str(tmp_path / "trend.yaml") in error.subject
    assert error.expected == "one of autoencoder, default, demo, tutorial"
    assert error.found == "no such profile (did you mean tutorial?)"
    error = refused(tmp_path, "", profile="../tutorial")
    assert error.subject == "profile '../tutorial'"


@pytest.mark.parametrize(
    ("text", "found"),
    [("training: {n_epochs: [", "line"), ("- a\n- b\n", "list"), ("just text\n", "str")],
)
def test_what_is_no_settings_file_is_refused(tmp_path, text, found):
    error = refused(tmp_path, text)
    assert error.subject == f"settings file {tmp_path / 'trend.yaml'}"
    assert found in error.found


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "trend.yaml").write_bytes("inputs: {note: Zürich}".encode("latin-1"))
    with pytest.raises(SettingsError, match="UTF-8"):
        load_settings(tmp_path)


def test_yaml_cannot_run_code(tmp_path):
    trace = tmp_path / "trace"
    refused(tmp_path, f"profile: !!python/object/apply:os.mkdir ['{trace}']\n")
    assert not trace.exists()


# What decides results, and help


def test_a_later_setting_counts_once_it_is_used():
    used = Settings.model_validate({"bold": {"drop_first": 4}, "correlation": {"weight": "frames"}})
    assert used.identity("bold")["drop_first"] == 4
    assert used.identity("correlation")["weight"] == "frames"


def test_entities_are_words_whatever_yaml_makes_of_them(tmp_path):
    (tmp_path / "trend.yaml").write_text("inputs: {select: {task: rest, run: [1, 02]}}")
    select = load_settings(tmp_path).inputs.select
    assert select == {"task": "rest", "run": ("1", "2")}


@pytest.mark.parametrize("section", SECTIONS)
def test_identity_leaves_out_what_only_changes_speed_or_place(section):
    left_out = SECTIONS[section].model_fields.keys() - Settings().identity(section).keys()
    assert left_out == {
        "inputs": {
            "bold",
            "exclude",
            "select",
            "space",
            "density",
            "desc",
            "volume_mask",
            "geodesic_labels",
            "geodesic_distances",
            "surfaces",
            "inflated",
            "spheres",
            "resample",  # a later one, at its default
            "cortex_mask",
            "template",
            "truth",
            "note",
        },
        "outputs": {"atlases"},
        # A partition each, told by its key.
        "geodesic_labels": {"n_labels_per_hemisphere"},
        "thresholding": {
            name
            for name in ThresholdConfig.model_fields
            if ThresholdConfig().model_copy(update={name: (5.0,)}).kernels()
        },
        "training": {
            "max_skipped_steps",
            "accelerator",
            "on_corrupt_state",
            "vertices_per_step",
            "n_nodes",
        },
        # Later settings, at their defaults: what was stored before them is current. So are the last
        # two of training.
        "bold": {"drop_first", "censor", "minimum_minutes"},
        "correlation": {"memory_budget_gib", "tile", "device", "weight"},
        "factorization": {"device", "compress_above"},
    }.get(section, set())


def test_identity_changes_with_what_decides_results_and_with_nothing_else(tmp_path):
    plain = Settings()
    fast = load_settings(project(tmp_path, "correlation: {tile: 64, memory_budget_gib: 1}\n"))
    assert fast.identity("correlation") == plain.identity("correlation")
    other = load_settings(project(tmp_path, "correlation: {average: fisher}\n"))
    assert other.identity("correlation") != plain.identity("correlation")


def test_identity_is_plain_json(tmp_path):
    found = load_settings(tmp_path, "tutorial").identity("sweep")
    assert found["n_clusters"] == [14, 38]


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_has_a_help_text(section):
    assert SECTIONS[section].__doc__
    meanings = SECTIONS[section].meanings()
    assert meanings.keys() == SECTIONS[section].model_fields.keys()
    for name, meaning in meanings.items():
        assert len(meaning) > 15, name
        assert meaning.endswith("."), name


@pytest.mark.parametrize("section", SECTIONS)
def test_settings_cannot_be_changed_once_loaded(section):
    found = getattr(Settings(), section)
    name = next(iter(type(found).model_fields))
    with pytest.raises(ValueError, match="frozen"):
        setattr(found, name, getattr(found, name))


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("n_components: [0]", r"sweep\.n_components"),
        ("n_components: [4, 4]", "without repeated values"),
        ("alpha_W: [-1.0]", r"sweep\.alpha_W"),
        ("l1_ratio: [2]", r"sweep\.l1_ratio"),
        ("n_clusters: [1]", r"sweep\.n_clusters"),
    ],
)
def test_a_grid_that_cannot_be_solved_is_refused_by_name(tmp_path, line, name):
    (tmp_path / "trend.yaml").write_text(f"sweep: {{{line}}}\n")
    with pytest.raises(SettingsError, match=name):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ("{resample: 10k}", "a mesh beside inputs.resample"),
        ("{surface: fsaverage5, resample: 3k, geodesic_distances: [d.npy]}", "geodesic_distances"),
        ("{surface: fsaverage5, spheres: [lh.sphere, rh.sphere]}", "surfaces beside"),
        ("{surfaces: [a, b], spheres: [a], resample: 10k}", "two files, left and right"),
        ("{surface: fsaverage5, resample: 20k}", "10k"),
    ],
)
def test_resampling_says_what_it_needs(tmp_path, inputs, said):
    assert said in str(refused(tmp_path, f"inputs: {inputs}"))


def test_a_script_takes_a_profile_with_the_same_words_for_what_is_wrong(tmp_path):
    found = method_settings("tutorial", sweep={"n_components": [12]})
    tutorial = load_settings(tmp_path, "tutorial")
    assert (found.bold, found.features) == (tutorial.bold, tutorial.features)
    assert found.sweep == tutorial.sweep.model_copy(update={"n_components": (12,)})
    wrong = {
        "did you mean tutorial": ("tutoral", {}),
        "did you mean sweep": ("default", {"sweeep": {}}),
        "sweep.n_component in method_settings.*did you mean n_components": (
            "default",
            {"sweep": {"n_component": [3]}},
        ),
    }
    for message, (profile, sections) in wrong.items():
        with pytest.raises(SettingsError, match=message):
            method_settings(profile, **sections)
