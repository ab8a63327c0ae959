"""From time series to what represents each vertex: the model and its embeddings."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trend_dagster.delivery.figures.matrices import training_figure
from trend_dagster.delivery.figures.png import small_png
from trend_dagster.errors import CohortError
from trend_dagster.orchestration.assets.inputs import bold
from trend_dagster.orchestration.assets.loading import (
    feature_maker,
    made_by,
    shared_length,
    signal_inside,
    usable_runs,
)
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Optional, Task, stored_asset
from trend_dagster.progress import time_left
from trend_dagster.project.folder import BOLD_RUN
from trend_dagster.project.settings import Settings
from trend_dagster.science.features.collapse import collapse_measures
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.provenance import digest_of
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:  # torch takes seconds to import: only the functions that compute with it do
    from trend_dagster.science.features.autoencoder import TransformerAutoencoder
    from trend_dagster.science.features.training import EpochRecord, Split, TrainingResult

TRAINED_BY = ("bold", "cohort", "autoencoder", "training")
"""Sections of the settings that decide a model."""

MODEL_CODE = "2"


def _no_model(settings: Settings) -> str | None:
    bold = settings.features.source == "bold"
    return "the features are the BOLD itself: no model is needed" if bold else None


@stored_asset(
    group="features",
    inputs=[bold],
    settings=TRAINED_BY,
    code_version=MODEL_CODE,
    nothing_to_do=_no_model,
    keep_when_inputs_change=True,
    pool="training",
)
def trained_model(task: Task, bold: Sequence[Version]) -> Result:
    """Transformer autoencoder with confidence attention, trained on three quarters of the runs.

    Each run is a sequence of vertices; the model learns to reproduce their time series. The
    weights are those of the epoch with the lowest loss on the runs held out. All runs of one
    subject stand on the same side of the split. Training that was interrupted goes on where it
    stopped.
    """
    runs = usable_runs(task, _enough(task, bold))
    n_timepoints = shared_length(runs, task.settings.cohort)
    cohort = digest_of({name: run.digest for name, run in runs.items()})
    trained, split = _train(task, runs, n_timepoints, cohort)
    about = {
        "trained_on": {"cohort": cohort, **asdict(split)},
        "training": task.settings.training.model_dump() | {"precision": trained.precision},
    }
    facts = {"n_timepoints": n_timepoints, **_facts_of(trained, split)}
    return model_result(trained.model, trained.history, about, facts)


def _enough(task: Task, runs: Sequence[Version]) -> Sequence[Version]:
    if len(runs) >= 2:
        return runs
    store = task.project.store
    versions = [store.latest("bold", {BOLD_RUN: key}) for key in task.project.keys(BOLD_RUN)]
    reasons = [v.excluded for v in versions if v is not None and v.excluded is not None]
    raise CohortError(
        "trained_model",
        expected="at least two usable runs, one to train on and one to validate",
        found=f"{len(runs)}" + (f" (excluded: {'; '.join(reasons)})" if reasons else ""),
        remedy="Add BOLD files, or mend the excluded ones.",
    )


def _train(
    task: Task, runs: Mapping[str, Version], n_timepoints: int, cohort: str
) -> tuple[TrainingResult, Split]:
    """Train, or go on with a training that was interrupted, and show each epoch."""
    from trend_dagster.science.features.training import split_runs, train

    config = task.settings.training
    split = split_runs(
        list(runs), [subject_of(name) for name in runs], config.test_size, config.random_state
    )

    said = f"epoch 1 of {config.n_epochs}"

    def show(record: EpochRecord) -> None:
        nonlocal said
        said = (
            f"epoch {record.epoch} of {config.n_epochs}: training loss "
            f"{record.train_loss:.5f}, validation loss {record.validation_loss:.5f}"
        )
        left = (config.n_epochs - record.epoch) * record.seconds
        task.log(f"{said}, {time_left(left)}")
        task.progress(said, record.epoch / config.n_epochs)

    states = TrainingStates(task, cohort)
    trained = train(
        # Paths, not open stores: they travel to the processes of several devices.
        {name: partial(signal_inside, run.path, n_timepoints) for name, run in runs.items()},
        split,
        task.settings.autoencoder,
        config,
        checkpoint_dir=states.own,
        on_epoch=show,
        on_share=lambda share: task.progress(said, share),
        on_notice=task.log,
        cohort=cohort,
        abandoned=next(iter(states.others()), None),
    )
    if trained.why_fresh is not None:
        task.log(f"training started afresh: {trained.why_fresh}")
    states.forget_old()
    return trained, split


def _facts_of(trained: TrainingResult, split: Split) -> dict[str, Any]:
    return {
        "training_runs": list(split.train),
        "validation_runs": list(split.validation),
        "split_by": split.by,
        "precision": trained.precision,
        "best_epoch": trained.best_epoch,
        "epochs_resumed_from": trained.resumed_from,
        "started_afresh_because": trained.why_fresh,
    }


HISTORY = {
    "epoch": np.int64,
    "train_loss": np.float64,
    "validation_loss": np.float64,
    "learning_rate": np.float64,
    "skipped_steps": np.int64,
}
"""Columns of the history; seconds are left out, for they are no content."""


def model_result(
    model: TransformerAutoencoder,
    history: Sequence[EpochRecord],
    about: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> Result:
    """Put a model together as an output of ``trained_model``.

    Parameters
    ----------
    model : TransformerAutoencoder
        Trained here or elsewhere.
    history : sequence of EpochRecord
        Of its training; empty where it is not known.
    about : mapping
        What the card says of its origin.
    facts : mapping
        What is worth looking at besides.

    Returns
    -------
    Result
        Weights and card as files, the history as arrays.
    """
    from trend_dagster.project.model import model_files

    columns = {
        name: np.array([getattr(record, name) for record in history], dtype=dtype)
        for name, dtype in HISTORY.items()
    }
    summary: dict[str, Any] = {"n_epochs": len(history)}
    if history:
        losses = columns["validation_loss"]
        summary |= {
            "best_validation_loss": float(losses[np.isfinite(losses)].min(initial=np.inf)),
            "last_learning_rate": history[-1].learning_rate,
            "skipped_steps": int(columns["skipped_steps"].sum()),
        }
    return Result(
        arrays={f"history_{name}": column for name, column in columns.items()},
        facts={"n_parameters": sum(p.numel() for p in model.parameters()), **facts, **summary},
        tables={"history": _history_table(history)} if history else {},
        pictures={"loss": _loss_picture(columns)} if history else {},
        attachments=model_files(model, {**about, "history": summary}),
    )


def _loss_picture(columns: Mapping[str, NDArray[Any]]) -> bytes:
    figure = training_figure(
        columns["train_loss"], columns["validation_loss"], columns["learning_rate"]
    )
    return small_png(figure)


def _history_table(history: Sequence[EpochRecord]) -> str:
    """At most twenty epochs, evenly spread, the first and the last among them."""
    shown = np.unique(np.linspace(0, len(history) - 1, 20).round().astype(int))
    rows = [
        f"| {r.epoch} | {r.train_loss:.5f} | {r.validation_loss:.5f} | {r.learning_rate:.1e} "
        f"| {r.skipped_steps} |"
        for r in (history[i] for i in shown)
    ]
    head = "| epoch | training loss | validation loss | learning rate | skipped steps |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


class TrainingStates:
    """Where interrupted and finished trainings are kept, to go on from.

    Each training has a folder of its own, found by what decides its path: everything but the
    number of epochs. It stays when the model is published, so that more epochs continue it.

    Parameters
    ----------
    task : Task
        Of ``trained_model``.
    cohort : str
        Digest of the runs.
    """

    def __init__(self, task: Task, cohort: str) -> None:
        settings = {name: task.settings.identity(name) for name in TRAINED_BY}
        settings["training"].pop("n_epochs")
        self.folder = task.scratch.parent
        self.own = self.folder / f".training-{digest_of([MODEL_CODE, settings, cohort])}"
        self.n_kept = task.settings.storage.keep_versions

    def others(self) -> list[Path]:
        """All but this one, the one that was written to last in front."""
        found = {path.parent for path in self.folder.glob(".training-*/state.pt")} - {self.own}
        return sorted(found, key=lambda f: (f / "state.pt").stat().st_mtime, reverse=True)

    def forget_old(self) -> None:
        """Remove all but the latest few."""
        for folder in self.others()[self.n_kept - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)


@stored_asset(
    group="features", dims=(BOLD_RUN,), inputs=[bold, trained_model], settings=("features",)
)
def embeddings(task: Task, bold: Version, trained_model: Optional) -> Result:
    """Features of every vertex of one run, by the trained model.

    Vertices without signal never enter the model; their rows are zero. If the vertices have all
    become alike (the embedding has collapsed), the mean correlation comes near 1 and the effective
    rank near 1, and a check says so.
    """
    maker = feature_maker(task, trained_model)
    found, mask = made_by(maker, bold)
    told = {"source": maker.source, "space": bold.facts.get("space")}
    return Result(
        arrays={"features": found, "vertex_mask": mask},
        facts=told | asdict(collapse_measures(found[mask])),
    )
