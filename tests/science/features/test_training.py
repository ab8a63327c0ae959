"""Training: split, loss, optimisation as published, resume after a kill, bad numbers."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from benchmarks.tutorial_model import TutorialModel
from tests.service import wait_until
from tests.slurm import ask
from trend_dagster.errors import CohortError, SettingsError, TrainingError
from trend_dagster.science.features.autoencoder import (
    AutoencoderConfig,
    initial_model,
    weights_to_arrays,
)
from trend_dagster.science.features.training import (
    TrainingConfig,
    combined_loss,
    estimate_training_memory,
    resolve_precision,
    split_runs,
    train,
)


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread, as the child processes have: sums in another order end in other bits."""
    torch.set_num_threads(1)


SMALL = AutoencoderConfig(
    d_model=16,
    n_heads=2,
    n_encoder_layers=2,
    n_decoder_layers=1,
    dim_feedforward=20,
    confidence_hidden=8,
)
FAST = TrainingConfig(n_epochs=4, learning_rate=1e-3, precision="32", accelerator="cpu")
NAMES = [f"run-{i}" for i in range(6)]


def draw(seed: int, n_timepoints: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((30, n_timepoints)).astype(np.float32)


def cohort(names: list[str] = NAMES) -> dict[str, functools.partial]:
    return {name: functools.partial(draw, i) for i, name in enumerate(names)}


def fit(folder: Path, config: TrainingConfig = FAST, model: AutoencoderConfig = SMALL, **options):
    runs = options.pop("runs", cohort())
    split = split_runs(list(runs), [None] * len(runs), config.test_size, config.random_state)
    return train(runs, split, model, config, checkpoint_dir=folder, **options)


def same_weights(a, b) -> bool:
    a, b = weights_to_arrays(a), weights_to_arrays(b)
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


def without_seconds(history) -> list[tuple]:
    return [
        (r.epoch, r.train_loss, r.validation_loss, r.learning_rate, r.skipped_steps)
        for r in history
    ]


# --- Split ----------------------------------------------------------------------------------


def test_split_without_subjects_is_the_tutorials_on_sorted_names():
    rng = np.random.default_rng()
    names = [f"r{i:03d}" for i in rng.permutation(50)[: rng.integers(2, 50)]]
    split = split_runs(names, [None] * len(names), 0.25, 108)
    expected = train_test_split(sorted(names), test_size=0.25, random_state=108)
    assert [list(split.train), list(split.validation)] == expected
    assert split.by == "run"


def test_a_subject_never_stands_on_both_sides():
    rng = np.random.default_rng()
    names = [f"r{i:03d}" for i in range(40)]
    subjects = [None if i % 9 == 0 else f"s{rng.integers(12)}" for i in range(40)]
    split = split_runs(names, subjects, 0.25, int(rng.integers(1000)))
    known = dict(zip(names, subjects, strict=True))
    sides = [{known[n] for n in side} - {None} for side in (split.train, split.validation)]
    assert not sides[0] & sides[1]
    assert sorted(split.train + split.validation) == names
    assert split.by == "subject"


def test_one_subject_is_split_by_run_and_says_so():
    split = split_runs(["b", "a", "c"], ["s", "s", "s"], 0.25, 108)
    assert split.by == "run"
    assert sorted(split.train + split.validation) == ["a", "b", "c"]


@pytest.mark.parametrize("names", [[], ["only"]])
def test_a_cohort_that_cannot_be_split_is_refused(names):
    with pytest.raises(CohortError, match="at least two runs"):
        split_runs(names, [None] * len(names), 0.25, 108)


# --- Loss and one step as published ---------------------------------------------------------


def test_loss_is_the_published_mixture():
    rng = np.random.default_rng()
    a, b = torch.tensor(rng.standard_normal((2, 1, 7, 5)))
    for weight in (0.0, 0.5, 0.8):
        expected = weight * torch.nn.MSELoss()(a, b) + (1 - weight) * torch.nn.L1Loss()(a, b)
        torch.testing.assert_close(combined_loss(a, b, weight), expected)


def test_epochs_follow_the_published_loop(tmp_path):
    """Adam, clipping, loss and schedule, restated in their plain form on the published model."""
    model_config = SMALL.model_copy(update={"confidence": "tutorial", "dropout": 0.0})
    config = FAST.model_copy(update={"n_epochs": 3, "lr_patience": 0, "gradient_clip": 0.05})
    runs = cohort()
    result = fit(tmp_path, config, model_config)
    split = split_runs(NAMES, [None] * 6, 0.25, 108)
    reference = TutorialModel(model_config, 20)
    reference.load_state_dict(initial_model(model_config, 20, 108).state_dict())
    optimizer = torch.optim.Adam(reference.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "min", patience=0)
    for epoch in range(1, 4):
        for i in np.random.default_rng([108, epoch]).permutation(len(split.train)):
            x = torch.tensor(runs[split.train[i]]())[None]
            optimizer.zero_grad()
            combined_loss(reference(x), x).backward()
            torch.nn.utils.clip_grad_norm_(reference.parameters(), max_norm=0.05)
            optimizer.step()
        with torch.no_grad():
            held_out = [torch.tensor(runs[name]())[None] for name in split.validation]
            loss = sum(combined_loss(reference(x), x).item() for x in held_out)
        scheduler.step(loss)
        got = result.history[epoch - 1].validation_loss
        assert got == pytest.approx(loss / len(held_out), rel=1e-5)


def test_training_lowers_the_loss_and_keeps_the_best_epoch(tmp_path):
    seen = []
    result = fit(tmp_path, FAST.model_copy(update={"n_epochs": 12}), on_epoch=seen.append)
    losses = [r.validation_loss for r in result.history]
    assert losses[-1] < losses[0]
    assert result.best_epoch == 1 + int(np.argmin(losses))
    assert tuple(seen) == result.history
    assert [r.epoch for r in result.history] == list(range(1, 13))
    assert not result.model.training
    split = split_runs(NAMES, [None] * 6, 0.25, 108)
    with torch.no_grad():
        held_out = [torch.tensor(cohort()[name]())[None] for name in split.validation]
        best = np.mean([combined_loss(result.model(x), x).item() for x in held_out])
    assert best == pytest.approx(min(losses), rel=1e-5)


def test_training_is_repeatable_and_leaves_the_generator_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a = fit(tmp_path / "a")
    assert torch.equal(torch.rand(1), expected)
    b = fit(tmp_path / "b")
    assert same_weights(a.model, b.model)
    c = fit(tmp_path / "c", FAST.model_copy(update={"random_state": 7}))
    assert not same_weights(a.model, c.model)


def test_accumulation_averages_the_gradients_of_runs(tmp_path):
    """Two runs that are copies of each other give the step that one of them gives."""
    still = SMALL.model_copy(update={"dropout": 0.0})
    twice = {f"r{i}": functools.partial(draw, 0) for i in range(3)}
    once = {f"r{i}": functools.partial(draw, 0) for i in range(2)}
    base = FAST.model_copy(update={"n_epochs": 1})
    a = fit(tmp_path / "a", base.model_copy(update={"accumulate": 2}), still, runs=twice)
    b = fit(tmp_path / "b", base, still, runs=once)
    assert a.history[0].validation_loss == pytest.approx(b.history[0].validation_loss, rel=1e-6)


def test_a_step_takes_as_many_vertices_as_asked_drawn_anew_validation_the_same(
    tmp_path, monkeypatch
):
    from trend_dagster.science.features import training

    seen = []

    def watched(output, target, mse_weight):
        seen.append(target)
        return combined_loss(output, target, mse_weight)

    def taken(target) -> tuple[str, frozenset[int]]:
        """Which run and which of its vertices the rows are."""
        rows = {row.tobytes() for row in target[0].numpy()}
        for name, load in cohort().items():
            own = [i for i, row in enumerate(load()) if row.tobytes() in rows]
            if own:
                return name, frozenset(own)
        raise AssertionError

    monkeypatch.setattr(training, "combined_loss", watched)
    some = FAST.model_copy(update={"n_epochs": 2, "vertices_per_step": 11})
    fit(tmp_path / "some", some)
    assert {tuple(target.shape) for target in seen} == {(1, 11, 20)}
    drawn = [taken(target) for target in seen]
    steps, validation = [*drawn[:4], *drawn[6:10]], (drawn[4:6], drawn[10:])
    assert len({vertices for _, vertices in steps}) == 8
    assert validation[0] == validation[1]
    seen.clear()
    for n in (0, 30, 6000):
        fit(tmp_path / str(n), some.model_copy(update={"vertices_per_step": n}))
    assert {tuple(target.shape) for target in seen} == {(1, 30, 20)}


def test_what_is_drawn_survives_an_interruption(tmp_path):
    some = FAST.model_copy(update={"vertices_per_step": 11})
    whole = fit(tmp_path / "whole", some)
    fit(tmp_path / "parts", some.model_copy(update={"n_epochs": 2}))
    parts = fit(tmp_path / "parts", some)
    assert parts.resumed_from == 2
    assert same_weights(parts.model, whole.model)
    assert without_seconds(parts.history) == without_seconds(whole.history)
    other = fit(tmp_path / "parts", some.model_copy(update={"vertices_per_step": 12}))
    assert "vertices_per_step from 11 to 12" in other.why_fresh


def test_progress_is_told_after_every_step(tmp_path):
    shares = []
    fit(tmp_path, FAST.model_copy(update={"n_epochs": 2}), on_share=shares.append)
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9])


def test_early_stopping_waits_as_long_as_asked(tmp_path):
    config = FAST.model_copy(
        update={"n_epochs": 60, "learning_rate": 0.05, "early_stopping_patience": 3}
    )
    result = fit(tmp_path, config)
    assert len(result.history) == result.best_epoch + 3 < 60


def test_bfloat16_trains_close_to_float32(tmp_path):
    full = fit(tmp_path / "a")
    mixed = fit(tmp_path / "b", FAST.model_copy(update={"precision": "bf16"}))
    assert (full.precision, mixed.precision) == ("32", "bf16")
    assert mixed.history[-1].validation_loss == pytest.approx(
        full.history[-1].validation_loss, rel=0.02
    )
    assert all(a.dtype == np.float32 for a in weights_to_arrays(mixed.model).values())


def test_precision_asked_for_is_given():
    assert resolve_precision("32", "cpu") == "32"
    assert resolve_precision("bf16", "cpu") == "bf16"
    assert resolve_precision("auto", "cpu") in {"32", "bf16"}


# --- Resume ---------------------------------------------------------------------------------


class StopError(Exception):
    """Raised by a callback, as an interruption would be."""


def stop_at(epoch: int):
    def on_epoch(record):
        if record.epoch == epoch:
            raise StopError

    return on_epoch


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupted_training_ends_bitwise_where_an_unbroken_one_does(tmp_path, epoch):
    config = FAST.model_copy(update={"lr_patience": 0, "learning_rate": 3e-2})
    whole = fit(tmp_path / "whole", config)
    with pytest.raises(StopError):
        fit(tmp_path / "cut", config, on_epoch=stop_at(epoch))
    resumed = fit(tmp_path / "cut", config)
    assert (resumed.resumed_from, resumed.why_fresh) == (epoch, None)
    assert same_weights(resumed.model, whole.model)
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    states = [
        torch.load(tmp_path / part / "state.pt", weights_only=True) for part in ("whole", "cut")
    ]
    assert all(torch.equal(w, states[1]["model"][n]) for n, w in states[0]["model"].items())


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import test_training as t
t.fit(Path(sys.argv[1]), t.FAST.model_copy(update={"n_epochs": 200}))
"""


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_bitwise_where_an_unbroken_one_does(tmp_path):
    config = FAST.model_copy(update={"n_epochs": 200})
    state = tmp_path / "killed" / "state.pt"
    here = Path(__file__).parent
    rng = np.random.default_rng()
    n_kills = 0
    for _ in range(2):
        seen = state.stat().st_mtime_ns if state.exists() else 0
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(state.parent), str(here)],
            cwd=here.parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        while child.poll() is None and (not state.exists() or state.stat().st_mtime_ns == seen):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.4))
        child.send_signal(signal.SIGKILL)
        n_kills += child.wait() == -signal.SIGKILL
    assert n_kills == 2
    resumed = fit(state.parent, config)
    whole = fit(tmp_path / "whole", config)
    assert 0 < resumed.resumed_from < 200
    assert same_weights(resumed.model, whole.model)
    assert without_seconds(resumed.history) == without_seconds(whole.history)


def test_more_epochs_continue_a_finished_training_and_none_are_repeated(tmp_path):
    fit(tmp_path / "a", FAST.model_copy(update={"n_epochs": 2}))
    longer = fit(tmp_path / "a")
    assert longer.resumed_from == 2
    assert same_weights(longer.model, fit(tmp_path / "b").model)
    seen = []
    again = fit(tmp_path / "a", on_epoch=seen.append)
    assert (seen, again.resumed_from) == ([], 4)
    assert same_weights(again.model, longer.model)


def test_what_changed_is_named_and_training_starts_afresh(tmp_path):
    fit(tmp_path)
    for change, reason in (
        ({"learning_rate": 2e-3}, r"learning_rate from 0\.001 to 0\.002"),
        ({"n_epochs": 2}, "n_epochs asks for 2"),
    ):
        result = fit(tmp_path, FAST.model_copy(update=change))
        assert result.resumed_from is None
        assert result.why_fresh is not None
        assert re.search(reason, result.why_fresh)
        fit(tmp_path)
    assert "cohort from  to new" in fit(tmp_path, cohort="new").why_fresh
    wider = SMALL.model_copy(update={"d_model": 32})
    assert "d_model from 16 to 32" in fit(tmp_path, model=wider).why_fresh
    assert "train from" in fit(tmp_path, runs=cohort(NAMES[:5])).why_fresh


def test_what_sets_it_apart_from_a_training_in_another_folder_is_named(tmp_path):
    fit(tmp_path / "old", FAST.model_copy(update={"n_epochs": 1}))
    slower = FAST.model_copy(update={"n_epochs": 1, "learning_rate": 2e-3})
    result = fit(tmp_path / "new", slower, abandoned=tmp_path / "old")
    assert result.why_fresh == "the settings changed: learning_rate from 0.001 to 0.002"
    again = fit(tmp_path / "new", slower, abandoned=tmp_path / "old")
    assert (again.resumed_from, again.why_fresh) == (1, None)


def test_settings_of_speed_change_nothing_about_a_state(tmp_path):
    fit(tmp_path, FAST.model_copy(update={"n_epochs": 1}))
    assert fit(tmp_path, FAST.model_copy(update={"on_corrupt_state": "fresh"})).resumed_from == 1


@pytest.mark.parametrize("choice", ["best", "fresh"])
@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_corrupt_state_is_kept_aside_and_named(tmp_path, choice, damage):
    before = fit(tmp_path)
    state = tmp_path / "state.pt"
    damaged = {"cut": state.read_bytes()[:500], "text": b"no state", "empty": b""}[damage]
    state.write_bytes(damaged)
    result = fit(tmp_path, FAST.model_copy(update={"on_corrupt_state": choice, "n_epochs": 1}))
    assert "corrupt" in result.why_fresh
    assert "state.pt.corrupt" in result.why_fresh
    assert (tmp_path / "state.pt.corrupt").read_bytes() == damaged
    first = before.history[0].validation_loss
    if choice == "best":
        assert "best weights" in result.why_fresh
        assert result.history[0].validation_loss < first
        assert result.history[0].train_loss < before.history[0].train_loss
    else:
        assert result.history[0].validation_loss == first


def test_no_better_epoch_leaves_the_weights_it_started_from(tmp_path):
    config = FAST.model_copy(update={"n_epochs": 10})
    before = fit(tmp_path, config)
    (tmp_path / "state.pt").write_bytes(b"")
    runs = cohort()
    worse = config.model_copy(update={"n_epochs": 1, "max_skipped_steps": 10})
    split = split_runs(NAMES, [None] * 6, 0.25, 108)
    for name in split.train:
        runs[name] = functools.partial(_scaled, int(name[-1]))
    result = fit(tmp_path, worse, runs=runs)
    assert result.best_epoch == 0
    assert same_weights(result.model, before.model)


def _scaled(seed: int) -> np.ndarray:
    return 1e3 * draw(seed)


# --- Bad numbers, bad runs, bad requests ----------------------------------------------------


def _with_nan() -> np.ndarray:
    series = draw(0)
    series[3, 4] = np.nan
    return series


def test_nan_is_named_skipped_and_counted(tmp_path):
    split = split_runs(NAMES, [None] * 6, 0.25, 108)
    bad = split.train[0]
    with pytest.warns(UserWarning, match=rf"step \d of epoch \d \(runs {bad}\): skipped") as told:
        result = fit(tmp_path, runs={**cohort(), bad: _with_nan})
    assert len(told) == FAST.n_epochs
    assert [r.skipped_steps for r in result.history] == [1] * FAST.n_epochs
    assert all(np.isfinite(a).all() for a in weights_to_arrays(result.model).values())


def test_training_stops_after_the_stated_number_of_skipped_steps(tmp_path):
    split = split_runs(NAMES, [None] * 6, 0.25, 108)
    runs = {**cohort(), split.validation[0]: _with_nan}
    config = FAST.model_copy(update={"max_skipped_steps": 2})
    message = rf"validation run {split.validation[0]} in epoch 3.*at most 2 steps.*found 3"
    with (
        pytest.warns(UserWarning, match="skipped"),
        pytest.raises(TrainingError, match=message),
    ):
        fit(tmp_path, config, runs=runs)


def test_infinite_gradients_move_no_weight(tmp_path, monkeypatch):
    from trend_dagster.science.features import training

    monkeypatch.setattr(training, "clip_grad_norm_", lambda *_: torch.tensor(float("inf")))
    with pytest.warns(UserWarning, match="skipped"):
        result = fit(tmp_path, FAST.model_copy(update={"n_epochs": 1}))
    assert same_weights(result.model, initial_model(SMALL, 20, FAST.random_state))


def test_a_run_of_another_length_is_named(tmp_path):
    split = split_runs(NAMES, [None] * 6, 0.25, 108)
    odd = split.validation[1]
    runs = {**cohort(), odd: functools.partial(draw, 1, 21)}
    with pytest.raises(CohortError, match=rf"Run {odd}.*\(n_vertices, 20\).*\(30, 21\)"):
        fit(tmp_path, runs=runs)


def test_attention_dropout_on_the_cpu_is_told_with_its_memory(tmp_path):
    model = SMALL.model_copy(update={"attention_dropout": 0.1})
    with pytest.warns(UserWarning, match=r"no fused kernel on the cpu.*30 vertices.*GB"):
        fit(tmp_path, FAST.model_copy(update={"n_epochs": 1}), model)


def test_out_of_memory_names_sizes_and_settings(tmp_path):
    def greedy():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    split = split_runs(NAMES, [None] * 6, 0.25, 108)
    runs = {**cohort(), split.train[1]: greedy}
    message = "30 vertices and 20 time points.*about .* GB.*vertices_per_step"
    with pytest.raises(TrainingError, match=message):
        fit(tmp_path, runs=runs)


def test_what_the_machine_cannot_hold_is_refused_before_it_is_tried(tmp_path, monkeypatch):
    """The system kills a program that takes too much: there would be no error to read."""
    from trend_dagster.science.features import training

    tiny = type("Memory", (), {"total": 10_000})
    monkeypatch.setattr(training.psutil, "virtual_memory", lambda: tiny)
    with pytest.raises(TrainingError, match=r"30 vertices.*about .* GB.*vertices_per_step"):
        fit(tmp_path)
    assert not (tmp_path / "state.pt").exists()


def test_memory_estimate_grows_as_it_should():
    full = AutoencoderConfig()
    one, two, four = (estimate_training_memory(full, v, 1600) for v in (1000, 2000, 4000))
    assert four - two == pytest.approx(2 * (two - one))
    explicit = full.model_copy(update={"attention_dropout": 0.1})
    assert estimate_training_memory(explicit, 4687, 1600) > 20e9
    gpu = estimate_training_memory(explicit, 4687, 1600, device_type="cuda")
    assert gpu == estimate_training_memory(full, 4687, 1600)


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a device that is not there")
def test_a_gpu_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(SettingsError, match="CUDA"):
        fit(tmp_path, FAST.model_copy(update={"accelerator": "cuda"}))


# --- Several processes ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")  # torch's own, of itself
def test_a_compiled_model_trains_to_the_same_weights(tmp_path, monkeypatch):
    """With the graphs of the compiler, forward and backward, but without its minutes of C++."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    short = FAST.model_copy(update={"n_epochs": 2})
    tiny = SMALL.model_copy(update={"n_encoder_layers": 1, "dropout": 0.0})
    plain = fit(tmp_path / "plain", short, tiny)
    compiled = fit(tmp_path / "compiled", short.model_copy(update={"compile": True}), tiny)
    assert [r.validation_loss for r in compiled.history] == pytest.approx(
        [r.validation_loss for r in plain.history], rel=1e-4
    )
    # Compiled dropout draws other numbers: one state is not gone on with by the other.
    assert "compile from True to False" in fit(tmp_path / "compiled", short, tiny).why_fresh


@pytest.mark.slow
def test_two_processes_average_the_gradients_of_their_runs(tmp_path):
    """A step of two processes is a step over the same two runs accumulated by one."""
    still = SMALL.model_copy(update={"dropout": 0.0})
    base = FAST.model_copy(update={"n_epochs": 2})
    one = fit(tmp_path / "one", base.model_copy(update={"accumulate": 2}), still)
    seen = []  # a callback of this process: it need not be picklable
    pair = base.model_copy(update={"n_devices": 2})
    two = fit(tmp_path / "two", pair, still, on_epoch=lambda record: seen.append(record))
    assert tuple(seen) == two.history
    assert [r.train_loss for r in two.history] == pytest.approx(
        [r.train_loss for r in one.history], rel=1e-5
    )
    for name, array in weights_to_arrays(one.model).items():
        np.testing.assert_allclose(weights_to_arrays(two.model)[name], array, atol=2e-5)
    resumed = fit(tmp_path / "two", base.model_copy(update={"n_devices": 2, "n_epochs": 3}), still)
    assert resumed.resumed_from == 2


@pytest.mark.slow
def test_two_nodes_average_the_gradients_of_their_runs(tmp_path, slurm_of_two, monkeypatch):
    """Two tasks of srun, one on each node, do what one process does with accumulated gradients."""
    allocated = ["salloc", "--nodes=2", "--no-shell"]
    said = subprocess.run(allocated, capture_output=True, text=True, check=True).stderr
    monkeypatch.setenv("SLURM_JOB_ID", re.search(r"allocation (\d+)", said)[1])
    as_sbatch = {"JOB_NUM_NODES": 2, "NNODES": 2, "NTASKS": 2, "NTASKS_PER_NODE": 1}
    for name, value in as_sbatch.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    # Both nodes are this machine, by names that no resolver knows.
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as this process, above
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))  # what the tests draw
    still = SMALL.model_copy(update={"dropout": 0.0})
    base = FAST.model_copy(update={"n_epochs": 2})
    one = fit(tmp_path / "one", base.model_copy(update={"accumulate": 2}), still)
    seen: list = []
    pair = base.model_copy(update={"n_nodes": 2})
    two = fit(tmp_path / "two", pair, still, on_epoch=seen.append)
    assert tuple(seen) == two.history
    assert [r.train_loss for r in two.history] == pytest.approx(
        [r.train_loss for r in one.history], rel=1e-5
    )
    for name, array in weights_to_arrays(one.model).items():
        np.testing.assert_allclose(weights_to_arrays(two.model)[name], array, atol=2e-5)
    three = pair.model_copy(update={"n_epochs": 3})
    assert fit(tmp_path / "two", three, still).resumed_from == 2

    def stop(record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "three", pair.model_copy(update={"n_epochs": 500}), still, on_epoch=stop)
    wait_until(
        lambda: not ask("squeue", "-h", "--steps"), 60, "the tasks end with who started them"
    )
    broken = {**cohort(), "run-1": functools.partial(draw, 1, 19)}
    with pytest.raises(CohortError, match=r"Run run-1: expected shape"):
        fit(tmp_path / "four", pair, still, runs=broken)
    with pytest.raises(TrainingError, match=r"two.* 99 tasks|More processors requested"):
        fit(tmp_path / "five", pair.model_copy(update={"n_devices": 99}), still)


@pytest.mark.parametrize(("there", "found"), [("", "none"), ("1", "one with 1")])
def test_more_nodes_than_were_asked_for_are_refused(tmp_path, monkeypatch, there, found):
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", there or "0")
    with pytest.raises(SettingsError, match=f"a job of Slurm with 2 nodes, found {found}"):
        fit(tmp_path, FAST.model_copy(update={"n_nodes": 2}))
