"""Writing files so that nothing half-written is ever visible."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import BinaryIO


def sync(path: Path) -> None:
    """Wait until a file or folder has reached the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the new one, never half of either.

    Parameters
    ----------
    path : Path
        The file; its folder is made if need be.
    content : bytes
        What it shall hold.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with _opened(partial) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def _opened(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return path.open("wb")
    except FileNotFoundError:  # another took the folder away in between, for it was empty
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
