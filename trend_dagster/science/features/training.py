"""Training of the autoencoder that loses no work: split, loss, optimisation, history, resume.

One step is one run. Devices, precision and processes are Lightning Fabric's; the loop is written
out here, because its promise is more than a framework's: killed at any moment, it continues with
the epoch it was in and ends with the very weights of an uninterrupted run. Two things make that
simple. The state of an epoch's end is one file, replaced atomically. And every random draw of an
epoch (order of runs, dropout, subsampled vertices) starts from a seed made of ``random_state``,
the epoch and the process, so there is no generator state to lose.
"""

from __future__ import annotations

import io
import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from trend_dagster.errors import CohortError, SettingsError, TrainingError
from trend_dagster.files import replace_file
from trend_dagster.science.features.autoencoder import (
    TransformerAutoencoder,
    initial_model,
    model_from_arrays,
    pairwise_bytes,
    weights_to_arrays,
)
from trend_dagster.science.features.model_settings import AutoencoderConfig
from trend_dagster.science.features.model_settings import TrainingConfig as TrainingConfig
from trend_dagster.science.features.nodes import on_nodes
from trend_dagster.science.identity import deciding

RunLoader = Callable[[], NDArray[np.floating]]


def warn(notice: str) -> None:
    """Tell what is wrong and was dealt with, the way a library does."""
    warnings.warn(notice, stacklevel=2)


# --- Split ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Which runs train and which validate.

    Attributes
    ----------
    train, validation : tuple of str
    by : {"run", "subject"}
        Whether whole subjects were kept together.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    by: Literal["run", "subject"]


def split_runs(
    names: Sequence[str], subjects: Sequence[str | None], test_size: float, random_state: int
) -> Split:
    """Split runs into training and validation, subjects whole where they are known.

    Without known subjects this is the tutorial's split, with the names sorted first: the order of
    a folder listing is not fixed.

    Parameters
    ----------
    names : sequence of str
    subjects : sequence of str or None
        Of each run; a run whose subject is unknown counts as a subject of its own.
    test_size : float
        Share of subjects (or runs) that validate.
    random_state : int

    Returns
    -------
    Split
        With a single subject the split is by run, and ``by`` says so.

    Raises
    ------
    CohortError
        If one side would be empty.
    """
    from sklearn.model_selection import train_test_split

    pairs = sorted(zip(names, subjects, strict=True), key=lambda pair: pair[0])
    # A tuple tells an unknown subject's run from a subject of the same name.
    groups = {name: ("subject", s) if s is not None else ("run", name) for name, s in pairs}
    distinct = sorted(set(groups.values()))
    by: Literal["run", "subject"] = "subject"
    if all(s is None for _, s in pairs) or len(distinct) < 2:
        by, groups = "run", {name: ("run", name) for name in groups}
        distinct = list(groups.values())
    try:
        sides = train_test_split(distinct, test_size=test_size, random_state=random_state)
    except ValueError as error:
        raise CohortError(
            "Cohort",
            expected=f"at least two runs to split with test_size={test_size}",
            found=f"{len(distinct)} ({', '.join(name for name, _ in pairs) or 'none'})",
            remedy="Add runs, mend excluded ones, or change test_size.",
        ) from error
    train, validation = (
        tuple(name for group in side for name in groups if groups[name] == group) for side in sides
    )
    return Split(train, validation, by)


# --- What training hands back ---------------------------------------------------------------


@dataclass(frozen=True)
class EpochRecord:
    """One row of the history.

    Attributes
    ----------
    epoch : int
        From 1.
    train_loss, validation_loss : float
        Mean over runs; training with dropout, validation without.
    learning_rate : float
        Of this epoch's steps.
    seconds : float
    skipped_steps : int
        Steps (and validation runs) left out because of NaN or infinity.
    """

    epoch: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    seconds: float
    skipped_steps: int


@dataclass(frozen=True)
class TrainingResult:
    """What `train` returns.

    Attributes
    ----------
    model : TransformerAutoencoder
        Weights of the best epoch by validation loss, in evaluation mode.
    history : tuple of EpochRecord
    best_epoch : int
        0 if no epoch was better than the weights it started from.
    resumed_from : int or None
        Last epoch of the interrupted training that was continued.
    why_fresh : str or None
        Why a training that was found was not continued.
    precision : str
        ``32`` or ``bf16``: what 'auto' became.
    """

    model: TransformerAutoencoder
    history: tuple[EpochRecord, ...]
    best_epoch: int
    resumed_from: int | None
    why_fresh: str | None
    precision: str


# --- Loss and precision ---------------------------------------------------------------------


def combined_loss(output: Tensor, target: Tensor, mse_weight: float = 0.5) -> Tensor:
    """Weighted sum of mean squared and mean absolute error, as in the tutorial.

    Parameters
    ----------
    output, target : Tensor of the same shape
    mse_weight : float

    Returns
    -------
    Tensor
        A scalar in float32 or wider.
    """
    difference = output.to(torch.promote_types(output.dtype, torch.float32)) - target
    return mse_weight * difference.square().mean() + (1 - mse_weight) * difference.abs().mean()


def resolve_precision(precision: Literal["auto", "32", "bf16"], device_type: str) -> str:
    """Choose ``32`` or ``bf16`` for a device.

    Parameters
    ----------
    precision : {"auto", "32", "bf16"}
    device_type : str
        ``cpu`` or ``cuda``.

    Returns
    -------
    str
    """
    if precision != "auto":
        return precision
    if device_type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        # torch has no public question for this; emulated bfloat16 would be slower than float32.
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "32"


def estimate_training_memory(
    config: AutoencoderConfig,
    n_vertices: int,
    n_timepoints: int,
    *,
    device_type: str = "cpu",
    bytes_per_number: int = 4,
) -> int:
    """Estimate roughly the bytes that training takes beyond the program itself.

    Weights, gradients and Adam's two moments, and what a step keeps for its backward pass.

    Parameters
    ----------
    config : AutoencoderConfig
    n_vertices, n_timepoints : int
        V and T.
    device_type : str
    bytes_per_number : int
        4 for float32, 2 for bfloat16.

    Returns
    -------
    int
    """
    with torch.device("meta"):
        weights = TransformerAutoencoder(config, n_timepoints).parameters()
        n_weights = sum(p.numel() for p in weights)
    n_attentions = config.n_encoder_layers + 2 * config.n_decoder_layers
    n_layers = config.n_encoder_layers + config.n_decoder_layers
    # Per attention: queries, keys, values, result, and its normalisation's input and output. Per
    # feed-forward network: the hidden layer before and after dropout, and the normalisation.
    per_vertex = n_attentions * 6 * config.d_model + 4 * n_timepoints
    per_vertex += n_layers * (2 * config.dim_feedforward + 2 * config.d_model)
    pairs = pairwise_bytes(config, n_vertices, device_type, bytes_per_number)
    return 16 * n_weights + n_vertices * per_vertex * bytes_per_number + pairs


# --- State on disk --------------------------------------------------------------------------


@dataclass
class _Progress:
    """Where training stands at an epoch's end."""

    history: list[EpochRecord] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    resumed_from: int | None = None
    why_fresh: str | None = None

    @property
    def epoch(self) -> int:
        return self.history[-1].epoch if self.history else 0

    @property
    def n_skipped(self) -> int:
        return sum(record.skipped_steps for record in self.history)


class _Checkpoints:
    """The two files of a training: its state, and its best weights so far."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.state_path = folder / "state.pt"
        self.best_path = folder / "best.safetensors"
        self.settings = settings

    def write_state(self, progress: _Progress, parts: Mapping[str, Any]) -> None:
        """Keep everything the next epoch needs, and the settings it was made with."""
        content = {
            "settings": self.settings,
            "history": [asdict(record) for record in progress.history],
            "best_epoch": progress.best_epoch,
            "best_loss": progress.best_loss,
            **{name: part.state_dict() for name, part in parts.items()},
        }
        buffer = io.BytesIO()
        torch.save(content, buffer)
        replace_file(self.state_path, buffer.getvalue())

    def write_best(self, model: TransformerAutoencoder, loss: float) -> None:
        """Keep the best weights; the file tells what they belong to."""
        from safetensors.numpy import save

        about = {"settings": json.dumps(self.settings, sort_keys=True), "loss": repr(loss)}
        arrays = weights_to_arrays(model)
        replace_file(self.best_path, save(arrays, about))

    def read_best(self, config: AutoencoderConfig, n_timepoints: int) -> TransformerAutoencoder:
        from safetensors.numpy import load_file

        return model_from_arrays(load_file(self.best_path), config, n_timepoints)

    def loss_of_best(self) -> float | None:
        """Return the validation loss of the best weights on disk, if they are of this training."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.best_path, framework="np") as file:
                about = file.metadata() or {}
        except (OSError, SafetensorError):
            return None
        same = about.get("settings") == json.dumps(self.settings, sort_keys=True)
        return float(about["loss"]) if same else None

    def read_state(self, n_epochs: int) -> tuple[dict[str, Any] | None, str | None]:
        """Return the state to continue from, or None and the reason if one was found in vain."""
        if not self.state_path.exists():
            return None, None
        try:
            state = torch.load(self.state_path, map_location="cpu", weights_only=True)
            changed = self._changed(state)
            last = state["history"][-1]["epoch"]
        except Exception as error:  # a damaged file fails in any way it likes
            return None, self._keep_aside(error)
        if changed is None and last > n_epochs:
            changed = f"{last} epochs are trained, and n_epochs asks for {n_epochs} only"
        return (state, None) if changed is None else (None, changed)

    def why_not(self) -> str | None:
        """Tell what sets these settings apart from a training that is found here."""
        try:
            # Mapped, not read: only the settings are looked at.
            state = torch.load(self.state_path, map_location="cpu", weights_only=True, mmap=True)
            return self._changed(state)
        except Exception:  # what cannot be read tells nothing
            return None

    def _changed(self, state: Mapping[str, Any]) -> str | None:
        """One phrase for each setting that differs."""
        # What is not named is unset, as a setting is that came later or is there no more.
        old, new, missing = state["settings"], self.settings, None
        phrases = [
            f"{name} from {str(old.get(name, missing))[:80]} to {str(new.get(name, missing))[:80]}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name, missing) != new.get(name, missing)
        ]
        return f"the settings changed: {'; '.join(phrases)}" if phrases else None

    def _keep_aside(self, error: Exception) -> str:
        n = sum(1 for _ in self.state_path.parent.glob("state.pt.corrupt*"))
        aside = self.state_path.with_name(f"state.pt.corrupt{n or ''}")
        self.state_path.replace(aside)
        reason = str(error).strip().split("\n", maxsplit=1)[0] or type(error).__name__
        return f"the state was corrupt ({reason[:120]}) and is kept as {aside.name}"


def _identity(
    split: Split, model: AutoencoderConfig, config: TrainingConfig, precision: str, cohort: str
) -> dict[str, Any]:
    """Return all that determines the weights after a given number of epochs."""
    # Training with more epochs continues the same training: n_epochs does not identify it.
    settings = {name: value for name, value in deciding(config).items() if name != "n_epochs"}
    named = {**deciding(model), **settings, "precision": precision, "cohort": cohort}
    return {**named, "train": list(split.train), "validation": list(split.validation)}


# --- The loop -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Job:
    """What every process of a training gets."""

    runs: Mapping[str, RunLoader]
    split: Split
    model: AutoencoderConfig
    config: TrainingConfig
    folder: Path
    on_epoch: Callable[[EpochRecord], None]
    on_share: Callable[[float], None]
    on_notice: Callable[[str], None]
    abandoned: Path | None
    identity: dict[str, Any]
    n_vertices: int  # of a step
    n_timepoints: int
    device_type: str

    @property
    def bytes_per_number(self) -> int:
        return 2 if self.identity["precision"] == "bf16" else 4


class _Loop:
    """One process of a training: its model, optimiser, schedule and progress."""

    def __init__(self, fabric: Any, job: _Job) -> None:
        self.fabric, self.job, self.config = fabric, job, job.config
        self.files = _Checkpoints(job.folder, job.identity)
        self.bare = initial_model(job.model, job.n_timepoints, job.config.random_state)
        trainable = [p for p in self.bare.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(trainable, lr=job.config.learning_rate)
        compiled: Any = torch.compile(self.bare) if job.config.compile else self.bare
        self.model, self.optimizer = fabric.setup(compiled, optimizer)
        self.scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer, "min", patience=job.config.lr_patience
        )
        self.parts: dict[str, Any] = {
            "model": self.bare,
            "optimizer": optimizer,
            "scheduler": self.scheduler,
        }
        self.progress = self._resume()

    def _resume(self) -> _Progress:
        progress = _Progress()
        state, progress.why_fresh = self.files.read_state(self.config.n_epochs)
        self.fabric.barrier()
        if state is not None:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
            progress.history = [EpochRecord(**record) for record in state["history"]]
            progress.best_epoch, progress.best_loss = state["best_epoch"], state["best_loss"]
            progress.resumed_from = progress.epoch
        elif progress.why_fresh and "corrupt" in progress.why_fresh:
            self._start_from_best(progress)
        elif progress.why_fresh is None and self.job.abandoned is not None:
            progress.why_fresh = _Checkpoints(self.job.abandoned, self.files.settings).why_not()
        return progress

    def _start_from_best(self, progress: _Progress) -> None:
        loss = self.files.loss_of_best()
        if self.config.on_corrupt_state == "fresh" or loss is None:
            return
        best = self.files.read_best(self.job.model, self.job.n_timepoints)
        self.bare.load_state_dict(best.state_dict())
        progress.best_loss = loss
        progress.why_fresh = f"{progress.why_fresh}; training starts from the best weights"

    def run(self) -> _Progress:
        """Train until the last epoch, or until nothing improves."""
        progress, patience = self.progress, self.config.early_stopping_patience
        while progress.epoch < self.config.n_epochs:
            if patience is not None and progress.epoch - progress.best_epoch >= patience:
                break
            self._one_epoch(progress.epoch + 1)
        return progress

    def _one_epoch(self, epoch: int) -> None:
        start = time.perf_counter()
        self._seed(epoch)
        rate = float(self.optimizer.param_groups[0]["lr"])
        train_loss, skipped = self._train(epoch)
        validation_loss, skipped = self._validate(epoch, skipped)
        self.scheduler.step(validation_loss)
        seconds = time.perf_counter() - start
        record = EpochRecord(epoch, train_loss, validation_loss, rate, seconds, skipped)
        self.progress.history.append(record)
        improved = validation_loss < self.progress.best_loss
        if improved:
            self.progress.best_loss, self.progress.best_epoch = validation_loss, epoch
        if self.fabric.is_global_zero:
            # Best weights first: killed in between, the epoch is run again to the same weights.
            if improved:
                self.files.write_best(self.bare, validation_loss)
            self.files.write_state(self.progress, self.parts)
            self.job.on_epoch(record)
        self.fabric.barrier()

    def _seed(self, epoch: int) -> None:
        entropy = [self.config.random_state, epoch, self.fabric.global_rank]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1))

    def _order(self, epoch: int) -> list[str]:
        """Return this process's runs of an epoch; all processes get equally many."""
        train = self.job.split.train
        shuffled = np.random.default_rng([self.config.random_state, epoch]).permutation(len(train))
        world = self.fabric.world_size
        padded = np.resize(shuffled, math.ceil(len(train) / world) * world)
        return [train[i] for i in padded[self.fabric.global_rank :: world]]

    def _train(self, epoch: int) -> tuple[float, int]:
        """Return the mean training loss and the number of skipped steps."""
        self.model.train()
        losses: list[float] = []
        skipped = 0
        order, size = self._order(epoch), self.config.accumulate
        loaded = self._load(order)
        for step, start in enumerate(range(0, len(order), size), start=1):
            names = order[start : start + size]
            group = [next(loaded) for _ in names]
            step_losses = self._step(group)
            self._tell_share(epoch, start + len(names), len(order))
            if step_losses is None:
                skipped += 1
                self._tell_skipped(
                    f"step {step} of epoch {epoch} (runs {', '.join(names)})", skipped
                )
            else:
                losses += step_losses
        return self._mean(losses), skipped

    def _tell_share(self, epoch: int, done: int, n_runs: int) -> None:
        if self.fabric.is_global_zero:
            self.job.on_share((epoch - 1 + done / (n_runs + 1)) / self.config.n_epochs)

    def _step(self, group: list[Tensor]) -> list[float] | None:
        """Take one optimiser step over a group of runs; None if it met NaN or infinity."""
        losses = []
        self.optimizer.zero_grad()
        for i, x in enumerate(group):
            with self.fabric.no_backward_sync(self.model, enabled=i + 1 < len(group)):
                loss = self._loss(self._some(x))
                if not self._finite_everywhere(loss):
                    return None
                self.fabric.backward(loss / len(group))
            losses.append(loss.item())
        # Gradients are averaged over processes by now, so all see the same norm.
        norm = clip_grad_norm_(self.bare.parameters(), self.config.gradient_clip)
        if not bool(torch.isfinite(norm)):
            return None
        self.optimizer.step()
        return losses

    def _loss(self, x: Tensor) -> Tensor:
        return combined_loss(self.model(x), x, self.config.mse_weight)

    def _some(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw as many vertices as a step takes; the draw of a training step is the epoch's."""
        n, n_vertices = self.config.vertices_per_step, x.shape[1]
        if not 0 < n < n_vertices:
            return x
        return x[:, torch.randperm(n_vertices, generator=generator)[:n].to(x.device)]

    def _validate(self, epoch: int, skipped: int) -> tuple[float, int]:
        """Return the mean validation loss, and the skipped steps with those of validation."""
        self.model.eval()
        names = self.job.split.validation[self.fabric.global_rank :: self.fabric.world_size]
        losses = []
        for name, x in zip(names, self._load(names), strict=True):
            # The same vertices in every epoch, or the best one would be that of a lucky draw.
            drawn = torch.Generator().manual_seed(self.config.random_state)
            with torch.no_grad():
                loss = float(self._loss(self._some(x, drawn)))
            if math.isfinite(loss):
                losses.append(loss)
            else:
                skipped += 1
                self._tell_skipped(f"validation run {name} in epoch {epoch}", skipped)
        return self._mean(losses), skipped

    def _tell_skipped(self, what: str, skipped: int) -> None:
        total = self.progress.n_skipped + skipped
        if total > self.config.max_skipped_steps:
            raise TrainingError(
                f"Training, {what}",
                expected=f"at most {self.config.max_skipped_steps} steps with NaN or infinity",
                found=f"{total}",
                remedy="Look at these runs' BOLD, lower learning_rate, or use precision '32'.",
            )
        self.job.on_notice(f"NaN or infinity in {what}: skipped ({total} so far).")

    def _finite_everywhere(self, loss: Tensor) -> bool:
        # All processes step together or none does.
        finite = torch.isfinite(loss.detach()).float()
        return bool(self.fabric.all_reduce(finite, reduce_op="sum") == self.fabric.world_size)

    def _mean(self, losses: Sequence[float]) -> float:
        pair = torch.tensor([math.fsum(losses), float(len(losses))], dtype=torch.float64)
        total, count = self.fabric.all_reduce(pair.to(self.fabric.device), reduce_op="sum").tolist()
        return total / count if count else math.nan

    def _load(self, names: Sequence[str]) -> Iterator[Tensor]:
        """Yield runs as (1, V, T) on the device, the next one read while this one is used."""
        with ThreadPoolExecutor(max_workers=1) as reader:
            pending = [reader.submit(_read_run, self.job, name) for name in names[:1]]
            for following in [*names[1:], None]:
                if not pending:
                    return
                series = pending.pop().result()
                if following is not None:
                    pending.append(reader.submit(_read_run, self.job, following))
                yield torch.from_numpy(series).to(self.fabric.device)[None]


def _read_run(job: _Job, name: str) -> NDArray[np.float32]:
    series = np.array(job.runs[name](), dtype=np.float32)
    if series.ndim != 2 or series.shape[1] != job.n_timepoints:
        raise CohortError(
            f"Run {name}",
            expected=f"shape (n_vertices, {job.n_timepoints}), as the first training run has",
            found=str(series.shape),
            remedy="Exclude the run, or cut all runs to one length.",
        )
    return series


def _fit(fabric: Any, job: _Job) -> dict[str, Any]:
    """Run one process; the result is plain because Fabric carries no frozen dataclasses."""
    cuda = [fabric.device] if fabric.device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        return asdict(_Loop(fabric, job).run())


def _fit_in_task(tell: Callable[[Any], None], job: _Job) -> dict[str, Any]:
    """Run the process of a training that a task of Slurm's is."""
    fabric, _ = _make_fabric(job.config, in_task=True)
    told = replace(job, on_epoch=tell, on_share=tell, on_notice=tell)
    return dict(fabric.launch(partial(_fit, job=told)))


# --- Public entry ---------------------------------------------------------------------------


def train(
    runs: Mapping[str, RunLoader],
    split: Split,
    model_config: AutoencoderConfig,
    config: TrainingConfig,
    *,
    checkpoint_dir: Path,
    on_epoch: Callable[[EpochRecord], None] = lambda record: None,
    on_share: Callable[[float], None] = lambda share: None,
    on_notice: Callable[[str], None] = warn,
    cohort: str = "",
    abandoned: Path | None = None,
) -> TrainingResult:
    """Train the autoencoder, or go on with a training that was interrupted.

    Parameters
    ----------
    runs : mapping of str to callable
        Each returns (n_vertices_with_signal, n_timepoints); with several devices the callables
        must be picklable.
    split : Split
        From `split_runs`.
    model_config : AutoencoderConfig
    config : TrainingConfig
    checkpoint_dir : Path
        Holds ``state.pt`` and ``best.safetensors``, written at every epoch's end. A state with
        the same settings and cohort is continued; any other is started afresh.
    on_epoch : callable, optional
        Called with every new `EpochRecord`, after the state is safe.
    on_share : callable, optional
        Called after every step with the share of all epochs that is done, from 0 to 1.
    on_notice : callable, optional
        Called with what went wrong and was dealt with (a step with NaN, a costly setting); a
        warning by default.
    cohort : str
        Fingerprint of the runs' contents; a changed one starts afresh.
    abandoned : Path, optional
        Folder of another training: if there is nothing to go on with, what sets it apart from
        this one is given as the reason.

    Returns
    -------
    TrainingResult

    Raises
    ------
    CohortError
        If a run has another length than the others.
    TrainingError
        If too many steps met NaN or infinity, or memory ran out.
    SettingsError
        If a device is asked for that is not there.
    """
    fabric, precision = _make_fabric(config)
    first = np.shape(runs[split.train[0]]())
    job = _Job(
        runs,
        split,
        model_config,
        config,
        checkpoint_dir,
        on_epoch,
        on_share,
        on_notice,
        abandoned,
        identity=_identity(split, model_config, config, precision, cohort),
        n_vertices=min(first[0], config.vertices_per_step or first[0]),
        n_timepoints=first[-1],
        device_type=fabric.device.type,
    )
    _check_memory(job)
    try:
        ended = _launch(fabric, job)
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        raise _out_of_memory(job, "less") from error
    history = [EpochRecord(**record) for record in ended.pop("history")]
    progress = _Progress(history, **ended)
    if not math.isfinite(progress.best_loss):
        raise TrainingError(
            "Training",
            expected="at least one epoch with a finite validation loss",
            found=f"none in {progress.epoch}",
            remedy="Look at the validation runs' BOLD, or lower learning_rate.",
        )
    files = _Checkpoints(job.folder, job.identity)
    return TrainingResult(
        model=files.read_best(job.model, job.n_timepoints),
        history=tuple(progress.history),
        best_epoch=progress.best_epoch,
        resumed_from=progress.resumed_from,
        why_fresh=progress.why_fresh,
        precision=job.identity["precision"],
    )


def _make_fabric(config: TrainingConfig, *, in_task: bool = False) -> tuple[Any, str]:
    """Choose device, precision and processes; those of a task of Slurm's are there already."""
    from lightning.fabric import Fabric

    on_gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    available = torch.cuda.device_count() if on_gpu else os.cpu_count() or 1
    if (config.accelerator == "cuda" and not on_gpu) or (on_gpu and config.n_devices > available):
        raise SettingsError(
            "Settings accelerator and n_devices",
            expected=f"at most the {torch.cuda.device_count()} CUDA devices there are",
            found=f"accelerator={config.accelerator}, n_devices={config.n_devices}",
            remedy="Use accelerator 'auto', and no more n_devices than there are GPUs.",
        )
    device_type = "cuda" if on_gpu else "cpu"
    precision = resolve_precision(config.precision, device_type)
    strategy = "ddp" if in_task else "auto"
    if config.n_devices > 1 and not in_task:
        # Under torchrun the processes are there; else they are started here, not by running the
        # caller's program again.
        strategy = "ddp" if torch.distributed.is_torchelastic_launched() else "ddp_spawn"
    fabric = Fabric(
        accelerator=device_type,
        devices=config.n_devices,
        num_nodes=config.n_nodes if in_task else 1,
        strategy=strategy,
        plugins=_environment(config, in_task),
        precision="bf16-mixed" if precision == "bf16" else "32-true",
    )
    return fabric, precision


def _environment(config: TrainingConfig, in_task: bool) -> list[Any]:
    """Say who starts the processes: else Lightning warns where `srun` is installed and unused."""
    from lightning.fabric.plugins import environments

    if in_task:
        return [environments.SLURMEnvironment(auto_requeue=False)]  # type: ignore[attr-defined]
    if torch.distributed.is_torchelastic_launched():
        return [environments.TorchElasticEnvironment()]  # type: ignore[attr-defined]
    # A task of Slurm's is told by its variables, which Lightning then reads itself.
    alone = environments.LightningEnvironment()  # type: ignore[attr-defined]
    return [] if "SLURM_NTASKS" in os.environ and config.n_nodes == 1 else [alone]


def _launch(fabric: Any, job: _Job) -> dict[str, Any]:
    """Run all processes of a training; what they tell is told in this one."""
    several = job.config.n_nodes * job.config.n_devices > 1
    if not several or torch.distributed.is_torchelastic_launched():
        return dict(fabric.launch(partial(_fit, job=job)))

    # Callbacks of a caller (a progress bar, a log) belong to this process and stay here.
    def hear(told: str | float | EpochRecord) -> None:
        if isinstance(told, str):
            job.on_notice(told)
        elif isinstance(told, float):
            job.on_share(told)
        else:
            job.on_epoch(told)

    if job.config.n_nodes > 1:
        # All of one precision, whatever each machine has in hardware.
        same = job.config.model_copy(update={"precision": job.identity["precision"]})
        sent = replace(job, config=same, on_epoch=print, on_share=print, on_notice=print)
        work = partial(_fit_in_task, job=sent)
        return dict(on_nodes(work, same.n_nodes, same.n_devices, hear))
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    errors: list[Exception] = []

    def listen() -> None:
        while (told := queue.get()) is not None:
            try:
                hear(told)
            except Exception as error:
                errors.append(error)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        told_apart = replace(job, on_epoch=queue.put, on_share=queue.put, on_notice=queue.put)
        ended = dict(fabric.launch(partial(_fit, job=told_apart)))
    finally:
        queue.put(None)
        listener.join()
    if errors:
        raise errors[0]
    return ended


def _check_memory(job: _Job) -> None:
    """Say what a costly request costs, and refuse what this machine cannot hold."""
    n, device = job.n_vertices, job.device_type
    if pairs := pairwise_bytes(job.model, n, device, job.bytes_per_number):
        job.on_notice(
            f"attention_dropout={job.model.attention_dropout} has no fused kernel on the "
            f"{device}: a step over {n} vertices keeps about {pairs / 1e9:.1f} GB of attention "
            "weights. attention_dropout=0 keeps none."
        )
    # A program that takes more than there is gets no error from the system: it is killed.
    there_is = psutil.virtual_memory().total
    if device == "cpu" and _estimate(job) > there_is:
        raise _out_of_memory(job, f"{there_is / 1e9:.1f} GB")


def _estimate(job: _Job) -> int:
    return estimate_training_memory(
        job.model,
        job.n_vertices,
        job.n_timepoints,
        device_type=job.device_type,
        bytes_per_number=job.bytes_per_number,
    )


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "allocate memory" in str(error) or "out of memory" in str(error)


def _out_of_memory(job: _Job, found: str) -> TrainingError:
    return TrainingError(
        f"Training on {job.n_vertices} vertices and {job.n_timepoints} time points",
        expected=f"about {_estimate(job) / 1e9:.1f} GB of memory on the {job.device_type}",
        found=found,
        remedy=(
            "Set a lower vertices_per_step, precision 'bf16' or attention_dropout 0, or lower "
            "d_model, dim_feedforward or the number of layers."
        ),
    )
