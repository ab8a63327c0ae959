"""The model as files: weights that open anywhere, and checkpoints that the tutorial wrote."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model

from benchmarks.tutorial_model import TutorialModel
from tests.models import SMALL, TUTORIAL, T, fresh_seed
from trend_dagster.errors import InputError, SettingsError
from trend_dagster.project.model import load_tutorial_checkpoint, model_files, read_model
from trend_dagster.science.features.autoencoder import AutoencoderConfig, embed, initial_model
from trend_dagster.storage.weights import CARD, WEIGHTS

torch.set_num_threads(1)  # these arrays are too small to share among threads


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(fresh_seed())


def write(folder: Path, model, about=None) -> Path:
    for name, content in model_files(model, about or {}).items():
        (folder / name).write_bytes(content)
    return folder / WEIGHTS


# --- Weights and their card -----------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
def test_weights_survive_files(tmp_path, rng, share):
    config = SMALL.model_copy(update={"share_layers": share})
    model = initial_model(config, T, fresh_seed())
    x = torch.tensor(rng.standard_normal((1, 40, T)).astype(np.float32))
    loaded, card = read_model(write(tmp_path, model, {"cohort": "abc"}))
    assert torch.equal(loaded(x), model(x))
    assert not loaded.training
    assert card["cohort"] == "abc"
    assert AutoencoderConfig(**card["settings"]) == config
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([CARD, WEIGHTS])


def test_weights_open_in_the_tutorials_own_classes(tmp_path, rng):
    """No line of this package is needed to use them."""
    model = initial_model(TUTORIAL, T, fresh_seed())
    path = write(tmp_path, model)
    assert set(load_file(path)) == {name for name, _ in model.named_parameters()}
    theirs = TutorialModel(TUTORIAL, T).eval()
    load_model(theirs, str(path))
    x = torch.tensor(rng.standard_normal((1, 40, T)).astype(np.float32))
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), model(x), rtol=1e-5, atol=1e-5)


def test_equal_weights_give_equal_bytes():
    seed = fresh_seed()
    first, again = (model_files(initial_model(SMALL, T, seed), {"a": 1}) for _ in range(2))
    assert first == again
    assert first != model_files(initial_model(SMALL, T, seed + 1), {"a": 1})


def test_files_that_do_not_fit_are_refused(tmp_path):
    path = write(tmp_path, initial_model(SMALL, T, 0))
    card = json.loads((tmp_path / CARD).read_text())
    (tmp_path / CARD).write_text(json.dumps({**card, "n_timepoints": T + 1}))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        read_model(path)
    (tmp_path / CARD).write_text(json.dumps(card))
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="another digest"):
        read_model(path)
    with pytest.raises(InputError, match="JSON card"):
        read_model(tmp_path / "other.safetensors")


# --- The tutorial's checkpoints -------------------------------------------------------------


def write_checkpoint(path: Path, reference: TutorialModel, **changes: object) -> Path:
    content = {
        "epoch": 12,
        "model_state_dict": reference.state_dict(),
        "optimizer_state_dict": torch.optim.Adam(reference.parameters()).state_dict(),
        "best_val_loss": 3.5,
    }
    torch.save({**content, **changes}, path)
    return path


@pytest.mark.parametrize("data_parallel", [True, False])
@pytest.mark.parametrize("d_model", [24, 40])
def test_a_checkpoint_gives_the_published_outputs(tmp_path, rng, data_parallel, d_model):
    torch.manual_seed(fresh_seed())
    reference = TutorialModel(TUTORIAL.model_copy(update={"d_model": d_model}), T).eval()
    saved = torch.nn.DataParallel(reference) if data_parallel else reference
    model, origin = load_tutorial_checkpoint(
        write_checkpoint(tmp_path / "best.pth", saved), n_heads=SMALL.n_heads
    )
    bold = 5 * rng.standard_normal((40, T)).astype(np.float32) + 100
    x = torch.tensor(bold)[None]
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference(x), rtol=1e-5, atol=1e-5)
        for source, theirs in (
            ("input_projection", reference.embedding(x)),
            ("encoder", reference.encode(x)),
        ):
            ours = embed(model, bold, source=source)
            np.testing.assert_allclose(ours, theirs[0].numpy(), rtol=1e-5, atol=1e-5)
    assert model.config.share_layers
    assert (origin["epoch"], origin["best_validation_loss"], origin["n_timepoints"]) == (12, 3.5, T)
    assert origin["data_parallel"] == data_parallel
    assert not origin["confidence_trained"]


def test_untrained_confidence_is_warned_of(tmp_path):
    path = write_checkpoint(tmp_path / "best.pth", TutorialModel(TUTORIAL, T))
    with pytest.warns(UserWarning, match="untrained"):
        model, _ = load_tutorial_checkpoint(path, n_heads=4, confidence="key")
    assert model.config.confidence == "key"


def test_checkpoints_that_do_not_fit_are_refused(tmp_path):
    reference = TutorialModel(TUTORIAL, T)
    path = write_checkpoint(tmp_path / "best.pth", reference)
    with pytest.raises(SettingsError, match="multiple of n_heads"):
        load_tutorial_checkpoint(path, n_heads=7)
    with pytest.raises(InputError, match="nothing under that name"):
        load_tutorial_checkpoint(tmp_path / "none.pth")
    state = reference.state_dict()
    for key in ("embedding.weight", "encoder.norm.bias", "encoder.layers.0.linear1.weight"):
        left = {name: tensor for name, tensor in state.items() if name != key}
        short = write_checkpoint(tmp_path / "short.pth", reference, model_state_dict=left)
        with pytest.raises(InputError, match=key.split(".")[-2]):
            load_tutorial_checkpoint(short, n_heads=4)
    torch.save(state, tmp_path / "bare.pth")
    with pytest.raises(InputError, match="model_state_dict"):
        load_tutorial_checkpoint(tmp_path / "bare.pth")


class _Code:
    def __reduce__(self):
        return (Path.touch, (Path("executed"),))


@pytest.mark.parametrize("kind", ["torch", "pickle", "text", "cut"])
def test_a_file_with_code_or_damage_is_refused_unexecuted(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.pth"
    if kind == "torch":
        torch.save({"model_state_dict": _Code()}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"model_state_dict": _Code()}))
    elif kind == "text":
        path.write_text("no checkpoint")
    else:
        write_checkpoint(path, TutorialModel(TUTORIAL, T))
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"evil\.pth"):
        load_tutorial_checkpoint(path)
    assert not (tmp_path / "executed").exists()
