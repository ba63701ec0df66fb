"""Owns the examples of `stream`: which calls ask for their answers while they come."""

from typing import Any

from penstock.contracts.messages import InferenceRequested
from penstock.testkit.builders import a_model
from services.orchestrator.core.tests.conversation import Conversation


def streams(talk: Conversation) -> dict[str, bool]:
    """For each model call so far, whether its answer is to be streamed."""
    calls = [request for request in talk.requests.values() if isinstance(request, InferenceRequested)]
    return {call.step: call.stream for call in calls}


def an_agent(**fields: Any) -> dict[str, Any]:
    """An agent that summarises after each turn."""
    context = {"policy": "summarise", "messages_max": 2}
    loop = {"model": "small", "prompt": "Go.", "tools": [{"tool": "files.read"}], "context": context, **fields}
    return {"id": "go", "agent": loop}


def test_a_step_streams_where_it_says_so() -> None:
    assert streams(Conversation(a_model("say"))) == {"say": False}
    assert streams(Conversation(a_model("say", stream=True))) == {"say": True}


def test_an_agents_turns_stream_and_its_notes_do_not() -> None:
    talk = Conversation(an_agent(stream=True))
    for number in range(2):
        talk.succeed(f"go[{number}]/turn", {"calls": [{"tool": "files.read"}]})
        talk.succeed(f"go[{number}]/call[0]", "read")

    told = streams(talk)

    assert {step: stream for step, stream in told.items() if step.endswith("/turn")} == dict.fromkeys(
        [step for step in told if step.endswith("/turn")], True
    )
    assert [stream for step, stream in told.items() if step.endswith("/summary")] == [False]
