"""Settings of individual networks."""

from __future__ import annotations

from pydantic import Field, field_validator

from trend_dagster.science.identity import Section


class IndividualsConfig(Section):
    """How each newborn's own networks are found, from the cohort's."""

    smoothing_fwhm_mm: float = Field(12.0, gt=0)
    """Width (full at half maximum) over which a vertex' time series is averaged along the cortex
    before it is compared with those of networks.
    """
    exclusion_mm: float = Field(10.0, ge=0)
    """Vertices so near do not count in a network's time series when it is compared with a vertex:
    they share its noise. Where the noise of the data is smoother than that, the distance grows with
    it.
    """
    prior_fwhm_mm: float = Field(24.0, gt=0)
    """How far borders are expected to move between newborns, before the newborns themselves have
    told: the cohort's map is smoothed so much.
    """
    prior_weight: float = Field(0.8, ge=0, le=1)
    """Weight of the logarithm of the prior. Below 1, because prior and support tell the same to
    some degree.
    """
    support: float = Field(8.5, ge=0)
    """Log odds (nats) that a vertex gains for a network when all the cortex around it belongs to
    that network.
    """
    support_mm: float = Field(14.0, gt=0)
    """Distance of the cortex 'around' a vertex: a ring, for what is nearer shares the vertex'
    smoothed noise and tells nothing new.
    """
    rounds: int = Field(3, ge=1)
    """Rounds over the cohort; after each, the prior is the newborns' mean posterior."""
    iterations: int = Field(6, ge=1)
    """Turns between a newborn's network series and its map in the first round; two in each round
    after it.
    """
    floor: float = Field(1e-3, gt=0, lt=1)
    """Least prior of a network anywhere in its hemisphere: nothing is impossible."""
    n_nulls: int = Field(8, ge=0)
    """Times each newborn is made without any difference from the cohort, to tell whether it
    differs. Fewer find large differences only. 0: no newborn's own networks are looked for at all,
    for without the null nobody knows what a difference means.
    """
    random_state: int = Field(108, ge=0)
    """Seed of the nulls."""
    pages: bool = False
    """Write a page for each newborn, outputs/individuals/SUBJECT.html, which the report links to.
    """
    truth: str | None = None
    """What was planted for each newborn of a simulated cohort: a file as of inputs.truth, with
    {subject} in the place of the newborn. Shown on its page and never used.
    """
    participants: str | None = None
    """Table of the newborns (BIDS participants.tsv), relative to the project folder; its columns
    join the table individuals.csv.
    """
    associate: tuple[str, ...] = ()
    """Numeric columns of individuals.csv, such as age_at_scan: does the area or homogeneity of a
    network go with them? Exploratory; what cannot be made is left out, with the reason.
    """
    covariates: tuple[str, ...] = ("minutes",)
    """Columns that such an association is corrected for, such as minutes and mean_fd; those that
    are the same for all newborns explain nothing and are left out.
    """

    @field_validator("n_nulls")
    @classmethod
    def _enough(cls, value: int) -> int:
        if value in (1, 2):
            raise ValueError("0, or at least 3: with fewer it is not known how far they vary")
        return value
