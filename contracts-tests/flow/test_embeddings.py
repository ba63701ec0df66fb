"""Owns the promise that a workflow gets embeddings: on the real stack, of an engine that is simulated and says so."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from penstock.contracts.blobs import reference_of
from penstock.contracts.messages import InferenceCompleted, RunFinished, UsageRecorded
from penstock.contracts.topics import INFERENCE_COMPLETED, USAGE_RECORDED
from penstock.testkit.downstream import Downstream, downstream
from penstock.workflow.definition import Definition
from penstock.workflow.notation import load
from services.local.system import systems

pytestmark = [pytest.mark.stack, pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "nearest" / "nearest.yaml"


class Asking:
    """A system, asked over HTTP and heard on its topics."""

    def __init__(self, downstream: Downstream, http: httpx.AsyncClient) -> None:
        self.downstream = downstream
        self.http = http

    async def run(self, definition: Definition, run_id: str, given: Any, **fields: Any) -> RunFinished:
        """The end of a run."""
        body = definition.model_dump(mode="json", exclude_defaults=True)
        published = await self.http.put(f"/v1/workflows/{definition.name}", json=body)
        assert published.is_success, published.text
        asked = {"workflow": definition.name, "run_id": run_id, "input": given, **fields}
        accepted = await self.http.post("/v1/runs", json=asked)
        assert accepted.status_code == 202, accepted.text
        return (await self.downstream.finished([run_id]))[run_id]

    def answers(self, run_id: str) -> list[InferenceCompleted]:
        """What engines answered for a run."""
        heard = [InferenceCompleted.model_validate_json(each.value) for each in self._heard(INFERENCE_COMPLETED.name)]
        return [each for each in heard if each.run_id == run_id]

    def usage(self, run_id: str) -> list[UsageRecorded]:
        """What was recorded for a run's model calls."""
        heard = [UsageRecorded.model_validate_json(each.value) for each in self._heard(USAGE_RECORDED.name)]
        return [each for each in heard if each.run_id == run_id and each.kind == "inference"]

    def _heard(self, topic: str) -> list[Any]:
        return list(self.downstream.heard(topic))


@pytest.fixture(scope="module")
async def asking() -> AsyncIterator[Asking]:
    """One system with a simulated engine."""
    async with AsyncExitStack() as stack:
        factory = await stack.enter_async_context(systems())
        running = await factory(tool_executor=0, tasks=["examples.nearest.tasks"])
        hearing = await stack.enter_async_context(downstream(running.bootstrap_servers, running.deployment))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=running.gateway_url))
        yield Asking(hearing, http)


async def test_the_passage_that_says_the_same_is_the_nearest(asking: Asking) -> None:
    # given the example's workflow, asked with a question that stands among the passages
    definition = load(EXAMPLE.read_text(), EXAMPLE.parent)
    given = {"question": "What is a penstock?", "passages": ["A wall.", "What is a penstock?", "A well."]}

    # when it is over
    end = await asking.run(definition, "nearest-1", given)

    # then the same text has the same vector, and the call is answered, marked and counted as any other
    assert end.status == "completed", end.error
    assert end.output[0] == {"passage": "What is a penstock?", "cosine": 1.0}
    assert len(end.output) == 3
    (answer,) = asking.answers("nearest-1")
    assert (answer.simulated, answer.step, len(answer.output)) == (True, "main/vectors", 4)
    await asking.downstream.until(lambda: bool(asking.usage("nearest-1")), lambda: "no usage was recorded")
    (usage,) = asking.usage("nearest-1")
    assert (usage.request_id, usage.tokens, usage.simulated) == (answer.request_id, answer.usage, True)
    assert (usage.tokens.input > 0, usage.tokens.output) == (True, 0)
    assert (end.usage.model_calls, end.usage.input_tokens) == (1, answer.usage.input)
    assert end.usage.cost.amount == usage.cost.amount


async def test_many_vectors_travel_as_a_reference_and_a_task_gets_them_whole(asking: Asking) -> None:
    # given a hundred passages, whose vectors are too large for a message
    passages = [f"This is passage number {number}." for number in range(100)]
    given = {"question": passages[77], "passages": passages}

    end = await asking.run(load(EXAMPLE.read_text(), EXAMPLE.parent), "nearest-100", given)

    assert end.status == "completed", end.error
    assert end.output[0] == {"passage": passages[77], "cosine": 1.0}
    (answer,) = asking.answers("nearest-100")
    assert reference_of(answer.output) is not None


async def test_a_budget_without_room_for_the_texts_stops_the_run_before_any_engine(asking: Asking) -> None:
    given = {"question": "x" * 1_000, "passages": ["A well."]}

    end = await asking.run(load(EXAMPLE.read_text(), EXAMPLE.parent), "nearest-poor", given, budget={"tokens": 400})

    assert end.error is not None
    assert end.error.code == "budget_exceeded"
    assert asking.answers("nearest-poor") == []
