"""Owns the promise that an answer can be read while it comes, and that it is the answer: with and without a model."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
import pytest

from penstock.contracts.messages import InferenceCompleted, InferenceStreamed
from penstock.contracts.topics import INFERENCE_COMPLETED, INFERENCE_STREAMED
from penstock.testkit.downstream import Downstream, downstream
from penstock.workflow.definition import Definition
from services.local.system import systems

pytestmark = [pytest.mark.stack, pytest.mark.slow]

SECONDS_MAX = 600.0
"""A small model takes a second for a token where everything else runs on its cores as well."""


@dataclass
class Talking:
    """A system whose answers can be watched."""

    downstream: Downstream
    http: httpx.AsyncClient

    async def watched(self, run_id: str) -> list[dict[str, Any]]:
        """The pieces of a run as the gateway tells them, to the run's end."""
        pieces, name = [], ""
        path = f"/v1/runs/{run_id}/stream"
        async with asyncio.timeout(SECONDS_MAX), self.http.stream("GET", path, timeout=None) as stream:
            assert stream.status_code == 200
            async for line in stream.aiter_lines():
                kind, _, value = line.partition(": ")
                if kind == "event":
                    name = value
                elif kind == "data" and name == "piece":
                    pieces.append(orjson.loads(value))
        assert name == "ended"
        return pieces


@pytest.fixture(scope="module", params=["simulated", pytest.param("real", marks=pytest.mark.model)])
async def talking(request: pytest.FixtureRequest) -> AsyncIterator[Talking]:
    """One system for each kind of engine."""
    async with AsyncExitStack() as stack:
        factory = await stack.enter_async_context(systems())
        environment = {"PENSTOCK_INFERENCE_STREAM_EVERY_MS": "10", "PENSTOCK_INFERENCE_SIMULATED_SPEED": "0.2"}
        running = await factory(
            tool_executor=0, worker=0, model=request.param, service_environment={"inference": environment}
        )
        hearing = await stack.enter_async_context(downstream(running.bootstrap_servers, running.deployment))
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=running.gateway_url))
        yield Talking(hearing, http)


def a_talk(name: str) -> Definition:
    """A streamed answer, and one that is not."""
    call = {"model": "small", "max_tokens": 10, "timeout_seconds": 600}
    calls = [
        {"id": each, "prompt": f"Tell a story about {each}.", "stream": each == "a", **call} for each in ("a", "b")
    ]
    body = {"name": name, "version": "1", "tiers": {"small": [{"pool": "small", "model": "smollm2-135m"}]}}
    return Definition.model_validate(body | {"do": {"id": "main", "chain": calls, "output": "{{ a }}"}})


async def test_an_answer_is_read_while_it_comes_and_is_the_answer(talking: Talking) -> None:
    # given a run with one streamed step, and somebody who watches it
    published = await talking.http.put("/v1/workflows/tale", json=orjson.loads(a_talk("tale").model_dump_json()))
    assert published.status_code == 201, published.text
    accepted = await talking.http.post("/v1/runs", json={"workflow": "tale", "run_id": "tale-1"})
    assert accepted.status_code == 202, accepted.text
    watching = asyncio.create_task(talking.watched("tale-1"))

    # when it is over
    end = (await talking.downstream.finished(["tale-1"], SECONDS_MAX))["tale-1"]
    assert end.status == "completed", end.error
    text = end.output

    # then the pieces on the topic are in order and without gaps, the first of them older than the answer
    heard = [
        InferenceStreamed.model_validate_json(each.value) for each in talking.downstream.heard(INFERENCE_STREAMED.name)
    ]
    answers = talking.downstream.heard(INFERENCE_COMPLETED.name)
    (answer,) = [
        each
        for each in map(InferenceCompleted.model_validate_json, [a.value for a in answers])
        if each.step == "main/a"
    ]
    assert {(piece.step, piece.request_id) for piece in heard} == {("main/a", answer.request_id)}
    assert [piece.sequence for piece in heard] == list(range(len(heard)))
    assert len(heard) > 2
    assert heard[0].at < answer.finished_at
    # and together they are the answer, as the last one says
    assert "".join(piece.text for piece in heard) == text == answer.output
    assert [piece.from_character for piece in heard] == [
        sum(len(before.text) for before in heard[:number]) for number in range(len(heard))
    ]
    assert (heard[-1].final, heard[-1].status, heard[-1].tokens) == (True, "succeeded", answer.usage.output)
    assert heard[-1].sha256 == hashlib.sha256(text.encode()).hexdigest()

    # and who watched has read the same
    seen = ""
    for piece in await watching:
        seen = seen[: piece["from_character"]] + piece["text"]
    assert seen == text
