"""Dagster's daemon, as `trend dev` starts it: ``python -m trend_dagster.orchestration.daemon run``.

What belongs here: how often it looks after backfills. What does not: what it does (Dagster's) and
who starts it (``service``).

See https://docs.dagster.io/deployment/execution/dagster-daemon.
"""

from trend_dagster.orchestration.private import hurry_backfills, run_daemon

SECONDS_BETWEEN_LOOKS = 5

if __name__ == "__main__":
    hurry_backfills(SECONDS_BETWEEN_LOOKS)
    run_daemon()
