"""Wall time and peak memory of a function, each in a process of its own."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_info, threadpool_limits


@dataclass(frozen=True)
class Measured:
    """What a function returned, and what it cost.

    Parameters
    ----------
    value : object
        What it returned.
    seconds : float
        Wall time.
    cpu_seconds : float
        Processor time over all threads, which other work on the machine does not lengthen.
    increment_mib : float
        Peak resident memory over what stood when it began: imports, compiled code and input.
    peak_mib : float
        Peak resident memory of the whole process.
    """

    value: Any
    seconds: float
    cpu_seconds: float
    increment_mib: float
    peak_mib: float


def in_process(
    prepare: Callable[..., Any], function: Callable[[Any], Any], *args: Any, n_threads: int
) -> Measured:
    """Call ``function(prepare(*args))`` in a fresh process and measure the function alone."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, prepare, function, args, n_threads).result()


def _measure(
    prepare: Callable[..., Any], function: Callable[[Any], Any], args: Sequence[Any], n: int
) -> Measured:
    with threadpool_limits(n):
        return measure(function, prepare(*args))


def measure(function: Callable[..., Any], *args: Any) -> Measured:
    """Call a function in this process and measure it."""
    # Linux forgets the peak so far, so that of the function alone can be read.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_kib("VmRSS")
    began, cpu_began = time.perf_counter(), time.process_time()
    value = function(*args)
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    peak = _status_kib("VmHWM")
    return Measured(value, seconds, cpu_seconds, (peak - before) / 1024, peak / 1024)


def product_speed(
    sizes: Iterable[tuple[int, int, int]], dtype: str, device: str, repeats: int = 10
) -> float:
    """Fastest product of two matrices that torch shows, in operations per second.

    Parameters
    ----------
    sizes : iterable of tuple of int
        Rows, inner size and columns of each product that is tried.
    dtype : str
        Name of torch's type.
    device : str
        ``cpu`` or ``cuda``.
    repeats : int
        Products of each size. A size is left out where the speed of those before says that one
        product takes over two seconds: of 16-bit numbers on a processor without their arithmetic.
    """
    import torch

    best = 0.0
    for rows, inner, columns in sorted(sizes, key=math.prod):
        if best and 2 * rows * inner * columns / best > 2:
            break
        a = torch.rand(rows, inner, dtype=getattr(torch, dtype), device=device)
        b = torch.rand(inner, columns, dtype=getattr(torch, dtype), device=device)
        for _ in range(repeats):
            began = time.perf_counter()
            a @ b
            if device == "cuda":
                torch.cuda.synchronize()
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - began))
    return best


def _status_kib(key: str) -> int:
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key)
    )
    return int(line.split()[1])


def machine() -> dict[str, Any]:
    """Describe the machine, to stand beside figures in a file."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    blas = [
        f"{i['internal_api']} {i.get('architecture', '')}"
        for i in threadpool_info()
        if i["user_api"] == "blas"
    ]
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "blas": sorted(set(blas))}


def result_path(name: str, device: str = "cpu") -> Path:
    """Return where figures are kept, apart for each device."""
    suffix = "" if device == "cpu" else f"_{device}"
    return Path(__file__).parent / "results" / f"{name}{suffix}.json"


def show(figures: dict[str, Any]) -> None:
    """Print figures, one a line."""
    print(pd.Series(figures, dtype=object).to_string())


def report(figures: dict[str, Any], keep: Path | None, device: str = "cpu") -> None:
    """Print figures as the last line; keep them with machine and date."""
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        found = {**figures, "date": date.today().isoformat(), "machine": machine()}
        if device == "cuda":
            import torch

            found["machine"]["card"] = torch.cuda.get_device_name()
        keep.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(figures))
