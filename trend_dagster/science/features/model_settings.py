"""Settings of the model and of its training.

They stand apart from what they set because torch takes seconds to import, and code that only
reads settings (the command line, the web page, a sensor) does without it.
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from trend_dagster.errors import SettingsError
from trend_dagster.science.identity import NO_IDENTITY, UNLESS_DEFAULT, Section

FeatureSource = Literal["input_projection", "encoder", "bold"]


class FeaturesConfig(Section):
    """What represents a vertex."""

    source: FeatureSource = "bold"
    """'bold': the signal itself, no model; nothing trained so far finds more. 'input_projection':
    what the tutorial exports, the model's first linear layer. 'encoder': the latent embedding of
    the paper.
    """


class AutoencoderConfig(Section):
    """Shape of the autoencoder; where nothing is said, the default is the tutorial's value."""

    d_model: int = Field(512, ge=1)
    """Width of a vertex's embedding; a multiple of n_heads."""
    n_heads: int = Field(8, ge=1)
    """Attention heads that d_model is divided among."""
    n_encoder_layers: int = Field(6, ge=1)
    """Times the encoder layer is applied."""
    n_decoder_layers: int = Field(6, ge=1)
    """Times the decoder layer is applied."""
    dim_feedforward: int = Field(1600, ge=1)
    """Hidden width of the network applied to each vertex alone."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """Share of activations set to zero in a training step."""
    attention_dropout: float = Field(0.0, ge=0, lt=1)
    """Share of attention weights set to zero in a training step. The tutorial uses 0.1; on a CPU
    that costs memory that grows with the square of the number of vertices.
    """
    confidence: Literal["key", "tutorial"] = "key"
    """'key': every vertex has a learned confidence, and vertices with a low one are attended to
    less, as the paper describes. 'tutorial': the published code, in which the confidence has no
    effect.
    """
    confidence_hidden: int = Field(512, ge=1)
    """Hidden width of the network that gives a vertex's confidence."""
    share_layers: bool = True
    """True: one encoder layer and one decoder layer are applied repeatedly, as in the tutorial.
    False: every layer has weights of its own.
    """
    norm_first: bool = False
    """True: normalise before attention, which keeps deep stacks trainable at higher learning rates.
    False: after it, as in the tutorial.
    """
    remove_mean: bool = False
    """True: the mean over vertices is removed from the embeddings before the encoder, so that what
    all vertices share does not drown what tells them apart. The tutorial keeps it.
    """

    @model_validator(mode="after")
    def _heads_divide_width(self) -> AutoencoderConfig:
        if self.d_model % self.n_heads:
            raise SettingsError(
                "Setting d_model",
                expected=f"a multiple of n_heads ({self.n_heads})",
                found=str(self.d_model),
                remedy=f"Try d_model={math.ceil(self.d_model / self.n_heads) * self.n_heads}.",
            )
        return self


class TrainingConfig(Section):
    """How the autoencoder is trained; where nothing is said, the default is the tutorial's."""

    n_epochs: int = Field(1500, ge=1)
    """Passes over all training runs. A larger number continues a finished training."""
    learning_rate: float = Field(1e-5, gt=0)
    """Step size of Adam."""
    lr_patience: int = Field(10, ge=0)
    """Epochs without a better validation loss before the rate falls tenfold."""
    gradient_clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient; longer ones are scaled down."""
    mse_weight: float = Field(0.5, ge=0, le=1)
    """Weight of the squared error in the loss; the absolute error has the rest."""
    test_size: float = Field(0.25, gt=0, lt=1)
    """Share of runs (or subjects) kept for validation."""
    random_state: int = Field(108, ge=0)
    """Seed of the split, the first weights and every draw."""
    precision: Literal["auto", "32", "bf16"] = "auto"
    """Numbers of the heavy products: '32' is float32, as in the tutorial; 'bf16' is mixed with
    bfloat16; 'auto' takes bfloat16 where the device has it in hardware.
    """
    vertices_per_step: int = Field(6000, ge=0, json_schema_extra=UNLESS_DEFAULT)
    """Vertices drawn at random, anew for every step, where runs have more, so that a step costs the
    same on every mesh; 0 for all, as in the tutorial. Validation takes the same draw of a run in
    every epoch.
    """
    accumulate: int = Field(1, ge=1)
    """Runs whose gradients are averaged before a step."""
    early_stopping_patience: int | None = Field(None, ge=1)
    """Epochs without a better validation loss before training ends; empty for never, as in the
    tutorial.
    """
    max_skipped_steps: int = Field(20, ge=0, json_schema_extra=NO_IDENTITY)
    """Steps with NaN or infinity that are skipped before training stops. The tutorial skips without
    end.
    """
    n_devices: int = Field(1, ge=1)
    """Processes, each with a device and a run of its own per step (one per GPU)."""
    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", json_schema_extra=NO_IDENTITY)
    """Where to train: a GPU if there is one, or as said."""
    compile: bool = False
    """Compile the model first: minutes at the start. On a CPU it gained nothing where it was
    measured (docs/experiments.md); try it on a GPU. Dropout then draws other numbers, so it decides
    results.
    """
    on_corrupt_state: Literal["best", "fresh"] = Field("best", json_schema_extra=NO_IDENTITY)
    """If the state of an interrupted training cannot be read: go on from the best weights, or start
    afresh.
    """
