"""Processor time of the commands that only look, beside that of ``import dagster``.

``python -m benchmarks.start PROJECT`` prints one JSON object as its last line: for each command the
ratio of its processor time (user and system, children included) to that of
``python -c "import dagster"``, both the least of several runs that alternate. PROJECT is a finished
project; it is not changed but for pictures that `trend show` writes below its outputs.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import report, result_path

BASE = ("-c", "import dagster")
LIMIT = 2.0


def commands(project: Path) -> dict[str, tuple[str, ...]]:
    """What is measured, as arguments of Python."""
    trend = ("-c", "from trend_dagster.cli import main; main()")
    return {
        "trend --help": (*trend, "--help"),
        "trend settings": (*trend, "settings", str(project)),
        "trend status": (*trend, "status", str(project)),
        "trend show nmf_sweep": (*trend, "show", "nmf_sweep", "--folder", str(project)),
        "trend show sweep_summary": (*trend, "show", "sweep_summary", "--folder", str(project)),
    }


def cpu_seconds(arguments: tuple[str, ...]) -> float:
    """Processor time of a process of Python, with its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def measure(project: Path, repeats: int) -> dict[str, Any]:
    """Ratio of each command to ``import dagster``.

    Parameters
    ----------
    project : Path
        A finished project.
    repeats : int
        Runs of each, in turn, after one that warms the caches.

    Returns
    -------
    dict
        Seconds of ``import dagster``, and the ratios by command.
    """
    todo = {"import dagster": BASE, **commands(project)}
    for arguments in todo.values():
        cpu_seconds(arguments)
    least = dict.fromkeys(todo, float("inf"))
    for _ in range(repeats):
        for name, arguments in todo.items():
            least[name] = min(least[name], cpu_seconds(arguments))
    base = least.pop("import dagster")
    ratios = {name: round(seconds / base, 2) for name, seconds in least.items()}
    return {"import_dagster_cpu_s": round(base, 2), "ratios": ratios, "limit": LIMIT}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("project", type=Path, help="a finished project, as `trend demo` makes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="keep the figures in results/")
    arguments = parser.parse_args()
    figures = measure(arguments.project, arguments.repeats)
    for name, ratio in figures["ratios"].items():
        print(f"{name:26} {ratio:.2f} times `import dagster`")
    report(figures, result_path("start") if arguments.keep else None)


if __name__ == "__main__":
    main()
