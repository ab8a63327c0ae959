"""Whether a step has the memory and the disk that it needs, asked before it begins.

What belongs here: comparing what a step says that it needs with what there is. What does not: how
much that is (beside each asset, and ``science`` for its matrices).
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from trend_dagster.errors import SettingsError, StoreError

_GIB = 2**30
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def memory_of_machine() -> float:
    """GiB of memory that processes here may use: the machine's, or less where a container says."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for name in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such limit, or "max"
            found.append(int(Path(name).read_text()))
    return min(found) / _GIB


def check_memory(name: str, needed: int, memory_gib: float) -> None:
    """Refuse a step that would need more memory than it may have.

    Parameters
    ----------
    name : str
        The output that is to be made.
    needed : int
        Bytes.
    memory_gib : float
        What it may have.

    Raises
    ------
    SettingsError
        If it needs more.
    """
    if needed > memory_gib * _GIB:
        raise SettingsError(
            "compute.memory_gib",
            expected=f"at least {needed / _GIB:.2g} GiB of memory for {name}",
            found=f"{memory_gib:.2g} GiB",
            remedy="Raise compute.memory_gib (null: all that the machine has) or use a machine "
            "with more; or work on a coarser mesh (inputs.resample), or with label files of "
            "smaller labels (geodesic_labels.n_labels_per_hemisphere).",
        )


def check_disk(name: str, needed: int, folder: Path) -> None:
    """Refuse a step that would need more disk than is free.

    Parameters
    ----------
    name : str
        The output that is to be made.
    needed : int
        Bytes that it writes, unfinished work included.
    folder : Path
        Where it is written.

    Raises
    ------
    StoreError
        If less is free.
    """
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if needed > (free := shutil.disk_usage(there).free):
        raise StoreError(
            f"disk of {folder}",
            expected=f"{needed / _GIB:.2g} GiB free for {name}",
            found=f"{free / _GIB:.2g} GiB",
            remedy="Free room (`trend gc` says what is needed no more), move the project to a "
            "larger disk, or work on a coarser mesh (inputs.resample).",
        )
