"""A real Slurm of one node on 127.0.0.1, for tests: munged, slurmctld and slurmd."""

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
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=8000 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def find(program: str) -> str | None:
    """Where a program is; Debian keeps daemons out of the path of ordinary users."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of a cluster that runs; its commands find it by SLURM_CONF."""
    missing = [name for name in PROGRAMS if find(name) is None]
    if missing or os.geteuid() != 0:
        if os.environ.get("TREND_REQUIRE_SLURM"):
            pytest.fail(f"TREND_REQUIRE_SLURM is set, and {missing or 'root'} is missing")
        pytest.skip("no Slurm here (Debian, as root: slurm-wlm, munge)")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    host = socket.gethostname().partition(".")[0]
    file = folder / "slurm.conf"
    file.write_text(
        SETTINGS.format(
            host=host,
            folder=folder,
            controller=free_port(),
            node=free_port(),
            cores=os.cpu_count(),
        )
    )
    environment = {**os.environ, "SLURM_CONF": str(file)}
    munge = [f"--socket={folder}/munge.sock", f"--key-file={key}", "--foreground", "--force"]
    munge += [f"--{what}-file={folder}/munge.{what}" for what in ("log", "pid", "seed")]
    daemons = (
        ["munged", *munge],
        ["slurmctld", "-D", "-c", "-f", str(file)],
        ["slurmd", "-D", "-c", "-f", str(file), "-N", host],
    )
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        for name, *arguments in daemons:
            log = stack.enter_context((folder / f"{name}.out").open("wb"))
            program = find(name)
            assert program is not None
            daemon = subprocess.Popen(
                [program, *arguments], stdout=log, stderr=log, env=environment
            )
            stack.callback(_end, daemon)
            if name == "munged":
                wait_until((folder / "munge.sock").exists, 30, "munged answers")
        patch.setenv("SLURM_CONF", str(file))
        wait_until(lambda: "idle" in ask("sinfo", "-h", "-o", "%T"), 60, "the node is idle")
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
