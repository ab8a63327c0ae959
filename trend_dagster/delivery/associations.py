"""What goes with what in the table of newborns: files, and why an association was left out.

What belongs here: names of settings and columns, and files. What does not: the regression
(``science.individuals.association``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trend_dagster.delivery.figures.newborns import association_figure
from trend_dagster.delivery.figures.png import to_png
from trend_dagster.delivery.individuals import (
    COLUMNS,
    described,
    with_participants,
    without_row,
)
from trend_dagster.project.settings import nearest
from trend_dagster.science.individuals.settings import IndividualsConfig

if TYPE_CHECKING:
    import pandas as pd

ASSOCIATED = ("area_mm2", "homogeneity")
TEXTS = ("subject", "name")
EXPLORATORY = "Exploratory: nothing here was asked before the data was seen."


def association_files(table: pd.DataFrame, config: IndividualsConfig) -> dict[str, bytes]:
    """Write what of the networks goes with columns of the newborns.

    Parameters
    ----------
    table : DataFrame
        From `trend_dagster.delivery.individuals.individuals_table`.
    config : IndividualsConfig
        Columns to associate with, and covariates.

    Returns
    -------
    dict of str to bytes
        ``individuals_associations.csv``, its columns as ``.json`` and a picture; empty where no
        association was asked for or none can be made.
    """
    import pandas as pd

    from trend_dagster.science.individuals import association

    left_out = why_left_out(table, config)
    made = [column for column in config.associate if column not in left_out]
    if not made:
        return {}
    found = pd.concat(
        association.associate(own, ASSOCIATED, column, config.covariates).assign(n_clusters=n)
        for n, own in table.groupby("n_clusters")
        for column in made
    )
    columns = {name: described(text) for name, text in association.COLUMNS.items()}
    columns["n_clusters"] = COLUMNS["n_clusters"]
    said: dict[str, object] = {"Description": EXPLORATORY, "Covariates": list(config.covariates)}
    said |= {"LeftOut": left_out} if left_out else {}
    return {
        "individuals_associations.csv": found.to_csv(index=False).encode(),
        "individuals_associations.json": (json.dumps(said | columns, indent=2) + "\n").encode(),
        "individuals_associations.png": to_png(association_figure(found), 110),
    }


def why_left_out(table: pd.DataFrame, config: IndividualsConfig) -> dict[str, str]:
    """Say which associations cannot be made, and why; arguments as of `association_files`.

    Returns
    -------
    dict of str to str
        By column that was to be associated with.
    """
    from trend_dagster.science.individuals.association import why_not

    found = {}
    for column in config.associate:
        why = _unknown(table, column, config)
        if why is None:
            why = why_not(table, column, config.covariates)
        if why is not None:
            found[column] = why
    return found


def _unknown(table: pd.DataFrame, column: str, config: IndividualsConfig) -> str | None:
    known = [str(name) for name in table if name not in TEXTS]
    asked = {"individuals.associate": (column,), "individuals.covariates": config.covariates}
    for setting, names in asked.items():
        for name in names:
            if name not in table:
                more = "" if config.participants else "; individuals.participants names no table"
                return (
                    f"{setting} names {name}, which is no column of individuals.csv"
                    f"{nearest(name, known)}; it has {', '.join(known)}{more}"
                )
    return None


def association_notes(left_out: dict[str, str]) -> list[str]:
    """Say in words what `why_left_out` found, each reason once."""
    reasons: dict[str, list[str]] = {}
    for column, why in left_out.items():
        reasons.setdefault(why, []).append(column)
    return [f"no association with {', '.join(own)}: {why}" for why, own in reasons.items()]


def foreseen_notes(
    subjects: Sequence[str], participants: Path | None, config: IndividualsConfig
) -> list[str]:
    """Say what the participants' table lacks, and which associations will not be made for it.

    Parameters
    ----------
    subjects : sequence of str
        The newborns.
    participants : Path, optional
        The table whose columns join theirs.
    config : IndividualsConfig
        As of `association_files`.

    Returns
    -------
    list of str
        As `association_notes` words it; then newborns without a row.
    """
    if participants is None and not config.associate:
        return []
    import pandas as pd

    # What is not known yet counts as what is no hindrance: a value that differs for the column
    # itself, the same for all as a covariate, which then needs no newborn more.
    own = pd.DataFrame(dict.fromkeys(COLUMNS, 0.0) | {"name": ""}, index=range(len(subjects)))
    table = with_participants(own.assign(subject=subjects), participants)
    found: dict[str, str] = {}
    for column in config.associate:
        numbers = {column: range(len(table))} if column in {*COLUMNS} - {*TEXTS} else {}
        one = config.model_copy(update={"associate": (column,)})
        found |= why_left_out(table.assign(**numbers), one)
    return association_notes(found) + without_row(subjects, participants)
