"""What a run ends with: the sweep beside its controls, and where everything lies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.markup import escape
from rich.table import Table

from trend_dagster.cli.app import console, say

if TYPE_CHECKING:
    import pandas as pd

    from trend_dagster.project.folder import Project


def show_results(project: Project) -> None:
    """Show the table of the sweep beside its controls, and where everything lies."""
    from trend_dagster.orchestration.assets import ASSETS
    from trend_dagster.orchestration.lineage import Lineage
    from trend_dagster.project.tables import comparison_table

    comparison = project.store.latest("control_comparison")
    if comparison is not None:
        found = comparison_table(comparison)
        stale = [s for s in Lineage(project).states(ASSETS["control_comparison"]) if s.reasons]
        for state in stale:
            reason = escape(state.reasons[0])
            console.print(f"\n[bold red]These results are from before[/]: {reason}", soft_wrap=True)
        console.print(_comparison(found))
        for line in (*read_choice(project), *read_controls(found)) if not stale else ():
            console.print(line, soft_wrap=True)
    if note := project.settings.inputs.note:
        console.print(f"[bold]{escape(note)}[/]")
    pictures = sorted(project.outputs.glob("parcellation_*.png"))
    places = {
        "report": project.outputs / "report.html",
        "maps": project.outputs / "maps",
        "workbook": project.outputs / "Complete_Clustering.xlsx",
        "comparison": project.outputs / "control_comparison.csv",
        "store": project.store.root,
        "planted and found": project.outputs / "planted_and_found.png",
        **{f"picture, {p.stem.split('_')[1]} clusters": p for p in pictures},
    }
    for name, path in places.items():
        if path.exists():
            say(f"{name + ':':24} {path}")


ROOM_FOR_STABILITY = {"davies_bouldin", "connectivity_ratio"}
SHOWN = {
    "label_file": "label file",
    "n_components": "n_com-\nponents",
    "n_clusters": "n_clus-\nters",
    "silhouette": "silhou-\nette",
    "davies_bouldin": "Davies-\nBouldin",
    "connectivity_ratio": "connect.\nratio",
    "zero_row_share": "zero\nrows",
    "stability": "stab-\nility",
    "stability_null": "noise's\nstab.",
    "dice_trained": "Dice",
    "dice_untrained": "Dice,\nuntrained",
    "dice_bold": "Dice,\nraw BOLD",
    "silhouette_untrained": "silhou-\nette, un-\ntrained",
    "silhouette_bold": "silhou-\nette, raw\nBOLD",
}
FORMATS = {"n_components": ".0f", "n_clusters": ".0f", "zero_row_share": ".1%"}


def read_choice(project: Project) -> list[str]:
    """Say what the choice of cells went by, and how far its stability exceeds that of noise.

    Parameters
    ----------
    project : Project
        In which cells were chosen.

    Returns
    -------
    list of str
        One line per chosen cell with a stability, or one that says why there is none.
    """
    selected = project.store.latest("selected_parcellations")
    if selected is None:
        return []
    facts = selected.facts
    if why := facts["no_stability"]:
        return [f"Chosen without stability: {why}."]
    return [
        f"{choice['n_clusters']} clusters: two halves (by {facts['split_by']}) agree by "
        f"{choice['stability']:.3f} (adjusted Rand index), noise as smooth by "
        f"{choice['stability_null']:.3f}: "
        + ("more than chance." if choice["beyond_noise"] else "no more than chance, no finding.")
        for choice in facts["chosen"]
        if choice["stability_margin"] is not None
    ]


def read_controls(found: pd.DataFrame) -> list[str]:
    """Say what the table says: whether the trained model was worth it in the chosen cells.

    Parameters
    ----------
    found : DataFrame
        The comparison, with one column per control.

    Returns
    -------
    list of str
        One line per chosen cell that has controls and planted networks.
    """
    from trend_dagster.project.tables import verdict

    if "dice_trained" not in found:
        return []
    said = (verdict(row) for row in found[found["chosen"]].to_dict("records"))
    return [line for line in said if line]


def _comparison(found: pd.DataFrame) -> Table:
    # A terminal is only so wide; the workbook has them all.
    left_out = ROOM_FOR_STABILITY if "stability" in found else set()
    beside = "silhouette_" if "dice_trained" in found else "dice_"  # one metric of the controls
    columns = [n for n in SHOWN if n in found and n not in left_out and not n.startswith(beside)]
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name in columns:
        table.add_column(SHOWN[name], justify="left" if name == "label_file" else "right")
        table.columns[-1].no_wrap = name == "label_file"
    table.add_column("chosen")
    for row in found.to_dict("records"):
        shown = [row["label_file"]]
        shown += [format(row[name], FORMATS.get(name, ".3f")) for name in columns[1:]]
        style = "bold" if row["chosen"] else None
        table.add_row(*shown, "yes" if row["chosen"] else "", style=style)
    return table
