"""The model as files: safetensors with a JSON card, and the checkpoints of the tutorial.

Neither way of reading can run code from a file. Weights written here open without this package:
``safetensors.torch.load_model`` fills the tutorial's own classes from them, and the card beside
them says of what shape those are.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from trend_dagster.errors import InputError
from trend_dagster.science.features.autoencoder import TransformerAutoencoder, blank_model
from trend_dagster.science.features.model_settings import AutoencoderConfig
from trend_dagster.storage.provenance import library_versions

WEIGHTS, CARD = "model.safetensors", "model.json"


# --- Weights and their card -----------------------------------------------------------------


def weights_files(model: TransformerAutoencoder, about: Mapping[str, Any]) -> dict[str, bytes]:
    """Write weights as safetensors, and a JSON card that tells what they are.

    Parameters
    ----------
    model : TransformerAutoencoder
    about : mapping
        What else the card shall say: cohort, training, origin. Settings, shape, library versions
        and the digest of the weights are added.

    Returns
    -------
    dict of str to bytes
        By file name. Equal weights give equal bytes.
    """
    weights = _safetensors(model)
    card = {
        **about,
        "settings": model.config.model_dump(),
        "n_timepoints": model.n_timepoints,
        "n_parameters": sum(p.numel() for p in model.parameters()),
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "libraries": library_versions(),
    }
    text = json.dumps(card, indent=2, sort_keys=True, allow_nan=False)
    return {WEIGHTS: weights, CARD: f"{text}\n".encode()}


def _safetensors(model: TransformerAutoencoder) -> bytes:
    from safetensors.torch import save_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / WEIGHTS
        save_model(model, str(path))
        content = path.read_bytes()
    # The names of shared layers stand in the header in an order that changes from call to call.
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # the format aligns its data to eight bytes
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


def read_weights(path: Path) -> tuple[TransformerAutoencoder, dict[str, Any]]:
    """Read what `weights_files` made.

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
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    try:
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        _check_digest(path, card["weights_sha256"])
        model = blank_model(AutoencoderConfig(**card["settings"]), card["n_timepoints"])
        load_model(model, str(path))
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(
            f"Weights {path}",
            expected="a safetensors file with its JSON card beside it",
            found=str(error).strip().splitlines()[0],
            remedy="Materialize trained_model again, or restore both files.",
        ) from error
    return model.eval(), card


def _check_digest(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise ValueError(f"weights with another digest than {expected}")


# --- The tutorial's checkpoints -------------------------------------------------------------


@dataclass(frozen=True)
class CheckpointInfo:
    """Where imported weights come from.

    Attributes
    ----------
    path : str
    epoch : int or None
        Epochs that were trained, if the file says.
    best_validation_loss : float or None
        Summed over validation runs, as the notebook keeps it.
    n_timepoints : int
    data_parallel : bool
        Whether names carried the prefix of several GPUs.
    confidence_trained : bool
        Always False: the published code cannot train them.
    """

    path: str
    epoch: int | None
    best_validation_loss: float | None
    n_timepoints: int
    data_parallel: bool
    confidence_trained: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a plain dictionary, for metadata."""
        return asdict(self)


def load_tutorial_checkpoint(
    path: Path,
    *,
    n_heads: int = 8,
    n_timepoints: int | None = None,
    confidence: Literal["key", "tutorial"] = "tutorial",
) -> tuple[TransformerAutoencoder, CheckpointInfo]:
    """Read a ``.pth`` that the tutorial's notebook wrote.

    Parameters
    ----------
    path : Path
        Holds a dictionary with ``model_state_dict``; never runs code from the file.
    n_heads : int
        The only part of the shape that the weights do not tell; 8 in the tutorial.
    n_timepoints : int or None
        If given, the length of the cohort's runs, which the weights must fit.
    confidence : {"tutorial", "key"}
        With ``key`` a warning tells that the confidence weights are untrained.

    Returns
    -------
    model : TransformerAutoencoder
        In evaluation mode; its outputs equal those of the published code.
    info : CheckpointInfo

    Raises
    ------
    InputError
        If the file cannot be read without running code, lacks weights, or has another length.
    """
    content = _read_pickle(path)
    state, data_parallel = _model_state(content, path)
    config = _infer_config(state, n_heads, confidence, path)
    model = blank_model(config, state["embedding.weight"].shape[1])
    _load_published(model, state, path)
    if n_timepoints not in (None, model.n_timepoints):
        raise _checkpoint_error(
            path, f"weights for {n_timepoints} time points", f"{model.n_timepoints} time points"
        )
    if confidence == "key":
        warnings.warn(
            f"{path.name}: its confidence weights are untrained, because the published code "
            "cancels them; in mode 'key' they act as random weights. Train on, or use "
            "confidence='tutorial'.",
            stacklevel=2,
        )
    epoch, loss = content.get("epoch"), content.get("best_val_loss")
    info = CheckpointInfo(
        path=str(path),
        epoch=None if epoch is None else int(epoch),
        best_validation_loss=None if loss is None else float(loss),
        n_timepoints=model.n_timepoints,
        data_parallel=data_parallel,
    )
    return model.eval(), info


def _checkpoint_error(path: Path, expected: str, found: str) -> InputError:
    return InputError(
        f"Checkpoint {path.name}",
        expected=expected,
        found=found,
        remedy="Import a .pth written by step 1f of the tutorial for runs of this length.",
    )


def _read_pickle(path: Path) -> dict[str, Any]:
    """Read a torch file, refusing everything but tensors and plain values."""
    import pickle

    if not path.is_file():
        raise _checkpoint_error(path, "a file", "nothing under that name")
    try:
        with warnings.catch_warnings():  # torch warns of a foreign pickle before it refuses it
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _checkpoint_error(
            path,
            "tensors and plain values only",
            "a file that is damaged or asks to run code, which is refused",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise _checkpoint_error(path, "a torch checkpoint", str(error).splitlines()[0]) from error
    if not isinstance(content, dict) or "model_state_dict" not in content:
        raise _checkpoint_error(path, "an entry model_state_dict", "none")
    return content


def _model_state(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Tensor], bool]:
    """Weights by name without the prefix of several GPUs, and whether it was there."""
    prefix = "module."
    state = content["model_state_dict"]
    data_parallel = bool(state) and all(name.startswith(prefix) for name in state)
    state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    for name in ("embedding.weight", "decoder.linear.weight"):
        if name not in state:
            raise _checkpoint_error(path, f"the weight {name}", f"none among {len(state)}")
    n_in, n_out = state["embedding.weight"].shape[1], state["decoder.linear.weight"].shape[0]
    if n_in != n_out:
        raise _checkpoint_error(path, "as many time points out as in", f"{n_in} in and {n_out} out")
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
        raise _checkpoint_error(path, "the published layers", f"{error} missing") from error


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
        raise _checkpoint_error(path, "exactly the published weights", found) from error
