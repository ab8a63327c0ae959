"""`trend validate`: claims as commands, each beside its competitors and its null."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from trend_dagster.cli.app import Json, app, console, emit, progress_bar, quiet, say
from trend_dagster.cli.runs import stopped_with_a_word

if TYPE_CHECKING:
    import pandas as pd

    from trend_dagster.validation.figures import FigureFolder
    from trend_dagster.validation.simulated import OnProgress

    Reproduce = Callable[..., pd.DataFrame]


class Section(StrEnum):
    """What is validated."""

    simulated = "simulated"
    ablations = "ablations"
    reproducibility = "reproducibility"


@app.command()
def validate(
    folder: Annotated[
        Path, typer.Argument(help="Folder in which finished figures and pictures are kept.")
    ] = Path("validation"),
    section: Annotated[
        list[Section] | None, typer.Option(help="Only this section; may be given several times.")
    ] = None,
    do_quick: Annotated[
        bool, typer.Option("--quick", help="One difficulty, fewer approaches: minutes, not hours.")
    ] = False,
    snr: Annotated[
        list[float] | None, typer.Option(help="Difficulty; may be given several times.")
    ] = None,
    seed: Annotated[
        list[int] | None, typer.Option(help="Seed of a cohort; may be given several times.")
    ] = None,
    per_hemisphere: Annotated[
        list[int] | None,
        typer.Option(
            "--networks", min=2, help="Networks planted in each hemisphere (7; 7 and 19 in full)."
        ),
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Split halves of one real person (fetched, 61 MB).")
    ] = False,
    atlas: Annotated[
        list[Path] | None,
        typer.Option(help="Compare chosen parcellations with this file of labels; repeatable."),
    ] = None,
    project: Annotated[
        Path | None,
        typer.Option(
            help="Project whose runs --real splits (real-2562 by default), or whose chosen "
            "parcellations --atlas compares (the current folder by default)."
        ),
    ] = None,
    n_nulls: Annotated[int, typer.Option("--nulls", min=1, help="Recordings of noise.")] = 3,
    as_json: Json = False,
) -> None:
    """Measure what the method finds: planted networks, competitors, ablations, nulls.

    Figures are kept as they are finished: stop it whenever you like, the same command goes on.
    """
    quiet(as_json)
    from trend_dagster.validation import reproducibility
    from trend_dagster.validation.figures import FigureFolder

    figures = FigureFolder(folder / "figures")
    found: dict[str, Any] = {}
    with stopped_with_a_word(), progress_bar() as on_progress:
        reproduce: Reproduce = partial(
            reproducibility.reproduce, figures, n_nulls=n_nulls, on_progress=on_progress
        )
        if atlas:
            found["atlases"] = _atlases(project or Path(), atlas)
        if real:
            found["real"], found["own"] = _real(reproduce, folder, project or Path("real-2562"))
        wanted = section or ([] if atlas or real else list(Section))
        if Section.simulated in wanted:
            found |= _simulated(figures, folder, do_quick, per_hemisphere, snr, seed, on_progress)
        if Section.ablations in wanted:
            found["ablations"] = _ablations(figures, do_quick, seed, on_progress)
        if Section.reproducibility in wanted:
            found["reproducibility"] = _reproducibility(reproduce, do_quick, seed)
    if as_json:
        emit(_plain(found))


# --- Sections ----------------------------------------------------------------------------------


def _simulated(
    figures: FigureFolder,
    folder: Path,
    do_quick: bool,
    per_hemisphere: list[int] | None,
    snr: list[float] | None,
    seed: list[int] | None,
    on_progress: OnProgress,
) -> dict[str, Any]:
    import pandas as pd

    from trend_dagster.validation import simulated
    from trend_dagster.validation.approaches import all_approaches

    approaches, seeds = list(all_approaches(do_quick)), seed or simulated.SEEDS
    compare = partial(simulated.compare, figures, "simulated", approaches)
    tables, headlines = [], []
    for number in per_hemisphere or ([7] if do_quick else [7, 19]):
        difficulties = (0.0, *(snr or simulated.difficulties(number, do_quick)))
        rows = compare(difficulties, seeds, on_progress, number)
        tables.append(simulated.summary(rows).assign(per_hemisphere=number))
        headlines.append(simulated.headline(rows))
        _show_simulated(tables[-1], headlines[-1], rows["seed"].nunique())
    picture = folder / "planted_networks.png"
    simulated.draw_cohort(picture)
    say(f"what is planted: {picture}")
    return {"simulated": pd.concat(tables, ignore_index=True), "headlines": headlines}


def _show_simulated(table: pd.DataFrame, best: dict[str, Any] | None, n_seeds: int) -> None:
    from trend_dagster.validation import simulated

    # As many as a terminal is wide; --json has all of them.
    columns = {
        "kind": "whose",
        "approach": "approach",
        "dice": "Dice",
        "dice_sd": "sd",
        "null_dice": "Dice,\nSNR 0",
        "iou": "IoU",
        "ari": "ARI",
        "dcbc": "DCBC",
        "null_dcbc": "at\nSNR 0",
        "pieces": "pieces",
    }
    n_networks = 2 * table["per_hemisphere"].iloc[0]
    for value, those in table.groupby("snr"):
        title = f"{n_networks} planted networks, SNR {value}, {n_seeds} cohorts"
        show_table(title, those, columns)
    if best is None:
        say(
            "No headline: at no difficulty has the best competitor on raw BOLD a mean Dice of "
            f"{simulated.HEADLINE[0]} to {simulated.HEADLINE[1]}."
        )
    else:
        say(
            f"SNR {best['difficulty']}: ours {best['dice']:.3f} (IoU {best['iou']:.3f}, at SNR 0 "
            f"{best['null_dice']:.3f}); best competitor on raw BOLD {best['best_competitor']} "
            f"{best['best_competitor_dice']:.3f}, given our cleaning "
            f"{best['best_competitor_cleaned']} {best['best_competitor_cleaned_dice']:.3f}."
        )


def _ablations(
    figures: FigureFolder, do_quick: bool, seed: list[int] | None, on_progress: OnProgress
) -> pd.DataFrame:
    from trend_dagster.validation import ablations, simulated

    seeds = seed or (simulated.SEEDS[:2] if do_quick else simulated.SEEDS)
    table = ablations.ablate(figures, seeds, do_quick, on_progress)
    columns = {
        "part": "part",
        "variant": "variant",
        "dice": "Dice",
        "dice_sd": "sd",
        "iou": "IoU",
        "worth": "what the profile\nhas more",
    }
    show_table(f"Ablations, SNR {ablations.SNR}, {len(seeds)} cohorts", table, columns)
    return table


def _reproducibility(reproduce: Reproduce, do_quick: bool, seed: list[int] | None) -> pd.DataFrame:
    import pandas as pd

    from trend_dagster.validation import ablations, approaches, reproducibility, simulated

    default = approaches.profile(approaches.PROFILE)
    takes_part = [
        approaches.default_approach(),
        approaches.tutorial_approach(20),
        approaches.competitor("raw", "KMeans", 14.0, approaches.profile("tutorial")),
        approaches.competitor("cleaned", "Spectral", approaches.DEFAULT_WIDTH_MM, default),
    ]
    whats = ("halves", "seeds") if do_quick else reproducibility.WHATS
    seeds = seed or (simulated.SEEDS[:1] if do_quick else simulated.SEEDS)
    tables = []
    for number in seeds:
        here = simulated.cohort(ablations.SNR, number)
        data, n_networks = (here.identity, here.recording), here.n_networks
        table = reproduce("reproducibility", *data, takes_part, whats, n_networks=n_networks)
        tables.append(table.assign(seed=number))
        show_table(f"Reproducibility, cohort {number}, SNR {ablations.SNR}", table, REPEATED)
    return pd.concat(tables, ignore_index=True)


REPEATED = {
    "kind": "whose",
    "approach": "approach",
    "what": "repeated",
    "split": "split",
    "ari": "ARI",
    "null_ari": "on\nnoise",
    "excess": "excess",
    "z": "z",
    "dice": "Dice",
    "null_dice": "on\nnoise",
}


OWN = {
    "map from": "map from",
    "agreement": "agreement",
    "null_agreement": "without\ndifference",
    "own": "both depart\nalike",
    "null_own": "without\ndifference",
    "excess": "excess",
    "z": "z",
}


def _real(
    reproduce: Reproduce, folder: Path, place: Path
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    from trend_dagster.examples import make_real
    from trend_dagster.project.folder import Project
    from trend_dagster.validation import own_networks, real

    if not (place / "trend.yaml").exists():
        make_real(place, 2562, console.print)
    project = Project.open(place)
    data, recording = real.recording_of(project)
    takes_part = real.approaches_for(project)
    what, n_networks = ("halves",), real.N_NETWORKS
    table = reproduce("real", data, recording, takes_part, what, n_networks=n_networks)
    show_table(f"{place}: {len(recording.runs)} runs, split in halves", table, REPEATED)
    picture = folder / "real_halves.png"
    real.draw_halves(takes_part[0], recording, picture)
    say(f"both halves: {picture}")
    bold, individuals = project.settings.bold, project.settings.individuals
    if own_networks.can_be_compared(recording, individuals):
        own = own_networks.own_networks(recording, takes_part[0], bold, individuals, n_networks)
        show_table("Own networks in two runs, given the map of the others", own, OWN)
        return table, own
    return table, None


def _atlases(place: Path, files: list[Path]) -> pd.DataFrame:
    import pandas as pd

    from trend_dagster.validation import atlases

    tables = []
    for n_clusters, atlas, table in atlases.agreements(place, files):
        title = f"{n_clusters} clusters beside {atlas} (null: turned on the sphere)"
        columns = {str(name): str(name) for name in table}
        show_table(title, table, columns)
        tables.append(table.assign(n_clusters=n_clusters, atlas=atlas))
    return pd.concat(tables, ignore_index=True)


# --- Printing ----------------------------------------------------------------------------------


def show_table(title: str, table: pd.DataFrame, columns: dict[str, str]) -> None:
    """Print some columns of a table.

    Parameters
    ----------
    title : str
        Above it.
    table : DataFrame
        The rows.
    columns : dict of str to str
        Column -> its heading; columns that the table lacks are left out.
    """
    here = {name: head for name, head in columns.items() if name in table}
    shown = Table(title=escape(title), box=box.SIMPLE, pad_edge=False, title_justify="left")
    for name, head in here.items():
        is_number = isinstance(table[name].iloc[0], int | float)
        shown.add_column(head, justify="right" if is_number else "left", no_wrap=True)
    for row in table.to_dict("records"):
        shown.add_row(*(_cell(row[name]) for name in here))
    console.print(shown)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return escape(str(value))


def _plain(value: Any) -> Any:
    """Tables as lists of rows, and NaN as null: what JSON has."""
    if hasattr(value, "to_dict"):
        return _plain(value.to_dict("records"))
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value
