"""A real `trend dev` for tests, started as a script starts it: in the background."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from trend_dagster.orchestration.service import marked

REPOSITORIES = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
TREND = [sys.executable, "-c", "from trend_dagster.cli import main; main()"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Return what the condition gives once it gives something.

    How long that takes a quick machine at most is told; others are given four times as long.
    """
    end = time.monotonic() + 4 * seconds
    while not (found := condition()):
        if time.monotonic() > end:
            pytest.fail(f"waited {4 * seconds:.0f} s, but not: {what}")
        time.sleep(0.3)
    return found


def _ignore_interrupts() -> None:
    """What a shell without job control does to what it starts in its background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


class Dev:
    """`trend dev` of a project.

    Parameters
    ----------
    folder : Path
        Of the project.
    options : str
        For the command.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.port = folder, free_port()
        # Not beside the project, whose disk may be full or read-only.
        self.log = folder.parents[1] / f"{folder.name}-{self.port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*TREND, "dev", str(folder), "--port", str(self.port), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_ignore_interrupts,
            )

    def ready(self) -> Dev:
        wait_until(self._answers, 180, f"the page answers: {self.said()}")
        return self

    def _answers(self) -> bool:
        try:
            found = self.ask(REPOSITORIES)["repositoriesOrError"]
            return bool(found.get("nodes"))
        except (OSError, KeyError):
            return False

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def ask(self, query: str, **variables: Any) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            json.dumps({"query": query, "variables": variables}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["data"]

    def parts(self) -> list[psutil.Process]:
        """All processes that belong to it, but for the one that was called."""
        return marked(str(self.folder.resolve()))

    def part(self, name: str) -> psutil.Process | None:
        """The process with that word among its arguments."""
        for process in self.parts():
            try:
                if any(name in word for word in process.cmdline()[:8]):
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def end(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(180)

    def power_cut(self) -> None:
        """Kill every process of it at once."""
        for process in [psutil.Process(self.process.pid), *self.parts()]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self.process.wait(30)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Dev]:
    dev = Dev(folder, *options)
    try:
        yield dev.ready()
    finally:
        if dev.process.poll() is None:
            dev.power_cut()


def port_is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def trend(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a process of its own."""
    return subprocess.run(
        [*TREND, *map(str, words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=900,
        check=False,
    )
