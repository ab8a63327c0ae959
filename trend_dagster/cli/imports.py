"""`trend import-...`: take up what was computed elsewhere, for instance by the notebook."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from trend_dagster.cli.app import Profile, ProjectFolder, app, console, say

if TYPE_CHECKING:
    from trend_dagster.orchestration.importing import Reader

File = Annotated[Path, typer.Argument(help="The file; it is copied from.")]


@app.command("import-embeddings")
def import_embeddings(file: File, folder: ProjectFolder = Path(), profile: Profile = None) -> None:
    """Take embeddings (runs, vertices, features) from a .npy in place of a model's.

    The runs must be those of the BOLD files, in the order of their names.
    """
    from trend_dagster.orchestration.importing import read_embeddings

    import_one(file, folder, read_embeddings, profile)


@app.command("import-correlation")
def import_correlation(file: File, folder: ProjectFolder = Path(), profile: Profile = None) -> None:
    """Take an average correlation (vertices, vertices) from a .npy.

    It is what the tutorial saves as TF_emb_average_correlation.npy. No BOLD is needed then.
    """
    from trend_dagster.orchestration.importing import read_correlation

    import_one(file, folder, read_correlation, profile)


@app.command("import-checkpoint")
def import_checkpoint(
    file: File,
    folder: ProjectFolder = Path(),
    profile: Profile = None,
    n_heads: Annotated[int, typer.Option(help="Attention heads; the weights do not tell.")] = 8,
    confidence: Annotated[
        Literal["tutorial", "key"],
        typer.Option(help="'key' lets the confidence weights act, which are untrained."),
    ] = "tutorial",
) -> None:
    """Take a model that the tutorial trained (its .pth) in place of training one here.

    Embeddings are made with it from then on. No code in the file is run.
    """
    from trend_dagster.orchestration.importing import read_checkpoint
    from trend_dagster.project.folder import Project

    read = partial(read_checkpoint, n_heads=n_heads, confidence=confidence)
    import_one(file, folder, read, profile)
    act = "they act as random weights" if confidence == "key" else "they are left out"
    note = f"Its confidence weights are untrained (the published code cancels them): {act}."
    console.print(f"[yellow]{note}[/]", soft_wrap=True)
    if Project.open(folder, profile).settings.features.source == "bold":
        console.print(
            "[yellow]These settings take no features from a model. For those of the tutorial write "
            "into trend.yaml: features: {source: input_projection}, and, if it was trained on BOLD "
            "as it comes, bold: {standardize: none, global_signal: keep}.[/]",
            soft_wrap=True,
        )


def import_one(file: Path, folder: Path, read: Reader, profile: str | None = None) -> None:
    """Import a file into a project, and say what is current now.

    Parameters
    ----------
    file : Path
        The file.
    folder : Path
        Folder of the project.
    read : Reader
        What checks and opens it.
    profile : str, optional
        In place of the profile that `trend.yaml` names.
    """
    from trend_dagster.orchestration.importing import import_file
    from trend_dagster.orchestration.instance import only_run_here, open_instance
    from trend_dagster.project.folder import Project

    project = Project.open(folder, profile)
    with only_run_here(project.folder), open_instance(project.folder) as instance:
        for version in import_file(project, instance, file, read):
            name = version.name
            say(f"{name} is now what {file.name} holds")
        say(f"It stays so until it is made anew: trend run --select {version.asset} --force")
