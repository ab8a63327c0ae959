"""A job follows the backfill that it, or an earlier run of it, has asked for."""

from __future__ import annotations

from contextlib import nullcontext

import dagster as dg
import pytest
from dagster._core.storage.tags import BACKFILL_ID_TAG

from trend_dagster.errors import RunDiedError
from trend_dagster.orchestration import backfills
from trend_dagster.orchestration.instance import open_instance


def killed(instance: dg.DagsterInstance) -> None:
    """Record a run of the backfill that was ended from outside."""
    run = dg.DagsterRun("job", dg._core.utils.make_new_run_id(), tags={BACKFILL_ID_TAG: "b"})
    instance.add_run(run.with_status(dg.DagsterRunStatus.STARTED))
    instance.report_run_failed(run)


def test_what_had_died_before_is_no_news_and_what_dies_now_is(tmp_path, monkeypatch):
    monkeypatch.setattr(backfills, "_taken_back", lambda *arguments: nullcontext())
    monkeypatch.setattr(backfills, "SECONDS_BETWEEN_LOOKS", 0)
    looks = []
    with open_instance(tmp_path) as instance:
        killed(instance)

        def ended(*arguments):
            looks.append(1)
            return "CANCELED" if len(looks) == 2 else None

        monkeypatch.setattr(backfills, "how_backfill_ended", ended)
        backfills._follow(instance, "b", lambda line: None)
        assert len(looks) == 2

        def dies(*arguments):
            killed(instance)

        monkeypatch.setattr(backfills, "how_backfill_ended", dies)
        with pytest.raises(RunDiedError, match="ended from outside"):
            backfills._follow(instance, "b", lambda line: None)
