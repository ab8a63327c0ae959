"""The nightly schedule. Off until somebody switches it on.

What belongs here: when. What does not: what (``jobs``), which the job finds out from the store when
it runs, so that a night that failed is made up for by the next.

See https://docs.dagster.io/guides/automate/schedules.
"""

import dagster as dg

from trend_dagster.errors import SettingsError


def build_schedule(cron: str) -> dg.ScheduleDefinition:
    """Make the schedule.

    Parameters
    ----------
    cron : str
        When, as cron writes it.

    Returns
    -------
    ScheduleDefinition
        Stopped until it is switched on.

    Raises
    ------
    SettingsError
        If there is no such time.
    """

    def nightly(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        # Every tick is a request of its own: a failed night must not keep the next from running.
        return dg.RunRequest(run_key=context.scheduled_execution_time.isoformat())

    try:
        return dg.schedule(
            cron_schedule=cron,
            job_name="parcellate",
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Makes all that is missing or out of date, with the model there is: one "
            "job. It does not train. After a failure the next "
            "night, or a run of `parcellate` by hand, takes up what was finished.",
        )(nightly)
    except dg.DagsterInvalidDefinitionError as error:
        raise SettingsError(
            "setting automation.nightly",
            expected="a time as cron writes it, like '0 2 * * *'",
            found=repr(cron),
            remedy="Correct the value, or take the line out to get the default.",
        ) from error
