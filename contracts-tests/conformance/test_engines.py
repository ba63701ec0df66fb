"""One suite for every engine: the simulated one, vLLM's, and the OpenAI-compatible one on a real llama.cpp."""

import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any, Final

import pytest

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import ChatMessage, InferenceRequested, NextMove, Sampling, ToolSignature
from penstock.runtime.clock import now_ms
from penstock.workflow.loops import AgentLoop, Planner
from services.inference.core.catalogue import HARDWARE
from services.inference.core.roofline import Roofline
from services.inference.core.structured import answered, checked, embedded
from services.inference.engines.openai import OpenAiEngine
from services.inference.engines.protocol import Delta, Engine, EngineFailedError
from services.inference.engines.simulated import SimulatedEngine
from services.inference.tests.small_vllm import small_vllm
from services.local.ports import LOOPBACK
from services.orchestrator.core.dialogue import guide

MODEL: Final = "smollm2-135m"
KEY = run_key("default", "r")
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["permissive", "copyleft"]},
        "obligations": {"type": "array", "items": {"type": "string", "maxLength": 8}, "maxItems": 1},
    },
    "required": ["kind", "obligations"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    """The URL of a llama.cpp with the small model, a process of its own."""
    command = [sys.executable, "-m", "services.local.model_server"]
    with subprocess.Popen(
        [*command, "--port", "0", "--slots", "4", "--context-tokens", "512", "--threads", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


@pytest.fixture(
    scope="module",
    params=[
        "simulated",
        pytest.param("llama.cpp", marks=pytest.mark.model),
        pytest.param("vllm", marks=pytest.mark.vllm),
    ],
)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[Engine]:
    """The engine under test."""
    made: Engine
    if request.param == "simulated":
        made = SimulatedEngine(Roofline(HARDWARE["h100-sxm"]), batch_max=4, speed=10.0)
    elif request.param == "vllm":
        made = small_vllm(MODEL, max_model_len=512)
    else:
        made = OpenAiEngine(request.getfixturevalue("llama"), connections=8, now_ms=now_ms)
    await made.start()
    await made.probe()  # as the service does before the first call: the endpoint says what it is
    yield made
    await made.close()


def asks(attempt: int = 1, **changes: Any) -> InferenceRequested:
    fields: dict[str, Any] = {
        "request_id": request_id(KEY, "s", attempt),
        "tenant": "default",
        "run_key": KEY,
        "run_id": "r",
        "home": 0,
        "workflow": "w",
        "version": "1",
        "step": "s",
        "attempt": attempt,
        "deadline": datetime(2100, 1, 1, tzinfo=UTC),
        "pool": "small",
        "model": MODEL,
        "messages": [ChatMessage(role="user", content="Name one obligation of the MIT licence.")],
        "max_tokens": 12,
    }
    return InferenceRequested(**{**fields, **changes})


async def test_an_engine_says_that_it_is_there(engine: Engine) -> None:
    assert await engine.probe()


async def test_an_answer_has_text_tokens_and_the_time_of_its_first_token(engine: Engine) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()

    generation = await engine.generate(asks(), 60.0)

    elapsed_ms = (loop.time() - began) * 1000
    assert generation.text
    assert generation.text.startswith("[simulated] ") == engine.simulated
    assert generation.finish_reason in ("stop", "length")
    assert 0 < generation.usage.input + generation.usage.cached_input < 100
    assert 0 < generation.usage.output <= 12
    assert 0 < generation.first_token_ms <= elapsed_ms


async def test_the_same_request_at_temperature_zero_gives_the_same_answer(engine: Engine) -> None:
    first = await engine.generate(asks(), 60.0)
    second = await engine.generate(asks(), 60.0)

    assert first.text == second.text
    assert first.usage.input + first.usage.cached_input == second.usage.input + second.usage.cached_input


async def test_structured_output_fits_its_schema(engine: Engine) -> None:
    generation = await engine.generate(asks(output_schema=SCHEMA, max_tokens=64), 60.0)

    assert isinstance(checked(generation.text, SCHEMA), bytes)


async def test_a_choice_is_one_of_the_choices(engine: Engine) -> None:
    for choices in (["yes", "no"], ['say "so"', "or\n not"]):
        generation = await engine.generate(asks(choices=choices, max_tokens=40), 60.0)

        assert generation.text in choices


async def test_a_text_bound_by_a_regex_matches_it(engine: Engine) -> None:
    for regex in ("[0-9]{4}-[0-9]{2}", "(yes|no), (Bern|Rome)"):
        generation = await engine.generate(asks(regex=regex, max_tokens=60), 60.0)

        assert re.fullmatch(regex, generation.text)


async def test_the_pieces_of_an_answer_are_the_answer(engine: Engine) -> None:
    heard = list[Delta]()

    generation = await engine.generate(asks(), 60.0, heard.append)

    assert "".join(each.text for each in heard) == generation.text
    counts = [each.tokens for each in heard]
    assert counts == sorted(counts)


async def test_a_completion_goes_on_where_its_prompt_ends(engine: Engine) -> None:
    generation = await engine.generate(asks(operation="completion", messages=[], prompt="One, two, three,"), 60.0)

    assert generation.text
    assert generation.usage.output > 0


async def test_a_tool_is_called_with_arguments_that_fit_it(engine: Engine) -> None:
    if not engine.limits(MODEL).tools:
        pytest.skip("this engine does not say that its model calls tools")
    city = {"type": "object", "properties": {"city": {"enum": ["Bern", "Rome"]}}, "required": ["city"]}
    asked = asks(tools=[ToolSignature(name="weather", parameters=city)], tool_choice="weather", max_tokens=60)

    generation = await engine.generate(asked, 60.0)

    assert generation.finish_reason == "tool_calls"
    assert isinstance(answered(generation.text, generation.tool_calls, asked), bytes)


async def test_an_embedding_is_a_vector_for_each_input(engine: Engine) -> None:
    if not engine.limits(MODEL).embeddings:
        pytest.skip("this engine does not say that its model gives embeddings")
    asked = asks(operation="embedding", messages=[], inputs=["water", "stone", "water"])

    generation = await engine.generate(asked, 60.0)

    assert isinstance(embedded(generation.embeddings, asked.inputs or []), bytes)
    first, other, again = generation.embeddings or ()
    assert first == pytest.approx(again)
    assert first != other
    assert (generation.text, generation.usage.output) == ("", 0)


async def test_log_probabilities_come_where_they_are_asked_for(engine: Engine) -> None:
    generation = await engine.generate(asks(sampling=Sampling(logprobs=2)), 60.0)

    assert generation.logprobs
    assert all(each.logprob <= 0 for each in generation.logprobs)
    assert (await engine.generate(asks(), 60.0)).logprobs is None


async def test_an_answer_ends_before_what_stops_it(engine: Engine) -> None:
    whole = (await engine.generate(asks(), 60.0)).text
    stop = whole[len(whole) // 2 :][:3]

    cut = await engine.generate(asks(sampling=Sampling(stop=[stop])), 60.0)

    assert stop not in cut.text
    assert cut.finish_reason == "stop"


async def test_what_guides_a_loop_is_done_by_every_engine(engine: Engine) -> None:
    """Guard: an agent's turn and a plan need no more of a grammar than every engine has."""
    country = {"type": "object", "properties": {"country": {"enum": ["it", "fr"]}}, "required": ["country"]}
    tools = [{"tool": "facts.read", "arguments_schema": country}, {"task": "tasks.end"}]
    loop = AgentLoop.model_validate({"model": "small", "prompt": "", "tools": tools, "parallel_calls_max": 2})
    turn = guide(loop)
    only_calls = turn["anyOf"][1]
    plan = Planner(model="small", prompt="", task_schema={"type": "string", "maxLength": 8}).plan_schema(2)
    for schema in (turn, only_calls, plan):
        generation = await engine.generate(asks(output_schema=schema, max_tokens=120), 60.0)

        assert isinstance(checked(generation.text, schema), bytes), generation.text


async def test_calls_run_side_by_side(engine: Engine) -> None:
    answers = await asyncio.gather(*(engine.generate(asks(attempt), 60.0) for attempt in range(1, 5)))

    assert all(answer.text for answer in answers)


async def test_a_schema_that_the_engine_cannot_do_goes_elsewhere(engine: Engine) -> None:
    with pytest.raises(EngineFailedError) as caught:
        await engine.generate(asks(output_schema={"type": "object", "properties": {"a": {"type": "wrong"}}}), 60.0)

    assert (caught.value.error.code, caught.value.error.next) == ("schema_invalid", NextMove.RETRY_ELSEWHERE)


async def test_a_call_past_its_deadline_ends_and_leaves_the_engine_usable(engine: Engine) -> None:
    with pytest.raises(EngineFailedError) as caught:
        await engine.generate(asks(max_tokens=400), 0.005)

    assert (caught.value.error.code, caught.value.error.next) == ("timeout", NextMove.RETRY_ELSEWHERE)
    assert (await engine.generate(asks(), 60.0)).text


async def test_a_cancelled_call_leaves_the_engine_usable(engine: Engine) -> None:
    running = asyncio.create_task(engine.generate(asks(max_tokens=400), 60.0))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert (await engine.generate(asks(), 60.0)).text


@pytest.mark.model
async def test_a_prompt_over_the_context_is_named_as_such(llama: str) -> None:
    engine = OpenAiEngine(llama, connections=1, now_ms=now_ms)
    with pytest.raises(EngineFailedError) as caught:
        await engine.generate(asks(messages=[ChatMessage(role="user", content="water " * 2000)]), 60.0)

    assert (caught.value.error.code, caught.value.error.next) == ("context_overflow", NextMove.RETRY_ELSEWHERE)
    await engine.close()


async def test_nobody_listening_is_unreachable_and_goes_elsewhere() -> None:
    # given a port where nobody listens
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    engine = OpenAiEngine(f"http://{LOOPBACK}:{port}", connections=1, now_ms=now_ms)

    # then both doors say so
    for call in (engine.probe(), engine.generate(asks(), 5.0)):
        with pytest.raises(EngineFailedError) as caught:
            await call
        assert (caught.value.error.code, caught.value.error.next) == ("engine_unreachable", NextMove.RETRY_ELSEWHERE)
    await engine.close()
