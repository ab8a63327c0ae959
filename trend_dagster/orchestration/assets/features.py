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
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.production import Cell, stored_asset
from trend_dagster.project.folder import BOLD_RUN
from trend_dagster.project.recordings import check_recordings
from trend_dagster.project.settings import Settings
from trend_dagster.science.bold import check_same_vertices, common_length
from trend_dagster.storage.arrays import subject_of
from trend_dagster.storage.provenance import digest_of
from trend_dagster.storage.space import check_same_space
from trend_dagster.storage.stores import Partition, Version

if TYPE_CHECKING:  # torch takes seconds to import: only the functions that compute with it do
    from trend_dagster.science.features.autoencoder import TransformerAutoencoder
    from trend_dagster.science.features.training import EpochRecord


def signal_of(run: Version, n_timepoints: int | None = None) -> NDArray[np.float32]:
    """Read the BOLD of the vertices with signal, as many timepoints as asked for."""
    return np.ascontiguousarray(run.read("bold")[run.read("vertex_mask"), :n_timepoints])


def _read_signal(path: Path, n_timepoints: int) -> NDArray[np.float32]:
    return signal_of(Version("bold", {}, path), n_timepoints)


@stored_asset(
    group="features",
    settings=("bold", "cohort", "autoencoder", "training"),
    code_version="2",
    keep_when_inputs_change=True,
    pool="training",
)
def trained_model(cell: Cell, bold: Sequence[Version]) -> Result:
    """Transformer autoencoder with confidence attention, trained on three quarters of the runs.

    Each run is a sequence of vertices; the model learns to reproduce their time series. The
    weights are those of the epoch with the lowest loss on the runs held out. All runs of one
    subject stand on the same side of the split. Training that was interrupted goes on where it
    stopped.
    """
    from trend_dagster.science.features.training import split_runs, train

    settings = cell.settings
    runs = {run.partition[BOLD_RUN]: run for run in bold}
    if len(runs) < 2:
        raise CohortError(
            "trained_model",
            expected="at least two usable runs, one to train on and one to validate",
            found=f"{len(runs)}" + _excluded(cell),
            remedy="Add BOLD files, or mend the excluded ones.",
        )
    check_same_vertices({name: run.facts["n_vertices"] for name, run in runs.items()})
    check_same_space({name: run.facts.get("space") for name, run in runs.items()})
    check_recordings(cell.project, list(runs))
    n_timepoints = common_length(
        {name: run.facts["n_timepoints"] for name, run in runs.items()}, settings.cohort
    )
    split = split_runs(
        list(runs),
        [subject_of(name) for name in runs],
        settings.training.test_size,
        settings.training.random_state,
    )

    def show(record: EpochRecord) -> None:
        cell.log(
            f"epoch {record.epoch} of {settings.training.n_epochs}: training loss "
            f"{record.train_loss:.5f}, validation loss {record.validation_loss:.5f}"
        )
        cell.progress(f"epoch {record.epoch}", record.epoch / settings.training.n_epochs)

    cohort = digest_of({name: run.digest for name, run in runs.items()})
    states = TrainingStates(cell, cohort)
    trained = train(
        # Paths, not open stores: they travel to the processes of several devices.
        {name: partial(_read_signal, run.path, n_timepoints) for name, run in runs.items()},
        split,
        settings.autoencoder,
        settings.training,
        checkpoint_dir=states.own,
        on_epoch=show,
        on_notice=cell.log,
        cohort=cohort,
        abandoned=states.latest_other(),
    )
    if trained.why_fresh is not None:
        cell.log(f"training started afresh: {trained.why_fresh}")
    states.forget_old()
    about = {
        "trained_on": {"cohort": cohort, **asdict(split)},
        "training": settings.training.model_dump() | {"precision": trained.precision},
    }
    return model_result(
        trained.model,
        trained.history,
        about,
        {
            "n_timepoints": n_timepoints,
            "training_runs": list(split.train),
            "validation_runs": list(split.validation),
            "split_by": split.by,
            "precision": trained.precision,
            "best_epoch": trained.best_epoch,
            "epochs_resumed_from": trained.resumed_from,
            "started_afresh_because": trained.why_fresh,
        },
    )


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
        Of its training; empty where nobody knows it.
    about : mapping
        What the card says of its origin.
    facts : mapping
        What is worth looking at besides.

    Returns
    -------
    Result
        Weights and card as files, the history as arrays.
    """
    from trend_dagster.storage.weights import weights_files

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
        attachments=weights_files(model, {**about, "history": summary}),
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
    cell : Cell
        Of ``trained_model``.
    cohort : str
        Digest of the runs.
    """

    def __init__(self, cell: Cell, cohort: str) -> None:
        settings = {name: cell.settings.identity(name) for name in trained_model.settings}
        settings["training"].pop("n_epochs")
        key = digest_of([trained_model.code_version, settings, cohort])
        self.folder = cell.scratch.parent
        self.own = self.folder / f".training-{key}"
        self.n_kept = cell.settings.storage.keep_versions

    def _others(self) -> list[Path]:
        """All but this one, the one that was written to last in front."""
        found = {path.parent for path in self.folder.glob(".training-*/state.pt")} - {self.own}
        return sorted(found, key=lambda f: (f / "state.pt").stat().st_mtime, reverse=True)

    def latest_other(self) -> Path | None:
        """Return the folder of the training before this one."""
        return next(iter(self._others()), None)

    def forget_old(self) -> None:
        """Remove all but the latest few."""
        for folder in self._others()[self.n_kept - 1 :]:
            shutil.rmtree(folder, ignore_errors=True)


def _excluded(cell: Cell) -> str:
    """Name the excluded runs, for messages."""
    store = cell.project.store
    versions = [store.latest("bold", {BOLD_RUN: key}) for key in cell.project.keys(BOLD_RUN)]
    reasons = [v.excluded for v in versions if v is not None and v.excluded is not None]
    return f" (excluded: {'; '.join(reasons)})" if reasons else ""


def _needs_no_model(settings: Settings, partition: Partition) -> bool:
    return settings.features.source == "bold"


@stored_asset(
    group="features",
    dims=(BOLD_RUN,),
    settings=("features",),
    unless={"trained_model": _needs_no_model},
)
def embeddings(cell: Cell, bold: Version, trained_model: Version | None) -> Result:
    """Features of every vertex of one run, by the trained model.

    Vertices without signal never enter the model; their rows are zero. If the vertices have all
    become alike (the embedding has collapsed), the mean correlation comes near 1 and the effective
    rank near 1, and a check says so.
    """
    from trend_dagster.science.features.autoencoder import collapse_measures, embed

    mask = bold.read("vertex_mask")
    n_timepoints = None if trained_model is None else trained_model.facts["n_timepoints"]
    if n_timepoints is not None and bold.facts["n_timepoints"] < n_timepoints:
        raise CohortError(
            f"BOLD run {cell.partition[BOLD_RUN]}",
            expected=f"at least the {n_timepoints} timepoints that the model was trained with",
            found=f"{bold.facts['n_timepoints']}",
            remedy="Take the file out, or train again with `cohort: {lengths: crop}`.",
        )
    model = None if trained_model is None else load_model(trained_model)
    found = embed(model, signal_of(bold, n_timepoints), source=cell.settings.features.source)
    features = np.zeros((len(mask), found.shape[1]), dtype=np.float32)
    features[mask] = found
    return Result(
        arrays={"features": features, "vertex_mask": mask},
        facts={
            "source": cell.settings.features.source,
            "space": bold.facts.get("space"),
            **asdict(collapse_measures(found)),
        },
    )


def load_model(trained_model: Version) -> TransformerAutoencoder:
    """Build the model as it was trained, whatever the settings say today."""
    from trend_dagster.storage.weights import WEIGHTS, read_weights

    model, _ = read_weights(trained_model.file(WEIGHTS))
    return model
