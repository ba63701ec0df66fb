"""Tests of the whole contract over the OpenAI API: what is asked in each dialect, and what answers are read as."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest

from penstock.contracts.messages import ChatMessage, NextMove, Sampling, TokenUsage, ToolCall, ToolSignature
from services.inference.engines.openai import OpenAiEngine
from services.inference.engines.openai_asked import Endpoint
from services.inference.engines.openai_refusal import left
from services.inference.engines.protocol import Delta, LoadedImage
from services.inference.tests.test_openai import NOW_MS, Answer, an_engine, asks, delta, failure_of, refuses, stream

WEATHER = ToolSignature(name="weather", description="of a city", parameters={"properties": {"city": {}}})
FINE = stream(delta("fine", finish="stop"))
CHOSEN = stream(delta('{"answer": "yes"}', finish="stop"))


class Scripted:
    """Remembers what it was asked and answers with one after the other, the last for ever."""

    def __init__(self, *answers: Answer) -> None:
        self._answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return (self._answers.pop(0) if len(self._answers) > 1 else self._answers[0])(request)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [orjson.loads(request.content) for request in self.asked]


async def body_of(endpoint: Endpoint | None = None, answer: Answer = FINE, **changes: Any) -> dict[str, Any]:
    seen = Scripted(answer)
    await an_engine(seen, endpoint=endpoint).generate(asks(**changes), 10.0)
    return {"path": seen.asked[0].url.path, **seen.bodies[0]}


def vllm() -> Endpoint:
    return Endpoint(dialect="vllm")


async def test_sampling_goes_as_it_is_and_what_is_left_out_stays_out() -> None:
    body = await body_of(
        sampling=Sampling(top_p=0.5, top_k=7, min_p=0.1, stop=["END"], frequency_penalty=1.5, logprobs=2)
    )

    assert (body["top_p"], body["top_k"], body["min_p"], body["stop"]) == (0.5, 7, 0.1, ["END"])
    assert (body["frequency_penalty"], body["logprobs"], body["top_logprobs"]) == (1.5, True, 2)
    assert "presence_penalty" not in body
    assert "top_p" not in await body_of()


async def test_a_completion_has_a_prompt_and_an_adapter_is_a_model_name() -> None:
    answer = stream({"choices": [{"index": 0, "text": "four", "finish_reason": "stop"}]})

    body = await body_of(
        answer=answer,
        operation="completion",
        messages=[],
        prompt="two and two",
        adapter="legal",
        sampling=Sampling(logprobs=3),
    )

    assert (body["path"], body["prompt"], body["model"]) == ("/v1/completions", "two and two", "legal")
    assert (body["logprobs"], "messages" in body, "tools" in body) == (3, False, False)


@pytest.mark.parametrize(
    ("dialect", "asked", "bound", "answer"),
    [
        ("vllm", {"choices": ["yes", "no"]}, {"structured_outputs": {"choice": ["yes", "no"]}}, "yes"),
        ("vllm", {"regex": "yes|no"}, {"structured_outputs": {"regex": "yes|no"}}, "yes"),
        ("llama.cpp", {"choices": ["yes", 'n"\\\n']}, {"grammar": 'root ::= "yes" | "n\\"\\\\\\n"'}, "yes"),
    ],
)
async def test_choices_and_regex_are_bound_in_the_endpoints_own_words(
    dialect: Any, asked: dict[str, Any], bound: dict[str, Any], answer: str
) -> None:
    body = await body_of(Endpoint(dialect=dialect), stream(delta(answer, finish="stop")), **asked)

    assert bound.items() <= body.items()
    assert "response_format" not in body


@pytest.mark.parametrize(
    ("dialect", "asked", "text"),
    [
        ("generic", {"choices": ["yes", "no"]}, {"type": "string", "enum": ["yes", "no"]}),
        ("generic", {"regex": "yes|no"}, {"type": "string", "pattern": "^(yes|no)$"}),
        ("llama.cpp", {"regex": "yes|no"}, {"type": "string", "pattern": "^(yes|no)$"}),
    ],
)
async def test_where_only_schemas_are_known_the_text_comes_in_an_object_and_is_taken_out(
    dialect: Any, asked: dict[str, Any], text: dict[str, Any]
) -> None:
    # given an endpoint that binds answers by a schema only
    seen, heard = Scripted(CHOSEN), list[Delta]()

    # when it is asked for one of two words
    generation = await an_engine(seen, endpoint=Endpoint(dialect=dialect)).generate(asks(**asked), 10.0, heard.append)

    # then it was asked for an object with that word, and nobody sees the object, not even piece by piece
    schema = seen.bodies[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"] == {"answer": text}
    assert generation.text == "yes"
    assert [each.text for each in heard] == ["yes"]


async def test_an_answer_that_is_no_such_object_is_left_for_the_second_look() -> None:
    for said in ("plain", '{"answer": 3}', "[]"):
        generation = await an_engine(stream(delta(said, finish="stop"))).generate(asks(choices=["yes"]), 10.0)
        assert generation.text == said


async def test_tenants_never_share_a_prefix_where_the_endpoint_can_keep_them_apart() -> None:
    assert (await body_of(vllm(), tenant="acme"))["cache_salt"] == "acme"
    assert "cache_salt" not in await body_of(tenant="acme")


async def test_images_go_before_the_text_as_data() -> None:
    image = LoadedImage(blob="sha256:" + "0" * 64, bytes=3, media_type="image/png", content=b"\x00\x01\x02")

    body = await body_of(messages=[ChatMessage(role="user", content="what is this?", images=[image])])

    picture, text = body["messages"][0]["content"]
    assert picture["image_url"]["url"] == "data:image/png;base64,AAEC"
    assert text == {"type": "text", "text": "what is this?"}


async def test_a_conversation_with_tools_is_told_as_the_api_tells_it() -> None:
    call = ToolCall(id="c1", name="weather", arguments={"city": "Bern"})
    conversation = [
        ChatMessage(role="user", content="How is it?"),
        ChatMessage(role="assistant", content="", tool_calls=[call]),
        ChatMessage(role="tool", content="rain", tool_call_id="c1"),
    ]

    body = await body_of(messages=conversation, tools=[WEATHER], tool_choice="weather")

    function = {"name": "weather", "arguments": '{"city":"Bern"}'}
    assert body["messages"][1]["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]
    assert body["messages"][2] == {"role": "tool", "content": "rain", "tool_call_id": "c1"}
    assert body["tools"][0]["function"]["parameters"]["type"] == "object"
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert (await body_of(tools=[WEATHER], tool_choice="required"))["tool_choice"] == "required"


def piece(index: int, arguments: str, **first: Any) -> dict[str, Any]:
    function = {key: first.pop(key) for key in ("name",) if key in first}
    return delta(tool_calls=[{"index": index, **first, "function": {**function, "arguments": arguments}}])


async def test_tool_calls_are_put_together_from_their_pieces() -> None:
    answer = stream(
        piece(0, "", id="a", name="weather"),
        piece(0, '{"city": '),
        piece(1, '{"city": "Rome"}', name="weather"),
        piece(0, '"Bern"}'),
        delta(finish="stop"),
    )

    generation = await an_engine(answer).generate(asks(tools=[WEATHER]), 10.0)

    assert generation.finish_reason == "tool_calls"
    assert generation.tool_calls == (
        ToolCall(id="a", name="weather", arguments={"city": "Bern"}),
        ToolCall(id="call-1", name="weather", arguments={"city": "Rome"}),
    )


@pytest.mark.parametrize(
    "call", [piece(0, '{"city"', name="weather"), piece(0, "[]", name="t"), piece(0, "{}", name="a b")]
)
async def test_a_call_that_is_none_is_to_be_repaired_and_was_paid_for(call: dict[str, Any]) -> None:
    failure = await failure_of(stream(call, delta(finish="tool_calls")), tools=[WEATHER])

    assert (failure.error.code, failure.error.next) == ("tool_arguments_invalid", NextMove.REPAIR_OUTPUT)
    assert failure.usage.output == 1


async def test_log_probabilities_are_read_in_both_forms() -> None:
    chat = {"content": [{"token": "a", "logprob": -0.5, "top_logprobs": [{"token": "a", "logprob": -0.5}]}]}
    lists = {"tokens": ["a", "b"], "token_logprobs": [None, -1.0], "top_logprobs": [None, {"b": -1.0}]}
    told = stream({"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": chat, "finish_reason": "stop"}]})
    listed = stream({"choices": [{"index": 0, "text": "ab", "logprobs": lists, "finish_reason": "stop"}]})

    first = (await an_engine(told).generate(asks(), 10.0)).logprobs
    second = (await an_engine(listed).generate(asks(operation="completion", messages=[], prompt="x"), 10.0)).logprobs

    assert first is not None
    assert second is not None
    assert [(each.token, each.logprob, each.top) for each in first] == [("a", -0.5, {"a": -0.5})]
    assert [(each.token, each.top) for each in second] == [("a", None), ("b", {"b": -1.0})]


async def test_embeddings_are_vectors_in_the_order_of_the_inputs() -> None:
    body = {
        "data": [{"index": 1, "embedding": [0.5, 1]}, {"index": 0, "embedding": [0.25, 2]}],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    }
    seen = Scripted(refuses(200, body))

    generation = await an_engine(seen).generate(asks(operation="embedding", messages=[], inputs=["a", "b"]), 10.0)

    assert seen.asked[0].url.path == "/v1/embeddings"
    assert seen.bodies[0]["input"] == ["a", "b"]
    assert generation.embeddings == ((0.25, 2.0), (0.5, 1.0))
    assert generation.usage == TokenUsage(input=5)


async def test_embeddings_that_are_none_are_a_failure() -> None:
    wanted: dict[str, Any] = {"operation": "embedding", "messages": [], "inputs": ["a"]}

    assert (await failure_of(refuses(200, {"data": [{}]}), **wanted)).error.next is NextMove.RETRY_ELSEWHERE


TOO_LARGE = refuses(
    400,
    {"error": {"message": "max_tokens is too large: 16. This model's maximum context length is 20, 12 input tokens"}},
)


async def test_what_does_not_fit_is_clamped_by_the_endpoint_where_that_was_asked_for() -> None:
    # given an endpoint that takes 20 tokens in all
    cut = stream(delta("a", finish="length"), {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 8}})
    seen = Scripted(TOO_LARGE, cut)

    # then it is asked again for as much as there is room
    generation = await an_engine(seen).generate(asks(on_overflow="clamp"), 10.0)
    assert ["max_tokens" in body for body in seen.bodies] == [True, False]
    assert generation.max_tokens_used == 8

    # and only where that was asked for
    assert (await failure_of(TOO_LARGE)).error.code == "max_tokens_beyond_room"


async def test_an_answer_that_was_cut_without_a_word_is_not_taken_for_a_whole_one() -> None:
    cut = stream(delta("a", finish="length"), {"choices": [], "usage": {"prompt_tokens": 12, "completion_tokens": 8}})

    failure = await failure_of(cut)

    assert (failure.error.code, failure.usage.output) == ("max_tokens_beyond_room", 8)


async def test_too_many_requests_are_waited_for_and_not_failed() -> None:
    # given an endpoint that is busy twice
    busy = refuses(429, {"error": {"message": "slow down"}}, **{"retry-after-ms": "1"})
    seen = Scripted(busy, busy, FINE)

    # then the call takes its time and comes through
    assert (await an_engine(seen).generate(asks(), 10.0)).text == "fine"
    assert len(seen.asked) == 3


async def test_an_answer_that_has_begun_is_never_asked_for_again() -> None:
    seen = Scripted(stream(delta("half"), {"error": {"code": 429, "message": "slow down"}}), FINE)

    failure = await failure_of(seen)

    assert (failure.error.code, len(seen.asked)) == ("rate_limited", 1)
    assert failure.usage.output == 1


async def test_quota_that_is_used_up_is_not_waited_for() -> None:
    seen = Scripted(refuses(429, {"error": {"code": "insufficient_quota", "message": "pay"}}))
    failure = await failure_of(seen)

    assert (failure.error.code, len(seen.asked)) == ("quota_exhausted", 1)


async def test_calls_go_at_the_pace_that_is_set_first_come_first_served() -> None:
    # given twelve requests a minute, of which one may go at once
    seen = Scripted(FINE)
    engine = an_engine(seen, endpoint=Endpoint(requests_per_minute=12))
    ids = [asks(request_id=f"00000000-0000-5000-8000-{number:012}") for number in range(3)]

    # when three come at once
    calls = [asyncio.create_task(engine.generate(each, 3600.0)) for each in ids]
    await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)

    # then the first goes, the others wait, and the load says so
    assert [call.done() for call in calls] == [True, False, False]
    assert [request.headers["x-request-id"] for request in seen.asked] == [str(ids[0].request_id)]
    assert (engine.load().running, engine.load().waiting) == (0, 2)

    # and a call that is given up leaves its place to the next
    for call in calls[1:]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert engine.load().waiting == 0


async def test_a_request_id_of_the_endpoints_own_is_named_with_its_refusal() -> None:
    failure = await failure_of(refuses(500, {"error": {"message": "oops"}}, **{"x-request-id": "req_7"}))

    assert "x-request-id req_7" in failure.error.message


def listing(*models: dict[str, Any]) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(200, json={"object": "list", "data": list(models)})


@pytest.mark.parametrize(
    ("model", "bound", "context"),
    [
        ({"id": "m", "owned_by": "vllm", "max_model_len": 4096}, "structured_outputs", 4096),
        ({"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx": 512}}, "grammar", 512),
        ({"id": "m", "owned_by": "somebody"}, "response_format", None),
    ],
)
async def test_what_an_endpoint_says_of_itself_decides_how_it_is_spoken_to(
    model: dict[str, Any], bound: str, context: int | None
) -> None:
    seen = Scripted(listing(model), CHOSEN)
    engine = an_engine(seen)
    await engine.probe()

    await engine.generate(asks(choices=["yes"]), 10.0)

    assert bound in orjson.loads(seen.asked[1].content)
    assert engine.limits("m").context_tokens_max == context


async def test_settings_go_before_what_the_endpoint_says() -> None:
    seen = Scripted(listing({"id": "m", "owned_by": "vllm", "max_model_len": 4096}), CHOSEN)
    said = Endpoint(
        dialect="generic", context_tokens_max=100, images=True, extra_body={"user": "us"}, headers={"x-a": "b"}
    )
    engine = OpenAiEngine(
        "http://e", connections=9, now_ms=lambda: NOW_MS, endpoint=said, transport=httpx.MockTransport(seen)
    )
    await engine.probe()

    await engine.generate(asks(choices=["yes"]), 10.0)

    assert (engine.limits("m").context_tokens_max, engine.limits("m").images) == (100, True)
    assert orjson.loads(seen.asked[1].content)["user"] == "us"
    assert seen.asked[1].headers["x-a"] == "b"
    assert "response_format" in orjson.loads(seen.asked[1].content)


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("6m0s", 360.0), ("120ms", 0.12), ("1.5", 1.5), ("1h2m", 3720.0), ("soon", None), (None, None)],
)
def test_what_is_left_is_read_from_headers(reset: str | None, seconds: float | None) -> None:
    headers = {"x-ratelimit-remaining-tokens": "70", "x-ratelimit-remaining-requests": "many"}
    if reset is not None:
        headers["x-ratelimit-reset-tokens"] = reset

    said = left(httpx.Headers(headers))

    assert (said.tokens, said.tokens_reset_seconds, said.requests) == (70, seconds, None)
