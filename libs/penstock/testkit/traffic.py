"""Owns load with a ledger: many runs of one workflow, and what must be true of them whatever happened meanwhile."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from penstock.contracts.messages import RunFinished
from penstock.contracts.topics import INFERENCE_COMPLETED, TASK_COMPLETED, TOOL_COMPLETED, Deployment
from penstock.testkit.counted import Executions, read_ledger
from penstock.testkit.downstream import WAIT_SECONDS, Downstream, downstream, headers_of
from penstock.testkit.engine import ScriptedEngine
from penstock.testkit.upstream import Upstream, upstream
from penstock.workflow.definition import Definition

COMPLETED_TOPICS: Final = (INFERENCE_COMPLETED.name, TASK_COMPLETED.name, TOOL_COMPLETED.name)
COUNTED_STEPS: Final = ("first", "note", "second")
STEPS: Final = 4
PAUSE_SECONDS: Final = 0.1
NOTE: Final[dict[str, Any]] = {
    "id": "note",
    "tool": "counted.note",
    "arguments": {"ledger": "{{ input.ledger }}", "run_id": "{{ run.id }}", "milliseconds": 20},
}
"""A tool step that leaves a line in the ledger as well."""


def counted_step(step_id: str, **fields: Any) -> dict[str, Any]:
    """A task step that leaves a line in the ledger of the run's input."""
    given = {"ledger": "{{ input.ledger }}", "milliseconds": 60, **fields.pop("input", {})}
    return {"id": step_id, "task": "counted.work", "input": given, **fields}


def storm(name: str = "storm", version: str = "1") -> Definition:
    """A chain of a counted task, a model call, a counted tool call and another counted task."""
    model = {"id": "say", "model": "tier", "prompt": "Say something about {{ run.id }}.", "max_tokens": 16}
    return Definition.model_validate(
        {
            "name": name,
            "version": version,
            "tiers": {"tier": [{"pool": "small", "model": "smollm2-135m"}]},
            "do": {"id": "main", "chain": [counted_step("first"), model, NOTE, counted_step("second")]},
        }
    )


@dataclass(frozen=True, slots=True)
class Moment:
    """What was true when something was killed."""

    answered: frozenset[str]
    """Request ids that have an answer on their topic."""
    executed: Counter[str]
    """How often each request id had begun to be executed."""


@dataclass(slots=True)
class Traffic:
    """One system's upstream, downstream, engine and ledger."""

    upstream: Upstream
    downstream: Downstream
    engine: ScriptedEngine
    ledger: Path
    homes: int

    async def start(self, prefix: str, count: int, workflow: str = "storm", **fields: Any) -> list[str]:
        """Ask for that many runs, spread over all homes; returns their ids when the broker has all requests."""
        run_ids = [f"{prefix}-{number}" for number in range(count)]
        given = {"ledger": str(self.ledger)}
        async with asyncio.TaskGroup() as group:
            for number, run_id in enumerate(run_ids):
                home = number % self.homes
                group.create_task(self.upstream.request(workflow, given, run_id=run_id, partition=home, **fields))
        return run_ids

    async def request_in(self, run_id: str, *homes: int) -> None:
        """Ask for one run in each of these homes at the same time."""
        given = {"ledger": str(self.ledger)}
        async with asyncio.TaskGroup() as group:
            for home in homes:
                group.create_task(self.upstream.request("storm", given, run_id=run_id, partition=home))

    async def answered(self, run_ids: Collection[str], count: int, topic: str = TASK_COMPLETED.name) -> None:
        """Wait until that many steps of these runs have been answered on a topic: the work is in full swing."""
        chosen = set(run_ids)

        def answers() -> int:
            return sum(headers_of(each).get("ce_correlationid") in chosen for each in self.downstream.heard(topic))

        await self.downstream.until(lambda: answers() >= count, lambda: f"{topic}: {answers()} of {count} answers")

    async def some_finished(self, run_ids: Collection[str], count: int, seconds: float = WAIT_SECONDS) -> None:
        """Wait until that many of these runs have ended."""

        def ended() -> int:
            return sum(bool(self.downstream.ends(run_id)) for run_id in run_ids)

        await self.downstream.until(lambda: ended() >= count, lambda: f"{ended()} of {count} runs ended", seconds)

    async def moment(self) -> "Moment":
        """What has been answered, and what has been executed how often, now."""
        await self.downstream.caught_up()
        heard = (each for topic in COMPLETED_TOPICS for each in self.downstream.heard(topic))
        answered = frozenset(headers_of(each).get("ce_causationid", "") for each in heard)
        return Moment(answered, self._counts())

    def _counts(self) -> Counter[str]:
        counts = Counter(call.request_id for call in self.engine.calls)
        for request_ids in self.executions().begun.values():
            counts.update(request_ids)
        return counts

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
            for step in COUNTED_STEPS:
                request_ids = set(begun.get(f"{run_id} main/{step}", ()))
                assert len(request_ids) == 1, f"{run_id} {step} was asked for under {request_ids}"
        return ends

    def ran_again_since(self, moment: "Moment") -> frozenset[str]:
        """What was executed again since then: none of it had been answered."""
        now = self._counts()
        again = frozenset(request_id for request_id, count in moment.executed.items() if now[request_id] > count)
        finished = sorted(again & moment.answered)
        assert not finished, f"{len(finished)} answered steps were executed again, for example {finished[0]}"
        return again

    async def known_to_the_gateway(self, gateway_url: str, run_ids: Sequence[str]) -> None:
        """The read side comes to know the end of every run and the usage of every step, each request once."""
        async with httpx.AsyncClient(base_url=gateway_url, timeout=WAIT_SECONDS) as client:
            for run_id in run_ids:
                try:
                    async with asyncio.timeout(WAIT_SECONDS):
                        while (lacks := _lacks(await client.get(f"/v1/runs/{run_id}"))) is not None:  # noqa: ASYNC110 - no push
                            await asyncio.sleep(PAUSE_SECONDS)
                except TimeoutError:
                    raise AssertionError(f"the gateway does not know {run_id}: {lacks}") from None


def _lacks(answer: httpx.Response) -> str | None:
    if answer.status_code != httpx.codes.OK:
        return answer.text
    return None if answer.json()["status"] == "completed" else answer.text


@asynccontextmanager
async def traffic(
    bootstrap_servers: str, deployment: Deployment, engine: ScriptedEngine, folder: Path
) -> AsyncIterator[Traffic]:
    """Upstream and downstream of a system, its engine, and an empty ledger."""
    ledger = folder / "ledger"
    ledger.touch()
    async with upstream(bootstrap_servers) as sending, downstream(bootstrap_servers, deployment) as hearing:
        yield Traffic(sending, hearing, engine, ledger, deployment.home_partitions)
