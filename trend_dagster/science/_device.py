"""Where products and sweeps are computed: numpy and compiled loops, or torch on CPU or a card.

The choice is left out of a result's identity. What is asked for is the data and the settings;
where float32 sums are added up changes their last digits only, as the number of threads of the
matrix product or another processor does, and the tests hold every device to the same float64
reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from trend_dagster.errors import TrendError

Device = Literal["cpu", "cpu-torch", "cuda"]

DESCRIPTION = (
    "'cpu' computes with numpy and compiled loops, 'cuda' with torch on the first CUDA card, "
    "'cpu-torch' with the card's code on the CPU, for comparison. Results agree within float32."
)


def torch_device(device: Device, error: type[TrendError]) -> Any:
    """Return the torch device of a setting.

    Parameters
    ----------
    device : {"cpu-torch", "cuda"}
        The setting.
    error : type
        What to raise where there is no card.

    Returns
    -------
    torch.device
    """
    # Here and not above: torch takes seconds to import.
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise error(
            "device",
            expected="a CUDA card that torch can use, for 'cuda'",
            found=f"none (torch {torch.__version__})",
            remedy="Set device to 'cpu', or install a CUDA build of torch and a driver.",
        )
    return torch.device("cuda" if device == "cuda" else "cpu")


@contextmanager
def full_float32() -> Iterator[None]:
    """Multiply in true float32: training may have allowed TF32, of 10 bits, in this process."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
