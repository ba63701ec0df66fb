"""Tests of the OpenAI-compatible engine against answers as endpoints send them; the conformance suite has real ones."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import httpx
import orjson
import pytest

from penstock.contracts.ids import request_id, run_key
from penstock.contracts.messages import ChatMessage, InferenceRequested, NextMove, TokenUsage
from services.inference.engines.openai import OpenAiEngine
from services.inference.engines.protocol import EngineFailedError

NOW_MS = 1_795_000_000_000
KEY = run_key("default", "r")
Answer = Callable[[httpx.Request], httpx.Response]


def asks(**changes: Any) -> InferenceRequested:
    fields: dict[str, Any] = {
        "request_id": request_id(KEY, "s", 1),
        "tenant": "default",
        "run_key": KEY,
        "run_id": "r",
        "home": 0,
        "workflow": "w",
        "version": "1",
        "step": "s",
        "attempt": 1,
        "deadline": datetime(2100, 1, 1, tzinfo=UTC),
        "pool": "small",
        "model": "m",
        "messages": [ChatMessage(role="user", content="x" * 40)],
        "max_tokens": 16,
    }
    return InferenceRequested(**{**fields, **changes})


def an_engine(answer: Answer, **settings: Any) -> OpenAiEngine:
    transport = httpx.MockTransport(answer)
    return OpenAiEngine("http://engine", connections=1, now_ms=lambda: NOW_MS, transport=transport, **settings)


def delta(text: str | None = None, *, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text, **more}, "finish_reason": finish}]}


def stream(*events: Any, broken: bool = False, tail: str = "data: [DONE]\n\n") -> Answer:
    async def lines() -> AsyncIterator[bytes]:
        for event in events:
            yield b"data: " + orjson.dumps(event) + b"\n\n"
        if broken:
            raise httpx.ReadError("connection reset")
        yield tail.encode()

    return lambda _: httpx.Response(200, content=lines())


def refuses(status: int, body: Any, **headers: str) -> Answer:
    return lambda _: httpx.Response(status, json=body, headers=headers)


async def failure_of(answer: Answer, seconds: float = 10.0, **changes: Any) -> EngineFailedError:
    with pytest.raises(EngineFailedError) as caught:
        await an_engine(answer).generate(asks(**changes), seconds)
    return caught.value


async def test_text_tokens_and_the_reason_of_the_end_are_read_from_the_stream() -> None:
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    answer = stream(
        delta(),
        delta(reasoning_content="hm"),
        delta("Hel"),
        delta("lo", finish="stop"),
        {"choices": [], "usage": usage},
    )

    generation = await an_engine(answer).generate(asks(), 10.0)

    assert (generation.text, generation.finish_reason) == ("Hello", "stop")
    assert generation.usage == TokenUsage(input=6, cached_input=4, output=3, reasoning=2)


async def test_the_request_is_what_the_api_wants_and_carries_its_id_and_key() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return stream(delta("{}", finish="stop"))(request)

    await an_engine(answer, api_key="secret").generate(asks(output_schema={"type": "object"}, seed=7), 10.0)

    body = orjson.loads(seen[0].content)
    assert str(seen[0].url) == "http://engine/v1/chat/completions"
    assert seen[0].headers["x-request-id"] == str(asks().request_id)
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"], body["seed"], body["stream"]) == ("m", 16, 7, True)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_an_endpoint_that_counts_nothing_is_counted_by_its_chunks() -> None:
    generation = await an_engine(stream(delta("a"), delta("b", finish="stop"))).generate(asks(), 10.0)

    assert generation.usage == TokenUsage(input=10, output=2)


@pytest.mark.parametrize(
    ("retry_after", "expected_ms"),
    [("7", 7_000), ("Wed, 18 Nov 2026 11:07:00 GMT", 20_000), ("Wed, 18 Nov 2020 11:07:00 GMT", 0), ("soon", None)],
)
async def test_a_rate_limit_that_ends_after_the_deadline_says_when_to_come_back(
    retry_after: str, expected_ms: int | None
) -> None:
    answer = refuses(429, {"error": {"message": "slow down"}}, **{"retry-after": retry_after})

    failure = await failure_of(answer, seconds=0.5)

    assert (failure.error.code, failure.error.next) == ("rate_limited", NextMove.RETRY_AFTER)
    assert failure.error.retry_after_ms == expected_ms


async def test_an_answer_that_breaks_off_is_counted_and_goes_elsewhere() -> None:
    failure = await failure_of(stream(delta("a"), delta("b"), broken=True))

    assert (failure.error.code, failure.error.next) == ("engine_disconnected", NextMove.RETRY_ELSEWHERE)
    assert failure.usage == TokenUsage(input=10, output=2)
    assert failure.first_token_ms is not None


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (stream(delta("a")), "engine_disconnected"),
        (stream(delta("a"), {"error": {"code": 500, "message": "out of memory"}}), "engine_error"),
        (stream(delta("a"), {"nothing": "known"}), "engine_error"),
        (stream(delta("a"), ["not", "an", "object"]), "engine_disconnected"),
        (stream(delta("a", finish="content_filter")), "content_filtered"),
        (stream(broken=True), "engine_unreachable"),
        (refuses(500, "plain words"), "engine_error"),
        (lambda _: httpx.Response(502, content=b"<html>"), "engine_error"),
        (refuses(404, {"detail": "Not Found"}), "unknown_model"),
    ],
)
async def test_every_way_to_fail_has_its_code(answer: Answer, code: str) -> None:
    failure = await failure_of(answer)

    assert failure.error.code == code
    assert failure.error.next is NextMove.RETRY_ELSEWHERE


@pytest.mark.parametrize(("drops", "succeeds"), [(1, True), (2, False)])
async def test_a_connection_that_was_closed_before_the_request_was_read_is_replaced_once(
    drops: int, succeeds: bool
) -> None:
    # given an endpoint that closes kept connections as the request arrives
    asked: list[httpx.Request] = []
    answer = stream(delta("fine", finish="stop"))

    def dropping(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) <= drops:
            raise httpx.RemoteProtocolError("Server disconnected without sending a response.")
        return answer(request)

    # when it is asked, then one drop goes unnoticed and a second one is a failure
    if succeeds:
        assert (await an_engine(dropping).generate(asks(), 10.0)).text == "fine"
    else:
        assert (await failure_of(dropping)).error.next is NextMove.RETRY_ELSEWHERE
    assert len(asked) == 2
