"""A real Slurm on 127.0.0.1, for tests: munged, slurmctld and one slurmd for each node."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.service import free_port, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scancel", "squeue", "sinfo")
SETTINGS = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=1
{nodes}
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def find(program: str) -> str | None:
    """Where a program is; Debian keeps daemons out of the path of ordinary users."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a cluster that runs; its commands find it by SLURM_CONF."""
    yield from _cluster(tmp_path_factory, [socket.gethostname().partition(".")[0]])


@pytest.fixture(scope="module")
def slurm_of_two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of two nodes, both on this machine."""
    yield from _cluster(tmp_path_factory, ["one", "two"])


def _cluster(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> Iterator[Path]:
    missing = [name for name in PROGRAMS if find(name) is None]
    if missing or os.geteuid() != 0:
        if os.environ.get("TREND_REQUIRE_SLURM"):
            pytest.fail(f"TREND_REQUIRE_SLURM is set, and {missing or 'root'} is missing")
        pytest.skip("no Slurm here (Debian, as root: slurm-wlm, munge)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", *(f"spool-{node}" for node in names)):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    nodes = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={free_port()} "
        f"CPUs={os.cpu_count()} RealMemory=8000 State=UNKNOWN"
        for name in names
    ]
    file = folder / "slurm.conf"
    file.write_text(
        SETTINGS.format(
            host=host,
            folder=folder,
            controller=free_port(),
            nodes="\n".join(nodes),
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(file)}
    munge = [f"--socket={folder}/munge.sock", f"--key-file={key}", "--foreground", "--force"]
    munge += [f"--{what}-file={folder}/munge.{what}" for what in ("log", "pid", "seed")]
    daemons = (
        ["munged", *munge],
        ["slurmctld", "-D", "-c", "-f", str(file)],
        *(["slurmd", "-D", "-c", "-f", str(file), "-N", name] for name in names),
    )
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for name, *arguments in daemons:
            log = stack.enter_context((folder / f"{name}.out").open("ab"))
            program = find(name)
            assert program is not None
            daemon = subprocess.Popen(
                [program, *arguments], stdout=log, stderr=log, env=environment
            )
            stack.callback(_end, daemon)
            if name == "munged":
                wait_until((folder / "munge.sock").exists, 30, "munged answers")
        patch.setenv("SLURM_CONF", str(file))
        wait_until(
            lambda: ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * len(names),
            60,
            "nodes are idle",
        )
        yield folder
        ask("scancel", "--user=root")


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(10)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def ask(*command: str) -> str:
    """What a command of Slurm says."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout
