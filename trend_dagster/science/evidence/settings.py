"""Settings of the evidence: how stable the cells of the sweep are, beside noise."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from trend_dagster.science.identity import Section


class ValidationConfig(Section):
    """How stable the cells of the sweep are, beside noise that went the same way."""

    n_nulls: int = Field(3, ge=0)
    """Surrogate cohorts: noise as smooth as the data in space and time, without networks. Their
    stability is what the method makes by itself. 0: stability is not computed at all, for without
    its null it says nothing. With fewer than 3 it is not known how far noise varies: there is no z,
    and the conservative rule chooses.
    """
    random_state: int = Field(108, ge=0)
    """Seed of the halves of the cohort and of the surrogate cohorts."""
    null_features: Literal["same", "bold"] = "same"
    """'same': surrogate cohorts get the features that the data has, from the trained model. 'bold':
    the surrogate signal itself, where embedding every run once more for each surrogate cohort would
    take too long (source 'encoder' on fine meshes).
    """
