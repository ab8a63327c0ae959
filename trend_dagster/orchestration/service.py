"""The processes of the page: started together, kept alive, ended together.

What belongs here: the code server (it holds the definitions, and runs are its children), the
daemon (queue, sensor, schedule, retries) and the webserver, and what becomes of runs when one of
them or all of them die. What does not: options and words of `trend dev` (``cli``).

Dagster's own `dagster dev` ends when one of its processes dies, and leaves the others behind when
it is ended by anything but Ctrl-C.

See https://docs.dagster.io/deployment/execution/dagster-daemon.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType

import dagster as dg
import psutil
import yaml

from trend_dagster.errors import ServerError
from trend_dagster.orchestration.instance import (
    end_dead_runs,
    if_records_answer,
    instance_home,
    process_of,
    run_lock,
    service_lock,
    share_records,
    socket_name,
)
from trend_dagster.orchestration.private import (
    GRPC_INFO_TAG,
    DagsterGrpcClient,
    serialize_value,
)
from trend_dagster.storage.locks import TakenError, hold, is_alive, is_free

MARK = "TREND_SERVICE"
"""Environment variable of everything that a service starts: by it the processes are found again."""

LOCATION = "trend_dagster"
START_SECONDS = 300.0
SHORT_LIFE_SECONDS = 60.0
MOST_SHORT_LIVES = 5
END_SECONDS = 15.0
LOOK_SECONDS = 10.0
CANCEL_SECONDS = 30.0
BEAT_SECONDS = 45.0
"""Time in which a daemon that is alive says so once more; Dagster's do every 30 s."""

STOPPED = "`trend dev` was ended while this run was at work. The next `trend dev` starts it again."
LEFT = "The process of this run was ended from outside, with all of `trend dev`."

Say = Callable[[str], None]


class StoppedError(Exception):
    """The service was asked to end."""


@dataclass
class Part:
    """One process of the service.

    Parameters
    ----------
    name : str
        As messages give it.
    command : list of str
        Arguments of the Python of this environment.
    """

    name: str
    command: list[str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    short_lives: int = 0
    start_again_at: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None


@dataclass
class Service:
    """Code server, webserver and daemon of one project.

    Parameters
    ----------
    instance : DagsterInstance
        Of the project.
    folder : Path
        Of the project.
    port : int
        Of the page, on 127.0.0.1.
    environment : mapping of str to str
        For the processes.
    say : callable
        Takes a line for the user.
    read_only : bool
        Show the page without a daemon, and refuse whatever would change something.
    scratch : Path
        Empty folder in which its processes start; :meth:`run` makes one.
    """

    instance: dg.DagsterInstance
    folder: Path
    port: int
    environment: Mapping[str, str]
    say: Say
    read_only: bool = False
    scratch: Path = Path()
    parts: list[Part] = field(default_factory=list, init=False)
    socket: str = field(default="", init=False)
    signal: int | None = field(default=None, init=False)

    @property
    def mark(self) -> str:
        """What the environment of its processes is marked with."""
        return f"{self.folder}:read-only:{os.getpid()}" if self.read_only else str(self.folder)

    def run(self) -> None:
        """Serve until asked to end.

        Raises
        ------
        ServerError
            If one of the processes cannot be kept alive.
        """
        if not self.read_only:
            self._end_what_was_left()
        # The path of a socket has a hundred characters at most; some clusters' TMPDIR has more.
        short = len(tempfile.gettempdir()) + len(f"/trend-12345678/{socket_name()}") < 100
        with (
            tempfile.TemporaryDirectory(prefix="trend-", dir=None if short else "/tmp") as scratch,
            self._signals_told(),
        ):
            self.scratch = Path(scratch)
            self.parts = self._commands()
            try:
                self._start()
                self._watch()
            except StoppedError:
                pass
            finally:
                self._end()

    def _commands(self) -> list[Part]:
        socket = self.socket = str(self.scratch / socket_name())
        workspace = self.scratch / "workspace.yaml"
        server = {"location_name": LOCATION, "host": "localhost", "socket": socket}
        workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
        ref = ["--instance-ref", serialize_value(self.instance.get_ref())]
        code = ["code-server", "start", "--socket", socket, "--location-name", LOCATION]
        code += ["--module-name", "trend_dagster.definitions", "--log-level", "warning", *ref]
        code += ["--inject-env-vars-from-instance"]
        page = ["--host", "127.0.0.1", "--port", str(self.port), "--dagster-log-level", "warning"]
        page += ["--workspace", str(workspace), *ref, *(["--read-only"] * self.read_only)]
        daemon = ["run", "--log-level", "warning", "--workspace", str(workspace), *ref]
        parts = [
            Part("code server", ["-m", "dagster", *code]),
            Part("webserver", ["-m", "dagster_webserver", *page]),
        ]
        return (
            parts
            if self.read_only
            else [*parts, Part("daemon", ["-m", "trend_dagster.orchestration.daemon", *daemon])]
        )

    def _start(self) -> None:
        code_server, *others = self.parts
        self._start_part(code_server)
        client = DagsterGrpcClient(socket=self.socket)
        end = time.monotonic() + START_SECONDS
        while not _answers(client):
            if not code_server.alive or time.monotonic() > end:
                raise ServerError(
                    f"code server of {self.folder}",
                    expected=f"an answer within {START_SECONDS:.0f} s",
                    found="none" if code_server.alive else "that it ended",
                    remedy="What it said stands above; `trend doctor` looks for causes.",
                )
            self._wait(0.2)
        for part in others:
            self._start_part(part)

    def _start_part(self, part: Part) -> None:
        part.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", *part.command],
            # Dagster imports from the folder it is started in: an empty one, not a stranger's. For
            # that it takes the first entry off Python's path, which must be that folder.
            env={**self.environment, MARK: self.mark, "PYTHONSAFEPATH": ""},
            cwd=self.scratch,
            stdin=subprocess.DEVNULL,
            # Ctrl-C is for this process, which ends the others in order.
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
        part.started, part.start_again_at = time.monotonic(), 0.0

    def _watch(self) -> None:
        looked = time.monotonic()
        while True:
            self._wait(0.5)
            for part in self.parts:
                if not part.alive:
                    self._bring_back(part)
            if time.monotonic() - looked >= LOOK_SECONDS:
                looked = time.monotonic()
                self._look_after_code_server()
                if not self.read_only:
                    with if_records_answer():  # else the next look will do
                        self._look_after_runs()
                    share_records(self.instance)

    def _bring_back(self, part: Part) -> None:
        assert part.process is not None
        now = time.monotonic()
        if part.start_again_at == 0.0:
            lived = now - part.started
            part.short_lives = part.short_lives + 1 if lived < SHORT_LIFE_SECONDS else 0
            how = _how_it_ended(part.process.returncode)
            if part.short_lives >= MOST_SHORT_LIVES:
                raise ServerError(
                    f"{part.name} of {self.folder}",
                    expected="a process that runs",
                    found=f"one that ended {MOST_SHORT_LIVES} times within "
                    f"{SHORT_LIFE_SECONDS:.0f} s of its start, at last {how}",
                    remedy="What it said stands above; `trend doctor` looks for causes.",
                )
            part.start_again_at = now + 2.0**part.short_lives - 1
            self.say(f"The {part.name} has ended ({how}): it is started again.")
        if now >= part.start_again_at:
            self._start_part(part)

    def _look_after_code_server(self) -> None:
        """The code server at work is a child of the one that we start, which outlives it."""
        code_server = self.parts[0]
        if not code_server.alive or time.monotonic() - code_server.started < START_SECONDS / 10:
            return
        assert code_server.process is not None
        try:
            children = psutil.Process(code_server.process.pid).children()
            alive = [c for c in children if c.status() != psutil.STATUS_ZOMBIE]
            found = any("grpc" in child.cmdline() for child in alive)
        except psutil.Error:  # one of them ended meanwhile
            return
        if not found:
            code_server.process.kill()
            code_server.process.wait()

    def _look_after_runs(self) -> None:
        end_dead_runs(self.instance)
        since = datetime.now(UTC) - timedelta(minutes=10)
        over = dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELED], updated_after=since)
        canceling = dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELING])
        # Forced on the page, or asked of a code server that is no more: the process knows nothing.
        for filter_ in (over, canceling):
            for record in self.instance.get_run_records(filter_):
                waited = datetime.now(UTC) - record.update_timestamp.replace(tzinfo=UTC)
                found = process_of(self.instance, record.dagster_run)
                if found and is_alive(*found) and waited > timedelta(seconds=CANCEL_SECONDS):
                    own = GRPC_INFO_TAG not in record.dagster_run.tags  # a `trend run`
                    with suppress(ProcessLookupError, PermissionError):
                        os.kill(found[0], signal.SIGINT if own else signal.SIGKILL)

    def _end_what_was_left(self) -> None:
        """End what a service before this one left behind when it was killed, and its runs."""
        left = marked(self.mark)
        _kill(left)
        alone = is_free(run_lock(self.folder))
        ended = end_dead_runs(self.instance, launched=True, alone=alone, why=LEFT)
        if ended:
            self.say(
                f"{_runs(len(ended))} at work when `trend dev` was last ended: started again, "
                "unless that was tried too often."
            )

    def _end(self) -> None:
        """End daemon and webserver in order, then whatever still works."""
        others = self.parts[1:]
        for part in others:
            if part.alive and part.process is not None:
                part.process.terminate()
        for part in others:
            if part.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    part.process.wait(END_SECONDS)
        # A run would only be interrupted, and so be over; killed it is taken up where it stopped.
        _kill(marked(self.mark))
        for part in self.parts:
            if part.process is not None:
                part.process.wait()
        if not self.read_only:
            with if_records_answer():
                if ended := end_dead_runs(self.instance, launched=True, why=STOPPED):
                    self.say(f"{_runs(len(ended))} at work: the next `trend dev` goes on with it.")

    @contextmanager
    def _signals_told(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number

        wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        # Set even where they were ignored: a shell starts what runs in its background so.
        before = {number: signal.signal(number, note) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _wait(self, seconds: float) -> None:
        if self.signal is None:
            time.sleep(seconds)
        if self.signal is not None:
            raise StoppedError


@contextmanager
def only_service(project: Path, port: int) -> Iterator[None]:
    """Hold the place of the one `trend dev` that a project has at a time.

    Parameters
    ----------
    project : Path
        Folder of the project.
    port : int
        Of its page.

    Raises
    ------
    ServerError
        If another one serves the project.
    StoreError
        If this user may not write there.
    """
    instance_home(project)
    place = service_lock(project)
    try:
        place.parent.mkdir(exist_ok=True)
        with hold(place, {"page": f"http://127.0.0.1:{port}"}):
            yield
    except TakenError as taken:
        where = "" if taken.holder is None else f" at {taken.holder.what.get('page')}"
        raise ServerError(
            f"project {project}",
            expected="no other `trend dev` that serves it",
            found=f"one{where} ({taken.holder})",
            remedy="Use that page, or end it first.",
        ) from None


def make_sure_no_daemon(instance: dg.DagsterInstance, say: Say) -> None:
    """Make sure that no other daemon works for an instance: two do everything twice.

    Parameters
    ----------
    instance : DagsterInstance
        Which instance.
    say : callable
        Told if there was one a moment ago: then it is waited for its next sign of life.

    Raises
    ------
    ServerError
        If there is one.
    """

    def last() -> float:
        beats = instance.get_daemon_heartbeats().values()
        return max((beat.timestamp for beat in beats), default=0.0)

    before = last()
    if before + BEAT_SECONDS > time.time():
        say("A daemon was at work on these records a moment ago: looking whether it still is.")
    while before + BEAT_SECONDS > time.time():
        if last() > before:
            raise ServerError(
                f"records in {instance.root_directory}",
                expected="no other daemon at work on them",
                found="one that is",
                remedy="Use its page, with this project as one of its code locations "
                "(docs/your-dagster.md), or end it; `trend dev --read-only` needs none.",
            )
        time.sleep(1)


def marked(mark: str) -> list[psutil.Process]:
    """Find the processes of a service, with everything that they have started."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == mark:
                found.append(process)
    return found


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(processes, timeout=END_SECONDS)


def _end_with_parent() -> None:
    """Ask Linux to end this process when the one that started it dies (``prctl(2)``)."""
    _SYSTEM.prctl(1, signal.SIGTERM)


_SYSTEM = ctypes.CDLL(None)  # loaded before a fork, between which and the start little is safe


def _answers(client: DagsterGrpcClient) -> bool:
    try:
        client.ping("")
    except Exception:  # the kinds of it are grpc's own
        return False
    return True


def _how_it_ended(status: int) -> str:
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"


def _runs(count: int) -> str:
    return "1 run was" if count == 1 else f"{count} runs were"
