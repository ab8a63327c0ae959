"""Tell the user of runs that failed, by a command or an address of theirs.

What belongs here: noticing failures and handing the message on. What does not: why a run failed
(``production``), and starting it again (Dagster, ``dagster.yaml``).

See https://docs.dagster.io/guides/automate/sensors/run-status-sensors.
"""

import json
import os
import subprocess
import urllib.request
from pathlib import Path

import dagster as dg

from trend_dagster.orchestration.private import PARTITION_TAGS
from trend_dagster.orchestration.running import said_by_steps

ON_FAILURE_VARIABLE = "TREND_ON_FAILURE"
"""Environment variable: the command or address. Not a setting: a project that somebody else made
must not name commands that run here."""

PAGE_VARIABLE = "TREND_PAGE_URL"
"""Environment variable: the address of the page, for links to it; `trend dev` sets its own."""

SECONDS = 60.0
"""That a command or an address may take."""


def build_failure_sensor() -> dg.SensorDefinition:
    """Make the sensor; it works only where ``TREND_ON_FAILURE`` says what to do."""
    to, status = os.environ.get(ON_FAILURE_VARIABLE), dg.DefaultSensorStatus

    @dg.run_failure_sensor(
        name="run_failures",
        default_status=status.RUNNING if to else status.STOPPED,
        description=f"Hands the message of a run that failed to {ON_FAILURE_VARIABLE}.",
    )
    def run_failures(context: dg.RunFailureSensorContext) -> dg.SkipReason | None:
        if not to:
            return dg.SkipReason(f"{ON_FAILURE_VARIABLE} is not set")
        run = context.dagster_run
        why = said_by_steps(context.get_step_failure_events())
        what = [key.path[-1] for key in run.asset_selection or ()]
        what += [value for tag, value in run.tags.items() if tag in PARTITION_TAGS]
        lines = [*(why or [context.failure_event.message or "failed"]), ", ".join(sorted(what))]
        tell(to, run.job_name, run.run_id, "\n".join(filter(None, lines)))
        return None

    return run_failures


def tell(to: str, job: str, run_id: str, message: str) -> None:
    """Hand a message on.

    Parameters
    ----------
    to : str
        A command, which gets the message on its standard input, or an address that begins with
        ``http``, which gets it as JSON.
    job, run_id : str
        What failed.
    message : str
        Why.

    Raises
    ------
    subprocess.SubprocessError, OSError
        If that fails; Dagster shows it at the sensor. The message is not sent again.
    """
    facts = {"job": job, "run": run_id, "project": os.environ.get("TREND_PROJECT", "")}
    of = f" of {name}" if (name := Path(facts["project"]).name) else ""
    text = f"trend: {job}{of} failed (run {run_id})\n{message}\n"
    if page := os.environ.get(PAGE_VARIABLE):
        text += f"{page.rstrip('/')}/runs/{run_id}\n"
    if to.startswith(("http://", "https://")):
        body = json.dumps({"text": text, **facts}).encode()
        request = urllib.request.Request(to, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS):
            return
    environment = os.environ | {f"TREND_{name.upper()}": value for name, value in facts.items()}
    # The command is the user's own, from the user's own environment, as a shell takes it.
    subprocess.run(
        to,
        shell=True,
        cwd=facts["project"] or None,
        input=text,
        text=True,
        env=environment,
        timeout=SECONDS,
        check=True,
    )
