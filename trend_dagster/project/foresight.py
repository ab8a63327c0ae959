"""What will keep runs from being used, or stop a project, as names and headers tell it at once.

What belongs here: asking before hours of work what the work itself will ask. What does not: checks
of its own; each is that of the work, in its words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from trend_dagster.errors import InputError, SettingsError, TrendError
from trend_dagster.project.atlases import check_planted, read_atlases
from trend_dagster.project.folder import Project
from trend_dagster.project.mesh import (
    check_density,
    check_fine_density,
    check_label_file,
    count_mesh,
    mesh_names,
)
from trend_dagster.project.recordings import (
    check_time,
    recording_files,
    repetition_time,
    why_tables_lack,
)
from trend_dagster.project.target import stored_target
from trend_dagster.storage.confounds import count_rows
from trend_dagster.storage.label_files import (
    LabelFile,
    label_file_at,
    read_geodesic_labels,
    read_networks,
)
from trend_dagster.storage.runs import BoldRun, Header, read_header
from trend_dagster.storage.space import Side


def foreseen(project: Project) -> Iterator[tuple[str, str]]:
    """Say what will keep runs from being used, as names, headers and tables tell it at once.

    Yields
    ------
    tuple of two str
        Key of a run, and why it will be left out; without a key an error that stops the project.
    """
    config = project.settings.bold
    asked, for_all = config.confounds or config.censor, False
    for key, run in _taken(project):
        try:
            why = None if for_all else why_tables_lack(project, run)
        except SettingsError as error:
            yield "", str(error)
            why, for_all = None, True
        if why is not None:
            yield key, why
        if (header := _header(project, run)) is None:
            continue
        yield from (("", error) for error in _said(partial(_has_time, project, run, header)))
        if (n := header.n_volumes) is None:
            continue
        if n < config.shortest:
            yield key, f"filters need {config.shortest} volumes, and there are {n}"
        table = recording_files(project, run).get("confounds") if asked else None
        if table is not None and (rows := count_rows(table)) not in (None, n):
            yield key, f"{table.name} has {rows} rows, and there are {n} volumes"


def misfits(project: Project) -> list[str]:
    """Say what lies on another mesh than the BOLD: the surface, label files, truth and atlases.

    The work comes upon them one after another, upon the atlases last.
    """
    try:
        sizes = count_mesh(project)
    except InputError as error:
        return [str(error)]
    found: list[str] = []
    n_rows = None
    for _, run in _taken(project):
        if (header := _header(project, run)) is not None:
            n_rows = n_rows or header.n_rows
            found += [] if sizes is None else _said(partial(_lies_on, project, sizes, run, header))
    if found:  # nor is it known then on which mesh the others should lie
        return list(dict.fromkeys(found))
    n_rows = n_rows or (sum(sizes.values()) if sizes else None)
    checks = [] if n_rows is None else _of_labels(project, n_rows)
    return [line for check in checks for line in _said(check)]


def _taken(project: Project) -> Iterator[tuple[str, BoldRun]]:
    for key, run in project.bold_runs.items():
        if project.why_left_out(key) is None:
            yield key, run


def _header(project: Project, run: BoldRun) -> Header | None:
    if run.key not in project.found_headers:
        project.found_headers[run.key] = read_header(run)
    return project.found_headers[run.key]


def _said(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except TrendError as error:
        return [str(error)]
    return []


def _has_time(project: Project, run: BoldRun, header: Header) -> None:
    config = project.settings.bold
    if header.told_by != "unknown" or config.repetition_time is not None:
        check_time(config, repetition_time(project, run, header)[0])


def _lies_on(project: Project, sizes: Mapping[Side, int], run: BoldRun, header: Header) -> None:
    names, counts = mesh_names(project), list(sizes.values())
    if project.settings.inputs.resample is None:
        told = list(header.n_vertices.values())
        check_density(counts, names, run.key, run.source, told, header.n_rows)
    elif header.n_rows is not None:
        check_fine_density(names, run.key, header.n_rows, sum(counts))


def _of_labels(project: Project, n_rows: int) -> Iterator[Callable[[], object]]:
    """Checks of all that has a label for each vertex."""

    def truth_fits(name: str) -> None:
        file = label_file_at(project.folder / name)
        check_planted(file, read_networks(file), n_rows)

    def labels_fit(file: LabelFile) -> None:
        check_label_file(file, read_geodesic_labels(file), n_rows)

    for file in project.label_files.values():
        yield partial(labels_fit, file)
    if truth := project.settings.inputs.truth:
        yield partial(truth_fits, truth)
    yield lambda: read_atlases(project, n_rows, stored_target(project, n_rows))
