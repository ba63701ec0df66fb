"""Owns load with a ledger: many runs of one workflow, and what must be true of them whatever happened meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from penstock.contracts.messages import RunFinished
from penstock.contracts.topics import INFERENCE_COMPLETED, TASK_COMPLETED, TOOL_COMPLETED, Deployment
from penstock.testkit.counted import Executions, read_ledger
from penstock.testkit.downstream import Downstream, downstream, headers_of
from penstock.testkit.upstream import Upstream, upstream
from penstock.workflow.definition import Definition

COMPLETED_TOPICS: Final = (INFERENCE_COMPLETED.name, TASK_COMPLETED.name, TOOL_COMPLETED.name)
TASK_STEPS: Final = ("first", "second")


def counted_step(step_id: str, **fields: Any) -> dict[str, Any]:
    """A task step that leaves a line in the ledger of the run's input."""
    given = {"ledger": "{{ input.ledger }}", "milliseconds": 60, **fields.pop("input", {})}
    return {"id": step_id, "task": "counted.work", "input": given, **fields}


def storm(*between: dict[str, Any], name: str = "storm", version: str = "1") -> Definition:
    """A chain of a counted task, a model call, whatever else is asked for, and another counted task."""
    model = {"id": "say", "model": "tier", "prompt": "Say something about {{ run.id }}.", "max_tokens": 16}
    return Definition.model_validate(
        {
            "name": name,
            "version": version,
            "tiers": {"tier": [{"pool": "small", "model": "smollm2-135m"}]},
            "do": {"id": "main", "chain": [counted_step("first"), model, *between, counted_step("second")]},
        }
    )


@dataclass(slots=True)
class Traffic:
    """One system's upstream, downstream and ledger."""

    upstream: Upstream
    downstream: Downstream
    ledger: Path

    async def start(self, prefix: str, count: int, workflow: str = "storm", **fields: Any) -> list[str]:
        """Ask for that many runs; returns their ids when the broker has all requests."""
        run_ids = [f"{prefix}-{number}" for number in range(count)]
        given = {"ledger": str(self.ledger)}
        async with asyncio.TaskGroup() as group:
            for run_id in run_ids:
                group.create_task(self.upstream.request(workflow, given, run_id=run_id, **fields))
        return run_ids

    async def answered(self, run_ids: Collection[str], count: int, topic: str = TASK_COMPLETED.name) -> None:
        """Wait until that many steps of these runs have been answered on a topic: the work is in full swing."""

        def answers() -> int:
            chosen = set(run_ids)
            return sum(headers_of(each)["ce_correlationid"] in chosen for each in self.downstream.heard(topic))

        await self.downstream.until(lambda: answers() >= count, lambda: f"{topic}: {answers()} of {count} answers")

    async def answered_requests(self) -> frozenset[str]:
        """The request ids that have an answer on their topic at this moment."""
        await self.downstream.caught_up()
        return frozenset(
            orjson.loads(each.value)["request_id"]
            for topic in COMPLETED_TOPICS
            for each in self.downstream.heard(topic)
        )

    def executions(self) -> Executions:
        """What the ledger says now."""
        return read_ledger(self.ledger)

    async def all_completed(self, run_ids: Sequence[str], seconds: float) -> dict[str, RunFinished]:
        """All runs completed, each said so under one event id, each counted step was executed under one request id."""
        ends = await self.downstream.finished(run_ids, seconds)
        failed = {run_id: end.error for run_id, end in ends.items() if end.status != "completed"}
        assert not failed, f"{len(failed)} runs failed, for example {next(iter(failed.items()))}"
        await self.downstream.caught_up()
        for run_id in run_ids:
            event_ids = {headers_of(end)["ce_id"] for end in self.downstream.ends(run_id)}
            assert len(event_ids) == 1, f"{run_id} ended {len(event_ids)} times"
        begun = self.executions().begun
        for run_id in run_ids:
            for step in TASK_STEPS:
                request_ids = set(begun.get(f"{run_id} main/{step}", ()))
                assert len(request_ids) == 1, f"{run_id} {step} was asked for under {request_ids}"
        return ends

    def nothing_answered_ran_again(self, answered: frozenset[str]) -> dict[str, int]:
        """No request of `answered` was executed twice; gives the others that were, and how often."""
        repeated = self.executions().repeated
        again = sorted(answered & repeated.keys())
        assert not again, f"{len(again)} answered steps were executed again, for example {again[0]}"
        return repeated


@asynccontextmanager
async def traffic(bootstrap_servers: str, deployment: Deployment, folder: Path) -> AsyncIterator[Traffic]:
    """Upstream and downstream of a system, and an empty ledger."""
    ledger = folder / "ledger"
    ledger.touch()
    async with upstream(bootstrap_servers) as sending, downstream(bootstrap_servers, deployment) as hearing:
        yield Traffic(sending, hearing, ledger)
