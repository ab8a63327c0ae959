"""Dagster's daemon, as `trend dev` starts it: ``python -m trend_dagster.orchestration.daemon run``.

What belongs here: how often it looks after backfills. What does not: what it does (Dagster's) and
who starts it (``service``).

See https://docs.dagster.io/deployment/execution/dagster-daemon.
"""

import os

from trend_dagster.orchestration.private import hurry_backfills, run_daemon

SECONDS_BETWEEN_LOOKS = 5

# Without it a backfill is given up if the code server is being started again when it is looked
# after: its assets are not there for a moment. With it the backfill waits for them.
WAITS_FOR_CODE = "DAGSTER_BACKFILL_RETRY_DEFINITION_CHANGED_ERROR"

if __name__ == "__main__":
    os.environ.setdefault(WAITS_FOR_CODE, "1")
    hurry_backfills(SECONDS_BETWEEN_LOOKS)
    run_daemon()
