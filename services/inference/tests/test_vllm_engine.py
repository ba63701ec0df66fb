"""What the real vLLM engine does with requests, beyond what every engine does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from penstock.contracts.messages import ChatMessage, Image, InferenceRequested, Lane, NextMove, Sampling, ToolSignature
from services.inference.engines.protocol import AbortedError, Delta, EngineFailedError, Generation
from services.inference.engines.vllm import VllmEngine
from services.inference.engines.vllm_prompts import token_ids
from services.inference.tests.scripted import a_request
from services.inference.tests.small_vllm import small_vllm
from services.local.small_models import prepared

pytestmark = pytest.mark.vllm

PLACES = 2
TOOL = ToolSignature(
    name="weather",
    parameters={
        "type": "object",
        "properties": {"days": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["days"],
        "additionalProperties": False,
    },
)
LONG = "water runs down the pipe and drives the wheel " * 8


@pytest.fixture(scope="module")
async def engine() -> AsyncIterator[VllmEngine]:
    made = small_vllm(
        adapters={"sailor": prepared("tiny-adapter")},
        tool_parser="hermes",
        enable_lora=True,
        max_lora_rank=8,
        max_num_seqs=PLACES,
    )
    await made.start()
    yield made
    await made.close()


async def refused(engine: VllmEngine, request: InferenceRequested) -> tuple[str, NextMove]:
    with pytest.raises(EngineFailedError) as caught:
        await engine.generate(request, 60.0)
    assert caught.value.usage.input == 0
    return caught.value.error.code, caught.value.error.next


def says_plainly(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def says(text: str) -> list[ChatMessage]:
    return [ChatMessage(role="user", content=text)]


async def test_its_limits_and_its_counts_are_exact(engine: VllmEngine) -> None:
    limits = engine.limits("m")
    generation = await engine.generate(a_request(max_tokens=2), 60.0)

    assert (limits.context_tokens_max, limits.images, limits.embeddings) == (1024, False, False)
    assert limits.adapters == frozenset({"sailor"})
    assert limits.tokens_exact
    assert engine.prompt_tokens(a_request()) == generation.usage.input + generation.usage.cached_input
    assert (engine.load().kv_tokens_max or 0) > 10_000


async def test_a_prompt_has_the_tokens_that_its_tokenizer_gives_it(engine: VllmEngine) -> None:
    # given prompts that tokenizers trip over
    built = engine._life.current().built
    texts = [
        "water",
        "",
        "  two  spaces \n",
        "水と火 \u00e9e\u0301 \U0001f30a",
        "<|im_start|>user\n<|im_end|>",
        LONG * 20,
    ]
    assert built.encode is not None

    for text in texts:
        slow = built.tokenizer.apply_chat_template(says_plainly(text), add_generation_prompt=True, return_dict=False)
        assert token_ids(built, a_request(messages=says(text))) == slow


async def test_an_answer_comes_piece_by_piece_to_the_same_text(engine: VllmEngine) -> None:
    pieces: list[Delta] = []
    whole = await engine.generate(a_request(1, max_tokens=24), 60.0)
    streamed = await engine.generate(a_request(2, max_tokens=24), 60.0, pieces.append)

    assert "".join(piece.text for piece in pieces) == streamed.text == whole.text
    assert len(pieces) > 5
    assert pieces[-1].tokens == streamed.usage.output == 24
    assert [piece.tokens for piece in pieces] == sorted(piece.tokens for piece in pieces)


async def test_a_tenant_hits_its_own_prefix_and_nobody_elses(engine: VllmEngine) -> None:
    first = await engine.generate(a_request(1, tenant="a", messages=says(LONG), max_tokens=2), 60.0)
    again = await engine.generate(a_request(2, tenant="a", messages=says(LONG), max_tokens=2), 60.0)
    other = await engine.generate(a_request(3, tenant="b", messages=says(LONG), max_tokens=2), 60.0)

    assert (first.usage.cached_input, other.usage.cached_input) == (0, 0)
    assert again.usage.cached_input > 0
    assert again.usage.cached_input + again.usage.input == first.usage.input
    assert again.text == other.text == first.text


async def test_one_id_twice_at_a_time_is_answered_twice(engine: VllmEngine) -> None:
    one, two = await asyncio.gather(*(engine.generate(a_request(max_tokens=20), 60.0) for _ in range(2)))

    assert one.text == two.text
    assert one.usage.output == two.usage.output == 20


async def test_a_cancelled_call_says_what_it_spent_and_gives_its_place_back(engine: VllmEngine) -> None:
    # given an engine whose places are all taken by answers that take long
    begun = [asyncio.Event() for _ in range(PLACES)]
    running = [
        asyncio.create_task(
            engine.generate(a_request(number, max_tokens=900), 60.0, lambda _, event=event: event.set())  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        )
        for number, event in enumerate(begun)
    ]
    await asyncio.gather(*(event.wait() for event in begun))

    # when one is cancelled, then another call is answered while the rest still run
    running[0].cancel()
    with pytest.raises(AbortedError) as caught:
        await running[0]
    answer = await engine.generate(a_request(9, max_tokens=2), 60.0)

    assert caught.value.usage.output > 0
    assert caught.value.usage.input + caught.value.usage.cached_input > 0
    assert (caught.value.first_token_ms or 0) > 0
    assert answer.usage.output == 2
    for each in running[1:]:
        each.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def test_a_call_past_its_deadline_says_what_it_spent(engine: VllmEngine) -> None:
    begun = asyncio.Event()
    with pytest.raises(EngineFailedError) as caught:
        await engine.generate(a_request(max_tokens=990), 0.5, lambda _: begun.set())

    assert begun.is_set()
    assert (caught.value.error.code, caught.value.error.next) == ("timeout", NextMove.RETRY_ELSEWHERE)
    assert 0 < caught.value.usage.output < 990


async def test_the_urgent_lane_overtakes_inside_of_the_engine(engine: VllmEngine) -> None:
    # given more batch calls than there are places, and an interactive one that came last
    ended: list[str] = []

    async def ask(name: str, number: int, lane: Lane) -> None:
        await engine.generate(a_request(number, priority=lane, max_tokens=60), 60.0)
        ended.append(name)

    batch = [asyncio.create_task(ask("batch", number, Lane.BATCH)) for number in range(3 * PLACES)]
    await asyncio.sleep(0)
    await ask("interactive", 99, Lane.INTERACTIVE)

    assert ended.count("batch") <= PLACES
    await asyncio.gather(*batch)


async def test_what_is_more_than_the_model_holds_is_refused_and_nothing_is_cut(engine: VllmEngine) -> None:
    completion: dict[str, Any] = {"operation": "completion", "messages": [], "prompt": LONG * 20}

    assert await refused(engine, a_request(**completion)) == ("context_overflow", NextMove.RETRY_ELSEWHERE)
    assert await refused(engine, a_request(max_tokens=1024)) == ("max_tokens_beyond_room", NextMove.RETRY_ELSEWHERE)


async def test_an_answer_is_clamped_where_that_was_asked_for_and_it_is_said(engine: VllmEngine) -> None:
    request = a_request(max_tokens=5000, on_overflow="clamp", sampling=Sampling(stop=["e"]))
    generation = await engine.generate(request, 60.0)

    assert generation.max_tokens_used == 1024 - engine.prompt_tokens(request)


async def test_an_adapter_changes_the_answer_and_one_that_is_not_there_is_named(engine: VllmEngine) -> None:
    plain = await engine.generate(a_request(1), 60.0)
    adapted = await engine.generate(a_request(2, adapter="sailor"), 60.0)

    assert plain.text != adapted.text
    assert await refused(engine, a_request(adapter="pilot")) == ("unknown_adapter", NextMove.RETRY_ELSEWHERE)


async def test_log_probabilities_come_with_the_tokens_and_the_likeliest(engine: VllmEngine) -> None:
    generation = await engine.generate(a_request(max_tokens=5, sampling=Sampling(logprobs=3)), 60.0)

    assert generation.logprobs is not None
    assert len(generation.logprobs) == 5
    assert "".join(token.token for token in generation.logprobs) == generation.text
    for token in generation.logprobs:
        assert token.top is not None
        assert len(token.top) <= 3
        assert max(token.top.values()) == pytest.approx(token.logprob)  # at temperature zero the likeliest is drawn


async def test_a_seed_gives_the_same_draw_and_a_stop_ends_it(engine: VllmEngine) -> None:
    async def drawn(number: int, seed: int) -> Generation:
        return await engine.generate(a_request(number, temperature=1.5, seed=seed, max_tokens=24), 60.0)

    one, same, other = await drawn(1, 7), await drawn(2, 7), await drawn(3, 8)
    stop = one.text[6:9]
    stopped = await engine.generate(
        a_request(4, temperature=1.5, seed=7, max_tokens=24, sampling=Sampling(stop=[stop])), 60.0
    )

    assert one.text == same.text != other.text
    assert stopped.finish_reason == "stop"
    assert stopped.text == one.text.split(stop, maxsplit=1)[0]


@pytest.mark.parametrize(
    ("bound", "fits"),
    [
        ({"choices": ["sluice", "weir"]}, lambda text: text in ("sluice", "weir")),
        ({"regex": "[abc]{4}"}, lambda text: len(text) == 4 and set(text) <= set("abc")),
    ],
)
async def test_a_bound_answer_keeps_to_its_bounds(
    engine: VllmEngine, bound: dict[str, Any], fits: Callable[[str], bool]
) -> None:
    generation = await engine.generate(a_request(max_tokens=32, **bound), 60.0)

    assert fits(generation.text), generation.text
    assert generation.finish_reason == "stop"


async def test_a_tool_that_is_demanded_by_name_is_called_with_arguments_of_its_schema(engine: VllmEngine) -> None:
    request = a_request(max_tokens=32, tools=[TOOL], tool_choice="weather")
    generation = await engine.generate(request, 60.0)
    again = await engine.generate(request, 60.0)

    (call,) = generation.tool_calls
    assert (generation.text, generation.finish_reason, call.name) == ("", "tool_calls", "weather")
    assert 0 <= call.arguments["days"] <= 9
    assert again.tool_calls == generation.tool_calls


async def test_a_tool_may_be_called_or_not_where_that_is_left_to_the_model(engine: VllmEngine) -> None:
    # A model that was never taught calls says something; the parser finds no call in it.
    generation = await engine.generate(a_request(max_tokens=16, tools=[TOOL]), 60.0)

    assert generation.tool_calls == ()
    assert generation.text


async def test_what_the_model_does_not_do_is_named(engine: VllmEngine) -> None:
    image = Image(blob="sha256:" + "0" * 64, bytes=1, media_type="image/png")
    seen = [ChatMessage(role="user", content="what is this?", images=[image])]
    embedding: dict[str, Any] = {"operation": "embedding", "messages": [], "inputs": ["water"]}

    assert await refused(engine, a_request(messages=seen)) == ("image_unsupported", NextMove.RETRY_ELSEWHERE)
    assert await refused(engine, a_request(**embedding)) == ("embeddings_unsupported", NextMove.RETRY_ELSEWHERE)
    odd = a_request(output_schema={"type": "object", "properties": {"a": {"type": "wrong"}}})
    assert await refused(engine, odd) == ("schema_invalid", NextMove.RETRY_ELSEWHERE)


async def test_a_pooling_model_embeds_and_writes_nothing() -> None:
    engine = small_vllm(runner="pooling", convert="embed")
    await engine.start()
    request = a_request(operation="embedding", messages=[], inputs=["water", "wine", "water"])

    generation = await engine.generate(request, 60.0)

    assert generation.embeddings is not None
    one, two, same = generation.embeddings
    assert len(one) == 128
    assert one == pytest.approx(same, abs=0.01)
    assert one != pytest.approx(two, abs=0.01)
    assert generation.usage.input == engine.prompt_tokens(request)
    assert engine.limits("m").embeddings
    assert await refused(engine, a_request()) == ("generation_unsupported", NextMove.RETRY_ELSEWHERE)
    await engine.close()
