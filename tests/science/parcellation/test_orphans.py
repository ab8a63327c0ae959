"""Processes that sweep end with the one that started them, whatever ends that."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.service import wait_until

PARENT = """
import sys, time
from pathlib import Path
from tests.science.parcellation.test_orphans import Sleeps
from trend_dagster.science.parcellation.fanout import side_by_side
if __name__ == "__main__":
    list(side_by_side([Sleeps(Path(sys.argv[1]), n) for n in range(2)], 2, 2))
"""


@dataclass(frozen=True)
class Sleeps:
    """A task that says which process does it."""

    folder: Path
    number: int

    def __call__(self) -> None:
        partial = self.folder / f"{self.number}.partial"
        partial.write_text(str(os.getpid()))
        partial.rename(self.folder / f"{self.number}.pid")
        time.sleep(300)


@pytest.mark.slow
def test_workers_of_a_process_that_is_killed_end_too(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    pids = wait_until(lambda: len(f := list(tmp_path.glob("*.pid"))) == 2 and f, 120, "both work")
    workers = [psutil.Process(int(pid.read_text())) for pid in pids]
    parent.kill()
    parent.wait()
    assert not psutil.wait_procs(workers, timeout=20)[1]
