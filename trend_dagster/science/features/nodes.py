"""One piece of work in every task of Slurm's ``srun``, over several machines.

The process that asks stays where it is: it sends the work, hears what the tasks tell, and gets what
the first one returns. When it ends, however it ends, its tasks end too: their input is closed.

See https://slurm.schedmd.com/srun.html.
"""

from __future__ import annotations

import base64
import os
import pickle
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import Any

from trend_dagster.errors import SettingsError, TrainingError

Tell = Callable[[Any], None]


def on_nodes(work: Callable[[Tell], Any], n_nodes: int, per_node: int, hear: Tell) -> Any:
    """Do work in ``n_nodes * per_node`` tasks at once.

    Parameters
    ----------
    work : callable
        Must be picklable. Takes a function that tells what is given to it, here.
    n_nodes, per_node : int
        Machines, and tasks on each.
    hear : callable
        Takes what any task tells.

    Returns
    -------
    object
        What the work of the first task returned.

    Raises
    ------
    SettingsError
        If this process has no allocation of so many nodes.
    TrainingError
        If Slurm does not start the tasks, or ends them.
    Exception
        What the work of a task raised.
    """
    allocated = int(os.environ.get("SLURM_JOB_NUM_NODES", "0"))
    if allocated < n_nodes:  # srun would wait for others without a word
        raise SettingsError(
            f"setting training.n_nodes={n_nodes}",
            expected=f"a job of Slurm with {n_nodes} nodes",
            found=f"one with {allocated}" if allocated else "none",
            remedy=f"Submit this with `sbatch --nodes={n_nodes}`, or set training.n_nodes to "
            f"{allocated or 1}.",
        )
    # All of it named: what is not, srun takes from the job around it.
    command = ["srun", f"--nodes={n_nodes}", f"--ntasks={n_nodes * per_node}"]
    command += [f"--ntasks-per-node={per_node}", "--kill-on-bad-exit"]
    if cores := os.environ.get("SLURM_CPUS_PER_TASK"):  # srun does not take it from sbatch
        command.append(f"--cpus-per-task={cores}")
    command += [sys.executable, "-P", "-m", __name__]
    kinds: dict[str, list[Any]] = {"returned": [], "raised": []}
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said
        ) as tasks:
            assert tasks.stdin is not None
            assert tasks.stdout is not None
            try:
                tasks.stdin.write(pickle.dumps(work))
                tasks.stdin.flush()
                for line in tasks.stdout:
                    kind, what = pickle.loads(base64.b64decode(line))
                    hear(what) if kind == "told" else kinds[kind].append(what)
            except BrokenPipeError:
                pass  # it has ended, and has said why
            except BaseException:
                tasks.terminate()
                tasks.wait()
                raise
        said.seek(0)
        words = " ".join(said.read().decode(errors="replace").split())
    if kinds["raised"]:
        raise kinds["raised"][0]
    if not kinds["returned"]:
        raise TrainingError(
            f"Training on {n_nodes} nodes",
            expected=f"an srun that starts {per_node} tasks on each",
            found=words[-500:] or f"that srun ended with status {tasks.returncode}",
            remedy="Mend that, and run again: finished epochs are kept.",
        )
    return kinds["returned"][0]


def main() -> None:
    """Do the work of one task."""
    # What libraries print does not belong among what is told.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    one_at_a_time = threading.Lock()

    def say(kind: str, what: Any) -> None:
        with one_at_a_time:
            out.write(base64.b64encode(pickle.dumps((kind, what))) + b"\n")
            out.flush()

    work = pickle.load(sys.stdin.buffer)  # from the process that started this one
    threading.Thread(target=_end_with_input, daemon=True).start()
    try:
        returned = work(lambda what: say("told", what))
        if os.environ["SLURM_PROCID"] == "0":
            say("returned", returned)
    except Exception as error:
        say("raised", error)
        raise


def _end_with_input() -> None:
    sys.stdin.buffer.read(1)
    os._exit(1)


if __name__ == "__main__":
    main()
