"""Tests of the engine that is none: the room for keys and values, the prefix cache, its pieces, its load."""

import asyncio
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.contracts.messages import ChatMessage, InferenceRequested, ToolCall, ToolSignature, WorkError
from services.inference.core.catalogue import HARDWARE, MODELS
from services.inference.core.regex_sample import matching
from services.inference.core.roofline import Roofline, Sequence, step
from services.inference.core.sample import CannotSampleError, Dice
from services.inference.core.simulated_answer import said
from services.inference.core.simulation import Batch, Job, blocks_of, kv_tokens_max
from services.inference.core.structured import answered
from services.inference.engines.protocol import Delta, EngineLoad
from services.inference.engines.simulated import SimulatedEngine
from services.inference.tests.scripted import a_request

H100 = Roofline(HARDWARE["h100-sxm"])


def test_what_is_left_beside_the_weights_is_room_for_keys_and_values() -> None:
    # given 8B parameters in 16 bits on 80 GB, at 128 KiB a token
    assert 430_000 < kv_tokens_max(H100) < 470_000

    # then 70B do not fit on one, and nearly twice as much beside the smaller one on an H200
    assert kv_tokens_max(Roofline(HARDWARE["h100-sxm"], MODELS["llama-3.1-70b"])) == 0
    assert kv_tokens_max(Roofline(HARDWARE["h200-sxm"])) > 1.9 * kv_tokens_max(H100)
    with pytest.raises(ValueError, match="no room"):
        SimulatedEngine(Roofline(HARDWARE["l4"], MODELS["llama-3.1-70b"]), batch_max=1)


def a_job(prompt: int, output: int, blocks: tuple[int, ...] = ()) -> Job:
    return Job(prompt, output, blocks)


@given(
    st.lists(st.tuples(st.integers(1, 300), st.integers(1, 150)), min_size=1, max_size=25),
    st.integers(450, 2_000),
    st.integers(1, 8),
)
def test_all_requests_end_and_never_more_is_held_than_there_is_room_for(
    shapes: list[tuple[int, int]], kv_max: int, batch_max: int
) -> None:
    # given requests that each fit, and all together may not
    batch = Batch(H100, batch_max, kv_max)
    jobs = [a_job(prompt, output) for prompt, output in shapes]
    for job in jobs:
        batch.add(job)

    # when the batch is stepped until nobody is in it
    steps = 0
    while batch.running or batch.waiting:
        assert batch.step() > 0
        assert batch.kv_used <= kv_max
        assert len(batch.running) <= batch_max
        steps += 1
        assert steps < 10_000

    # then each has given all its tokens, and nothing is held
    assert all(batch.given(job) == job.output for job in jobs)
    assert sorted(map(id, batch.ended)) == sorted(map(id, jobs))
    assert batch.kv_used == 0


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 40), st.integers(0, 30)), min_size=1, max_size=20))
def test_a_step_takes_as_long_and_ends_the_same_requests_as_one_of_the_roofline(
    shapes: list[tuple[int, int, int]],
) -> None:
    # given requests that come at some step, in a batch and by themselves
    batch = Batch(H100, 32, 10**9)
    ours: dict[int, list[tuple[Job, Sequence]]] = {step_number: [] for _, _, step_number in shapes}
    for prompt, output, step_number in shapes:
        ours[step_number].append((a_job(prompt, output), Sequence(prompt, output)))
    pairs: list[tuple[Job, Sequence]] = []

    # when both are stepped to the end, then every step is the same
    for number in range(1_000):
        for job, _ in ours.get(number, []):
            batch.add(job)
        pairs += ours.get(number, [])
        if not pairs:
            continue
        assert batch.step() == step([sequence for _, sequence in pairs], H100)
        assert [batch.given(job) for job, _ in pairs] == [job.output - sequence.output_left for job, sequence in pairs]
        ended = [job for job, sequence in pairs if sequence.finished]
        assert set(map(id, batch.ended)) == set(map(id, ended))
        batch.ended.clear()
        pairs = [(job, sequence) for job, sequence in pairs if not sequence.finished]
        assert batch.kv_used == sum(sequence.cached for _, sequence in pairs)
    assert not pairs


def test_the_newest_is_put_out_where_memory_ends_and_computed_again() -> None:
    # given two requests whose answers outgrow the memory together
    batch = Batch(H100, 8, 300)
    first, second = a_job(100, 100), a_job(100, 100)
    for job in (first, second):
        batch.add(job)

    # when they are stepped to the end
    while batch.running or batch.waiting:
        batch.step()

    # then the newer one was put out once, and both have all their tokens
    assert batch.ended == [first, second]
    assert batch.preemptions == 1
    assert batch.given(first) == batch.given(second) == 100


def test_a_prefix_is_found_again_by_its_own_tenant_only() -> None:
    text = "water " * 100
    batch = Batch(H100, 8, 10_000)
    for tenant, expected in (("a", 0), ("a", 144), ("b", 0)):
        job = a_job(150, 1, blocks_of(tenant, text))
        batch.add(job)
        batch.step()
        assert job.cached_tokens == expected
        assert batch.ended.pop() is job

    assert (batch.prefix_tokens_asked, batch.prefix_tokens_hit) == (450, 144)


def test_prefixes_that_were_not_used_for_long_make_room() -> None:
    batch = Batch(H100, 8, 320)  # twenty blocks
    for name in ("old", "new", "newer"):
        job = a_job(160, 1, blocks_of("a", name.ljust(640, "x")))
        batch.add(job)
        batch.step()
    again = [a_job(160, 1, blocks_of("a", name.ljust(640, "x"))) for name in ("newer", "old")]
    for job in again:
        batch.add(job)
        batch.step()

    assert [job.cached_tokens for job in again] == [159, 0]


async def test_the_pieces_come_while_the_answer_is_decoded_and_the_load_says_what_happens() -> None:
    # given an engine that takes its time
    engine = SimulatedEngine(H100, batch_max=1, speed=20.0)
    heard: list[tuple[str, EngineLoad]] = []

    def hear(delta: Delta) -> None:
        heard.append((delta.text, engine.load()))

    # when one request runs, and another waits for it
    first = asyncio.create_task(engine.generate(a_request(1, max_tokens=200), 60.0, hear))
    second = asyncio.create_task(engine.generate(a_request(2, max_tokens=200), 60.0))
    generation, _ = await asyncio.gather(first, second)

    # then it came in pieces, and the load told of both, and of nobody at the end
    assert len(heard) > 2
    assert "".join(text for text, _ in heard) == generation.text
    load = heard[0][1]
    assert (load.running, load.waiting) == (1, 1)
    assert load.kv_tokens_used is not None
    assert load.kv_tokens_used > 0
    assert (engine.load().running, engine.load().waiting, engine.load().kv_tokens_used) == (0, 0, 0)
    await engine.close()


async def test_a_conversation_finds_its_own_beginning_again() -> None:
    engine = SimulatedEngine(H100, batch_max=4, speed=1000.0)
    turns = [ChatMessage(role="user", content="How high is the water? " * 40)]
    first = await engine.generate(a_request(1, messages=turns), 60.0)

    turns += [ChatMessage(role="assistant", content=first.text), ChatMessage(role="user", content="And now?")]
    second = await engine.generate(a_request(2, messages=turns), 60.0)
    other = await engine.generate(a_request(3, messages=turns, tenant="other"), 60.0)

    assert first.usage.cached_input == other.usage.cached_input == 0
    assert second.usage.cached_input > 200
    assert second.usage.input + second.usage.cached_input == engine.prompt_tokens(a_request(2, messages=turns))
    await engine.close()


def test_a_tool_is_called_once_and_its_answer_answered() -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [ToolSignature(name="weather", parameters=city)]

    def calls(**changes: Any) -> tuple[ToolCall, ...]:
        asked = a_request(tools=tools, **changes)
        answer = said(asked)
        assert not isinstance(answer, WorkError)
        assert isinstance(answered(answer.text, answer.tool_calls, asked), bytes)
        return answer.tool_calls

    told = [ChatMessage(role="user", content="?"), ChatMessage(role="tool", content="rain", tool_call_id="1")]
    assert [call.name for call in calls()] == ["weather"]
    assert calls(messages=told) == ()
    assert calls(tool_choice="none") == ()
    assert calls(messages=told, tool_choice="required")


@pytest.mark.parametrize(
    "pattern",
    [
        "[0-9]{4}-[0-9]{2}-[0-9]{2}",
        r"\d+(\.\d{1,2})?",
        "(yes|no), (?:Bern|Rome)",
        "[A-Z][a-z]*( [A-Z][a-z]*)+",
        r"[^a-z]{3}\.\\",
        "a{2,}b?c*?",
        "(?P<year>20[0-9][0-9])",
        "^x|y$",
        r"[\w.-]+@[\w-]+\.(com|org)",
        "",
        "[]a]",
    ],
)
@pytest.mark.parametrize("seed", [b"1", b"2", b"3"])
def test_a_text_is_drawn_that_matches(pattern: str, seed: bytes) -> None:
    assert re.fullmatch(f"(?:{pattern})", matching(pattern, Dice(seed)))


@pytest.mark.parametrize(
    "pattern", ["(", "a)", "*", "[a", "a{x}", "(?=a)", r"\bword", "((a{99}){99}){99}", "a{3,1}", r"\p{L}"]
)
def test_a_regex_that_it_does_not_know_it_says(pattern: str) -> None:
    with pytest.raises(CannotSampleError):
        matching(pattern, Dice(b"1"))


def test_what_cannot_be_drawn_is_a_failure_with_a_name() -> None:
    answer = said(InferenceRequested.model_validate(a_request(regex=r"\p{L}+").model_dump()))

    assert isinstance(answer, WorkError)
    assert answer.code == "schema_invalid"
