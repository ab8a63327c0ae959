"""From time series to what represents each vertex: the model and its embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trend_dagster.errors import CohortError
from trend_dagster.figures.matrices import training_figure
from trend_dagster.figures.png import small_png
from trend_dagster.orchestration.io_managers import Result
from trend_dagster.orchestration.resources import BOLD_RUN
from trend_dagster.orchestration.settings import Settings
from trend_dagster.orchestration.stored_asset import Cell, stored_asset
from trend_dagster.science.bold import check_same_vertices, common_length
from trend_dagster.science.model_settings import AutoencoderConfig
from trend_dagster.storage.images import subject_of
from trend_dagster.storage.provenance import digest_of
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:  # torch takes seconds to import: only the functions that compute with it do
    from trend_dagster.science.autoencoder import TransformerAutoencoder


def signal_of(run: Version, n_timepoints: int | None = None) -> NDArray[np.float32]:
    """Read the BOLD of the vertices with signal, as many timepoints as asked for."""
    return np.ascontiguousarray(run.read("bold")[run.read("vertex_mask"), :n_timepoints])


def _reader(run: Version, n_timepoints: int) -> Callable[[], NDArray[np.float32]]:
    return lambda: signal_of(run, n_timepoints)


@stored_asset(
    group="features",
    settings=("bold", "cohort", "autoencoder", "training"),
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
    from trend_dagster.science.autoencoder import weights_to_arrays
    from trend_dagster.science.training import EpochRecord, split_runs, train

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

    cell.scratch.mkdir(parents=True, exist_ok=True)
    trained = train(
        {name: _reader(run, n_timepoints) for name, run in runs.items()},
        split,
        settings.autoencoder,
        settings.training,
        checkpoint_dir=cell.scratch,
        on_epoch=show,
        cohort=digest_of({name: run.digest for name, run in runs.items()}),
    )
    history = trained.history
    train_loss, validation_loss, learning_rate = (
        np.array([getattr(record, name) for record in history])
        for name in ("train_loss", "validation_loss", "learning_rate")
    )
    return Result(
        arrays={
            **weights_to_arrays(trained.model),
            "history_epoch": np.array([r.epoch for r in history]),
            "history_train_loss": train_loss,
            "history_validation_loss": validation_loss,
            "history_learning_rate": learning_rate,
        },
        facts={
            "n_timepoints": n_timepoints,
            "n_parameters": sum(p.numel() for p in trained.model.parameters()),
            "training_runs": list(split.train),
            "validation_runs": list(split.validation),
            "split_by": split.by,
            "best_epoch": trained.best_epoch,
            "best_validation_loss": float(np.nanmin(validation_loss)),
            "epochs_resumed_from": trained.resumed_from,
        },
        pictures={"loss": small_png(training_figure(train_loss, validation_loss, learning_rate))},
    )


def _excluded(cell: Cell) -> str:
    """Name the excluded runs, for messages."""
    store = cell.project.store
    versions = [store.latest("bold", {BOLD_RUN: key}) for key in cell.project.keys(BOLD_RUN)]
    reasons = [v.excluded for v in versions if v is not None and v.excluded is not None]
    return f" (excluded: {'; '.join(reasons)})" if reasons else ""


def _needs_no_model(settings: Settings) -> bool:
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
    from trend_dagster.science.autoencoder import collapse_measures, embed

    mask = bold.read("vertex_mask")
    n_timepoints = None if trained_model is None else trained_model.facts["n_timepoints"]
    if n_timepoints is not None and bold.facts["n_timepoints"] < n_timepoints:
        raise CohortError(
            f"BOLD run {cell.partition[BOLD_RUN]}",
            expected=f"at least the {n_timepoints} timepoints that the model was trained with",
            found=f"{bold.facts['n_timepoints']}",
            remedy="Take the file out, or train again with `cohort: {lengths: crop}`.",
        )
    model = None if trained_model is None else _load_model(trained_model)
    found = embed(model, signal_of(bold, n_timepoints), source=cell.settings.features.source)
    features = np.zeros((len(mask), found.shape[1]), dtype=np.float32)
    features[mask] = found
    return Result(
        arrays={"features": features, "vertex_mask": mask},
        facts={"source": cell.settings.features.source, **asdict(collapse_measures(found))},
    )


def _load_model(trained_model: Version) -> TransformerAutoencoder:
    """Build the model as it was trained, whatever the settings say today."""
    from trend_dagster.science.autoencoder import model_from_arrays

    config = AutoencoderConfig.model_validate(trained_model.recipe.settings["autoencoder"])
    names = [name for name in trained_model.names() if not name.startswith("history_")]
    weights = {name: trained_model.read(name) for name in names}
    return model_from_arrays(weights, config, trained_model.facts["n_timepoints"])
