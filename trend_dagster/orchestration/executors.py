"""How the steps of a run are executed: one after another, in the run's own process.

What belongs here: the executor. What does not: where batches of one asset are computed
(``engines``).

See https://docs.dagster.io/guides/operate/run-executors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg

from trend_dagster.orchestration.private import this_process


class _OwnProcess(dg.Executor):
    """Dagster's own, and the run names its process first: a reader of the page may look for it."""

    def __init__(self, executor: dg.Executor) -> None:
        self._executor = executor

    @property
    def retries(self) -> Any:
        return self._executor.retries

    @property
    def step_dependency_config(self) -> Any:
        return self._executor.step_dependency_config

    def execute(self, plan_context: Any, execution_plan: Any) -> Iterator[Any]:
        plan_context.instance.add_run_tags(plan_context.run_id, this_process())
        yield from self._executor.execute(plan_context, execution_plan)


def _make(context: dg.InitExecutorContext) -> dg.Executor:
    make = dg.in_process_executor.executor_creation_fn
    assert make is not None
    return _OwnProcess(make(context))


OWN_PROCESS = dg.ExecutorDefinition(
    name="own_process",
    description="Steps one after another in the run's process: each uses all cores by itself.",
    config_schema=dg.in_process_executor.config_schema.as_field(),
    executor_creation_fn=_make,
)
