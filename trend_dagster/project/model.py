"""The model of a project: built from what is stored, or from a checkpoint of the tutorial.

What belongs here: which model belongs to weights. What does not: files (``storage.weights``) and
the model itself (``science.features``). Importing this module loads torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trend_dagster.science.features.autoencoder import TransformerAutoencoder, blank_model
from trend_dagster.science.features.model_settings import AutoencoderConfig
from trend_dagster.storage.weights import (
    bad_checkpoint,
    read_checkpoint,
    read_weights,
    weights_files,
)


def model_files(model: TransformerAutoencoder, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Write a model as files.

    Parameters
    ----------
    model : TransformerAutoencoder
        Trained here or elsewhere.
    about : mapping
        What else its card shall say: cohort, training, origin.

    Returns
    -------
    dict of str to bytes
        Weights and card by file name. Equal weights give equal bytes.
    """
    card = {
        **about,
        "settings": model.config.model_dump(),
        "n_timepoints": model.n_timepoints,
        "n_parameters": sum(p.numel() for p in model.parameters()),
    }
    return weights_files(model, card)


def read_model(path: Path) -> tuple[TransformerAutoencoder, dict[str, Any]]:
    """Read what :func:`model_files` made, whatever the settings say today.

    Parameters
    ----------
    path : Path
        The safetensors file; its card has the same name with ``.json``.

    Returns
    -------
    model : TransformerAutoencoder
        In evaluation mode.
    card : dict

    Raises
    ------
    InputError
        If weights or card are missing, damaged, or do not fit each other.
    """
    return read_weights(
        path, lambda card: blank_model(AutoencoderConfig(**card["settings"]), card["n_timepoints"])
    )


# --- The tutorial's checkpoints -------------------------------------------------------------


def load_tutorial_checkpoint(
    path: Path,
    *,
    n_heads: int = 8,
    confidence: Literal["key", "tutorial"] = "tutorial",
) -> tuple[TransformerAutoencoder, dict[str, Any]]:
    """Read a ``.pth`` that the tutorial's notebook wrote.

    Parameters
    ----------
    path : Path
        Holds a dictionary with ``model_state_dict``; never runs code from the file.
    n_heads : int
        The only part of the shape that the weights do not tell; 8 in the tutorial.
    confidence : {"tutorial", "key"}
        With ``key`` a warning tells that the confidence weights are untrained.

    Returns
    -------
    model : TransformerAutoencoder
        In evaluation mode; its outputs equal those of the published code.
    origin : dict
        Where the weights come from: ``path``, ``epoch`` and ``best_validation_loss`` (summed over
        validation runs) if the file says them, ``n_timepoints``, ``data_parallel`` (whether names
        carried the prefix of several GPUs), and ``confidence_trained``, always False: the published
        code cannot train it.

    Raises
    ------
    InputError
        If the file cannot be read without running code, or lacks weights.
    """
    content = read_checkpoint(path)
    state, data_parallel = _model_state(content, path)
    config = _infer_config(state, n_heads, confidence, path)
    model = blank_model(config, state["embedding.weight"].shape[1])
    _load_published(model, state, path)
    if confidence == "key":
        warnings.warn(
            f"{path.name}: its confidence weights are untrained, because the published code "
            "cancels them; in mode 'key' they act as random weights. Train on, or use "
            "confidence='tutorial'.",
            stacklevel=2,
        )
    epoch, loss = content.get("epoch"), content.get("best_val_loss")
    return model.eval(), {
        "path": str(path),
        "epoch": None if epoch is None else int(epoch),
        "best_validation_loss": None if loss is None else float(loss),
        "n_timepoints": model.n_timepoints,
        "data_parallel": data_parallel,
        "confidence_trained": False,
    }


def _model_state(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], bool]:
    """Weights by name without the prefix of several GPUs, and whether it was there."""
    prefix = "module."
    state = content["model_state_dict"]
    data_parallel = bool(state) and all(name.startswith(prefix) for name in state)
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    for name in ("embedding.weight", "decoder.linear.weight"):
        if name not in state:
            raise bad_checkpoint(path, f"the weight {name}", f"none among {len(state)}")
    n_in, n_out = state["embedding.weight"].shape[1], state["decoder.linear.weight"].shape[0]
    if n_in != n_out:
        raise bad_checkpoint(path, "as many time points out as in", f"{n_in} in and {n_out} out")
    return state, data_parallel


def _infer_config(
    state: Mapping[str, Tensor], n_heads: int, confidence: Literal["key", "tutorial"], path: Path
) -> AutoencoderConfig:
    """Read the shape of the model from the shapes of its weights."""
    depth = {
        part: len({name.split(".")[2] for name in state if name.startswith(f"{part}.layers.")})
        for part in ("encoder", "decoder")
    }
    layer = "encoder.layers.0."
    try:
        return AutoencoderConfig(
            d_model=state["embedding.weight"].shape[0],
            n_heads=n_heads,
            n_encoder_layers=depth["encoder"],
            n_decoder_layers=depth["decoder"],
            dim_feedforward=state[layer + "linear1.weight"].shape[0],
            confidence_hidden=state[layer + "self_attn.confidence_module.mlp.0.weight"].shape[0],
            confidence=confidence,
            attention_dropout=0.1,
            share_layers=_is_shared(state),
        )
    except (KeyError, ValueError) as error:
        raise bad_checkpoint(path, "the published layers", f"{error} missing") from error


def _is_shared(state: Mapping[str, Tensor]) -> bool:
    """Whether every layer holds the weights of its part's first one."""
    for name, tensor in state.items():
        part, _, rest = name.partition(".layers.")
        if not rest:
            continue
        first = state.get(f"{part}.layers.0.{rest.partition('.')[2]}")
        if first is None or not torch.equal(first, tensor):
            return False
    return True


def _load_published(model: TransformerAutoencoder, state: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        found = "; ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise bad_checkpoint(path, "exactly the published weights", found) from error
