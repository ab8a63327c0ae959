"""Tables of persons: series as .tsv, one table of all newborns, and what goes with what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trend_dagster.errors import InputError
from trend_dagster.storage.stores import Version

if TYPE_CHECKING:
    import pandas as pd

    from trend_dagster.science.individuals.series import NetworkSeries

FOLDER = "individuals"
MAPS = ("cohort", "own")
MEASURES = ("area_mm2", "homogeneity", "silhouette", "confidence")
ASSOCIATED = ("area_mm2", "homogeneity")


def series_files(
    subject: str,
    runs: Sequence[str],
    n_clusters: Sequence[int],
    made: Sequence[Sequence[Sequence[NetworkSeries]]],
) -> dict[str, bytes]:
    """Write the series of a newborn: a table for each run, map and parcellation.

    Parameters
    ----------
    subject : str
        Its key.
    runs : sequence of str
        Names of the runs.
    n_clusters : sequence of int
        Of each parcellation.
    made : nested sequence
        Series by map, parcellation and run.

    Returns
    -------
    dict of str to bytes
        By path below the project's outputs; a row for each volume, a column for each network,
        ``n/a`` for a network without signal.
    """
    import pandas as pd

    files = {}
    for name, parcellations in zip(MAPS, made, strict=True):
        for n, series in zip(n_clusters, parcellations, strict=True):
            for run, found in zip(runs, series, strict=True):
                for what, values in (("mean", found.mean), ("eigenvariate", found.eigenvariate)):
                    columns = [f"network_{k + 1:02d}" for k in range(n)]
                    table = pd.DataFrame(values[:, :n], columns=columns)
                    text = table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g")
                    file = f"{run}_seg-{name}{n}_stat-{what}_timeseries.tsv"
                    files[f"{FOLDER}/{subject}/{file}"] = text.encode()
    return files


def individuals_table(newborns: Sequence[Version]) -> pd.DataFrame:
    """Put what is known of all newborns into one table.

    Parameters
    ----------
    newborns : sequence of Version
        Of ``individual_networks``.

    Returns
    -------
    DataFrame
        A row for each newborn, parcellation and network (from 1).
    """
    import pandas as pd

    rows = []
    for newborn in newborns:
        network = {name: newborn.read(f"network_{name}") for name in MEASURES}
        person = {
            name: newborn.read(f"departure_{name}")
            for name in ("share", "null", "null_sd", "excess", "z", "different", "excess_vertices")
        } | {"agreement_between_runs": newborn.read("agreement")}
        minutes = newborn.facts.get("minutes")
        for i, n in enumerate(newborn.read("n_clusters").tolist()):
            of_person = {name: values[i] for name, values in person.items()}
            for k in np.flatnonzero(np.isfinite(network["area_mm2"][i])):
                rows.append(
                    {"subject": newborn.partition["subject"], "n_clusters": n, "network": k + 1}
                    | {name: values[i, k] for name, values in network.items()}
                    | {"n_runs": len(newborn.facts["runs"])}
                    | {"minutes": np.nan if minutes is None else minutes}
                    | of_person
                    | {"different": bool(of_person["different"])}
                )
    return pd.DataFrame(rows)


def read_participants(path: Path) -> pd.DataFrame:
    """Read a table of newborns as BIDS has it.

    Parameters
    ----------
    path : Path
        The file (.tsv), with a column ``participant_id``; ``n/a`` is no value.

    Returns
    -------
    DataFrame
        With ``subject`` in its place.

    Raises
    ------
    InputError
        If it cannot be read, or newborns are missing or named twice.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, sep="\t", na_values=["n/a"], dtype={"participant_id": str})
    except (OSError, ValueError) as error:
        raise InputError(
            f"participants table {path}",
            expected="a tab-separated table",
            found=str(error),
            remedy="Correct individuals.participants, or the file.",
        ) from error
    if "participant_id" not in table or table["participant_id"].duplicated().any():
        raise InputError(
            f"participants table {path}",
            expected="a column participant_id that names each newborn once",
            found=f"columns {', '.join(map(str, table.columns))}"
            if "participant_id" not in table
            else "newborns named twice",
            remedy="Correct the file.",
        )
    return table.rename(columns={"participant_id": "subject"})


def association_files(
    table: pd.DataFrame, columns: Sequence[str], covariates: Sequence[str]
) -> dict[str, bytes]:
    """Regress networks on columns of the table.

    Parameters
    ----------
    table : DataFrame
        From `individuals_table`, with the columns of participants.
    columns : sequence of str
        What areas and homogeneities are regressed on; none gives no file.
    covariates : sequence of str
        What they are corrected for.

    Returns
    -------
    dict of str to bytes
        ``individuals_associations.csv``.
    """
    if not columns:
        return {}
    import pandas as pd

    from trend_dagster.science.individuals.association import associate

    found = [
        associate(own, ASSOCIATED, column, covariates).assign(n_clusters=n)
        for n, own in table.groupby("n_clusters")
        for column in columns
    ]
    text = "# exploratory: nothing here was asked before the data was seen\n"
    text += pd.concat(found).to_csv(index=False)
    return {"individuals_associations.csv": text.encode()}
