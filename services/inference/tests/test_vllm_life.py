"""How the real vLLM engine dies and comes back: killed, hung, and killed by what it was asked."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import psutil
import pytest

from penstock.contracts.messages import ChatMessage, InferenceRequested, NextMove
from services.inference.engines.protocol import EngineFailedError
from services.inference.engines.vllm import VllmEngine
from services.inference.tests.scripted import a_request
from services.inference.tests.small_vllm import small_vllm

pytestmark = pytest.mark.vllm


@pytest.fixture(scope="module")
async def shared() -> AsyncIterator[VllmEngine]:
    made = small_vllm(stall_seconds=5.0)
    await made.start()
    yield made
    await made.close()


@pytest.fixture
async def engine(shared: VllmEngine) -> VllmEngine:
    """An engine that is there, whatever the test before did to it."""
    await shared.start()
    return shared


def long(number: int, text: str = "hi") -> InferenceRequested:
    return a_request(number, messages=[ChatMessage(role="user", content=f"{text} {number}")], max_tokens=900)


async def in_flight(engine: VllmEngine, *requests: InferenceRequested) -> "list[asyncio.Task[str]]":
    """Calls that have begun to be answered; each ends with the code of its failure."""
    begun = [asyncio.Event() for _ in requests]

    async def ask(request: InferenceRequested, event: asyncio.Event) -> str:
        with pytest.raises(EngineFailedError) as caught:
            await engine.generate(request, 120.0, lambda _: event.set())
        assert caught.value.error.next in (NextMove.RETRY_ELSEWHERE, NextMove.GIVE_UP)
        return caught.value.error.code

    tasks = [asyncio.create_task(ask(request, event)) for request, event in zip(requests, begun, strict=True)]
    await asyncio.gather(*(event.wait() for event in begun))
    return tasks


def signalled(engine: VllmEngine, number: int) -> list[int]:
    processes = engine.processes()
    assert processes
    for process in processes:
        os.kill(process, number)
    return processes


async def test_a_killed_engine_fails_its_calls_and_is_built_again(engine: VllmEngine) -> None:
    calls = await in_flight(engine, *(long(number) for number in range(8)))
    signalled(engine, signal.SIGKILL)

    assert set(await asyncio.gather(*calls)) == {"engine_died"}
    with pytest.raises(EngineFailedError) as caught:
        await engine.probe()
    assert caught.value.error.code == "engine_unreachable"
    await engine.start()
    assert "engine 2" in await engine.probe()
    assert (await engine.generate(a_request(50), 60.0)).text


async def test_what_it_spent_is_known_of_a_call_that_died_with_it(engine: VllmEngine) -> None:
    begun = asyncio.Event()
    call = asyncio.create_task(engine.generate(long(60), 120.0, lambda _: begun.set()))
    await begun.wait()
    signalled(engine, signal.SIGKILL)
    with pytest.raises(EngineFailedError) as caught:
        await call

    assert caught.value.usage.output > 0
    assert caught.value.usage.input + caught.value.usage.cached_input > 0


async def test_an_engine_that_hangs_is_killed_and_built_again(engine: VllmEngine) -> None:
    calls = await in_flight(engine, long(71), long(72))
    stopped = signalled(engine, signal.SIGSTOP)

    assert await asyncio.gather(*calls) == ["engine_hung", "engine_hung"]
    await engine.start()
    assert (await engine.generate(a_request(73), 60.0)).text
    assert not any(psutil.pid_exists(process) for process in stopped)


async def test_what_kills_the_engine_twice_is_refused_as_poison(engine: VllmEngine) -> None:
    # given a request that was in the engine by itself when it died
    (first,) = await in_flight(engine, long(81, "poison"))
    signalled(engine, signal.SIGKILL)
    assert await first == "engine_died"
    await engine.start()

    # when its step is tried again, under another id, and the engine dies again
    again = long(81, "poison").model_copy(update={"request_id": a_request(82).request_id, "attempt": 82})
    (second,) = await in_flight(engine, again)
    signalled(engine, signal.SIGKILL)

    # then it is poison, and never gets into an engine again; others do
    assert await second == "poison_request"
    await engine.start()
    with pytest.raises(EngineFailedError) as caught:
        await engine.generate(again, 60.0)
    assert (caught.value.error.code, caught.value.error.next) == ("poison_request", NextMove.GIVE_UP)
    assert (await engine.generate(a_request(83), 60.0)).text
    assert "engine" in await engine.probe()


async def test_a_closed_engine_leaves_no_process_behind() -> None:
    engine = small_vllm()
    await engine.start()
    processes = engine.processes()
    assert all(psutil.pid_exists(process) for process in processes)

    await engine.close()

    assert not any(psutil.pid_exists(process) for process in processes)
    with pytest.raises(EngineFailedError) as caught:
        await engine.generate(a_request(), 1.0)
    assert caught.value.error.code == "engine_unreachable"
