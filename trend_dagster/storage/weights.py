"""Weights as files: safetensors with a JSON card, and torch's own files.

Neither way of reading can run code from a file. Weights written here open without this package:
``safetensors.torch.load_model`` fills the tutorial's own classes from them, and the card beside
them says of what shape those are.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from trend_dagster.errors import InputError
from trend_dagster.storage.provenance import library_versions

WEIGHTS, CARD = "model.safetensors", "model.json"

Model = TypeVar("Model", bound=torch.nn.Module)


def weights_files(model: torch.nn.Module, card: Mapping[str, Any]) -> dict[str, bytes]:
    """Write weights as safetensors, and a JSON card that tells what they are.

    Parameters
    ----------
    model : Module
        Any.
    card : mapping
        What the card shall say. Library versions and the digest of the weights are added.

    Returns
    -------
    dict of str to bytes
        By file name. Equal weights give equal bytes.
    """
    weights = _safetensors(model)
    digest = hashlib.sha256(weights).hexdigest()
    said = {**card, "weights_sha256": digest, "libraries": library_versions()}
    text = json.dumps(said, indent=2, sort_keys=True, allow_nan=False)
    return {WEIGHTS: weights, CARD: f"{text}\n".encode()}


def _safetensors(model: torch.nn.Module) -> bytes:
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


def read_weights(
    path: Path, build: Callable[[Mapping[str, Any]], Model]
) -> tuple[Model, dict[str, Any]]:
    """Read what `weights_files` made.

    Parameters
    ----------
    path : Path
        The safetensors file; its card has the same name with ``.json``.
    build : callable
        Takes the card; returns the model that the weights belong to.

    Returns
    -------
    model : Module
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
        model = build(card)
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
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise ValueError(f"weights with another digest than {expected}")


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a dictionary that torch has written, refusing everything but tensors and plain values.

    Parameters
    ----------
    path : Path
        Holds an entry ``model_state_dict``; never runs code from the file.

    Raises
    ------
    InputError
        If it cannot be read without running code, or lacks that entry.
    """
    import pickle

    if not path.is_file():
        raise bad_checkpoint(path, "a file", "nothing under that name")
    try:
        with warnings.catch_warnings():  # torch warns of a foreign pickle before it refuses it
            warnings.simplefilter("ignore", UserWarning)
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise bad_checkpoint(
            path,
            "tensors and plain values only",
            "a file that is damaged or asks to run code, which is refused",
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        raise bad_checkpoint(path, "a torch checkpoint", str(error).splitlines()[0]) from error
    if not isinstance(content, dict) or "model_state_dict" not in content:
        raise bad_checkpoint(path, "an entry model_state_dict", "none")
    return content


def bad_checkpoint(path: Path, expected: str, found: str) -> InputError:
    """Error of a checkpoint that is not one of the tutorial."""
    return InputError(
        f"Checkpoint {path.name}",
        expected=expected,
        found=found,
        remedy="Import a .pth written by step 1f of the tutorial for runs of this length.",
    )
