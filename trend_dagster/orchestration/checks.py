"""Asset checks: what must be true of stored outputs, said so that one knows what to do.

What belongs here: a question asked of what is stored, over all partitions. What does not: errors
that stop a computation (they are raised where they happen).

See https://docs.dagster.io/guides/test/asset-checks.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import numpy as np
from dagster import AssetCheckExecutionContext

from trend_dagster.errors import StoreError
from trend_dagster.orchestration.assets import ASSETS
from trend_dagster.orchestration.lineage import Lineage, State
from trend_dagster.orchestration.partitions import asset_key
from trend_dagster.orchestration.production import LEFT_OUT, StoredAsset, removed
from trend_dagster.project.folder import BOLD_RUN, LABEL_FILE, N_COMPONENTS, Project
from trend_dagster.project.recordings import copies
from trend_dagster.science.plausibility import doubts
from trend_dagster.storage.stores import Version, describe

MAX_MEAN_CORRELATION = 0.95
"""Above this mean correlation the vertices' embeddings are all but one direction."""

MIN_EFFECTIVE_RANK = 2.0

MAX_LISTED = 20

Find = Callable[[Project, Version], Iterator[str]]
"""Yields what is wrong with a stored version, in words."""


def _finite(project: Project, version: Version) -> Iterator[str]:
    """No value is NaN or infinite."""
    for name in version.names():
        array = version.array(name)
        if array.dtype.kind == "f":
            bad = sum(int((~np.isfinite(rows)).sum()) for rows in _pieces(array))
            if bad:
                yield f"{name} has {bad} values that are not finite"


def _pieces(array: Any) -> Iterator[Any]:
    """Read an array in slabs of whole chunks, so that a large one never is in memory whole."""
    step = array.chunks[0]
    for start in range(0, array.shape[0], step):
        yield array[start : start + step]


def _finite_weights(project: Project, version: Version) -> Iterator[str]:
    from safetensors.numpy import load_file

    from trend_dagster.storage.weights import WEIGHTS

    for name, weight in load_file(version.file(WEIGHTS)).items():
        if bad := int((~np.isfinite(weight)).sum()):
            yield f"weight {name} has {bad} values that are not finite"


def _symmetric(project: Project, version: Version) -> Iterator[str]:
    """The correlation of two vertices is the same either way."""
    array = version.array("correlation")
    step = array.chunks[0]
    worst = 0.0
    starts = range(0, array.shape[0], step)
    for a, b in itertools.combinations_with_replacement(starts, 2):
        tile, mirrored = array[a : a + step, b : b + step], array[b : b + step, a : a + step]
        worst = max(worst, float(np.abs(np.asarray(tile) - np.asarray(mirrored).T).max(initial=0)))
    if worst > 1e-5:
        yield f"differs from its transpose by up to {worst:.2g}"


def _unit_diagonal(project: Project, version: Version) -> Iterator[str]:
    """Every vertex with signal correlates perfectly with itself."""
    diagonal = np.concatenate(
        [
            np.asarray(version.array("correlation")[i : i + 4096, i : i + 4096]).diagonal()
            for i in range(0, version.array("correlation").shape[0], 4096)
        ]
    )
    worst = float(np.abs(diagonal[version.read("vertex_mask")] - 1).max(initial=0))
    if worst > 1e-4:
        yield f"correlation of a vertex with itself is off 1 by up to {worst:.2g}"


def _right_shape(project: Project, version: Version) -> Iterator[str]:
    """There are as many vertices as in the BOLD runs."""
    expected = _n_vertices(project)
    for name in version.names():
        array = version.array(name)
        dims = array.metadata.dimension_names or ()  # type: ignore[union-attr]
        for dim, size in zip(dims, array.shape, strict=True):
            if dim == "vertex" and expected is not None and size != expected:
                yield f"{name} has {size} vertices, the BOLD runs have {expected}"


def _n_vertices(project: Project) -> int | None:
    run = next(project.current("bold", BOLD_RUN), None)
    return None if run is None else int(run.facts["n_vertices"])


def _not_excluded(project: Project, version: Version) -> Iterator[str]:
    """Every run can be used, but for those that the settings leave out."""
    if version.excluded and LEFT_OUT not in version.recipe.settings:
        yield f"is excluded: {version.excluded}. Mend or remove the file"


def _plausible(project: Project, version: Version) -> Iterator[str]:
    """Every recorded quantity is in its plausible range, and nothing odd was noticed."""
    yield from (f"is doubtful: {doubt}" for doubt in doubts(version.asset, version.facts))


def _not_collapsed(project: Project, version: Version) -> Iterator[str]:
    """The embeddings tell vertices apart: they are not all but one direction."""
    correlation, rank = version.facts["mean_correlation"], version.facts["effective_rank"]
    if correlation > MAX_MEAN_CORRELATION or rank < MIN_EFFECTIVE_RANK:
        yield (
            f"has collapsed: mean correlation between vertices {correlation:.3f}, effective rank "
            f"{rank:.1f}. Its correlations mean nothing; train longer or use another feature source"
        )


def _non_negative(project: Project, version: Version) -> Iterator[str]:
    """No entry is below 0, which NMF could not take."""
    lowest = min((float(piece.min()) for piece in _pieces(version.array("data"))), default=0.0)
    if lowest < 0:
        yield f"has entries down to {lowest:.3g}; NMF needs none below 0"


def _every_vertex_once(project: Project, version: Version) -> Iterator[str]:
    """The blocks hold every vertex with signal exactly once."""
    kept = version.read("permutation")
    correlation = project.store.latest("average_correlation")
    if correlation is not None:
        mask = correlation.read("vertex_mask")
        if not np.array_equal(np.sort(kept), np.flatnonzero(mask)):
            yield "its blocks do not hold every vertex with signal exactly once"
    if int(version.read("block_sizes").sum()) != len(kept):
        yield "block sizes do not add up to the number of vertices"


def _every_vertex_labelled(project: Project, version: Version) -> Iterator[str]:
    """Every vertex with signal has a label, and no other."""
    labels = version.read("labels")
    correlation = project.store.latest("average_correlation")
    if correlation is None:
        return
    mask = correlation.read("vertex_mask")
    if labels.shape[-1] != len(mask):
        yield f"labels {labels.shape[-1]} vertices, the correlation has {len(mask)}"
    elif (labels[..., mask] < 0).any():
        yield f"{int((labels[..., mask] < 0).any(axis=-1).sum())} labellings miss vertices"
    elif (labels[..., ~mask] != -1).any():
        yield "labels vertices without signal"


def _alive(project: Project, version: Version) -> Iterator[str]:
    """The penalty has left loadings in W, and enough distinct rows to cluster."""
    limit = project.settings.selection.max_zero_row_share
    shares = version.read("zero_row_share")
    share, worst = float(shares.max()), int(shares.argmax())
    if share > limit:
        yield f"leaves {share:.0%} of the vertices without loadings: " + _why_without(
            project, version, n_dead=int(version.read("dead_components").flat[worst])
        )
    rows, clusters = version.read("distinct_rows").min(), version.read("n_clusters").max()
    if rows < clusters:
        yield f"has {rows} distinct rows for {clusters} clusters"


def _why_without(project: Project, version: Version, n_dead: int) -> str:
    """Tell a penalty that is too strong from too few components, and what mends it."""
    label_file, k = (version.partition[name] for name in (LABEL_FILE, N_COMPONENTS))
    matrix = project.store.latest("thresholded_matrix", {LABEL_FILE: label_file})
    n_labels = 0 if matrix is None else len(matrix.read("block_sizes"))
    if n_dead == 0 and int(k) <= n_labels:
        return (
            f"with a penalty each component ends in one label, and {k} components do not cover "
            f"{n_labels} labels, whatever alpha_W. Raise sweep.n_components, take fewer labels, or "
            "set sweep.alpha_W: [0]"
        )
    return "the penalty is too strong for this matrix. Lower sweep.alpha_W"


def _complete(project: Project, version: Version) -> Iterator[str]:
    """Every cell of the grid has its figures."""
    if failed := version.facts["n_failed"]:
        yield f"lacks figures for {failed} of {version.facts['n_cells']} rows; see column status"


def _beyond_noise(project: Project, version: Version) -> Iterator[str]:
    """The chosen cells come back in another half of the cohort better than noise does."""
    for choice in version.facts["chosen"]:
        if choice.get("stability") is not None and choice.get("stability_null") is None:
            yield (
                f"has no null for {choice['n_clusters']} clusters: halves agree by "
                f"{choice['stability']:.3f}, and in noise as smooth nothing was found. Whether "
                "that is chance is not known"
            )
        if choice.get("stability_margin") is not None and not choice["beyond_noise"]:
            yield (
                f"shows nothing beyond noise for {choice['n_clusters']} clusters: halves agree by "
                f"{choice['stability']:.3f}, noise as smooth by {choice['stability_null']:.3f}. "
                "Do not read it as networks; more or cleaner data may show some"
            )


QUESTIONS: dict[str, dict[str, Find]] = {
    "bold": {
        "usable": _not_excluded,
        "finite": _finite,
        "plausible": _plausible,
    },
    "cortex": {"plausible": _plausible},
    "trained_model": {"finite": _finite_weights},
    "geodesic_labels": {"right_shape": _right_shape},
    "embeddings": {"right_shape": _right_shape, "finite": _finite, "not_collapsed": _not_collapsed},
    "average_correlation": {
        "right_shape": _right_shape,
        "finite": _finite,
        "symmetric": _symmetric,
        "unit_diagonal": _unit_diagonal,
    },
    "thresholded_matrix": {
        "finite": _finite,
        "non_negative": _non_negative,
        "every_vertex_once": _every_vertex_once,
    },
    "nmf_sweep": {
        "right_shape": _right_shape,
        "alive": _alive,
        "every_vertex_labelled": _every_vertex_labelled,
    },
    "sweep_summary": {"complete": _complete},
    "selected_parcellations": {
        "every_vertex_labelled": _every_vertex_labelled,
        "beyond_noise": _beyond_noise,
    },
    "control_sweep": {"alive": _alive},
}


CHECKS = dg.define_asset_job(
    "check_everything",
    dg.AssetSelection.all_asset_checks(),
    description="Ask every check of what is stored: is it complete, is it usable, is it made from "
    "today's inputs and settings, are the files of the inputs still there?",
)


ADVISE = {
    _not_excluded,
    _plausible,
    _not_collapsed,
    _alive,
    _complete,
    _beyond_noise,
}
"""Questions whose findings say themselves what to do."""


def build_checks() -> list[dg.AssetChecksDefinition]:
    """Make all checks: the questions above, and for every asset whether it is up to date."""
    checks = [
        _check(ASSETS[asset], name, find)
        for asset, questions in QUESTIONS.items()
        for name, find in questions.items()
    ]
    checks += [_files_there(ASSETS[name]) for name in ("bold", "geodesic_labels")]
    return [*checks, _of_its_own(), _up_to_date()]


def _check(asset: StoredAsset, name: str, find: Find) -> dg.AssetChecksDefinition:
    anew = (
        f"Make it anew (`trend run --select {asset.name} --force`). If it comes again, look at "
        f"what it is made from (`trend show {asset.name}`)."
    )

    @dg.asset_check(
        asset=asset_key(asset.name),
        name=name,
        required_resource_keys={"project"},
        description=f"{find.__doc__} Asked of every stored output.",
    )
    def check(context: AssetCheckExecutionContext) -> dg.AssetCheckResult:
        project: Project = context.resources.project.open()
        asked, wrong = 0, []
        for partition in asset.partitions(project):
            try:
                version = project.store.latest(asset.name, partition)
            except StoreError as error:
                wrong.append(str(error))
                continue
            if version is None or (version.excluded is not None and find is not _not_excluded):
                continue
            asked += 1
            wrong += [f"{describe(asset.name, partition)} {w}" for w in find(project, version)]
        return _result(wrong, {"outputs_checked": asked}, "" if find in ADVISE else anew)

    return check


def _up_to_date() -> dg.AssetChecksDefinition:
    """One step for all assets: each output is looked at once."""

    @dg.multi_asset_check(
        name="up_to_date",
        specs=[
            dg.AssetCheckSpec(
                "up_to_date",
                asset=asset_key(name),
                description="Made from today's inputs, settings and code; says which have changed "
                "since.",
            )
            for name in ASSETS
        ],
        can_subset=True,
        required_resource_keys={"project"},
    )
    def up_to_date(context: AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        project: Project = context.resources.project.open()
        asked = {key.asset_key.path[-1] for key in context.selected_asset_check_keys}
        lineage = Lineage(project)
        for name, asset in ASSETS.items():
            if name in asked:
                yield _staleness(asset, lineage.states(asset))

    return up_to_date


def _staleness(asset: StoredAsset, states: list[State]) -> dg.AssetCheckResult:
    stored = [s for s in states if s.version is not None]
    stale = [
        f"{s.name} is {s.status}: {'; '.join(s.reasons)}" for s in stored if s.status != "current"
    ]
    advice = "Materialize it again (`trend run` makes all that is out of date)."
    if asset.keep_when_inputs_change:
        advice = "It is used as it is. To train anew: `trend run --retrain`."
    result = _result(stale, {"outputs_checked": len(stored)}, advice)
    return result._replace(asset_key=asset_key(asset.name), check_name="up_to_date")


def up_to_date_now(name: str, states: list[State]) -> dg.AssetCheckEvaluation:
    """The check `up_to_date` of an asset whose outputs were looked at outside of a check's run."""
    return evaluation(_staleness(ASSETS[name], states))


def evaluation(result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    """What a check found, as a record that needs no run of its own."""
    assert result.asset_key is not None
    assert result.check_name is not None
    return dg.AssetCheckEvaluation(
        asset_key=result.asset_key,
        check_name=result.check_name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
    )


def files_there_now(project: Project, name: str) -> dg.AssetCheckEvaluation:
    """The check `files_there`, asked outside of a check's run."""
    found = _are_files_there(project, ASSETS[name])
    return evaluation(found._replace(asset_key=asset_key(name), check_name="files_there"))


def _of_its_own() -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key("bold"),
        name="of_its_own",
        required_resource_keys={"project"},
        description="No recording is there under two keys.",
    )
    def check(context: AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return _are_their_own(context.resources.project.open())

    return check


def _are_their_own(project: Project) -> dg.AssetCheckResult:
    """Asked once of all runs, and not of each: every pair of them is looked at."""
    keys = [partition[BOLD_RUN] for partition in project.store.stored("bold", (BOLD_RUN,))]
    return _result(
        [f"{first} and {second} {what}" for first, second, what in copies(project, keys)],
        {"outputs_checked": len(keys)},
        "Take all but one of each out.",
    )


def _files_there(asset: StoredAsset) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=asset_key(asset.name),
        name="files_there",
        required_resource_keys={"project"},
        description="The file of every stored input is still there.",
    )
    def check(context: AssetCheckExecutionContext) -> dg.AssetCheckResult:
        return _are_files_there(context.resources.project.open(), asset)

    return check


def _are_files_there(project: Project, asset: StoredAsset) -> dg.AssetCheckResult:
    gone = [describe(asset.name, partition) for partition in removed(project, asset)]
    return _result(
        [f"{name}: its file was removed" for name in gone],
        {"outputs_checked": len(project.store.stored(asset.name, asset.dims))},
        "It is left out of new averages, and what is stored of it stays. Put the file back to "
        "take it in again.",
    )


def _result(wrong: list[str], counts: dict[str, int], advice: str = "") -> dg.AssetCheckResult:
    lines = wrong[:MAX_LISTED]
    if len(wrong) > MAX_LISTED:
        lines.append(f"and {len(wrong) - MAX_LISTED} more")
    return dg.AssetCheckResult(
        passed=not wrong,
        severity=dg.AssetCheckSeverity.WARN,
        description="\n".join([*lines, advice]).strip() if wrong else None,
        metadata={**counts, "found": len(wrong)},
    )
